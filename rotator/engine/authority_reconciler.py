"""
Observe, decide, execute, verify, record: one trust domain's authority.

Rules that must stay true here:

- One rotation per trust domain at a time (law 5): the domain's lock is held for the whole visit, and only one rotation
  of a subject is ever open.
- Every visit starts from the world: what the signer holds, what each consumer was given and has shown (law 13).
- What is waited for is named, every time (law 1).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, wait
from dataclasses import replace
from datetime import datetime

import structlog

from rotator.core import authority
from rotator.core.authority_policy import due
from rotator.core.event import Corroboration, EventType, Trigger
from rotator.core.model import (
    AuthorityIntent,
    AuthoritySeen,
    Generation,
    IntentKind,
    Observation,
    SubjectKind,
    SubjectName,
)
from rotator.core.steps import (
    ActivateIssuer,
    Done,
    Nothing,
    PrepareIssuer,
    PublishBundle,
    Refused,
    ReissueLeaves,
    RetireIssuer,
    RevokeIssuer,
    Wait,
    sentence,
)
from rotator.engine.authority_steps import AuthoritySteps
from rotator.engine.domains import Domains, DomainState
from rotator.engine.leaf_reconciler import POLL, LeafReconciler, Look
from rotator.engine.leaf_steps import LeafSteps
from rotator.engine.limits import next_try
from rotator.engine.locks import Locks
from rotator.engine.observe import Confirmations, authority_seen, bundle_probes, newest
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.recovery import Recovery
from rotator.engine.targets import CertificateTarget, DomainTarget, Fleet
from rotator.errors import AdapterError, InvariantBroken
from rotator.ports import HeldAuthorities, Rotation, RotationState
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

STEPS_PER_VISIT = 500
"""A visit ends after so many steps whatever happens: other targets want their turn too."""

Seen = dict[SubjectName, tuple[CertificateTarget, Observation]]


class AuthorityReconciler:
    """Moves trust domains from one CA generation to the next."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        domains: Domains,
        locks: Locks,
        steps: AuthoritySteps,
        leaf_steps: LeafSteps,
        leaves: LeafReconciler,
        recovery: Recovery,
        confirmations: Confirmations,
        wave: Executor | None,
    ) -> None:
        """*wave* runs the leaves of one wave side by side; None runs them one after the other."""
        self._recorder = recorder
        self._memory = recorder.memory
        self._clock = recorder.clock
        self._domains = domains
        self._locks = locks
        self._steps = steps
        self._leaf_steps = leaf_steps
        self._leaves = leaves
        self._recovery = recovery
        self._confirmations = confirmations
        self._wave = wave
        self._probed: dict[tuple[SubjectName, str], tuple[int, datetime]] = {}

    def reconcile(self, fleet: Fleet, domain: DomainTarget) -> Look:
        """Take every step that can be taken now and return when to look again."""
        with self._locks.of(domain.id):
            self._recovery.resolve_authorities(domain, self._memory.open_rotation(domain.subject))
            observations = self._observe(fleet, domain, fresh=self._memory.open_rotation(domain.subject) is not None)
            for _ in range(STEPS_PER_VISIT):
                look = self._visit(fleet, domain, observations)
                if look is not None:
                    unsettled = self._recovery.next_settling(domain.subject)
                    return look if unsettled is None else replace(look, at=min(look.at, unsettled))
            return Look(at=self._clock.now())

    # --- one look, one step -----------------------------------------------------------------------------------------

    def _visit(self, fleet: Fleet, domain: DomainTarget, observations: Seen) -> Look | None:
        """Look, decide, and take one step; return a `Look` when there is nothing more to do now."""
        held = domain.authorities.observe()
        self._recovery.resolve_retired(domain, held)
        rotation = self._memory.open_rotation(domain.subject)
        if rotation is None:
            seen = self._seen(domain, held, observations)
            why = due(seen, domain.policy, self._clock.now(), domain.name)
            if why is not None and not self._is_paused(domain, seen):
                rotation = self._open(domain, seen, why)
                observations.update(self._observe(fleet, domain, fresh=True))
        state, rotation = self._decide(domain, held, observations, rotation)
        if rotation is not None and self._probe_bundles(domain, state, observations, rotation):
            state, rotation = self._decide(domain, held, observations, rotation)
        decided = state.decision.next
        match decided:
            case Wait():
                now = self._clock.now()
                until = min(decided.until or now + POLL, now + POLL) if rotation is not None else decided.until
                waiting = decided.on or state.decision.waiting_on
                return Look(at=until or now + POLL, waiting_on=waiting, why=decided.why, alert=decided.alert)
            case Nothing():
                return Look(at=decided.next_look or self._clock.now() + POLL)
            case Refused():
                self._refuse(domain, rotation, decided.reason)
                return Look(at=self._clock.now() + POLL, why=decided.reason, alert=True)
            case Done():
                self._finish(domain, state, rotation, rolled_back=decided.rolled_back)
                return Look(at=self._clock.now())
        log.info(LogEvent.STEP_STARTED, subject=domain.subject, step=sentence(decided))
        self._apply(fleet, domain, state, rotation, decided, observations)
        return None

    def _apply(
        self,
        fleet: Fleet,
        domain: DomainTarget,
        state: DomainState,
        rotation: Rotation | None,
        step: PrepareIssuer | PublishBundle | ActivateIssuer | ReissueLeaves | RetireIssuer | RevokeIssuer,
        observations: Seen,
    ) -> None:
        """Apply *step* and refresh what it touched."""
        match step:
            case RetireIssuer():
                self._steps.retire(domain, rotation, _generation(state, step.issuer), step.reason)
                return
            case PublishBundle():
                self._for_each(step.consumers, observations, self._leaves.publish_bundle)
                self._refresh(step.consumers, observations)
                return
            case _ if rotation is None:
                raise InvariantBroken(12, f"a step of {domain.name} was decided without an intent: {sentence(step)}")
            case PrepareIssuer():
                self._steps.prepare(domain, step, rotation)
            case ActivateIssuer():
                old = next((each for each in state.held.generations if each.authority.id == state.seen.active), None)
                acknowledged = tuple(
                    str(party.name) for party in state.seen.parties if step.issuer in party.acknowledged
                )
                new = _generation(state, step.issuer)
                self._steps.activate(domain, step, rotation, old=old, new=new, acknowledged_by=acknowledged)
            case ReissueLeaves():
                accepted = frozenset({step.signer})
                cause = rotation
                self._for_each(
                    step.consumers,
                    observations,
                    lambda target: self._leaves.reissue(fleet, target, accepted=accepted, cause=cause),
                )
                self._refresh(step.consumers, observations)
            case RevokeIssuer():
                self._steps.revoke(domain, rotation, _generation(state, step.issuer))

    def _for_each(
        self, names: Iterable[SubjectName], observations: Seen, act: Callable[[CertificateTarget], None]
    ) -> None:
        """Run *act* for every consumer of a wave; the first error is raised once all have had their turn."""
        targets = [observations[name][0] for name in names if name in observations]
        failures: list[AdapterError] = []
        if self._wave is None:
            for target in targets:
                try:
                    act(target)
                except AdapterError as error:
                    failures.append(error)
        else:
            running = [self._wave.submit(act, target) for target in targets]
            wait(running)
            for each in running:
                failure = each.exception()
                if isinstance(failure, AdapterError):
                    failures.append(failure)
                elif failure is not None:
                    raise failure
        if failures:
            raise failures[0]

    # --- looking ----------------------------------------------------------------------------------------------------

    def _observe(self, fleet: Fleet, domain: DomainTarget, *, fresh: bool) -> Seen:
        """Return every relying party's observation: taken now if *fresh*, else as its own reconciler last saw it."""
        found: Seen = {}
        for target in fleet.relying_on(domain.name):
            view = None if fresh else self._leaves.view(target.name)
            found[target.name] = (target, view.observation if view is not None else self._leaves.observe(target))
        return found

    def _refresh(self, names: Iterable[SubjectName], observations: Seen) -> None:
        """Look again at those that a step has touched."""
        for name in names:
            if name in observations:
                target = observations[name][0]
                observations[name] = (target, self._leaves.observe(target))

    def _seen(self, domain: DomainTarget, held: HeldAuthorities, observations: Seen) -> AuthoritySeen:
        """Return what the world shows of *domain*."""
        return authority_seen(
            held=held,
            domain=domain.name,
            observations=observations,
            issuances=self._memory.orders_of_domain(domain.name),
            confirmations=self._confirmations,
            highest_number=self._recorder.journal.last_generation(domain.name),
        )

    def _decide(
        self, domain: DomainTarget, held: HeldAuthorities, observations: Seen, rotation: Rotation | None
    ) -> tuple[DomainState, Rotation | None]:
        """Decide, publish the snapshot that leaves follow, and note when trust was first published everywhere."""
        seen = self._seen(domain, held, observations)
        now = self._clock.now()
        intent = _intent(rotation)
        decision = authority.decide(intent, seen, domain.policy, now)
        if (
            rotation is not None
            and rotation.trust_published_at is None
            and rotation.intent is IntentKind.ROTATE
            and len(decision.bundle) > 1
            and all(
                party.published is None or party.published >= {each.id for each in decision.bundle}
                for party in seen.parties
            )
        ):
            rotation = replace(rotation, trust_published_at=now)
            self._recorder.write([rotation])
            intent = _intent(rotation)
            decision = authority.decide(intent, seen, domain.policy, now)
        state = DomainState(decision=decision, seen=seen, held=held, intent=intent, at=now)
        self._domains.put(domain.name, state)
        return state, rotation

    def _probe_bundles(self, domain: DomainTarget, state: DomainState, observations: Seen, rotation: Rotation) -> bool:
        """Let bundle probes ask parties that were given a newer generation; return whether anything was asked."""
        active = next((each.number for each in state.held.generations if each.authority.id == state.held.active), 0)
        newer = [each for each in state.held.generations if each.number > active and each.can_sign]
        if not newer or rotation.intent is not IntentKind.ROTATE:
            return False
        successor = newer[-1]
        asked = False
        for target, seen in observations.values():
            publication = newest(seen)
            given = {each.id for each in publication.bundle} if publication is not None else set()
            if not bundle_probes(target) or successor.authority.id not in given:
                continue
            if all(
                self._confirmations.has(target.name, probe.name, successor.authority.id)
                for probe, _ in bundle_probes(target)
            ):
                continue
            key = (target.name, successor.authority.id)
            failures, not_before = self._probed.get(key, (0, self._clock.now()))
            if self._clock.now() < not_before:
                continue
            self._probed[key] = (failures + 1, next_try(failures + 1, self._clock.now(), None))
            self._leaf_steps.probe_bundle(domain, target, successor, rotation)
            asked = True
        return asked

    # --- opening and closing ----------------------------------------------------------------------------------------

    def _is_paused(self, domain: DomainTarget, seen: AuthoritySeen) -> bool:
        """Return whether a person's pause holds the schedule; never past the last safe moment unless said so."""
        hold = self._memory.hold(domain.subject)
        now = self._clock.now()
        if hold is None or hold.until <= now:
            return False
        active = next((each for each in seen.generations if each.authority.id == seen.active), None)
        if hold.past_safety_line:
            return True
        return active is not None and now < domain.policy.last_safe_moment(active.authority)

    def _open(self, domain: DomainTarget, seen: AuthoritySeen, why: str) -> Rotation:
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

    def _finish(
        self, domain: DomainTarget, state: DomainState, rotation: Rotation | None, *, rolled_back: bool
    ) -> None:
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
        self._recorder.write(
            [replace(rotation, state=ended, finished_at=self._clock.now(), outcome=ended.value)],
            [verified, scribe.event(last, new=signer)],
        )
        self._probed.clear()
        log.info(LogEvent.ROTATION_FINISHED, subject=domain.subject, rotation_id=rotation.id, rolled_back=rolled_back)

    def _refuse(self, domain: DomainTarget, rotation: Rotation | None, reason: str) -> None:
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


def _intent(rotation: Rotation | None) -> AuthorityIntent | None:
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


def _generation(state: DomainState, issuer: str) -> Generation:
    """Return the generation that *issuer* names."""
    return next(each for each in state.held.generations if each.authority.id == issuer)
