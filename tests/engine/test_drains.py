"""What a record says of a drain: how long it took, and which tasks were seen meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rotator.core.model import SubjectName
from rotator.engine.drains import Drains
from rotator.evidence.record import MAX_DETAIL_CHARACTERS
from tests.core.worlds import NOW, SECOND, member

WORKERS = SubjectName("workers")


def test_a_drain_is_told_with_its_tasks() -> None:
    """Each task once, in the order in which it was seen; a worker that was not drained has nothing to tell."""
    drains = Drains()
    drained = member("a", draining=True, busy=2)
    drains.begin(drained, NOW)
    drains.see(WORKERS, (replace(drained, work=("d/r/one#1", "d/r/two#1")), member("b")), NOW + SECOND)
    drains.see(WORKERS, (replace(drained, work=("d/r/two#1",)), member("b")), NOW + 2 * SECOND)
    told = drains.told(drained, NOW + timedelta(seconds=30))
    assert {
        "drained_seconds": 30, "drain_seen_from_its_start": True, "tasks_seen": 2, "tasks": "d/r/one#1; d/r/two#1",
    } == told  # fmt: skip
    assert {} == drains.told(member("b"), NOW)


def test_after_a_restart_a_drain_is_told_from_the_first_look_on() -> None:
    """And the record says that its beginning was not seen."""
    drains = Drains()
    drained = member("a", draining=True, busy=1)
    drains.see(WORKERS, (drained,), NOW)
    told = drains.told(drained, NOW + 5 * SECOND)
    assert (5, False) == (told["drained_seconds"], told["drain_seen_from_its_start"])


def test_the_next_run_of_a_member_has_no_drain() -> None:
    """What was replaced, or got its work back, is forgotten."""
    drains = Drains()
    drained = member("a", draining=True, busy=1)
    drains.begin(drained, NOW)
    drains.see(WORKERS, (replace(drained, draining=False),), NOW)
    assert {} == drains.told(drained, NOW)
    drains.begin(drained, NOW)
    drains.see(WORKERS, (replace(drained, identity="a-2", draining=False),), NOW)
    assert {} == drains.told(drained, NOW)


def test_many_tasks_are_counted_and_some_named() -> None:
    """The record stays small."""
    drains = Drains()
    drained = replace(member("a", draining=True), work=tuple(f"dag/run-{number}/{'t' * 50}#1" for number in range(99)))
    drains.begin(drained, NOW)
    drains.see(WORKERS, (drained,), NOW)
    told = drains.told(drained, NOW)
    assert 99 == told["tasks_seen"]
    assert len(str(told["tasks"])) <= MAX_DETAIL_CHARACTERS
