"""
Rotating a key that signs tokens: add, wait until it is known, reissue, prove, remove.

Rules that must stay true here:

- One rotation per set of keys at a time (law 5), and its intent is in journal and ledger before a key is made (law 12).
- Which keys there are is asked each time (law 13): a key that a crash left behind is found, never made twice.
- The lease is looked at right before a key is added or removed (law 14).
- Nothing is removed while a token that anybody knows of needs it, rotator's own login included (law 18).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from rotator.core.event import EventType, Trigger
from rotator.core.foreseen_tokens import goes_on_by
from rotator.core.model import IntentKind, SigningKey, SubjectKind, SubjectName
from rotator.core.steps import AddSigningKey, RemoveSigningKey, TrustSigningKey, Wait
from rotator.core.tokens import KeyRotation, decide_signing_key
from rotator.engine.drift import next_look_for_drift
from rotator.engine.leaf_reconciler import POLL, Look
from rotator.engine.locks import Locks
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import Fleet, SigningKeyTarget, TokenTarget
from rotator.engine.token_reconciler import KeyWant, TokenReconciler
from rotator.ports import Rotation, RotationState
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

LOOK_EVERY = timedelta(hours=3)
"""A twentieth of this apart, within the bounds of every other look, keys are looked at though nothing is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyView:
    """One set of signing keys as last seen."""

    keys: tuple[SigningKey, ...]
    opens: datetime | None
    look: Look
    at: datetime


class SigningKeyReconciler:
    """Keeps signing keys as they are wanted."""

    def __init__(self, *, recorder: Recorder, locks: Locks, kick: Callable[[Fleet, SubjectName], None]) -> None:
        """*kick* has the tokens of some keys looked at now."""
        self._recorder = recorder
        self._memory = recorder.memory
        self._clock = recorder.clock
        self._locks = locks
        self._kick = kick
        self._views: dict[SubjectName, SigningKeyView] = {}
        self._lock = threading.Lock()

    def view(self, name: SubjectName) -> SigningKeyView | None:
        """Return *name* as last seen, or None."""
        return self._views.get(name)

    def due(self, target: SigningKeyTarget) -> datetime | None:
        """Return from when on a rotation may begin by itself; None if nobody knows, or one is under way."""
        view = self._views.get(target.name)
        if view is None or view.opens is None or self._memory.open_rotation(target.name) is not None:
            return None
        hold = self._memory.hold(target.name)
        allowed = target.policy.calendar.next_allowed(view.opens) or view.opens
        return max(allowed, hold.until) if hold is not None else allowed

    def goes_on_by(self, fleet: Fleet, target: SigningKeyTarget) -> datetime | None:
        """Return when the rotation that is under way takes its next step if all is well; None without one."""
        rotation = self._memory.open_rotation(target.name)
        if rotation is None:
            return None
        under_way = _under_way(rotation)
        trusted = under_way.trusted_at
        tokens = fleet.signed_by(target.name) if trusted is not None else ()
        reissued = [self._reissued_by(each, trusted) for each in tokens if trusted is not None]
        return goes_on_by(under_way, rotation.opened_at, target.policy, reissued)

    def _reissued_by(self, token: TokenTarget, trusted_at: datetime) -> datetime:
        """Return by when *token* has been issued anew since *trusted_at*, and nobody needs the one before it."""
        hold, policy = self._memory.hold(token.name), token.policy
        begins = policy.calendar.next_allowed(trusted_at) or trusted_at
        if hold is not None:
            begins = max(begins, hold.until)
        return begins + policy.budget.issue + policy.budget.publish + token.token.revoke_after + policy.skew

    def want(self, name: SubjectName | None) -> KeyWant:
        """Return what these keys want of the tokens that they sign, as last seen."""
        if name is None:
            return KeyWant()
        view, rotation = self._views.get(name), self._memory.open_rotation(name)
        keys = frozenset(each.serial for each in view.keys) if view is not None else None
        at_least = 0
        if rotation is not None and rotation.activated_at is not None:
            at_least = rotation.to_generation or 0
        return KeyWant(keys, at_least, rotation)

    def reconcile(self, fleet: Fleet, target: SigningKeyTarget, tokens: TokenReconciler) -> Look:
        """Take at most one step and return when to look again."""
        with self._locks.of(target.id):
            return self._reconcile(fleet, target, tokens)

    def _reconcile(self, fleet: Fleet, target: SigningKeyTarget, tokens: TokenReconciler) -> Look:
        keys, now = target.keys.held(), self._clock.now()
        idle = next_look_for_drift(f"signing-key:{target.name}", LOOK_EVERY, now)
        if not keys:
            on = (f"the first key of {target.keys.place}",)
            return self._saw(target, keys, None, Look(at=idle, waiting_on=on, why="which the control plane makes"))
        rotation = self._memory.open_rotation(target.name)
        opens = target.policy.opens(keys[-1], target.name)
        if rotation is None:
            if not self._is_due(target, opens, now):
                moments = [each for each in (opens, idle) if each is not None and each > now]
                return self._saw(target, keys, opens, Look(at=min(moments, default=idle)))
            rotation = Rotation(
                id=uuid.uuid4().hex,
                subject=target.name,
                kind=SubjectKind.TOKEN,
                intent=IntentKind.ROTATE,
                trigger=Trigger.SCHEDULE,
                state=RotationState.OPEN,
                opened_at=now,
            )
            rotation = self._begin(target, rotation, keys, opened=True)
        elif rotation.to_generation is None:
            rotation = self._begin(target, rotation, keys, opened=False)
        rotation = self._note_added(target, rotation, keys)
        under_way = _under_way(rotation)
        needed = self._needed_by(fleet, target, tokens, under_way) if under_way.trusted_at is not None else ()
        step = decide_signing_key(target.name, keys, under_way, target.policy, now, needed_by=needed)
        match step:
            case AddSigningKey():
                with self._recorder.tracing.step(step, target.name, rotation):
                    self._recorder.fence()
                    target.keys.add(step.serial)
                keys = target.keys.held()
                self._note_added(target, rotation, keys)
                look = Look(at=now + POLL)
            case TrustSigningKey():
                with self._recorder.tracing.step(step, target.name, rotation):
                    self._trust(target, rotation, step.serial)
                self._saw(target, keys, opens, Look(at=now + POLL))
                self._kick(fleet, target.name)
                look = Look(at=now + POLL)
            case RemoveSigningKey():
                with self._recorder.tracing.step(step, target.name, rotation):
                    self._recorder.fence()
                    target.keys.remove(step.serial)
                keys = target.keys.held()
                self._finish(target, rotation)
                look = Look(at=idle)
            case None:
                # Somebody else, or a process before this one, has removed it.
                self._finish(target, rotation, found=True)
                look = Look(at=idle)
            case Wait():
                look = Look(at=step.until or now + 5 * POLL, waiting_on=step.on, why=step.why)
        return self._saw(target, keys, opens, look)

    def _is_due(self, target: SigningKeyTarget, opens: datetime | None, now: datetime) -> bool:
        """Return whether a rotation may begin by itself now: no window, freeze or pause keeps it."""
        if opens is None or now < opens or not target.policy.calendar.allows(now):
            return False
        hold = self._memory.hold(target.name)
        return hold is None or hold.until <= now

    def _needed_by(
        self, fleet: Fleet, target: SigningKeyTarget, tokens: TokenReconciler, under_way: KeyRotation
    ) -> tuple[str, ...]:
        """Return every token that is known to need a key before the new one."""
        found = [tokens.needing(each, under_way.new) for each in fleet.signed_by(target.name)]
        now = self._clock.now()
        found += [
            each.name
            for each in target.keys.known_tokens()
            if each.key < under_way.new and each.not_after + target.policy.skew > now
        ]
        return tuple(each for each in found if each is not None)

    # --- what is written --------------------------------------------------------------------------------------------

    def _begin(
        self, target: SigningKeyTarget, rotation: Rotation, keys: tuple[SigningKey, ...], *, opened: bool
    ) -> Rotation:
        """Write down which key follows which; with *opened* the intent too."""
        rotation = replace(rotation, from_generation=keys[-1].serial, to_generation=keys[-1].serial + 1)
        scribe = self._scribe(target, rotation)
        events = [scribe.event(EventType.INTENT, result="started", reason="expiring")] if opened else []
        self._recorder.write([rotation], events)
        return rotation

    def _note_added(self, target: SigningKeyTarget, rotation: Rotation, keys: tuple[SigningKey, ...]) -> Rotation:
        """Record once that the new key is there."""
        new = rotation.to_generation
        if rotation.trust_published_at is not None or new not in {each.serial for each in keys}:
            return rotation
        rotation = replace(rotation, trust_published_at=self._clock.now())
        event = self._scribe(target, rotation).event(EventType.ISSUED, detail=self._about(target, new or 0))
        self._recorder.write([rotation], [event])
        return rotation

    def _trust(self, target: SigningKeyTarget, rotation: Rotation, serial: int) -> None:
        rotation = replace(rotation, activated_at=self._clock.now())
        event = self._scribe(target, rotation).event(EventType.ACTIVATED, detail=self._about(target, serial))
        self._recorder.write([rotation], [event])

    def _finish(self, target: SigningKeyTarget, rotation: Rotation, *, found: bool = False) -> None:
        scribe = self._scribe(target, rotation)
        old = rotation.from_generation or 0
        retired = scribe.event(EventType.RETIRED, result="found" if found else "ok", detail=self._about(target, old))
        done = replace(rotation, state=RotationState.DONE, finished_at=self._clock.now(), outcome="done")
        completed = scribe.event(EventType.COMPLETED, detail=self._about(target, rotation.to_generation or 0))
        self._recorder.write([done], [retired, completed])
        log.info(LogEvent.ROTATION_FINISHED, subject=target.name, rotation_id=rotation.id)

    def _scribe(self, target: SigningKeyTarget, rotation: Rotation) -> Scribe:
        return Scribe(clock=self._clock, subject=target.name, rotation=rotation)

    @staticmethod
    def _about(target: SigningKeyTarget, serial: int) -> dict[str, str | int | bool]:
        return {"signing_key": target.keys.place, "kid": serial}

    def _saw(self, target: SigningKeyTarget, keys: tuple[SigningKey, ...], opens: datetime | None, look: Look) -> Look:
        view = SigningKeyView(keys=keys, opens=opens, look=look, at=self._clock.now())
        with self._lock:
            self._views[target.name] = view
        return look


def _under_way(rotation: Rotation) -> KeyRotation:
    """Return *rotation* as the next step is decided from it."""
    return KeyRotation(
        old=rotation.from_generation or 0,
        new=rotation.to_generation or 0,
        added_at=rotation.trust_published_at,
        trusted_at=rotation.activated_at,
    )
