"""Crash before, lost reply and refusal at every external call of a roll of workers under load."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from rotator.core.event import EventType
from rotator.core.model import SubjectKind, SubjectName
from rotator.core.rollout import AtDrainDeadline, RolloutPolicy
from rotator.engine.targets import WorkloadTarget
from rotator.errors import Denied, JournalError
from tests.engine.world import World
from tests.fakes.faults import Crash, Faults
from tests.fakes.workloads import FakeDrainer, FakeFleet, FakeWorkloads

SERVICE, WORKERS = SubjectName("service-0"), SubjectName("workers")
SECOND = timedelta(seconds=1)
SPAN = timedelta(minutes=10)
TASK = 3 * SECOND
"""What one unit of work takes; every worker that takes work has one."""


def refuse(faults: Faults, n: int) -> None:
    """Let the *n*-th call from now be refused, in the words of whoever is called."""
    faults.refuse(n, Denied)
    denied = faults.before

    def in_its_words(call: str) -> None:
        try:
            denied(call)
        except Denied as e:
            if call == "journal.commit":
                raise JournalError(str(e)) from None
            raise

    faults.before = in_its_words


FAULTS: dict[str, Callable[[Faults, int], None]] = {
    "crash before": Faults.crash_before,
    "reply lost": Faults.lose_reply,
    "refused": refuse,
}


LOOKS = frozenset({"members", "inspect"})


class Busy:
    """A world whose one certificate is loaded by two workers, both at work all the time."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.world = World(directory, certificates=1)
        self.fleet = FakeFleet(self.world.clock, workload=WORKERS)
        self.fewest = 2
        self.at: list[str] = []
        """The last calls before a fault ended them, for whoever asks why."""
        target = self.world.certificates[SERVICE]
        certificate = replace(target.certificate, rolls=(WORKERS,))
        self.world.certificates[SERVICE] = replace(target, certificate=certificate, probes=())
        self.world.workloads[WORKERS] = WorkloadTarget(
            name=WORKERS,
            policy=RolloutPolicy(max_unavailable=1, drain_deadline=timedelta(minutes=5)),
            workloads=FakeWorkloads(self.fleet, self.world.faults),
            drainer=FakeDrainer(self.fleet, self.world.faults),
            ready_within=timedelta(seconds=30),
            keep_running=True,
        )
        self.world.restart()
        # Workers that were there before the first certificate are rolled once already.
        self.go_on()
        self.known = len(self.world.told())
        self.before = self.runs()

    def runs(self) -> dict[str, int]:
        """Return how often each worker was started."""
        return {name: worker.runs for name, worker in self.fleet.workers.items()}

    def ask(self) -> None:
        """Let somebody want a new certificate now."""
        self.world.ask(SERVICE, SubjectKind.CERTIFICATE)

    def go_on(self) -> None:
        """Let time pass, and work come, until the certificate is in use and every worker takes work."""
        self.world.run(until=self._settled, span=SPAN)

    def _settled(self) -> bool:
        self.fleet.settle()
        workers = self.fleet.workers.values()
        for each in workers:
            is_up = each.ready_at is not None and self.world.clock.now() >= each.ready_at
            if each.started_at is not None and is_up and each.consuming and not each.work_ends:
                self.fleet.give_work(each.name, TASK)
        self.fewest = min(self.fewest, sum(1 for each in workers if each.started_at is not None and each.consuming))
        return self.world.settled() and all(each.consuming == each.all_queues for each in workers)

    def records(self, type_: EventType, result: str = "ok") -> Counter[str]:
        """Return how often the ledger tells that of each worker in this roll."""
        return Counter(
            str(each.event.detail["member"])
            for each in self.world.told()[self.known :]
            if each.event.type is type_ and each.event.result == result
        )


BusyT = TypeVar("BusyT", bound=Busy)


def broken_off(
    directory: Path,
    fault: str,
    made: Callable[[Path], BusyT],
    act: Callable[[BusyT], None],
    *,
    calls: Counter[str],
    looks: bool = False,
) -> Iterator[BusyT]:
    """
    Yield a world after *fault* at each external call of *act*, restarted and acted on to the end; of *made* each.

    Without a fault *act* makes at least these *calls*. Those that only look are counted with *looks*.
    """
    clean = made(directory / "clean")
    before = len(clean.world.faults.calls)
    act(clean)
    clean.world.close()
    all_calls = clean.world.faults.calls[before:]
    assert calls <= Counter(all_calls)
    for n, call in enumerate(all_calls, start=1):
        if call in LOOKS and (fault == "refused" or not looks):
            continue  # for what has no effect it is the same as a lost reply
        busy = made(directory / str(n))
        try:
            FAULTS[fault](busy.world.faults, n)
            with contextlib.suppress(Crash):
                act(busy)
            busy.at = busy.world.faults.calls[-12:]
            busy.world.restart()
            yield busy
        finally:
            busy.world.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_law_13_every_call_of_a_roll_may_be_the_last(tmp_path: Path, fault: str) -> None:
    """Whichever it is: no work is lost, each worker is replaced once, with one record, and consumes its queues."""

    def roll(busy: Busy) -> None:
        busy.ask()
        busy.go_on()

    for busy in broken_off(tmp_path, fault, Busy, roll, calls=Counter(drain=2, replace=2), looks=True):
        busy.go_on()
        once = dict.fromkeys(busy.before, 1)
        assert 0 == busy.fleet.lost, busy.at
        assert {name: count + 1 for name, count in busy.before.items()} == busy.runs(), busy.at
        # Whoever was refused after all got its work back, and is let go once more.
        back = busy.records(EventType.DRAINED, "deferred")
        assert once == busy.records(EventType.DRAINED, "started") - back, busy.at
        assert once == busy.records(EventType.DRAINED) - back, busy.at
        assert once == busy.records(EventType.ROLLED), busy.at
        assert busy.fewest >= 1, busy.at


class Stuck(Busy):
    """One worker is at work for longer than the deadline, at which the operator lets it work on."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        target = self.world.workloads[WORKERS]
        policy = replace(target.policy, drain_deadline=20 * SECOND, at_drain_deadline=AtDrainDeadline.SKIP)
        self.world.workloads[WORKERS] = replace(target, policy=policy)
        self.world.restart()
        self.fleet.settle()
        self.stuck = next(iter(self.fleet.workers.values()))
        self.fleet.give_work(self.stuck.name, timedelta(days=1))

    def give_up(self) -> None:
        """Let time pass until the worker was given up, and consumes its queues."""
        self.world.run(until=self._given_up, span=SPAN)

    def _given_up(self) -> bool:
        look = self.world.engine.rolls.look(WORKERS)
        why = look.why if look is not None else ""
        return self.stuck.consuming == self.stuck.all_queues and why.startswith("left on its old material")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_law_13_every_call_until_a_worker_is_given_up_may_be_the_last(tmp_path: Path, fault: str) -> None:
    """Whichever it is: the worker works on and consumes its queues, and one record says so, and whose word it was."""

    def roll(stuck: Stuck) -> None:
        stuck.ask()
        stuck.give_up()

    for stuck in broken_off(tmp_path, fault, Stuck, roll, calls=Counter(drain=1, undrain=1)):
        stuck.give_up()
        once = Counter({stuck.stuck.name: 1})
        assert once == stuck.records(EventType.DRAINED, "started"), stuck.at
        assert once == stuck.records(EventType.DRAINED, "deferred"), stuck.at
        assert (0, stuck.before) == (stuck.fleet.lost, stuck.runs()), stuck.at


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_law_13_every_call_may_be_the_last_after_a_worker_died_by_itself(tmp_path: Path, fault: str) -> None:
    """No rotation is open, and all the same: it is started again, and a restart forgets neither record of it."""

    def dies(busy: Busy) -> None:
        busy.fleet.crash("worker-1")
        busy.go_on()

    for busy in broken_off(tmp_path, fault, Busy, dies, calls=Counter(replace=1)):
        busy.go_on()
        busy.world.run(until=lambda: bool(busy.records(EventType.ROLLED)), span=SPAN)  # noqa: B023 -- asked here
        once = Counter({"worker-1": 1})
        assert once == busy.records(EventType.DRAINED, "not running"), busy.at
        assert once == busy.records(EventType.ROLLED), busy.at
        assert busy.before | {"worker-1": busy.before["worker-1"] + 1} == busy.runs(), busy.at
