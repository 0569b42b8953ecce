"""
Copies what an Airflow ran into the ledger, before Airflow's own clean-up: batches of attempts, runs and workers.

Rules that must stay true here:

- What has ended is copied once by time: from where the last batch in the ledger ends, never by memory alone, so that a
  restart or a fail-over leaves no gap (law 13).
- Only names, states, moments and host names; whoever set a run off stands as a salted commitment (law 24).
- A worker is named together with the process or pod that it was, because host names repeat.
- A batch that cannot be written is not forgotten: the next one begins where the last that was written ended.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.core.event import Event, EventType
from rotator.core.model import SubjectName
from rotator.core.tasks import Run, TaskAttempt, WorkerRun
from rotator.engine.recorder import Recorder
from rotator.evidence.record import MAX_DETAIL_CHARACTERS, decode, moment_of, rfc3339
from rotator.ports import Ledger, RunHistory, Transaction
from rotator.redaction import redacted_text

SETTLES = timedelta(minutes=1)
"""How long after its end a task may still be written down as ended: clocks differ, and a commit takes its time."""

FIRST_REACH = timedelta(days=1)
"""How far back the very first batch reaches."""

LONGEST = timedelta(hours=1)
"""What one batch covers at most: a long outage is caught up with in pieces."""

_RECORD_BYTES = 50_000
"""Of rows in one record; the fields that every record has, and the details' names, need the rest."""
_SLICE = 1024

_Row = tuple[str, Sequence[object]]
"""What it tells of (``workers``, ``runs``, ``attempts``), and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """One Airflow whose history is copied."""

    airflow: str
    history: RunHistory
    workloads: frozenset[SubjectName]
    """Those whose members work for it."""


class RunCopier:
    """Copies the history of one Airflow. Its calls do not overlap."""

    def __init__(
        self, source: RunSource, *, recorder: Recorder, ledger: Ledger, seen: Callable[[], Sequence[WorkerRun]]
    ) -> None:
        """
        Copy *source* into the ledger.

        Args:
            source: The Airflow.
            recorder: Writes behind the fence of the lease.
            ledger: Tells where the last batch ended.
            seen: Every run of every member that was seen of late, those of other workloads included.
        """
        self._source = source
        self._recorder = recorder
        self._ledger = ledger
        self._seen = seen
        self._until: datetime | None = None
        self._told: dict[tuple[str, str, str], datetime] = {}
        """Workers that a batch of this process names already, and until when."""
        self._copying = threading.Lock()

    def copy(self, now: datetime) -> int:
        """Copy what has ended by *now*, less a margin; return how many attempts that were."""
        with self._copying:
            copied = 0
            since = self._until or self._last_batch() or now - FIRST_REACH
            while since < (end := now - SETTLES):
                until = min(end.replace(microsecond=0), since + LONGEST)
                if until <= since:
                    break
                copied += self._copy(since, until)
                self._until = since = until
            return copied

    def _copy(self, since: datetime, until: datetime) -> int:
        attempts = list(self._source.history.ended(since, until))
        runs = self._source.history.runs([(each.dag, each.run) for each in attempts])
        workers = [each for each in self._seen() if each.workload in self._source.workloads]
        # A worker that is known already is told again only if something ended meanwhile.
        fresh = [each for each in workers if attempts or _key(each) not in self._told]
        if not attempts and not fresh:
            return 0
        self._recorder.compose(lambda transaction: self._events(transaction, since, until, attempts, runs, fresh))
        alive = {_key(each) for each in workers}
        self._told = dict.fromkeys(alive, until)
        return len(attempts)

    def _events(
        self,
        transaction: Transaction,
        since: datetime,
        until: datetime,
        attempts: Sequence[TaskAttempt],
        runs: Mapping[tuple[str, str], Run],
        workers: Sequence[WorkerRun],
    ) -> Iterator[Event]:
        people = {name: transaction.commit_to(name) for name in {run.triggering_user for run in runs.values()} if name}
        rows: list[_Row] = [
            *(("workers", _worker_row(each)) for each in workers),
            *(("runs", _run_row(each, people)) for each in runs.values()),
            *(("attempts", _attempt_row(each)) for each in attempts),
        ]
        parts = list(_parts(rows))
        for number, few in enumerate(parts, start=1):
            detail: dict[str, str | int | bool] = {
                "airflow": self._source.airflow,
                "since": rfc3339(since),
                "until": rfc3339(until),
                "part": number,
                "parts": len(parts),
            }
            for kind in ("workers", "runs", "attempts"):
                detail |= packed(kind, (row for of, row in few if of == kind))
            yield Event(
                type=EventType.RUN_BATCH,
                time=self._recorder.clock.now(),
                subject=f"airflow {self._source.airflow}",
                result="ok",
                detail=detail,
            )

    def _last_batch(self) -> datetime | None:
        """Return where the last batch in the ledger ends; None if there is none."""
        end = self._ledger.size()
        while end > 0:
            start = max(0, end - _SLICE)
            for raw in reversed(self._ledger.entries(start, end)):
                if b'"run_batch"' not in raw:
                    continue
                event = decode(raw).event
                if event.type is EventType.RUN_BATCH and event.detail.get("airflow") == self._source.airflow:
                    return moment_of(str(event.detail["until"]))
            end = start
        return None


def packed(name: str, rows: Iterable[Sequence[object]]) -> dict[str, str | int | bool]:
    """Return *rows* as details ``NAME_000``, ``NAME_001`` ...: JSON arrays, none longer than a detail may be."""
    found: dict[str, str | int | bool] = {}
    texts: list[str] = []
    length = 0
    for row in rows:
        text = _written(row)
        if texts and length + len(text) + 1 > MAX_DETAIL_CHARACTERS - 2:
            found[f"{name}_{len(found):03}"] = f"[{','.join(texts)}]"
            texts, length = [], 0
        texts.append(text)
        length += len(text) + 1
    if texts:
        found[f"{name}_{len(found):03}"] = f"[{','.join(texts)}]"
    return found


def _parts(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """Yield *rows* in as many pieces as fit into a record each."""
    few: list[_Row] = []
    size = 0
    for row in rows:
        # As text in a text, in UTF-8: quotes and letters beyond ASCII take more than one byte there.
        cost = len(json.dumps(_written(row[1]), ensure_ascii=False).encode()) + 1
        if few and size + cost > _RECORD_BYTES:
            yield few
            few, size = [], 0
        few.append(row)
        size += cost
    if few:
        yield few


def _written(row: Sequence[object]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def _attempt_row(one: TaskAttempt) -> Sequence[object]:
    return [
        *map(_name, (one.dag, one.run, one.task)), one.map_index, one.attempt, one.state, _name(one.host),
        _name(one.queue), *map(_moment, (one.started_at, one.ended_at)),
    ]  # fmt: skip


def _run_row(one: Run, people: Mapping[str, str]) -> Sequence[object]:
    return [
        *map(_name, (one.dag, one.run)), one.run_type, one.triggered_by, people.get(one.triggering_user, ""),
        _name(one.bundle),
    ]  # fmt: skip


def _worker_row(one: WorkerRun) -> Sequence[object]:
    return [
        one.workload, one.member, one.host, one.identity, _moment(one.started_at), _moment(one.seen_until),
        list(one.certificates),
    ]  # fmt: skip


def _name(text: str) -> str:
    """Return *text* as a record may hold it: people put all sorts of things into the names of runs."""
    return redacted_text(text)[:250]


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else rfc3339(moment)


def _key(one: WorkerRun) -> tuple[str, str, str]:
    return one.workload, one.member, one.identity
