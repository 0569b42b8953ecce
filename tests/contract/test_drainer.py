"""
One suite for every drainer: real Celery workers on a real Valkey, and the fake that the engine's tests use.

Rules that must stay true here:

- A test sees a fleet through the ports and the few verbs of `Bench`; what it asserts holds for both.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Protocol

import pytest

from rotator.core.model import Member
from rotator.embedded.process import wait_until
from rotator.errors import Rejected, Unavailable
from rotator.ports import Drainer, Workloads
from tests.fakes.clock import ManualClock
from tests.fakes.workloads import FakeDrainer, FakeFleet, FakeWorkloads
from tests.fixtures_celery import PATIENCE, CeleryFleet

QUEUES = frozenset({"default", "heavy"})


class Bench(Protocol):
    """Two workers with two queues, ready and idle at the start of each test."""

    @property
    def workloads(self) -> Workloads: ...
    @property
    def drainer(self) -> Drainer: ...
    def work(self) -> None:
        """Give work to whoever takes it, which goes on until `done`, and wait until somebody has it."""

    def done(self) -> None:
        """Let all work come to its end."""

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let time pass until *condition* holds."""

    def silence(self, name: str, *, silent: bool) -> None:
        """Let a worker run without answering, or answer again."""

    def crash(self, name: str) -> None:
        """Kill a worker."""

    def tell_to_end(self, name: str) -> None:
        """Tell a worker to end, and do not wait."""

    def broker(self, *, up: bool) -> None:
        """Let the broker be reached, or not."""


class FakeBench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fleet = FakeFleet(self.clock, queues=QUEUES)
        self.workloads = FakeWorkloads(self.fleet)
        self.drainer = FakeDrainer(self.fleet)

    def work(self) -> None:
        taker = next(worker for worker in self.fleet.workers.values() if worker.consuming)
        self.fleet.give_work(taker.name, timedelta(days=1))

    def done(self) -> None:
        for worker in self.fleet.workers.values():
            worker.work_ends = [self.clock.now() for _ in worker.work_ends]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(100):
            if condition():
                return
            self.clock.advance(timedelta(seconds=1))
        pytest.fail(f"never: {what}")

    def silence(self, name: str, *, silent: bool) -> None:
        self.fleet.workers[name].answers = not silent

    def crash(self, name: str) -> None:
        self.fleet.crash(name)

    def tell_to_end(self, name: str) -> None:
        worker = self.fleet.workers[name]
        worker.told_to_end, worker.consuming = True, frozenset()

    def broker(self, *, up: bool) -> None:
        self.fleet.broker_up = up


class RealBench:
    def __init__(self, fleet: CeleryFleet) -> None:
        self.fleet = fleet
        self.workloads = fleet.workloads
        self.drainer = fleet.drainer
        self._gates = ExitStack()

    def restore(self) -> None:
        self.done()
        self.broker(up=True)
        self.fleet.start_all()
        for member in self.workloads.members():
            self.drainer.undrain(member)
        self.until(lambda: all(m.ready and m.busy == 0 for m in self.fleet.seen()), "ready and idle workers")

    def done(self) -> None:
        self._gates.close()

    def work(self) -> None:
        before = sum(member.busy or 0 for member in self.fleet.seen())
        self._gates.enter_context(self.fleet.working())
        self.until(lambda: sum(member.busy or 0 for member in self.fleet.seen()) > before, "somebody to take the work")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, within=PATIENCE, what=what)

    def silence(self, name: str, *, silent: bool) -> None:
        self.fleet.signal(name, signal.SIGSTOP if silent else signal.SIGCONT)

    def crash(self, name: str) -> None:
        self.fleet.kill(name)

    def tell_to_end(self, name: str) -> None:
        self.fleet.signal(name, signal.SIGTERM)

    def broker(self, *, up: bool) -> None:
        self.fleet.broker_up = up


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.external)])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBench | None]:
    """Give the real workers, kept for the whole module; None where the fake is meant."""
    if request.param == "fake":
        yield None
        return
    with CeleryFleet(tmp_path_factory.mktemp("celery"), queues=QUEUES, answer_within=timedelta(seconds=2)) as fleet:
        yield RealBench(fleet)


@pytest.fixture
def bench(real: RealBench | None) -> Bench:
    if real is None:
        return FakeBench()
    real.restore()
    return real


def one(bench: Bench, name: str = "worker-1") -> Member:
    return next(member for member in bench.drainer.inspect(bench.workloads.members()) if member.name == name)


@contextmanager
def silenced(bench: Bench, name: str) -> Iterator[None]:
    bench.silence(name, silent=True)
    try:
        yield
    finally:
        bench.silence(name, silent=False)


def test_an_idle_worker_is_ready(bench: Bench) -> None:
    """A worker that consumes all its queues is ready, idle and not draining."""
    seen = one(bench)
    assert (True, 0, False, QUEUES, "") == (seen.ready, seen.busy, seen.draining, seen.queues, seen.detail)


def test_inspecting_keeps_what_the_workload_said(bench: Bench) -> None:
    """Name, workload, start and identity pass through unchanged, in the given order."""
    members = bench.workloads.members()
    seen = bench.drainer.inspect(members)
    assert [(m.workload, m.name, m.started_at, m.identity) for m in members] == [
        (m.workload, m.name, m.started_at, m.identity) for m in seen
    ]


def test_a_drained_worker_takes_no_new_work(bench: Bench) -> None:
    """Once drained, a worker gets nothing any more; the other one gets it, and both keep answering."""
    bench.drainer.drain(one(bench))
    bench.until(lambda: one(bench).draining, "worker-1 drained")
    bench.work()
    assert (0, 1) == (one(bench, "worker-1").busy, one(bench, "worker-2").busy)
    seen = one(bench)
    assert (False, QUEUES) == (seen.ready, seen.queues)


def test_law_17_running_work_is_seen_after_the_drain(bench: Bench) -> None:
    """Draining does not hide what still runs: busy until it is over, then idle."""
    bench.drainer.drain(one(bench, "worker-2"))
    bench.until(lambda: one(bench, "worker-2").draining, "worker-2 drained")
    bench.work()
    bench.drainer.drain(one(bench))
    bench.until(lambda: one(bench).draining, "worker-1 drained")
    assert 1 == one(bench).busy
    bench.done()
    bench.until(lambda: one(bench).busy == 0, "the work to be over")
    assert one(bench).draining


def test_an_undrained_worker_is_ready_again(bench: Bench) -> None:
    """Undraining gives back every queue that it had."""
    bench.drainer.drain(one(bench))
    bench.until(lambda: one(bench).draining, "worker-1 drained")
    bench.drainer.undrain(one(bench))
    bench.until(lambda: one(bench).ready, "worker-1 ready")
    assert QUEUES == one(bench).queues


def test_twice_is_once(bench: Bench) -> None:
    """Every call may be made twice (law 13)."""
    for _ in range(2):
        bench.drainer.drain(one(bench))
    bench.until(lambda: one(bench).draining, "worker-1 drained")
    for _ in range(2):
        bench.drainer.undrain(one(bench))
    bench.until(lambda: one(bench).ready, "worker-1 ready")


def test_law_17_unknown_work_is_not_idle(bench: Bench) -> None:
    """A worker that does not answer is neither idle nor ready, says so, and the others are still seen."""
    with silenced(bench, "worker-1"):
        silent, other = one(bench), one(bench, "worker-2")
    assert (None, False, False) == (silent.busy, silent.ready, silent.draining)
    assert "answer" in silent.detail
    assert other.ready


def test_a_silent_worker_cannot_be_drained(bench: Bench) -> None:
    """An order that nobody confirms is an error, not a success."""
    member = one(bench)
    with silenced(bench, "worker-1"), pytest.raises(Unavailable, match="answer"):
        bench.drainer.drain(member)


def test_a_drained_worker_that_ends_stays_drained(bench: Bench) -> None:
    """Told to end with work left, it falls silent: unknown, not ready, and still out of work."""
    bench.drainer.drain(one(bench, "worker-2"))
    bench.until(lambda: one(bench, "worker-2").draining, "worker-2 drained")
    bench.work()
    bench.drainer.drain(one(bench))
    bench.until(lambda: one(bench).draining, "worker-1 drained")
    bench.tell_to_end("worker-1")
    bench.until(lambda: one(bench).busy is None, "worker-1 silent")
    seen = one(bench)
    assert (True, None, False, True) == (seen.running, seen.busy, seen.ready, seen.draining)
    bench.done()
    bench.until(lambda: not one(bench).running, "worker-1 gone")


def test_a_dead_worker_is_told_from_a_silent_one(bench: Bench) -> None:
    """A worker that is gone is not running and has no known work."""
    bench.crash("worker-1")
    seen = one(bench)
    assert (False, None, False, "it does not run") == (seen.running, seen.busy, seen.ready, seen.detail)


def test_law_16_a_restarted_worker_is_ready_only_when_it_consumes(bench: Bench) -> None:
    """After a replacement the member is another run, and ready once that one consumes every queue."""
    before = one(bench)
    bench.drainer.drain(before)
    bench.workloads.replace("worker-1", forced=False)
    bench.until(lambda: one(bench).ready, "worker-1 ready")
    after = one(bench)
    assert before.identity != after.identity
    assert (False, QUEUES) == (after.draining, after.queues)


def test_a_broker_that_is_down_is_unavailable(bench: Bench) -> None:
    """Without a broker nothing is known, and nothing is claimed."""
    members = bench.workloads.members()
    bench.broker(up=False)
    for call in (
        lambda: bench.drainer.inspect(members),
        lambda: bench.drainer.drain(members[0]),
        lambda: bench.drainer.undrain(members[0]),
    ):
        with pytest.raises(Unavailable, match="broker did not answer"):
            call()


def test_a_stranger_is_rejected(bench: Bench) -> None:
    """A member that the drainer does not know cannot be looked at by accident."""
    known = bench.workloads.members()[0]
    stranger = Member(
        workload=known.workload, name="worker-9", running=True, ready=True, started_at=known.started_at, identity="x"
    )
    with pytest.raises(Rejected):
        bench.drainer.inspect([stranger])


def test_threads_do_not_disturb_each_other(bench: Bench) -> None:
    """Several threads may inspect at once; each gets its own answers."""
    members = bench.workloads.members()
    seen: list[tuple[Member, ...]] = []
    threads = [threading.Thread(target=lambda: seen.append(bench.drainer.inspect(members))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [True] * 16 == [member.ready for each in seen for member in each]
