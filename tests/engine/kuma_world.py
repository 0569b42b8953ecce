"""
An engine that leads a mesh at the stand-in control plane through the real adapter, in virtual time.

Rules that must stay true here:

- Nothing stands between engine and adapter, and nothing but HTTP between adapter and control plane.
- Between any two ticks every pair of running proxies is tried, by the stand-in alone.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rotator.adapters.kuma.about import Model
from rotator.control import AdoptRequest, Person, RollbackRequest, RotateRequest
from rotator.core.model import Generation, SubjectName, TrustDomainName
from rotator.desk import Desk
from rotator.engine.targets import DomainTarget
from tests.adapters.kuma_meshes import DOMAIN, POLICY, MeshWorld
from tests.engine.world import World

ALICE = Person(uid=1000, name="alice", groups=frozenset({"operators"}))
SUBJECT = SubjectName(DOMAIN)
HOUR = timedelta(hours=1)


class KumaWorld(World):
    """A world whose trust domain is a mesh at a stand-in of one version, led by one model."""

    def __init__(self, directory: Path, *, version: str, model: Model) -> None:
        self._kind = (version, model)
        self._inner: MeshWorld | None = None
        self.broken: list[str] = []
        super().__init__(directory, certificates=0)

    @property
    def kuma(self) -> MeshWorld:
        """Return the control plane with its proxies, started at its first use."""
        if self._inner is None:
            version, model = self._kind
            self._inner = MeshWorld(version=version, model=model, clock=self.clock).__enter__()
        return self._inner

    def domains(self) -> dict[TrustDomainName, DomainTarget]:
        """Return the mesh."""
        mesh = self.kuma.again()
        domain = DomainTarget(
            name=DOMAIN,
            policy=replace(POLICY, minimum_overlap=timedelta(minutes=1)),
            issuer=None,
            authorities=mesh,
            parent=mesh,
            mesh=mesh,
            crl_interval=self.crl_interval,
        )
        return {DOMAIN: domain}

    def settle(self) -> None:
        """Let the control plane and its proxies do what is due, and try every pair."""
        self.kuma.standin.catch_up()
        self.broken += [f"{pair}: {why}" for pair, why in self.kuma.standin.failures().items()]

    def held(self) -> tuple[Generation, ...]:
        """Return the generations that the mesh holds."""
        return self.kuma.mesh.observe().generations

    @property
    def desk(self) -> Desk:
        """Return the desk of the present engine."""
        return Desk(self.engine, ledger=dict, requests=self.store)

    def row(self) -> dict[str, object]:
        """Return the mesh's row of the status."""
        rows: list[dict[str, object]] = self.desk.status()["subjects"]
        return next(each for each in rows if each["name"] == DOMAIN)

    def adopt(self, *, words: str | None = None) -> list[str]:
        """Have the mesh adopted; return why that is refused."""
        answer = self.desk.adopt(AdoptRequest(subject=SUBJECT, reason="begin", accept_interruption=words), ALICE)
        return [str(each["why"]) for each in answer["refused"]]

    def rotate(self) -> None:
        """Ask for a rotation."""
        assert self.desk.rotate(RotateRequest(subjects=(SUBJECT,), reason="now"), ALICE)["refused"] == []

    def roll_back(self) -> None:
        """Ask for the way back."""
        assert self.desk.rollback(RollbackRequest(subject=SUBJECT, reason="back"), ALICE)["refused"] == []

    def finish(self) -> None:
        """Run until nothing is under way."""
        self.run(until=self.settled, span=3 * HOUR, tick=timedelta(seconds=2))

    def close(self) -> None:
        """Stop everything."""
        super().close()
        if self._inner is not None:
            self._inner.__exit__()
