"""
A proxy's configuration as Envoy takes it: listeners, clusters and secrets of one `Desired`.

Rules that must stay true here:

- Certificates and CAs come by SDS under the names that Kuma gives them; a combined context adds whom to expect.
- No TLS session is resumed and every request out takes a connection of its own, so each one is a handshake that is
  judged.
- A connection that fails is answered 503 and never tried again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.fakes.kuma.desired import Desired, Identity, Inbound, Outbound, Route, Trust, Upstream
from tests.fakes.kuma.envoy_access import http_filters, network_filters
from tests.fakes.kuma.store import Json

LOOPBACK = "127.0.0.1"
TYPE = "@type"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_INSPECTOR = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"

# Far above what a scenario needs: a full circuit breaker would look like a failed rotation.
_MANY = 20_000

Source = Callable[[str], Json]
"""The name of a secret -> where Envoy gets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where one proxy listens, all on loopback."""

    inbound: int
    """Where it takes connections of others; 0: it takes none."""
    workload: int
    outbound: Mapping[str, int] = field(default_factory=dict)
    """For each other service the port at which this proxy's workload reaches it."""
    address: str = LOOPBACK
    """Where it takes connections of others: a loopback address of its own, if it has one."""
    is_http: bool = True
    """Whether its workload speaks HTTP, which Envoy then answers by itself; what it is otherwise, the workload says."""


def secrets_of(desired: Desired, *, redacted: bool = False) -> dict[str, Json]:
    """Return every secret by name; with *redacted* as a configuration dump shows them."""
    found: dict[str, Json] = {}
    if desired.identity is not None:
        found[desired.identity.name] = _certificate(desired.identity, redacted=redacted)
    if desired.trust is not None:
        found[desired.trust.name] = _validation(desired.trust)
    return found


def _certificate(identity: Identity, *, redacted: bool) -> Json:
    key = "[redacted]" if redacted else identity.key_pem
    return {
        "name": identity.name,
        "tls_certificate": {
            "certificate_chain": {"inline_bytes": _base64(identity.certificate_pem)},
            "private_key": {"inline_bytes": _base64(key)},
        },
    }


def _validation(trust: Trust) -> Json:
    if trust.trusted_ca is not None:
        context: Json = {"trusted_ca": {"inline_bytes": _base64(trust.trusted_ca)}}
    else:
        domains = [
            {"name": domain, "trust_bundle": {"inline_bytes": _base64(blob)}}
            for domain, blob in sorted(trust.by_trust_domain.items())
        ]
        validator = {TYPE: f"{TLS}.SPIFFECertValidatorConfig", "trust_domains": domains}
        context = {"custom_validator_config": {"name": "envoy.tls.cert_validator.spiffe", "typed_config": validator}}
    return {"name": trust.name, "validation_context": context}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def listeners_of(
    desired: Desired, ports: Ports, source: Source, *, service: str, logs: Sequence[Json] = ()
) -> list[Json]:
    """Return the inbound, the outbound of each other service, and the workload itself; *logs* of all but that."""
    local: Json = {"route": {"cluster": f"localhost:{ports.workload}", "timeout": "10s"}}
    answer: Json = {"direct_response": {"status": 200, "body": {"inline_string": f"{service}\n"}}}
    found = []
    if ports.inbound:
        found.append(_inbound(desired, ports, source, local, (*logs, *desired.access_logs)))
    if ports.is_http:
        found.append(_listener("workload", ports.workload, [_chain("workload", [answer])]))
    for other, port in ports.outbound.items():
        route: Json = {"route": {"cluster": other, "timeout": "10s"}}
        chain = _chain(f"outbound_{other}", [route], logs=logs)
        found.append(_listener(f"outbound:{LOOPBACK}:{port}", port, [chain]))
    return found + [_outbound(each, logs) for each in desired.outbounds]


def intended_config(desired: Desired, ports: Ports, *, service: str) -> Json:
    """Return what a control plane wants run as it shows it, by type and name; secrets it shows by their names alone."""

    def source(_name: str) -> Json:
        return {"ads": {}}

    listeners = listeners_of(desired, ports, source, service=service)
    # The workload's own listener is the stand-in's and no part of any configuration.
    shown = {each["name"]: each for each in listeners if each["name"] != "workload"}
    root = "type.googleapis.com/envoy"
    return {
        f"{root}.config.listener.v3.Listener": shown,
        f"{root}.config.cluster.v3.Cluster": {each["name"]: each for each in clusters_of(desired, ports, source)},
    }


def _outbound(outbound: Outbound, logs: Sequence[Json]) -> Json:
    """Return the listener of an outbound that leads to a MeshService."""
    name = f"outbound:{outbound.address}:{outbound.port}"
    if outbound.is_http:
        chain = _chain(outbound.name, [_routed(each) for each in outbound.routes], logs=logs)
    else:
        (route,) = outbound.routes
        chain = _tcp_chain(outbound.name, route.clusters, logs=logs)
    return _listener(name, outbound.port, [chain], address=outbound.address)


def _routed(route: Route) -> Json:
    if not route.clusters:
        return {"match": _match(route.match), "direct_response": {"status": 500}}
    weighted = [{"name": name, "weight": weight} for name, weight in route.clusters]
    return {"match": _match(route.match), "route": {"weighted_clusters": {"clusters": weighted}, "timeout": "10s"}}


def _match(said: Json) -> Json:
    path = said["path"]
    match path["type"]:
        case "Exact":
            found: Json = {"path": path["value"]}
        case "RegularExpression":
            found = {"safe_regex": {"regex": path["value"]}}
        case _ if path["value"] == "/":
            found = {"prefix": "/"}
        case _:
            found = {"path_separated_prefix": path["value"]}
    headers = [_header(each) for each in said.get("headers") or []]
    if "method" in said:
        headers.append({"name": ":method", "string_match": {"exact": said["method"]}})
    return {**found, "headers": headers} if headers else found


def _header(said: Json) -> Json:
    match said.get("type", "Exact"):
        case "Present":
            return {"name": said["name"], "present_match": True}
        case "Absent":
            return {"name": said["name"], "present_match": True, "invert_match": True}
        case "Prefix":
            return {"name": said["name"], "string_match": {"prefix": said["value"]}}
        case _:
            return {"name": said["name"], "string_match": {"exact": said["value"]}}


def clusters_of(desired: Desired, ports: Ports, source: Source) -> list[Json]:
    """Return the workload's cluster and one for each other service; nobody stands in one that is not there yet."""
    found = [_cluster(f"localhost:{ports.workload}", ((LOOPBACK, ports.workload),))]
    nobody = {name: Upstream(addresses=(), tls=False) for name in ports.outbound}
    return found + [_upstream(name, up, desired, source) for name, up in (nobody | dict(desired.upstreams)).items()]


def _inbound(desired: Desired, ports: Ports, source: Source, route: Json, logs: Sequence[Json]) -> Json:
    name = f"inbound:{ports.address}:{ports.inbound}"
    local = ((f"localhost:{ports.workload}", 1),)
    plain = _chain("inbound", [route], logs=logs) if ports.is_http else _tcp_chain("inbound", local, logs=logs)
    if desired.inbound is Inbound.PLAINTEXT or desired.identity is None or desired.trust is None:
        return _listener(name, ports.inbound, [plain], address=ports.address)
    tls: Json = {
        TYPE: f"{TLS}.DownstreamTlsContext",
        "common_tls_context": _common(desired.identity, desired.trust, source, prefixes=desired.peers),
        "require_client_certificate": True,
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
    }
    shown: list[Json] = [
        {"header": {"key": "x-peer-serial", "value": "%DOWNSTREAM_PEER_SERIAL%"}},
        {"header": {"key": "x-local-uri", "value": "%DOWNSTREAM_LOCAL_URI_SAN%"}},
    ]
    if ports.is_http:
        filters = http_filters(desired.access) if desired.access is not None else []
        protected = _chain("inbound", [{**route, "response_headers_to_add": shown}], logs=logs, filters=filters)
    else:
        filters = network_filters(desired.access, stat_prefix="inbound") if desired.access is not None else []
        protected = _tcp_chain("inbound", local, logs=logs, filters=filters)
    protected["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    if desired.inbound is Inbound.STRICT:
        return _listener(name, ports.inbound, [protected], address=ports.address)
    protected["filter_chain_match"] = {"transport_protocol": "tls"}
    plain |= {"name": "inbound_plaintext", "filter_chain_match": {"transport_protocol": "raw_buffer"}}
    listener = _listener(name, ports.inbound, [protected, plain], address=ports.address)
    listener["listener_filters"] = [{"name": "tls_inspector", "typed_config": {TYPE: _INSPECTOR}}]
    return listener


def _common(
    identity: Identity, trust: Trust, source: Source, *, prefixes: tuple[str, ...] = (), exact: tuple[str, ...] = ()
) -> Json:
    expected = [{"san_type": "URI", "matcher": {"prefix": each}} for each in prefixes]
    expected += [{"san_type": "URI", "matcher": {"exact": each}} for each in exact]
    return {
        "alpn_protocols": ["http/1.1"],
        "tls_certificate_sds_secret_configs": [_by_sds(identity.name, source)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": expected},
            "validation_context_sds_secret_config": _by_sds(trust.name, source),
        },
    }


def _by_sds(name: str, source: Source) -> Json:
    return {"name": name, "sds_config": {**source(name), "resource_api_version": "V3"}}


def _listener(name: str, port: int, chains: list[Json], *, address: str = LOOPBACK) -> Json:
    return {"name": name, "address": _address(address, port), "filter_chains": chains}


def _chain(name: str, routes: list[Json], *, logs: Sequence[Json] = (), filters: Sequence[Json] = ()) -> Json:
    """Return a filter chain that takes HTTP; a route without a match takes everything."""
    hosts: Json = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **each} for each in routes]}
    http: Json = {
        TYPE: _HTTP,
        "stat_prefix": name,
        # Clusters come by a file of their own, which may be read later than this.
        "route_config": {"name": name, "virtual_hosts": [hosts], "validate_clusters": False},
        "http_filters": [*filters, {"name": "router", "typed_config": {TYPE: _ROUTER}}],
    }
    if logs:
        http["access_log"] = list(logs)
    return {"name": name, "filters": [{"name": "http", "typed_config": http}]}


def _tcp_chain(
    name: str, clusters: Sequence[tuple[str, int]], *, logs: Sequence[Json] = (), filters: Sequence[Json] = ()
) -> Json:
    """Return a filter chain that takes connections; without clusters nobody is behind it, and they are closed."""
    weighted = [{"name": each, "weight": weight} for each, weight in clusters] or [{"name": "nobody", "weight": 1}]
    tcp: Json = {TYPE: _TCP, "stat_prefix": name, "weighted_clusters": {"clusters": weighted}}
    if logs:
        tcp["access_log"] = list(logs)
    return {"name": name, "filters": [*filters, {"name": "tcp", "typed_config": tcp}]}


def _upstream(name: str, upstream: Upstream, desired: Desired, source: Source) -> Json:
    cluster = _cluster(name, upstream.addresses)
    cluster["typed_extension_protocol_options"] = {
        _OPTIONS: {
            TYPE: f"type.googleapis.com/{_OPTIONS}",
            "explicit_http_config": {"http_protocol_options": {}},
            "common_http_protocol_options": {"max_requests_per_connection": 1},
        }
    }
    if upstream.tls and desired.identity is not None and desired.trust is not None:
        tls: Json = {
            TYPE: f"{TLS}.UpstreamTlsContext",
            "common_tls_context": _common(desired.identity, desired.trust, source, exact=upstream.identities),
            "sni": name,
            "max_session_keys": 0,
        }
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return cluster


def _cluster(name: str, addresses: tuple[tuple[str, int], ...]) -> Json:
    endpoints = [{"endpoint": {"address": _address(host, port)}} for host, port in addresses]
    limits = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}
