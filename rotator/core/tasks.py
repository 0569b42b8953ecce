"""
What an Airflow was seen to run: task attempts and the runs they belong to.

Rules that must stay true here:

- Names and moments only: no argument, no configuration of a run, no rendered field, no token ever gets in here.
- A host name is what the worker called itself; two runs of one member may share it, so it is joined with an interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rotator.core.model import SubjectName


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAttempt:
    """One try of one task instance."""

    dag: str
    run: str
    task: str
    map_index: int = -1
    """Its place among mapped tasks; -1 if it is none."""
    attempt: int
    """From 1."""
    state: str
    """Airflow's word: running, success, failed, deferred ..."""
    host: str
    """Where it runs or ran; empty before it was given to a worker."""
    queue: str = ""
    executor: str = ""
    """As the task names it; empty for the installation's own."""
    owner: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def key(self) -> str:
        """Return its name in records and status: ``dag/run/task#try``, with ``[index]`` if it is mapped."""
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag}/{self.run}/{self.task}{index}#{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a DAG: who set it off, and how."""

    dag: str
    run: str
    run_type: str
    """Airflow's word: scheduled, manual, backfill, asset_triggered ..."""
    triggered_by: str = ""
    """Airflow's word for the way: rest_api, ui, cli, timetable ..."""
    triggering_user: str = ""
    """A person's name, empty if nobody asked: it leaves this process as a salted commitment only (law 24)."""
    bundle: str = ""
    """Name and version of the DAG bundle that it ran from, where Airflow tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRun:
    """One run of one member of a workload, as long as it was seen."""

    workload: SubjectName
    member: str
    host: str
    """What Airflow calls the machine that it works on."""
    identity: str
    """What tells this run from the next of the same name: pid and start, pod UID."""
    started_at: datetime
    seen_until: datetime
    """When it was last seen to run."""
    certificates: tuple[SubjectName, ...] = ()
    """What it loads at its start."""


class PauseStage(StrEnum):
    """How far the pausing of an Airflow's DAGs has come."""

    PAUSING = "dags pausing"
    PAUSED = "dags paused"
    RESUMING = "dags resuming"
    OVER = "dags resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """What rotator has paused, for which runs of which schedulers."""

    stage: PauseStage
    dags: tuple[str, ...]
    identities: tuple[str, ...]
    """Runs of the members that are drained by it."""
    present: tuple[str, ...] = ()
    """Runs of all members that were there when it was paused: whoever is another one by now came since."""
