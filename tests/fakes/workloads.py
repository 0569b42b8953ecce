"""
Workers and their drain, in memory and by hand-moved time.

Rules that must stay true here:

- `FakeWorkloads` and `FakeDrainer` are two views of one `FakeFleet`; both pass the contract suite of the real ones.
- A worker behaves as Celery does: told to end, it stops to answer, finishes what it has, and only then is gone;
  killed, what it had is lost. Started anew, it consumes all of its queues again.
- Every call passes `Faults`, so that a test can break off before it, after it, or lose its reply.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from rotator.core.model import Member, SubjectName
from rotator.errors import Conflict, Rejected, Unavailable
from rotator.ports import Clock
from tests.fakes.faults import Faults

T = TypeVar("T")


def quiet(_name: str) -> None:
    """Do nothing."""


@dataclass(slots=True, kw_only=True)
class FakeWorker:
    """One worker process."""

    name: str
    all_queues: frozenset[str]
    consuming: frozenset[str] = frozenset()
    started_at: datetime | None = None
    ready_at: datetime | None = None
    runs: int = 0
    told_to_end: bool = False
    answers: bool = True
    """False: its remote control is off."""
    fails_to_start: bool = False
    work_ends: list[datetime] = field(default_factory=list)


class FakeFleet:
    """The workers of one workload and what became of their work."""

    def __init__(
        self,
        clock: Clock,
        names: Iterable[str] = ("worker-1", "worker-2"),
        *,
        workload: str = "workers",
        queues: Iterable[str] = ("default",),
        running: bool = True,
        start_takes: timedelta = timedelta(seconds=2),
        stop_timeout: timedelta = timedelta(seconds=60),
        on_start: Callable[[str], None] = quiet,
    ) -> None:
        """
        Make a fleet, started and ready at once unless told otherwise.

        *on_start* is called with the name of each worker that is started: there a test lets it load its certificate.
        """
        self.clock = clock
        self.workload = SubjectName(workload)
        self.start_takes = start_takes
        self.stop_timeout = stop_timeout
        self.on_start = on_start
        self.broker_up = True
        self.finished = 0
        self.lost = 0
        self.workers = {name: FakeWorker(name=name, all_queues=frozenset(queues)) for name in names}
        if running:
            for name in self.workers:
                self.start(name)
                self.workers[name].ready_at = clock.now()

    def start(self, name: str) -> None:
        """Start a worker, as an operator would; it consumes all its queues once its start is over."""
        worker, now = self.workers[name], self.clock.now()
        worker.started_at, worker.ready_at = now.replace(microsecond=0), now + self.start_takes
        worker.consuming, worker.told_to_end, worker.work_ends = worker.all_queues, False, []
        worker.runs += 1
        self.on_start(name)

    def crash(self, name: str) -> None:
        """Kill a worker; what it was doing is lost."""
        self.settle()
        worker = self.workers[name]
        self.lost += len(worker.work_ends)
        worker.started_at, worker.work_ends, worker.consuming = None, [], frozenset()

    def give_work(self, name: str, takes: timedelta) -> None:
        """Let a worker begin one unit of work that takes so long. It must be consuming."""
        worker = self.workers[name]
        assert worker.started_at is not None, f"{name} does not run"
        assert worker.consuming, f"{name} takes no work"
        worker.work_ends.append(self.clock.now() + takes)

    def settle(self) -> None:
        """Let everything happen that is due by now."""
        now = self.clock.now()
        for worker in self.workers.values():
            over = [end for end in worker.work_ends if end <= now]
            self.finished += len(over)
            worker.work_ends = [end for end in worker.work_ends if end > now]
            if worker.told_to_end and not worker.work_ends:
                worker.started_at, worker.consuming, worker.told_to_end = None, frozenset(), False


class _Faulty:
    """One point through which every call goes."""

    def __init__(self, fleet: FakeFleet, faults: Faults | None) -> None:
        self.fleet = fleet
        self.faults = faults or Faults()
        self._lock = threading.RLock()

    def _call(self, name: str, effect: Callable[[], T]) -> T:
        with self.faults.call(name), self._lock:
            self.fleet.settle()
            result = effect()
            self.fleet.settle()
        return result


class FakeWorkloads(_Faulty):
    """`rotator.ports.Workloads` over a `FakeFleet`."""

    def __init__(self, fleet: FakeFleet, faults: Faults | None = None) -> None:
        """Look at *fleet*; with *faults* given, its calls are counted among those of other fakes."""
        super().__init__(fleet, faults)

    def members(self) -> tuple[Member, ...]:
        """Return every worker, also one that does not run."""
        return self._call("members", lambda: tuple(self._member(worker) for worker in self.fleet.workers.values()))

    def held(self) -> str | None:
        """Return None: nobody else replaces them."""
        return None

    def replace(self, member: str, *, forced: bool) -> None:
        """Stop a worker and start it; on a clock that moves itself, waiting for it passes the time."""
        self._call("replace", lambda: self._replace(member, forced=forced))

    def _member(self, worker: FakeWorker) -> Member:
        running = worker.started_at is not None
        return Member(
            workload=self.fleet.workload,
            name=worker.name,
            running=running,
            ready=running,
            started_at=worker.started_at,
            identity=f"run {worker.runs}" if running else "",
            detail="" if running else "it does not run",
        )

    def _replace(self, name: str, *, forced: bool) -> None:
        if name not in self.fleet.workers:
            raise Rejected(f"{self.fleet.workload} has no member {name}")
        worker = self.fleet.workers[name]
        if worker.started_at is not None:
            self._stop(worker, forced=forced)
        if worker.fails_to_start:
            raise Unavailable(f"{name} ended at once when it was started")
        if worker.started_at is not None:
            raise Conflict(f"{name} was started by somebody else")
        self.fleet.start(name)

    def _stop(self, worker: FakeWorker, *, forced: bool) -> None:
        worker.told_to_end, worker.consuming = True, frozenset()
        done_at = max(worker.work_ends, default=self.fleet.clock.now())
        wait = min(done_at - self.fleet.clock.now(), self.fleet.stop_timeout)
        if wait > timedelta(0):
            self.fleet.clock.wait(threading.Event(), wait)
        self.fleet.settle()
        if worker.started_at is None:
            return
        if not forced:
            limit = self.fleet.stop_timeout.total_seconds()
            raise Unavailable(f"{worker.name} has not ended {limit:g} s after it was told to")
        self.fleet.crash(worker.name)


class FakeDrainer(_Faulty):
    """`rotator.ports.Drainer` over a `FakeFleet`."""

    def __init__(self, fleet: FakeFleet, faults: Faults | None = None) -> None:
        """Look at *fleet*; with *faults* given, its calls are counted among those of other fakes."""
        super().__init__(fleet, faults)

    def inspect(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return *members* with what their workers do now."""
        return self._call("inspect", lambda: tuple(self._seen(member) for member in members))

    def drain(self, member: Member) -> None:
        """Let a worker take no new work."""
        self._call("drain", lambda: self._consume(member, frozenset()))

    def undrain(self, member: Member) -> None:
        """Let a worker take work from all its queues again."""
        self._call("undrain", lambda: self._consume(member, self._worker(member).all_queues))

    def _seen(self, member: Member) -> Member:
        self._need_broker()
        worker = self._worker(member)
        if worker.started_at is None:
            return replace(member, ready=False, queues=worker.all_queues, detail="it does not run")
        if not self._answering(worker):
            drained = not worker.consuming
            detail = "it runs but does not answer"
            return replace(member, ready=False, draining=drained, queues=worker.all_queues, detail=detail)
        return replace(
            member,
            draining=not worker.consuming,
            busy=len(worker.work_ends),
            queues=worker.all_queues,
            ready=worker.consuming == worker.all_queues,
            detail="" if worker.consuming else "it takes no new work",
        )

    def _worker(self, member: Member) -> FakeWorker:
        if member.name not in self.fleet.workers:
            raise Rejected(f"{member.workload} has no worker for its member {member.name}")
        return self.fleet.workers[member.name]

    def _consume(self, member: Member, queues: frozenset[str]) -> None:
        self._need_broker()
        worker = self._worker(member)
        if worker.started_at is None or not self._answering(worker):
            raise Unavailable(f"{member.name} did not answer")
        worker.consuming = queues

    def _answering(self, worker: FakeWorker) -> bool:
        started = worker.ready_at is not None and self.fleet.clock.now() >= worker.ready_at
        return worker.answers and started and not worker.told_to_end

    def _need_broker(self) -> None:
        if not self.fleet.broker_up:
            raise Unavailable("the broker did not answer")
