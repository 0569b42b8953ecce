"""
Ten set-ups in which a call fails, each with real Envoys: the doctor names the link that is broken, and no other.

Rules that must stay true here:

- A set-up counts only if a real call failed in it, and the scene only if the same call is answered before and after.
- What the mesh is told is what rotator renders of the configuration that the doctor reads.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
import urllib3
import yaml

from rotator.cli import main
from rotator.clock import SystemClock
from rotator.doctor import CallReport, examine_call
from rotator.embedded.process import wait_until
from rotator.errors import RotatorError, Unavailable
from rotator.platform.call_verdict import Cause, Link, Mark
from rotator.platform.machines import dataplanes, local_ports
from rotator.platform.rendering import rendered
from rotator.platform.resources import universal
from rotator.platform.routes import SECTION, backend, front
from rotator.settings import load, platform_of
from tests.fakes.kuma.envoy_proxy import EnvoyProxy
from tests.fakes.kuma.machines import Call, Machines, Outcome
from tests.fakes.kuma.signing import new_root
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import Json
from tests.fakes.kuma.timings import Timings
from tests.settings.test_load import BASE

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.external, pytest.mark.timeout(600)]

PATIENCE = timedelta(seconds=60)
TRUST_DOMAIN, MESH = "mesh.prod", "default"
LOOK_AGAIN = timedelta(seconds=3)
"""Longer than this control plane takes to write an insight, which is a fifth of Kuma's ten seconds."""

CONFIGURATION = """
trust_domains:
  mesh.prod:
    issuer: corporate
    model: identity
    ca: {lifetime: 7d}
    longest_leaf: 24h
    trust_deadline: {after: 2h}
    mesh: {name: default, control_plane: {url: URL}}
platform:
  environments:
    production: {trust_domain: mesh.prod}
    staging: {trust_domain: mesh.prod}
  domains:
    finance: {owner: Finance Data}
  identities:
    finance:
      component: worker
      queue: finance
      domain: finance
      places:
        production: {machines: {addresses: [10.0.0.1]}}
        staging: {machines: {addresses: [10.0.0.2]}}
    killed: &one {component: worker, queue: killed, domain: finance, environments: [production],
      place: {machines: {addresses: [10.0.0.5]}}}
    expired: {<<: *one, queue: expired}
    revoked: {<<: *one, queue: revoked}
  services:
    ledger:
      protocol: tcp
      port: 8080
      domain: finance
      hostname: ledger.finance.internal
      places:
        production: {machines: {addresses: [10.0.0.3]}}
        staging: {machines: {addresses: [10.0.0.4]}}
    rates: {protocol: tcp, port: 8080, domain: finance, environments: [production],
      place: {machines: {addresses: [10.0.0.6]}}}
  permissions:
    finance-uses-its-own:
      callers: {domains: [finance]}
      may_call: {domains: [finance]}
      reason: its own books
tokens:
  expired: &token
    trust_domain: mesh.prod
    dataplane: {workload: expired-production}
    lifetime: 24h
    publish: [{directory: TOKENS/expired-production}]
  revoked:
    <<: *token
    dataplane: {workload: revoked-production}
    publish: [{directory: TOKENS/revoked-production}]
airflow:
  main: {url: AIRFLOW, username: rotator, password_file: /etc/rotator/airflow-password}
workloads:
  airflow-workers:
    airflow: main
    processes:
      - name: worker-1
        command: [/opt/airflow/bin/airflow, celery, worker]
        pid_file: /run/worker-1.pid
        log_file: /run/worker-1.log
        node: celery@worker-1
        queues: [finance]
        environment: {AIRFLOW_CONN_LEDGER: CONNECTION}
    drain: {celery: {broker_file: /etc/broker, deadline: 10m}}
"""
# Nobody listens there: how Airflow is cannot be seen, which is said and breaks nothing.
NO_AIRFLOW = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Pair:
    """Who calls what, in production."""

    caller: str
    service: str


USUAL = Pair("finance", "ledger")
PAIRS = (USUAL, *(Pair(name, "ledger") for name in ("killed", "expired", "revoked")), Pair("finance", "rates"))


class Scene:
    """
    Two environments in one mesh, in each of which a queue calls a service: real Envoys and a control plane.

    What a set-up takes away for good (a proxy, an application) is nobody else's: there is one for each of them.
    """

    def __init__(self, work: Path, version: str) -> None:
        """Describe it; `__enter__` starts it."""
        self.clock = SystemClock()
        self.work = work
        self.standin = StandIn(
            version=version,
            real_time=True,
            timings=Timings.quick(),
            local_is_admin=True,
            authenticates_proxies=True,
        )
        self._undo = ExitStack()
        self._versions = itertools.count()

    def __enter__(self) -> Self:
        with ExitStack() as started:
            self._start(started)
            self._undo = started.pop_all()
        return self

    def _start(self, started: ExitStack) -> None:
        started.enter_context(self.standin)
        self.configuration = self.work / "rotator.yaml"
        self.configure("127.0.0.1:1")
        platform = platform_of(load(self.configuration))
        assert platform is not None
        self.platform = platform
        self.standin.edit_mesh(MESH, meshServices={"mode": "Exclusive"})
        self.root = new_root("mesh", TRUST_DOMAIN, self.clock.now(), by_rsa=False)
        self.identity("everybody", {}, TRUST_DOMAIN)
        self.documents = [universal(each) for each in rendered(platform, platform.environments[0].trust_domain)]
        for each in self.documents:
            self.standin.apply(each)
        found = [universal(one) for each in platform.environments for one in dataplanes(platform, each)]
        proxies = {each["name"]: each for each in found}
        self.names = {each["labels"]["kuma.io/workload"]: name for name, each in proxies.items()}
        for workload, name in self.names.items():
            self.give_token(name, workload, "1h")
        self.machines = started.enter_context(
            Machines(self.standin.url, self.work / "proxies", proxies.values(), tokens=self.work / "tokens-of")
        )
        self.machines.start()
        self.ports = local_ports(platform)
        self.configure(f"{self.proxy('finance').ports.address}:{self.ports['ledger']}")
        for pair in PAIRS:
            self.wait_answered(pair)

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def proxy(self, who: str) -> EnvoyProxy:
        """Return the proxy of *who* in production."""
        return self.machines.proxies[self.names[f"{who}-production"]]

    # --- the world --------------------------------------------------------------------------------------------------

    def configure(self, connection: str) -> None:
        """Write the configuration, with the *connection* by which Airflow's tasks call the service."""
        said = CONFIGURATION.replace("URL", self.standin.url, 1).replace("TOKENS", str(self.work / "tokens"))
        said = said.replace("AIRFLOW,", f"{NO_AIRFLOW},").replace("CONNECTION", f"http://{connection}")
        document: Json = yaml.safe_load(BASE)
        for key, part in yaml.safe_load(said).items():
            document[key] = {**document.get(key, {}), **part}
        document["certificates"]["worker"]["rolls"].append("airflow-workers")
        self.configuration.write_text(yaml.safe_dump(document, sort_keys=False))

    def identity(self, name: str, labels: Json, trust_domain: str, **parameters: str) -> None:
        """Let the proxies with *labels* be named by *trust_domain*, by the mesh's CA."""
        for part, content in (("cert", self.root.certificate_pem), ("key", self.root.key_pem)):
            self.standin.keep_secret(f"{name}-{part}", content, mesh=MESH)
        ca = {
            part: {"type": "Secret", "secretRef": {"kind": "Secret", "name": f"{name}-{what}"}}
            for part, what in (("certificate", "cert"), ("privateKey", "key"))
        }
        bundled: Json = {"insecureAllowSelfSigned": True, "ca": ca}
        if parameters:
            bundled["certificateParameters"] = parameters
        self.standin.apply(
            {
                "type": "MeshIdentity",
                "mesh": MESH,
                "name": name,
                "spec": {
                    "selector": {"dataplane": {"matchLabels": labels}},
                    "spiffeID": {"trustDomain": trust_domain},
                    "provider": {"type": "Bundled", "bundled": bundled},
                },
            }
        )

    def give_token(self, name: str, workload: str, valid_for: str) -> str:
        """Let the proxy *name* have a new token, where rotator would publish the caller's; return its id."""
        body = {"mesh": MESH, "workload": workload, "validFor": valid_for}
        issued = _asked("POST", f"{self.standin.url}/tokens/dataplane", body)
        published = self.work / "tokens" / workload
        place = published / f"publication-{next(self._versions)}"
        place.mkdir(parents=True)
        (place / "token").write_bytes(issued)
        fresh = published / ".CURRENT"
        fresh.symlink_to(place.name)
        fresh.replace(published / "CURRENT")
        of_proxy = self.work / "tokens-of" / name
        of_proxy.parent.mkdir(exist_ok=True)
        if not of_proxy.is_symlink():
            of_proxy.symlink_to(os.path.relpath(published / "CURRENT" / "token", of_proxy.parent))
        claims = issued.split(b".")[1]
        jti: str = json.loads(base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4)))["jti"]
        return jti

    def document(self, kind: str) -> Json:
        """Return what rotator has rendered of *kind* for production's ledger."""
        return next(
            each
            for each in self.documents
            if each["type"] == kind and all(part in each["name"] for part in ("production", "ledger"))
        )

    # --- calls ------------------------------------------------------------------------------------------------------

    def call(self, pair: Pair = USUAL) -> Call:
        """Call as a task of the caller would."""
        name = self.names[f"{pair.caller}-production"]
        return self.machines.call(name, self.ports[pair.service], is_http=False)

    def is_answered(self, pair: Pair = USUAL) -> bool:
        """Return whether the call reaches whom it is for."""
        found = self.call(pair)
        return found.outcome is Outcome.ANSWERED and found.answered_by == self.names[f"{pair.service}-production"]

    def wait_answered(self, pair: Pair = USUAL) -> None:
        """Wait until the destination of the caller's environment answers."""
        what = f"{pair} to be answered"
        wait_until(lambda: self.is_answered(pair), within=PATIENCE, what=what, every=timedelta(seconds=0.3))

    def wait_failing(self, pair: Pair = USUAL) -> None:
        """Wait until the call is not answered by whom it is for."""
        what = f"{pair} to fail"
        wait_until(lambda: not self.is_answered(pair), within=PATIENCE, what=what, every=timedelta(seconds=0.3))

    def examine(self, pair: Pair = USUAL) -> CallReport:
        """Return what the doctor says of the call."""
        return examine_call(
            load(self.configuration),
            caller=f"production/{pair.caller}",
            destination=f"production/{pair.service}",
            clock=self.clock,
            look_again=LOOK_AGAIN,
        )

    def settled(self, pair: Pair, broken: list[Link]) -> CallReport:
        """
        Return what the doctor says once that is *broken* and nothing else, or at last.

        The control plane counts acknowledgements a moment after the proxies have answered.
        """
        reports: list[CallReport] = []

        def is_so() -> bool:
            reports.append(self.examine(pair))
            return broken_links(reports[-1]) == broken

        with contextlib.suppress(Unavailable):
            wait_until(is_so, within=PATIENCE, what="the doctor's verdict", every=timedelta(seconds=0.5))
        return reports[-1]

    def wait_seen(self, holds: Callable[[Json], bool], of: str, what: str) -> None:
        """Wait until the control plane shows of the proxy in front of *of* what *holds*."""

        def seen() -> bool:
            path = f"{self.standin.url}/meshes/{MESH}/dataplanes/{self.names[f'{of}-production']}/_overview"
            return holds(json.loads(_asked("GET", path))["dataplaneInsight"])

        wait_until(seen, within=PATIENCE, what=what, every=timedelta(seconds=0.5))


# --- set-ups ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def missing_permission(scene: Scene) -> Iterator[None]:
    """Somebody has deleted the destination's permission."""
    permission = scene.document("MeshTrafficPermission")
    scene.standin.delete("MeshTrafficPermission", permission["name"], mesh=MESH)
    try:
        yield
    finally:
        scene.standin.apply(permission)


@contextlib.contextmanager
def policy_not_synchronised(scene: Scene) -> Iterator[None]:
    """The destination's proxy takes no configuration any more, and the permission came after that."""
    permission, proxy = scene.document("MeshTrafficPermission"), scene.proxy("ledger")
    try:
        scene.standin.delete("MeshTrafficPermission", permission["name"], mesh=MESH)
        scene.wait_failing()
        proxy.is_frozen = True
        scene.standin.apply(permission)
        scene.wait_seen(_is_behind, "ledger", "a configuration to be unanswered")
        yield
    finally:
        proxy.is_frozen = False
        scene.standin.apply(permission)


@contextlib.contextmanager
def wrong_environment(scene: Scene) -> Iterator[None]:
    """Somebody's route leads production's callers to staging."""
    production, staging = (scene.platform.service(f"{each}/ledger") for each in ("production", "staging"))
    assert production is not None
    assert staging is not None
    target = {key: said for key, said in front(production).items() if key != "port"}
    rules = [{"default": {"backendRefs": [dict(backend(staging))]}}]
    spec = {
        "targetRef": scene.document("MeshTCPRoute")["spec"]["targetRef"],
        "to": [{"targetRef": {**target, "sectionName": SECTION}, "rules": rules}],
    }
    scene.standin.apply({"type": "MeshTCPRoute", "mesh": MESH, "name": "a-shortcut", "spec": spec})
    try:
        yield
    finally:
        scene.standin.delete("MeshTCPRoute", "a-shortcut", mesh=MESH)


@contextlib.contextmanager
def wrong_trust_domain(scene: Scene) -> Iterator[None]:
    """Another MeshIdentity names the caller by a trust domain that nobody configured."""
    scene.identity("a-other", {"kuma.io/workload": "finance-production"}, "other.prod")
    is_other = _certified(lambda insight: "a-other" in insight["mTLS"]["issuedBackend"])
    try:
        scene.wait_seen(is_other, "finance", "the other identity")
        yield
    finally:
        scene.standin.delete("MeshIdentity", "a-other", mesh=MESH)


@contextlib.contextmanager
def expired_leaf(scene: Scene) -> Iterator[None]:
    """The caller's leaf is short, and its control plane issues it no other."""
    name = scene.names["finance-production"]
    scene.identity("a-short", {"kuma.io/workload": "finance-production"}, TRUST_DOMAIN, expiry="15s")
    is_short = _certified(lambda insight: _lasts(insight) < timedelta(minutes=1))
    has_ended = _certified(lambda insight: _ends(insight) < scene.clock.now())
    try:
        scene.wait_seen(is_short, "finance", "a short leaf")
        scene.standin.plane.stuck.add(name)
        scene.wait_seen(has_ended, "finance", "the leaf to end")
        yield
    finally:
        scene.standin.plane.stuck.discard(name)
        scene.standin.delete("MeshIdentity", "a-short", mesh=MESH)


@contextlib.contextmanager
def proxy_disconnected(scene: Scene) -> Iterator[None]:
    """The caller's proxy is gone as by a crash, for good."""
    scene.proxy("killed").kill()
    scene.wait_seen(_is_away, "killed", "the proxy to be away")
    yield


@contextlib.contextmanager
def expired_token(scene: Scene) -> Iterator[None]:
    """The caller's token has ended, and its proxy was restarted."""
    scene.give_token(scene.names["expired-production"], "expired-production", "1ms")
    _let_in_no_more(scene, "expired", "expired")
    yield


@contextlib.contextmanager
def revoked_token(scene: Scene) -> Iterator[None]:
    """The caller's token is revoked, and its proxy was restarted."""
    jti = scene.give_token(scene.names["revoked-production"], "revoked-production", "1h")
    data = base64.b64encode(f"{jti}\n".encode()).decode()
    scene.standin.apply({"type": "GlobalSecret", "name": f"dataplane-token-revocations-{MESH}", "data": data})
    _let_in_no_more(scene, "revoked", "revoked")
    yield


def _let_in_no_more(scene: Scene, who: str, why: str) -> None:
    """Restart the proxy of *who* until its control plane refuses it, saying *why*."""
    proxy = scene.proxy(who)
    proxy.kill()

    def refused() -> bool:
        with contextlib.suppress(RotatorError, TimeoutError, AssertionError):
            proxy.start(within=timedelta(seconds=1))
        # It runs if its token has not ended yet; if not, its connections end here.
        proxy.kill()
        return why in proxy.refusal

    wait_until(refused, within=PATIENCE, what=f"the control plane to refuse {who}")
    scene.wait_seen(_is_away, who, "the proxy to be away")


@contextlib.contextmanager
def destination_down(scene: Scene) -> Iterator[None]:
    """The application behind the destination's proxy has stopped, for good."""
    scene.proxy("rates").stop_workload()
    yield


def _asked(method: str, url: str, body: Json | None = None) -> bytes:
    """Return one answer, over a connection that is not kept: it would keep a thread of the control plane."""
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=30)) as http:
        answer = http.request(method, url, json=body) if body is not None else http.request(method, url)
        assert 200 == answer.status, answer.data
        return answer.data


def _certified(holds: Callable[[Json], bool]) -> Callable[[Json], bool]:
    """Return *holds* for a proxy that has a certificate: between two identities it has none."""
    return lambda insight: "mTLS" in insight and holds(insight)


def _is_away(insight: Json) -> bool:
    return all("disconnectTime" in each for each in insight["subscriptions"])


def _is_behind(insight: Json) -> bool:
    total = insight["subscriptions"][-1]["status"]["total"]
    return int(total.get("responsesSent", 0)) > int(total.get("responsesAcknowledged", 0))


def _lasts(insight: Json) -> timedelta:
    return _ends(insight) - datetime.fromisoformat(insight["mTLS"]["lastCertificateRegeneration"])


def _ends(insight: Json) -> datetime:
    return datetime.fromisoformat(insight["mTLS"]["certificateExpirationTime"])


SetUp = Callable[[Scene], AbstractContextManager[None]]
SET_UPS: list[tuple[SetUp, Pair, Link, Cause]] = [
    (missing_permission, USUAL, Link.PERMISSION, Cause.MISSING_PERMISSION),
    (policy_not_synchronised, USUAL, Link.SIDECAR, Cause.NOT_ACKNOWLEDGED),
    (wrong_environment, USUAL, Link.ROUTE, Cause.WRONG_ENVIRONMENT),
    (wrong_trust_domain, USUAL, Link.IDENTITY, Cause.WRONG_TRUST_DOMAIN),
    (expired_leaf, USUAL, Link.IDENTITY, Cause.LEAF_EXPIRED),
    (proxy_disconnected, Pair("killed", "ledger"), Link.SIDECAR, Cause.PROXY_OFFLINE),
    (expired_token, Pair("expired", "ledger"), Link.IDENTITY, Cause.TOKEN_EXPIRED),
    (revoked_token, Pair("revoked", "ledger"), Link.IDENTITY, Cause.TOKEN_REVOKED),
    (destination_down, Pair("finance", "rates"), Link.DESTINATION, Cause.APPLICATION_DOWN),
]
FOR_GOOD = (proxy_disconnected, expired_token, revoked_token, destination_down)


@pytest.fixture(scope="module", params=["2.14.3", "3.0.1"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Give a scene at rest on the newest of each line of Kuma's."""
    with Scene(tmp_path_factory.mktemp("calls"), request.param) as found:
        yield found


def broken_links(report: CallReport) -> list[Link]:
    """Return every link that the doctor calls broken."""
    return [each.link for each in report.verdict.links if each.mark is Mark.BROKEN]


def said(report: CallReport) -> str:
    """Return everything that the doctor saw, to see why it said what it said."""
    return "\n".join(f"{each.link} {point.mark} {point.what}" for each in report.verdict.links for point in each.points)


def command(scene: Scene, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Return exit code and document of the command, as a person would ask."""
    arguments = ["--config", str(scene.configuration), "--json", "doctor", "--from", "production/finance", *words]
    code = main(arguments)
    return code, json.loads(capsys.readouterr().out)


def test_a_call_that_is_answered_breaks_nowhere(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the call is answered nothing is broken, and the command ends with 0."""
    scene.wait_answered()
    scene.settled(USUAL, [])

    code, document = command(scene, capsys, "--to", "ledger.finance.internal")

    assert (0, None) == (code, document["broken_link"]), document
    states = {each["link"]: each["state"] for each in document["links"]}
    # How Airflow is cannot be seen: nobody listens there.
    assert {**dict.fromkeys(map(str, Link), "good"), "airflow": "not_seen"} == states


@pytest.mark.parametrize(("set_up", "pair", "link", "cause"), SET_UPS, ids=[each[0].__name__ for each in SET_UPS])
def test_the_broken_link_is_named_and_no_other(
    scene: Scene, set_up: SetUp, pair: Pair, link: Link, cause: Cause
) -> None:
    """A call fails that was answered; the doctor names link, cause and mend; once mended, it is answered again."""
    scene.wait_answered(pair)
    with set_up(scene):
        scene.wait_failing(pair)
        report = scene.settled(pair, [link])
        still_failing = not scene.is_answered(pair)
    assert still_failing
    assert [link] == broken_links(report), said(report)
    assert report.verdict.point is not None
    assert cause is report.verdict.point.cause, said(report)
    assert report.verdict.point.mend
    if set_up not in FOR_GOOD:
        scene.wait_answered(pair)
        assert scene.settled(pair, []).verdict.broken is None


def test_a_hostname_of_nobody_is_airflows_own_break(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """A connection with a name that does not resolve breaks at Airflow, every link before it being good."""
    scene.wait_answered()
    scene.settled(USUAL, [])
    right = scene.configuration.read_text()
    scene.configure("ledger.finance.invalid:8080")
    assert isinstance(_resolved("ledger.finance.invalid"), OSError)
    code, document = command(scene, capsys, "--to", "production/ledger")
    scene.configuration.write_text(right)
    assert (1, "airflow", "wrong_hostname") == (code, document["broken_link"], document["cause"]), document
    assert {"good"} == {each["state"] for each in document["links"] if each["link"] != "airflow"}
    assert 1 == document["broken"]
    assert "ledger.finance.internal:8080" in document["mend"]

    code, document = command(scene, capsys, "--to", "ledger.finance.invalid")
    assert (1, "airflow") == (code, document["broken_link"])


def test_nobody_of_staging_reaches_production(scene: Scene) -> None:
    """A caller of another environment is refused by permission, and the mend offers none."""
    report = examine_call(
        load(scene.configuration), caller="staging/finance", destination="production/ledger", clock=scene.clock
    )

    assert report.verdict.point is not None
    assert Cause.MISSING_PERMISSION is report.verdict.point.cause, said(report)
    assert "own environment" in report.verdict.point.mend


def _resolved(name: str) -> object:
    try:
        return socket.getaddrinfo(name, 8080)
    except OSError as e:
        return e
