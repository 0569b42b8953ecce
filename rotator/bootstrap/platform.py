"""
The platform, wired: what the configuration wants written, and the control planes on which it is written.

Rules that must stay true here:

- Nothing is called over the network, and no file is opened, while wiring.
- What is wanted here is what ``rotator platform render`` prints: one function renders both.
"""

from __future__ import annotations

from functools import cache, partial

from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.documents import HTTPPlatformDocuments, KubernetesPlatformDocuments
from rotator.bootstrap.meshes import cluster_access, control_plane, endpoint_of
from rotator.cluster.objects import ObjectAPI
from rotator.core.model import TrustDomainName
from rotator.engine.targets import PlatformTarget
from rotator.errors import ConfigError
from rotator.platform.documents import document_of
from rotator.platform.openings import opened_by_others
from rotator.platform.rendering import rendered
from rotator.ports import Clock, MeshDocuments
from rotator.settings import Settings, platform_of


def platform_target(settings: Settings, clock: Clock) -> PlatformTarget | None:
    """
    Return the platform of *settings* with its control planes, None if there is none.

    Raises:
        ConfigError: If two things of it would be one document.
    """
    platform = platform_of(settings)
    if platform is None or settings.platform is None:
        return None
    wanted = [document_of(at, each) for at, _ in platform.meshes() for each in rendered(platform, at)]
    return PlatformTarget(
        wanted={each.address: each for each in wanted},
        places={at: _documents(settings, at, clock) for at, _ in platform.meshes()},
        meshes=dict(platform.meshes()),
        on_drift=platform.on_drift,
        look_every=platform.look_every,
        settle=settings.platform.settle,
        foreign=partial(opened_by_others, platform),
    )


def _documents(settings: Settings, at: TrustDomainName, clock: Clock) -> MeshDocuments:
    """Return the documents of the mesh of the trust domain *at*, by the way that the settings name."""
    mesh = settings.trust_domains[at].mesh
    if mesh is None:
        raise ConfigError(f"platform: trust domain {at} has no mesh")
    plane = control_plane(mesh, clock)
    access = cluster_access(mesh)
    if access is None:
        return HTTPPlatformDocuments(ControlPlaneAPI(endpoint_of(mesh)), plane, trust_domain=at, mesh=mesh.name)
    # The kubeconfig is read at the first call.
    objects = cache(partial(ObjectAPI, access))
    return KubernetesPlatformDocuments(objects, plane, trust_domain=at, mesh=mesh.name, namespace=access.namespace)
