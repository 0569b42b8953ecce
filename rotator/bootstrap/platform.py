"""
The platform, wired: what the configuration wants written, and the control planes on which it is written.

Rules that must stay true here:

- Nothing is called over the network, and no file is opened, while wiring.
- What is wanted here is what ``rotator platform render`` prints: one function renders both.
"""

from __future__ import annotations

from functools import cache, partial

from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.calls import Calls
from rotator.adapters.kuma.documents import HTTPPlatformDocuments, KubernetesPlatformDocuments
from rotator.bootstrap.meshes import cluster_access, control_plane, endpoint_of
from rotator.cluster.objects import ObjectAPI
from rotator.core.model import TrustDomainName
from rotator.engine.targets import PlatformTarget
from rotator.errors import ConfigError
from rotator.platform.check import Finding, foreign
from rotator.platform.documents import document_of
from rotator.platform.openings import opened_by_others
from rotator.platform.rendering import rendered
from rotator.platform.resources import DATAPLANE, Resource
from rotator.ports import Clock, MeshDocuments
from rotator.settings import Settings, platform_of
from rotator.settings.meshes import Mesh


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


def standing_findings(settings: Settings, clock: Clock) -> tuple[Finding, ...]:
    """
    Return what the documents on the control planes of *settings* do that is not as configured.

    Whom a policy selects is decided by the proxies that a control plane lists.

    Raises:
        AdapterError: If a control plane does not answer.
    """
    platform = platform_of(settings)
    if platform is None:
        return ()
    found: list[Finding] = []
    for at, mesh in platform.meshes():
        documents = [each.document.resource for each in _documents(settings, at, clock).listed().values()]
        calls = Calls(ControlPlaneAPI(endpoint_of(_mesh_of(settings, at))), mesh)
        try:
            proxies = [
                Resource(kind=DATAPLANE, mesh=mesh, name=each.report.name, labels=each.marks, spec={})
                for each in calls.proxies()
            ]
        finally:
            calls.close()
        found += foreign(platform, at, documents, dataplanes=proxies)
    return tuple(found)


def _mesh_of(settings: Settings, at: TrustDomainName) -> Mesh:
    mesh = settings.trust_domains[at].mesh
    if mesh is None:
        raise ConfigError(f"platform: trust domain {at} has no mesh")
    return mesh


def _documents(settings: Settings, at: TrustDomainName, clock: Clock) -> MeshDocuments:
    """Return the documents of the mesh of the trust domain *at*, by the way that the settings name."""
    mesh = _mesh_of(settings, at)
    plane = control_plane(mesh, clock)
    access = cluster_access(mesh)
    if access is None:
        return HTTPPlatformDocuments(ControlPlaneAPI(endpoint_of(mesh)), plane, trust_domain=at, mesh=mesh.name)
    # The kubeconfig is read at the first call.
    objects = cache(partial(ObjectAPI, access))
    return KubernetesPlatformDocuments(objects, plane, trust_domain=at, mesh=mesh.name, namespace=access.namespace)
