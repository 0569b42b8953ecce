"""
How the members of one workload are replaced so that they load new material, without losing their work.

Rules that must stay true here:

- Drain first; replace a member only after two observations in a row saw it idle; unknown work is never idle (law 17).
  Where nothing drains, members are stopped as they are, in the time that they themselves take to end.
- Never below the minimum available (ready and not draining), and at least one consumer of every queue stays.
- One that cannot be drained is stopped gently instead, with the same care for the others; nothing is killed by that.
- After a replacement the new member must be ready before the next wave, also where the next is idle already, as all
  schedulers are once one of them is drained. The first unhealthy wave stops the roll and gives the others their work
  back.
- Only members that started before the new material are touched: no restart without changed material (law 16).
- Nothing is believed of who the members are but what was just seen: they join, leave and change their names meanwhile.
- At the drain deadline, which covers all waves in sequence, the operator's written choice decides.
- Where more members are allowed for the time of the roll, they are there and ready before one that takes work goes, and
  drained before the number goes back, whatever was chosen for the deadline: nobody is served by killing their work.
- A number that somebody else has set since is theirs: it is neither set back nor raised again in this roll.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from rotator.core.model import Member, Surge
from rotator.core.steps import Done, DrainMember, LowerNumber, Nothing, RaiseNumber, ReplaceMember, UndrainMember, Wait
from rotator.core.window import written

_TICK = timedelta(seconds=1)
"""Starts are told in whole seconds: one in the second of the publication says nothing."""

SURGE = "rotator.io/surge"
"""Annotation of a workload whose wanted number rotator has raised: from which number to which."""

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
    """By how many the wanted number is raised for the time of the roll."""
    drained: bool = True
    """Something takes work away from members before they are replaced; False: they are stopped as they are."""
    starts_members: bool = True
    """Replacing a member starts it anew; False: a controller does that, and what does not run is waited for."""
    keep_available: int = 0
    """Members that stay available whatever else is allowed: without any API server Airflow kills its own tasks."""
    queue_single_consumer: bool = False
    """The operator's word that a queue may stand without a consumer while its only one is replaced."""
    abort_after_failures: int = 1


RollDecision = DrainMember | ReplaceMember | UndrainMember | RaiseNumber | LowerNumber | Wait | Done | Nothing


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
    surge: Surge | None = None,
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
        surge: How many are wanted, and what of that is rotator's own; None where the number cannot be raised.

    """
    if not members:
        return Nothing()
    # Whoever is there for the time of the roll alone goes when it ends: nothing is gained by replacing them.
    stale = [each for each in members if is_stale(each, stale_before) and not (each.ending or each.spare or each.extra)]
    is_late = roll_started_at is not None and now >= roll_started_at + policy.drain_deadline
    is_over = not stale or (is_late and policy.at_drain_deadline is AtDrainDeadline.SKIP)
    if is_over:
        failed -= {each.name for each in members if each.extra}
    if not policy.drained:
        # Replacing one that takes no work anyway costs nothing, and may be what mends it.
        failed -= {each.name for each in stale}
    if len(failed) >= max(1, policy.abort_after_failures):
        return _unless_held(_abort(policy, members, failed, surge), held, is_late=is_late)
    stopped = [each for each in members if not each.running and each.name not in failed]
    if stopped and policy.starts_members:
        return ReplaceMember(workload=stopped[0].workload, member=stopped[0].name)
    fresh = [each for each in members if each.running and not each.ending and not is_stale(each, stale_before)]
    for each in fresh:
        # One that is too many is about to end: given work, it would lose it.
        if each.draining and not (each.extra or each.spare):
            return UndrainMember(
                workload=each.workload, member=each.name, because="it already runs on the new material"
            )
    for each in members:
        if each.extra and each.draining and not (is_over or each.ending):
            return UndrainMember(workload=each.workload, member=each.name, because="the roll goes on")
    draining = [each for each in stale if each.draining]
    coming = [
        each
        for each in (*stopped, *fresh)
        if not (each.ready or each.spare or each.name in failed or (each.extra and is_over))
    ]
    away = [*coming, *(each for each in members if each.ending and not each.spare)]
    may_go = len(away) < max(1, policy.max_unavailable + (surge.more if surge is not None else 0))
    step = _finish_drained(policy, draining, is_late=is_late, may_go=may_go)
    if step is not None:
        return _unless_held(step, held, is_late=is_late)
    if coming:
        # Only of one that nobody can ask is this no failure, however long it lasts.
        late = is_late and any(each.undrainable for each in coming)
        return Wait(until=None, on=tuple(each.name for each in coming), why="to take work", alert=late)
    if not may_go and draining and all(each.busy == 0 for each in draining):
        names = tuple(each.name for each in away)
        return Wait(until=None, on=names, why="to end, and their successors to take work", alert=is_late)
    waiting = [each for each in stale if not each.draining]
    if is_late and policy.at_drain_deadline is AtDrainDeadline.SKIP:
        left = _wait(waiting, "left on its old material at the drain deadline", alert=True) or Done()
        lowered = _lowered(policy, members, surge, "it was given up at the deadline", is_late=is_late)
        return _unless_held(lowered or left, held, is_late=is_late)
    settled = max((stale_before + each.uncertainty + _TICK for each in waiting), default=now)
    if now < settled:
        names = tuple(each.name for each in waiting)
        return Wait(until=settled, on=names, why="until whoever starts anew surely finds what was published")
    if is_over and not [each for each in members if not (each.ready or each.spare or each.extra)]:
        lowered = _lowered(policy, members, surge, "it is over", is_late=is_late)
        if lowered is not None:
            return _unless_held(lowered, held, is_late=is_late)
    decision = _drain_next(policy, members, waiting, draining, roll_started_at, surge, is_late=is_late)
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
    if not (policy.queue_single_consumer or policy.surge):
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


def _abort(
    policy: RolloutPolicy, members: tuple[Member, ...], failed: frozenset[str], surge: Surge | None
) -> RollDecision:
    lowers = _may_lower(policy, members, failed, surge)
    for each in members:
        # One that failed and was drained before is still the old one: it could not be replaced, and can work on.
        if each.running and each.draining and not (each.ending or each.spare or (each.extra and lowers)):
            because = f"the roll is stopped: {', '.join(sorted(failed))} could not be replaced, or did not get ready"
            return UndrainMember(workload=each.workload, member=each.name, because=because)
    stopped = Wait(until=None, on=tuple(sorted(failed)), why="to be mended; the roll is stopped", alert=True)
    return (_lowered(policy, members, surge, "it is stopped", is_late=True) if lowers else None) or stopped


def _may_lower(policy: RolloutPolicy, members: tuple[Member, ...], failed: frozenset[str], surge: Surge | None) -> bool:
    """
    Return whether a stopped roll gives back the members that it added.

    Not where they are needed because others failed, and not where one that failed would vanish with them: the roll
    would find nobody failed, and begin again.
    """
    if surge is None or surge.before is None:
        return False
    if policy.surge == 0 or surge.is_overruled:
        return True
    extra = {each.name for each in members if each.extra}
    available = sum(_is_available(each) and not each.extra for each in members)
    return bool(extra) and not extra & failed and available >= surge.before - policy.max_unavailable


def _lowered(
    policy: RolloutPolicy, members: tuple[Member, ...], surge: Surge | None, because: str, *, is_late: bool
) -> RollDecision | None:
    """Return how the number goes back, those who would go with it drained first; None if nothing was raised."""
    if surge is None or surge.before is None:
        return None
    busy = []
    for each in members:
        if not (policy.drained and each.extra and each.running) or each.ending or each.undrainable:
            continue
        if not each.draining:
            alone = () if policy.queue_single_consumer else _queues_left_alone(each, members)
            if alone:
                why = f"which alone consumes {', '.join(alone)}: it stays until another does"
                return Wait(until=None, on=(each.name,), why=why, alert=True)
            return DrainMember(workload=each.workload, member=each.name)
        if each.busy != 0 or each.idle_seen < IDLE_STREAK:
            busy.append(each)
    if busy:
        return _wait(busy, "to finish their work before the wanted number goes back", alert=is_late)
    return LowerNumber(workload=members[0].workload, because=because)


def _raised(policy: RolloutPolicy, members: tuple[Member, ...], surge: Surge | None) -> RollDecision | None:
    """Return how more members come before one that takes work goes; None if they are there, or none are to come."""
    if surge is None or policy.surge == 0 or surge.more:
        return None
    if surge.is_overruled:
        # Without more it goes on where the operator's word allows that; there, the number is somebody else's.
        if policy.max_unavailable:
            return None
        why = (
            f"somebody else set the wanted number to {surge.wanted} while rotator had raised it from {surge.before} to "
            f"{surge.raised_to}, so it is not raised again: take the annotation {SURGE} off to let it be"
        )
        return Wait(until=None, on=(SURGE,), why=why, alert=True)
    if surge.scaled_by:
        why = (
            f"{surge.scaled_by} sets the number, which rotator may then not raise: take surge out of the "
            "configuration (and let max_unavailable be 1 or more), or the autoscaler off for the time of the roll"
        )
        return Wait(until=None, on=(surge.scaled_by.partition(",")[0],), why=why, alert=True)
    return RaiseNumber(workload=members[0].workload, by=policy.surge)


def _unless_held(step: RollDecision, held: str | None, *, is_late: bool) -> RollDecision:
    """Return *step*, unless it would take a member away or want another number while something holds the roll."""
    if held is not None and isinstance(step, RaiseNumber | LowerNumber):
        return Wait(until=None, on=("the wanted number",), why=f"which may not change now: {held}", alert=is_late)
    if held is None or not isinstance(step, DrainMember | ReplaceMember):
        return step
    return Wait(until=None, on=(step.member,), why=f"which may not go now: {held}", alert=is_late)


def _finish_drained(
    policy: RolloutPolicy, draining: list[Member], *, is_late: bool, may_go: bool
) -> RollDecision | None:
    """Return what to do with members that already take no new work; None if they still work in time, or others come."""
    for each in draining:
        if each.busy == 0 and each.idle_seen >= IDLE_STREAK and may_go:
            return ReplaceMember(workload=each.workload, member=each.name)
    if not is_late:
        return None
    for each in draining:
        match policy.at_drain_deadline:
            case AtDrainDeadline.FORCE | AtDrainDeadline.SKIP if each.busy == 0:
                continue  # idle as far as one look can tell: the next look lets it go, and nobody has to decide
            case AtDrainDeadline.FORCE if not may_go:
                continue
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
    surge: Surge | None,
    *,
    is_late: bool,
) -> RollDecision:
    until = roll_started_at + policy.drain_deadline if roll_started_at is not None and not is_late else None
    unavailable = sum(1 for each in members if not _is_available(each) and not each.spare)
    allowed = policy.max_unavailable + (surge.more if surge is not None else 0)
    alone: dict[str, tuple[str, ...]] = {}
    lonely: list[str] = []
    # Members that take no work anyway first: draining them costs nothing.
    for each in sorted(waiting, key=_is_available):
        if _is_available(each) and (more := _raised(policy, members, surge)) is not None:
            return more
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
