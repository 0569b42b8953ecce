"""
Observe, decide, execute, verify, record: one token.

Rules that must stay true here:

- Whatever was ordered and not published is accounted for before anything new is ordered (law 13).
- A rotation ends when every place has been read back with the new token (law 16); what it replaced is revoked after its
  consumers had time to read the new one, and only if it lives on (law 18).
- A revocation list is looked at each time: what somebody else revoked is replaced at once, what somebody took off again
  is put back, and what has ended leaves the list, so that it stays as short as the tokens are.
- No revocation, and no list that cannot be read, ever keeps a renewal waiting; past the safety line no record does, of
  whatever was left behind either (law 12).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from rotator.core.event import Corroboration, EventType, Trigger
from rotator.core.model import (
    AskedFor,
    IntentKind,
    Observation,
    Publication,
    Serial,
    SubjectKind,
    SubjectName,
    TokenWant,
)
from rotator.core.steps import IssueToken, Nothing, Reason, RepublishToken, Wait
from rotator.core.tokens import decide_token, holds_token, token_identity, token_verdict, token_window
from rotator.core.window import Window
from rotator.engine.drift import next_look_for_drift, note_drift
from rotator.engine.leaf_reconciler import POLL, Look
from rotator.engine.limits import Limits
from rotator.engine.locks import Locks
from rotator.engine.recorder import Recorder
from rotator.engine.targets import Fleet, TokenTarget
from rotator.engine.token_steps import TokenSteps
from rotator.errors import AdapterError
from rotator.ports import Issuance, IssuanceKind, IssuanceState, Rotation, RotationState, TokenStore
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

REVOKED_AGAIN_IN = timedelta(minutes=1)
"""A list that could not be written is tried again then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """One token as last seen, for status, alerts and the rotation of its signing key."""

    observation: Observation
    window: Window | None
    best: Publication | None
    waiting_on: tuple[str, ...]
    """Places that do not hold it yet."""
    look: Look
    at: datetime
    problem: str = ""
    """Why the revocation list could not be read or written, in words; empty if all is well."""

    @property
    def proven(self) -> bool:
        """Return whether every place has been read back with one good token."""
        return self.best is not None and not self.waiting_on


@dataclass(frozen=True, slots=True)
class KeyWant:
    """What the rotation of a signing key wants of the tokens that it signs."""

    keys: frozenset[int] | None = None
    at_least: int = 0
    cause: Rotation | None = None


class TokenReconciler:
    """Keeps tokens as they are wanted."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        limits: Limits,
        locks: Locks,
        steps: TokenSteps,
        key_want: Callable[[SubjectName | None], KeyWant],
    ) -> None:
        self._recorder = recorder
        self._memory = recorder.memory
        self._clock = recorder.clock
        self._limits = limits
        self._locks = locks
        self._steps = steps
        self._key_want = key_want
        self._views: dict[SubjectName, TokenView] = {}
        self._views_lock = threading.Lock()
        self._on_list: dict[SubjectName, dict[str, Issuance]] = {}
        """Orders that are revoked and may not have ended, by subject and order."""

    def view(self, name: SubjectName) -> TokenView | None:
        """Return *name* as last seen, or None."""
        return self._views.get(name)

    def needing(self, target: TokenTarget, before: int) -> str | None:
        """Return why *target* may still need a signing key older than *before*, in words; None if it does not."""
        view = self.view(target.name)
        if view is None or view.best is None or view.best.token is None:
            return f"{target.name} (not seen yet)"
        if view.best.token.key < before:
            return str(target.name)
        if view.waiting_on:
            return f"{target.name} ({', '.join(view.waiting_on)})"
        present = view.best.token.id
        now = self._clock.now()
        for order in self._memory.orders(target.name):
            lives = order.not_after is None or order.not_after > now
            if order.serial != present and order.state is IssuanceState.PUBLISHED and lives and _key_of(order) < before:
                return f"{target.name} (the token before it)"
        return None

    def reconcile(self, fleet: Fleet, target: TokenTarget) -> Look:
        """Bring *target* one step closer to what is wanted and return when to look again."""
        del fleet
        with self._locks.of(target.id):
            return self._reconcile(target)

    def _reconcile(self, target: TokenTarget) -> Look:
        publications = tuple(store.read() for store in target.stores)
        listed, problem = self._listed(target)
        seen = Observation(publications=publications)
        keys = self._key_want(target.keys)
        rotation = self._memory.open_rotation(target.name)
        want = TokenWant(
            token=target.token, keys=keys.keys, key_at_least=keys.at_least, asked=self._asked(rotation, seen)
        )
        now = self._clock.now()
        best = token_verdict(want, seen, target.policy, now)
        self._note_drift(target, seen, best.safety_line)
        if best.publication is not None and best.publication.token is not None:
            seen = replace(seen, revoked=listed is not None and best.publication.token.id in listed)
        on_list = frozenset(self._revoked(target))
        line = best.safety_line
        problem = problem or self._account(target, seen, rotation, line)
        problem = problem or self._keep_lists(target, seen, listed, on_list, line)
        rotation = self._memory.open_rotation(target.name)
        want = replace(want, asked=self._asked(rotation, seen))
        hold = self._memory.hold(target.name)
        decision = decide_token(
            want,
            seen,
            target.policy,
            now,
            held_until=hold.until if hold is not None else None,
            hold_past_safety_line=hold is not None and hold.past_safety_line,
        )
        best = token_verdict(want, seen, target.policy, now)
        line = best.safety_line
        match decision:
            case IssueToken():
                self._note_missed(target, best.publication, now, line)
                tripped = self._limits.tripped_until(target.name)
                if tripped is not None and (line is None or now < line):
                    look = Look(
                        at=min(tripped, line) if line else tripped,
                        deadline=line,
                        why="issued too often in a row: something undoes what is published",
                        alert=True,
                    )
                    return self._saw(target, seen, look, problem)
                opened = rotation or self._open(target, decision.reasons, keys.cause)
                with self._recorder.tracing.step(decision, target.name, opened, cause=keys.cause):
                    self._steps.issue(
                        target,
                        opened,
                        current=publications,
                        key_at_least=keys.at_least,
                        reasons=decision.reasons,
                        opens_rotation=rotation is None,
                        safety_line=line,
                    )
                self._limits.issued(target.name)
                return self._again(target, problem)
            case RepublishToken():
                # Seen first: while a place cannot be written, people hear which.
                self._saw(target, seen, Look(at=now + POLL, deadline=line), problem)
                if best.publication is not None:
                    with self._recorder.tracing.step(decision, target.name, rotation):
                        self._steps.republish(
                            target,
                            rotation,
                            good=best.publication,
                            current=publications,
                            reason=decision.reason,
                            safety_line=line,
                        )
                return self._again(target, problem)
            case Wait():
                look = Look(
                    at=decision.until or now + POLL,
                    deadline=line,
                    waiting_on=decision.on,
                    why=decision.why,
                    alert=decision.alert,
                )
            case Nothing():
                look = Look(at=decision.next_look or now + POLL, deadline=line)
        look = replace(look, at=min(look.at, self._next_look(target, now, failed=bool(problem))))
        return self._saw(target, seen, look, problem)

    def _again(self, target: TokenTarget, problem: str) -> Look:
        """Look at what was just written and settle what it proves already."""
        seen = Observation(publications=tuple(store.read() for store in target.stores))
        now = self._clock.now()
        # Before the rotation is closed: whoever sees it closed must see the new token too.
        look = self._saw(target, seen, Look(at=now + POLL), problem)
        self._account(target, seen, self._memory.open_rotation(target.name), self._line(target.name))
        return look

    def _line(self, name: SubjectName) -> datetime | None:
        """Return the safety line of the token that was last seen published; None without one to lose."""
        view = self.view(name)
        return view.window.safety_line if view is not None and view.window is not None else None

    def _saw(self, target: TokenTarget, seen: Observation, look: Look, problem: str) -> Look:
        """Keep what was seen for status, alerts and signing keys."""
        good = [each for each in seen.publications if each is not None and each.token is not None and not each.problem]
        best = max(good, key=lambda each: (each.leaf_published_at or _LONG_AGO, each.number), default=None)
        waiting = tuple(
            store.target
            for store, held in zip(target.stores, seen.publications, strict=True)
            if best is None or not holds_token(held, best)
        )
        window = None
        if best is not None and best.token is not None:
            window = token_window(best.token, target.token, target.policy)
            look = replace(look, deadline=look.deadline or window.safety_line)
        look = replace(look, waiting_on=(*look.waiting_on, *waiting))
        view = TokenView(
            observation=seen,
            window=window,
            best=best,
            waiting_on=waiting,
            look=look,
            at=self._clock.now(),
            problem=problem,
        )
        with self._views_lock:
            self._views[target.name] = view
        return look

    # --- what is asked and what was missed --------------------------------------------------------------------------

    def _asked(self, rotation: Rotation | None, seen: Observation) -> AskedFor | None:
        """Return the open request of a person, unless its token is already published."""
        if rotation is None or rotation.trigger is not Trigger.REQUEST:
            return None
        if any(each is not None and each.rotation_id == rotation.id for each in seen.publications):
            return None
        return AskedFor(rotation_id=rotation.id, emergency=rotation.emergency)

    def _open(self, target: TokenTarget, reasons: tuple[Reason, ...], cause: Rotation | None) -> Rotation:
        """Return a new rotation; it is written together with its first order."""
        trigger = Trigger.DRIFT
        if Reason.ISSUER_CHANGED in reasons and cause is not None:
            trigger = Trigger.AUTHORITY
        elif reasons[:1] == (Reason.ABSENT,) and not self._was_published(target):
            trigger = Trigger.BOOTSTRAP
        elif set(reasons) & {Reason.EXPIRING, Reason.EXPIRED}:
            trigger = Trigger.SCHEDULE
        return Rotation(
            id=uuid.uuid4().hex,
            subject=target.name,
            kind=SubjectKind.TOKEN,
            intent=IntentKind.ROTATE,
            trigger=trigger,
            state=RotationState.OPEN,
            opened_at=self._clock.now(),
        )

    def _was_published(self, target: TokenTarget) -> bool:
        return any(order.state is IssuanceState.PUBLISHED for order in self._memory.orders(target.name))

    def _note_missed(
        self, target: TokenTarget, publication: Publication | None, now: datetime, line: datetime | None
    ) -> None:
        """Record once that a token was not replaced before its safety line (law 21)."""
        if publication is None or publication.token is None or line is None or now < line:
            return
        ended = now >= publication.token.not_after
        missed = self._steps.scribe(target, self._memory.open_rotation(target.name)).event(
            EventType.MISSED,
            result="expired" if ended else "late",
            old=publication.token,
            reason="not replaced before its safety line" if not ended else "not replaced before it ended",
            detail={"token_kind": target.token.grant.kind.value},
        )
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"missed:{publication.token.sha256}:{missed.result}").hex
        self._recorder.write((), [replace(missed, id=identity)], safety_line=line)

    def _note_drift(self, target: TokenTarget, seen: Observation, line: datetime | None) -> None:
        """Record once what somebody else did to a publication: found here, put right by what is decided next."""
        view = self._views.get(target.name)
        note_drift(
            self._recorder,
            self._steps.scribe(target, self._memory.open_rotation(target.name)),
            view.observation.publications if view is not None else (None,) * len(seen.publications),
            seen.publications,
            detail={"token_kind": target.token.grant.kind.value},
            safety_line=line,
        )

    # --- settling ---------------------------------------------------------------------------------------------------

    def _account(self, target: TokenTarget, seen: Observation, rotation: Rotation | None, line: datetime | None) -> str:
        """
        Account for every order of *target* that is not what is published, and close a rotation that is proven.

        Return why what was never published could not be revoked, in words; empty if all is well.
        """
        good = [each for each in seen.publications if each is not None and each.token is not None and not each.problem]
        published = {each.token.id for each in good if each.token is not None}
        for each in good:
            self._adopt(target, each, rotation, line)
        orphans: list[Issuance] = []
        for order in self._memory.orders(target.name):
            if order.state is IssuanceState.ASKED:
                self._steps.lose(target, order, rotation, safety_line=line)
            elif order.state is IssuanceState.ISSUED and order.serial not in published:
                orphans.append(order)
        problem = ""
        try:
            if orphans:
                self._end(target, orphans, rotation, line)
        except AdapterError as error:
            log.warning(LogEvent.STEP_FAILED, subject=target.name, error=str(error))
            problem = str(error)
        whole = len(good) == len(seen.publications) and len(published) == 1
        if whole and rotation is not None and good[0].rotation_id == rotation.id:
            self._complete(target, good[0], rotation, line)
            for store, held in zip(target.stores, seen.publications, strict=True):
                self._clear(target, store, held)
        return problem

    def _complete(
        self, target: TokenTarget, publication: Publication, rotation: Rotation, line: datetime | None
    ) -> None:
        scribe = self._steps.scribe(target, rotation)
        detail: dict[str, str | int | bool] = {"token_kind": target.token.grant.kind.value}
        places = tuple(store.target for store in target.stores)
        self._recorder.write(
            [replace(rotation, state=RotationState.DONE, finished_at=self._clock.now(), outcome="done")],
            [
                scribe.event(
                    EventType.VERIFIED,
                    new=publication.token,
                    corroboration=Corroboration(dataplanes=places),
                    detail=detail,
                ),
                scribe.event(EventType.COMPLETED, new=publication.token, detail=detail),
            ],
            safety_line=line,
        )
        log.info(LogEvent.ROTATION_FINISHED, subject=target.name, rotation_id=rotation.id)

    def _clear(self, target: TokenTarget, store: TokenStore, held: Publication | None) -> None:
        """Remove older publications; what cannot be removed stops no renewal."""
        if held is None:
            return
        self._recorder.fence()
        try:
            store.forget(keep=frozenset({held.number}))
        except AdapterError as error:
            log.warning(LogEvent.STEP_FAILED, subject=target.name, error=str(error))

    def _adopt(
        self, target: TokenTarget, publication: Publication, rotation: Rotation | None, line: datetime | None
    ) -> None:
        """Record a publication whose own record a crash swallowed, or that the journal has never heard of."""
        token = publication.token
        if token is None:
            return
        orders = self._memory.orders(target.name)
        order = next((each for each in orders if each.serial == token.id), None)
        if order is not None and order.state is IssuanceState.PUBLISHED:
            return
        if order is None and token.id in {each.serial for each in self._revoked(target).values()}:
            return
        scribe = self._steps.scribe(target, rotation)
        detail: dict[str, str | int | bool] = {"token_kind": target.token.grant.kind.value, "recovered": True}
        events = []
        if order is None:
            events.append(scribe.event(EventType.ISSUED, new=token, result="found", detail=detail))
        events.append(
            scribe.event(
                EventType.DISTRIBUTED, new=token, result="found", detail={**detail, "target": publication.target}
            )
        )
        row = Issuance(
            spki_sha256=order.spki_sha256 if order is not None else f"token:{token.sha256}",
            kind=IssuanceKind.TOKEN,
            subject=target.name,
            trust_domain=target.token.trust_domain,
            rotation_id=publication.rotation_id or "",
            state=IssuanceState.PUBLISHED,
            asked_at=order.asked_at if order is not None else publication.leaf_published_at or token.not_before,
            signer=token.issuer,
            serial=token.id,
            not_after=token.not_after,
        )
        self._recorder.write([row], events, safety_line=line)

    # --- revocation -------------------------------------------------------------------------------------------------

    def _listed(self, target: TokenTarget) -> tuple[frozenset[Serial] | None, str]:
        """Return what is revoked, None with the reason in words if nobody can say."""
        if not target.token.revoke:
            return None, ""
        try:
            return target.issuer.revoked(target.token.grant), ""
        except AdapterError as error:
            return None, str(error)

    def _revoked(self, target: TokenTarget) -> dict[str, Issuance]:
        """Return the orders of *target* that stand on the list because rotator put them there."""
        known = self._on_list.get(target.name)
        if known is None:
            rows = self._recorder.journal.issuances(states=frozenset({IssuanceState.REVOKED}), subject=target.name)
            known = {each.spki_sha256: each for each in rows if each.kind is IssuanceKind.TOKEN}
            self._on_list[target.name] = known
        return known

    def _end(
        self, target: TokenTarget, orders: list[Issuance], rotation: Rotation | None, line: datetime | None
    ) -> None:
        """Revoke what lives on and let the rest lapse."""
        now = self._clock.now()
        lives = [each for each in orders if each.not_after is None or each.not_after > now]
        revoke = lives if target.token.revoke else []
        lapse = [each for each in orders if each not in revoke]
        self._steps.end(target, rotation, revoke=revoke, lapse=lapse, safety_line=line)
        known = self._revoked(target)
        known.update({each.spki_sha256: replace(each, state=IssuanceState.REVOKED) for each in revoke})

    def _keep_lists(
        self,
        target: TokenTarget,
        seen: Observation,
        listed: frozenset[Serial] | None,
        on_list: frozenset[str],
        line: datetime | None,
    ) -> str:
        """
        Revoke what was replaced long enough ago, and keep the lists whole and short; return what went wrong.

        *listed* is what the lists held when the orders *on_list* stood there already.
        """
        now, rotation = self._clock.now(), self._memory.open_rotation(target.name)
        try:
            due = [order for order, at in self._replaced(target, seen) if at <= now]
            if due:
                self._end(target, due, rotation, line)
            known = self._revoked(target)
            over = [each for each in known.values() if _is_over(each, now - target.policy.skew)]
            missing = [
                order
                for name, order in known.items()
                if name in on_list and order not in over and listed is not None and order.serial not in listed
            ]
            if over or missing:
                self._steps.end(target, rotation, over=over, missing=missing, safety_line=line)
                for each in over:
                    known.pop(each.spki_sha256, None)
        except AdapterError as error:
            log.warning(LogEvent.STEP_FAILED, subject=target.name, error=str(error))
            return str(error)
        return ""

    def _replaced(self, target: TokenTarget, seen: Observation) -> list[tuple[Issuance, datetime]]:
        """Return the orders whose token was replaced everywhere, each with the moment at which it is ended."""
        held = [each.token for each in seen.publications if each is not None and not each.problem]
        present = {each.id for each in held if each is not None}
        if len(present) != 1 or len(held) != len(seen.publications):
            return []
        since = max(
            (each.leaf_published_at for each in seen.publications if each is not None and each.leaf_published_at),
            default=self._clock.now(),
        )
        return [
            (order, min(since + target.token.revoke_after, order.not_after or since + target.token.revoke_after))
            for order in self._memory.orders(target.name)
            if order.state is IssuanceState.PUBLISHED and order.serial not in present
        ]

    def _next_look(self, target: TokenTarget, now: datetime, *, failed: bool) -> datetime:
        """Return when to look again though nothing is due."""
        moments = [next_look_for_drift(token_identity(target.token), target.token.lifetime, now)]
        # What is overdue because a list could not be written is not asked of its control plane every second.
        soonest = now + (REVOKED_AGAIN_IN if failed else POLL)
        view = self.view(target.name)
        if view is not None:
            moments += [max(at, soonest) for _, at in self._replaced(target, view.observation)]
        moments += [
            max(each.not_after + target.policy.skew, soonest)
            for each in self._revoked(target).values()
            if each.not_after is not None
        ]
        if failed:
            moments.append(soonest)
        return min(moments)


def _key_of(order: Issuance) -> int:
    """Return the serial of the key that signed *order*'s token; 0 if nobody knows it."""
    serial = (order.signer or "").rpartition("-")[2]
    return int(serial) if serial.isdecimal() else 0


def _is_over(order: Issuance, now: datetime) -> bool:
    return order.not_after is not None and order.not_after <= now


_LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
