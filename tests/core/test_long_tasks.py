"""What is said, before a roll, of tasks that are longer than it has time for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rotator.core.long_tasks import TimeLeft, longest_fitting, time_left, too_long
from rotator.core.model import SubjectName
from rotator.core.rollout import AtDrainDeadline, RolloutPolicy
from rotator.core.tasks import TaskAttempt
from rotator.core.window import Window

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
LEFT = TimeLeft(certificate=SubjectName("worker"), span=4 * HOUR)
POLICY = RolloutPolicy(max_unavailable=1, drain_deadline=2 * HOUR)
RUNS = TaskAttempt(dag="etl", run="r1", task="load", attempt=1, state="running", host="w", started_at=NOW - 3 * HOUR)
ENDED = replace(RUNS, task="train", state="success", started_at=NOW - 9 * HOUR, ended_at=NOW - 4 * HOUR)


@pytest.mark.parametrize(
    ("then", "says"),
    [
        (AtDrainDeadline.WAIT, "the roll will wait for it"),
        (AtDrainDeadline.SKIP, "its worker will stay on the old certificate"),
        (AtDrainDeadline.FORCE, "it will be killed"),
    ],
)
def test_a_task_past_the_deadline_tells_what_was_chosen(then: AtDrainDeadline, says: str) -> None:
    """Named with its time, the deadline and the operator's word."""
    (found,) = too_long(replace(POLICY, at_drain_deadline=then), (LEFT,), (RUNS,), NOW)
    assert f"etl/load runs for 3h, longer than the drain's deadline of 2h: {says}" == found


def test_a_task_that_outlives_the_certificate_is_told() -> None:
    """The longest is named, others are counted; both limits are told."""
    deadline, outlives = too_long(POLICY, (LEFT,), (RUNS, ENDED), NOW)
    assert "etl/train (and 1 more like it) took 5h, longer than the drain's deadline" in deadline
    assert "certificate worker has 4h left when its renewal opens: such a task outlives it" in outlives
    assert () == too_long(replace(POLICY, drain_deadline=9 * HOUR), (replace(LEFT, span=8 * HOUR),), (ENDED,), NOW)
    assert () == too_long(POLICY, (LEFT,), (), NOW)


def test_what_is_left_counts_from_the_opening() -> None:
    """Past the opening it counts from now, and it is never below nothing."""
    window = Window(issued_at=NOW - 8 * HOUR, opens=NOW + HOUR, safety_line=NOW + 3 * HOUR, closes=NOW + 5 * HOUR)
    spans = [time_left(LEFT.certificate, window, NOW + each * HOUR).span for each in (0, 2, 9)]
    assert [4 * HOUR, 3 * HOUR, timedelta()] == spans
    assert 2 * HOUR == longest_fitting(POLICY, (LEFT,))
    assert HOUR == longest_fitting(POLICY, (LEFT, replace(LEFT, span=HOUR)))
