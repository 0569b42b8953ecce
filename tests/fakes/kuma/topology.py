"""
What a mesh's documents say of who stands where.

Rules that must stay true here:

- A proxy stands in front of the service that its tags name; without tags, of the one that its label names.
"""

from __future__ import annotations

from tests.fakes.kuma.desired import Inbound
from tests.fakes.kuma.reading import MeshContext
from tests.fakes.kuma.store import Resource


def inbound_mode(context: MeshContext) -> Inbound:
    """Return what a MeshTLS for the whole mesh says; strict without one."""
    for policy in context.tls:
        rules = policy.spec.get("rules") or policy.spec.get("from") or []
        for rule in rules:
            if ((rule.get("default") or {}).get("mode")) == "Permissive":
                return Inbound.PERMISSIVE
    return Inbound.STRICT


def tags_of(dataplane: Resource) -> dict[str, tuple[str, ...]]:
    """Return the values of each tag over all inbounds."""
    found: dict[str, set[str]] = {}
    for inbound in (dataplane.spec.get("networking") or {}).get("inbound") or []:
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


def services(context: MeshContext) -> dict[str, list[Resource]]:
    """Return the proxies of each service."""
    found: dict[str, list[Resource]] = {}
    for dataplane in context.dataplanes:
        if (dataplane.spec.get("networking") or {}).get("inbound"):
            found.setdefault(service_of(dataplane), []).append(dataplane)
    return found
