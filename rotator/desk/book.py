"""
What people asked, written down: rows and records of one request in one transaction.

Rules that must stay true here:

- Names and free text stand as salted commitments (law 24).
- A write whose reply is lost leaves the working set in doubt: it is read again before anybody acts on it.
- A record that a request makes has an id of its own: carried out again after a crash, it is not there twice (law 21).
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from rotator.core.event import Corroboration, Event, EventType, Trigger
from rotator.core.model import SubjectName
from rotator.desk.asking import Asked, Signed
from rotator.engine.engine import Engine
from rotator.engine.recorder import Scribe
from rotator.engine.targets import (
    CertificateTarget,
    DomainTarget,
    PlatformTarget,
    SigningKeyTarget,
    TokenTarget,
)
from rotator.ports import AppliedDocument, Hold, PlatformChange, Request, Rotation
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

Target = CertificateTarget | DomainTarget | PlatformTarget | TokenTarget | SigningKeyTarget
Draft = Callable[[Signed], Request]
"""Makes the request's row from the commitments of the transaction that saves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceptional:
    """What a request sets aside on a person's word."""

    result: str
    reason: str
    in_words: bool = False
    """The person has said in words of their own why."""


class Book:
    """Writes for the desk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextlib.contextmanager
    def writing(self, target: Target) -> Iterator[None]:
        """Have *target* looked at whatever becomes of the block: a write whose reply is lost may have taken."""
        try:
            with self._engine.recorder.doubting():
                yield
        finally:
            self._engine.pool.kick(target.id)

    def note(
        self,
        type_: EventType,
        target: Target,
        asked: Asked,
        rows: Sequence[Rotation | Hold],
        detail: Mapping[str, str | int | bool],
        *,
        rotation: Rotation | None = None,
        exceptions: Sequence[Exceptional] = (),
        closes: Rotation | None = None,
        draft: Draft | None = None,
        change: PlatformChange | None = None,
    ) -> None:
        """
        Write *rows*, the request's own row and what was asked, by whom and why, in one transaction.

        *change* is what a rotation of the platform writes.
        """
        recorder = self._engine.recorder
        recorder.fence()
        saved: list[Rotation | Hold] = []
        with self.writing(target), recorder.journal.transaction() as transaction:
            signed = asked.sign(transaction)
            for row in rows:
                final = row
                if isinstance(row, Rotation) and rotation is not None and row.id == rotation.id:
                    final = replace(
                        row,
                        requested_by=signed.by,
                        reason_commitment=signed.reason,
                        approved_by=asked.approved_by,
                        kubernetes=asked.kubernetes,
                    )
                transaction.save(final)
                saved.append(final)
            if change is not None:
                transaction.save(change)
            if closes is not None:
                transaction.append(self._superseded(target, closes))
            scribe = self.scribe(target, rotation)
            event = scribe.event(
                type_,
                result="started" if type_ is EventType.INTENT else "ok",
                corroboration=Corroboration(kubernetes=asked.kubernetes),
                detail={**detail, "request": asked.id},
            )
            named = replace(
                event,
                id=asked.record_id(type_.value, event.subject),
                requested_by=signed.by,
                approved_by=asked.approved_by,
                reason_commitment=signed.reason,
            )
            transaction.append(named)
            for each in exceptions:
                opened = replace(
                    event,
                    type=EventType.EXCEPTION_OPENED,
                    id=asked.record_id(each.result, event.subject),
                    result=each.result,
                    reason=each.reason,
                    detail={"request": asked.id},
                    requested_by=signed.by,
                    approved_by=asked.approved_by,
                    reason_commitment=signed.words if each.in_words else None,
                )
                transaction.append(opened)
            if draft is not None:
                transaction.save(draft(signed))
        self._engine.memory.apply(saved)
        self._engine.pool.kick(target.id)

    def released(self, target: Target, asked: Asked, *, draft: Draft | None) -> None:
        """Take the hold on *target* away, and write down who said so."""
        recorder = self._engine.recorder
        recorder.fence()
        with self.writing(target), recorder.journal.transaction() as transaction:
            signed = asked.sign(transaction)
            transaction.release(name_of(target))
            event = self.scribe(target, None).event(
                EventType.RESUMED,
                corroboration=Corroboration(kubernetes=asked.kubernetes),
                detail={"request": asked.id},
            )
            transaction.append(
                replace(
                    event,
                    id=asked.record_id(event.type.value, event.subject),
                    requested_by=signed.by,
                    approved_by=asked.approved_by,
                )
            )
            if draft is not None:
                transaction.save(draft(signed))
        self._engine.memory.release(name_of(target))
        self._engine.pool.kick(target.id)

    def nothing_to_do(
        self,
        target: Target,
        asked: Asked,
        known: Sequence[AppliedDocument],
        draft: Draft | None,
        *,
        closes: Rotation | None = None,
    ) -> None:
        """
        Write down a request for what is so already, and who asked.

        *known* is what stands as it was asked for, and is looked after from now on; *closes* is the change that was
        still to write something else, as it ends.
        """
        recorder = self._engine.recorder
        recorder.fence()
        with self.writing(target), recorder.journal.transaction() as transaction:
            signed = asked.sign(transaction)
            for each in known:
                transaction.save(each)
            if closes is not None:
                transaction.save(closes)
                transaction.append(self._superseded(target, closes))
            event = self.scribe(target, None).event(
                EventType.INTENT,
                result="nothing to do",
                corroboration=Corroboration(kubernetes=asked.kubernetes),
                detail={"request": asked.id},
            )
            transaction.append(
                replace(
                    event,
                    id=asked.record_id("nothing to do", event.subject),
                    requested_by=signed.by,
                    approved_by=asked.approved_by,
                    reason_commitment=signed.reason,
                    trigger=Trigger.REQUEST,
                )
            )
            if draft is not None:
                transaction.save(draft(signed))
        if closes is not None:
            self._engine.memory.apply([closes])

    def begun(self, asked: Asked, draft: Draft) -> Request:
        """Write down a request that is carried out in several transactions, and return it."""
        recorder = self._engine.recorder
        recorder.fence()
        with recorder.doubting(), recorder.journal.transaction() as transaction:
            row = draft(asked.sign(transaction))
            transaction.save(row)
        return row

    def waits(self, subject: SubjectName, asked: Asked, operation: str, needed: int, draft: Draft) -> Request:
        """Write down a request that waits for *needed* people's words, and return it."""
        recorder = self._engine.recorder
        recorder.fence()
        with recorder.doubting(), recorder.journal.transaction() as transaction:
            signed = asked.sign(transaction)
            row = draft(signed)
            transaction.save(row)
            event = self._plain(subject).event(
                EventType.INTENT,
                result="awaiting approval",
                corroboration=Corroboration(kubernetes=asked.kubernetes),
                detail={"operation": operation, "request": asked.id, "approvals_needed": needed},
            )
            transaction.append(
                replace(
                    event,
                    id=asked.record_id("awaiting approval", subject),
                    requested_by=signed.by,
                    reason_commitment=signed.reason,
                    trigger=Trigger.REQUEST,
                )
            )
        log.info(LogEvent.REQUEST_WAITING, subject=subject, request=asked.id, approvals_needed=needed)
        return row

    def word(
        self,
        subject: SubjectName,
        row: Request,
        who: str,
        reason: str | None,
        *,
        approves: bool,
        kubernetes: str | None,
        then: Callable[[Request], Request],
    ) -> Request:
        """Write down somebody's word on *row* and return it as it stands after *then*."""
        recorder = self._engine.recorder
        recorder.fence()
        with recorder.doubting(), recorder.journal.transaction() as transaction:
            by = transaction.commit_to(who)
            why = transaction.commit_to(reason) if reason is not None else None
            final = then(replace(row, approved_by=(*row.approved_by, by)) if approves else row)
            transaction.save(final)
            event = self._plain(subject).event(
                EventType.APPROVAL,
                result="approved" if approves else "rejected",
                corroboration=Corroboration(kubernetes=kubernetes),
                detail={"request": row.id, "approvals_needed": row.needed, "approvals_given": len(final.approved_by)},
            )
            transaction.append(
                replace(
                    event,
                    id=word_id(kubernetes),
                    requested_by=row.requested_by,
                    approved_by=(by,),
                    reason_commitment=why,
                )
            )
        return final

    def refused(
        self,
        subject: SubjectName,
        asked: Asked,
        why: str,
        *,
        operation: str | None = None,
        result: str = "refused",
        draft: Draft | None = None,
    ) -> None:
        """Record a request that was not carried out; *operation* is what was asked."""
        recorder = self._engine.recorder
        recorder.fence()
        with recorder.doubting(), recorder.journal.transaction() as transaction:
            signed = asked.sign(transaction)
            event = self._plain(subject).event(
                EventType.REFUSED,
                result=result,
                reason=why,
                corroboration=Corroboration(kubernetes=asked.kubernetes),
                detail={"request": asked.id} | ({"operation": operation} if operation is not None else {}),
            )
            transaction.append(
                replace(
                    event,
                    id=asked.record_id(result, subject),
                    requested_by=signed.by,
                    reason_commitment=signed.reason,
                    trigger=Trigger.REQUEST,
                )
            )
            if draft is not None:
                transaction.save(draft(signed))
        log.warning(LogEvent.REQUEST_REFUSED, subject=subject, reason=why)

    def scribe(self, target: Target, rotation: Rotation | None) -> Scribe:
        """Return the writer of the target's events."""
        match target:
            case DomainTarget():
                identity: str | None = f"spiffe://{target.name}"
            case CertificateTarget():
                identity = target.certificate.identity
            case PlatformTarget() | TokenTarget() | SigningKeyTarget():
                identity = None
        return Scribe(clock=self._engine.clock, subject=name_of(target), rotation=rotation, spiffe_id=identity)

    def _superseded(self, target: Target, closes: Rotation) -> Event:
        """Return the record of the end of what a person's request takes the place of."""
        return self.scribe(target, closes).event(
            EventType.FAILED, result="superseded", reason="a person's request took its place"
        )

    def _plain(self, subject: SubjectName) -> Scribe:
        return Scribe(clock=self._engine.clock, subject=subject, rotation=None)


def name_of(target: Target) -> SubjectName:
    """Return the target's name as a subject."""
    return target.subject if isinstance(target, DomainTarget) else target.name


def word_id(kubernetes: str | None) -> str | None:
    """Return the id of the one record of the approval whose object has the uid *kubernetes*; None lets any be taken."""
    return None if kubernetes is None else uuid.uuid5(uuid.NAMESPACE_URL, f"approval:{kubernetes}").hex
