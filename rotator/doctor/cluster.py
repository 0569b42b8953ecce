"""
The cluster that rotator works in: whether it answers, and whether rotator's account has the rights that it will need.

Rules that must stay true here:

- Nothing is changed: the API server is asked what the account may do, a question that everybody may ask.
- What is asked for is what `config rbac` prints, no more and no less.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Final

from rotator.adapters.kubernetes.lease import holder_of
from rotator.adapters.kubernetes.requests import PostedRequests
from rotator.bootstrap.cluster import access
from rotator.bootstrap.rights import cluster_rights, meshes_elsewhere
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.own_rights import missing_rights
from rotator.cluster.people import API_VERSION
from rotator.cluster.rights import Rights
from rotator.doctor.findings import Finding, attempted, broken, fine, warning
from rotator.settings import Settings

_FEW: Final = 5
"""So many missing rights are named one by one."""

_MEND: Final = "apply what rotator config rbac prints"


def cluster_findings(settings: Settings) -> Iterator[Finding]:
    """Yield what is found in the cluster that *settings* name, if they name one; its meshes are looked at apart."""
    if settings.cluster is not None:
        check = partial(_rights, settings)
        yield from attempted("cluster", check, otherwise="mend cluster.kubeconfig_file, or run in a pod")
        yield from attempted("cluster.requests", partial(_requests, settings), otherwise=_MEND)
        if settings.cluster.lease is not None:
            yield from attempted("cluster.lease", partial(_leader, settings), otherwise=_MEND)


def _leader(settings: Settings) -> Iterator[Finding]:
    """Yield who leads now."""
    wanted = settings.cluster.lease if settings.cluster is not None else None
    if wanted is None:
        return
    reached = access(settings)
    with contextlib.closing(ObjectAPI(reached)) as api:
        holder = holder_of(api, namespace=reached.namespace, name=wanted.name)
    if holder is None:
        no_leader = "no replica holds the Lease, so nothing is renewed"
        yield warning("cluster.lease", no_leader, "start a replica; if one runs, its log says why it does not lead")
    else:
        yield fine("cluster.lease", f"{holder} holds the Lease")


def _requests(settings: Settings) -> Iterator[Finding]:
    """Yield whether people can ask by objects, and whether the names in those are worth anything."""
    about = "cluster.requests"
    reached = access(settings)
    with contextlib.closing(ObjectAPI(reached)) as api:
        if api.get(f"/apis/{API_VERSION}") is None:
            yield warning(
                about,
                "the cluster does not know RotationRequest and RotationApproval, so nobody can ask there",
                "apply deploy/people/definitions.yaml, or install the chart",
            )
        elif PostedRequests(api, reached.namespace).guarded_since() is None:
            yield warning(
                about,
                "no admission policy binds the names in requests to whoever makes them: every request is unattributed",
                _MEND,
            )
        else:
            yield fine(about, "people can ask, each in their own name alone")


def _rights(settings: Settings) -> Iterator[Finding]:
    yield from rights_findings("cluster", access(settings), cluster_rights(settings))


def rights_findings(about: str, reached: ClusterAccess, rights: Rights, *, mend: str = _MEND) -> Iterator[Finding]:
    """
    Yield what rotator's account lacks of *rights* at the API server that is *reached*; *mend* gives them.

    Raises:
        ConfigError: If there are no credentials.
        AdapterError: If the API server cannot be asked.
    """
    with contextlib.closing(ObjectAPI(reached)) as api:
        missing = missing_rights(api, rights)
    for each in missing[:_FEW]:
        yield broken(about, f"its account in the cluster may not {each}", mend)
    if len(missing) > _FEW:
        yield broken(about, f"and {len(missing) - _FEW} rights more", mend)
    if not missing:
        yield fine(about, "its account has every right in the cluster")


def granting(settings: Settings, domain: str, access: ClusterAccess) -> str:
    """Return the command that gives rotator's account what it lacks in the cluster of the mesh of *domain*."""
    if domain not in meshes_elsewhere(settings):
        return "rotator config rbac | kubectl apply -f -"
    where = f" --context {access.context}" if access.context else ""
    return f"rotator config rbac --mesh {domain} | kubectl{where} apply -f -"
