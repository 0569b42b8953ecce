"""
Watching a run from outside: the daemon's status, its log, the load and the tasks, as they come.

Rules that must stay true here:

- Reads only, and only what anybody could read: the control socket, files, the Envoys' counters.
- A daemon that does not answer is a fact to be shown, not an error.
- One thread reads; whoever looks gets a snapshot that does not change under them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rotator.clock import SystemClock
from rotator.demo.recording import PhaseSpan
from rotator.demo.traffic import Bucket, Failure, PeerSeen, TrafficLog
from rotator.errors import LedgerTampered, RotatorError
from rotator.evidence.note import Checkpoint, Note
from rotator.evidence.record import Record, decode
from rotator.evidence.tiles import WIDTH, LogReader, Tile

_EVERY = timedelta(milliseconds=200)
_RATE_OVER_SECONDS = 3.0

Row = Mapping[str, Any]
"""One subject or workload of the daemon's status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was seen last."""

    at: float = 0.0
    """Seconds since the daemon was first started."""
    answers: bool = False
    """Whether the daemon answered."""
    subjects: tuple[Row, ...] = ()
    workloads: tuple[Row, ...] = ()
    requests: int = 0
    failed: int = 0
    rate: float = 0.0
    """Requests a second over the last seconds."""
    tasks_submitted: int = 0
    tasks_finished: int = 0
    entries: int = 0
    """Of the signed log."""
    last: tuple[Record, ...] = ()
    """The newest records of the log."""

    def subject(self, name: str) -> Row:
        """Return the status of subject *name*, empty if it is not known."""
        return next((row for row in self.subjects if row["name"] == name), {})

    def ends_of(self, names: Sequence[str]) -> tuple[datetime, ...]:
        """Return when the leaves of *names* end, as far as the daemon knows."""
        ends = (self.subject(name).get("not_after") for name in names)
        return tuple(datetime.fromisoformat(each).astimezone(UTC) for each in ends if each)

    def is_quiet_but_for(self, names: Sequence[str]) -> bool:
        """Return whether no rotation is open but for *names*' own, and no worker is being drained or started."""
        members = [member for row in self.workloads for member in row["members"]]
        return (
            self.answers
            and bool(self.subjects)
            and not any(row["open_rotation"] for row in self.subjects if row["name"] not in names)
            and all(member["ready"] and not member["draining"] for member in members)
        )


class LogTail:
    """The records of a signed log, read as its checkpoint grows."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.records: list[Record] = []

    def read(self) -> int:
        """Read what is new and return how many records the log has; a log that is being written is read later."""
        if not (self._directory / "checkpoint").exists():
            return len(self.records)
        try:
            with LogReader(self._directory) as reader:
                note = reader.note()
                size = Checkpoint.parse(Note.parse(note).text).size if note is not None else 0
                while len(self.records) < size:
                    index, inside = divmod(len(self.records), WIDTH)
                    width = min(size - index * WIDTH, WIDTH)
                    entries = reader.entries(Tile(level=0, index=index, width=width))
                    if entries is None:
                        break
                    self.records.extend(decode(entry) for entry in entries[inside:])
        except (LedgerTampered, OSError):
            # Read between two writes; verifying is not done here but by the auditor's command at the end.
            return len(self.records)
        return len(self.records)


@dataclass(slots=True, kw_only=True)
class _Phases:
    """Spans of phases, made from looks."""

    spans: list[PhaseSpan] = field(default_factory=list)
    current: dict[str, tuple[str, float]] = field(default_factory=dict)

    def look(self, domain: str, phase: str, at: float) -> None:
        before = self.current.get(domain)
        if before is None:
            self.current[domain] = (phase, at)
        elif before[0] != phase:
            self.spans.append(PhaseSpan(domain=domain, phase=before[0], start=before[1], stop=at))
            self.current[domain] = (phase, at)

    def all(self, at: float) -> tuple[PhaseSpan, ...]:
        open_spans = [
            PhaseSpan(domain=domain, phase=phase, start=start, stop=at)
            for domain, (phase, start) in self.current.items()
        ]
        return (*self.spans, *open_spans)


class Watch:
    """Looks several times a second until the block ends."""

    def __init__(
        self,
        *,
        start: datetime,
        status: Callable[[], Mapping[str, Any]],
        ledger: Path,
        traffic: Path,
        tasks: Callable[[], tuple[int, int]],
        told: Callable[[Snapshot], None],
    ) -> None:
        """
        Say what to look at.

        Args:
            start: Second 0.
            status: Asks the daemon; raises `RotatorError` when it does not answer.
            ledger: The signed log.
            traffic: The load generator's lines.
            tasks: Returns how many tasks were given out and how many were finished.
            told: Called in the watching thread after each look.
        """
        self._start = start
        self._status = status
        self._log = LogTail(ledger)
        self._traffic = TrafficLog(traffic)
        self._tasks = tasks
        self._told = told
        self._clock = SystemClock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._phases = _Phases()
        self._snapshot = Snapshot()
        self.buckets: list[Bucket] = []
        self.failures: list[Failure] = []
        self.peers: list[PeerSeen] = []

    @property
    def snapshot(self) -> Snapshot:
        """Return what was seen last."""
        return self._snapshot

    @property
    def records(self) -> Sequence[Record]:
        """Return every record of the signed log that was read so far."""
        return tuple(self._log.records)

    def seconds(self) -> float:
        """Return the seconds since the daemon was first started."""
        return (self._clock.now() - self._start).total_seconds()

    def phases(self) -> tuple[PhaseSpan, ...]:
        """Return how long each trust domain was seen in each phase."""
        return self._phases.all(self._snapshot.at)

    def finish(self) -> None:
        """Stop looking, and read what was written last."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)
        self._look(ask=False)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._look(ask=True)
            self._told(self._snapshot)
            self._clock.wait(self._stop, _EVERY)

    def _look(self, *, ask: bool) -> None:
        status: Mapping[str, Any] | None = None
        if ask:
            try:
                status = self._status()
            except RotatorError:
                status = None
        at = self.seconds()
        for line in self._traffic.news():
            match line:
                case Bucket():
                    self.buckets.append(line)
                case Failure():
                    self.failures.append(line)
                case PeerSeen():
                    self.peers.append(line)
        submitted, finished = self._tasks()
        entries = self._log.read()
        before = self._snapshot
        subjects = tuple(status["subjects"]) if status is not None else before.subjects
        if status is not None:
            for row in subjects:
                if row["kind"] == "trust_domain":
                    self._phases.look(row["name"], row["phase"], at)
        self._snapshot = Snapshot(
            at=at,
            answers=status is not None,
            subjects=subjects,
            workloads=tuple(status.get("workloads", ())) if status is not None else before.workloads,
            requests=sum(bucket.ok + bucket.failed for bucket in self.buckets),
            failed=sum(bucket.failed for bucket in self.buckets),
            rate=self._rate(),
            tasks_submitted=submitted,
            tasks_finished=finished,
            entries=entries,
            last=tuple(self._log.records[-6:]),
        )

    def _rate(self) -> float:
        """Return requests a second over the last seconds, 0 when nothing was sent of late."""
        since = self._clock.now().timestamp() - _RATE_OVER_SECONDS
        recent = [bucket for bucket in self.buckets[-int(_RATE_OVER_SECONDS * 12) :] if bucket.at >= since]
        return sum(bucket.ok + bucket.failed for bucket in recent) / _RATE_OVER_SECONDS
