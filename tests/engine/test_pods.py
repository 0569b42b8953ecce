"""Pods are rolled by evicting them: a few at a time, once each, and nobody without need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotator.adapters.kubernetes.workloads import Kind
from rotator.core.alert_kinds import AlertKind
from rotator.core.event import EventType
from rotator.core.model import SubjectKind, SubjectName
from rotator.core.rollout import RolloutPolicy, is_stale
from rotator.core.tasks import TaskAttempt
from rotator.engine import status
from rotator.engine.long_tasks import EVERY
from rotator.engine.observe import stale_before
from rotator.engine.targets import WorkloadTarget
from rotator.errors import Unavailable
from tests.engine.world import World
from tests.fakes.faults import Crash
from tests.fakes.pods import FakePodDrainer, FakePods

SERVICE = SubjectName("service-0")
WORKERS = SubjectName("workers")
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
READY_WITHIN = 30 * SECOND


class Rolled:
    """A world whose first service is loaded by pods at their start, and by nobody else."""

    def __init__(
        self,
        directory: Path,
        kind: Kind,
        *,
        replicas: int = 3,
        max_unavailable: int = 1,
        surge: int = 0,
        drained: bool = False,
    ) -> None:
        self.world = World(directory, certificates=1)
        self.pods = FakePods(
            self.world.clock, kind, replicas=replicas, uncertainty=10 * SECOND, faults=self.world.faults
        )
        self.drainer = FakePodDrainer(self.pods) if drained else None
        self.pods.ready_after = 4 * SECOND
        self.pods.grace = 3 * SECOND
        target = self.world.certificates[SERVICE]
        certificate = replace(target.certificate, rolls=(WORKERS,))
        self.world.certificates[SERVICE] = replace(target, certificate=certificate, probes=())
        self.world.workloads[WORKERS] = WorkloadTarget(
            name=WORKERS,
            policy=RolloutPolicy(
                max_unavailable=max_unavailable,
                surge=surge,
                drain_deadline=5 * MINUTE,
                drained=drained,
                starts_members=False,
            ),
            workloads=self.pods,
            surging=self.pods,
            drainer=self.drainer,
            ready_within=READY_WITHIN,
        )
        self.world.restart()
        # Pods that were there before the first certificate are rolled once already.
        self.world.run(until=lambda: given_back(self) and len(self.pods.members()) == replicas, span=HOUR)
        self.pods.evictions = 0
        self.pods.wanted.clear()
        self.known = len(self.world.told())
        self.pods.fewest_ready = replicas

        self.loads = True

    def shown_at_start(self, uid: str) -> None:
        """Let the pod *uid* serve what is published now."""
        publication = self.world.consumers[SERVICE].store.read()
        assert publication is not None
        assert publication.leaf is not None
        assert self.pods.shown is not None
        self.pods.shown[uid] = publication.leaf.serial

    def ask(self) -> None:
        """Let somebody want a new certificate now."""
        self.world.ask(SERVICE, SubjectKind.CERTIFICATE)

    def finish(self, span: timedelta = 10 * MINUTE) -> None:
        """Let time pass until the certificate is proven and no rotation is open."""
        self.world.run(until=self.world.settled, span=span)

    def until_evicted(self, count: int) -> None:
        """Let time pass until so many pods were evicted."""
        self.world.run(until=lambda: self.pods.evictions >= count)

    def identities(self) -> set[str]:
        """Return which pods there are."""
        return {each.identity for each in self.pods.members() if each.identity}

    def why(self) -> str:
        """Return what the roll waits for, as status tells it."""
        look = self.world.engine.rolls.look(WORKERS)
        assert look is not None
        return f"{', '.join(look.waiting_on)} {look.why}"

    def alerts(self) -> set[str]:
        """Return the kinds of alerts that are raised about the workload."""
        return {each.key.partition("/")[2] for each in self.world.engine.alerting.raised() if WORKERS in each.key}


@pytest.fixture(params=list(Kind))
def rolled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rolled]:
    """A settled world with three pods."""
    made = Rolled(tmp_path, request.param)
    yield made
    made.world.close()


def test_law_17_every_pod_is_replaced_once_and_one_at_a_time(rolled: Rolled) -> None:
    """A rotation ends with other pods, never with two out of work, and with one record for each."""
    before = rolled.identities()
    rolled.ask()
    rolled.finish()
    assert not before & rolled.identities()
    assert (3, 2) == (rolled.pods.evictions, rolled.pods.fewest_ready)
    gone = [each.detail["was"] for each in rolled.world.events(EventType.ROLLED)][-3:]
    assert sorted(before) == sorted(str(each) for each in gone)


def test_law_16_no_restart_without_changed_material(rolled: Rolled) -> None:
    """Neither rotator's restart nor a pod that somebody moved makes anybody go."""
    rolled.world.restart()
    rolled.pods.end(rolled.pods.members()[1].name)
    rolled.world.run(span=5 * MINUTE)
    rolled.world.restart()
    rolled.world.run(span=5 * MINUTE)
    assert 0 == rolled.pods.evictions


def test_law_16_what_was_made_while_the_material_was_written_is_not_believed(rolled: Rolled) -> None:
    """A pod that came within the clocks' difference of the publication goes once more; nobody goes before that."""
    rolled.ask()
    published = len(rolled.world.events(EventType.DISTRIBUTED))
    rolled.world.run(until=lambda: len(rolled.world.events(EventType.DISTRIBUTED)) > published)
    rolled.world.clock.advance(2 * SECOND)
    moved = rolled.pods.members()[0]
    rolled.pods.grace = timedelta()
    rolled.pods.end(moved.name)
    rolled.pods.settle()
    early = rolled.identities()
    rolled.world.run(span=5 * SECOND)
    assert 0 == rolled.pods.evictions
    assert "surely finds what was published" in rolled.why()
    rolled.finish()
    assert not early & rolled.identities()


def test_law_15_members_that_cannot_be_seen_hold_no_renewal(rolled: Rolled) -> None:
    """Nobody answers for them since rotator's start: the leaf is renewed, nothing counts as proven, nobody goes."""
    rolled.world.restart()

    def silent(call: str) -> None:
        if call == "members":
            raise Unavailable("the API server does not answer")

    rolled.pods.faults.before = silent
    former = rolled.world.consumers[SERVICE].store.read()
    assert former is not None
    assert former.leaf is not None
    ends = former.leaf.not_after
    rolled.world.run(until=lambda: rolled.world.clock.now() > ends, span=2 * HOUR, tick=10 * SECOND)
    held = rolled.world.consumers[SERVICE].store.read()
    assert held is not None
    assert held.leaf is not None
    assert held.leaf.not_after > ends
    view = rolled.world.engine.leaves.view(SERVICE)
    assert view is not None
    assert ("workers/(not seen yet)",) == view.proof.waiting_on
    assert 0 == rolled.pods.evictions
    rolled.pods.faults.clear()
    rolled.finish()
    assert 3 == rolled.pods.evictions


def test_law_17_the_first_unhealthy_pod_stops_the_roll(rolled: Rolled) -> None:
    """Nobody else goes, people are told who; mended, the roll goes on from there."""
    rolled.pods.next_are_sick = True
    rolled.ask()
    rolled.until_evicted(1)
    kind = AlertKind.MEMBER_FAILED
    rolled.world.run(until=lambda: kind in rolled.alerts(), span=10 * MINUTE)
    rolled.world.run(span=5 * MINUTE)
    assert 1 == rolled.pods.evictions
    assert "the roll is stopped" in rolled.why()
    rolled.pods.mend()
    rolled.finish()
    assert 3 == rolled.pods.evictions
    rolled.world.run(span=MINUTE)
    assert set() == rolled.alerts()


def test_law_17_one_that_takes_no_work_already_goes_first(rolled: Rolled) -> None:
    """It may be the old certificate that keeps it from working, so a sick old pod does not stop the roll."""
    sick = rolled.pods.members()[-1]
    rolled.pods.fall_sick(sick.name)
    rolled.world.run(span=2 * READY_WITHIN)
    rolled.ask()
    rolled.until_evicted(1)
    assert sick.identity not in {each.identity for each in rolled.pods.members() if not each.ending}
    rolled.finish()
    assert 3 == rolled.pods.evictions


def test_law_17_a_pod_that_is_never_made_stops_the_roll(rolled: Rolled) -> None:
    """Nobody else goes while its controller can make none, and people are told; once it can, the roll goes on."""
    rolled.pods.none_are_made = True
    rolled.ask()
    rolled.until_evicted(1)
    rolled.world.run(until=lambda: "the roll is stopped" in rolled.why(), span=10 * MINUTE)
    assert 1 == rolled.pods.evictions
    rolled.pods.none_are_made = False
    rolled.finish()
    assert 3 == rolled.pods.evictions


def test_law_13_a_restart_in_the_middle_goes_on(rolled: Rolled) -> None:
    """Whoever is fresh stays; nobody goes twice."""
    before = rolled.identities()
    rolled.ask()
    for count in (1, 2):
        rolled.until_evicted(count)
        rolled.world.restart()
    rolled.finish()
    assert not before & rolled.identities()
    assert (3, 2) == (rolled.pods.evictions, rolled.pods.fewest_ready)


def test_a_disruption_budget_is_waited_for_and_named(rolled: Rolled) -> None:
    """It is no failure; past the roll's deadline people are told; once it allows it, the roll goes on."""
    rolled.pods.most_disrupted = 0
    rolled.ask()
    rolled.world.run(until=lambda: "disruption budget worker needs 3" in rolled.why())
    assert set() == rolled.alerts()
    rolled.world.run(until=lambda: AlertKind.ROLL_HELD in rolled.alerts(), span=10 * MINUTE)
    asked = [each.detail["was"] for each in rolled.world.events(EventType.DRAINED)]
    assert len(asked) == len(set(asked))
    rolled.pods.most_disrupted = 1
    rolled.finish()
    assert 3 == rolled.pods.evictions


def test_what_somebody_else_rolls_out_is_waited_for(rolled: Rolled) -> None:
    """Nobody goes while it lasts, and it is said why."""
    rolled.pods.held_by = "a roll-out of worker is under way"
    rolled.ask()
    rolled.world.run(until=lambda: "a roll-out of worker is under way" in rolled.why())
    rolled.world.run(span=MINUTE)
    assert 0 == rolled.pods.evictions
    rolled.pods.held_by = None
    rolled.finish()
    assert 3 == rolled.pods.evictions


def test_law_16_a_pod_that_serves_something_else_has_not_loaded_it(rolled: Rolled) -> None:
    """Ready is not enough where pods are asked: nobody else goes until the first serves what is published."""
    rolled.pods.shown = {}
    rolled.pods.on_start = lambda uid: rolled.shown_at_start(uid) if rolled.loads else None
    rolled.loads = False
    rolled.ask()
    rolled.until_evicted(1)
    rolled.world.run(span=MINUTE)
    assert 1 == rolled.pods.evictions
    assert not rolled.world.settled()
    view = rolled.world.engine.leaves.view(SERVICE)
    assert view is not None
    assert any("no answer" in each for each in view.proof.waiting_on)
    rolled.loads = True
    for each in rolled.identities():
        rolled.shown_at_start(each)
    rolled.finish()
    assert 3 == rolled.pods.evictions


def test_a_wave_may_be_more_than_one(tmp_path: Path) -> None:
    """As many as the operator allows go together, and no more."""
    rolled = Rolled(tmp_path, Kind.STATEFULSET, replicas=6, max_unavailable=2)
    rolled.ask()
    rolled.finish()
    assert (6, 4) == (rolled.pods.evictions, rolled.pods.fewest_ready)
    rolled.world.close()


@settings(max_examples=15)
@given(
    kind=st.sampled_from(Kind),
    surge=st.integers(min_value=0, max_value=1),
    disturbances=st.lists(
        st.tuples(st.integers(min_value=1, max_value=15), st.sampled_from(["more", "fewer", "end one", "restart"])),
        max_size=6,
    ),
)
def test_law_17_whatever_joins_and_leaves_meanwhile(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind, surge: int, disturbances: list[tuple[int, str]]
) -> None:
    """Scaled, moved and restarted in the middle: it ends, on new pods, and nobody who was fresh was evicted."""
    rolled = Rolled(tmp_path_factory.mktemp("world"), kind, surge=surge)
    before = rolled.identities()
    rolled.ask()
    for seconds, what in disturbances:
        rolled.world.run(span=timedelta(seconds=seconds))
        match what:
            case "more":
                rolled.pods.scale(rolled.pods.replicas + 1)
            case "fewer":
                rolled.pods.scale(max(1, rolled.pods.replicas - 1))
            case "end one":
                rolled.pods.end(rolled.pods.members()[0].name)
            case _:
                rolled.world.restart()
    # Who joined last may still be on its way when the rotation has ended.
    rolled.world.run(span=MINUTE)
    rolled.world.run(until=lambda: given_back(rolled), span=30 * MINUTE)
    # Who came for the time of the roll has gone.
    rolled.world.run(span=MINUTE)
    rolled.finish(30 * MINUTE)
    seen = rolled.world.engine.leaves.view(SERVICE)
    assert seen is not None
    since = stale_before(seen.observation)
    assert since is not None
    assert not before & rolled.identities()
    assert not [each for each in rolled.pods.members() if is_stale(each, since) or not (each.ready or each.spare)]
    # Those who came within the clocks' difference of the publication may go a second time, nobody else.
    assert rolled.pods.evictions <= len(before) + sum(what in {"more", "end one"} for _, what in disturbances)
    rolled.world.close()


@pytest.fixture
def surging(tmp_path: Path) -> Iterator[Rolled]:
    """A settled world with one drained pod, the only consumer of its queue, that may be two for a roll's time."""
    made = Rolled(tmp_path, Kind.STATEFULSET, replicas=1, max_unavailable=0, surge=1, drained=True)
    yield made
    made.world.close()


def busy_at_start(rolled: Rolled) -> None:
    """Let every pod that takes work from now on get one task, once."""
    assert rolled.drainer is not None
    begun: set[str] = set()

    def begin(uid: str) -> int:
        if uid in begun:
            return 0
        begun.add(uid)
        return 4

    rolled.drainer.begins = begin
    rolled.drainer.without_consumer = 0


def given_back(rolled: Rolled) -> bool:
    """Return whether the certificate is in use, and nothing is raised."""
    return rolled.world.settled() and rolled.pods.raised is None


def numbers(rolled: Rolled) -> list[tuple[object, object, str]]:
    """Return what the ledger says of the wanted number: from, to, and how it went."""
    new = [each.event for each in rolled.world.told()[rolled.known :]]
    return [(each.detail["from"], each.detail["to"], each.result) for each in new if each.type is EventType.SCALED]


def test_law_17_the_only_consumer_is_rolled_with_another_beside_it(surging: Rolled) -> None:
    """Two for the time of the roll, one after it; a queue always has its consumer, and no work is lost."""
    before = surging.identities()
    busy_at_start(surging)
    surging.ask()
    surging.world.run(until=lambda: given_back(surging) and len(surging.identities()) == 1, span=20 * MINUTE)
    assert not before & surging.identities()
    assert ([2, 1], 1) == (surging.pods.wanted, surging.pods.evictions)
    assert surging.drainer is not None
    assert (0, 0) == (surging.pods.lost, surging.drainer.without_consumer)
    assert [(1, 2, "started"), (1, 2, "ok"), (2, 1, "started"), (2, 1, "ok")] == numbers(surging)


@pytest.mark.parametrize("call", ["more", "back"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_law_13_a_crash_while_the_number_changes_leaves_it_to_whoever_comes_next(
    surging: Rolled, call: str, when: str
) -> None:
    """Raised once and set back once, by the next process if need be; its records say so."""
    crashed: list[str] = []

    def crash(name: str) -> None:
        if name == call and not crashed:
            crashed.append(name)
            raise Crash(name)

    busy_at_start(surging)
    setattr(surging.world.faults, when, crash)
    surging.ask()
    for _ in range(30 * 60):
        try:
            surging.world.engine.sweep()
        except Crash:
            surging.world.restart()
        if given_back(surging) and len(surging.identities()) == 1:
            break
        surging.world.settle()
        surging.world.clock.advance(SECOND)
    assert [call] == crashed
    assert ([2, 1], 1) == (surging.pods.wanted, surging.pods.evictions)
    assert 0 == surging.pods.lost
    assert {(1, 2), (2, 1)} == {(came, went) for came, went, _ in numbers(surging)}


def test_somebody_elses_number_stands(tmp_path: Path) -> None:
    """Scaled while it is raised: the roll ends without another raise, and the number is theirs."""
    rolled = Rolled(tmp_path, Kind.DEPLOYMENT, surge=1)
    rolled.ask()
    rolled.until_evicted(1)
    assert (3, 4) == rolled.pods.raised
    rolled.pods.scale(6)
    rolled.world.run(until=lambda: given_back(rolled), span=20 * MINUTE)
    assert (6, [4, 6]) == (rolled.pods.replicas, rolled.pods.wanted)
    assert (6, 6, "ok") == numbers(rolled)[-1]
    rolled.world.close()


def test_law_13_what_another_process_left_raised_is_set_back(surging: Rolled) -> None:
    """Nothing is to be rolled, and nobody remembers: the workload itself says what is left to do."""
    surging.world.restart()
    surging.pods.raised = (1, 2)
    surging.pods.scale(2)
    surging.world.run(until=lambda: given_back(surging) and len(surging.identities()) == 1, span=20 * MINUTE)
    assert (1, [1], 0) == (surging.pods.replicas, surging.pods.wanted, surging.pods.evictions)


def test_an_autoscaler_is_not_fought(surging: Rolled) -> None:
    """Nobody goes and nothing is raised; people are told who stands against it."""
    surging.pods.autoscaler = "HorizontalPodAutoscaler worker"
    surging.ask()
    surging.world.run(until=lambda: "HorizontalPodAutoscaler worker sets the number" in surging.why())
    surging.world.run(until=lambda: AlertKind.ROLL_HELD in surging.alerts(), span=10 * MINUTE)
    assert (0, []) == (surging.pods.evictions, surging.pods.wanted)


class History:
    """An Airflow in which one task takes as long as it is told, and that may not answer."""

    def __init__(self) -> None:
        self.took, self.asked, self.silent = 10 * HOUR, 0, False

    def longer(self, than: timedelta, *, since: datetime, now: datetime) -> tuple[TaskAttempt, ...]:
        """Return the one task if it is longer."""
        self.asked += 1
        if self.silent:
            raise Unavailable("Airflow does not answer")
        assert since < now
        one = TaskAttempt(
            dag="etl",
            run="r",
            task="load",
            attempt=1,
            state="success",
            host="",
            started_at=now - self.took,
            ended_at=now,
        )
        return (one,) if self.took > than else ()


def test_tasks_too_long_are_told_before_the_roll(rolled: Rolled) -> None:
    """In alert, status and plan, while nobody is drained; gone when they are; asked seldom; silence holds nobody."""
    world, history = rolled.world, History()
    world.workloads[WORKERS] = replace(world.workloads[WORKERS], history=history)
    world.restart()
    world.run(until=lambda: AlertKind.TASKS_TOO_LONG in rolled.alerts(), span=MINUTE)
    assert (0, 1) == (rolled.pods.evictions, history.asked)
    told = next(each.summary for each in world.engine.alerting.raised() if "tasks_too_long" in each.key)
    assert "etl/load took 10h, longer than the drain's deadline of 5m: the roll will wait for it" in told
    (row,) = status.workloads(world.engine)
    assert "outlives it" in row["foreseen"][1]
    planned = next(each for each in status.plan(world.engine, 24 * HOUR) if each["subject"] == SERVICE)
    assert f"{WORKERS}: {row['foreseen'][0]}" in planned["foreseen"]
    steps = status.rotation_plan(world.engine, world.certificates[SERVICE])
    assert any(each.startswith(f"mind: {WORKERS}: etl/load took 10h") for each in steps)
    history.silent = True
    rolled.ask()
    rolled.finish()
    assert 3 == rolled.pods.evictions
    world.run(span=EVERY)
    assert AlertKind.TASKS_TOO_LONG in rolled.alerts()
    history.silent, history.took = False, SECOND
    world.run(until=lambda: AlertKind.TASKS_TOO_LONG not in rolled.alerts(), span=2 * EVERY)
    assert 5 >= history.asked
