"""
The small world with a mesh in it: a control plane and proxies instead of, or beside, consumers of directories.

Rules that must stay true here:

- As in `tests.engine.world`: everything that leaves the process passes the one fault point, time moves by hand.
- After every tick every pair of proxies is judged (law 3), unless a test says that it breaks them on purpose.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from rotator.control import AdoptRequest, Person, RollbackRequest, RotateRequest
from rotator.core.model import Generation, SubjectName, TrustDomainName
from rotator.desk import Desk
from rotator.engine.domains import DomainState
from rotator.engine.targets import DomainTarget
from rotator.ports import RotationState
from tests.engine.world import MESH, World
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.mesh import FakeMesh, Model

ALICE = Person(uid=1000, name="alice", groups=frozenset({"operators"}))
SUBJECT = SubjectName(MESH)
EDGE = TrustDomainName("edge.test")
HOUR = timedelta(hours=1)


class MeshWorld(World):
    """A world whose trust domain is a mesh."""

    def __init__(
        self,
        directory: Path,
        *,
        proxies: int = 3,
        model: Model = Model.TOGETHER,
        vanished_are_gone: bool = True,
        builtin: bool = False,
        consumers: int = 0,
    ) -> None:
        """*builtin*: it runs on a CA of its own; *consumers* of another trust domain also trust the mesh."""
        self._begins = (proxies, model, vanished_are_gone, builtin)
        self._mesh: FakeMesh | None = None
        self.judged = True
        super().__init__(directory, certificates=consumers)
        for name, target in list(self.certificates.items()):
            identity = f"spiffe://{EDGE}/{name}"
            certificate = replace(target.certificate, trust_domain=EDGE, identity=identity, also_trust=(MESH,))
            self.certificates[name] = replace(target, certificate=certificate)
        if consumers:
            self.restart()

    @property
    def mesh(self) -> FakeMesh:
        """Return the mesh, made at its first use."""
        if self._mesh is None:
            proxies, model, vanished_are_gone, builtin = self._begins
            self._mesh = FakeMesh(
                self.vault, MESH, timedelta(hours=1), model=model, vanished_are_gone=vanished_are_gone
            )
            if builtin:
                now = self.clock.now()
                self._mesh.begin_with(FakeCA("builtin", MESH, now - 24 * HOUR, now + 87600 * HOUR))
            for number in range(proxies):
                # Nobody follows at once, and no two at the same time.
                self._mesh.join(f"proxy-{number}").lag = timedelta(seconds=3 * number + 2)
        return self._mesh

    def domains(self) -> dict[TrustDomainName, DomainTarget]:
        """Return the mesh, and the standalone domain of the consumers if there are any."""
        mesh = DomainTarget(
            name=MESH,
            policy=self.authority_policy,
            issuer=None,
            authorities=self.mesh,
            parent=self.mesh,
            mesh=self.mesh,
            crl_interval=self.crl_interval,
            issuer_label="corporate",
        )
        if not self._has_consumers():
            return {MESH: mesh}
        edge = replace(
            mesh,
            name=EDGE,
            policy=replace(self.authority_policy, trust_domain=EDGE),
            issuer=self.vault.issuer(EDGE),
            authorities=self.vault.authorities(EDGE),
            parent=self.vault.authorities(EDGE),
            mesh=None,
        )
        return {EDGE: edge, MESH: mesh}

    def _has_consumers(self) -> bool:
        return any(each.certificate.trust_domain == EDGE for each in self.certificates.values())

    def settle(self) -> None:
        """Let everybody follow, and judge every pair."""
        super().settle()
        self.mesh.settle()
        if self.judged:
            assert self.mesh.broken() == []

    def held(self) -> tuple[Generation, ...]:
        """Return the generations that the mesh holds."""
        return self.mesh._held().generations

    def settled(self) -> bool:
        """Return whether the mesh runs on a generation of rotator's and nothing is under way."""
        return (
            bool(self.number)
            and not self.store.rotations(state=RotationState.OPEN)
            and all(each.follows == self.mesh.told for each in self.mesh.proxies.values() if each.online)
            and super().settled()
        )

    def moved_on(self, revision: int) -> bool:
        """Return whether the control plane was written to since *revision*, or nothing is under way."""
        return self.mesh.revision > revision or self.settled()

    @property
    def state(self) -> DomainState:
        """Return the mesh's state as the engine last saw it."""
        found = self.engine.domains.get(MESH)
        assert found is not None
        return found

    @property
    def number(self) -> int | None:
        """Return the generation that signs, by the control plane's word."""
        signer = self.mesh.told.signer
        return next((each.number for each in self.held() if each.authority.id == signer), None)

    @property
    def desk(self) -> Desk:
        """Return the desk of the present engine."""
        return Desk(self.engine, ledger=dict, requests=self.store)

    def row(self) -> dict[str, object]:
        """Return the mesh's row of the status."""
        rows: list[dict[str, object]] = self.desk.status()["subjects"]
        return next(each for each in rows if each["name"] == MESH)

    def adopted(self) -> None:
        """Have the mesh adopted and run until it is."""
        self.run(until=lambda: self.engine.domains.get(MESH) is not None)
        answer = self.desk.adopt(AdoptRequest(subject=SUBJECT, reason="begin"), ALICE)
        assert answer["refused"] == []
        self.run(until=self.settled, span=3 * HOUR, tick=timedelta(seconds=10))

    def rotate(self, *, compromised: bool = False) -> str:
        """Ask for a rotation; return its id."""
        request = RotateRequest(subjects=(SUBJECT,), reason="now", compromised=compromised)
        answer = self.desk.rotate(request, ALICE)
        assert answer["refused"] == []
        return str(answer["rotations"][0]["id"])

    def roll_back(self) -> None:
        """Ask for the way back."""
        assert self.desk.rollback(RollbackRequest(subject=SUBJECT, reason="back"), ALICE)["refused"] == []

    def finish(self, *, tick: timedelta = timedelta(seconds=5)) -> None:
        """Run until nothing is under way."""
        self.run(until=self.settled, span=6 * HOUR, tick=tick)


class Make(Protocol):
    """Makes a world of the model under test."""

    def __call__(
        self, *, proxies: int = 3, vanished_are_gone: bool = True, builtin: bool = False, consumers: int = 0
    ) -> MeshWorld: ...
