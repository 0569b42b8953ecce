"""
What proxies tell of each call, as Kuma's MeshAccessLog, MeshTrace and MeshMetric: who called, with which certificate.

Rules that must stay true here:

- Every line of a call names its trace, the caller's SPIFFE ID and certificate serial, and why it was refused: from it
  one gets to the task, the certificate and its last rotation.
- One name for one fact: the attributes are those of `rotator.core.trace`, which rotator's own spans bear too.
- No header, no body and no path of a request is written into a line: they may hold secrets and people.
- One policy for a whole mesh: who is not logged cannot be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rotator.core.model import TrustDomainName
from rotator.core.trace import SERIAL, SPIFFE_ID
from rotator.platform.model import MeshModel, Platform, Telemetry
from rotator.platform.resources import (
    MESH_ACCESS_LOG,
    MESH_METRIC,
    MESH_OPENTELEMETRY_BACKEND,
    MESH_TRACE,
    Resource,
    named,
    own,
)

OWN_ID: Final = "spiffe.own_id"
"""Of the proxy that wrote the line."""
ISSUER: Final = "certificate.issuer"
"""Of the caller's certificate: a CA that rotator made bears the beginning of its rotation's id in its name."""
FLAGS: Final = "envoy.response_flags"
"""Why a call went wrong, in Envoy's letters: UAEX or none with 403 is a refusal, UF a handshake or connection lost."""
DETAILS: Final = "envoy.response_code_details"
"""Of a refusal the rule: ``rbac_access_denied_matched_policy[none]``."""
DIRECTION: Final = "mesh.direction"
MESH_NAME: Final = "mesh.name"
STATUS: Final = "http.response.status_code"

_CALL: Final[Mapping[str, str]] = {
    SPIFFE_ID: "%DOWNSTREAM_PEER_URI_SAN%",
    SERIAL: "%DOWNSTREAM_PEER_SERIAL%",
    ISSUER: "%DOWNSTREAM_PEER_ISSUER%",
    "certificate.sha256": "%DOWNSTREAM_PEER_FINGERPRINT_256%",
    OWN_ID: "%DOWNSTREAM_LOCAL_URI_SAN%",
    "http.request.method": "%REQ(:METHOD)%",
    STATUS: "%RESPONSE_CODE%",
    FLAGS: "%RESPONSE_FLAGS%",
    DETAILS: "%RESPONSE_CODE_DETAILS%",
    "envoy.connection_termination": "%CONNECTION_TERMINATION_DETAILS%",
    "envoy.downstream_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "envoy.upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "envoy.upstream_cluster": "%UPSTREAM_CLUSTER%",
    "client.address": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "server.address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "duration_ms": "%DURATION%",
    "trace_id": "%TRACE_ID%",
}
_BODY: Final = "call by %DOWNSTREAM_PEER_URI_SAN%: %RESPONSE_CODE% %RESPONSE_FLAGS% after %DURATION% ms"

LATENCIES: Final = ("envoy_cluster_upstream_rq_time", "envoy_http_downstream_rq_time")
"""Histograms that the dashboard shows, by Envoy's Prometheus names: a caller's side, and a called one's."""
COUNTERS: Final = (
    "envoy_cluster_upstream_rq",
    "envoy_cluster_upstream_cx_connect_fail",
    "envoy_cluster_ssl_fail_verify",
    "envoy_listener_ssl_fail_verify",
    "envoy_http_rbac_denied",
    "envoy_http_rbac_allowed",
)
"""What stands beside them: answers by code, connections lost, handshakes and calls refused. Beginnings of names."""


def telemetry(platform: Platform, at: TrustDomainName) -> tuple[Resource, ...]:
    """Return the policies of the mesh of the trust domain *at*; none where no collector is named."""
    wanted = platform.telemetry
    if wanted is None:
        return ()
    meshes = {each.mesh: each.model for each in platform.environments if each.trust_domain == at}
    found: list[Resource] = []
    for mesh, model in meshes.items():
        if wanted.by_reference:
            spec = {"endpoint": {"address": wanted.address, "port": wanted.grpc_port}, "protocol": "grpc"}
            found.append(own(MESH_OPENTELEMETRY_BACKEND, mesh, _NAME, spec))
        found += [
            own(MESH_ACCESS_LOG, mesh, named("calls", "in"), _taken(wanted, mesh, model)),
            own(MESH_ACCESS_LOG, mesh, named("calls", "out"), _made(wanted, mesh)),
            own(MESH_TRACE, mesh, _NAME, _trace(wanted, mesh)),
            own(MESH_METRIC, mesh, _NAME, _metric(wanted)),
        ]
    return tuple(found)


_NAME: Final = named("telemetry")


def call_attributes(mesh: str, direction: str) -> Mapping[str, str]:
    """Return what a line of a call says, by attribute: a text in which Envoy fills in what it knows."""
    return {MESH_NAME: mesh, DIRECTION: direction, **_CALL}


def _log(wanted: Telemetry, mesh: str, direction: str) -> dict[str, Any]:
    attributes = [{"key": key, "value": value} for key, value in call_attributes(mesh, direction).items()]
    backend = _backend(wanted) | {"body": {"stringValue": _BODY}, "attributes": attributes}
    return {"backends": [{"type": "OpenTelemetry", "openTelemetry": backend}]}


def _taken(wanted: Telemetry, mesh: str, model: MeshModel) -> dict[str, Any]:
    """Return the policy of calls that proxies take: the side that knows the caller's certificate."""
    default = _log(wanted, mesh, "inbound")
    if model is MeshModel.PROVIDED:
        return {"targetRef": _EVERYBODY, "from": [{"targetRef": _EVERYBODY, "default": default}]}
    return {"targetRef": _EVERYBODY, "rules": [{"default": default}]}


def _made(wanted: Telemetry, mesh: str) -> dict[str, Any]:
    """Return the policy of calls that proxies make: what never arrived is seen here alone."""
    default = _log(wanted, mesh, "outbound")
    return {"targetRef": _EVERYBODY, "to": [{"targetRef": _EVERYBODY, "default": default}]}


def _trace(wanted: Telemetry, mesh: str) -> dict[str, Any]:
    return {
        "targetRef": _EVERYBODY,
        "default": {
            "backends": [{"type": "OpenTelemetry", "openTelemetry": _backend(wanted)}],
            # What a task has begun is followed whatever this says: the caller's decision stands.
            "sampling": {"overall": 100, "client": 100, "random": _number(wanted.sampled_percent)},
            "tags": [{"name": MESH_NAME, "literal": mesh}],
        },
    }


def _metric(wanted: Telemetry) -> dict[str, Any]:
    include = [{"type": "Prefix", "match": each} for each in (*LATENCIES, *COUNTERS)]
    refresh = f"{max(1, round(wanted.refresh.total_seconds()))}s"
    return {
        "targetRef": _EVERYBODY,
        "default": {
            "sidecar": {"profiles": {"appendProfiles": [{"name": "Basic"}], "include": include}},
            "backends": [
                {"type": "OpenTelemetry", "openTelemetry": _backend(wanted) | {"refreshInterval": refresh}},
            ],
        },
    }


_EVERYBODY: Final = {"kind": "Mesh"}


def _backend(wanted: Telemetry) -> dict[str, Any]:
    if wanted.by_reference:
        return {"backendRef": {"kind": MESH_OPENTELEMETRY_BACKEND, "name": _NAME}}
    return {"endpoint": f"{wanted.address}:{wanted.grpc_port}"}


def _number(share: float) -> int | str:
    """Return *share* as Kuma takes numbers: whole, or a text."""
    return int(share) if share == int(share) else f"{share:g}"
