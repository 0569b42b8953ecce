"""
What the load generator and the workers wrote down, in seconds of the run.

Rules that must stay true here:

- What the server saw of a worker is what it answered that worker; nobody else's word counts.
- Counts are taken over as they were written; nothing is left out and nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from rotator.demo.recording import FailedRequest, Load, Sighting, TaskRun, Tick
from rotator.demo.traffic import Bucket, Failure, Line, PeerSeen
from rotator.embedded.celery_worker import TaskLedger


def load_of(written: Iterable[Line], start: datetime) -> Load:
    """Return what a load generator wrote, in seconds since *start*."""
    lines = tuple(written)
    zero = start.timestamp()
    ticks = [
        Tick(at=round(line.at - zero, 3), ok=line.ok, failed=line.failed, slowest_seconds=line.slowest_seconds)
        for line in lines
        if isinstance(line, Bucket)
    ]
    failures = [
        FailedRequest(at=round(line.at - zero, 3), kind=line.kind.value, reason=line.reason)
        for line in lines
        if isinstance(line, Failure)
    ]
    peers = {line.serial: round(line.at - zero, 3) for line in lines if isinstance(line, PeerSeen)}
    return Load(ticks=tuple(ticks), failures=tuple(failures), peer_serials=peers)


def task_runs(tasks: TaskLedger, start: datetime) -> tuple[TaskRun, ...]:
    """Return every task that ended, in seconds since *start*."""
    return tuple(
        TaskRun(
            worker=str(line["worker"]).partition("@")[2],
            start=(datetime.fromisoformat(str(line["started"])) - start).total_seconds(),
            stop=(datetime.fromisoformat(str(line["finished"])) - start).total_seconds(),
            serial=str(line["serial"]) if line["serial"] else None,
            ok=bool(line["ok"]),
        )
        for line in tasks.lines()
    )


def sighted(tasks: Iterable[TaskRun], reports: Mapping[tuple[str, str], float]) -> tuple[Sighting, ...]:
    """
    Return when the server saw which serial of which worker.

    A task runs in one process with one leaf from start to end, so its serial was seen from its start on.
    *reports* maps (worker, serial) to the moment at which that worker's own report first named it.
    """
    by_task = [Sighting(worker=each.worker, serial=each.serial, at=each.start) for each in tasks if each.serial]
    by_report = [Sighting(worker=worker, serial=serial, at=at) for (worker, serial), at in reports.items()]
    return (*by_task, *by_report)


def reported_serial(report: Path) -> str | None:
    """Return the serial in a worker's report, None before its first call."""
    try:
        return str(json.loads(report.read_text(encoding="utf-8"))["serial"]) or None
    except FileNotFoundError:
        return None
