"""
The workloads of the example as Kuma sees them: what its injector makes of pods, and its control plane of Services.

Rules that must stay true here:

- A pod's proxy is called by its namespace and ServiceAccount, and carries the labels of its pod: those that were
  rendered for it, and no others. A machine's Dataplane is the one that was rendered.
- Beside what it is meant to call, every workload has a way to every service of every environment: refusing is the
  mesh's work, not a missing way's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from rotator.platform.model import Identity, InCluster, Service
from rotator.platform.routes import backend, front
from tests.example.documents import Example
from tests.fakes.kuma.store import Json

_FIRST_DIRECT, _FIRST_HOSTNAME = 40_001, 30_001
# Where Kuma lets the proxy of a pod without a Service listen.
_NO_SERVICE = 49_151


class Workloads:
    """Every proxy of an example, and the ways from each to everything."""

    def __init__(self, example: Example) -> None:
        """Read what was rendered."""
        self.platform = example.platform
        ((_, self.mesh),) = self.platform.meshes()
        names = sorted({each.name for each in self.platform.services if each.hostname is not None})
        self.direct = {each.qualified: _FIRST_DIRECT + n for n, each in enumerate(self.platform.services)}
        """``ENVIRONMENT/NAME`` to the port of that very service."""
        self.hostnames = {name: _FIRST_HOSTNAME + n for n, name in enumerate(names)}
        """A service's name to the port of its hostname, behind which is what the caller's route leads to."""
        self._rendered = [each for each in example.documents() if each["type"] == "Dataplane"]
        self._labels = _labels_of_pods(example)

    def name_of(self, who: Identity | Service) -> str:
        """Return what the proxy of *who* is called."""
        if isinstance(who.place, InCluster):
            return f"{who.place.namespace}.{who.place.service_account}"
        wanted = who.place.labels().items()
        (found,) = [each["name"] for each in self._rendered if wanted <= each["labels"].items()]
        return str(found)

    def dataplanes(self) -> Iterator[Json]:
        """Yield the Dataplane of every workload, once where one is an identity and a service."""
        platform, ways = self.platform, list(self._outbounds())
        everybody: tuple[Identity | Service, ...] = (*platform.services, *platform.identities)
        in_cluster = [each for each in everybody if isinstance(each.place, InCluster)]
        for name, who in {self.name_of(each): each for each in in_cluster}.items():
            service = next((each for each in platform.services if self.name_of(each) == name), None)
            protocol = service.protocol.value if service is not None else "http"
            inbound = {
                "name": "main",
                "port": service.port if service is not None else _NO_SERVICE,
                "protocol": protocol,
                "tags": {"kuma.io/service": who.kuma_service, "kuma.io/protocol": protocol},
            }
            labels = {**self._labels.get((who.environment.name, name.partition(".")[2]), {}), **who.place.labels()}
            networking = {"address": "10.0.0.1", "inbound": [inbound], "outbound": ways}
            yield {"type": "Dataplane", "mesh": self.mesh, "name": name, "labels": labels, "networking": networking}
        for each in self._rendered:
            networking = each["networking"]
            yield {**each, "networking": {**networking, "outbound": [*networking.get("outbound", []), *ways]}}

    def services_of_cluster(self) -> Iterator[Json]:
        """Yield the MeshService that Kuma makes of each Kubernetes Service."""
        for service in self.platform.services:
            if not isinstance(service.place, InCluster):
                continue
            name, namespace = service.place.service or service.name, service.place.namespace
            labels = {"kuma.io/display-name": name, "k8s.kuma.io/namespace": namespace}
            labels["kuma.io/zone"] = service.environment.zone
            port = {"port": service.port, "targetPort": service.port, "appProtocol": service.protocol.value}
            spec = {"selector": {"dataplaneLabels": {"matchLabels": dict(service.place.labels())}}, "ports": [port]}
            head = {"type": "MeshService", "mesh": self.mesh, "name": f"{name}.{namespace}"}
            yield {**head, "labels": labels, "spec": spec}

    def _outbounds(self) -> Iterator[Json]:
        for service in self.platform.services:
            yield {"port": self.direct[service.qualified], "backendRef": dict(backend(service))}
        for name, port in self.hostnames.items():
            service = next(each for each in self.platform.services if each.name == name)
            yield {"port": port, "backendRef": dict(front(service))}


def _labels_of_pods(example: Example) -> Mapping[tuple[str, str], Mapping[str, str]]:
    """Return the labels of pods that were rendered, by environment and ServiceAccount: chart values, pod templates."""
    found: dict[tuple[str, str], Mapping[str, str]] = {}
    for path in sorted(example.rendered.rglob("*.yaml")):
        for said in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            for account, labels in _pods(said):
                found[path.parent.name, account] = labels
    return found


def _pods(said: Any) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield ServiceAccount and labels of everything below *said* that makes pods, text that is YAML included."""
    match said:
        case {"serviceAccount": {"name": str(account)}, "labels": dict(labels)}:
            yield account, labels
        case {"kind": "Pod", "spec": {"serviceAccountName": str(account)}, "metadata": {"labels": dict(labels)}}:
            yield account, labels
        case str() if "kind: Pod" in said:
            yield from _pods(yaml.safe_load(said))
    if isinstance(said, dict | list):
        for each in said.values() if isinstance(said, dict) else said:
            yield from _pods(each)
