"""
Rows and records become true together; past the safety line records may wait outside (law 12).

Rules that must stay true here:

- Intent before effect: a step that cannot write its intent does not start, unless its subject is past its safety line.
- One effect, one record (law 21): rows and events of one effect go into one transaction.
- What had to be spooled is entered later with the next numbers, marked late, and opens an exception.
- A database that does not answer costs its time-out once in a while, not at each record of each subject that ends.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from rotator.core.event import CertificateFacts, Corroboration, Event, EventType
from rotator.core.model import Authority, Leaf, Token
from rotator.core.trace import trace_id
from rotator.engine.memory import Memory, Row
from rotator.engine.tracing import Tracing
from rotator.errors import InvariantBroken, JournalError
from rotator.ports import Clock, Journal, Lease, Rotation, Sighting, StandingAlert, Transaction
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)


AWAY_FOR = timedelta(seconds=30)
"""A journal that could not be used is not waited for again for so long by what is past its safety line."""


class EventSpool(Protocol):
    """Where records wait while the journal cannot be written."""

    def add(self, events: Sequence[Event]) -> None:
        """Append *events* durably."""
        ...

    def drain(self, transaction: Transaction) -> int:
        """Enter everything into *transaction* as late records; return how many. Emptied by `clear`."""
        ...

    def clear(self) -> None:
        """Forget what was drained, after the transaction has committed."""
        ...

    def pending(self) -> int:
        """Return how many records wait."""
        ...


class Recorder:
    """Writes rows and events in one transaction, behind the fence of the lease."""

    def __init__(self, *, journal: Journal, memory: Memory, clock: Clock, lease: Lease, spool: EventSpool) -> None:
        self.journal = journal
        self.memory = memory
        self.clock = clock
        self._lease = lease
        self._spool = spool
        self._draining = threading.Lock()
        self._amending = threading.RLock()
        self._in_doubt = threading.Event()
        """A commit whose reply was lost may have taken: the working set is read again before it is trusted."""
        self._failed_at: float | None = None
        """On the monotonic clock; None since it was written last."""
        self._told: list[Callable[[Sequence[Event]], None]] = []
        self.tracing = Tracing(clock)
        memory.tell(self._ended)

    def tell(self, committed: Callable[[Sequence[Event]], None]) -> None:
        """Call *committed* with the events of each `write` that took, once; it must not raise."""
        self._told.append(committed)

    def _ended(self, rotation: Rotation) -> None:
        # A standby reads the journal: what it sees end there the leader tells of.
        if self._lease.held():
            self.tracing.rotation_ended(rotation)

    def fence(self) -> None:
        """Raise `InvariantBroken` if this process no longer holds the lease: it must not write anywhere (law 14)."""
        if not self._lease.held():
            raise InvariantBroken(14, "the lease is lost, so this process must not change the world any more")

    def write(
        self,
        rows: Sequence[Row] = (),
        events: Sequence[Event] = (),
        *,
        safety_line: datetime | None = None,
        also: Callable[[Transaction], None] | None = None,
    ) -> bool:
        """
        Commit *rows* and *events* together; return False if they had to be spooled.

        *also* writes into the same transaction what the working set does not hold; nothing of it is ever spooled.

        Raises:
            JournalError: If they cannot be committed and the subject is not past *safety_line*.
        """
        self.fence()
        if self._is_past(safety_line) and self.is_away():
            self._keep_outside(rows, events)
            return False
        try:
            with self.journal.transaction() as transaction:
                for row in rows:
                    transaction.save(row)
                if also is not None:
                    also(transaction)
                for event in events:
                    transaction.append(event)
        except JournalError:
            self._in_doubt.set()
            self._failed_at = self.clock.monotonic()
            if not self._is_past(safety_line):
                raise
            self._keep_outside(rows, events)
            return False
        except BaseException:
            self._in_doubt.set()
            raise
        self._failed_at = None
        self.memory.apply(rows)
        for tell in self._told:
            tell(events)
        return True

    def is_away(self) -> bool:
        """Return whether the journal could not be used a moment ago, and has not been since."""
        failed_at = self._failed_at
        return failed_at is not None and self.clock.monotonic() - failed_at < AWAY_FOR.total_seconds()

    def _is_past(self, safety_line: datetime | None) -> bool:
        return safety_line is not None and self.clock.now() >= safety_line

    def _keep_outside(self, rows: Sequence[Row], events: Sequence[Event]) -> None:
        """Expiry beats bookkeeping: the rows are found again by observing, the records must not be lost."""
        self._spool.add(events)
        self.memory.keep_unsaved(rows)
        self.memory.apply(rows)
        log.error(LogEvent.LEDGER_SPOOLED, count=len(events))

    def noted(self, events: Sequence[Event], kept: Sequence[StandingAlert], gone: Sequence[StandingAlert]) -> None:
        """Commit *events* and what people know of alerts, together. Raises `JournalError` if it cannot."""
        self.fence()
        try:
            with self.journal.transaction() as transaction:
                for event in events:
                    transaction.append(event)
                for each in kept:
                    transaction.save(each)
                for each in gone:
                    transaction.forget(each)
        except BaseException:
            self._in_doubt.set()
            raise

    def compose(self, make: Callable[[Transaction], Iterable[Event]]) -> None:
        """
        Commit the events that *make* writes with the transaction at hand: for those that commit to people's names.

        Raises:
            JournalError: If they cannot be committed; nothing is spooled, the caller makes them anew.
        """
        self.fence()
        with self.doubting(), self.journal.transaction() as transaction:
            for event in make(transaction):
                transaction.append(event)

    @contextlib.contextmanager
    def amending(self, rotation: Rotation) -> Iterator[Rotation]:
        """
        Give *rotation* as it stands now, until the block has written what it changes of it.

        The engine notes progress while a person may say another direction: neither may write over the other's word.
        """
        with self._amending:
            current = self.memory.open_rotation(rotation.subject)
            yield current if current is not None and current.id == rotation.id else rotation

    def sighted(self, seen: Sequence[Sighting], gone: Sequence[Sighting]) -> None:
        """Keep the sightings *seen* and remove those that are *gone*, together. Raises `JournalError` if it cannot."""
        self.fence()
        try:
            with self.journal.transaction() as transaction:
                for each in seen:
                    transaction.save(each)
                for each in gone:
                    transaction.forget(each)
        except BaseException:
            self._in_doubt.set()
            raise
        self.memory.apply(seen)
        for each in gone:
            self.memory.forget(each)

    @contextlib.contextmanager
    def doubting(self) -> Iterator[None]:
        """Leave the working set in doubt if the block, which writes to the journal itself, does not end well."""
        try:
            yield
        except BaseException:
            self._in_doubt.set()
            raise

    def settle_doubt(self) -> None:
        """Read the working set again if a commit's reply was lost. Raises `JournalError` if that cannot be done."""
        if self._in_doubt.is_set():
            self._in_doubt.clear()
            try:
                self.memory.load(self.journal)
            except JournalError:
                self._failed_at = self.clock.monotonic()
                self._in_doubt.set()
                raise
            except BaseException:
                self._in_doubt.set()
                raise
            self.memory.apply(self.memory.unsaved())

    def waiting_outside(self) -> int:
        """Return how many records and rows wait outside the journal. Raises `JournalError` if the disk does not say."""
        return self._spool.pending() + len(self.memory.unsaved())

    def enter_spooled(self) -> int:
        """Enter what waits outside as late records; return how many. Quiet while the journal is still unwritable."""
        with self._draining:
            unsaved = self.memory.unsaved()
            if not self._spool.pending() and not unsaved:
                return 0
            try:
                with self.journal.transaction() as transaction:
                    for row in unsaved:
                        transaction.save(row)
                    entered = self._spool.drain(transaction)
            except JournalError:
                return 0
            self._failed_at = None
            self._spool.clear()
            self.memory.saved(len(unsaved))
        log.info(LogEvent.LEDGER_SPOOLED, entered=entered)
        return entered


@dataclass(frozen=True, slots=True, kw_only=True)
class Scribe:
    """Writes the events of one subject within one rotation."""

    clock: Clock
    subject: str
    rotation: Rotation | None
    spiffe_id: str | None = None
    rotation_id: str | None = None
    """For events of a rotation that is closed already."""

    def event(
        self,
        type_: EventType,
        *,
        result: str = "ok",
        reason: str | None = None,
        old: Leaf | Authority | Token | None = None,
        new: Leaf | Authority | Token | None = None,
        corroboration: Corroboration | None = None,
        detail: Mapping[str, str | int | bool] | None = None,
    ) -> Event:
        """Return one event, stamped now, with who asked for it and why taken from the rotation."""
        rotation = self.rotation
        rotation_id = rotation.id if rotation is not None else self.rotation_id
        return Event(
            type=type_,
            time=self.clock.now(),
            subject=self.subject,
            result=result,
            rotation_id=rotation_id,
            spiffe_id=self.spiffe_id,
            trigger=rotation.trigger if rotation is not None else None,
            reason=reason,
            reason_commitment=rotation.reason_commitment if rotation is not None else None,
            requested_by=rotation.requested_by if rotation is not None else None,
            approved_by=rotation.approved_by if rotation is not None else (),
            old=_facts(old),
            new=_facts(new),
            corroboration=corroboration or Corroboration(),
            trace_id=trace_id(rotation_id) if rotation_id else None,
            detail=dict(detail or {}),
        )


def _facts(certificate: Leaf | Authority | Token | None) -> CertificateFacts | None:
    """Return what a record says of *certificate*, or of a token."""
    if certificate is None:
        return None
    signer = certificate.parent or certificate.id if isinstance(certificate, Authority) else certificate.issuer
    return CertificateFacts(
        serial=certificate.serial,
        sha256=certificate.sha256,
        issuer=signer,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
    )
