"""
Where records wait while the journal cannot be written and an expiry cannot wait (law 12).

Rules that must stay true here:

- What `Spool.add` has returned from is on disk, synced; what a crash cut off was never promised and is dropped.
- Every record gets its id here, once; the ledger takes an id once. So entering the spool twice counts once, wherever a
  kill fell between the commit and `Spool.clear`.
- Spooled records are entered as ``late`` with the next numbers, and with them one ``exception_opened``.
- Records pass the same checks for secrets here as in the ledger: this file outlives its process too.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rotator.core.event import Event, EventType
from rotator.errors import JournalError
from rotator.evidence.record import canonical, encode, event_of, fields_of
from rotator.ports import Clock, Transaction

_EXCEPTIONS = uuid.UUID("8d0a3f0e-6a0b-5c0e-9b59-1f1f4e0f6a11")
"""Namespace of the ids of the exceptions that spools open."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What lies in the spool now."""

    events: tuple[Event, ...]
    unreadable: tuple[bytes, ...]
    length: int
    """Bytes of complete lines."""


class Spool:
    """A file of events, one canonical JSON object a line. Safe from many threads, not from many processes."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        """
        Spool to *path*, made at need; it had better lie on another disk than the journal.

        What an earlier process left there waits on.
        """
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._drained: _Waiting | None = None

    def add(self, events: Sequence[Event]) -> None:
        """
        Append *events* durably.

        Raises:
            JournalError: If the disk does not take them.
            InvariantBroken: If one of them may not become a record.
        """
        lines = bytearray()
        for event in events:
            name = event.id or uuid.uuid4().hex
            encode(event, seq=0, record_id=name, environment="", policy_sha256=None)
            lines += canonical(fields_of(event) | {"id": name}) + b"\n"
        with self._lock, self._translated("write"):
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                end = _complete(handle)
                # Half a line that a crash left was never promised.
                os.ftruncate(handle, end)
                try:
                    _write(handle, bytes(lines), end)
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, end)
                    raise
            finally:
                os.close(handle)
            _sync(self._path.parent)

    def pending(self) -> int:
        """Return how many records wait. Raises `JournalError` if the disk does not say."""
        with self._lock:
            waiting = self._read()
        return len(waiting.events) + len(waiting.unreadable)

    def drain(self, transaction: Transaction) -> int:
        """
        Enter everything into *transaction* as late records and open an exception; return how many were entered.

        The spool is emptied by `clear`, once *transaction* has committed.
        """
        with self._lock:
            waiting = self._read()
            self._drained = waiting
        if not waiting.events and not waiting.unreadable:
            return 0
        for event in waiting.events:
            transaction.append(replace(event, late=True))
        transaction.append(self._exception(waiting))
        return len(waiting.events)

    def clear(self) -> None:
        """Forget what was drained; what was added since stays. Lines that could not be read are set aside."""
        with self._lock, self._translated("empty"):
            drained, self._drained = self._drained, None
            if drained is None or not drained.length:
                return
            if drained.unreadable:
                _replace(self._path.with_name(f"{self._path.name}.unreadable"), b"\n".join(drained.unreadable) + b"\n")
            _replace(self._path, self._path.read_bytes()[drained.length :])

    def _exception(self, waiting: _Waiting) -> Event:
        first = waiting.events[0].id if waiting.events else None
        detail: dict[str, str | int | bool] = {"records": len(waiting.events)}
        if waiting.unreadable:
            detail["unreadable"] = len(waiting.unreadable)
        return Event(
            type=EventType.EXCEPTION_OPENED,
            time=self._clock.now(),
            subject="ledger",
            result="spooled",
            reason="records were written outside the ledger, past a safety line, while it could not be written",
            detail=detail,
            id=uuid.uuid5(_EXCEPTIONS, first or waiting.unreadable[0].hex()).hex,
        )

    def _read(self) -> _Waiting:
        with self._translated("read"):
            try:
                raw = self._path.read_bytes()
            except FileNotFoundError:
                raw = b""
        complete = raw[: raw.rfind(b"\n") + 1]
        events: list[Event] = []
        unreadable: list[bytes] = []
        for line in complete.splitlines():
            try:
                events.append(event_of(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                # One rotten line must not keep the others out of the ledger.
                unreadable.append(line)
        return _Waiting(events=tuple(events), unreadable=tuple(unreadable), length=len(complete))

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise JournalError(f"cannot {doing} the spool {self._path}: {e.strerror or e}") from e


def _complete(handle: int) -> int:
    """Return the length of the complete lines in *handle*."""
    size = os.fstat(handle).st_size
    end = size
    while end and os.pread(handle, 1, end - 1) != b"\n":
        end -= 1
    return end


def _write(handle: int, content: bytes, at: int) -> None:
    while content:
        written = os.pwrite(handle, content, at)
        content, at = content[written:], at + written


def _replace(path: Path, content: bytes) -> None:
    """Write *path* anew, synced and at once, readable by its owner alone."""
    fresh = path.with_name(f".{path.name}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write(handle, content, 0)
        os.fsync(handle)
    finally:
        os.close(handle)
    fresh.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
