"""
What rotator's account may do in its cluster, from the configuration: every feature's own rights, put together.

Rules that must stay true here:

- Pure over `Settings`: nothing is called, and the same configuration gives the same objects in the same order.
- Each feature states its rights beside its adapter; here they are only asked for, for what the configuration names.
- No right to read or list Secrets beyond those that the configuration names, none to change roles or policies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rotator.adapters.kubernetes import people
from rotator.adapters.kubernetes.lease import lease_rights
from rotator.adapters.kubernetes.publishing_rights import configmap_rights, secret_rights, token_rights
from rotator.adapters.kubernetes.reviews import reader_role, reviewing_rights
from rotator.adapters.kubernetes.rolling_rights import rolling_rights
from rotator.adapters.kuma.rights import admission_policy, platform_rights, rbac_rules, token_secret_rights
from rotator.adapters.notify.events import event_rights
from rotator.bootstrap.fleet import workload_place
from rotator.bootstrap.telling import event_namespaces
from rotator.bootstrap.watching import watch_rights
from rotator.cluster.rbac import Account, confinement, role_objects
from rotator.cluster.rights import Confined, Rights, joined
from rotator.core.model import TokenKind
from rotator.errors import ConfigError
from rotator.settings import Settings, managed_token
from rotator.settings.meshes import Mesh

CONFIGURATION: Final = "rotator.io/configuration"
"""Annotation of everything that was made from a configuration: which one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """What rotator is lent to adopt a mesh that runs on somebody else's CA, until nothing of that is in use."""

    secrets: tuple[str, ...] = ()
    """Secrets of that CA, which it may read."""
    objects: tuple[str, ...] = ()
    """MeshIdentities and MeshTrusts of that CA, which it changes and removes in the end."""


def cluster_rights(settings: Settings) -> Rights:
    """Return what rotator needs in its own cluster, its meshes' namespaces left out."""
    return joined([*_own(settings), *_leaves(settings), *_workloads(settings), *watch_rights(settings)])


def mesh_rights(settings: Settings, *, lent: Mapping[str, Lent] | None = None) -> Rights:
    """Return what rotator needs for the meshes in its own cluster; *lent* by trust domain."""
    found = []
    for domain, mesh in _meshes_here(settings):
        namespace = _namespace_of(mesh)
        borrowed = (lent or {}).get(domain, Lent())
        found.append(rbac_rules(mesh.name, namespace, read_secrets=borrowed.secrets, adopt=borrowed.objects))
        if settings.platform is not None and domain in {
            each.trust_domain for each in settings.platform.environments.values()
        }:
            found.append(platform_rights(namespace))
    return joined([*found, *_token_secrets(settings)])


def rights_objects(
    settings: Settings, account: Account, *, lent: Mapping[str, Lent] | None = None
) -> tuple[dict[str, Any], ...]:
    """
    Return what an administrator applies: ServiceAccount, roles, bindings, and the policies that confine the account.

    *lent* says by trust domain what is lent for adopting its mesh.
    """
    rights = joined([cluster_rights(settings), mesh_rights(settings, lent=lent)])
    owner = f"{account.name}-{account.namespace}"
    return (
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account.name, "namespace": account.namespace},
            # The pod mounts a token of its own choice; nothing else that uses the account gets one unasked.
            "automountServiceAccountToken": False,
        },
        *role_objects(rights, account, name=owner, cluster_name=owner),
        # Bound to nobody: an administrator binds it to those who may read.
        *([reader_role(settings.cluster.namespace)] if settings.cluster is not None and _has_readers(settings) else []),
        *confinement(rights.confined, account, name=owner),
        *_mesh_policies(settings, account, owner, lent or {}),
        *(
            ()
            if settings.cluster is None
            else (*people.naming_policy(account), *people.roles_of_people(account.namespace))
        ),
    )


def meshes_elsewhere(settings: Settings) -> tuple[str, ...]:
    """Return the trust domains whose mesh is reached through another cluster's API server, sorted."""
    here = {name for name, _ in _meshes_here(settings)}
    return tuple(
        sorted(
            name
            for name, domain in settings.trust_domains.items()
            if domain.mesh is not None and domain.mesh.control_plane.kubernetes is not None and name not in here
        )
    )


def _own(settings: Settings) -> Iterator[Rights]:
    """Yield what rotator needs whatever it looks after."""
    if settings.cluster is None:
        return
    home = settings.cluster.namespace
    yield people.own_rights(home)
    if _has_readers(settings):
        # Who asks over HTTP, and whether they may.
        yield reviewing_rights()
    yield event_rights(event_namespaces(settings))
    if settings.cluster.lease is not None:
        yield lease_rights(home, settings.cluster.lease.name)


def _has_readers(settings: Settings) -> bool:
    return settings.http is not None and settings.http.read_by(in_cluster=settings.cluster is not None) == "cluster"


def _leaves(settings: Settings) -> Iterator[Rights]:
    """Yield what rotator needs for the Secrets and ConfigMaps that it publishes certificates and tokens to."""
    for certificate in settings.certificates.values():
        for target in certificate.publish:
            if target.kubernetes_secret is not None:
                yield secret_rights(target.kubernetes_secret.namespace, target.kubernetes_secret.name)
            elif target.kubernetes_configmap is not None:
                yield configmap_rights(target.kubernetes_configmap.namespace, target.kubernetes_configmap.name)
    for token in settings.tokens.values():
        for place in token.publish:
            if place.kubernetes_secret is not None:
                yield token_rights(place.kubernetes_secret.namespace, place.kubernetes_secret.name)


def _workloads(settings: Settings) -> Iterator[Rights]:
    """Yield what rotator needs for the workloads that it rolls."""
    for workload in settings.workloads.values():
        place = workload_place(workload)
        if place is not None:
            yield rolling_rights(place, surge=workload.surge > 0, drained=workload.drain is not None)


def _meshes_here(settings: Settings) -> Iterator[tuple[str, Mesh]]:
    """Yield the meshes in the cluster that rotator works in, by trust domain."""
    home = None if settings.cluster is None else (settings.cluster.kubeconfig_file, settings.cluster.context)
    for name, domain in settings.trust_domains.items():
        mesh = domain.mesh
        if mesh is None or mesh.control_plane.kubernetes is None:
            continue
        reached: tuple[Path | None, str | None] = (
            mesh.control_plane.kubernetes.kubeconfig_file,
            mesh.control_plane.kubernetes.context,
        )
        home = home or reached  # without `cluster` it works where its first mesh is
        if reached == home:
            yield name, mesh


def _token_secrets(settings: Settings) -> Iterator[Rights]:
    """Yield what rotator needs for revocation lists and signing keys of the control planes in its own cluster."""
    for domain, mesh in _meshes_here(settings):
        yield token_secrets_of(settings, domain, mesh)


def token_secrets_of(settings: Settings, domain: str, mesh: Mesh) -> Rights:
    """Return the rights on secrets that tokens of the trust domain *domain* depend on, on its control plane."""
    return token_secret_rights(
        _namespace_of(mesh),
        mesh.name,
        revoked=[
            managed_token(settings, name).grant.kind
            for name, token in settings.tokens.items()
            if token.trust_domain == domain and token.revoke
        ],
        keys={
            TokenKind(keys.signs): keys.first_serial
            for keys in settings.signing_keys.values()
            if keys.trust_domain == domain
        },
    )


def _namespace_of(mesh: Mesh) -> str:
    reached_by = mesh.control_plane.kubernetes
    return "" if reached_by is None else reached_by.namespace


def _mesh_policies(
    settings: Settings, account: Account, owner: str, lent: Mapping[str, Lent]
) -> Iterator[dict[str, Any]]:
    """Yield a policy, and its binding, for each namespace of a control plane."""
    leaves = joined([cluster_rights(settings), *_token_secrets(settings)]).confined
    by_namespace: dict[str, list[str]] = defaultdict(list)
    adopted: dict[str, list[str]] = defaultdict(list)
    for domain, mesh in _meshes_here(settings):
        by_namespace[_namespace_of(mesh)].append(mesh.name)
        adopted[_namespace_of(mesh)] += lent.get(domain, Lent()).objects
    for namespace, meshes in sorted(by_namespace.items()):
        yield from admission_policy(
            meshes,
            namespace,
            service_account=f"{account.namespace}:{account.name}",
            adopt=adopted[namespace],
            leaves=_secrets_in(namespace, leaves),
            name=f"{owner}-{namespace}",
        )


def _secrets_in(namespace: str, confined: Sequence[Confined]) -> tuple[str, ...]:
    return tuple(
        sorted(
            name
            for each in confined
            if (each.namespace, each.resource) == (namespace, "secrets")
            for name in each.names
        )
    )


def only_mesh(settings: Settings, domain: str) -> Settings:
    """
    Return *settings* as the cluster of the mesh of trust domain *domain* sees them: that mesh and nothing else.

    Raises:
        ConfigError: If it has no mesh that is reached through an API server.
    """
    found = settings.trust_domains.get(domain)
    if found is None or found.mesh is None or found.mesh.control_plane.kubernetes is None:
        raise ConfigError(f"{domain} is no trust domain whose mesh is reached through the Kubernetes API")
    only = {
        "cluster": None,
        "certificates": {},
        "workloads": {},
        # Their lists and keys are there; where they are published is not.
        "tokens": {
            name: token.model_copy(update={"publish": ()})
            for name, token in settings.tokens.items()
            if token.trust_domain == domain
        },
        "signing_keys": {name: keys for name, keys in settings.signing_keys.items() if keys.trust_domain == domain},
        "trust_domains": {domain: found},
    }
    return settings.model_copy(update=only)


def account_of(settings: Settings, *, namespace: str | None, name: str) -> Account:
    """
    Return the ServiceAccount *name* in rotator's own namespace: as configured, as given, or ``rotator``.

    Raises:
        ConfigError: If the configuration says another namespace than is given.
    """
    configured = None if settings.cluster is None else settings.cluster.namespace
    if configured is not None and namespace not in {None, configured}:
        raise ConfigError(f"the configuration says cluster.namespace {configured}, not {namespace}: mend one of them")
    return Account(namespace=namespace or configured or "rotator", name=name)


def lent_for(settings: Settings, *, secrets: Sequence[str], objects: Sequence[str]) -> dict[str, Lent]:
    """
    Return by trust domain what is lent; *secrets* and *objects* are each written ``DOMAIN=NAME``.

    Raises:
        ConfigError: If one is written otherwise, or names a trust domain without a mesh in this cluster.
    """
    meshes = {domain for domain, mesh in settings.trust_domains.items() if mesh.mesh is not None}
    found: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for which, given in enumerate((secrets, objects)):
        for each in given:
            domain, _, name = each.partition("=")
            if domain not in meshes or not name:
                raise ConfigError(f"{each} is not written DOMAIN=NAME with the trust domain of a mesh")
            found[domain][which].append(name)
    return {domain: Lent(secrets=tuple(read), objects=tuple(changed)) for domain, (read, changed) in found.items()}


def marked(objects: Sequence[dict[str, Any]], configuration: str) -> tuple[dict[str, Any], ...]:
    """Return *objects* that each say which *configuration* (a digest) they were made from."""
    return tuple(
        {**each, "metadata": {**each["metadata"], "annotations": {CONFIGURATION: configuration}}} for each in objects
    )
