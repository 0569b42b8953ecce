"""
Everything one scenario plays on: a mesh under load, and the daemon that looks after it.

Rules that must stay true here:

- The load never stops between the first and the last act: what a scenario claims, it claims of every request in it.
- A proxy leaves the load before it is stopped on purpose, and returns once it takes requests; nothing else is spared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rotator.core.model import IssuerId, Phase
from rotator.embedded.openbao import OpenBaoServer
from rotator.ports import RotationState
from tests.fixtures_openbao import new_mesh
from tests.stack.kuma.installation import AUTHORITY_LIFE, MeshInstallation, MeshPolicy
from tests.stack.kuma.load import Count, Load
from tests.stack.kuma.plane import MeshUnderTest, Model, served_authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one act cost."""

    what: str
    count: Count


@dataclass(slots=True, kw_only=True)
class Stage:
    """A mesh under load and its daemon."""

    plane: MeshUnderTest
    model: Model
    daemon: MeshInstallation
    load: Load
    told: list[Told] = field(default_factory=list)
    """Every act so far, for people who read the run."""

    # --- the load ---------------------------------------------------------------------------------------------------

    def spread(self, *, without: str | None = None) -> None:
        """Put every pair of running proxies under load, but for those with *without*."""
        self.load.under({pair: port for pair, port in self.plane.outbounds().items() if without not in pair.split(">")})

    @contextmanager
    def unharmed(self, what: str) -> Iterator[None]:
        """Fail if a request fails inside the block, or if none was sent."""
        before = self.load.count()
        yield
        # What is under way now belongs to the block.
        self.load.more(50)
        during = self.load.count() - before
        self.told.append(Told(what=what, count=during))
        assert during.failures == (), f"{what}: {during.told()}"

    def counted(self, since: Count) -> Count:
        """Return what became of the requests since *since*."""
        return self.load.count() - since

    # --- proxies ----------------------------------------------------------------------------------------------------

    def join(self, name: str) -> None:
        """Start a proxy and put it under load."""
        self.plane.start_proxy(name)
        self.spread()

    def leave(self, name: str) -> None:
        """Take a proxy out of the load and stop it."""
        self.spread(without=name)
        self.plane.stop_proxy(name)

    def served(self) -> Mapping[str, IssuerId | None]:
        """Return who signed the leaf that each running proxy serves, read off a handshake with it."""
        return {name: served_authority(port) for name, port in self.plane.inbounds().items()}

    # --- rotations --------------------------------------------------------------------------------------------------

    def active(self) -> IssuerId:
        """Return the one authority that signed every proxy's leaf; anything else is a failure."""
        served = self.served()
        signers = set(served.values())
        assert len(signers) == 1, f"not one signer: {served}"
        signer = signers.pop()
        assert signer is not None, f"no proxy serves a leaf: {served}"
        return signer

    def rotate(self) -> str:
        """Ask for a CA rotation; return its id."""
        return self.daemon.rotate(self.daemon.domain)

    def moved(self, rotation: str, before: IssuerId) -> IssuerId:
        """Wait until *rotation* is done; return who signed every proxy's leaf since, who is not *before*."""
        self.daemon.wait_done(rotation)
        after = self.active()
        assert after != before, "every proxy still serves a leaf of the old generation"
        return after

    def rolled_back(self, rotation: str, before: IssuerId) -> None:
        """Wait until *rotation* has been walked back, and every proxy serves a leaf of *before* again."""
        self.daemon.wait_done(rotation, RotationState.ROLLED_BACK)
        assert before == self.active()

    def at(self, phase: Phase) -> str:
        """Wait until the open rotation has come to *phase*."""
        return self.daemon.wait_phase(phase)

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
) -> Iterator[Stage]:
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
        stage = Stage(plane=plane, model=model, daemon=daemon, load=load)
        stage.spread()
        load.more(100)
        yield stage
