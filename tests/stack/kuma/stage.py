"""
The stage with everything real on it: a mesh under load, and the daemon that looks after it.

Rules that must stay true here:

- The load never stops between the first and the last act: what a scenario claims, it claims of every request in it.
- A proxy leaves the load before it is stopped on purpose, and returns once it takes requests; nothing else is spared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rotator.control import RollbackRequest
from rotator.core.model import IssuerId, Phase
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.ports import RotationState
from tests.fixtures_openbao import new_mesh
from tests.stack.kuma.installation import AUTHORITY_LIFE, PATIENCE, MeshInstallation, MeshPolicy
from tests.stack.kuma.load import AT_REST, Count, Load, answered
from tests.stack.kuma.plane import Json, MeshUnderTest, Model, served_authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one act cost."""

    what: str
    count: Count


@dataclass(slots=True, kw_only=True)
class LoadedStage:
    """A mesh under load and its daemon. Implements `tests.stack.kuma.scenarios.Stage`."""

    plane: MeshUnderTest
    model: Model
    daemon: MeshInstallation
    load: Load
    began: Count
    """What was counted before the mesh was at rest: taking over a mesh without mutual TLS interrupts it."""
    told: list[Told] = field(default_factory=list)
    """Every act so far, for people who read the run."""

    # --- seeing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def unharmed(self, what: str) -> Iterator[None]:
        """Fail if a request fails inside the block, or if none was sent."""
        before = self.load.count()
        yield
        # What is under way now belongs to the block.
        self.load.more(50)
        during = self.tell(what, before)
        assert during.failures == (), f"{what}: {during.told()}"

    def rest(self) -> None:
        """Wait until many requests in a row succeed."""
        wait_until(
            lambda: self.load.passes(AT_REST),
            within=PATIENCE,
            what=f"{AT_REST} requests in a row: {self.load.count().told()}",
        )

    def tell(self, what: str, since: Count) -> Count:
        """Note and return what became of the requests since *since*."""
        during = self.load.count() - since
        self.told.append(Told(what=what, count=during))
        return during

    def served(self) -> Mapping[str, IssuerId | None]:
        """Return who signed the leaf that each running proxy serves, read off a handshake with it."""
        return {name: served_authority(port) for name, port in self.plane.inbounds().items()}

    def active(self) -> IssuerId:
        """Return the one authority that signed every proxy's leaf."""
        served = self.served()
        signers = set(served.values())
        assert len(signers) == 1, f"not one signer: {served}"
        signer = signers.pop()
        assert signer is not None, f"no proxy serves a leaf: {served}"
        return signer

    def at(self, phase: Phase) -> None:
        """Wait until the open rotation has come to *phase*."""
        self.daemon.wait_phase(phase)

    def named(self, name: str) -> None:
        """Wait until the trust domain's row of ``status`` names *name*."""
        self.daemon.wait_row(lambda row: name in str(row["waiting_on"]) or name in str(row.get("why")), name)

    def alerted(self, name: str) -> None:
        """Wait until an alert names *name*."""
        wait_until(
            lambda: any(name in alert for alert in self.daemon.alerts()),
            within=PATIENCE,
            what=f"an alert that names {name}: {self.daemon.status()}",
            every=timedelta(milliseconds=200),
        )

    # --- rotating ---------------------------------------------------------------------------------------------------

    def rotate(self) -> str:
        """Ask for a CA rotation."""
        return self.daemon.rotate(self.daemon.domain)

    def roll_back(self) -> None:
        """Ask for the open rotation to be walked back."""
        self.daemon.client().rollback(RollbackRequest(subject=self.daemon.domain, reason="a test asks"))

    def moved(self, rotation: str, before: IssuerId) -> IssuerId:
        """Wait until *rotation* is done."""
        self.daemon.wait_done(rotation)
        after = self.active()
        assert after != before, "every proxy still serves a leaf of the old generation"
        return after

    def rolled_back(self, rotation: str, before: IssuerId) -> None:
        """Wait until *rotation* has been walked back."""
        self.daemon.wait_done(rotation, RotationState.ROLLED_BACK)
        assert before == self.active()

    # --- disturbing -------------------------------------------------------------------------------------------------

    def join(self, name: str) -> None:
        """Start a proxy, and put it under load once every pair with it has been answered."""
        self.plane.start_proxy(name)
        # Kuma speaks plaintext to a proxy until it has been told, every ten seconds, that it has a certificate.
        wait_until(
            lambda: all(answered(port) for pair, port in self.plane.outbounds().items() if name in pair.split(">")),
            within=PATIENCE,
            what=f"everybody to reach {name}",
            every=timedelta(milliseconds=200),
        )
        self.spare(None)

    def leave(self, name: str) -> None:
        """Take a proxy out of the load and stop it."""
        self.spare(name)
        self.plane.stop_proxy(name)

    def freeze(self, name: str) -> None:
        """Let a proxy acknowledge nothing."""
        self.plane.freeze_proxy(name)

    def thaw(self, name: str) -> None:
        """Let it acknowledge again."""
        self.plane.thaw_proxy(name)

    def spare(self, name: str | None) -> None:
        """Put every pair of running proxies under load, but for those with *name*."""
        self.load.under({pair: port for pair, port in self.plane.outbounds().items() if name not in pair.split(">")})

    # --- breaking ---------------------------------------------------------------------------------------------------

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        return self.plane.mesh

    def restart_control_plane(self) -> None:
        """Kill the control plane and start it anew."""
        self.plane.restart()

    def kill_daemon(self) -> None:
        """Kill the daemon and start it anew."""
        self.daemon.daemon.kill()
        self.daemon.start()

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the control plane as somebody else."""
        return self.plane.api(method, path, body)

    # --- accounts ---------------------------------------------------------------------------------------------------

    def adopted(self, *, interrupts: bool) -> None:
        """Take over a mesh that rotator did not make, under load, its plan shown first; then rotate."""
        planned = self.daemon.command("adopt", self.daemon.domain, "--reason", "look", "--dry-run")
        assert planned.stdout.strip(), f"no plan was shown: {planned.stderr}"
        before = self.load.count()
        if interrupts:
            refused = self.daemon.adopt()
            assert refused.returncode == 4, refused.stdout + refused.stderr
        done = self.daemon.adopt(*(("--accept-interruption", "the test says so") if interrupts else ()))
        assert done.returncode == 0, done.stdout + done.stderr
        # What it interrupts goes on until the control plane has been told, every ten seconds, who has a certificate.
        self.rest()
        during = self.tell("taken over", before)
        assert interrupts or during.failures == (), during.told()
        with self.unharmed("the first rotation after being taken over"):
            self.moved(self.rotate(), self.active())

    def accounts(self) -> None:
        """Stop the daemon, judge evidence and accounts, and start it again."""
        self.daemon.daemon.stop()
        wrong = self.daemon.wrong()
        assert wrong == [], wrong
        self.daemon.start()


@contextmanager
def staged(
    plane: MeshUnderTest,
    model: Model,
    *,
    directory: Path,
    openbao: OpenBaoServer,
    proxies: int = 5,
    adopt: bool = True,
    policy: MeshPolicy | None = None,
    rate: float = 120.0,
) -> Iterator[LoadedStage]:
    """
    Give a stage whose *plane* runs already: proxies, load, and the daemon.

    With *adopt* the mesh is taken over before the load begins: what that interrupts is a scenario of its own.
    """
    with ExitStack() as undo:
        vault = new_mesh(
            openbao,
            directory / "vault",
            trust_domain=plane.mesh,
            lifetimes=(AUTHORITY_LIFE,),
            # Only the identity model's bundle holds a root, and that has to be the mesh's own.
            mesh_root=model is Model.IDENTITY,
        )
        for number in range(proxies):
            plane.start_proxy(f"service-{number}")
        daemon = MeshInstallation(directory, vault, plane, model, policy or MeshPolicy())
        undo.callback(daemon.daemon.stop)
        daemon.start()
        if adopt:
            done = daemon.adopt("--accept-interruption", "nobody calls anybody yet")
            assert done.returncode == 0, done.stdout + done.stderr
        load = undo.enter_context(Load(directory / "load.jsonl", rate=rate))
        load.under(plane.outbounds())
        stage = LoadedStage(plane=plane, model=model, daemon=daemon, load=load, began=load.count())
        stage.rest()
        stage.began = load.count()
        yield stage
