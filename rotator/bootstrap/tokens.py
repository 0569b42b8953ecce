"""
Tokens and their signing keys, wired: the control plane that issues them, and the places where they are published.

Rules that must stay true here:

- Nothing is called over the network while wiring.
- One way to each control plane, shared by every token of it, and one turn to change its revocation lists.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from rotator.adapters.directory import Access, TokenDirectory
from rotator.adapters.kubernetes.notes import Dress
from rotator.adapters.kubernetes.tokens import TokenSecret
from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.cluster_secrets import ClusterShelves
from rotator.adapters.kuma.signing_keys import KumaSigningKeys
from rotator.adapters.kuma.token_secrets import HTTPShelves, Shelves
from rotator.adapters.kuma.tokens import KumaTokens
from rotator.bootstrap.meshes import cluster_access, endpoint_of
from rotator.cluster.objects import ObjectAPI
from rotator.core.model import SubjectName, TokenKind
from rotator.engine.targets import SigningKeyTarget, TokenTarget
from rotator.errors import ConfigError
from rotator.ports import Clock, TokenStore
from rotator.settings import Settings, managed_token, signing_key_policy, token_policy
from rotator.settings.meshes import Mesh
from rotator.settings.tokens import TokenPublishTarget


def mesh_of(settings: Settings, trust_domain: str) -> Mesh:
    """Return the mesh of *trust_domain*. Raises `ConfigError` if it has none."""
    domain = settings.trust_domains.get(trust_domain)
    if domain is None or domain.mesh is None:
        raise ConfigError(f"{trust_domain} is no trust domain with a mesh: no control plane issues tokens there")
    return domain.mesh


def token_targets(settings: Settings, clock: Clock, cluster: Callable[[], ObjectAPI]) -> dict[SubjectName, TokenTarget]:
    """Return every token of the configuration; *cluster* is asked for where one is published in it."""
    apis: dict[str, ControlPlaneAPI] = {}
    changing: dict[str, threading.Lock] = {}
    found = {}
    for name, wanted in settings.tokens.items():
        mesh = mesh_of(settings, wanted.trust_domain)
        api = apis.setdefault(wanted.trust_domain, ControlPlaneAPI(endpoint_of(mesh)))
        subject = SubjectName(name)
        found[subject] = TokenTarget(
            token=managed_token(settings, name),
            policy=token_policy(settings, name),
            issuer=KumaTokens(
                api,
                clock=clock,
                skew=settings.timing.skew,
                shelves=shelves_of(mesh, api, clock),
                changing=changing.setdefault(mesh.control_plane.address, threading.Lock()),
            ),
            stores=tuple(token_store(each, subject, settings, clock, cluster) for each in wanted.publish),
            keys=_keys_of(settings, name),
        )
    return found


def signing_key_targets(settings: Settings, clock: Clock) -> dict[SubjectName, SigningKeyTarget]:
    """Return every set of signing keys of the configuration."""
    found = {}
    for name, wanted in settings.signing_keys.items():
        mesh = mesh_of(settings, wanted.trust_domain)
        found[SubjectName(name)] = SigningKeyTarget(
            name=SubjectName(name),
            policy=signing_key_policy(settings, name),
            keys=KumaSigningKeys(
                shelves_of(mesh, ControlPlaneAPI(endpoint_of(mesh)), clock, first_serial=wanted.first_serial),
                kind=TokenKind(wanted.signs),
                mesh=mesh.name,
                place=mesh.control_plane.address,
                logins=logins_at(settings, mesh.control_plane.address),
            ),
        )
    return found


def shelves_of(mesh: Mesh, api: ControlPlaneAPI, clock: Clock, *, first_serial: int = 1) -> Shelves:
    """Return where the secrets of the control plane of *mesh* are: behind *api*, or in its cluster."""
    access = cluster_access(mesh)
    if access is None:
        return HTTPShelves(api)
    # The kubeconfig is read at the first call.
    objects = cache(partial(ObjectAPI, access))
    return ClusterShelves(objects, namespace=access.namespace, clock=clock, first_serial=first_serial)


def logins_at(settings: Settings, address: str) -> tuple[Path, ...]:
    """Return the files with tokens by which rotator enters the control plane at *address*, sorted."""
    planes = (each.mesh.control_plane for each in settings.trust_domains.values() if each.mesh is not None)
    return tuple(
        sorted({each.token_file for each in planes if each.token_file is not None and each.address == address})
    )


def token_store(
    target: TokenPublishTarget,
    subject: SubjectName,
    settings: Settings,
    clock: Clock,
    cluster: Callable[[], ObjectAPI],
) -> TokenStore:
    """Return one place to publish a token at."""
    if target.directory is not None:
        chosen = target.directory
        return TokenDirectory(chosen.path, access=Access(owner=chosen.owner, group=chosen.group, key_mode=chosen.mode))
    secret = target.kubernetes_secret
    if secret is None:
        raise ConfigError(f"tokens.{subject}: a place to publish at names none")
    return TokenSecret(
        cluster(),
        namespace=secret.namespace,
        name=secret.name,
        subject=subject,
        clock=clock,
        dress=Dress(labels=secret.labels, annotations=secret.annotations),
        adopt=secret.adopt,
        patience=settings.timing.publish,
    )


def _keys_of(settings: Settings, name: str) -> SubjectName | None:
    """Return the signing keys of the configuration that sign the token *name*."""
    token = managed_token(settings, name)
    address = mesh_of(settings, token.trust_domain).control_plane.address
    for keys, wanted in settings.signing_keys.items():
        mesh = mesh_of(settings, wanted.trust_domain)
        same_mesh = token.grant.kind is not TokenKind.DATAPLANE or mesh.name == token.grant.mesh
        if mesh.control_plane.address == address and wanted.signs == token.grant.kind and same_mesh:
            return SubjectName(keys)
    return None
