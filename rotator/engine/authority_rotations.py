"""
A trust domain's rotations in journal and ledger: opened, turned, closed.

Rules that must stay true here:

- Row and record of one change stand in one transaction.
- A rotation is closed with what proves its end.
- An activation whose reply or record a crash swallowed is recorded when it is found (law 21).
"""

from __future__ import annotations

import uuid
from dataclasses import replace

import structlog

from rotator.core.event import Corroboration, EventType, Trigger
from rotator.core.model import AuthorityIntent, AuthoritySeen, Generation, IntentKind, SubjectKind
from rotator.engine.domains import DomainState
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import DomainTarget
from rotator.ports import Rotation, RotationState
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)


class AuthorityRotations:
    """Writes what becomes of rotations of trust domains."""

    def __init__(self, *, recorder: Recorder) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._noted: set[str] = set()
        """Ids of records that are known to stand in the ledger."""

    def open(self, domain: DomainTarget, seen: AuthoritySeen, why: str) -> Rotation:
        """Open a rotation that nobody asked for, with its reason."""
        active = next((each.number for each in seen.generations if each.authority.id == seen.active), None)
        rotation = Rotation(
            id=uuid.uuid4().hex,
            subject=domain.subject,
            kind=SubjectKind.TRUST_DOMAIN,
            intent=IntentKind.ROTATE,
            trigger=Trigger.SCHEDULE if active is not None else Trigger.BOOTSTRAP,
            state=RotationState.OPEN,
            opened_at=self._clock.now(),
            from_generation=active,
        )
        intent = self._scribe(domain, rotation).event(EventType.INTENT, result="started", reason=why)
        self._recorder.write([rotation], [intent])
        log.info(LogEvent.ROTATION_OPENED, subject=domain.subject, rotation_id=rotation.id, reason=why)
        return rotation

    def note_activated(self, domain: DomainTarget, rotation: Rotation, seen: AuthoritySeen) -> Rotation:
        """Return *rotation* as it stands, after recording an activation that a crash left without a record."""
        active = next((each for each in seen.generations if each.authority.id == seen.active), None)
        if active is None:
            return rotation
        begun, led_to = rotation.from_generation, rotation.to_generation
        if begun is not None and active.number <= begun:
            if rotation.intent is IntentKind.ROLL_BACK and rotation.activated_at is not None:
                # The successor had signed and does no longer: it was walked back.
                self._note_back(domain, rotation, active, seen)
            return rotation
        if rotation.activated_at is not None or (led_to != active.number and (led_to is not None or begun is None)):
            return rotation
        old = next((each.authority for each in seen.generations if each.number == begun), None)
        activated = self._scribe(domain, rotation).event(
            EventType.ACTIVATED,
            result="found",
            old=old,
            new=active.authority,
            detail={"generation": active.number, "back": False, "recovered": True},
        )
        with self._recorder.amending(rotation) as current:
            noted = replace(current, activated_at=self._clock.now(), to_generation=active.number)
            self._recorder.write([noted], [activated])
        return noted

    def _note_back(self, domain: DomainTarget, rotation: Rotation, active: Generation, seen: AuthoritySeen) -> None:
        """Record that *active* signs again; once, whoever did it first."""
        record_id = back_id(rotation)
        if record_id in self._noted:
            return
        old = next((each.authority for each in seen.generations if each.number == rotation.to_generation), None)
        again = self._scribe(domain, rotation).event(
            EventType.ACTIVATED,
            result="found",
            old=old,
            new=active.authority,
            detail={"generation": active.number, "back": True, "recovered": True},
        )
        self._recorder.write((), [replace(again, id=record_id)])
        self._noted.add(record_id)

    def finish(self, domain: DomainTarget, state: DomainState, rotation: Rotation | None, *, rolled_back: bool) -> None:
        """Close *rotation* with what proves its end."""
        if rotation is None:
            return
        signer = state.signer.authority if state.signer is not None else None
        served = tuple(
            str(party.name) for party in state.seen.parties if signer is not None and party.served_issuer == signer.id
        )
        scribe = self._scribe(domain, rotation)
        ended = RotationState.ROLLED_BACK if rolled_back else RotationState.DONE
        last = EventType.ROLLED_BACK if rolled_back else EventType.COMPLETED
        verified = scribe.event(EventType.VERIFIED, new=signer, corroboration=Corroboration(dataplanes=served))
        with self._recorder.amending(rotation) as current:
            if current.intent is not rotation.intent:
                # A person has said another direction since: that is decided first.
                return
            self._recorder.write(
                [replace(current, state=ended, finished_at=self._clock.now(), outcome=ended.value)],
                [verified, scribe.event(last, new=signer)],
            )
        log.info(LogEvent.ROTATION_FINISHED, subject=domain.subject, rotation_id=rotation.id, rolled_back=rolled_back)

    def refuse(self, domain: DomainTarget, rotation: Rotation | None, reason: str) -> None:
        """Put a refused direction aside: what was under way before it goes on."""
        if rotation is None:
            return
        refused = self._scribe(domain, rotation).event(EventType.REFUSED, result="refused", reason=reason)
        if rotation.intent is IntentKind.ROLL_BACK:
            # The rotation itself is still under way and must reach an end state.
            self._recorder.write([replace(rotation, intent=IntentKind.ROTATE)], [refused])
        else:
            closed = replace(
                rotation, state=RotationState.REFUSED, finished_at=self._clock.now(), outcome=f"refused: {reason}"
            )
            self._recorder.write([closed], [refused])
        log.error(LogEvent.ROTATION_REFUSED, subject=domain.subject, rotation_id=rotation.id, reason=reason)

    def _scribe(self, domain: DomainTarget, rotation: Rotation) -> Scribe:
        """Return the writer of this domain's events."""
        return Scribe(clock=self._clock, subject=domain.subject, rotation=rotation, spiffe_id=f"spiffe://{domain.name}")


def intent_of(rotation: Rotation | None) -> AuthorityIntent | None:
    """Return what is under way, for the decision."""
    if rotation is None:
        return None
    return AuthorityIntent(
        rotation_id=rotation.id,
        kind=rotation.intent,
        since=rotation.opened_at,
        from_generation=rotation.from_generation,
        to_generation=rotation.to_generation,
        trust_published_at=rotation.trust_published_at,
        activated_at=rotation.activated_at,
        emergency=rotation.emergency,
    )


def back_id(rotation: Rotation) -> str:
    """Return the id of the one record that says that *rotation* was walked back to whom it left."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"activated:{rotation.id}:back").hex
