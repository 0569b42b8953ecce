"""
What the stand-in refuses of policies and services, over its HTTP API.

Rules that must stay true here:

- One row is one document with one mistake; what is right is accepted by the same path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import urllib3

from tests.fakes.kuma.http_api import COLLECTIONS
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import Json
from tests.fixtures_kuma import NewStandIn

ID = {"spiffeID": {"type": "Exact", "value": "spiffe://airflow.test/ns/airflow/sa/scheduler"}}
BACKEND = {"kind": "MeshService", "labels": {"kuma.io/display-name": "reports"}, "port": 8080}
SERVICE = {"kind": "MeshService", "labels": {"kuma.io/display-name": "reports"}}
COLLECTOR = {"kind": "MeshOpenTelemetryBackend", "labels": {"kuma.io/display-name": "collector"}}
TO_COLLECTOR = {"type": "OpenTelemetry", "openTelemetry": {"backendRef": COLLECTOR}}
EVERYTHING = {"path": {"type": "PathPrefix", "value": "/"}}
PATHS = {kind: collection for collection, kind in COLLECTIONS.items()}


def rules(**default: list[Json]) -> Json:
    """Return the ``spec`` of a permission by SPIFFE IDs."""
    return {"targetRef": {"kind": "Dataplane", "labels": {"app": "reports"}}, "rules": [{"default": default}]}


def origin(action: str, **client: Any) -> Json:
    """Return the ``spec`` of a permission of the older form."""
    return {"from": [{"targetRef": client or {"kind": "Mesh"}, "default": {"action": action}}]}


def http_route(match: Json = EVERYTHING, **default: Any) -> Json:
    """Return the ``spec`` of a route of requests."""
    rule = {"matches": [match], "default": default or {"backendRefs": [BACKEND]}}
    return {"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": SERVICE, "rules": [rule]}]}


def tcp_route(*backends: Json, to: Json = SERVICE) -> Json:
    """Return the ``spec`` of a route of connections."""
    return {"to": [{"targetRef": to, "rules": [{"default": {"backendRefs": list(backends)}}]}]}


def log(backend: Json) -> Json:
    """Return the ``spec`` of a MeshAccessLog."""
    return {"rules": [{"default": {"backends": [backend]}}]}


def trace(backend: Json, **more: Any) -> Json:
    """Return the ``spec`` of a MeshTrace."""
    return {"targetRef": {"kind": "Mesh"}, "default": {"backends": [backend], **more}}


class Client:
    """Writes documents as an administrator."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin

    def put(self, kind: str, spec: Json, name: str = "one") -> tuple[int, Mapping[str, str]]:
        """Return the status, and the reason for each field that is refused."""
        path = f"/meshes/default/{PATHS[kind]}/{name}"
        body = json.dumps({"type": kind, "mesh": "default", "name": name, "spec": spec})
        headers = {"Authorization": f"Bearer {self._standin.admin_token}"}
        answer = urllib3.request("PUT", f"{self._standin.url}{path}", body=body, headers=headers, timeout=10)
        said = json.loads(answer.data)
        assert answer.status < 300 or "Could not process a resource" == said["title"]
        return answer.status, {each["field"]: each["reason"] for each in said.get("invalid_parameters", [])}


@pytest.fixture
def client(request: pytest.FixtureRequest, new_standin: NewStandIn) -> Client:
    """Give a client of a stand-in of the version that the test names."""
    standin = new_standin(version=getattr(request, "param", "3.0.1"))
    standin.edit_mesh(meshServices={"mode": "Exclusive"})
    return Client(standin)


ACCEPTED = [
    ("MeshTrafficPermission", rules(allow=[ID], deny=[{"spiffeID": {"type": "Prefix", "value": "spiffe://a.b/ns"}}])),
    ("MeshTrafficPermission", {"rules": [{"default": {"allowWithShadowDeny": [ID]}}]}),
    ("MeshHTTPRoute", http_route()),
    ("MeshHTTPRoute", http_route({"method": "GET", "headers": [{"name": "x-environment", "value": "staging"}]})),
    ("MeshTCPRoute", tcp_route(BACKEND, {**BACKEND, "weight": 3})),
    ("MeshService", {"selector": {"dataplaneLabels": {"matchLabels": {"app": "a"}}}, "ports": [{"port": 1}]}),
    ("MeshAccessLog", log({"type": "File", "file": {"path": "/tmp/log"}})),  # noqa: S108 -- nothing is written
    ("MeshAccessLog", log({"type": "OpenTelemetry", "openTelemetry": {"backendRef": COLLECTOR, "attributes": []}})),
    (
        "MeshTrace",
        trace({"type": "OpenTelemetry", "openTelemetry": {"backendRef": COLLECTOR}}, sampling={"overall": 80}),
    ),
    ("MeshMetric", {"default": {"backends": [{"type": "Prometheus", "prometheus": {"port": 5670}}]}}),
    ("MeshOpenTelemetryBackend", {"endpoint": {"address": "collector", "port": 4317}, "protocol": "grpc"}),
]


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED)
def test_what_is_right_is_stored(client: Client, kind: str, spec: Json) -> None:
    """Each kind is created, and replaced by the same."""
    assert ((201, {}), (200, {})) == (client.put(kind, spec), client.put(kind, spec))


RULES = "spec.rules[0].default"
TO = "spec.to[0]"
REFUSED = [
    ("MeshTrafficPermission", {}, "spec.rules", "policy must define rules"),
    ("MeshTrafficPermission", origin("Allow"), "spec.from", "unknown field"),
    ("MeshTrafficPermission", rules(allow=[{}]), f"{RULES}.allow[0]", "must not be empty"),
    ("MeshTrafficPermission", rules(permit=[ID]), f"{RULES}.permit", "unknown field"),
    (
        "MeshTrafficPermission",
        rules(allow=[{"spiffeID": {"type": "Exact", "value": "airflow/scheduler"}}]),
        f"{RULES}.allow[0].spiffeID.value",
        "must be a valid SPIFFE ID: 'airflow/scheduler'",
    ),
    (
        "MeshTrafficPermission",
        rules(allow=[{"spiffeId": {"type": "Exact", "value": "spiffe://a/b"}}]),
        f"{RULES}.allow[0].spiffeId",
        "unknown field",
    ),
    (
        "MeshTrafficPermission",
        {**rules(allow=[ID]), "targetRef": {"kind": "MeshSubset", "tags": {"app": "a"}}},
        "spec.targetRef.kind",
        "value is not supported",
    ),
    (
        "MeshTrafficPermission",
        {**rules(allow=[ID]), "targetRef": {"kind": "Dataplane", "name": "reports-1"}},
        "spec.targetRef.name",
        "unknown field",
    ),
    (
        "MeshHTTPRoute",
        http_route({"path": {"type": "PathPrefix", "value": "/a/"}}),
        f"{TO}.rules[0].matches[0].path.value",
        "does not need a trailing slash",
    ),
    (
        "MeshHTTPRoute",
        http_route({"path": {"type": "Exact", "value": "a"}}),
        f"{TO}.rules[0].matches[0].path.value",
        "",
    ),
    (
        "MeshHTTPRoute",
        http_route(backendRefs=[{"kind": "MeshService", "name": "reports", "port": 8080}]),
        f"{TO}.rules[0].default.backendRefs[0].name",
        "unknown field",
    ),
    (
        "MeshHTTPRoute",
        http_route(backendRefs=[SERVICE]),
        f"{TO}.rules[0].default.backendRefs[0].port",
        "must be defined",
    ),
    ("MeshTCPRoute", tcp_route(), f"{TO}.rules[0].default.backendRefs", "must have at least 1 items"),
    ("MeshTCPRoute", tcp_route(BACKEND, to={"kind": "Mesh"}), f"{TO}.targetRef.kind", "value is not supported"),
    ("MeshService", {"selector": {"dataplaneTags": {"app": "a"}}}, "spec.selector.dataplaneTags", "unknown field"),
    ("MeshService", {"ports": [{"port": 8080, "appProtocol": "htttp"}]}, "spec.ports[0].appProtocol", ""),
    ("MeshAccessLog", {}, "spec", "at least one of 'to' or 'rules' has to be defined"),
    ("MeshAccessLog", log({"type": "File"}), f"{RULES}.backends[0].file", "must be defined"),
    (
        "MeshAccessLog",
        log({"type": "OpenTelemetry", "openTelemetry": {"endpoint": "collector:4317"}}),
        f"{RULES}.backends[0].openTelemetry.endpoint",
        "unknown field",
    ),
    (
        "MeshTrace",
        trace(TO_COLLECTOR, sampling={"overall": 101}),
        "spec.default.sampling.overall",
        "must be between 0 and 100",
    ),
    ("MeshMetric", {"default": {"backends": [{"type": "Statsd"}]}}, "spec.default.backends[0].type", ""),
    ("MeshOpenTelemetryBackend", {"endpoint": {"address": "a"}}, "spec.endpoint.port", "must be defined"),
]


@pytest.mark.parametrize(("kind", "spec", "field", "reason"), REFUSED)
def test_what_is_wrong_is_refused_with_its_field(
    client: Client, kind: str, spec: Json, field: str, reason: str
) -> None:
    """400, with the field that is wrong and why; an empty reason: whatever it is."""
    status, wrong = client.put(kind, spec)
    assert 400 == status
    assert reason in {"", wrong[field]}


@pytest.mark.parametrize("client", ["2.14.3"], indirect=True)
def test_the_older_line_takes_the_older_forms(client: Client) -> None:
    """2.x knows ``from``, tags and names, and not both forms in one policy."""
    subset = {"kind": "MeshSubset", "tags": {"kuma.io/service": "worker"}}
    assert (201, {}) == client.put("MeshTrafficPermission", {**origin("Allow", **subset), "targetRef": subset})
    assert (201, {}) == client.put("MeshService", {"selector": {"dataplaneTags": {"app": "a"}}})
    by_name = {"kind": "MeshService", "name": "reports", "port": 8080}
    assert (201, {}) == client.put("MeshHTTPRoute", http_route(backendRefs=[by_name]))
    status, wrong = client.put("MeshTrafficPermission", {**origin("Allow"), **rules(allow=[ID])})
    assert (400, {"spec": "fields 'from' and 'rules' are mutually exclusive"}) == (status, wrong)
    status, wrong = client.put("MeshTrafficPermission", origin("ALLOW"))
    assert (400, {"spec.from[0].default.action"}) == (status, set(wrong))
