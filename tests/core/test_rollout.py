"""Waves of members: drained first, never below the minimum, stopped at the first unhealthy one."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.core.model import Member, Surge
from rotator.core.rollout import AtDrainDeadline, RollDecision, RolloutPolicy, decide, foreseen
from rotator.core.steps import Done, DrainMember, LowerNumber, Nothing, RaiseNumber, ReplaceMember, UndrainMember, Wait
from tests.core.worlds import HOUR, MINUTE, NOW, SECOND, member

POLICY = RolloutPolicy(max_unavailable=1, drain_deadline=HOUR)


def roll(
    *members: Member,
    policy: RolloutPolicy = POLICY,
    now: datetime = NOW + MINUTE,
    failed: frozenset[str] = frozenset(),
    surge: Surge | None = None,
    held: str | None = None,
) -> RollDecision:
    """Return the decision about *members*; their material changed at `NOW`, when the roll started."""
    return decide(policy, members, NOW, NOW, now, failed, held, surge)


def test_law_16_no_restart_without_changed_material() -> None:
    """Who started after the change is not touched; nobody at all is nothing to do."""
    assert Done() == roll(member("a", fresh=True), member("b", fresh=True))
    assert Nothing() == roll()


def test_law_17_a_member_is_drained_before_it_is_replaced() -> None:
    """One at a time; the other goes on."""
    assert DrainMember(workload=member("a").workload, member="a") == roll(member("a"), member("b"))
    assert isinstance(roll(member("a", draining=True, busy=2), member("b")), Wait)


@pytest.mark.parametrize(
    ("busy", "idle_seen", "replaced"), [(0, 2, True), (0, 1, False), (1, 2, False), (None, 5, False), (0, 0, False)]
)
def test_law_17_only_what_was_seen_idle_twice_is_replaced(busy: int | None, idle_seen: int, *, replaced: bool) -> None:
    """Unknown work is never idle."""
    decided = roll(member("a", draining=True, busy=busy, idle_seen=idle_seen), member("b"))
    assert replaced == isinstance(decided, ReplaceMember)


def test_law_17_never_below_the_minimum_available() -> None:
    """A member that is not ready counts against the wave; stale ones that take no work are drained first."""
    waiting = roll(member("a"), member("b", fresh=True, ready=False), member("c"))
    assert isinstance(waiting, Wait)
    assert ("b",) == waiting.on
    first = roll(member("a"), member("b", ready=False), member("c"))
    assert isinstance(first, DrainMember)
    assert "b" == first.member
    two = replace(POLICY, max_unavailable=2)
    second = roll(member("a", draining=True, busy=1), member("b"), member("c"), policy=two)
    assert isinstance(second, DrainMember)
    assert isinstance(roll(member("a", draining=True, busy=1), member("b"), member("c")), Wait)


def test_law_17_a_wave_that_can_never_begin_says_so() -> None:
    """Nobody may be unavailable and nobody is spare."""
    stuck = roll(member("a"), member("b"), policy=replace(POLICY, max_unavailable=0))
    assert isinstance(stuck, Wait)
    assert stuck.alert
    spare = replace(POLICY, max_unavailable=0, surge=1)
    wants = roll(member("a"), member("b"), policy=spare, surge=Surge(wanted=2))
    assert RaiseNumber(workload=member("a").workload, by=1) == wants


def test_law_17_every_queue_keeps_a_consumer() -> None:
    """The last one of a queue is not drained, and is named; the operator's word decides otherwise."""
    alone = (member("a", queues=("default", "gpu")), member("b", queues=("default",), fresh=True))
    held = roll(*alone)
    assert isinstance(held, Wait)
    assert held.alert
    assert ("a",) == held.on
    assert "gpu" in held.why
    assert isinstance(roll(*alone, policy=replace(POLICY, queue_single_consumer=True)), DrainMember)
    other = roll(member("a", queues=("gpu",)), member("b", queues=("default",)), member("c", queues=("default",)))
    assert isinstance(other, DrainMember)
    assert "b" == other.member
    # A consumer that is being drained keeps nobody company.
    two = replace(POLICY, max_unavailable=2)
    last = roll(member("a", queues=("q",), draining=True, busy=1), member("b", queues=("q",)), policy=two)
    assert isinstance(last, Wait)


def test_law_17_the_first_unhealthy_wave_stops_the_roll() -> None:
    """The others get their work back, and the one that failed is named."""
    sick = member("a", fresh=True, ready=False)
    given_back = roll(sick, member("b", draining=True, busy=1), member("c"), failed=frozenset({"a"}))
    assert isinstance(given_back, UndrainMember)
    assert "b" == given_back.member
    stopped = roll(sick, member("b"), member("c"), failed=frozenset({"a"}))
    assert isinstance(stopped, Wait)
    assert stopped.alert
    assert ("a",) == stopped.on


def test_what_nothing_drains_is_replaced_as_it_is() -> None:
    """One after the other, and a member that takes no work anyway before all others, also if it long has not."""
    plain = replace(POLICY, drained=False)
    assert ReplaceMember(workload=member("a").workload, member="a") == roll(member("a"), member("b"), policy=plain)
    waiting = roll(member("a", fresh=True, ready=False), member("b"), policy=plain)
    assert isinstance(waiting, Wait)
    sick = roll(member("a"), member("b", ready=False), policy=plain, failed=frozenset({"b"}))
    assert ReplaceMember(workload=member("b").workload, member="b") == sick
    stopped = roll(member("a"), member("b", ready=False, fresh=True), policy=plain, failed=frozenset({"b"}))
    assert isinstance(stopped, Wait)
    assert stopped.alert


PODS = replace(POLICY, drained=False, starts_members=False)


def test_what_a_controller_starts_is_waited_for() -> None:
    """Rotator starts no pod: one that is not there yet takes no work, and nobody else goes meanwhile."""
    waiting = roll(member("a"), member("b", running=False), policy=PODS)
    assert isinstance(waiting, Wait)
    assert ("b",) == waiting.on


def test_law_17_one_that_ends_counts_as_out_of_work_until_another_stands_in() -> None:
    """The wave's size holds while a pod uses its grace period; whoever has a successor is no loss."""
    ending = replace(member("a", ready=False), ending=True)
    held = roll(ending, member("b"), policy=PODS)
    assert isinstance(held, Wait)
    assert (("a",), False) == (held.on, held.alert)
    two = roll(ending, member("b"), policy=replace(PODS, max_unavailable=2))
    assert ReplaceMember(workload=member("b").workload, member="b") == two
    spare = roll(replace(ending, spare=True), member("b"), member("c", fresh=True), policy=PODS)
    assert ReplaceMember(workload=member("b").workload, member="b") == spare
    last = roll(replace(ending, spare=True), member("c", fresh=True), policy=PODS)
    assert isinstance(last, Wait)


def test_law_16_a_start_within_the_clocks_difference_proves_nothing() -> None:
    """Who started a moment after the publication by another clock is stale; nobody goes before that moment is over."""
    unsure = replace(member("a", fresh=True), uncertainty=10 * SECOND)
    waiting = roll(unsure, policy=PODS, now=NOW + 5 * SECOND)
    assert isinstance(waiting, Wait)
    assert NOW + 11 * SECOND == waiting.until
    assert isinstance(roll(unsure, policy=PODS, now=NOW + 11 * SECOND), ReplaceMember)
    assert Done() == roll(replace(unsure, started_at=NOW + 10 * SECOND), policy=PODS, now=NOW + 12 * SECOND)


@pytest.mark.parametrize("first", [member("a"), member("a", draining=True, busy=0, idle_seen=2)])
def test_what_holds_a_roll_is_said(first: Member) -> None:
    """Nobody is taken away meanwhile; past the deadline a person should know."""
    held = decide(POLICY, (first, member("b")), NOW, NOW, NOW + MINUTE, frozenset(), held="it is paused")
    assert isinstance(held, Wait)
    assert (("a",), False) == (held.on, held.alert)
    assert "it is paused" in held.why
    late = decide(POLICY, (first, member("b")), NOW, NOW, NOW + 2 * HOUR, frozenset(), held="it is paused")
    assert isinstance(late, Wait)
    assert late.alert


def test_the_next_wave_waits_until_the_last_is_ready() -> None:
    """Replaced is not ready."""
    coming = roll(member("a", fresh=True, ready=False), member("b"), policy=replace(POLICY, max_unavailable=2))
    assert isinstance(coming, Wait)
    assert not coming.alert


@pytest.mark.parametrize("choice", [AtDrainDeadline.WAIT, AtDrainDeadline.FORCE])
def test_law_17_one_that_is_idle_already_waits_for_the_last_one_too(choice: AtDrainDeadline) -> None:
    """All schedulers of an Airflow are drained at once: the next goes when the first one's successor is ready."""
    policy = replace(POLICY, starts_members=False, at_drain_deadline=choice)
    late = NOW + 2 * HOUR
    idle = member("b", draining=True, busy=0, idle_seen=5)
    ending = replace(member("a", ready=False), ending=True)
    for away in (ending, member("a", running=False), member("a", fresh=True, ready=False)):
        waits = roll(away, idle, policy=policy)
        assert isinstance(waits, Wait), away
        assert ("a",) == waits.on
        assert isinstance(roll(away, replace(idle, busy=1), policy=policy, now=late), Wait), away
    gone_on = ReplaceMember(workload=idle.workload, member="b")
    assert gone_on == roll(member("a", fresh=True), idle, policy=policy)
    two = replace(policy, max_unavailable=2)
    assert gone_on == roll(ending, idle, policy=two)
    spare = replace(policy, max_unavailable=0, surge=1)
    assert isinstance(roll(ending, idle, extra(), policy=spare, surge=RAISED), Wait)
    assert gone_on == roll(replace(ending, spare=True), idle, extra(), policy=spare, surge=RAISED)


def test_a_stopped_member_is_started() -> None:
    """Before anything is drained."""
    assert ReplaceMember(workload=member("b").workload, member="b") == roll(member("a"), member("b", running=False))


def test_a_fresh_member_that_is_still_drained_gets_its_work_back() -> None:
    """A crash fell between the replacement and its undrain."""
    decided = roll(member("a", fresh=True, draining=True), member("b"))
    assert isinstance(decided, UndrainMember)


@pytest.mark.parametrize(
    ("choice", "step"),
    [(AtDrainDeadline.WAIT, Wait), (AtDrainDeadline.SKIP, UndrainMember), (AtDrainDeadline.FORCE, ReplaceMember)],
)
def test_law_17_at_the_drain_deadline_the_written_choice_decides(choice: AtDrainDeadline, step: type) -> None:
    """To the second, and it alerts or says so."""
    policy = replace(POLICY, at_drain_deadline=choice)
    working = (member("a", draining=True, busy=1), member("b"))
    in_time = roll(*working, policy=policy, now=NOW + HOUR - SECOND)
    assert Wait(until=NOW + HOUR, on=("a",), why="to finish their work") == in_time
    late = roll(*working, policy=policy, now=NOW + HOUR)
    assert isinstance(late, step)
    assert not isinstance(late, Wait) or late.alert
    assert not isinstance(late, ReplaceMember) or late.forced


@pytest.mark.parametrize("choice", [AtDrainDeadline.SKIP, AtDrainDeadline.FORCE])
def test_nobody_decides_about_one_that_is_idle_at_the_deadline(choice: AtDrainDeadline) -> None:
    """The second look is waited for: it goes without force, and without a record that somebody had to decide."""
    policy = replace(POLICY, at_drain_deadline=choice)
    late = NOW + 2 * HOUR
    once = roll(member("a", draining=True, busy=0, idle_seen=1), member("b"), policy=policy, now=late)
    assert isinstance(once, Wait)
    twice = roll(member("a", draining=True, busy=0, idle_seen=2), member("b"), policy=policy, now=late)
    assert ReplaceMember(workload=member("a").workload, member="a") == twice


def test_law_17_what_could_not_be_replaced_gets_its_work_back() -> None:
    """It was drained for nothing: the roll is stopped, and the old one works on; one that is ending is left alone."""
    refused = member("a", draining=True, busy=0, idle_seen=2)
    given_back = roll(refused, member("b"), failed=frozenset({"a"}))
    assert isinstance(given_back, UndrainMember)
    assert "a" == given_back.member
    assert isinstance(roll(replace(refused, ending=True), member("b"), failed=frozenset({"a"})), Wait)


def test_what_was_skipped_is_named_and_not_drained_again() -> None:
    """It runs on its old material until a person or the next roll decides."""
    policy = replace(POLICY, at_drain_deadline=AtDrainDeadline.SKIP)
    left = roll(member("a"), member("b", fresh=True), policy=policy, now=NOW + 2 * HOUR)
    assert isinstance(left, Wait)
    assert left.alert
    assert ("a",) == left.on


def test_what_may_go_wrong_is_foreseen() -> None:
    """Before the roll starts, in words."""
    fine = (member("a", queues=("q",)), member("b", queues=("q",)))
    assert () == foreseen(POLICY, fine, NOW + 2 * HOUR, NOW)
    assert (
        "the drain deadline of 1h reaches past the present leaf, which has 30m left",
        "max_unavailable 0 without surge: no member can ever be drained",
        "a is the only consumer of gpu: it will not be drained",
        "the work of a cannot be seen: draining will not end by itself",
        "b does not take work already",
    ) == foreseen(
        replace(POLICY, max_unavailable=0),
        (member("a", queues=("gpu",), busy=None), member("b", ready=False)),
        NOW + 30 * MINUTE,
        NOW,
    )


@given(
    sizes=st.integers(min_value=1, max_value=6),
    unavailable=st.integers(min_value=1, max_value=3),
    choice=st.sampled_from(AtDrainDeadline),
    tasks=st.lists(st.integers(min_value=0, max_value=4), min_size=6, max_size=6),
    shared=st.booleans(),
)
def test_law_17_a_whole_roll_never_goes_below_the_minimum_and_ends(
    sizes: int, unavailable: int, choice: AtDrainDeadline, tasks: list[int], *, shared: bool
) -> None:
    """Every member of any workload is replaced once, idle, with enough others at work."""
    policy = replace(POLICY, max_unavailable=unavailable, at_drain_deadline=choice, queue_single_consumer=sizes == 1)
    members = {f"m{n}": member(f"m{n}", busy=tasks[n], queues=("q",) if shared else ()) for n in range(sizes)}
    replaced: list[str] = []
    for tick in range(200):
        decided = decide(policy, tuple(members.values()), NOW, NOW, NOW + tick * SECOND, frozenset())
        if isinstance(decided, Done):
            break
        match decided:
            case DrainMember():
                members[decided.member] = replace(members[decided.member], draining=True)
                at_work = [each for each in members.values() if each.ready and not each.draining]
                assert len(at_work) >= sizes - unavailable
                assert at_work or sizes == 1 or not shared
            case ReplaceMember():
                assert 0 == members[decided.member].busy
                replaced.append(decided.member)
                members[decided.member] = member(decided.member, fresh=True, ready=False, queues=("q",))
            case Wait():
                members = {name: _worked(each) for name, each in members.items()}
            case _:
                raise AssertionError(decided)
    assert sorted(members) == sorted(replaced)


def _worked(each: Member) -> Member:
    """Return *each* a tick later: new ones get ready, drained ones finish a task."""
    if each.draining:
        left = max(0, (each.busy or 0) - 1)
        return replace(each, busy=left, idle_seen=each.idle_seen + 1 if left == 0 else 0)
    return replace(each, ready=True)


def test_law_17_who_cannot_be_drained_is_stopped_with_the_same_care() -> None:
    """One at a time, gently, never a queue's last consumer; killed only by the operator's word at the deadline."""
    deaf = member("a", queues=("q",)), member("b", queues=("q",))
    deaf = replace(deaf[0], undrainable=True, busy=None), replace(deaf[1], undrainable=True, busy=None)
    assert ReplaceMember(workload=deaf[0].workload, member="a") == roll(*deaf)
    assert isinstance(roll(deaf[0], replace(deaf[1], ready=False, started_at=NOW + MINUTE)), Wait)
    assert isinstance(roll(deaf[0]), Wait), "the only consumer"
    force = replace(POLICY, at_drain_deadline=AtDrainDeadline.FORCE)
    late = roll(*deaf, policy=force, now=NOW + 2 * HOUR)
    assert ReplaceMember(workload=deaf[0].workload, member="a", forced=True) == late
    skip = replace(POLICY, at_drain_deadline=AtDrainDeadline.SKIP)
    assert isinstance(roll(*deaf, policy=skip, now=NOW + 2 * HOUR), Wait)


def test_who_cannot_be_asked_may_be_long_in_showing_work() -> None:
    """The new one is waited for; past the deadline people are told, where nobody would otherwise."""
    deaf = replace(member("a", fresh=True, ready=False), undrainable=True, busy=None)
    waits = Wait(until=None, on=("a",), why="to take work")
    assert waits == roll(deaf, member("b"))
    assert replace(waits, alert=True) == roll(deaf, member("b"), now=NOW + 2 * HOUR)
    slow = member("a", fresh=True, ready=False)
    assert waits == roll(slow, member("b"), now=NOW + 2 * HOUR), "it is its start that fails, and that is told"


def test_law_17_some_members_stay_available_whatever_else() -> None:
    """The only API server is not replaced; one of two is."""
    policy = replace(POLICY, drained=False, keep_available=1)
    alone = roll(member("a"), policy=policy)
    assert isinstance(alone, Wait)
    assert (True, ("a",)) == (alone.alert, alone.on)
    assert ReplaceMember(workload=member("a").workload, member="a") == roll(member("a"), member("b"), policy=policy)
    assert isinstance(roll(member("a"), member("b", ready=False, fresh=True), policy=policy), Wait)


SURGING = replace(POLICY, max_unavailable=0, surge=1, starts_members=False)
RAISED = Surge(wanted=3, before=2, raised_to=3)
RAISE = RaiseNumber(workload=member("a").workload, by=1)


def extra(name: str = "x", *, draining: bool = False, busy: int | None = 0, idle_seen: int = 0) -> Member:
    """Return a ready member that is there for the time of the roll."""
    made = member(name, fresh=True, draining=draining, busy=busy, idle_seen=idle_seen, queues=("q",))
    return replace(made, extra=True)


def test_law_17_more_come_before_one_that_takes_work_goes() -> None:
    """One that takes no work anyway goes first; then the number is raised, and nobody goes before the new is ready."""
    plain = Surge(wanted=2)
    sick = roll(member("a"), member("b", ready=False), policy=SURGING, surge=plain)
    assert DrainMember(workload=member("b").workload, member="b") == sick
    a, b = member("a", queues=("q",)), member("b", queues=())
    assert RAISE == roll(a, b, policy=SURGING, surge=plain)
    coming = replace(extra(), ready=False)
    assert Wait(until=None, on=("x",), why="to take work") == roll(a, b, coming, policy=SURGING, surge=RAISED)
    # Alone it was not to be drained: now the other consumes its queue.
    assert DrainMember(workload=a.workload, member="a") == roll(a, b, extra(), policy=SURGING, surge=RAISED)


def test_whose_number_it_is_not_rotator_does_not_raise_it() -> None:
    """An autoscaler, somebody's roll-out, or somebody who set it back: said in words, and nobody goes."""
    members = member("a"), member("b")
    scaled = roll(*members, policy=SURGING, surge=Surge(wanted=2, scaled_by="HorizontalPodAutoscaler web, made for X"))
    assert isinstance(scaled, Wait)
    assert (True, ("HorizontalPodAutoscaler web",)) == (scaled.alert, scaled.on)
    assert "take surge out of the configuration" in scaled.why
    held = roll(*members, policy=SURGING, surge=Surge(wanted=2), held="it is paused")
    assert isinstance(held, Wait)
    assert "it is paused" in held.why
    overruled = Surge(wanted=2, before=2, raised_to=3)
    stands = roll(*members, policy=SURGING, surge=overruled)
    assert isinstance(stands, Wait)
    assert (True, ("rotator.io/surge",)) == (stands.alert, stands.on)
    # Where one may be out of work without more, the roll goes on without more.
    going_on = roll(*members, policy=replace(SURGING, max_unavailable=1), surge=overruled)
    assert DrainMember(workload=members[0].workload, member="a") == going_on


@pytest.mark.parametrize("choice", AtDrainDeadline)
def test_law_17_who_came_for_the_roll_is_idle_before_the_number_goes_back(choice: AtDrainDeadline) -> None:
    """Drained, seen idle twice, then it goes; past the deadline it is waited for, whatever was chosen."""
    policy = replace(SURGING, at_drain_deadline=choice)
    done = member("a", fresh=True, queues=("q",)), member("b", fresh=True, queues=("q",))
    for now in (NOW + MINUTE, NOW + 2 * HOUR):
        first = roll(*done, extra(busy=1), policy=policy, surge=RAISED, now=now)
        assert DrainMember(workload=done[0].workload, member="x") == first
        for busy, seen in ((1, 0), (None, 0), (0, 1)):
            working = extra(draining=True, busy=busy, idle_seen=seen)
            waits = roll(*done, working, policy=policy, surge=RAISED, now=now)
            assert isinstance(waits, Wait)
            assert ("x",) == waits.on
        idle = extra(draining=True, idle_seen=2)
        assert isinstance(roll(*done, idle, policy=policy, surge=RAISED, now=now), LowerNumber)
    # The number is back and its controller has yet to tell it to end: no work is given to it any more.
    assert Done() == roll(*done, replace(idle, extra=False, spare=True), policy=policy, surge=Surge(wanted=2))
    alone = roll(*(replace(each, queues=frozenset()) for each in done), extra(), policy=policy, surge=RAISED)
    assert isinstance(alone, Wait)
    assert alone.alert


def test_law_17_a_stopped_roll_keeps_those_that_are_needed() -> None:
    """One failed: who came for the roll stays where the minimum needs it, or where it failed itself; else it goes."""
    sick, well = member("a", fresh=True, ready=False), member("b")
    failed = frozenset({"a"})
    idle = extra(draining=True, idle_seen=2)
    one = replace(SURGING, max_unavailable=1)
    assert isinstance(roll(sick, well, extra(), policy=SURGING, surge=RAISED, failed=failed), Wait)
    back = roll(sick, well, idle, policy=SURGING, surge=RAISED, failed=failed)
    assert isinstance(back, UndrainMember)
    assert isinstance(roll(sick, well, idle, policy=one, surge=RAISED, failed=failed), LowerNumber)
    itself = roll(well, member("c"), replace(idle, ready=False), policy=one, surge=RAISED, failed=frozenset({"x"}))
    assert not isinstance(itself, LowerNumber)
    gone_on = roll(well, member("c"), idle, policy=one, surge=RAISED)
    assert UndrainMember(workload=well.workload, member="x", because="the roll goes on") == gone_on
    # Not wanted any more: it goes whatever else.
    off = replace(SURGING, surge=0)
    assert isinstance(roll(sick, well, idle, policy=off, surge=RAISED, failed=failed), LowerNumber)


@given(
    sizes=st.integers(min_value=1, max_value=5),
    unavailable=st.integers(min_value=0, max_value=2),
    surge=st.integers(min_value=1, max_value=3),
    choice=st.sampled_from(AtDrainDeadline),
    tasks=st.lists(st.integers(min_value=0, max_value=4), min_size=8, max_size=8),
    scaled=st.none() | st.tuples(st.integers(min_value=0, max_value=40), st.integers(min_value=1, max_value=7)),
)
def test_law_17_a_roll_with_surge_never_goes_below_the_minimum_and_gives_back_what_is_its_own(
    sizes: int, unavailable: int, surge: int, choice: AtDrainDeadline, tasks: list[int], scaled: tuple[int, int] | None
) -> None:
    """Whoever goes is idle, enough others work, one always consumes; at the end the number is the people's own."""
    policy = RolloutPolicy(
        max_unavailable=unavailable,
        surge=surge,
        drain_deadline=HOUR,
        at_drain_deadline=choice,
        starts_members=False,
    )
    number = Surge(wanted=sizes)
    members = {f"m{n}": member(f"m{n}", busy=tasks[n], queues=("q",)) for n in range(sizes)}
    theirs = sizes
    for tick in range(400):
        # Somebody who sets the very number that rotator raised it to cannot be told from it.
        if scaled is not None and tick == scaled[0] and scaled[1] != number.raised_to:
            theirs = scaled[1]
            number = replace(number, wanted=theirs)
        members = _made(members, number, tasks)
        decided = decide(policy, tuple(members.values()), NOW, NOW, NOW + tick * SECOND, frozenset(), surge=number)
        at_work = [each for each in members.values() if each.ready and not each.draining]
        match decided:
            case Done():
                break
            case RaiseNumber():
                assert number.before is None
                number = Surge(wanted=number.wanted + surge, before=number.wanted, raised_to=number.wanted + surge)
            case LowerNumber():
                for name in list(members)[number.wanted - number.more :]:
                    gone = members.pop(name)
                    assert 0 == gone.busy
                    assert gone.draining
                assert number.before is not None
                number = Surge(wanted=number.wanted if number.is_overruled else number.before)
                assert theirs == number.wanted
            case DrainMember():
                members[decided.member] = replace(members[decided.member], draining=True)
                assert len(at_work) > 1
                assert len(at_work) - 1 >= (number.before or number.wanted) - unavailable or number.is_overruled
            case ReplaceMember():
                assert 0 == members[decided.member].busy
                members[decided.member] = member(decided.member, fresh=True, ready=False, queues=("q",))
            case UndrainMember():
                members[decided.member] = replace(members[decided.member], draining=False)
            case Wait() if decided.alert:
                # The number is theirs, or one of theirs alone consumes: people are told, nobody went.
                assert scaled is not None
                return
            case Wait():
                members = {name: _worked(each) for name, each in members.items()}
            case _:
                raise AssertionError(decided)
    assert (None, theirs) == (number.before, number.wanted)
    assert all(each.ready and each.started_at is not None and each.started_at >= NOW for each in members.values())


def _made(members: dict[str, Member], number: Surge, tasks: list[int]) -> dict[str, Member]:
    """Return as many members as are wanted, as the controller of a StatefulSet makes and takes them."""
    names = [f"m{n}" for n in range(number.wanted)]
    return {
        name: replace(
            members.get(name) or member(name, fresh=True, ready=False, busy=tasks[at % len(tasks)], queues=("q",)),
            extra=at >= number.wanted - number.more,
        )
        for at, name in enumerate(names)
    }
