"""
Who ran what, by the ledger alone: task attempts joined with worker, process or pod, and certificate.

Rules that must stay true here:

- Pure: records are given, nothing is asked, and the same records always give the same answer.
- Host names repeat (a StatefulSet's do at each roll): an attempt belongs to the run of a member that had begun last
  when it started. If that run was not seen from then on, the worker is unknown; it is never guessed.
- A worker has loaded what was published last before it started; what was published later it has not (law 16).
- People stay commitments (law 24); whoever holds the side store may reveal them.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rotator.core.event import Event, EventType
from rotator.evidence.record import Record, moment_of

BLIND = timedelta(minutes=2)
"""How long a worker may go unseen before nobody can say that it still was the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A certificate that a worker had loaded."""

    certificate: str
    serial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One attempt, and on what it ran."""

    airflow: str
    dag: str
    run: str
    task: str
    map_index: int
    attempt: int
    state: str
    host: str
    queue: str
    started_at: datetime | None
    ended_at: datetime | None
    workload: str | None
    worker: str | None
    """The member's name; None if nobody knows which worker it was."""
    worker_run: str | None
    """The process or pod."""
    loaded: tuple[Loaded, ...]
    run_type: str
    triggered_by: str
    person: str
    """Commitment to whoever set the run off; empty if nobody did."""
    bundle: str
    seq: int
    """The record that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    workload: str
    member: str
    host: str
    identity: str
    started_at: datetime
    seen_until: datetime
    certificates: tuple[str, ...]


@dataclass(slots=True)
class _Told:
    """What the records say, by kind."""

    attempts: dict[tuple[object, ...], tuple[int, list[object]]] = field(default_factory=dict)
    runs: dict[tuple[object, ...], list[object]] = field(default_factory=dict)
    workers: dict[tuple[str, str, str, str], _Worker] = field(default_factory=dict)
    published: dict[str, list[tuple[datetime, str]]] = field(default_factory=lambda: defaultdict(list))


def attempts(
    records: Iterable[Record], *, run: str | None = None, serial: str | None = None, at: datetime | None = None
) -> Iterator[Ran]:
    """
    Yield the attempts that the records tell of, oldest first, each once; narrowed by what is given.

    Args:
        records: The ledger, in order, whole.
        run: ``DAG/RUN``; a run's own name may hold slashes.
        serial: Of a certificate that the worker had loaded.
        at: A moment at which the attempt ran.
    """
    told = _read(records)
    by_host: dict[tuple[str, str], list[_Worker]] = defaultdict(list)
    for (airflow, *_), worker in told.workers.items():
        by_host[airflow, _short(worker.host)].append(worker)
    for workers in by_host.values():
        workers.sort(key=lambda each: each.started_at)
    found = [_joined(told, by_host, seq, str(key[0]), row) for key, (seq, row) in told.attempts.items()]
    found.sort(key=lambda each: (str(each.started_at or each.ended_at or ""), each.seq))
    for each in found:
        if run is not None and f"{each.dag}/{each.run}" != run:
            continue
        if serial is not None and serial not in {loaded.serial for loaded in each.loaded}:
            continue
        if at is not None and not _ran_at(each, at):
            continue
        yield each


def _ran_at(one: Ran, at: datetime) -> bool:
    return one.started_at is not None and one.started_at <= at and (one.ended_at is None or at <= one.ended_at)


def _read(records: Iterable[Record]) -> _Told:
    told = _Told()
    for record in records:
        event = record.event
        if event.type is EventType.DISTRIBUTED and event.new is not None:
            told.published[str(event.subject)].append((event.time, event.new.serial))
        elif event.type is EventType.RUN_BATCH:
            airflow = str(event.detail.get("airflow", ""))
            for row in unpacked(event, "attempts"):
                # The last word counts: a task that was repeated is told again with its next attempt, never as it.
                told.attempts[airflow, *row[:5]] = (record.seq, row)
            for row in unpacked(event, "runs"):
                told.runs[airflow, *row[:2]] = row
            for row in unpacked(event, "workers"):
                worker = _worker(row)
                told.workers[airflow, worker.workload, worker.member, worker.identity] = worker
    for published in told.published.values():
        published.sort()
    return told


def unpacked(event: Event, name: str) -> Iterator[list[object]]:
    """Yield the rows of the details ``NAME_000`` ... of *event*, in order."""
    for key in sorted(key for key in event.detail if key.startswith(f"{name}_")):
        for row in json.loads(str(event.detail[key])):
            yield list(row)


def _worker(row: list[object]) -> _Worker:
    workload, member, host, identity, started, seen, certificates = row
    return _Worker(
        workload=str(workload),
        member=str(member),
        host=str(host),
        identity=str(identity),
        started_at=moment_of(str(started)),
        seen_until=moment_of(str(seen)),
        certificates=tuple(map(str, certificates)) if isinstance(certificates, list) else (),
    )


def _joined(
    told: _Told, by_host: Mapping[tuple[str, str], list[_Worker]], seq: int, airflow: str, row: list[object]
) -> Ran:
    dag, run, task, map_index, attempt, state, host, queue, started, ended = row
    started_at, ended_at = _moment(started), _moment(ended)
    worker = _worker_of(by_host.get((airflow, _short(str(host))), []), started_at)
    of_run = told.runs.get((airflow, dag, run), ["", "", "", "", "", ""])
    return Ran(
        airflow=airflow,
        dag=str(dag),
        run=str(run),
        task=str(task),
        map_index=int(str(map_index)),
        attempt=int(str(attempt)),
        state=str(state),
        host=str(host),
        queue=str(queue),
        started_at=started_at,
        ended_at=ended_at,
        workload=worker.workload if worker else None,
        worker=worker.member if worker else None,
        worker_run=worker.identity if worker else None,
        loaded=tuple(_loaded(told, worker)) if worker else (),
        run_type=str(of_run[2]),
        triggered_by=str(of_run[3]),
        person=str(of_run[4]),
        bundle=str(of_run[5]),
        seq=seq,
    )


def _worker_of(workers: list[_Worker], started: datetime | None) -> _Worker | None:
    """Return the run that had begun last when an attempt *started*, if it was seen until about then."""
    if started is None:
        return None
    place = bisect_right(workers, started, key=lambda each: each.started_at)
    if place == 0:
        return None
    found = workers[place - 1]
    return found if started - found.seen_until <= BLIND else None


def _loaded(told: _Told, worker: _Worker) -> Iterator[Loaded]:
    for certificate in worker.certificates:
        published = told.published.get(certificate, [])
        place = bisect_right(published, worker.started_at, key=lambda each: each[0])
        if place:
            yield Loaded(certificate=certificate, serial=published[place - 1][1])


def _short(host: str) -> str:
    """Return *host* as members and tasks may both write it: without its domain; an address as it is."""
    folded = host.casefold().rstrip(".")
    return folded if folded.replace(".", "").isdigit() or ":" in folded else folded.partition(".")[0]


def _moment(text: object) -> datetime | None:
    return moment_of(str(text)) if text else None
