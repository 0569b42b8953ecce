"""
Journal nouns to database rows and back.

Rules that must stay true here:

- What is read equals what was saved, to the microsecond.
- A row that this version cannot read is a `JournalError`, never a guess.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from rotator.core.alert_kinds import AlertKind
from rotator.core.approval import Operation
from rotator.core.event import Commitment, Trigger
from rotator.core.model import IntentKind, IssuerId, Serial, Severity, SubjectKind, SubjectName, TrustDomainName
from rotator.platform.changes import ChangeKind, Plan, steps_in, steps_text
from rotator.platform.documents import address_in, address_json, document_in, document_json, json_of
from rotator.ports import (
    AppliedDocument,
    Hold,
    Issuance,
    IssuanceKind,
    IssuanceState,
    PlatformChange,
    Request,
    RequestState,
    Rotation,
    RotationState,
    Sighting,
    StandingAlert,
)

Row = sa.Row[Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def from_moment(moment: datetime) -> int:
    """Return *moment* as microseconds since 1970."""
    return (moment - _EPOCH) // _TICK


def to_moment(microseconds: int) -> datetime:
    """Return the moment that is *microseconds* after 1970."""
    return _EPOCH + microseconds * _TICK


def _from_optional(moment: datetime | None) -> int | None:
    return None if moment is None else from_moment(moment)


def _to_optional(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else to_moment(microseconds)


def from_rotation(rotation: Rotation) -> dict[str, object]:
    """Return the columns of *rotation*."""
    return {
        "id": rotation.id,
        "subject": rotation.subject,
        "kind": rotation.kind.value,
        "intent": rotation.intent.value,
        "trigger": rotation.trigger.value,
        "state": rotation.state.value,
        "opened_at": from_moment(rotation.opened_at),
        "finished_at": _from_optional(rotation.finished_at),
        "emergency": rotation.emergency,
        "reason_commitment": rotation.reason_commitment,
        "requested_by": rotation.requested_by,
        "ticket": rotation.ticket,
        "from_generation": rotation.from_generation,
        "to_generation": rotation.to_generation,
        "trust_published_at": _from_optional(rotation.trust_published_at),
        "activated_at": _from_optional(rotation.activated_at),
        "roll_started_at": _from_optional(rotation.roll_started_at),
        "outcome": rotation.outcome,
        "may_interrupt": rotation.may_interrupt,
        "approved_by": " ".join(rotation.approved_by),
        "kubernetes": rotation.kubernetes,
    }


def to_rotation(row: Row) -> Rotation:
    """Return the rotation in *row*. Raises `ValueError` for a word that this version does not know."""
    return Rotation(
        id=row.id,
        subject=SubjectName(row.subject),
        kind=SubjectKind(row.kind),
        intent=IntentKind(row.intent),
        trigger=Trigger(row.trigger),
        state=RotationState(row.state),
        opened_at=to_moment(row.opened_at),
        finished_at=_to_optional(row.finished_at),
        emergency=row.emergency,
        reason_commitment=Commitment(row.reason_commitment) if row.reason_commitment else None,
        requested_by=Commitment(row.requested_by) if row.requested_by else None,
        ticket=row.ticket,
        from_generation=row.from_generation,
        to_generation=row.to_generation,
        trust_published_at=_to_optional(row.trust_published_at),
        activated_at=_to_optional(row.activated_at),
        roll_started_at=_to_optional(row.roll_started_at),
        outcome=row.outcome,
        may_interrupt=bool(row.may_interrupt),
        approved_by=tuple(map(Commitment, row.approved_by.split())),
        kubernetes=row.kubernetes,
    )


def from_issuance(issuance: Issuance) -> dict[str, object]:
    """Return the columns of *issuance*."""
    return {
        "spki_sha256": issuance.spki_sha256,
        "kind": issuance.kind.value,
        "subject": issuance.subject,
        "trust_domain": issuance.trust_domain,
        "rotation_id": issuance.rotation_id,
        "state": issuance.state.value,
        "asked_at": from_moment(issuance.asked_at),
        "signer": issuance.signer,
        "serial": issuance.serial,
        "not_after": _from_optional(issuance.not_after),
    }


def to_issuance(row: Row) -> Issuance:
    """Return the certificate order in *row*. Raises `ValueError` for a word that this version does not know."""
    return Issuance(
        spki_sha256=row.spki_sha256,
        kind=IssuanceKind(row.kind),
        subject=SubjectName(row.subject),
        trust_domain=TrustDomainName(row.trust_domain),
        rotation_id=row.rotation_id,
        state=IssuanceState(row.state),
        asked_at=to_moment(row.asked_at),
        signer=IssuerId(row.signer) if row.signer else None,
        serial=Serial(row.serial) if row.serial else None,
        not_after=_to_optional(row.not_after),
    )


def from_hold(hold: Hold) -> dict[str, object]:
    """Return the columns of *hold*."""
    return {
        "subject": hold.subject,
        "until": from_moment(hold.until),
        "past_safety_line": hold.past_safety_line,
    }


def to_hold(row: Row) -> Hold:
    """Return the hold in *row*."""
    return Hold(
        subject=SubjectName(row.subject), until=to_moment(row.until), past_safety_line=bool(row.past_safety_line)
    )


def from_sighting(sighting: Sighting) -> dict[str, object]:
    """Return the columns of *sighting*."""
    return {
        "subject": sighting.subject,
        "party": sighting.party,
        "last_leaf_not_after": from_moment(sighting.last_leaf_not_after),
        "served_issuer": sighting.served_issuer,
        "seen_at": from_moment(sighting.seen_at),
    }


def to_sighting(row: Row) -> Sighting:
    """Return the sighting in *row*."""
    return Sighting(
        subject=SubjectName(row.subject),
        party=SubjectName(row.party),
        last_leaf_not_after=to_moment(row.last_leaf_not_after),
        served_issuer=IssuerId(row.served_issuer) if row.served_issuer else None,
        seen_at=to_moment(row.seen_at),
    )


def from_request(request: Request) -> dict[str, object]:
    """Return the columns of *request*."""
    return {
        "id": request.id,
        "operation": request.operation.value,
        "asked_for": request.order,
        "requested_by": request.requested_by,
        "reason": request.reason,
        "words": request.words,
        "state": request.state.value,
        "asked_at": from_moment(request.asked_at),
        "expires_at": _from_optional(request.expires_at),
        "needed": request.needed,
        "approved_by": " ".join(request.approved_by),
        "rotations": " ".join(request.rotations),
        "outcome": request.outcome,
        "kubernetes": request.kubernetes,
    }


def to_request(row: Row) -> Request:
    """Return the request in *row*. Raises `ValueError` for a word that this version does not know."""
    return Request(
        id=row.id,
        operation=Operation(row.operation),
        order=row.asked_for,
        requested_by=Commitment(row.requested_by),
        reason=Commitment(row.reason) if row.reason else None,
        words=Commitment(row.words) if row.words else None,
        state=RequestState(row.state),
        asked_at=to_moment(row.asked_at),
        expires_at=_to_optional(row.expires_at),
        needed=row.needed,
        approved_by=tuple(map(Commitment, row.approved_by.split())),
        rotations=tuple(row.rotations.split()),
        outcome=row.outcome,
        kubernetes=row.kubernetes,
    )


def from_standing_alert(alert: StandingAlert) -> dict[str, object]:
    """Return the columns of *alert*."""
    return {
        "key": alert.key,
        "kind": alert.kind.value,
        "subject": alert.subject,
        "severity": alert.severity.value,
        "since": from_moment(alert.since),
        "summary": alert.summary,
        "raised": alert.raised,
        "at": from_moment(alert.at),
        "record_id": alert.record_id,
        "told": "\n".join(sorted(alert.told)),
    }


def to_standing_alert(row: Row) -> StandingAlert:
    """Return the alert in *row*. Raises `ValueError` for a word that this version does not know."""
    return StandingAlert(
        key=row.key,
        kind=AlertKind(row.kind),
        subject=SubjectName(row.subject),
        severity=Severity(row.severity),
        since=to_moment(row.since),
        summary=row.summary,
        raised=bool(row.raised),
        at=to_moment(row.at),
        record_id=row.record_id,
        told=frozenset(row.told.split("\n")) - {""},
    )


def from_platform_change(change: PlatformChange) -> dict[str, object]:
    """Return the columns of *change*."""
    return {
        "id": change.id,
        "kind": change.kind.value,
        "undoes": change.undoes,
        "steps": steps_text(change.plan.steps),
    }


def to_platform_change(row: Row) -> PlatformChange:
    """Return the change in *row*. Raises `ValueError` for what this version cannot read."""
    return PlatformChange(id=row.id, kind=ChangeKind(row.kind), undoes=row.undoes, plan=Plan(steps=steps_in(row.steps)))


def from_applied_document(applied: AppliedDocument) -> dict[str, object]:
    """Return the columns of *applied*."""
    return {
        "address": json_of(address_json(applied.document.address)),
        "content": json_of(document_json(applied.document)),
        "stood_sha256": applied.stood_sha256,
        "change": applied.change,
        "applied_at": from_moment(applied.at),
    }


def to_applied_document(row: Row) -> AppliedDocument:
    """Return the applied document in *row*. Raises `ValueError` for what this version cannot read."""
    try:
        document = document_in(address_in(json.loads(row.address)), json.loads(row.content))
    except (KeyError, TypeError) as e:
        raise ValueError("an applied document is not readable") from e
    if document is None:
        raise ValueError("an applied document has no content")
    return AppliedDocument(
        document=document, stood_sha256=row.stood_sha256, change=row.change, at=to_moment(row.applied_at)
    )
