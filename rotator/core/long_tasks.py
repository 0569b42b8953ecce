"""
Tasks that are longer than a roll has time for, told before the roll begins.

Rules that must stay true here:

- Told of what was seen to take so long, or has by now; nobody knows how long the next one will take.
- The operator's written choice for the drain's deadline is part of the sentence: it says what will become of the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rotator.core.model import SubjectName
from rotator.core.rollout import AtDrainDeadline, RolloutPolicy
from rotator.core.tasks import TaskAttempt
from rotator.core.window import Window, written

LOOKS_BACK: Final = timedelta(days=1)
"""So far back what ended is looked at: tasks that run once a day are seen."""

_SECOND: Final = timedelta(seconds=1)
_AT_DEADLINE: Final = {
    AtDrainDeadline.WAIT: "the roll will wait for it",
    AtDrainDeadline.SKIP: "its worker will stay on the old certificate",
    AtDrainDeadline.FORCE: "it will be killed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeft:
    """What a certificate has left when the roll for its renewal begins."""

    certificate: SubjectName
    span: timedelta


def time_left(certificate: SubjectName, window: Window, now: datetime) -> TimeLeft:
    """Return what *certificate* has left at its opening, or *now* if that has passed."""
    return TimeLeft(certificate=certificate, span=max(window.closes - max(window.opens, now), timedelta()))


def longest_fitting(policy: RolloutPolicy, left: Sequence[TimeLeft]) -> timedelta:
    """Return how long a task may take at most without being told of."""
    return min((policy.drain_deadline, *(each.span for each in left)))


def length(task: TaskAttempt, now: datetime) -> timedelta:
    """Return how long *task* took, or has by *now*; nothing if it has not begun."""
    return timedelta() if task.started_at is None else (task.ended_at or now) - task.started_at


def too_long(
    policy: RolloutPolicy, left: Sequence[TimeLeft], tasks: Sequence[TaskAttempt], now: datetime
) -> tuple[str, ...]:
    """Return what the longest of *tasks* means for a roll, in sentences; empty if each of them fits."""
    if not tasks:
        return ()
    longest = max(tasks, key=lambda task: length(task, now))
    took = length(longest, now)
    others = len({(each.dag, each.task) for each in tasks} - {(longest.dag, longest.task)})
    more = f" (and {others} more like it)" if others else ""
    runs = "runs for" if longest.ended_at is None else "took"
    name = f"{longest.dag}/{longest.task}{more} {runs} {written(took // _SECOND * _SECOND)}"
    found = []
    if took > policy.drain_deadline:
        found.append(
            f"{name}, longer than the drain's deadline of {written(policy.drain_deadline)}: "
            f"{_AT_DEADLINE[policy.at_drain_deadline]}"
        )
    found.extend(
        f"{name}, and certificate {each.certificate} has {written(each.span // _SECOND * _SECOND)} left when its "
        "renewal opens: such a task outlives it"
        for each in left
        if took > each.span
    )
    return tuple(found)
