"""
Observe, decide, execute, verify, record: one trust domain's authority.

Rules that must stay true here:

- One rotation per trust domain at a time (law 5): the domain's lock is held for the whole visit, and only one rotation
  of a subject is ever open.
- Every visit starts from the world: what the signer holds, what each consumer was given and has shown (law 13).
- What is waited for is named, every time (law 1).
- What holds a mesh back (a refusal, an adoption that nobody has asked for) holds every step in it, and nothing is
  undone: it goes on from where it stands once that is mended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, wait
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.core import authority
from rotator.core.authority_policy import due
from rotator.core.model import AuthoritySeen, Generation, IntentKind, Observation, SubjectName
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
from rotator.engine.authority_rotations import AuthorityRotations, intent_of
from rotator.engine.authority_steps import AuthoritySteps
from rotator.engine.domains import Domains, DomainState
from rotator.engine.leaf_reconciler import POLL, LeafReconciler, Look
from rotator.engine.leaf_steps import LeafSteps
from rotator.engine.limits import next_try
from rotator.engine.locks import Locks
from rotator.engine.meshes import Meshes, holding_back, is_untidy, with_mesh
from rotator.engine.observe import Confirmations, authority_seen, bundle_probes, newest, older_bundle_until
from rotator.engine.recorder import Recorder
from rotator.engine.recovery import Recovery
from rotator.engine.targets import CertificateTarget, DomainTarget, Fleet
from rotator.errors import AdapterError, InvariantBroken
from rotator.ports import HeldAuthorities, MeshView, Rotation

STEPS_PER_VISIT = 500
"""A visit ends after so many steps whatever happens: other targets want their turn too."""

MESH_LOOK = timedelta(minutes=1)
"""How soon a mesh is looked at again though nothing is due: proxies come and go, and somebody may have changed it."""

MESH_WAITS = timedelta(seconds=10)
"""How often a mesh is looked at while a person is waited for and nothing is under way."""

ORDERED = PrepareIssuer | PublishBundle | ActivateIssuer | ReissueLeaves | RetireIssuer | RevokeIssuer

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
        meshes: Meshes,
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
        self._meshes = meshes
        self._rotations = AuthorityRotations(recorder=recorder)
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
            before: ORDERED | None = None
            for _ in range(STEPS_PER_VISIT):
                found = self._visit(fleet, domain, observations)
                if isinstance(found, Look):
                    unsettled = self._recovery.next_settling(domain.subject)
                    return found if unsettled is None else replace(found, at=min(found.at, unsettled))
                if found == before:
                    # It was applied and is wanted again: somebody undoes it, or it waits for its own turn.
                    break
                before = found
            return Look(at=self._clock.now() + POLL)

    # --- one look, one step -----------------------------------------------------------------------------------------

    def _visit(self, fleet: Fleet, domain: DomainTarget, observations: Seen) -> Look | ORDERED:
        """Look, decide, and take one step; return it, or a `Look` when there is nothing more to do now."""
        rotation = self._memory.open_rotation(domain.subject)
        held, view = self._look(domain, rotation)
        self._recovery.resolve_retired(domain, held)
        if rotation is None and (view is None or holding_back(view, None) is None):
            seen = self._seen(domain, held, view, None, observations)
            why = due(seen, domain.policy, self._clock.now(), domain.name)
            if why is not None and not self._is_paused(domain, seen):
                rotation = self._rotations.open(domain, seen, why)
                observations.update(self._observe(fleet, domain, fresh=True))
                held, view = self._look(domain, rotation) if view is not None else (held, view)
        state, rotation = self._decide(domain, held, view, observations, rotation)
        if rotation is not None and self._probe_bundles(domain, state, observations, rotation):
            state, rotation = self._decide(domain, held, view, observations, rotation)
        decided = state.decision.next
        now = self._clock.now()
        match decided:
            case Wait():
                if rotation is None and view is not None and self._is_tidied(domain, state, view):
                    return Look(at=now + POLL)
                until = min(decided.until or now + POLL, now + POLL) if rotation is not None else decided.until
                waiting = decided.on or state.decision.waiting_on
                # A mesh that waits for a person, with nothing under way, is not asked every second.
                patient = MESH_WAITS if rotation is None and view is not None else POLL
                look = Look(at=until or now + patient, waiting_on=waiting, why=decided.why, alert=decided.alert)
                return self._resting(domain, look, under_way=rotation is not None)
            case Nothing():
                look = Look(at=decided.next_look or now + POLL)
                return self._resting(domain, look, under_way=rotation is not None)
            case Refused():
                self._rotations.refuse(domain, rotation, decided.reason)
                return Look(at=now + POLL, why=decided.reason, alert=True)
            case Done():
                self._rotations.finish(domain, state, rotation, rolled_back=decided.rolled_back)
                self._probed.clear()
                return Look(at=now)
        with self._recorder.tracing.step(decided, domain.subject, rotation, identity=f"spiffe://{domain.name}"):
            self._apply(fleet, domain, state, rotation, decided, observations)
        return decided

    def _look(self, domain: DomainTarget, rotation: Rotation | None) -> tuple[HeldAuthorities, MeshView | None]:
        """Return what is held, and what the control plane shows if there is one: both from the same look."""
        if domain.mesh is None:
            return domain.authorities.observe(), None
        view = self._meshes.look(domain, rotation)
        return view.held, view

    def _resting(self, domain: DomainTarget, look: Look, *, under_way: bool) -> Look:
        """Return *look* at the pace that a control plane bears; drift is looked for also where nothing is due."""
        if domain.mesh is None:
            return look
        now = self._clock.now()
        wanted = look.at if under_way else min(look.at, now + MESH_LOOK)
        return replace(look, at=max(wanted, now + self._meshes.rest(domain)))

    def _is_tidied(self, domain: DomainTarget, state: DomainState, view: MeshView) -> bool:
        """Give the mesh the wanted bundle if it was left with another and nothing is under way; return whether so."""
        if holding_back(view, None) is not None or not is_untidy(view, state.decision.bundle):
            return False
        self._meshes.publish(domain, None, state.decision.bundle, reason="left over")
        return True

    def _apply(
        self,
        fleet: Fleet,
        domain: DomainTarget,
        state: DomainState,
        rotation: Rotation | None,
        step: ORDERED,
        observations: Seen,
    ) -> None:
        """Apply *step* and refresh what it touched."""
        match step:
            case RetireIssuer():
                self._steps.retire(domain, rotation, _generation(state, step.issuer), step.reason)
                return
            case PublishBundle():
                if state.mesh is not None and any(each not in observations for each in step.consumers):
                    reason = "shrink" if step.shrink else "grow"
                    self._meshes.publish(domain, rotation, state.decision.bundle, reason=reason)
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

    def _seen(
        self,
        domain: DomainTarget,
        held: HeldAuthorities,
        view: MeshView | None,
        rotation: Rotation | None,
        observations: Seen,
    ) -> AuthoritySeen:
        """Return what the world shows of *domain*."""
        seen = authority_seen(
            held=held,
            domain=domain.name,
            observations=observations,
            issuances=self._memory.orders_of_domain(domain.name),
            confirmations=self._confirmations,
            highest_number=self._recorder.journal.last_generation(domain.name),
            mounted=frozenset(self._mounted(domain, observations)),
        )
        return seen if view is None else with_mesh(seen, view, domain, rotation, self._clock.now())

    def _mounted(self, domain: DomainTarget, observations: Seen) -> Iterator[SubjectName]:
        """Yield the certificates of which task pods, whom nobody sees, may still hold an older bundle."""
        now = self._clock.now()
        for name, (target, seen) in observations.items():
            if target.certificate.task_pods:
                until = older_bundle_until(seen, self._memory.orders(name))
                if until is not None and now < until + domain.policy.skew:
                    yield name

    def _decide(
        self,
        domain: DomainTarget,
        held: HeldAuthorities,
        view: MeshView | None,
        observations: Seen,
        rotation: Rotation | None,
    ) -> tuple[DomainState, Rotation | None]:
        """Decide, publish the snapshot that leaves follow, and note what a lost reply left unrecorded."""
        seen = self._seen(domain, held, view, rotation, observations)
        if rotation is not None:
            rotation = self._rotations.note_activated(domain, rotation, seen)
        now = self._clock.now()
        decision = authority.decide(intent_of(rotation), seen, domain.policy, now)
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
            with self._recorder.amending(rotation) as current:
                rotation = replace(current, trust_published_at=now)
                self._recorder.write([rotation])
            decision = authority.decide(intent_of(rotation), seen, domain.policy, now)
        if view is not None:
            if rotation is not None:
                self._meshes.note_published(domain, rotation, view, seen)
            held_back = holding_back(view, rotation)
            if held_back is not None:
                decision = replace(decision, next=held_back, waiting_on=held_back.on)
        state = DomainState(decision=decision, seen=seen, held=held, intent=intent_of(rotation), at=now, mesh=view)
        self._domains.put(domain.name, state)
        return state, rotation

    def _probe_bundles(self, domain: DomainTarget, state: DomainState, observations: Seen, rotation: Rotation) -> bool:
        """Let bundle probes ask parties that were given a newer generation; return whether anything was asked."""
        active = next((each.number for each in state.held.generations if each.authority.id == state.held.active), 0)
        newer = [each for each in state.held.generations if each.number > active and each.can_sign]
        if not newer or rotation.intent is not IntentKind.ROTATE or domain.issuer is None:
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


def _generation(state: DomainState, issuer: str) -> Generation:
    """Return the generation that *issuer* names."""
    return next(each for each in state.held.generations if each.authority.id == issuer)
