"""
The workloads of the example as Kuma sees them: what its injector makes of pods, and its control plane of Services.

Rules that must stay true here:

- A pod's proxy is called by its namespace and ServiceAccount, and carries the labels of its pod.
- Beside what it is meant to call, every workload has a way to every service of every environment: refusing is the
  mesh's work, not a missing way's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rotator.platform.model import Identity, InCluster, Platform, Service
from rotator.platform.resources import ENVIRONMENT
from rotator.platform.routes import backend, front
from tests.fakes.kuma.store import Json

_FIRST_DIRECT, _FIRST_HOSTNAME = 20_001, 30_001
# Where Kuma lets the proxy of a pod without a Service listen.
_NO_SERVICE = 49_151


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """The ports at which every workload reaches services, the same everywhere."""

    direct: Mapping[str, int]
    """``ENVIRONMENT/NAME`` to the port of that very service."""
    hostnames: Mapping[str, int]
    """A service's name to the port of its hostname, behind which is what the caller's route leads to."""


def ways(platform: Platform) -> Ways:
    """Return the ways to everything."""
    names = sorted({each.name for each in platform.services if each.hostname is not None})
    return Ways(
        direct={each.qualified: _FIRST_DIRECT + number for number, each in enumerate(platform.services)},
        hostnames={name: _FIRST_HOSTNAME + number for number, name in enumerate(names)},
    )


def workload_of(who: Identity | Service) -> str:
    """Return what the proxy of *who* is called."""
    if isinstance(who.place, InCluster):
        return f"{who.place.namespace}.{who.place.service_account}"
    return who.place.workload


def dataplanes(platform: Platform, mesh: str) -> Iterator[Json]:
    """Yield the Dataplane of every pod, once where one is an identity and a service."""
    found = ways(platform)
    services = {workload_of(each): each for each in platform.services}
    for name, who in {workload_of(each): each for each in (*platform.services, *platform.identities)}.items():
        service = services.get(name)
        protocol = service.protocol.value if service is not None else "http"
        inbound = {
            "name": "main",
            "port": service.port if service is not None else _NO_SERVICE,
            "protocol": protocol,
            "tags": {"kuma.io/service": who.kuma_service, "kuma.io/protocol": protocol},
        }
        yield {
            "type": "Dataplane",
            "mesh": mesh,
            "name": name,
            "labels": {**_labels_of_pod(who), **who.place.labels()},
            "networking": {"address": "10.0.0.1", "inbound": [inbound], "outbound": list(_outbounds(platform, found))},
        }


def _labels_of_pod(who: Identity | Service) -> Mapping[str, str]:
    return {ENVIRONMENT: who.environment.name}


def _outbounds(platform: Platform, found: Ways) -> Iterator[Json]:
    for service in platform.services:
        yield {"port": found.direct[service.qualified], "backendRef": backend(service)}
    for name, port in found.hostnames.items():
        service = next(each for each in platform.services if each.name == name)
        yield {"port": port, "backendRef": front(service)}


def services_of_cluster(platform: Platform, mesh: str) -> Iterator[Json]:
    """Yield the MeshService that Kuma makes of each Kubernetes Service."""
    for service in platform.services:
        if not isinstance(service.place, InCluster):
            continue
        name, namespace = service.place.service or service.name, service.place.namespace
        labels = {"kuma.io/display-name": name, "k8s.kuma.io/namespace": namespace}
        port = {"name": "main", "port": service.port, "targetPort": service.port, "appProtocol": service.protocol.value}
        spec = {"selector": {"dataplaneLabels": {"matchLabels": dict(service.place.labels())}}, "ports": [port]}
        labels["kuma.io/zone"] = service.environment.zone
        yield {"type": "MeshService", "mesh": mesh, "name": f"{name}.{namespace}", "labels": labels, "spec": spec}
