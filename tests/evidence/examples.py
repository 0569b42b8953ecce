"""
Examples of what goes into a ledger, and a ledger that is a list.

Rules that must stay true here:

- Nothing here is random: the same call gives the same event.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from rotator.core.event import CertificateFacts, Commitment, Corroboration, Event, EventType, Trigger
from rotator.evidence.record import encode

NOON = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


def facts(number: int, *, issuer: str = "aa" * 20, lifetime: timedelta = timedelta(hours=1)) -> CertificateFacts:
    """A certificate that is like no other."""
    return CertificateFacts(
        serial=f"{number:x}",
        sha256=f"{number:064x}",
        issuer=issuer,
        not_before=NOON + timedelta(seconds=number),
        not_after=NOON + timedelta(seconds=number) + lifetime,
    )


def event(number: int = 0, **changes: object) -> Event:
    """A record of each field, *number* seconds after noon; *changes* replace fields."""
    fields: dict[str, object] = {
        "type": EventType.ISSUED,
        "time": NOON + timedelta(seconds=number),
        "subject": "airflow-worker",
        "result": "ok",
        "rotation_id": "r-1",
        "spiffe_id": "spiffe://airflow.prod/airflow/worker",
        "trigger": Trigger.SCHEDULE,
        "reason": "expiring",
        "requested_by": Commitment("sha256:" + "cd" * 32),
        "old": facts(number),
        "new": facts(number + 1),
        "corroboration": Corroboration(vault_request_id=f"request-{number}", probe="tls:127.0.0.1:8443"),
        "detail": {"step": "issue airflow-worker anew", "attempt": 1, "forced": False},
    }
    return Event(**(fields | changes))  # type: ignore[arg-type] # fields by name


class ListLedger:
    """A ledger that is a list; implements `rotator.ports.Ledger`."""

    def __init__(self, entries: Sequence[bytes] = ()) -> None:
        self.all = list(entries)

    def size(self) -> int:
        """How many records there are."""
        return len(self.all)

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """The records ``start <= seq < stop``."""
        return self.all[start:stop]

    def append(self, happened: Event) -> None:
        """Append *happened* with the next number."""
        seq = len(self.all)
        self.all.append(
            encode(happened, seq=seq, record_id=happened.id or f"id-{seq}", environment="test", policy_sha256=None)
        )


def rotation(first: int, rotation_id: str, *, outcome: EventType | None = EventType.COMPLETED) -> list[Event]:
    """A short rotation of three records (two without *outcome*), beginning *first* seconds after noon."""
    started = event(
        first, type=EventType.INTENT, rotation_id=rotation_id, result="started", old=None, new=None, detail={}
    )
    events = [started, event(first + 1, rotation_id=rotation_id)]
    if outcome is not None:
        events.append(event(first + 2, type=outcome, rotation_id=rotation_id))
    return events


def ledger_of(size: int) -> ListLedger:
    """A ledger of *size* records: rotations, and heartbeats to fill it up."""
    return ListLedger(_entries_of(size))


@cache
def _entries_of(size: int) -> Sequence[bytes]:
    found = ListLedger()
    while found.size() + 3 <= size:
        for happened in rotation(found.size(), f"r-{found.size()}"):
            found.append(happened)
    while found.size() < size:
        found.append(heartbeat(found.size()))
    return tuple(found.all)


def heartbeat(number: int) -> Event:
    """A sign of life, *number* seconds after noon."""
    return Event(type=EventType.HEARTBEAT, time=NOON + timedelta(seconds=number), subject="ledger", result="ok")
