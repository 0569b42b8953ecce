"""
The platform's documents: may rotator read and write them on each control plane, before the first ``platform apply``.

Rules that must stay true here:

- Nothing is written: rights are asked about in a cluster; over HTTP the documents are read, and the control plane
  says of itself whether it takes changes.
- What is asked for in a cluster is what `config rbac` prints for the platform, no more and no less.
- Every mend is a line that can be pasted, into a shell or into a configuration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from rotator.adapters.kuma.about import ask_about
from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.control_plane import Environment
from rotator.adapters.kuma.documents import PLURALS, collection_path
from rotator.adapters.kuma.rights import platform_rights
from rotator.bootstrap.meshes import cluster_access, endpoint_of
from rotator.bootstrap.platform import platform_target
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.doctor.cluster import granting, rights_findings
from rotator.doctor.findings import Finding, attempted, broken, fine
from rotator.engine.targets import PlatformTarget
from rotator.errors import ConfigError
from rotator.http_exchange import segment
from rotator.platform.resources import API_VERSION
from rotator.ports import Clock, MeshDocuments
from rotator.settings import Settings
from rotator.settings.meshes import Mesh

_OTHERWISE: Final = "see docs/platform-changes.md"


def platform_findings(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Yield what would keep the platform of *settings* from being applied, by trust domain; nothing without one."""
    try:
        target = platform_target(settings, clock)
    except ConfigError as e:
        yield broken("platform", str(e), "mend the configuration")
        return
    if target is None:
        return
    for domain, documents in target.places.items():
        mesh = settings.trust_domains[domain].mesh
        if mesh is None:
            continue
        about = f"platform {domain}"
        kinds = sorted({address.kind for address in target.wanted if address.trust_domain == domain})
        access = cluster_access(mesh)
        if access is not None:
            mend = granting(settings, domain, access)
            allowed = partial(rights_findings, about, access, platform_rights(access.namespace), mend=mend)
            yield from attempted(about, allowed, otherwise=mend)
            yield from attempted(about, partial(_known_in_cluster, about, access, kinds), otherwise=_OTHERWISE)
        else:
            yield from attempted(about, partial(_takes_changes, about, mesh, kinds), otherwise=_OTHERWISE)
        yield from attempted(about, partial(_read, about, target, documents), otherwise=_OTHERWISE)


def _read(about: str, target: PlatformTarget, documents: MeshDocuments) -> Iterator[Finding]:
    """Yield that every document can be read, which is what ``diff`` needs."""
    own = sum(1 for each in documents.listed().values() if each.document.address in target.wanted)
    yield fine(about, f"its documents can be read; {own} of the configuration's stand there")


def _known_in_cluster(about: str, access: ClusterAccess, kinds: Sequence[str]) -> Iterator[Finding]:
    """Yield the kinds that the API server does not know, and that are wanted."""
    with contextlib.closing(ObjectAPI(access)) as api:
        found = api.get(f"/apis/{API_VERSION}") or {}
    served = {each.get("name") for each in found.get("resources", ())}
    yield from _unknown(about, [kind for kind in kinds if PLURALS[kind] not in served])


def _takes_changes(about: str, mesh: Mesh, kinds: Sequence[str]) -> Iterator[Finding]:
    """Yield what speaks against writes over HTTP, as far as the control plane shows it."""
    api = ControlPlaneAPI(endpoint_of(mesh))
    try:
        if ask_about(api).environment is Environment.KUBERNETES:
            yield broken(
                about,
                "its control plane runs on Kubernetes, where the HTTP API takes no changes",
                "mesh.control_plane: {kubernetes: {namespace: kuma-system}}",
            )
            return
        configuration = api.get("/config", doing="reading the control plane's configuration") or {}
        server = configuration.get("apiServer")
        if isinstance(server, Mapping) and server.get("readOnly") is True:
            yield broken(
                about,
                "its control plane takes no changes over HTTP: apiServer.readOnly",
                "KUMA_API_SERVER_READ_ONLY=false at the control plane",
            )
        if api.get(f"/meshes/{segment(mesh.name)}", doing=f"reading mesh {mesh.name}") is None:
            # Then no kind of its documents is there either, and whoever looks at the mesh says so.
            return
        paths = {kind: collection_path(mesh.name, kind) for kind in kinds}
        absent = [kind for kind, path in paths.items() if api.get(path, doing=f"listing every {kind}") is None]
        yield from _unknown(about, absent)
    finally:
        api.close()


def _unknown(about: str, kinds: Sequence[str]) -> Iterator[Finding]:
    if kinds:
        yield broken(
            about,
            f"the control plane does not know {', '.join(kinds)}, which the configuration takes",
            "upgrade the control plane to Kuma 2.14 or newer, its CustomResourceDefinitions too",
        )
