"""
What rotator reads of an Airflow, and the little that it changes there.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

from rotator.core.tasks import Run, TaskAttempt


class RunningTasks(Protocol):
    """What runs now, by Airflow's own account."""

    def running(self) -> tuple[TaskAttempt, ...]:
        """Return every task attempt that some worker works on now, whatever its executor; complete or an error."""
        ...


class RunHistory(Protocol):
    """What ran, for as long as Airflow keeps it."""

    def ended(self, since: datetime, until: datetime) -> Iterator[TaskAttempt]:
        """
        Yield every task attempt that ended from *since* on and before *until*.

        Earlier tries of such a task come along, whenever they ended: they may have been repeated before anybody looked.
        """
        ...

    def runs(self, of: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Run]:
        """Return the runs named by (DAG, run); those that Airflow has forgotten are absent."""
        ...
