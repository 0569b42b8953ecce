"""A mesh whose CA changes hands while proxies lag, leave and come back, calls fail and the daemon dies."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from rotator.control import RollbackRequest, RotateRequest
from rotator.errors import AdapterError, JournalError
from tests.engine.mesh_accounts import accounts_of
from tests.engine.mesh_world import ALICE, SUBJECT, MeshWorld
from tests.fakes.faults import Crash, Faults
from tests.fakes.mesh import FakeProxy, Model

FAULTS: dict[str, Callable[[Faults, int], None]] = {
    "crash before": Faults.crash_before,
    "crash after": Faults.crash_after,
    "reply lost": Faults.lose_reply,
    "refused": Faults.refuse,
}
SPANS = st.sampled_from([timedelta(seconds=5), timedelta(seconds=40), timedelta(minutes=6), timedelta(minutes=35)])
WHICH = st.integers(min_value=0, max_value=5)
REFUSAL = "spec.mtls is written by argocd too: take it out of the application"


class MovingMesh(RuleBasedStateMachine):
    """After every tick every pair of proxies is tried: `MeshWorld.settle`."""

    @initialize(model=st.sampled_from(list(Model)))
    def begin(self, model: Model) -> None:
        """A mesh of three on generation 1."""
        self.directory = Path(tempfile.mkdtemp())
        self.world = MeshWorld(self.directory, model=model, vanished_are_gone=False)
        self.world.adopted()

    def one(self, which: int) -> FakeProxy:
        """Return one of the proxies."""
        proxies = list(self.world.mesh.proxies.values())
        return proxies[which % len(proxies)]

    def run(self, span: timedelta) -> None:
        """Let time pass; a daemon that dies is started again."""
        tick = max(span / 40, timedelta(seconds=1))
        try:
            self.world.run(span=span, tick=tick)
        except Crash:
            self.world.restart()
            self.world.run(span=span, tick=tick)

    # --- people ---

    @rule()
    def rotate(self) -> None:
        """Somebody asks for a rotation; it may be refused."""
        with contextlib.suppress(AdapterError, JournalError, Crash):
            self.world.desk.rotate(RotateRequest(subjects=(SUBJECT,), reason="now"), ALICE)

    @rule()
    def roll_back(self) -> None:
        """Somebody asks for the way back; it may be refused."""
        with contextlib.suppress(AdapterError, JournalError, Crash):
            self.world.desk.rollback(RollbackRequest(subject=SUBJECT, reason="back"), ALICE)

    # --- time and trouble ---

    @rule(span=SPANS)
    def pass_time(self, span: timedelta) -> None:
        """Time passes."""
        self.run(span)

    @rule(fault=st.sampled_from(sorted(FAULTS)), n=st.integers(min_value=1, max_value=30))
    def fail(self, fault: str, n: int) -> None:
        """One of the calls to come goes wrong."""
        FAULTS[fault](self.world.faults, n)

    @rule()
    def restart(self) -> None:
        """The daemon is killed and started again."""
        self.world.restart()

    @rule()
    def refuse(self) -> None:
        """Somebody else writes what rotator writes, or stops it."""
        refusals = self.world.mesh.refusals
        refusals.clear() if refusals else refusals.append(REFUSAL)

    # --- proxies ---

    @rule(which=WHICH, seconds=st.sampled_from([0, 5, 90, 1500]))
    def lag(self, which: int, seconds: int) -> None:
        """A proxy is slow to follow."""
        self.one(which).lag = timedelta(seconds=seconds)

    @rule(which=WHICH)
    def silence(self, which: int) -> None:
        """A proxy can no longer be asked, or can again."""
        proxy = self.one(which)
        proxy.readable = not proxy.readable

    @rule(which=WHICH, listed=st.booleans())
    def leave(self, which: int, *, listed: bool) -> None:
        """A proxy loses contact, and perhaps is no longer listed."""
        proxy = self.one(which)
        proxy.online, proxy.listed = False, listed

    @rule(which=WHICH, listed=st.booleans())
    def leave_at_activation(self, which: int, *, listed: bool) -> None:
        """A proxy loses contact after another CA began to sign and before it has a leaf of it."""
        self.rotate()
        before = self.world.number
        for _ in range(60):
            if self.world.number != before:
                break
            self.run(timedelta(seconds=1))
        self.leave(which, listed=listed)

    @rule(which=WHICH)
    def come_back(self, which: int) -> None:
        """A proxy is in contact again."""
        proxy = self.one(which)
        proxy.online = proxy.listed = True

    @rule()
    def join(self) -> None:
        """Another proxy starts."""
        if len(self.world.mesh.proxies) < 6:
            self.world.mesh.join(f"proxy-{len(self.world.mesh.proxies)}")

    def teardown(self) -> None:
        """Once all is well again, the rotation under way ends and every account closes."""
        if not hasattr(self, "world"):
            return
        try:
            self.world.mesh.refusals.clear()
            for proxy in self.world.mesh.proxies.values():
                proxy.online = proxy.listed = proxy.readable = True
                proxy.lag = timedelta()
            self.world.restart()
            self.world.finish(tick=timedelta(seconds=15))
            self.world.run(span=timedelta(minutes=3), tick=timedelta(seconds=30))
            self.world.finish()
            assert [] == accounts_of(self.world)
        finally:
            self.world.close()
            shutil.rmtree(self.directory)


TestMovingMesh = pytest.mark.timeout(900)(MovingMesh.TestCase)
TestMovingMesh.settings = settings(
    max_examples=10,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # A failing walk is printed as it was found: shrinking whole engines takes longer than a test may.
    phases=[Phase.generate],
    print_blob=False,
)
