"""
Steps of one workload's roll: drained before replaced, and a record of each.

Rules that must stay true here:

- Running work is not killed (law 17); what happens at the drain deadline is the operator's written choice, and forcing
  is an exception in the ledger.
- The lease is looked at before every effect (law 14).
"""

from __future__ import annotations

from dataclasses import replace

from rotator.core.event import Event, EventType
from rotator.core.model import Member
from rotator.core.steps import DrainMember, ReplaceMember, UndrainMember
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import WorkloadTarget
from rotator.ports import Rotation


class RollSteps:
    """Applies roll steps; the caller holds the workload's lock."""

    def __init__(self, *, recorder: Recorder) -> None:
        self._recorder = recorder
        self._clock = recorder.clock

    def drain(self, target: WorkloadTarget, step: DrainMember, member: Member, rotations: tuple[Rotation, ...]) -> None:
        """Take new work away from one member and record when that began."""
        now = self._clock.now()
        rows = [replace(each, roll_started_at=now) for each in rotations if each.roll_started_at is None]
        self._recorder.write(rows)
        if target.drainer is not None:
            target.drainer.drain(member)
        self._recorder.write((), [self._event(EventType.DRAINED, target, step.member, rotations, member, "started")])

    def replace_member(
        self, target: WorkloadTarget, step: ReplaceMember, member: Member, rotations: tuple[Rotation, ...]
    ) -> None:
        """Stop one member's main process gently and start it anew."""
        drained = self._event(EventType.DRAINED, target, step.member, rotations, member, "ok")
        if step.forced:
            drained = replace(
                drained,
                type=EventType.EXCEPTION_OPENED,
                result="forced",
                reason="replaced with work still running: the operator's written choice at the drain deadline",
            )
        elif not member.running:
            drained = replace(drained, result="not running")
        self._recorder.write((), [drained])
        target.workloads.replace(step.member, forced=step.forced)
        self._recorder.write((), [self._event(EventType.ROLLED, target, step.member, rotations, member, "ok")])

    def undrain(
        self, target: WorkloadTarget, step: UndrainMember, member: Member, rotations: tuple[Rotation, ...]
    ) -> None:
        """Let one member take work again."""
        self._recorder.fence()
        if target.drainer is not None:
            target.drainer.undrain(member)
        deferred = self._event(EventType.DRAINED, target, step.member, rotations, member, "deferred")
        self._recorder.write((), [replace(deferred, reason=step.because)])

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
            },
        )
