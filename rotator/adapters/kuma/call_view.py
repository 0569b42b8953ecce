"""
What one proxy's configuration means for one call: who is let in, where its outbounds lead, what it verifies with.

Rules that must stay true here:

- Pure: Envoy's dump, or what the control plane computes for the proxy (``_config``), in; facts out. Both are read by
  the same code, so that a difference is one of theirs.
- Where an outbound leads is told by whom its clusters expect to show themselves, never by a name that looks like it.
- Of a certificate that has ended its issuer is verified as of its last moment: its end is found elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

from cryptography import x509

from rotator.adapters.kuma.config_dump import PLAIN, Shown
from rotator.adapters.kuma.dump import TYPE, get, items, value
from rotator.adapters.kuma.envoy_access import rbac_filters
from rotator.core.model import TrustDomainName
from rotator.errors import Rejected
from rotator.pki.certificates import parse_certificates, uri_names
from rotator.pki.chain import verify

_LISTENER, _CLUSTER, _ROUTES, _ENDPOINTS = "Listener", "Cluster", "RouteConfiguration", "ClusterLoadAssignment"
_INBOUND: Final = ("inbound:", "self_inbound_")
_OUTBOUND: Final = ("outbound:", "kri_msvc_", "kri_extsvc_", "kri_mzsvc_")


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundSeen:
    """Where a proxy takes connections of others."""

    name: str
    address: str
    port: int
    filters: tuple[Mapping[str, Any], ...]
    """Its filters for access control, of the chain that takes the mesh's certificates."""
    takes_tls: bool
    clusters: tuple[str, ...]
    """Envoy's names of the application behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundSeen:
    """Where a proxy's own workload reaches others."""

    name: str
    address: str
    port: int
    clusters: tuple[str, ...]
    leads_to: tuple[str, ...]
    """SPIFFE IDs that its clusters expect."""
    endpoints: tuple[tuple[str, int], ...]

    @classmethod
    def declared(cls, address: str, port: int) -> Self:
        """Return one of which only its place is known."""
        return cls(name="", address=address, port=port, clusters=(), leads_to=(), endpoints=())


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """One proxy's configuration, as far as calls are concerned."""

    inbounds: tuple[InboundSeen, ...] = ()
    outbounds: tuple[OutboundSeen, ...] = ()


@dataclass(slots=True)
class _Resources:
    listeners: list[Mapping[str, Any]] = field(default_factory=list)
    clusters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    routes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    endpoints: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def held_view(dump: Mapping[str, Any]) -> CallView:
    """Return what the proxy behind *dump* (Envoy's ``config_dump``) runs."""
    found = _Resources()
    for section in items(dump, "configs"):
        kind = str(section.get(TYPE, "")).rpartition(".")[2]
        match kind:
            case "ListenersConfigDump":
                active = [get(get(each, "active_state"), "listener") for each in items(section, "dynamic_listeners")]
                found.listeners += [each for each in active if each]
                found.listeners += [get(each, "listener") for each in items(section, "static_listeners")]
            case "ClustersConfigDump":
                for group in ("static_clusters", "dynamic_active_clusters"):
                    for each in items(section, group):
                        cluster = get(each, "cluster")
                        found.clusters[str(cluster.get("name", ""))] = cluster
            case "RoutesConfigDump":
                for group in ("static_route_configs", "dynamic_route_configs"):
                    for each in items(section, group):
                        route = get(each, "route_config")
                        found.routes[str(route.get("name", ""))] = route
            case "EndpointsConfigDump":
                for group in ("static_endpoint_configs", "dynamic_endpoint_configs"):
                    for each in items(section, group):
                        endpoint = get(each, "endpoint_config")
                        found.endpoints[str(value(endpoint, "cluster_name") or "")] = endpoint
            case _:
                continue
    return _view(found)


def intended_view(answer: Mapping[str, Any]) -> CallView | None:
    """Return what a control plane computes for a proxy (the answer of ``_config``); None if it says nothing."""
    by_type = get(answer, "xds")
    found = _Resources()
    for kind, resources in by_type.items():
        if not isinstance(resources, Mapping):
            continue
        named = {str(name): each for name, each in resources.items() if isinstance(each, Mapping)}
        match str(kind).rpartition(".")[2]:
            case "Listener":
                found.listeners += list(named.values())
            case "Cluster":
                found.clusters |= named
            case "RouteConfiguration":
                found.routes |= named
            case "ClusterLoadAssignment":
                found.endpoints |= named
            case _:
                continue
    return _view(found) if found.listeners else None


def _view(found: _Resources) -> CallView:
    inbounds, outbounds = [], []
    for listener in found.listeners:
        if _is(listener, "INBOUND", _INBOUND):
            inbounds.append(_inbound(listener))
        elif _is(listener, "OUTBOUND", _OUTBOUND):
            outbounds.append(_outbound(listener, found))
    return CallView(inbounds=tuple(inbounds), outbounds=tuple(outbounds))


def _is(listener: Mapping[str, Any], direction: str, names: tuple[str, ...]) -> bool:
    said = value(listener, "traffic_direction")
    if said in {"INBOUND", "OUTBOUND"}:
        return bool(said == direction)
    return str(listener.get("name", "")).startswith(names)


def _inbound(listener: Mapping[str, Any]) -> InboundSeen:
    address, port = _address(get(listener, "address"))
    chains = items(listener, "filter_chains")
    protected = [each for each in chains if get(each, "transport_socket")]
    return InboundSeen(
        name=str(listener.get("name", "")),
        address=address,
        port=port,
        filters=tuple(rbac for chain in protected for rbac in rbac_filters(chain)),
        takes_tls=bool(protected),
        clusters=tuple(dict.fromkeys(name for chain in chains for name in _targets(chain, {}))),
    )


def _outbound(listener: Mapping[str, Any], found: _Resources) -> OutboundSeen:
    address, port = _address(get(listener, "address"))
    clusters = dict.fromkeys(
        name for chain in items(listener, "filter_chains") for name in _targets(chain, found.routes)
    )
    known = [found.clusters[name] for name in clusters if name in found.clusters]
    leads = dict.fromkeys(name for cluster in known for name in _expected(cluster))
    endpoints = dict.fromkeys(each for cluster in known for each in _endpoints(cluster, found.endpoints))
    return OutboundSeen(
        name=str(listener.get("name", "")),
        address=address,
        port=port,
        clusters=tuple(clusters),
        leads_to=tuple(leads),
        endpoints=tuple(endpoints),
    )


def _targets(chain: Mapping[str, Any], routes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the clusters to which a filter chain may send something."""
    for each in items(chain, "filters"):
        typed = get(each, "typed_config")
        yield from _clusters(typed)
        table = get(typed, "route_config") or routes.get(str(value(get(typed, "rds"), "route_config_name") or ""), {})
        for host in items(table, "virtual_hosts"):
            for route in items(host, "routes"):
                yield from _clusters(get(route, "route"))


def _clusters(action: Mapping[str, Any]) -> Iterator[str]:
    single = action.get("cluster")
    if isinstance(single, str) and single:
        yield single
    for each in items(get(action, "weighted_clusters"), "clusters"):
        if each.get("name") and each.get("weight", 1) != 0:
            yield str(each["name"])


def _expected(cluster: Mapping[str, Any]) -> Iterator[str]:
    """Yield the SPIFFE IDs of which one must show itself behind *cluster*."""
    sockets = [get(cluster, "transport_socket")]
    sockets += [get(each, "transport_socket") for each in items(cluster, "transport_socket_matches")]
    for socket in sockets:
        context = get(get(socket, "typed_config"), "common_tls_context")
        combined = get(get(context, "combined_validation_context"), "default_validation_context")
        for validation in (combined, get(context, "validation_context")):
            for each in items(validation, "match_typed_subject_alt_names"):
                exact = get(each, "matcher").get("exact")
                if isinstance(exact, str) and exact.startswith("spiffe://"):
                    yield exact


def _endpoints(cluster: Mapping[str, Any], assigned: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    name = str(cluster.get("name", ""))
    assignment = get(cluster, "load_assignment") or assigned.get(name, {})
    for locality in items(assignment, "endpoints"):
        for each in items(locality, "lb_endpoints"):
            yield _address(get(get(each, "endpoint"), "address"))


def _address(said: Mapping[str, Any]) -> tuple[str, int]:
    socket = get(said, "socket_address")
    port = value(socket, "port_value")
    return str(socket.get("address", "")), port if isinstance(port, int) else 0


# --- verifying each other ---------------------------------------------------------------------------------------------


def verification_problem(verifier: Shown, leaf: x509.Certificate, now: datetime) -> str | None:
    """Return why *verifier* would not take *leaf*; None if it would."""
    names = [each for each in uri_names(leaf) if each.startswith("spiffe://")]
    if not names:
        return "it names nobody of the mesh"
    if not verifier.validators:
        return "it holds no CA of the mesh"
    domain = TrustDomainName(names[0].removeprefix("spiffe://").partition("/")[0])
    at = min(now, leaf.not_valid_after_utc - timedelta(seconds=1))
    for each in verifier.validators:
        if PLAIN in each:
            problem = _chain_problem(leaf, each[PLAIN], at, to_root=False)
        elif domain in each:
            problem = _chain_problem(leaf, each[domain], at, to_root=True)
        else:
            problem = f"it trusts nobody for trust domain {domain}"
        if problem is not None:
            return problem
    return None


def _chain_problem(leaf: x509.Certificate, bundle: bytes, at: datetime, *, to_root: bool) -> str | None:
    """Return why *leaf* does not verify under *bundle*: Envoy's SPIFFE validator wants the path up to a root."""
    try:
        authorities: Sequence[x509.Certificate] = parse_certificates(bundle, source="its trust bundle")
        anchors = [each for each in authorities if each.subject == each.issuer] if to_root else list(authorities)
        verify([leaf, *(each for each in authorities if each not in anchors)], anchors, at)
    except Rejected as e:
        return str(e)
    return None
