"""
One hostname, in each environment that environment's service: Kuma's routes and the services that they lead to.

Rules that must stay true here:

- A hostname belongs to a service of the mesh that has no proxies: whom no route leads on reaches nothing by it.
- A route is for the Dataplanes of one environment and leads to that environment's service alone.
- A route answers every request: one that matched nothing would fail on Kuma 3.
- Services of the mesh are named by labels, the one way that 2.14 and 3.x share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rotator.core.model import TrustDomainName
from rotator.platform.model import InCluster, Platform, Service
from rotator.platform.resources import (
    DISPLAY_NAME,
    ENVIRONMENT,
    HOSTNAME,
    HOSTNAME_GENERATOR,
    MESH_HTTP_ROUTE,
    MESH_OF,
    MESH_SERVICE,
    MESH_TCP_ROUTE,
    SERVICE,
    ZONE,
    Resource,
    named,
    own,
)

SECTION: Final = "main"
"""Name of the one port of every service that rotator describes."""
_FRONT: Final = "hostname"


def backend(service: Service) -> Mapping[str, Any]:
    """Return the reference to the mesh's service of *service*, by its labels and port."""
    return {"kind": MESH_SERVICE, "labels": _labels(service), "port": service.port}


def front(service: Service) -> Mapping[str, Any]:
    """Return the reference to the mesh's service that has *service*'s hostname."""
    return {"kind": MESH_SERVICE, "labels": _front_labels(service), "port": service.port}


def routes(platform: Platform, at: TrustDomainName) -> tuple[Resource, ...]:
    """Return services on machines, hostnames and routes in the mesh of the trust domain *at*."""
    found: list[Resource] = []
    with_hostname: dict[tuple[str, str], Service] = {}
    for service in platform.services:
        if service.environment.trust_domain != at:
            continue
        if not isinstance(service.place, InCluster):
            found.append(_on_machines(service))
        if service.hostname is not None:
            found.append(_route(service))
            with_hostname.setdefault((service.environment.mesh, service.name), service)
    for service in with_hostname.values():
        found += _hostname(service)
    return tuple(found)


def _labels(service: Service) -> dict[str, str]:
    if isinstance(service.place, InCluster):
        # The control plane makes a MeshService of each Kubernetes Service. Zone: one of the same name may come from
        # another zone.
        return {
            "k8s.kuma.io/namespace": service.place.namespace,
            DISPLAY_NAME: service.place.service or service.name,
            ZONE: service.environment.zone,
        }
    return {ENVIRONMENT: service.environment.name, SERVICE: service.name}


def _front_labels(service: Service) -> dict[str, str]:
    return {HOSTNAME: service.name, MESH_OF: service.environment.mesh}


def _port(service: Service) -> dict[str, Any]:
    return {
        "name": SECTION,
        "port": service.port,
        "targetPort": service.port,
        "appProtocol": service.protocol.value,
    }


def _on_machines(service: Service) -> Resource:
    labels = _labels(service)
    return own(
        MESH_SERVICE,
        service.environment.mesh,
        named(service.environment.name, service.name),
        {"selector": {"dataplaneLabels": {"matchLabels": labels}}, "ports": [_port(service)]},
        labels=labels,
    )


def _hostname(service: Service) -> tuple[Resource, Resource]:
    mesh, labels = service.environment.mesh, _front_labels(service)
    name = named(_FRONT, mesh, service.name)
    return (
        own(
            MESH_SERVICE,
            mesh,
            name,
            # No Dataplane carries this label: behind the hostname is what a route leads to, and nothing else.
            {"selector": {"dataplaneLabels": {"matchLabels": labels}}, "ports": [_port(service)]},
            labels=labels,
        ),
        own(
            HOSTNAME_GENERATOR,
            mesh,
            name,
            {"selector": {"meshService": {"matchLabels": labels}}, "template": service.hostname},
            labels=labels,
        ),
    )


def _route(service: Service) -> Resource:
    by_request = service.protocol.routed_by_request
    rule: dict[str, Any] = {"default": {"backendRefs": [backend(service)]}}
    if by_request:
        rule = {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], **rule}
    return own(
        MESH_HTTP_ROUTE if by_request else MESH_TCP_ROUTE,
        service.environment.mesh,
        named(service.environment.name, service.name),
        {
            "targetRef": {"kind": "Dataplane", "labels": {ENVIRONMENT: service.environment.name}},
            "to": [
                {
                    "targetRef": {"kind": MESH_SERVICE, "labels": _front_labels(service), "sectionName": SECTION},
                    "rules": [rule],
                }
            ],
        },
        labels={ENVIRONMENT: service.environment.name, SERVICE: service.name},
    )
