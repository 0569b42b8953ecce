"""
What the records of a log say together: no number left out, no rotation without an end, no unexplained silence.

Rules that must stay true here:

- A record that is not canonical, or not in its place, is a mark of tampering; what is merely odd is a remark.
- Only what is still open is kept in memory, not the records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.core.event import EventType
from rotator.errors import LedgerTampered
from rotator.evidence.record import Fields, moment_of, parse, rfc3339

OUTCOMES = frozenset(
    {EventType.COMPLETED, EventType.FAILED, EventType.ROLLED_BACK, EventType.MISSED, EventType.REFUSED}
)
"""What ends a rotation."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""Several threads write: a record may tell of a moment a little before the record in front of it."""

HEARTBEAT_EVERY = timedelta(hours=1)
"""The default of ``ledger.heartbeat_every``, for heartbeats that do not say theirs in ``detail.every_seconds``."""

LONGEST_PROMISE_SECONDS = 366 * 86_400

MAX_REMEMBERED = 1_000
"""Findings of one kind; a hostile log would otherwise fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """A rotation whose outcome is not yet recorded."""

    seq: int
    subject: str
    since: datetime


class Reading:
    """Reads records in their order and remembers what does not fit."""

    def __init__(self, *, under_way: timedelta) -> None:
        """Let a rotation be open that began within *under_way* before the last record."""
        self._under_way = under_way
        self._open: dict[str, _Open] = {}
        self._ended: set[str] = set()
        self._latest: datetime | None = None
        self._every: timedelta | None = None
        self._environment: object = None
        self.wrong: list[str] = []
        """Marks of tampering."""
        self.remarks: list[str] = []

    def read(self, seq: int, entry: bytes) -> None:
        """Take the record at place *seq*."""
        try:
            fields = parse(entry)
        except LedgerTampered as e:
            self._wrong(f"record {seq}: {e}")
            return
        if fields["seq"] != seq:
            self._wrong(f"record {seq} says that it is number {fields['seq']}")
        self._rotation(seq, fields)
        if not fields["late"]:
            self._time(seq, fields, moment_of(fields["time"]))
        if self._environment is None:
            self._environment = fields["environment"]
        elif fields["environment"] != self._environment:
            self._remark(f"record {seq} is of another environment than the records before it")
            self._environment = fields["environment"]

    def unfinished(self) -> Iterator[str]:
        """Yield a sentence for each rotation without an outcome."""
        for name, begun in self._open.items():
            if self._latest is None or self._latest - begun.since >= self._under_way:
                yield (
                    f"rotation {name} of {begun.subject} has no outcome "
                    f"(intended {rfc3339(begun.since)}, record {begun.seq})"
                )

    def _rotation(self, seq: int, fields: Fields) -> None:
        name = fields["rotation_id"]
        if name is None:
            return
        if fields["type"] in OUTCOMES:
            self._open.pop(name, None)
            self._ended.add(name)
        elif fields["type"] == EventType.INTENT and name not in self._ended and name not in self._open:
            self._open[name] = _Open(seq=seq, subject=fields["subject"], since=moment_of(fields["time"]))

    def _time(self, seq: int, fields: Fields, moment: datetime) -> None:
        if self._latest is not None:
            if self._latest - moment > CLOCK_TOLERANCE:
                self._remark(
                    f"record {seq} is {self._latest - moment} earlier than the one before it: a clock went back"
                )
            # Silence is judged once heartbeats have promised that there would be none.
            if self._every is not None and moment - self._latest > 2 * self._every:
                self._remark(
                    f"silent from {rfc3339(self._latest)} to {rfc3339(moment)} (record {seq}), "
                    f"though heartbeats come every {self._every}"
                )
        self._latest = moment if self._latest is None else max(self._latest, moment)
        if fields["type"] == EventType.HEARTBEAT:
            self._every = _promised(fields)

    def _wrong(self, what: str) -> None:
        if len(self.wrong) < MAX_REMEMBERED:
            self.wrong.append(what)

    def _remark(self, what: str) -> None:
        if len(self.remarks) < MAX_REMEMBERED:
            self.remarks.append(what)


def _promised(heartbeat: Fields) -> timedelta:
    """Return how long after *heartbeat* the next one was promised."""
    match heartbeat.get("detail"):
        case {"every_seconds": int(seconds)} if 0 < seconds < LONGEST_PROMISE_SECONDS:
            return timedelta(seconds=seconds)
        case _:
            return HEARTBEAT_EVERY
