"""
Observe, decide, execute, verify, record: one certificate.

Rules that must stay true here:

- Whatever was ordered and not published is accounted for before anything new is ordered (law 13).
- A rotation ends when the new leaf is proven in use, not when it is written (law 16); only then is the one before it
  revoked or left to lapse (law 18) and its publication removed (law 9).
- One certificate is worked on by one thread at a time, whether its own turn came or its trust domain's wave did.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from rotator.core import renewal
from rotator.core.event import Corroboration, Event, EventType, Trigger
from rotator.core.model import (
    AskedFor,
    IntentKind,
    IssuerId,
    Member,
    Observation,
    Publication,
    SubjectKind,
    SubjectName,
)
from rotator.core.steps import IssueLeaf, Nothing, Reason, Republish, RepublishReason, Wait
from rotator.core.trace import SERIAL, SPIFFE_ID
from rotator.core.window import Window, renewal_window
from rotator.engine.domains import Domains
from rotator.engine.drift import next_look_for_drift, note_drift
from rotator.engine.leaf_steps import LeafSteps
from rotator.engine.limits import Limits
from rotator.engine.locks import Locks
from rotator.engine.memory import Row
from rotator.engine.observe import Proof, leaf_proof, newest, observe_certificate
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.recovery import Recovery
from rotator.engine.targets import CertificateTarget, DomainTarget, Fleet
from rotator.errors import AdapterError
from rotator.ports import Issuance, IssuanceKind, IssuanceState, Rotation, RotationState
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

POLL = timedelta(seconds=1)
"""How often a consumer is looked at while its proof is awaited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """When to look at a target again, and what is known of it now."""

    at: datetime
    deadline: datetime | None = None
    """The safety line: earliest first among those that are due."""
    waiting_on: tuple[str, ...] = ()
    why: str = ""
    alert: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateView:
    """One certificate as last seen, for status and alerts."""

    observation: Observation
    window: Window | None
    proof: Proof
    look: Look
    at: datetime


class LeafReconciler:
    """Keeps certificates as they are wanted."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        domains: Domains,
        limits: Limits,
        locks: Locks,
        steps: LeafSteps,
        recovery: Recovery,
        members: Callable[[SubjectName], tuple[Member, ...]],
    ) -> None:
        self._recorder = recorder
        self._memory = recorder.memory
        self._clock = recorder.clock
        self._domains = domains
        self._limits = limits
        self._locks = locks
        self._steps = steps
        self._recovery = recovery
        self._members = members
        self._views: dict[SubjectName, CertificateView] = {}
        self._views_lock = threading.Lock()
        self._cleared: set[SubjectName] = set()
        """Certificates whose older publications this process has removed once."""

    def view(self, name: SubjectName) -> CertificateView | None:
        """Return *name* as last seen, or None."""
        return self._views.get(name)

    def observe(self, target: CertificateTarget) -> Observation:
        """Return what the world shows of *target* now."""
        members = tuple(member for workload in target.certificate.rolls for member in self._members(workload))
        return observe_certificate(target, members)

    def reconcile(self, fleet: Fleet, target: CertificateTarget) -> Look:
        """Bring *target* one step closer to what is wanted and return when to look again."""
        with self._locks.of(target.id):
            return self._reconcile(fleet, target, accepted=None, cause=None)

    def reissue(
        self, fleet: Fleet, target: CertificateTarget, *, accepted: frozenset[IssuerId], cause: Rotation
    ) -> None:
        """Issue *target* anew if its leaf is not from an *accepted* authority: a wave of its trust domain."""
        with self._locks.of(target.id):
            self._reconcile(fleet, target, accepted=accepted, cause=cause)

    def publish_bundle(self, target: CertificateTarget) -> None:
        """Publish the wanted bundle beside the present leaf: a wave of its trust domain."""
        with self._locks.of(target.id):
            want = self._domains.want(target)
            seen = Observation(publications=tuple(store.read() for store in target.stores))
            publication = newest(seen)
            if want is None or publication is None:
                return
            # What is written again has one before it too, which goes once the new one is proven.
            self._cleared.discard(target.name)
            rotation = self._memory.open_rotation(target.name)
            step = Republish(certificate=target.name, reason=RepublishReason.BUNDLE_CHANGED)
            with self._recorder.tracing.step(step, target.name, rotation, identity=target.certificate.identity):
                self._steps.republish(
                    target,
                    want,
                    rotation,
                    current=seen.publications,
                    reason=step.reason,
                    safety_line=self._safety_line(target, publication),
                )
            # The view must not go on showing the bundle before: law 3 is judged by it between two visits.
            view = self._views.get(target.name)
            if view is not None:
                after = self.observe(target)
                self._saw(target, after, leaf_proof(after), view.look)

    def _reconcile(
        self,
        fleet: Fleet,
        target: CertificateTarget,
        *,
        accepted: frozenset[IssuerId] | None,
        cause: Rotation | None,
    ) -> Look:
        """Do what `reconcile` says; the caller holds the lock."""
        seen = self.observe(target)
        self._note_drift(target, seen)
        seen = replace(seen, revoked=self._is_revoked(fleet, target, seen))
        proof = self._settle(fleet, target, seen)
        now = self._clock.now()
        rotation = self._memory.open_rotation(target.name)
        want = self._domains.want(target, asked=self._asked(rotation, seen), accepted=accepted)
        if want is None:
            waiting = tuple(
                f"a bundle of {each}" for each in target.certificate.trusts if self._domains.get(each) is None
            )
            return self._saw(target, seen, proof, Look(at=now + POLL, waiting_on=waiting or ("its trust domain",)))
        hold = self._memory.hold(target.name)
        decision = renewal.decide(
            want,
            seen,
            target.policy,
            now,
            held_until=hold.until if hold is not None else None,
            hold_past_safety_line=hold is not None and hold.past_safety_line,
        )
        safety_line = self._safety_line(target, newest(seen))
        tracing = self._recorder.tracing
        match decision:
            case IssueLeaf():
                self._note_missed(target, seen, now, safety_line)
                tripped = self._limits.tripped_until(target.name)
                if tripped is not None and (safety_line is None or now < safety_line):
                    look = Look(
                        at=min(tripped, safety_line) if safety_line else tripped,
                        deadline=safety_line,
                        why="issued too often in a row: something undoes what is published",
                        alert=True,
                    )
                    return self._saw(target, seen, proof, look)
                opened = rotation or self._open(target, decision.reasons, cause)
                with tracing.step(decision, target.name, opened, identity=target.certificate.identity, cause=cause):
                    self._steps.issue(
                        fleet,
                        target,
                        want,
                        opened,
                        current=seen.publications,
                        reasons=decision.reasons,
                        opens_rotation=rotation is None,
                        safety_line=safety_line,
                    )
                self._limits.issued(target.name)
                return self._again(fleet, target)
            case Republish():
                self._cleared.discard(target.name)
                with tracing.step(decision, target.name, rotation, identity=target.certificate.identity):
                    self._steps.republish(
                        target,
                        want,
                        rotation,
                        current=seen.publications,
                        reason=decision.reason,
                        safety_line=safety_line,
                    )
                return self._again(fleet, target)
            case Wait():
                until = decision.until if decision.until is not None else now + POLL
                look = Look(
                    at=until,
                    deadline=safety_line,
                    waiting_on=(*decision.on, *proof.waiting_on),
                    why=decision.why,
                    alert=decision.alert,
                )
            case Nothing():
                look = Look(at=decision.next_look or now + POLL, deadline=safety_line, waiting_on=proof.waiting_on)
        if not proof.proven:
            look = replace(look, at=min(look.at, now + POLL))
        look = replace(look, at=min(look.at, next_drift_look(target, now)))
        unsettled = self._recovery.next_settling(target.name)
        if unsettled is not None:
            look = replace(look, at=min(look.at, max(unsettled, now + POLL)))
        return self._saw(target, seen, proof, look)

    def _again(self, fleet: Fleet, target: CertificateTarget) -> Look:
        """Look at what was just written and settle what it proves already."""
        seen = self.observe(target)
        proof = leaf_proof(seen)
        now = self._clock.now()
        look = Look(at=now + POLL, deadline=self._safety_line(target, newest(seen)), waiting_on=proof.waiting_on)
        # Before the rotation is closed: whoever sees it closed must see the new certificate too.
        self._saw(target, seen, proof, look)
        self._settle(fleet, target, seen)
        return look

    def _saw(self, target: CertificateTarget, seen: Observation, proof: Proof, look: Look) -> Look:
        """Keep what was seen for status, alerts and the trust domain."""
        publication = newest(seen)
        window = None
        if publication is not None and publication.leaf is not None:
            window = renewal_window(
                publication.leaf, target.certificate.lifetime, target.policy, target.certificate.identity
            )
        view = CertificateView(observation=seen, window=window, proof=proof, look=look, at=self._clock.now())
        with self._views_lock:
            self._views[target.name] = view
        return look

    # --- what is asked and what was missed --------------------------------------------------------------------------

    def _asked(self, rotation: Rotation | None, seen: Observation) -> AskedFor | None:
        """Return the open request of a person, unless its leaf is already published."""
        if rotation is None or rotation.trigger is not Trigger.REQUEST:
            return None
        publication = newest(seen)
        if publication is not None and publication.rotation_id == rotation.id:
            return None
        return AskedFor(rotation_id=rotation.id, emergency=rotation.emergency)

    def _open(self, target: CertificateTarget, reasons: tuple[Reason, ...], cause: Rotation | None) -> Rotation:
        """Return a new rotation; it is written together with its first order."""
        return Rotation(
            id=uuid.uuid4().hex,
            subject=target.name,
            kind=SubjectKind.CERTIFICATE,
            intent=IntentKind.ROTATE,
            trigger=_trigger(reasons, cause, was_published=self._was_published(target)),
            state=RotationState.OPEN,
            opened_at=self._clock.now(),
        )

    def _was_published(self, target: CertificateTarget) -> bool:
        """Return whether the journal knows of a publication of *target*."""
        return any(
            order.state is IssuanceState.PUBLISHED and order.kind is IssuanceKind.LEAF
            for order in self._memory.orders(target.name)
        )

    def _note_missed(
        self, target: CertificateTarget, seen: Observation, now: datetime, safety_line: datetime | None
    ) -> None:
        """Record once that a leaf was not replaced before its safety line (law 21)."""
        publication = newest(seen)
        if publication is None or publication.leaf is None or safety_line is None or now < safety_line:
            return
        missed = Scribe(
            clock=self._clock,
            subject=target.name,
            rotation=self._memory.open_rotation(target.name),
            spiffe_id=target.certificate.identity,
        ).event(EventType.MISSED, result="late", old=publication.leaf, reason="not replaced before its safety line")
        # The same leaf is missed once, however often this is looked at and by however many processes.
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"missed:{publication.leaf.sha256}").hex
        self._recorder.write((), [replace(missed, id=identity)], safety_line=safety_line)

    def _note_drift(self, target: CertificateTarget, seen: Observation) -> None:
        """Record once what somebody else did to a publication: found here, put right by what is decided next."""
        view = self._views.get(target.name)
        scribe = Scribe(
            clock=self._clock,
            subject=target.name,
            rotation=self._memory.open_rotation(target.name),
            spiffe_id=target.certificate.identity,
        )
        note_drift(
            self._recorder,
            scribe,
            view.observation.publications if view is not None else (None,) * len(seen.publications),
            seen.publications,
            detail={},
            safety_line=self._safety_line(target, newest(seen)),
        )

    def _safety_line(self, target: CertificateTarget, publication: Publication | None) -> datetime | None:
        """Return the moment past which an expiry beats bookkeeping; None without a leaf to lose."""
        if publication is None or publication.leaf is None:
            return None
        window = renewal_window(
            publication.leaf, target.certificate.lifetime, target.policy, target.certificate.identity
        )
        return window.safety_line

    def _is_revoked(self, fleet: Fleet, target: CertificateTarget, seen: Observation) -> bool:
        """Return whether the published leaf is on its issuer's list of revoked ones, as recovery last read it."""
        publication = newest(seen)
        if publication is None or publication.leaf is None:
            return False
        domain = fleet.domains[target.certificate.trust_domain]
        return self._recovery.is_revoked(domain, publication.leaf)

    # --- settling ---------------------------------------------------------------------------------------------------

    def _settle(self, fleet: Fleet, target: CertificateTarget, seen: Observation) -> Proof:
        """Account for every order of *target*: published, proven, superseded, or an orphan."""
        domain = fleet.domains[target.certificate.trust_domain]
        publication = newest(seen)
        proof = leaf_proof(seen)
        published_spki = publication.leaf.spki_sha256 if publication is not None and publication.leaf else None
        orders = self._memory.orders(target.name)
        rotation = self._memory.open_rotation(target.name)
        if publication is not None and publication.leaf is not None:
            self._adopt(target, publication, orders, rotation)
        for order in orders:
            unfinished = order.state in {IssuanceState.ASKED, IssuanceState.ISSUED}
            if unfinished and order.spki_sha256 != published_spki:
                self._recovery.resolve_orphan(domain, order, rotation)
        if not proof.proven or publication is None or publication.leaf is None:
            return proof
        behind = [
            order
            for order in self._memory.orders(target.name)
            if order.state is IssuanceState.PUBLISHED
            and order.kind is IssuanceKind.LEAF
            and order.spki_sha256 != published_spki
            and not self._may_be_mounted(target, domain, order, rotation)
        ]
        revoked = [order for order in behind if self._recovery.lives_on(domain, order)]
        lapsed = [self._recovery.lapse(each, rotation, published=True) for each in behind if each not in revoked]
        self._complete(target, publication, rotation, proof, lapsed)
        for order in revoked:
            self._recovery.end(domain, order, rotation, published=True)
        # Once after each start, too: a crash may have fallen between the last record and the clearing.
        if behind or rotation is not None or target.name not in self._cleared:
            self._clear(target, seen)
        return proof

    def _may_be_mounted(
        self, target: CertificateTarget, domain: DomainTarget, order: Issuance, rotation: Rotation | None
    ) -> bool:
        """Return whether task pods, whom nobody sees, may still use the leaf of *order*; not so in an emergency."""
        if not target.certificate.task_pods or (rotation is not None and rotation.emergency):
            return False
        return order.not_after is not None and self._clock.now() < order.not_after + domain.policy.skew

    def _clear(self, target: CertificateTarget, seen: Observation) -> None:
        """Remove older publications, now that the present one is proven; what cannot be removed stops no renewal."""
        self._cleared.add(target.name)
        for store, held in zip(target.stores, seen.publications, strict=True):
            if held is None:
                continue
            self._recorder.fence()
            try:
                store.forget(keep=frozenset({held.number}))
            except AdapterError as error:
                self._cleared.discard(target.name)
                log.warning(LogEvent.STEP_FAILED, subject=target.name, target=store.target, error=str(error))

    def _adopt(
        self,
        target: CertificateTarget,
        publication: Publication,
        orders: tuple[Issuance, ...],
        rotation: Rotation | None,
    ) -> None:
        """Record a publication whose own record a crash swallowed, or that the journal has never heard of."""
        leaf = publication.leaf
        if leaf is None:
            return
        order = next((each for each in orders if each.spki_sha256 == leaf.spki_sha256), None)
        if order is not None and order.state is IssuanceState.PUBLISHED:
            return
        scribe = Scribe(
            clock=self._clock, subject=target.name, rotation=rotation, spiffe_id=target.certificate.identity
        )
        events: list[Event] = []
        if order is None or order.state is IssuanceState.ASKED:
            events.append(scribe.event(EventType.ISSUED, new=leaf, result="found", detail={"recovered": True}))
        events.append(
            scribe.event(
                EventType.DISTRIBUTED,
                new=leaf,
                result="found",
                detail={
                    "recovered": True,
                    "target": publication.target,
                    "publication": publication.number,
                    "bundle": ",".join(each.id for each in publication.bundle),
                },
            )
        )
        row = Issuance(
            spki_sha256=leaf.spki_sha256,
            kind=IssuanceKind.LEAF,
            subject=target.name,
            trust_domain=target.certificate.trust_domain,
            rotation_id=publication.rotation_id or "",
            state=IssuanceState.PUBLISHED,
            asked_at=order.asked_at if order is not None else publication.leaf_published_at or leaf.not_before,
            signer=leaf.issuer,
            serial=leaf.serial,
            not_after=leaf.not_after,
        )
        self._recorder.write([row], events)

    def _complete(
        self,
        target: CertificateTarget,
        publication: Publication,
        rotation: Rotation | None,
        proof: Proof,
        lapsed: Sequence[tuple[Issuance, Event]],
    ) -> None:
        """Close *rotation* if its leaf is what is in use at every consumer, and with it what has *lapsed* thereby."""
        rows: list[Row] = []
        events: list[Event] = []
        ended = rotation if rotation is not None and publication.rotation_id == rotation.id else None
        if ended is not None:
            scribe = Scribe(
                clock=self._clock, subject=target.name, rotation=ended, spiffe_id=target.certificate.identity
            )
            rows.append(replace(ended, state=RotationState.DONE, finished_at=self._clock.now(), outcome="done"))
            by = Corroboration(dataplanes=proof.by)
            events.append(scribe.event(EventType.VERIFIED, new=publication.leaf, corroboration=by))
            events.append(scribe.event(EventType.COMPLETED, new=publication.leaf))
        for row, event in lapsed:
            rows.append(row)
            events.append(event)
        if rows:
            self._recorder.write(rows, events)
        if ended is not None:
            self._recorder.tracing.seen(
                "prove",
                ended,
                publication.leaf_published_at or ended.opened_at,
                {
                    "rotator.subject": str(target.name),
                    SPIFFE_ID: target.certificate.identity,
                    **({SERIAL: publication.leaf.serial} if publication.leaf is not None else {}),
                },
            )
            log.info(LogEvent.ROTATION_FINISHED, subject=target.name, rotation_id=ended.id)


def next_drift_look(target: CertificateTarget, now: datetime) -> datetime:
    """Return when *target* is looked at again though nothing is due: somebody else may have changed it."""
    return next_look_for_drift(target.certificate.identity, target.certificate.lifetime, now)


def _trigger(reasons: tuple[Reason, ...], cause: Rotation | None, *, was_published: bool) -> Trigger:
    """Return what set a leaf rotation off."""
    if cause is not None:
        return Trigger.AUTHORITY
    if reasons[:1] == (Reason.ABSENT,) and not was_published:
        return Trigger.BOOTSTRAP
    if set(reasons) & {Reason.EXPIRING, Reason.EXPIRED}:
        return Trigger.SCHEDULE
    return Trigger.DRIFT
