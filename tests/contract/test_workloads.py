"""
One suite for every workload of this machine: real processes, and the fake that the engine's tests use.

Rules that must stay true here:

- The real members behave as Celery's main process does: after TERM they finish what they have, then they end.
- A test sees them through the port and the few verbs of `Bench`; what it asserts holds for both.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from rotator.adapters.processes import CommandMember, Processes
from rotator.adapters.processes.seen import held, process
from rotator.clock import SystemClock
from rotator.core.model import Member, SubjectName
from rotator.embedded.process import wait_until
from rotator.errors import Rejected, Unavailable
from rotator.ports import Workloads
from tests.fakes.clock import ManualClock
from tests.fakes.workloads import FakeFleet, FakeWorkloads

PATIENCE = timedelta(seconds=30)
STOP_TIMEOUT = timedelta(seconds=1)

# USR1: begin a unit of work of as many seconds as the file `takes` says. TERM: end once there is none.
WORKER = """
import os, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
asked = {signal.SIGTERM, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, asked)
if (place / "broken").exists():
    sys.exit("cannot reach the broker: token=hvs.CAESIJ0123456789abcdefghij0123456789")
(place / "up").write_text(str(os.getpid()))
end, ending = None, False
while end is not None or not ending:
    got = signal.sigwaitinfo(asked) if end is None else signal.sigtimedwait(asked, max(0, end - time.monotonic()))
    if got is None:
        end = None
        with (place / "finished").open("a") as file:
            file.write("one\\n")
    elif got.si_signo == signal.SIGTERM:
        ending = True
    else:
        end = time.monotonic() + float((place / "takes").read_text())
        (place / "busy").write_text(str(os.getpid()))
"""


class Bench(Protocol):
    """Two members, both stopped at the start of each test."""

    @property
    def workloads(self) -> Workloads: ...
    def now(self) -> datetime:
        """Return the moment on the clock by which members are dated."""

    def replace(self, name: str, *, forced: bool = False) -> None:
        """Replace a member, and wait until its new process is ready to be signalled."""

    def work(self, name: str, takes: timedelta) -> None:
        """Let a member begin one unit of work."""

    def finished(self) -> int:
        """Return how many units were finished."""

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let time pass until *condition* holds."""

    def crash(self, name: str) -> None:
        """Kill a member."""

    def breaks(self, name: str) -> None:
        """Let the member's next start fail."""


class FakeBench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fleet = FakeFleet(self.clock, running=False, stop_timeout=STOP_TIMEOUT)
        self.workloads = FakeWorkloads(self.fleet)

    def now(self) -> datetime:
        return self.clock.now()

    def replace(self, name: str, *, forced: bool = False) -> None:
        self.workloads.replace(name, forced=forced)

    def work(self, name: str, takes: timedelta) -> None:
        self.fleet.give_work(name, takes)

    def finished(self) -> int:
        self.fleet.settle()
        return self.fleet.finished

    def until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(1000):
            if condition():
                return
            self.clock.advance(timedelta(milliseconds=100))
        pytest.fail(f"never: {what}")

    def crash(self, name: str) -> None:
        self.fleet.crash(name)

    def breaks(self, name: str) -> None:
        self.fleet.workers[name].fails_to_start = True


class RealBench:
    def __init__(self, directory: Path) -> None:
        self.places = {name: directory / name for name in ("worker-1", "worker-2")}
        for place in self.places.values():
            place.mkdir()
        self.members = tuple(
            CommandMember(
                name=name,
                command=(sys.executable, "-I", "-S", "-c", WORKER, str(place)),
                pid_file=place / "pid",
                log_file=place / "log",
            )
            for name, place in self.places.items()
        )
        self.workloads = Processes(
            SubjectName("workers"),
            self.members,
            clock=SystemClock(),
            stop_timeout=STOP_TIMEOUT,
            start_timeout=PATIENCE,
            settle=timedelta(seconds=0.5),
        )

    def now(self) -> datetime:
        return datetime.now(tz=UTC)

    def replace(self, name: str, *, forced: bool = False) -> None:
        self.workloads.replace(name, forced=forced)
        self.until(lambda: self._says(name, "up"), f"{name} up")

    def work(self, name: str, takes: timedelta) -> None:
        (self.places[name] / "takes").write_text(str(takes.total_seconds()))
        self._signal(name, signal.SIGUSR1)
        self.until(lambda: self._says(name, "busy"), f"{name} busy")

    def finished(self) -> int:
        return sum(
            len(file.read_text().splitlines()) for p in self.places.values() if (file := p / "finished").exists()
        )

    def until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, within=PATIENCE, what=what)

    def crash(self, name: str) -> None:
        self._signal(name, signal.SIGKILL)
        self.until(lambda: not one(self, name).running, f"{name} gone")

    def breaks(self, name: str) -> None:
        (self.places[name] / "broken").touch()

    def close(self) -> None:
        for member in self.workloads.members():
            if member.running:
                self.crash(member.name)

    def _says(self, name: str, what: str) -> bool:
        file = self.places[name] / what
        return file.exists() and file.read_text() == self._pid(name)

    def _pid(self, name: str) -> str:
        return one(self, name).identity.partition("@")[0]

    def _signal(self, name: str, number: signal.Signals) -> None:
        found = process(int(self._pid(name)))
        assert found is not None
        with held(found) as main:
            assert main is not None
            main.send(number)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.external)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "fake":
        yield FakeBench()
        return
    real = RealBench(tmp_path)
    try:
        yield real
    finally:
        real.close()


def one(bench: Bench, name: str = "worker-1") -> Member:
    return next(member for member in bench.workloads.members() if member.name == name)


def test_members_that_do_not_run_are_listed(bench: Bench) -> None:
    """Every configured member is there, in order, also one that was never started."""
    expected = [("worker-1", False, False, None, "", None), ("worker-2", False, False, None, "", None)]
    assert expected == [
        (m.name, m.running, m.ready, m.started_at, m.identity, m.busy) for m in bench.workloads.members()
    ]


def test_a_stopped_member_is_started(bench: Bench) -> None:
    """Replacing what does not run starts it, and dates it not before the order and not after now."""
    before = bench.now().replace(microsecond=0)
    bench.replace("worker-1")
    seen = one(bench)
    assert (True, True) == (seen.running, bool(seen.identity))
    assert seen.started_at is not None
    assert before <= seen.started_at <= bench.now()
    assert not one(bench, "worker-2").running


def test_members_stay_the_same_until_they_are_replaced(bench: Bench) -> None:
    """Looking twice gives the same answer."""
    bench.replace("worker-1")
    assert bench.workloads.members() == bench.workloads.members()


def test_a_replaced_member_is_another_run(bench: Bench) -> None:
    """After a replacement the identity differs and the start is not earlier."""
    bench.replace("worker-1")
    before = one(bench)
    bench.replace("worker-1")
    after = one(bench)
    assert before.identity != after.identity
    assert before.started_at is not None
    assert after.started_at is not None
    assert before.started_at <= after.started_at


def test_law_17_running_work_is_finished_before_the_end(bench: Bench) -> None:
    """What a member still does when it is replaced is finished first."""
    bench.replace("worker-1")
    bench.work("worker-1", STOP_TIMEOUT / 2)
    bench.replace("worker-1")
    assert 1 == bench.finished()


def test_law_17_running_work_is_not_killed(bench: Bench) -> None:
    """Work that outlasts the stop timeout goes on in the same run, and the caller is told: Unavailable."""
    bench.replace("worker-1")
    bench.work("worker-1", STOP_TIMEOUT * 3)
    before = one(bench)
    with pytest.raises(Unavailable, match="has not ended 1 s after"):
        bench.replace("worker-1")
    assert before.identity == one(bench).identity
    bench.until(lambda: not one(bench).running, "worker-1 gone")
    assert 1 == bench.finished()
    bench.replace("worker-1")
    assert one(bench).running


def test_asking_again_waits_on(bench: Bench) -> None:
    """A second order to a member that is ending is safe and ends in the replacement."""
    bench.replace("worker-1")
    bench.work("worker-1", STOP_TIMEOUT * 1.5)
    before = one(bench)
    with pytest.raises(Unavailable):
        bench.replace("worker-1")
    bench.replace("worker-1")
    assert before.identity != one(bench).identity
    assert 1 == bench.finished()


def test_forced_kills_at_the_end_of_the_grace_period_only(bench: Bench) -> None:
    """Forced: work that fits into the grace period is finished, longer work is lost."""
    bench.replace("worker-1")
    bench.work("worker-1", STOP_TIMEOUT / 2)
    bench.replace("worker-1", forced=True)
    assert 1 == bench.finished()
    bench.work("worker-1", STOP_TIMEOUT * 60)
    before = one(bench)
    bench.replace("worker-1", forced=True)
    assert before.identity != one(bench).identity
    assert 1 == bench.finished()


def test_a_crashed_member_is_seen_and_started_again(bench: Bench) -> None:
    """A pid file or a memory of it proves nothing: what is gone does not run."""
    bench.replace("worker-1")
    bench.crash("worker-1")
    assert (False, None, "") == (one(bench).running, one(bench).started_at, one(bench).identity)
    bench.replace("worker-1")
    assert one(bench).running


def test_a_start_that_fails_is_an_error(bench: Bench) -> None:
    """A member that ends at once counts as not started."""
    bench.breaks("worker-1")
    with pytest.raises(Unavailable, match="worker-1 ended"):
        bench.workloads.replace("worker-1", forced=False)
    assert not one(bench).running


def test_a_stranger_is_rejected(bench: Bench) -> None:
    """A name that is not configured is never started."""
    with pytest.raises(Rejected, match="no member worker-9"):
        bench.workloads.replace("worker-9", forced=False)


def test_members_are_independent(bench: Bench) -> None:
    """Two members can be replaced by two threads at the same time."""
    bench.replace("worker-1")
    before = one(bench)
    threads = [
        threading.Thread(target=bench.workloads.replace, args=(name,), kwargs={"forced": False})
        for name in ("worker-1", "worker-2")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [True, True] == [member.running for member in bench.workloads.members()]
    assert before.identity != one(bench).identity
