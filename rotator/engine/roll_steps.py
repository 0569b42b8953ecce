"""
Steps of one workload's roll: drained before replaced, and a record of each.

Rules that must stay true here:

- Running work is not killed (law 17); what happens at the drain deadline is the operator's written choice, and forcing
  is an exception in the ledger.
- The lease is looked at before every effect (law 14).
- Each run that is let go has one record of that, and one of its replacement; whoever leads next finishes the pair.
- What a member is told, to drain or to work on, is recorded before (law 12), and not once more until it is seen to.
- A change of the wanted number is recorded as begun before it is made (law 12), and once more when it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rotator.core.event import Event, EventType
from rotator.core.model import Member, SubjectName, Surge
from rotator.core.steps import DrainMember, LowerNumber, RaiseNumber, ReplaceMember, UndrainMember
from rotator.engine.drains import Drains
from rotator.engine.partings import BEGUN, DEFERRED, FORCED, Parting, Partings
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import WorkloadTarget
from rotator.errors import Conflict
from rotator.ports import Ledger, Rotation, Surging

_SEEN_AFTERWARDS = "seen afterwards: whoever told it to go did not come to record it"


class RollSteps:
    """Applies roll steps; the caller holds the workload's lock."""

    def __init__(self, *, recorder: Recorder, ledger: Ledger) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._partings = Partings(ledger)
        self._drains = Drains()

    def drain(self, target: WorkloadTarget, step: DrainMember, member: Member, rotations: tuple[Rotation, ...]) -> None:
        """Record once when new work is taken away from one member, and take it away."""
        now = self._clock.now()
        rows = [replace(each, roll_started_at=now) for each in rotations if each.roll_started_at is None]
        self._drains.begin(member, now)
        self._tell(target, member, self._event(EventType.DRAINED, target, step.member, rotations, member, BEGUN), rows)
        if target.drainer is not None:
            target.drainer.drain(member)

    def saw(self, workload: SubjectName, members: tuple[Member, ...]) -> None:
        """Remember what the members of *workload* were seen to work on while they drained."""
        self._drains.see(workload, members, self._clock.now())

    def finish(self, target: WorkloadTarget, members: tuple[Member, ...], rotations: tuple[Rotation, ...]) -> None:
        """Record the replacement of those that were let go and are gone, where nobody came to write it."""
        self._partings.recall(target.name, rotations)
        self._partings.settle(target.name, members)
        for name, parting in self._partings.gone(target.name, members):
            gone = Member(
                workload=target.name, name=name, running=False, ready=False, started_at=None, identity=parting.was
            )
            rolled = self._event(EventType.ROLLED, target, name, rotations, gone, "ok")
            self._record_replaced(target, name, replace(rolled, reason=_SEEN_AFTERWARDS))

    def let_go(
        self, target: WorkloadTarget, step: ReplaceMember, member: Member, rotations: tuple[Rotation, ...]
    ) -> None:
        """Record once that one member is free to go, and why; the caller replaces it then."""
        known = self._partings.of(target.name, step.member)
        # What does not run any more, and was let go, has ended as it was told: there is nothing new to say of it.
        is_told = known is not None and (
            (known.was, known.forced) == (member.identity, step.forced) or (known.is_open and not member.running)
        )
        if is_told:
            self._recorder.fence()
            return
        now = self._clock.now()
        rows = [replace(each, roll_started_at=now) for each in rotations if each.roll_started_at is None]
        self._write(target, self._free_to_go(target, step, member, rotations), rows)
        self._partings.note(target.name, step.member, Parting(was=member.identity, forced=step.forced, is_open=True))

    def replaced(
        self, target: WorkloadTarget, step: ReplaceMember, member: Member, rotations: tuple[Rotation, ...]
    ) -> None:
        """Record that one member was replaced, or told to go where a controller starts the next."""
        known = self._partings.of(target.name, step.member)
        gone = replace(member, identity=known.was) if known is not None and known.is_open else member
        self._record_replaced(
            target, step.member, self._event(EventType.ROLLED, target, step.member, rotations, gone, "ok")
        )

    def _record_replaced(self, target: WorkloadTarget, name: str, event: Event) -> None:
        self._write(target, event)
        self._partings.close(target.name, name)

    def _tell(self, target: WorkloadTarget, member: Member, event: Event, rows: Sequence[Rotation] = ()) -> None:
        """Record what *member* is told by *event*, unless it is recorded and was not seen to do it since."""
        if self._partings.is_told(target.name, member, event.result):
            self._recorder.write(rows)
            return
        self._write(target, event, rows)
        parting = Parting(was=member.identity, forced=False, is_open=False, told=event.result)
        self._partings.note(target.name, member.name, parting)

    def _write(self, target: WorkloadTarget, event: Event, rows: Sequence[Rotation] = ()) -> None:
        """Write *event*; should that fail, nothing is believed before the ledger was read again."""
        try:
            self._recorder.write(rows, [event])
        except BaseException:
            self._partings.doubt(target.name)
            raise

    def _free_to_go(
        self, target: WorkloadTarget, step: ReplaceMember, member: Member, rotations: tuple[Rotation, ...]
    ) -> Event:
        """Return why *member* may go: it was drained, does not run, nothing drains it, or the operator's word."""
        drained = self._event(EventType.DRAINED, target, step.member, rotations, member, "ok")
        if step.forced:
            return replace(
                drained,
                type=EventType.EXCEPTION_OPENED,
                result=FORCED,
                reason="replaced with work still running: the operator's written choice at the drain deadline",
                detail={**drained.detail, "decided_by": "drain.then = force in the configuration of policy_sha256"},
            )
        if not member.running:
            return replace(drained, result="not running")
        if member.undrainable:
            return replace(drained, result="told to end without a drain", reason=member.detail or None)
        return drained if target.policy.drained else replace(drained, result="nothing drains it")

    def undrain(
        self, target: WorkloadTarget, step: UndrainMember, member: Member, rotations: tuple[Rotation, ...]
    ) -> None:
        """Record once that one member works on, and why, and let it take work again."""
        told = self._event(EventType.DRAINED, target, step.member, rotations, member, DEFERRED)
        decided = {"decided_by": step.decided_by} if step.decided_by else {}
        self._tell(target, member, replace(told, reason=step.because, detail={**told.detail, **decided}))
        if target.drainer is not None:
            target.drainer.undrain(member)

    def scale(
        self,
        target: WorkloadTarget,
        step: RaiseNumber | LowerNumber,
        surging: Surging,
        surge: Surge,
        rotations: tuple[Rotation, ...],
    ) -> None:
        """Want more members for the time of the roll, or as many as before it."""
        now = self._clock.now()
        match step:
            case RaiseNumber():
                rows = [replace(each, roll_started_at=now) for each in rotations if each.roll_started_at is None]
                number, reason = surge.wanted + step.by, "more for the time of the roll"
            case LowerNumber():
                rows = []
                number = surge.wanted if surge.is_overruled else surge.before or 0
                reason = f"as before the roll: {step.because}"
                if surge.is_overruled:
                    reason = "somebody else has set the number since, and theirs stands"
        rotation = rotations[0] if rotations else None
        subject = rotation.subject if rotation is not None else target.name
        begun = replace(
            Scribe(clock=self._clock, subject=subject, rotation=rotation).event(
                EventType.SCALED,
                result="started",
                detail={"workload": target.name, "from": surge.wanted, "to": number},
            ),
            reason=reason,
        )
        self._recorder.write(rows, [begun])
        try:
            if isinstance(step, RaiseNumber):
                surging.more(step.by)
            else:
                surging.back()
        except Conflict:
            self._recorder.write((), [replace(begun, time=self._clock.now(), result="overtaken")])
            raise
        self._recorder.write((), [replace(begun, time=self._clock.now(), result="ok")])

    def _event(
        self,
        type_: EventType,
        target: WorkloadTarget,
        name: str,
        rotations: tuple[Rotation, ...],
        member: Member,
        result: str,
    ) -> Event:
        """Return an event of one member, tied to the first rotation that asked for its roll."""
        rotation = rotations[0] if rotations else None
        subject = rotation.subject if rotation is not None else target.name
        return Scribe(clock=self._clock, subject=subject, rotation=rotation).event(
            type_,
            result=result,
            detail={
                "workload": target.name,
                "member": name,
                "was": member.identity,
                "busy": -1 if member.busy is None else member.busy,
                **self._drains.told(member, self._clock.now()),
            },
        )
