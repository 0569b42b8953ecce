"""
What rotator reads of an Airflow, and the little that it changes there.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from rotator.core.model import SubjectName
from rotator.core.tasks import Paused, Run, TaskAttempt


class RunningTasks(Protocol):
    """What runs now, by Airflow's own account."""

    def running(self) -> tuple[TaskAttempt, ...]:
        """Return every task attempt that some worker works on now, whatever its executor; complete or an error."""
        ...


class LongTasks(Protocol):
    """Tasks that take long, by Airflow's own account."""

    def longer(self, than: timedelta, *, since: datetime, now: datetime) -> tuple[TaskAttempt, ...]:
        """
        Return the task attempts that took longer *than* that and ended from *since* on, or run for longer by *now*.

        Of very many not all: where Airflow can sort them, the longest.
        """
        ...


class PauseBook(Protocol):
    """What rotator has paused in an Airflow, so that a crash leaves nothing paused for good."""

    def paused(self, workload: SubjectName) -> Paused | None:
        """Return what is paused for *workload*, None if nothing is."""
        ...

    def write(self, workload: SubjectName, paused: Paused) -> None:
        """Note durably how far it has come. Raises `JournalError` if it cannot: then nothing may be paused."""
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
