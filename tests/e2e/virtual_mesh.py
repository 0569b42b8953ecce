"""
The stage of mesh scenarios in virtual time: rotator's engine and Kuma adapters, the stand-in's HTTP API, no Envoys.

Rules that must stay true here:

- The same scenarios as under load (`tests.stack.kuma.scenarios`); only what can be seen differs: after every second
  every pair of proxies is judged, by the certificates that both of them hold.
- What rotator knows of the mesh it has read over HTTP, as in production.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import urllib3

from rotator.adapters.kuma.api import Endpoint
from rotator.adapters.kuma.control_plane import ControlPlane
from rotator.adapters.kuma.identity import IdentityMesh
from rotator.adapters.kuma.provided import ProvidedMesh
from rotator.adapters.kuma.universal import connect
from rotator.control import AdoptRequest, Person, RollbackRequest, RotateRequest
from rotator.core.model import IssuerId, Phase, SubjectName, TrustDomainName
from rotator.desk import Desk
from rotator.engine.targets import DomainTarget
from rotator.ports import RotationState
from tests.engine.world import MESH, World
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.virtual import Meeting
from tests.stack.kuma.beginnings import begin
from tests.stack.kuma.plane import Beginning, Json, Model

ALICE = Person(uid=0, name="alice", groups=frozenset())
SUBJECT = SubjectName(MESH)
LEAF = timedelta(minutes=10)
PATIENCE = timedelta(hours=2)
_PHASES = list(Phase)


class VirtualStage(World):
    """A mesh in virtual time and rotator's engine. Implements `tests.stack.kuma.scenarios.Stage`."""

    def __init__(
        self,
        directory: Path,
        model: Model,
        version: str,
        *,
        beginning: Beginning = Beginning.PLAIN,
        proxies: int = 5,
        zones: tuple[str, ...] = (),
    ) -> None:
        """Describe it; entering starts it."""
        self.model = model
        self.version = version
        self.zones = zones
        self.judged = 0
        self.failed: list[str] = []
        self._is_judged = False
        self._spared: str | None = None
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(10))
        super().__init__(directory, certificates=0, leaf_lifetime=LEAF)
        # Long enough to be walked back in, and no longer: every second of it is judged.
        self.authority_policy = replace(
            self.authority_policy, minimum_overlap=timedelta(seconds=15), trust_deadline=timedelta(minutes=1)
        )
        self.restart()
        begin(_Plane(self), model, beginning, leaf="10m", now=self.clock.now())
        for number in range(proxies):
            self.standin.add_proxy(f"service-{number}", mesh=self.mesh, zone=self._zone(number))
        # What a control plane makes of a MeshIdentity by itself is there after five seconds, and is told after ten.
        self.run(span=timedelta(seconds=15))

    def _zone(self, number: int) -> str | None:
        return self.zones[number % len(self.zones)] if self.zones else None

    @cached_property
    def standin(self) -> StandIn:
        """Return the stand-in, started at its first use."""
        mode = "global" if self.zones else "zone"
        standin = StandIn(clock=self.clock, version=self.version, mode=mode, zones=self.zones, local_is_admin=True)
        standin.up()
        return standin

    @cached_property
    def _root(self) -> FakeCA:
        """Return the mesh's own root."""
        now = self.clock.now()
        return FakeCA("mesh root", MESH, now - timedelta(days=1), now + timedelta(days=3650), path_length=1)

    @cached_property
    def _adapter(self) -> ProvidedMesh | IdentityMesh:
        kind = ProvidedMesh if self.model is Model.PROVIDED else IdentityMesh
        signer = self.vault.signer(MESH, self._root)
        return kind(self._plane, signer, self.clock, MESH, LEAF, self.authority_policy.skew)

    @cached_property
    def _control_plane(self) -> ControlPlane:
        return connect(Endpoint(url=self.standin.url), self.mesh)

    def _plane(self) -> ControlPlane:
        return self._control_plane

    def domains(self) -> dict[TrustDomainName, DomainTarget]:
        """Return the mesh."""
        target = DomainTarget(
            name=MESH,
            policy=self.authority_policy,
            issuer=None,
            authorities=self._adapter,
            parent=self._adapter,
            mesh=self._adapter,
            crl_interval=self.crl_interval,
            issuer_label="mesh root",
        )
        return {MESH: target}

    def settle(self) -> None:
        """Let everybody follow, and judge every pair."""
        self.standin.catch_up()
        if not self._is_judged:
            return
        for pair, found in self.standin.encounters().items():
            if self._spared not in pair:
                self.judged += 1
                if found.meeting is not Meeting.MTLS:
                    why = found.reason or found.meeting.value
                    self.failed.append(f"{self.clock.now():%H:%M:%S} {'>'.join(pair)}: {why}")

    def close(self) -> None:
        """Stop it."""
        self.standin.down()
        self._http.clear()
        super().close()

    # --- seeing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def unharmed(self, what: str) -> Iterator[None]:
        """Judge every pair at every second inside the block."""
        before, self._is_judged = len(self.failed), True
        yield
        self.run(span=timedelta(seconds=5))
        self._is_judged = False
        found = self.failed[before:]
        assert found == [], f"{what}: {len(found)} refused: {found[:5]}"

    def active(self) -> IssuerId:
        """Return the one authority that signed every proxy's leaf."""
        self.run(span=timedelta(seconds=5))
        served = {name: proxy.leaf_issuer for name, proxy in self.standin.proxies.items() if proxy.runs is not None}
        signers = set(served.values())
        assert len(signers) == 1, f"not one signer: {served}"
        signer = signers.pop()
        assert signer is not None, f"no proxy serves a leaf: {served}"
        return signer

    @property
    def desk(self) -> Desk:
        """Return the desk of the present engine."""
        return Desk(self.engine, ledger=dict, requests=self.store)

    def row(self) -> Mapping[str, Any]:
        """Return the mesh's row of ``status``."""
        rows: list[Mapping[str, Any]] = self.desk.status()["subjects"]
        return next(each for each in rows if each["name"] == MESH)

    def at(self, phase: Phase) -> None:
        """Wait until the open rotation has come to *phase* or past it."""
        wanted = _PHASES.index(phase)

        def there() -> bool:
            row = self.row()
            return row["open_rotation"] is None or _PHASES.index(Phase(row["phase"])) >= wanted

        # A sweep first: what was asked for has not been looked at yet.
        self.run(span=timedelta(seconds=1))
        self._until(there)

    def named(self, name: str) -> None:
        """Wait until ``status`` names *name*."""
        self._until(lambda: name in str(self.row()["waiting_on"]) or name in str(self.row().get("why")))

    def alerted(self, name: str) -> None:
        """Wait until an alert names *name*."""
        self._until(lambda: any(name in each["summary"] for each in self.desk.status()["alerts"]))

    def _until(self, holds: Callable[[], bool]) -> None:
        self.run(until=holds, span=PATIENCE)

    # --- rotating ---------------------------------------------------------------------------------------------------

    def adopt(self) -> Mapping[str, Any]:
        """Take the mesh over, whatever it interrupts; return the plan."""
        request = AdoptRequest(subject=SUBJECT, reason="begin", accept_interruption="nobody calls anybody yet")
        answer = self.desk.adopt(request, ALICE)
        assert answer["refused"] == [], answer
        self._until(lambda: self._ended(str(answer["rotations"][0]["id"])) is not None)
        # A mesh that spoke plaintext goes on with it, pair by pair, until the control plane knows both sides ready.
        self._until(lambda: not self.standin.failures())
        return answer

    def rotate(self) -> str:
        """Ask for a CA rotation."""
        answer = self.desk.rotate(RotateRequest(subjects=(SUBJECT,), reason="now"), ALICE)
        assert answer["refused"] == [], answer
        return str(answer["rotations"][0]["id"])

    def roll_back(self) -> None:
        """Ask for the open rotation to be walked back."""
        assert self.desk.rollback(RollbackRequest(subject=SUBJECT, reason="back"), ALICE)["refused"] == []

    def _ended(self, rotation: str) -> RotationState | None:
        found = next(each for each in self.rotations() if each.id == rotation)
        return None if found.state is RotationState.OPEN else found.state

    def moved(self, rotation: str, before: IssuerId) -> IssuerId:
        """Wait until *rotation* is done."""
        self._until(lambda: self._ended(rotation) is not None)
        assert RotationState.DONE is self._ended(rotation), self.row()
        after = self.active()
        assert after != before, "every proxy still serves a leaf of the old generation"
        return after

    def rolled_back(self, rotation: str, before: IssuerId) -> None:
        """Wait until *rotation* has been walked back."""
        self._until(lambda: self._ended(rotation) is not None)
        assert RotationState.ROLLED_BACK is self._ended(rotation), self.row()
        assert before == self.active()

    # --- disturbing -------------------------------------------------------------------------------------------------

    def join(self, name: str) -> None:
        """Start a proxy; it is judged once it has been given something."""
        if name in self.standin.proxies:
            self.standin.start_proxy(name)
        else:
            self.standin.add_proxy(name, mesh=self.mesh, zone=self._zone(0))
        self._spared = name
        # Kuma speaks plaintext to a proxy until it has been told that the proxy has a certificate.
        self._until(lambda: self._is_reached(name))
        self._spared = None

    def _is_reached(self, name: str) -> bool:
        """Return whether *name* and every other proxy speak mutual TLS with each other."""
        pairs = [pair for pair in self.standin.encounters() if name in pair]
        return bool(pairs) and not any(pair in self.standin.failures() for pair in pairs)

    def leave(self, name: str) -> None:
        """Stop a proxy."""
        self.standin.stop_proxy(name)

    def freeze(self, name: str) -> None:
        """Let a proxy acknowledge nothing."""
        self.standin.proxies[name].is_frozen = True

    def thaw(self, name: str) -> None:
        """Let it acknowledge again."""
        self.standin.proxies[name].is_frozen = False

    def spare(self, name: str | None) -> None:
        """Judge no pair with *name*."""
        self._spared = name

    # --- breaking ---------------------------------------------------------------------------------------------------

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        return str(MESH)

    def restart_control_plane(self) -> None:
        """Kill the control plane and start it anew."""
        self.standin.restart()

    def kill_daemon(self) -> None:
        """Start a fresh engine over the same world."""
        self.restart()

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the HTTP API as somebody else."""
        answer = self._http.request(
            method, self.standin.url + path, body=None if body is None else json.dumps(body).encode()
        )
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.data[:500]!r}"
        found: Json = json.loads(answer.data) if answer.data else {}
        return found


@dataclass(frozen=True, slots=True)
class _Plane:
    """The control plane alone (`tests.stack.kuma.plane.ControlPlaneUnderTest`)."""

    stage: VirtualStage

    @property
    def product(self) -> str:
        """Return what it is."""
        return f"virtual stand-in for Kuma {self.stage.version}"

    @property
    def url(self) -> str:
        """Return its HTTP API."""
        return self.stage.standin.url

    @property
    def token_file(self) -> Path | None:
        """Return None: whoever asks from the loopback is an administrator."""
        return None

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        return self.stage.mesh

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the HTTP API."""
        return self.stage.api(method, path, body)

    def restart(self) -> None:
        """Kill it and start it anew."""
        self.stage.restart_control_plane()
