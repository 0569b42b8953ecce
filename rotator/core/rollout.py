"""
How the members of one workload are replaced so that they load new material, without losing their work.

Rules that must stay true here:

- Drain first; replace a member only after two observations in a row saw it idle; unknown work is never idle (law 17).
  Where nothing drains, members are stopped as they are, in the time that they themselves take to end.
- Never below the minimum available (ready and not draining), and at least one consumer of every queue stays.
- One that cannot be drained is stopped gently instead, with the same care for the others; nothing is killed by that.
- After a replacement the new member must be ready before the next wave; the first unhealthy wave stops the roll and
  gives the others their work back.
- Only members that started before the new material are touched: no restart without changed material (law 16).
- Nothing is believed of who the members are but what was just seen: they join, leave and change their names meanwhile.
- At the drain deadline, which covers all waves in sequence, the operator's written choice decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from rotator.core.model import Member
from rotator.core.steps import Done, DrainMember, Nothing, ReplaceMember, UndrainMember, Wait
from rotator.core.window import written

_TICK = timedelta(seconds=1)
"""Starts are told in whole seconds: one in the second of the publication says nothing."""

IDLE_STREAK = 2
"""Observations in a row: a worker that has just fetched a task may look idle once."""


class AtDrainDeadline(StrEnum):
    """The operator's written choice for the drain deadline (law 17)."""

    WAIT = "wait"
    SKIP = "skip"
    """Give the member its work back and leave it on its old material, with an alert."""
    FORCE = "force"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """How one workload is rolled."""

    max_unavailable: int
    drain_deadline: timedelta
    """For all waves in sequence."""
    at_drain_deadline: AtDrainDeadline = AtDrainDeadline.WAIT
    surge: int = 0
    """Members beyond the needed number that already run."""
    drained: bool = True
    """Something takes work away from members before they are replaced; False: they are stopped as they are."""
    starts_members: bool = True
    """Replacing a member starts it anew; False: a controller does that, and what does not run is waited for."""
    keep_available: int = 0
    """Members that stay available whatever else is allowed: without any API server Airflow kills its own tasks."""
    queue_single_consumer: bool = False
    """The operator's word that a queue may stand without a consumer while its only one is replaced."""
    abort_after_failures: int = 1


RollDecision = DrainMember | ReplaceMember | UndrainMember | Wait | Done | Nothing


def is_stale(member: Member, stale_before: datetime) -> bool:
    """Return whether *member* runs on material older than *stale_before*."""
    loaded = member.loaded_until
    return member.running and (loaded is None or loaded < stale_before)


def decide(
    policy: RolloutPolicy,
    members: tuple[Member, ...],
    stale_before: datetime,
    roll_started_at: datetime | None,
    now: datetime,
    failed: frozenset[str],
    held: str | None = None,
) -> RollDecision:
    """
    Return the one next step of the roll.

    Args:
        policy: How it is rolled.
        members: Every member that there should be, those that do not run included, in the order in which to roll them.
        stale_before: Members that started before it have not loaded the new material.
        roll_started_at: From when the drain deadline counts; None before the first step.
        now: Aware UTC.
        failed: Names of members that were replaced and did not get ready in time.
        held: Why nobody may be replaced now, in words; None if they may.

    """
    if not members:
        return Nothing()
    stale = [each for each in members if is_stale(each, stale_before) and not each.ending and not each.spare]
    if not policy.drained:
        # Replacing one that takes no work anyway costs nothing, and may be what mends it.
        failed -= {each.name for each in stale}
    if len(failed) >= max(1, policy.abort_after_failures):
        return _abort(members, failed)
    stopped = [each for each in members if not each.running and each.name not in failed]
    if stopped and policy.starts_members:
        return ReplaceMember(workload=stopped[0].workload, member=stopped[0].name)
    fresh = [each for each in members if each.running and not each.ending and not is_stale(each, stale_before)]
    for each in fresh:
        if each.draining:
            return UndrainMember(
                workload=each.workload, member=each.name, because="it already runs on the new material"
            )
    is_late = roll_started_at is not None and now >= roll_started_at + policy.drain_deadline
    draining = [each for each in stale if each.draining]
    step = _finish_drained(policy, draining, is_late=is_late)
    if step is not None:
        return _unless_held(step, held, is_late=is_late)
    coming = [each for each in (*stopped, *fresh) if not (each.ready or each.spare or each.name in failed)]
    if coming:
        return Wait(until=None, on=tuple(each.name for each in coming), why="to take work")
    waiting = [each for each in stale if not each.draining]
    if is_late and policy.at_drain_deadline is AtDrainDeadline.SKIP:
        return _wait(waiting, "left on its old material at the drain deadline", alert=True) or Done()
    settled = max((stale_before + each.uncertainty + _TICK for each in waiting), default=now)
    if now < settled:
        names = tuple(each.name for each in waiting)
        return Wait(until=settled, on=names, why="until whoever starts anew surely finds what was published")
    decision = _drain_next(policy, members, waiting, draining, roll_started_at, is_late=is_late)
    return _unless_held(decision, held, is_late=is_late)


def foreseen(
    policy: RolloutPolicy, members: tuple[Member, ...], leaf_not_after: datetime, now: datetime
) -> tuple[str, ...]:
    """Return what may go wrong with a roll that starts at *now*, in words, before it starts."""
    found = []
    if now + policy.drain_deadline > leaf_not_after:
        found.append(
            f"the drain deadline of {written(policy.drain_deadline)} reaches past the present leaf, which has "
            f"{written((leaf_not_after - now) // timedelta(seconds=1) * timedelta(seconds=1))} left"
        )
    if policy.max_unavailable + policy.surge < 1 and members:
        found.append("max_unavailable 0 without surge: no member can ever be drained")
    if not policy.queue_single_consumer:
        found.extend(
            f"{each.name} is the only consumer of {', '.join(alone)}: it will not be drained"
            for each in members
            if (alone := _queues_left_alone(each, members))
        )
    blind = [each.name for each in members if each.running and each.busy is None]
    if blind:
        found.append(f"the work of {', '.join(blind)} cannot be seen: draining will not end by itself")
    unready = [each.name for each in members if not each.ready]
    if unready:
        found.append(f"{', '.join(unready)} does not take work already")
    return tuple(found)


# --- steps ------------------------------------------------------------------------------------------------------------


def _abort(members: tuple[Member, ...], failed: frozenset[str]) -> RollDecision:
    for each in members:
        if each.running and each.draining and each.name not in failed:
            because = f"the roll is stopped: {', '.join(sorted(failed))} did not get ready"
            return UndrainMember(workload=each.workload, member=each.name, because=because)
    return Wait(until=None, on=tuple(sorted(failed)), why="to be mended; the roll is stopped", alert=True)


def _unless_held(step: RollDecision, held: str | None, *, is_late: bool) -> RollDecision:
    """Return *step*, unless it would take a member away while something holds the roll."""
    if held is None or not isinstance(step, DrainMember | ReplaceMember):
        return step
    return Wait(until=None, on=(step.member,), why=f"which may not go now: {held}", alert=is_late)


def _finish_drained(policy: RolloutPolicy, draining: list[Member], *, is_late: bool) -> RollDecision | None:
    """Return what to do with members that already take no new work; None if they still work in time."""
    for each in draining:
        if each.busy == 0 and each.idle_seen >= IDLE_STREAK:
            return ReplaceMember(workload=each.workload, member=each.name)
    if not is_late:
        return None
    for each in draining:
        match policy.at_drain_deadline:
            case AtDrainDeadline.FORCE:
                return ReplaceMember(workload=each.workload, member=each.name, forced=True)
            case AtDrainDeadline.SKIP:
                return UndrainMember(
                    workload=each.workload,
                    member=each.name,
                    because="it still works at the drain deadline",
                    decided_by="drain.then = skip in the configuration of policy_sha256",
                )
            case AtDrainDeadline.WAIT:
                continue
    return None


def _drain_next(
    policy: RolloutPolicy,
    members: tuple[Member, ...],
    waiting: list[Member],
    draining: list[Member],
    roll_started_at: datetime | None,
    *,
    is_late: bool,
) -> RollDecision:
    until = roll_started_at + policy.drain_deadline if roll_started_at is not None and not is_late else None
    unavailable = sum(1 for each in members if not _is_available(each) and not each.spare)
    allowed = policy.max_unavailable + policy.surge
    alone: dict[str, tuple[str, ...]] = {}
    lonely: list[str] = []
    # Members that take no work anyway first: draining them costs nothing.
    for each in sorted(waiting, key=_is_available):
        if _is_available(each) and unavailable >= allowed:
            continue
        left_alone = () if policy.queue_single_consumer else _queues_left_alone(each, members)
        if left_alone:
            alone[each.name] = left_alone
            continue
        if _is_available(each) and sum(map(_is_available, members)) <= policy.keep_available:
            lonely.append(each.name)
            continue
        if not policy.drained or each.undrainable:
            forced = each.undrainable and is_late and policy.at_drain_deadline is AtDrainDeadline.FORCE
            return ReplaceMember(workload=each.workload, member=each.name, forced=forced)
        return DrainMember(workload=each.workload, member=each.name)
    if draining:
        return Wait(until=until, on=tuple(each.name for each in draining), why="to finish their work", alert=is_late)
    if alone:
        queues = ", ".join(sorted({queue for queues in alone.values() for queue in queues}))
        return Wait(
            until=None, on=tuple(alone), why=f"which alone consume {queues}: give them company first", alert=True
        )
    if lonely:
        return Wait(
            until=None,
            on=tuple(lonely),
            why=f"of which {policy.keep_available} must stay available: start another first",
            alert=True,
        )
    ending = [each for each in members if each.ending]
    if ending:
        return Wait(until=until, on=tuple(each.name for each in ending), why="to end in their own time", alert=is_late)
    if waiting:
        return Wait(
            until=None,
            on=tuple(each.name for each in members if not _is_available(each)) or ("max_unavailable",),
            why=f"before another may be drained ({unavailable} of at most {allowed} take no work)",
            alert=True,
        )
    unready = [each for each in members if not each.ready and not each.spare]
    return _wait(unready, "to take work") or Done()


def _wait(members: list[Member], why: str, *, alert: bool = False) -> Wait | None:
    names = tuple(each.name for each in members)
    return Wait(until=None, on=names, why=why, alert=alert) if names else None


def _is_available(member: Member) -> bool:
    return member.ready and not member.draining and not member.ending


def _queues_left_alone(member: Member, members: tuple[Member, ...]) -> tuple[str, ...]:
    """Return the queues that nobody would consume without *member*."""
    if not _is_available(member):
        return ()  # it consumes nothing already
    others = [each.queues for each in members if each.name != member.name and _is_available(each)]
    return tuple(sorted(queue for queue in member.queues if not any(queue in queues for queues in others)))
