"""
Draining what cannot be drained one by one: the Local executor, whose tasks are children of the scheduler.

Rules that must stay true here:

- All DAGs are paused, tasks that run or wait in the executor end by themselves, then the scheduler is replaced, and
  what we paused goes on; only that. A DAG that was paused before stays paused.
- What we pause is written down before the first of it is paused, and struck off after the last of it goes on: a crash
  at any point leaves nothing paused for good (law 13).
- A scheduler that was replaced since is told from one that still has to be by its identity, which is written down too.
- Pausing drains that scheduler alone which was asked for: of two, the other one's turn comes when the first is well
  again, and one that is new already is not drained once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rotator.adapters.airflow.hosts import at_work
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.core.model import Member, SubjectName
from rotator.core.tasks import Paused, PauseStage, TaskAttempt
from rotator.ports import PauseBook

_OWN_NAMES = frozenset({"", "LocalExecutor", "airflow.executors.local_executor.LocalExecutor"})


class LocalDrainer:
    """`rotator.ports.Drainer` for the schedulers of one Airflow with a Local executor."""

    def __init__(self, tasks: AirflowTasks, book: PauseBook, *, workload: SubjectName, executor: str = "") -> None:
        """
        Pause through *tasks*, and write into *book*.

        *executor* is what tasks call it where it is not the installation's first: then only those count.
        """
        self._tasks = tasks
        self._book = book
        self._workload = workload
        self._executors = frozenset({executor}) if executor else _OWN_NAMES
        self._present: tuple[str, ...] = ()
        """Runs of all members, as last seen."""

    def inspect(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return *members* with the tasks that the executor holds; a replaced one drains until its DAGs go on."""
        self._present = tuple(member.identity for member in members if member.running)
        if not any(member.running for member in members):
            return tuple(replace(member, ready=False) for member in members)
        paused = self._book.paused(self._workload)
        held = [each for each in self._tasks.held() if each.executor in self._executors]
        still = self._tasks.unpaused() if paused is not None else ()
        return tuple(self._seen(member, paused, held, still) for member in members)

    def drain(self, member: Member) -> None:
        """Pause every DAG that is not paused."""
        known = self._book.paused(self._workload)
        dags = self._tasks.unpaused()
        all_dags = tuple(dict.fromkeys((*(known.dags if known is not None else ()), *dags)))
        identities = tuple(dict.fromkeys((*(known.identities if known is not None else ()), member.identity)))
        before = known.present if known is not None else ()
        present = tuple(dict.fromkeys((*before, *self._present, *identities)))
        paused = Paused(stage=PauseStage.PAUSING, dags=all_dags, identities=identities, present=present)
        self._book.write(self._workload, paused)
        for dag in dags:
            self._tasks.pause(dag, paused=True)
        self._book.write(self._workload, replace(paused, stage=PauseStage.PAUSED))

    def undrain(self, member: Member) -> None:  # noqa: ARG002 -- pausing is for all members
        """Let go on what we paused, and only that."""
        known = self._book.paused(self._workload)
        if known is None:
            return
        self._book.write(self._workload, replace(known, stage=PauseStage.RESUMING))
        ours = set(known.dags)
        for dag in self._tasks.paused():
            # One that was removed meanwhile is on no list, and need not go on.
            if dag in ours:
                self._tasks.pause(dag, paused=False)
        self._book.write(self._workload, replace(known, stage=PauseStage.OVER))

    def _seen(self, member: Member, paused: Paused | None, held: Iterable[TaskAttempt], still: Sequence[str]) -> Member:
        if not member.running:
            return replace(member, ready=False, busy=None)
        # Without a host name nobody knows whose child a task is, or will be: then it is everybody's.
        mine = tuple(each for each in held if not (member.host and each.host) or at_work((each,), member.host))
        seen = replace(member, busy=len(mine), work=tuple(each.key for each in mine))
        if paused is None:
            return seen
        is_asked = member.identity in paused.identities
        if paused.stage is PauseStage.RESUMING or member.identity not in (paused.present or paused.identities):
            draining = True  # what we paused has to go on
        else:
            # Half paused, or a DAG came in between: pausing has to be gone through once more.
            draining = is_asked and paused.stage is PauseStage.PAUSED and not still
        return replace(seen, draining=draining, ready=seen.ready and not draining, detail="its DAGs are paused")
