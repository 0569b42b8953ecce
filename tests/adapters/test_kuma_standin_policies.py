"""
The stand-in lets real Envoys enforce who may call what, and route what they send.

Rules that must stay true here:

- Each test is one fact of Kuma's own sources or documentation; what is claimed is seen by calls through Envoys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3

from rotator.clock import SystemClock
from rotator.embedded.process import wait_until
from rotator.errors import Unavailable
from tests.fakes.kuma.machines import Call, Machines, Outcome
from tests.fakes.kuma.signing import new_root
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import Json
from tests.fakes.kuma.timings import Timings

pytestmark = pytest.mark.external

PATIENCE = timedelta(seconds=45)
# No proxy is late enough to be taken for gone, however busy the machine is.
TIMINGS = replace(Timings.quick(), silence=timedelta(minutes=5))
DOMAIN = "airflow.test"
HTTP, TCP = 10_001, 10_002


def document(kind: str, name: str, **said: Any) -> Json:
    """Return a resource of the mesh ``default``."""
    return {"type": kind, "mesh": "default", "name": name, **said}


def dataplane(name: str, protocol: str, **labels: str) -> Json:
    """Return a machine with a way to both services."""
    outbound = [
        {"port": HTTP, "backendRef": {"kind": "MeshService", "labels": called("reports"), "port": 8080}},
        {"port": TCP, "backendRef": {"kind": "MeshService", "labels": called("ledger"), "port": 5432}},
    ]
    port = 8080 if protocol == "http" else 5432
    inbound = {"port": port, "name": "main", "tags": {"kuma.io/service": name, "kuma.io/protocol": protocol}}
    return document(
        "Dataplane",
        name,
        labels={"kuma.io/workload": name, **labels},
        networking={"address": "10.0.0.1", "inbound": [inbound], "outbound": outbound},
    )


def called(name: str) -> Json:
    """Return what means a service by its name."""
    return {"kuma.io/display-name": name}


def service(name: str, port: int, protocol: str) -> Json:
    """Return the MeshService of the machines of one workload."""
    ports = [{"port": port, "targetPort": port, "appProtocol": protocol}]
    spec = {"selector": {"dataplaneLabels": {"matchLabels": {"kuma.io/workload": name}}}, "ports": ports}
    return document("MeshService", name, spec=spec)


def permission(name: str, *, of: str | None = None, **default: list[Json]) -> Json:
    """Return a MeshTrafficPermission by SPIFFE IDs for the proxies of the workload *of*, or for all."""
    top = {"kind": "Mesh"} if of is None else {"kind": "Dataplane", "labels": {"kuma.io/workload": of}}
    return document("MeshTrafficPermission", name, spec={"targetRef": top, "rules": [{"default": default}]})


def exact(workload: str) -> Json:
    """Return a match of one workload's identity."""
    return {"spiffeID": {"type": "Exact", "value": f"spiffe://{DOMAIN}/workload/{workload}"}}


def prefix(path: str) -> Json:
    """Return a match of every identity below *path*."""
    return {"spiffeID": {"type": "Prefix", "value": f"spiffe://{DOMAIN}{path}"}}


class Scene:
    """One mesh with two services and two callers, and who reaches whom."""

    def __init__(self, standin: StandIn, machines: Machines) -> None:
        self.standin = standin
        self.machines = machines

    def call(self, caller: str, port: int, path: str = "/") -> Call:
        """Call through *caller*."""
        return self.machines.call(caller, port, is_http=port != TCP, path=path)

    def told(self, caller: str, port: int, path: str = "/") -> Call:
        """Return what a call through *caller* is told, once no connection is in the way that is just being closed."""
        found: list[Call] = []

        def told() -> bool:
            # Envoy closes what is left of a replaced listener, and says 503 to whoever was on its way just then.
            found[:] = [self.call(caller, port, path)]
            return not found[0].detail.startswith("503")

        self.until(told, f"an answer to {caller}")
        return found[0]

    def seen(self) -> dict[str, str]:
        """Return the outcome of every pair."""
        found = {}
        for caller in ("scheduler", "worker"):
            for port, name in ((HTTP, "reports"), (TCP, "ledger")):
                found[f"{caller}>{name}"] = self.call(caller, port).outcome.value
        return found

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for what a written policy must bring about."""
        wait_until(holds, within=PATIENCE, what=what, every=timedelta(milliseconds=200))

    def becomes(self, expected: dict[str, str]) -> None:
        """Wait until every pair is as *expected*."""
        self.until(lambda: self.seen() == expected, f"{expected}, not {self.seen()}")


def by_identity(standin: StandIn) -> None:
    """Give everybody an identity by its workload label."""
    root = new_root("root", DOMAIN, SystemClock().now(), by_rsa=False)
    standin.keep_secret("cert", root.certificate_pem)
    standin.keep_secret("key", root.key_pem)
    ca = {
        part: {"type": "Secret", "secretRef": {"kind": "Secret", "name": name}}
        for part, name in (("certificate", "cert"), ("privateKey", "key"))
    }
    bundled = {"meshTrustCreation": "Enabled", "insecureAllowSelfSigned": True, "ca": ca}
    spec = {
        "selector": {"dataplane": {"matchLabels": {}}},
        "spiffeID": {"trustDomain": DOMAIN},
        "provider": {"type": "Bundled", "bundled": bundled},
    }
    standin.apply(document("MeshIdentity", "everybody", spec=spec))


@pytest.fixture
def started(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Give a mesh of the version that the test asks for, with mutual TLS and no permission."""
    version = getattr(request, "param", "3.0.1")
    with StandIn(version=version, real_time=True, timings=TIMINGS, local_is_admin=True) as standin:
        standin.edit_mesh(meshServices={"mode": "Exclusive"})
        if version.startswith("2"):
            standin.edit_mesh(mtls={"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "builtin"}]})
        else:
            by_identity(standin)
        standin.apply(service("reports", 8080, "http"))
        standin.apply(service("ledger", 5432, "tcp"))
        standin.apply(service("worker", 8080, "http"))
        proxies = [
            dataplane("reports", "http"),
            dataplane("ledger", "tcp"),
            dataplane("scheduler", "http", team="platform"),
            dataplane("worker", "http", team="sales"),
        ]
        with Machines(standin.url, tmp_path, proxies) as machines:
            machines.start()
            yield Scene(standin, machines)


def intended(scene: Scene, name: str) -> set[str]:
    """Return the identities that the control plane wants *name* to let in."""
    url = f"{scene.standin.url}/meshes/default/dataplanes/{name}/_config"
    xds = json.loads(urllib3.request("GET", url, timeout=10).data)["xds"]
    return let_in(xds["type.googleapis.com/envoy.config.listener.v3.Listener"])


def running(scene: Scene, name: str) -> set[str]:
    """Return the identities that the Envoy of *name* lets in, by its own dump."""
    return let_in(scene.machines.proxies[name].config_dump())


def let_in(config: Json) -> set[str]:
    """Return every name that access control in *config* looks for."""
    return set(re.findall(r'"principal_name": ?\{"(?:exact|prefix)": ?"([^"]+)"', json.dumps(config)))


NOBODY = {
    "scheduler>reports": "refused",
    "scheduler>ledger": "refused",
    "worker>reports": "refused",
    "worker>ledger": "refused",
}


def test_identities_are_let_in_by_rules_and_by_nothing_else(started: Scene) -> None:
    """Nobody without a permission; those of a rule with one; whoever is denied not even then."""
    started.becomes(NOBODY)
    assert Call(outcome=Outcome.REFUSED, detail="403 RBAC: access denied") == started.told("worker", HTTP)
    started.standin.apply(permission("a", of="reports", allow=[exact("worker")]))
    started.standin.apply(permission("b", of="ledger", allow=[exact("scheduler"), exact("worker")]))
    started.becomes(
        NOBODY | {"worker>reports": "answered", "worker>ledger": "answered", "scheduler>ledger": "answered"}
    )
    assert Call(outcome=Outcome.ANSWERED, answered_by="ledger") == started.call("worker", TCP)
    started.standin.apply(permission("c", deny=[exact("worker")]))
    started.becomes(NOBODY | {"scheduler>ledger": "answered"})
    # A prefix ends at a slash: it does not mean whoever is called alike.
    started.standin.delete("MeshTrafficPermission", "c")
    started.standin.apply(permission("a", of="reports", allow=[prefix("/workload/sched")]))
    started.standin.apply(permission("b", of="ledger", allow=[prefix("/workload")]))
    started.becomes(NOBODY | {"scheduler>ledger": "answered", "worker>ledger": "answered"})
    # Refused by its older configuration too, so that alone does not show that it runs this one.
    started.until(lambda: running(started, "reports") == intended(started, "reports"), "the intended configuration")

    def refused() -> list[Json]:
        log = started.machines.proxies["reports"].access_log.read_text(encoding="utf-8")
        found = [json.loads(line) for line in log.splitlines()]
        return [each for each in found if each["details"] == "rbac_access_denied_matched_policy[none]"]

    expected = {f"spiffe://{DOMAIN}/workload/{each}" for each in ("worker", "scheduler")}
    started.until(lambda: {each["peer"] for each in refused()} == expected, "both refused callers in the log")
    assert all(each["peer_serial"] for each in refused())


@pytest.mark.parametrize("started", ["2.14.3"], indirect=True)
def test_tags_are_let_in_by_from_and_the_narrower_policy_wins(started: Scene) -> None:
    """In a mesh with a CA of ``Mesh.mtls`` callers are told apart by their tags."""
    started.becomes(NOBODY)
    whole = {"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}
    worker = {"kind": "MeshSubset", "tags": {"kuma.io/service": "worker"}}
    started.standin.apply(document("MeshTrafficPermission", "all", spec={"from": [whole]}))
    started.becomes(dict.fromkeys(NOBODY, "answered"))
    narrow = [{**whole, "default": {"action": "Deny"}}, {"targetRef": worker, "default": {"action": "Allow"}}]
    top = {"kind": "MeshService", "name": "ledger"}
    started.standin.apply(document("MeshTrafficPermission", "ledger", spec={"targetRef": top, "from": narrow}))
    started.becomes(dict.fromkeys(NOBODY, "answered") | {"scheduler>ledger": "refused"})


def test_a_route_leads_elsewhere_for_whom_it_is_for(started: Scene) -> None:
    """Requests go where the caller's own route leads; without a rule that takes them 3.x answers 404."""
    everybody = {"spiffeID": {"type": "Prefix", "value": f"spiffe://{DOMAIN}/"}}
    started.standin.apply(permission("all", allow=[everybody]))
    started.becomes(dict.fromkeys(NOBODY, "answered"))
    away = {"kind": "MeshService", "labels": called("worker"), "port": 8080}
    default = {"backendRefs": [away]}
    rules = [{"matches": [{"path": {"type": "PathPrefix", "value": "/elsewhere"}}], "default": default}]
    to = [{"targetRef": {"kind": "MeshService", "labels": called("reports")}, "rules": rules}]
    top = {"kind": "Dataplane", "labels": {"team": "platform"}}
    started.standin.apply(document("MeshHTTPRoute", "away", spec={"targetRef": top, "to": to}))
    started.until(lambda: started.call("scheduler", HTTP, "/elsewhere/x").answered_by == "worker", "the route")
    assert "404" == started.told("scheduler", HTTP, "/").detail.split()[0]
    assert Call(outcome=Outcome.ANSWERED, answered_by="reports") == started.told("worker", HTTP, "/elsewhere")
    nowhere = {"kind": "MeshService", "labels": called("nobody"), "port": 8080}
    rules[0]["default"] = {"backendRefs": [nowhere]}
    started.standin.apply(document("MeshHTTPRoute", "away", spec={"targetRef": top, "to": to}))
    started.until(lambda: started.call("scheduler", HTTP, "/elsewhere").detail.startswith("500"), "an answer of 500")
    # Of connections the same: the ledger's callers of one team end at nobody, and are closed.
    default = {"backendRefs": [{**nowhere, "port": 5432}]}
    to = [{"targetRef": {"kind": "MeshService", "labels": called("ledger")}, "rules": [{"default": default}]}]
    started.standin.apply(document("MeshTCPRoute", "away", spec={"targetRef": top, "to": to}))
    started.until(lambda: started.call("scheduler", TCP).outcome is Outcome.REFUSED, "a closed connection")
    started.until(lambda: started.call("worker", TCP).answered_by == "ledger", "the other team's call to be answered")


def test_a_proxy_connects_with_its_token_and_keeps_its_stream_without(tmp_path: Path) -> None:
    """A token is looked at when a stream opens: a proxy with none is refused in words, one that is on stays on."""
    options: dict[str, Any] = {"version": "3.0.1", "real_time": True, "timings": TIMINGS}
    with StandIn(**options, authenticates_proxies=True) as standin:
        standin.edit_mesh()
        by_identity(standin)
        token = tmp_path / "ledger"
        token.write_text("", encoding="ascii")
        with Machines(standin.url, tmp_path / "machines", [dataplane("ledger", "tcp")], tokens=tmp_path) as machines:
            proxy = machines.proxies["ledger"]
            with pytest.raises(Unavailable):
                proxy.start(within=timedelta(seconds=1))
            assert "authentication failed: could not parse token" in proxy.refusal
            said = {"mesh": "default", "name": "ledger", "workload": "ledger", "validFor": "1h"}
            token.write_text(standin.tokens.issue("dataplane", said), encoding="ascii")
            machines.start()
            assert "" == proxy.refusal
            token.write_text("", encoding="ascii")
            before = machines.acknowledged()
            standin.apply(permission("all", allow=[exact("worker")]))
            machines.wait_for("the ledger to take a new configuration", holds=before)
            token.write_text(standin.tokens.issue("dataplane", said), encoding="ascii")
            machines.reconnect()
            assert "" == proxy.refusal
