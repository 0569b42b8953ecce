"""
Observe, decide, execute, verify, record: one workload.

Rules that must stay true here:

- No restart without changed material (law 16): a member is replaced because what it loaded is no longer what is
  published, or because it does not run; never because rotator restarted.
- A member that stopped is started again only where rotator keeps it running, or in the middle of its own roll.
- Parts of one Airflow are rolled one after the other: a step begins only while no other is in the middle of its own.
- Who the members are is what was just seen: what was known of those that are gone is forgotten.
- Only a workload's own visit looks at its members: a certificate is renewed whether they can be seen or not (law 15).
- One step a visit; waiting is done between visits, never inside one (law 17, and a prompt stop).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.core import rollout
from rotator.core.long_tasks import time_left
from rotator.core.model import Member, Observation, Serial, SubjectName, Surge
from rotator.core.order import Part, Standing, held_by_others
from rotator.core.steps import DrainMember, LowerNumber, RaiseNumber, ReplaceMember, RollStep, UndrainMember, Wait
from rotator.core.tasks import WorkerRun
from rotator.engine.leaf_reconciler import POLL, LeafReconciler, Look
from rotator.engine.locks import Locks
from rotator.engine.long_tasks import LongTasksAhead
from rotator.engine.observe import newest, observe_workload, stale_before
from rotator.engine.recorder import Recorder
from rotator.engine.roll_steps import RollSteps
from rotator.engine.targets import Fleet, WorkloadTarget
from rotator.engine.tracing import Work
from rotator.errors import AdapterError, Conflict, InvariantBroken, NotYet, Unavailable
from rotator.ports import Rotation

RUNS_KEPT = timedelta(hours=6)
"""How long a member's run is remembered after it was last seen: longer than any batch of what ran is late."""

REFUSED_FOR = timedelta(minutes=5)
"""How long a member whose replacement was refused stops the roll: then it is tried again."""

IDLE_LOOK = timedelta(seconds=10)
"""How often a workload is looked at that nothing has to be done for."""


class RollReconciler:
    """Rolls workloads whose members have not loaded what is published."""

    def __init__(self, *, recorder: Recorder, locks: Locks, steps: RollSteps) -> None:
        self._recorder = recorder
        self._memory = recorder.memory
        self._clock = recorder.clock
        self._locks = locks
        self._steps = steps
        self._members: dict[SubjectName, tuple[Member, ...]] = {}
        self._failed: dict[SubjectName, frozenset[str]] = {}
        self._runs: dict[tuple[SubjectName, str, str], WorkerRun] = {}
        self._stale: dict[SubjectName, bool] = {}
        """Whether some member of a workload runs on old material, or has just left it behind, as last seen."""
        self._to_come: dict[SubjectName, dict[str, datetime]] = {}
        """Members that a controller has yet to start, by name, and since when."""
        self._refused: dict[SubjectName, dict[str, tuple[str, datetime]]] = {}
        """Members whose replacement was refused, by name: which run it was, and when."""
        self._begun: dict[SubjectName, datetime] = {}
        self._looks: dict[SubjectName, Look] = {}
        self.ahead = LongTasksAhead(recorder.clock)
        self._guard = threading.Lock()

    def members(self, workload: SubjectName) -> tuple[Member, ...]:
        """
        Return the members of *workload* as last seen, without looking: a certificate's visit must not hang on that.

        Before the first look it is one member that has loaded nothing, so that nothing counts as proven.
        """
        known = self._members.get(workload)
        return known if known is not None else (_not_seen_yet(workload),)

    def known_members(self, workload: SubjectName) -> tuple[Member, ...]:
        """Return the members of *workload* as last seen, without looking; empty before the first look."""
        return self._members.get(workload, ())

    def runs_seen(self) -> tuple[WorkerRun, ...]:
        """Return every run of every member that is seen now, or was seen to run within the last hours."""
        with self._guard:
            return tuple(self._runs.values())

    def look(self, workload: SubjectName) -> Look | None:
        """Return what the last visit found."""
        return self._looks.get(workload)

    def failed(self, workload: SubjectName) -> frozenset[str]:
        """Return the members that do not get ready, as last seen."""
        return self._failed.get(workload, frozenset())

    def begun(self, workload: SubjectName, rotations: Iterable[Rotation]) -> datetime | None:
        """
        Return when the roll of *workload* began, from when its drain deadline counts; None if none is under way.

        A roll outside a rotation (a member that somebody started on old material, a bundle that shrank) is remembered
        by this process alone: after a restart its deadline counts anew, later and never earlier.
        """
        known = [each.roll_started_at for each in rotations if each.roll_started_at is not None]
        return min(known, default=self._begun.get(workload))

    def reconcile(self, fleet: Fleet, target: WorkloadTarget, leaves: LeafReconciler) -> Look:
        """Bring *target* one step closer to running on what is published, and return when to look again."""
        with self._locks.of(target.id):
            look = self._reconcile(fleet, target, leaves)
            self._looks[target.name] = look
            return look

    def _reconcile(self, fleet: Fleet, target: WorkloadTarget, leaves: LeafReconciler) -> Look:
        """Do what `reconcile` says; the caller holds the lock."""
        members = self._observe(target)
        certificates = fleet.rolled_with(target.name)
        self._steps.saw(target.name, members)
        self._note_runs(members, tuple(each.name for each in certificates))
        seen: list[Observation] = [replace(leaves.observe(each), members=members) for each in certificates]
        if any(each is None for observation in seen for each in observation.publications):
            return Look(at=self._clock.now() + POLL, waiting_on=tuple(str(each.name) for each in certificates))
        rotations = tuple(
            rotation for each in certificates if (rotation := self._memory.open_rotation(each.name)) is not None
        )
        self._steps.finish(target, members, rotations)
        if not rotations:
            now = self._clock.now()
            views = ((each.name, leaves.view(each.name)) for each in certificates)
            left = [time_left(name, view.window, now) for name, view in views if view is not None and view.window]
            self.ahead.look(target, members, left)
        since = max((moment for each in seen if (moment := stale_before(each)) is not None), default=None)
        # What was raised is set back also when nothing else is left to be done.
        surge = target.surging.seen(scaler=False) if target.surging is not None else None
        has_work = since is not None and (
            self._has_work(target, members, since, rotations) or (surge is not None and surge.before is not None)
        )
        with self._guard:
            self._stale[target.name] = since is not None and (
                any(rollout.is_stale(each, since) for each in members)
                or ((bool(rotations) or target.name in self._begun) and self._is_coming(target.name, members))
            )
        if since is None or not has_work:
            self._begun.pop(target.name, None)
            return Look(at=self._clock.now() + IDLE_LOOK)
        members = _proven(members, since, frozenset(_serials(seen)))
        now = self._clock.now()
        begun = self.begun(target.name, rotations)
        if target.surging is not None and target.policy.surge and surge is not None and surge.before is None:
            surge = target.surging.seen(scaler=True)
        decision = rollout.decide(
            target.policy,
            members,
            since,
            begun or now,
            now,
            self._failed.get(target.name, frozenset()),
            held=self._held(fleet, target),
            surge=surge,
        )
        match decision:
            case RaiseNumber() | LowerNumber():
                if isinstance(decision, RaiseNumber) and not rotations:
                    self._begun.setdefault(target.name, now)
                return self._scale(target, decision, surge, rotations)
            case DrainMember() | ReplaceMember() | UndrainMember():
                if not rotations:
                    self._begun.setdefault(target.name, now)
                try:
                    with self._step(target, decision, rotations) as work:
                        work.note("rotator.member", decision.member)
                        self._apply(target, decision, members, rotations)
                except NotYet as e:
                    late = now >= (begun or now) + target.policy.drain_deadline
                    return Look(
                        at=now + POLL, waiting_on=(decision.member,), why=f"which may not go now: {e}", alert=late
                    )
                return Look(at=self._clock.now())
            case Wait():
                until = min(decision.until or now + POLL, now + POLL)
                return Look(at=until, waiting_on=decision.on, why=decision.why, alert=decision.alert)
            case _:
                self._failed.pop(target.name, None)
                self._begun.pop(target.name, None)
                return Look(at=now + POLL if rotations else now + IDLE_LOOK)

    def _step(
        self, target: WorkloadTarget, step: RollStep, rotations: tuple[Rotation, ...]
    ) -> AbstractContextManager[Work]:
        """Do a block as *step* of the first rotation that asked for the roll; who has not ended yet is waited for."""
        first = rotations[0] if rotations else None
        return self._recorder.tracing.step(step, target.name, first, waits=(Unavailable, Conflict))

    def _is_coming(self, workload: SubjectName, members: tuple[Member, ...]) -> bool:
        """Return whether the last one that was replaced takes no work yet: its part of the roll is not over."""
        failed = self._failed.get(workload, frozenset())
        return any(
            (each.draining or each.ending or not each.ready) and not each.spare and each.name not in failed
            for each in members
        )

    def _scale(
        self,
        target: WorkloadTarget,
        step: RaiseNumber | LowerNumber,
        surge: Surge | None,
        rotations: tuple[Rotation, ...],
    ) -> Look:
        """Apply a change of the wanted number."""
        if target.surging is None or surge is None:
            raise InvariantBroken(17, f"the wanted number of {target.name} is not rotator's to change")
        try:
            with self._step(target, step, rotations):
                self._steps.scale(target, step, target.surging, surge, rotations)
        except Conflict:
            # Somebody else changed the workload meanwhile, its own controller perhaps: look, and decide again.
            return Look(at=self._clock.now() + POLL, why="somebody else changed the workload meanwhile")
        return Look(at=self._clock.now())

    def _note_runs(self, members: tuple[Member, ...], certificates: tuple[SubjectName, ...]) -> None:
        """Remember who runs: the ledger says later who ran what."""
        now = self._clock.now()
        with self._guard:
            for each in members:
                if each.running and each.started_at is not None:
                    self._runs[each.workload, each.name, each.identity] = WorkerRun(
                        workload=each.workload,
                        member=each.name,
                        host=each.host or each.name,
                        identity=each.identity,
                        started_at=each.started_at,
                        seen_until=now,
                        certificates=certificates,
                    )
            for key in [key for key, run in self._runs.items() if now - run.seen_until > RUNS_KEPT]:
                del self._runs[key]

    def _held(self, fleet: Fleet, target: WorkloadTarget) -> str | None:
        """Return why nobody of *target* may be replaced now, in words; None if they may."""
        theirs = target.workloads.held()
        if theirs is not None or target.part is None:
            return theirs
        return held_by_others(
            self._standing(target, target.part),
            [self._standing(each, each.part) for each in fleet.beside(target) if each.part is not None],
        )

    def _standing(self, target: WorkloadTarget, part: Part) -> Standing:
        with self._guard:
            return Standing(
                workload=target.name,
                component=part.component,
                members=self._members.get(target.name),
                has_work=self._stale.get(target.name, False),
            )

    def _apply(
        self,
        target: WorkloadTarget,
        step: DrainMember | ReplaceMember | UndrainMember,
        members: tuple[Member, ...],
        rotations: tuple[Rotation, ...],
    ) -> None:
        """Apply one step to one member."""
        member = next(each for each in members if each.name == step.member)
        match step:
            case DrainMember():
                self._steps.drain(target, step, member, rotations)
            case UndrainMember():
                self._steps.undrain(target, step, member, rotations)
            case ReplaceMember():
                self._steps.let_go(target, step, member, rotations)
                try:
                    target.workloads.replace(step.member, forced=step.forced)
                except (Unavailable, Conflict):
                    # It has not ended yet, nobody answered, or it is another by now: that is waiting, not failing.
                    raise
                except AdapterError:
                    with self._guard:
                        refused = self._refused.setdefault(target.name, {})
                        refused[step.member] = (member.identity, self._clock.now())
                        self._failed[target.name] = self._failed.get(target.name, frozenset()) | {step.member}
                    raise
                self._steps.replaced(target, step, member, rotations)

    def _observe(self, target: WorkloadTarget) -> tuple[Member, ...]:
        """Return the members, with the count of how often in a row each was seen drained and idle."""
        # By name too: an identity tells a member's runs apart, not members.
        before = {(each.name, each.identity): each.idle_seen for each in self._members.get(target.name, ())}
        members = tuple(
            replace(
                each, idle_seen=before.get((each.name, each.identity), 0) + 1 if each.draining and each.busy == 0 else 0
            )
            for each in observe_workload(target)
        )
        now = self._clock.now()
        to_come = self._to_come.get(target.name, {})
        to_come = {
            each.name: to_come.get(each.name, now)
            for each in members
            if not each.running and not target.policy.starts_members
        }
        late = {
            each.name
            for each in members
            if each.running
            and not each.ready
            and not each.draining
            and not each.ending
            # One that nobody can ask looks so whenever it has nothing to do.
            and not each.undrainable
            and each.started_at is not None
            and now - each.started_at > target.ready_within
        } | {name for name, since in to_come.items() if now - since > target.ready_within}
        names = {each.name for each in members}
        well = {each.name for each in members if each.ready}
        runs = {(each.name, each.identity) for each in members}
        with self._guard:
            # It is given its work back: draining it again and again would starve its queues for nothing.
            before_refused = self._refused.get(target.name, {})
            refused = {
                name: (run, at)
                for name, (run, at) in before_refused.items()
                if (name, run) in runs and now - at < REFUSED_FOR
            }
            self._refused[target.name] = refused
            self._members[target.name] = members
            self._to_come[target.name] = to_come
            # One that does not run cannot show that it is well: after that time it is started again all the same.
            failed = (self._failed.get(target.name, frozenset()) - before_refused.keys() | late) - well
            self._failed[target.name] = frozenset((failed | refused.keys()) & names)
        return members

    def _has_work(
        self, target: WorkloadTarget, members: tuple[Member, ...], since: datetime, rotations: tuple[Rotation, ...]
    ) -> bool:
        """Return whether a roll is needed or under way."""
        stopped = any(not each.running for each in members) and (target.keep_running or bool(rotations))
        stale = any(each.started_at is not None and rollout.is_stale(each, since) for each in members)
        return stopped or stale or any(each.draining for each in members) or bool(rotations)


def _not_seen_yet(workload: SubjectName) -> Member:
    """Return what stands for all members before the first look: somebody who runs and of whom nothing is known."""
    return Member(workload=workload, name="(not seen yet)", running=True, ready=False, started_at=None)


def _serials(seen: Iterable[Observation]) -> Iterator[Serial]:
    """Yield the serials that are published now."""
    for each in seen:
        publication = newest(each)
        if publication is not None and publication.leaf is not None:
            yield publication.leaf.serial


def _proven(members: tuple[Member, ...], since: datetime, published: frozenset[Serial]) -> tuple[Member, ...]:
    """Return *members*, those as not ready that started on the new material and do not serve it."""
    return tuple(
        replace(each, ready=False, detail="it does not serve what was published")
        if each.ready and each.shows is not None and each.shows not in published and not rollout.is_stale(each, since)
        else each
        for each in members
    )
