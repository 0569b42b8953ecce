"""
A mesh's trust domain, wired: its control plane, the model that leads it, and the corporate PKI that signs its CAs.

Rules that must stay true here:

- Nothing is called over the network while wiring: a control plane is connected when it is first needed.
- What a control plane is, is asked again every so often: an upgrade under our feet changes which model may be led.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from rotator.adapters.kuma import kubernetes, universal
from rotator.adapters.kuma.about import Model, ask_about
from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.control_plane import ControlPlane, Environment
from rotator.adapters.kuma.models import KumaMesh
from rotator.adapters.kuma.proxies import HTTPProxies
from rotator.adapters.vault.corporate import CorporateIssuer, NameConstraints
from rotator.adapters.vault.parent import VaultAuthoritySigner
from rotator.adapters.vault.session import VaultSession
from rotator.cluster.objects import ClusterAccess
from rotator.core.model import TrustDomainName
from rotator.engine.targets import DomainTarget
from rotator.ports import Clock
from rotator.settings import Settings, authority_policy
from rotator.settings.issuers import VaultIssuer
from rotator.settings.meshes import Mesh

ASK_AGAIN: Final = timedelta(minutes=1)
"""After this a control plane is asked anew what it is; an upgrade takes longer to be of consequence."""

_MODELS: Final = {"provided": Model.PROVIDED, "identity": Model.IDENTITY}
"""What the configuration says; auto leaves it to what the control plane shows."""


class Connection:
    """One mesh at its control plane: called, it returns the connected control plane. Safe from several threads."""

    def __init__(self, connect: Callable[[], ControlPlane], *, clock: Clock) -> None:
        """Connect by *connect* when first called; a failure is not remembered."""
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._plane: ControlPlane | None = None
        self._since = 0.0

    def __call__(self) -> ControlPlane:
        """Return the control plane, connected; raises what connecting raises."""
        with self._lock:
            now = self._clock.monotonic()
            if self._plane is None or now - self._since >= ASK_AGAIN.total_seconds():
                self._plane, self._since = self._connect(), now
            return self._plane


def endpoint_of(mesh: Mesh) -> Endpoint:
    """Return where the HTTP API of *mesh*'s control plane is, and who asks."""
    plane = mesh.control_plane
    return Endpoint(
        url=plane.address,
        ca_file=plane.ca_file,
        token_file=plane.token_file,
        client_certificate_file=plane.client_certificate_file,
        client_key_file=plane.client_key_file,
        timeout=plane.timeout,
    )


def cluster_access(mesh: Mesh) -> ClusterAccess | None:
    """Return how to reach the API server of *mesh*'s cluster; None if it is not reached that way."""
    reached_by = mesh.control_plane.kubernetes
    if reached_by is None:
        return None
    return ClusterAccess(
        namespace=reached_by.namespace,
        kubeconfig_file=reached_by.kubeconfig_file,
        context=reached_by.context,
        timeout=mesh.control_plane.timeout,
    )


def control_plane(mesh: Mesh, clock: Clock) -> Connection:
    """Return the connection to *mesh*, by the way that the settings name."""
    endpoint, access = endpoint_of(mesh), cluster_access(mesh)
    if access is None:
        return Connection(lambda: universal.connect(endpoint, mesh.name), clock=clock)

    def connect() -> ControlPlane:
        api = ControlPlaneAPI(endpoint)
        about = ask_about(api, environment=Environment.KUBERNETES)
        return kubernetes.connect(access, mesh.name, about=about, proxies=HTTPProxies(api, mesh.name), clock=clock)

    return Connection(connect, clock=clock)


def signer_of(
    settings: Settings, name: str, vault: VaultIssuer, session: VaultSession, clock: Clock
) -> VaultAuthoritySigner:
    """Return who signs the CAs of the trust domain *name*."""
    return VaultAuthoritySigner(
        session,
        clock=clock,
        trust_domain=TrustDomainName(name),
        corporate=CorporateIssuer(mount=vault.mount, issuer=vault.issuer),
        skew=settings.timing.skew,
        name_constraints=NameConstraints(
            permitted_dns_domains=settings.trust_domains[name].ca.name_constraints.permitted_dns
        ),
    )


def mesh_target(
    settings: Settings, name: str, mesh: Mesh, vault: VaultIssuer, session: VaultSession, clock: Clock
) -> DomainTarget:
    """Return the trust domain *name*, whose leaves the control plane of *mesh* signs."""
    domain, trust_domain = settings.trust_domains[name], TrustDomainName(name)
    led = KumaMesh(
        control_plane(mesh, clock),
        signer_of(settings, name, vault, session, clock),
        clock,
        trust_domain,
        longest_leaf=domain.longest_leaf,
        skew=settings.timing.skew,
        accept_shared_root=mesh.accept_shared_root,
        identity_path=mesh.identity_path,
        model=_MODELS.get(domain.model),
    )
    return DomainTarget(
        name=trust_domain,
        policy=authority_policy(settings, name),
        issuer=None,
        authorities=led,
        parent=led,
        mesh=led,
        key=domain.ca.key,
        crl_interval=domain.ca.crl_interval,
        issuer_label=domain.issuer,
    )
