"""
What people asked, written down: rows and records of one request in one transaction.

Rules that must stay true here:

- Names and free text stand as salted commitments (law 24).
- A write whose reply is lost leaves the working set in doubt: it is read again before anybody acts on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import structlog

from rotator.control import Person
from rotator.core.event import EventType, Trigger
from rotator.core.model import SubjectName
from rotator.engine.engine import Engine
from rotator.engine.recorder import Scribe
from rotator.engine.targets import CertificateTarget, DomainTarget
from rotator.ports import Hold, Rotation
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)


class Book:
    """Writes for the desk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextlib.contextmanager
    def writing(self, target: CertificateTarget | DomainTarget) -> Iterator[None]:
        """Have *target* looked at whatever becomes of the block: a write whose reply is lost may have taken."""
        try:
            with self._engine.recorder.doubting():
                yield
        finally:
            self._engine.pool.kick(target.id)

    def note(
        self,
        type_: EventType,
        target: CertificateTarget | DomainTarget,
        person: Person,
        reason: str,
        rows: Sequence[Rotation | Hold],
        detail: Mapping[str, str | int | bool],
        *,
        rotation: Rotation | None = None,
        exception: tuple[str, str] | None = None,
        words: str | None = None,
        closes: Rotation | None = None,
    ) -> None:
        """
        Write *rows* and what was asked, by whom and why, in one transaction.

        *exception* is result and reason of the exception that this opens, *words* the person's own about it.
        """
        recorder = self._engine.recorder
        recorder.fence()
        saved: list[Rotation | Hold] = []
        with self.writing(target), recorder.journal.transaction() as transaction:
            asker = transaction.commit_to(who(person))
            why = transaction.commit_to(reason)
            for row in rows:
                final = row
                if isinstance(row, Rotation) and rotation is not None and row.id == rotation.id:
                    final = replace(row, requested_by=asker, reason_commitment=why)
                transaction.save(final)
                saved.append(final)
            if closes is not None:
                ended = self.scribe(target, closes).event(
                    EventType.FAILED, result="superseded", reason="a person's request took its place"
                )
                transaction.append(ended)
            scribe = self.scribe(target, rotation)
            asked = scribe.event(type_, result="started" if type_ is EventType.INTENT else "ok", detail=detail)
            transaction.append(replace(asked, requested_by=asker, reason_commitment=why))
            if exception is not None:
                opened = scribe.event(EventType.EXCEPTION_OPENED, result=exception[0], reason=exception[1])
                spoken = transaction.commit_to(words) if words is not None else None
                transaction.append(replace(opened, requested_by=asker, reason_commitment=spoken))
        self._engine.memory.apply(saved)
        self._engine.pool.kick(target.id)

    def refused(
        self, subject: SubjectName, reason: str | None, person: Person, why: str, operation: str | None = None
    ) -> None:
        """Record a request that was not carried out; *reason* is the person's own, *operation* what was asked."""
        recorder = self._engine.recorder
        recorder.fence()
        with recorder.doubting(), recorder.journal.transaction() as transaction:
            asker = transaction.commit_to(who(person))
            words = transaction.commit_to(reason) if reason is not None else None
            scribe = Scribe(clock=self._engine.clock, subject=subject, rotation=None)
            detail = {"operation": operation} if operation is not None else {}
            refused = scribe.event(EventType.REFUSED, result="refused", reason=why, detail=detail)
            transaction.append(replace(refused, requested_by=asker, reason_commitment=words, trigger=Trigger.REQUEST))
        log.warning(LogEvent.REQUEST_REFUSED, subject=subject, reason=why)

    def scribe(self, target: CertificateTarget | DomainTarget, rotation: Rotation | None) -> Scribe:
        """Return the writer of the target's events."""
        identity = f"spiffe://{target.name}" if isinstance(target, DomainTarget) else target.certificate.identity
        return Scribe(clock=self._engine.clock, subject=name_of(target), rotation=rotation, spiffe_id=identity)


def name_of(target: CertificateTarget | DomainTarget) -> SubjectName:
    """Return the target's name as a subject."""
    return target.subject if isinstance(target, DomainTarget) else target.name


def who(person: Person) -> str:
    """Return what stands behind the commitment to a person."""
    return f"{person.name} (uid {person.uid})"
