"""
What a mesh's documents say of who stands where.

Rules that must stay true here:

- A proxy stands in front of the service that its tags name; without tags, of the one that its label names.
"""

from __future__ import annotations

from tests.fakes.kuma.desired import Inbound
from tests.fakes.kuma.envoy_config import Ports
from tests.fakes.kuma.reading import MeshContext
from tests.fakes.kuma.store import Json, Resource


def inbound_mode(context: MeshContext) -> Inbound:
    """Return what a MeshTLS for the whole mesh says; strict without one."""
    for policy in context.tls:
        rules = policy.spec.get("rules") or policy.spec.get("from") or []
        for rule in rules:
            if ((rule.get("default") or {}).get("mode")) == "Permissive":
                return Inbound.PERMISSIVE
    return Inbound.STRICT


def inbounds(dataplane: Resource) -> list[Json]:
    """Return what it takes connections at; of a stand-in's proxy the first alone is served."""
    found: list[Json] = (dataplane.spec.get("networking") or {}).get("inbound") or []
    return found


def tags_of(dataplane: Resource) -> dict[str, tuple[str, ...]]:
    """Return the values of each tag over all inbounds."""
    found: dict[str, set[str]] = {}
    for inbound in inbounds(dataplane):
        for tag, value in (inbound.get("tags") or {}).items():
            found.setdefault(tag, set()).add(value)
    return {tag: tuple(sorted(values)) for tag, values in sorted(found.items())}


def service_of(dataplane: Resource) -> str:
    """Return the service that a proxy stands in front of."""
    services = tags_of(dataplane).get("kuma.io/service", ())
    return services[0] if services else dataplane.labels.get("kuma.io/workload", dataplane.name)


def address_of(dataplane: Resource) -> tuple[str, int]:
    """Return where its first inbound listens."""
    networking = dataplane.spec["networking"]
    return networking["address"], networking["inbound"][0]["port"]


def ports_of(dataplane: Resource) -> Ports:
    """Return where it listens, as its Dataplane says."""
    networking = dataplane.spec["networking"]
    inbound: Json = next(iter(inbounds(dataplane)), {"port": 0})
    port: int = inbound["port"]
    workload: int = inbound.get("servicePort") or port
    tagged = [each for each in networking.get("outbound") or [] if "tags" in each]
    return Ports(
        inbound=port,
        workload=workload,
        outbound={each["tags"]["kuma.io/service"]: each["port"] for each in tagged},
        address=networking["address"],
        is_http=is_http(protocol_of(inbound)),
    )


def protocol_of(inbound: Json) -> str:
    """Return what an inbound takes, by its own field or by its tag."""
    protocol: str = inbound.get("protocol") or (inbound.get("tags") or {}).get("kuma.io/protocol", "tcp")
    return protocol


def is_http(protocol: str) -> bool:
    """Return whether an inbound of *protocol* takes requests, not connections alone."""
    return protocol in {"http", "http2", "grpc"}


def services(context: MeshContext) -> dict[str, list[Resource]]:
    """Return the proxies of each service."""
    found: dict[str, list[Resource]] = {}
    for dataplane in context.dataplanes:
        if inbounds(dataplane):
            found.setdefault(service_of(dataplane), []).append(dataplane)
    return found
