"""
Where the outbounds of a proxy lead, by the MeshHTTPRoutes and MeshTCPRoutes that select it.

Rules that must stay true here:

- Without a route an outbound leads to the service that it names.
- With one, 2.x lets requests that no rule takes through to that service; 3.x answers them 404.
- A backend that is not there, or has no such port, gets nothing: a rule with no other answers 500 (GUESS for 2.x).
- A MeshTCPRoute counts where no MeshHTTPRoute does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tests.fakes.kuma.desired import Outbound, Route
from tests.fakes.kuma.reading import MeshContext
from tests.fakes.kuma.selecting import by_priority, is_section, means, meant_port, meant_service
from tests.fakes.kuma.store import Json, Resource
from tests.fakes.kuma.topology import is_http

_EVERYTHING: Json = {"path": {"type": "PathPrefix", "value": "/"}}


@dataclass(frozen=True, slots=True)
class Destination:
    """One port of a MeshService."""

    service: Resource
    port: Json

    @property
    def name(self) -> str:
        """Return what Envoy's cluster for it is called."""
        labels = self.service.labels
        zone, namespace = labels.get("kuma.io/zone", ""), labels.get("k8s.kuma.io/namespace", "")
        name = labels.get("kuma.io/display-name", self.service.name)
        return f"kri_msvc_{self.service.mesh}_{zone}_{namespace}_{name}_{self.port.get('name', self.port['port'])}"


def destination(reference: Json, services: Sequence[Resource]) -> Destination | None:
    """Return what a ``backendRef`` leads to, None if it leads nowhere."""
    service = meant_service(reference, services)
    port = meant_port(reference, service) if service is not None else None
    return Destination(service, port) if service is not None and port is not None else None


@dataclass(frozen=True, slots=True)
class Routed:
    """A proxy's outbounds, and every destination that they may lead to."""

    outbounds: tuple[Outbound, ...]
    destinations: tuple[Destination, ...]


def routed(dataplane: Resource, context: MeshContext, *, major: int) -> Routed:
    """Return where the outbounds with a ``backendRef`` lead; those with tags are not routed."""
    outbounds: list[Outbound] = []
    found: dict[str, Destination] = {}
    for outbound in (dataplane.spec.get("networking") or {}).get("outbound") or []:
        if "backendRef" not in outbound:
            continue
        target = destination(outbound["backendRef"], context.services)
        if target is None:
            continue
        protocol = target.port.get("appProtocol", "tcp")
        by_request = _rules(dataplane, context.http_routes, target) if is_http(protocol) else []
        by_connection = [] if by_request else _rules(dataplane, context.tcp_routes, target)
        by_http = is_http(protocol) and not by_connection
        if by_http:
            routes = _http(by_request, target, context, found, catches_all=not by_request or major < 3)
        else:
            rule = by_connection[-1] if by_connection else {"default": {}}
            routes = (_route(rule, {}, target, context, found),)
        outbounds.append(
            Outbound(
                address=outbound.get("address", "127.0.0.1"),
                port=outbound["port"],
                name=target.name,
                is_http=by_http,
                routes=routes,
            )
        )
    return Routed(tuple(outbounds), tuple(found.values()))


def _rules(dataplane: Resource, policies: Sequence[Resource], target: Destination) -> list[Json]:
    """Return the rules for *target*, the weakest first; of two with the same matches the stronger alone."""
    found: dict[str, Json] = {}
    for policy in by_priority(dataplane, policies):
        for to in policy.spec.get("to") or []:
            reference = to["targetRef"]
            section = reference.get("sectionName")
            if not means(reference, target.service) or (section and not is_section(target.port, section)):
                continue
            for rule in to["rules"]:
                found[json.dumps(rule.get("matches"), sort_keys=True)] = rule
    return list(found.values())


def _http(
    rules: list[Json], target: Destination, context: MeshContext, found: dict[str, Destination], *, catches_all: bool
) -> tuple[Route, ...]:
    pairs = [({**_EVERYTHING, **match}, rule) for rule in rules for match in rule["matches"]]
    # The most particular match is tried first, as in the Gateway API.
    pairs.sort(key=lambda pair: _particularity(pair[0]), reverse=True)
    routes = [_route(rule, match, target, context, found) for match, rule in pairs]
    if catches_all and all(match != _EVERYTHING for match, _ in pairs):
        routes.append(_route({"default": {}}, _EVERYTHING, target, context, found))
    return tuple(routes)


def _particularity(match: Json) -> tuple[int, int, int, int]:
    path = match["path"]
    rank = {"Exact": 2, "PathPrefix": 1, "RegularExpression": 0}[path["type"]]
    return rank, len(path["value"]), int("method" in match), len(match.get("headers") or [])


def _route(rule: Json, match: Json, target: Destination, context: MeshContext, found: dict[str, Destination]) -> Route:
    references = (rule.get("default") or {}).get("backendRefs")
    backends = []
    if references is None:
        backends.append((target, 1))
    for reference in references or []:
        backend = destination(reference, context.services)
        if backend is not None:
            backends.append((backend, reference.get("weight", 1)))
    found.update({backend.name: backend for backend, _ in backends})
    clusters = tuple((backend.name, weight) for backend, weight in backends if weight)
    return Route(match=match, clusters=clusters)
