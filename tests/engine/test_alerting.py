"""People are told once that something is wrong, once that it is over, and the ledger says the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.bootstrap import Sessions
from rotator.core.alert_kinds import AlertKind
from rotator.core.event import Event, EventType
from rotator.core.foreseen import AlertPolicy
from rotator.core.model import Severity, SubjectKind, SubjectName
from rotator.core.rollout import AtDrainDeadline, RolloutPolicy
from rotator.engine.alerting import QUIET
from rotator.engine.limits import IssuanceLimit
from rotator.engine.targets import WorkloadTarget
from rotator.errors import JournalError, Unavailable
from rotator.ports import Notice
from rotator.settings.issuers import VaultIssuer
from tests.engine.world import MESH, World
from tests.fakes.workloads import FakeDrainer, FakeFleet, FakeWorkloads

SERVICE = SubjectName("service-0")
HOURS, MINUTES, SECONDS = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
HELD = f"{MESH}/{AlertKind.TRUST_DEADLINE}"
PAST_LINE = f"{SERVICE}/{AlertKind.SAFETY_LINE}"


class Told:
    """A notifier that keeps what it was given; `broken` makes it fail first."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.broken = False

    def notify(self, notices: Sequence[Notice]) -> None:
        """Keep *notices*."""
        if self.broken:
            raise OSError("the pager is gone")
        self.notices.extend(notices)

    def of(self, key: str) -> list[tuple[bool, Severity]]:
        """Return whether each notice of *key* was a raise, and how severe."""
        return [(each.raised, each.severity) for each in self.notices if each.key == key]


@pytest.fixture
def told() -> Told:
    """A notifier that works."""
    return Told()


@pytest.fixture
def world(tmp_path: Path, told: Told) -> Iterator[World]:
    """A settled world of three services whose alerts go to `told`."""
    made = World(tmp_path, notifiers=[told])
    made.run(until=made.settled)
    yield made
    made.close()


def recorded(world: World, kind: AlertKind, subject: str) -> list[tuple[str, str]]:
    """Return type and result of every record about one alert, in order."""
    found: list[Event] = world.events(EventType.ALERT_RAISED, EventType.ALERT_CLEARED)
    return [
        (each.type.value, each.result)
        for each in found
        if each.detail["alert"] == kind.value and each.subject == subject
    ]


def is_raised(world: World, key: str) -> Callable[[], bool]:
    """Return a question: is *key* raised now."""
    return lambda: key in {each.key for each in world.engine.alerting.raised()}


def is_clear(world: World, key: str) -> Callable[[], bool]:
    """Return a question: is *key* not raised now."""
    return lambda: not is_raised(world, key)()


def seal(world: World) -> None:
    """Let Vault sign nothing until the faults are cleared."""

    def refuse(call: str) -> None:
        if call.endswith("sign"):
            raise Unavailable("sealed")

    world.faults.before = refuse


def hold_up(world: World) -> None:
    """Let one consumer lag behind a CA rotation until past its trust deadline."""
    world.consumers[SERVICE].lag = 2 * HOURS
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=is_raised(world, HELD), span=HOURS, tick=10 * SECONDS)


def workers(world: World) -> tuple[SubjectName, FakeFleet]:
    """Add two workers that load the first service's certificate; return their workload's name, and them."""
    name = SubjectName("workers")
    fleet = FakeFleet(world.clock, ("w1", "w2"), workload=name)
    world.workloads[name] = WorkloadTarget(
        name=name,
        policy=RolloutPolicy(max_unavailable=1, drain_deadline=5 * MINUTES),
        workloads=FakeWorkloads(fleet),
        drainer=FakeDrainer(fleet),
    )
    target = world.certificates[SERVICE]
    world.certificates[SERVICE] = replace(target, certificate=replace(target.certificate, rolls=(name,)))
    world.engine.use(world.fleet())
    world.run(span=2 * MINUTES)
    world.run(until=world.settled, span=HOURS)
    return name, fleet


def test_a_settled_world_has_nothing_to_tell(world: World, told: Told) -> None:
    """A first start, a day of renewals and CA rotations raise nothing, warning or worse."""
    world.run(span=24 * HOURS, tick=MINUTES)
    assert len(world.rotations()) > 2
    assert ([], []) == (told.notices, world.events(EventType.ALERT_RAISED))


def test_a_laggard_past_the_trust_deadline_is_told_of_until_it_has_caught_up(world: World, told: Told) -> None:
    """Raised at the deadline with its name, cleared when it acknowledges, each recorded once within the rotation."""
    hold_up(world)
    notice = next(each for each in told.notices if each.key == HELD)
    assert str(SERVICE) in notice.summary
    assert "goes dark by" in notice.summary
    world.run(span=2 * MINUTES)
    world.consumers[SERVICE].lag = timedelta()
    world.run(until=is_clear(world, HELD), span=HOURS)
    assert [(True, Severity.WARNING), (False, Severity.WARNING)] == told.of(HELD)
    kind = AlertKind.TRUST_DEADLINE
    assert [("alert_raised", "warning"), ("alert_cleared", "ok")] == recorded(world, kind, MESH)
    about = [each for each in world.events(EventType.ALERT_RAISED) if each.subject == MESH]
    assert [world.rotations()[-1].id] == [each.rotation_id for each in about]


def test_a_leaf_that_cannot_be_renewed_grows_graver_until_it_is(world: World, told: Told) -> None:
    """Overdue, near its line, past it, ended: each once, each a record; all cleared by the renewal."""
    seal(world)
    world.run(until=is_raised(world, f"{SERVICE}/{AlertKind.EXPIRED}"), span=2 * HOURS, tick=10 * SECONDS)
    assert [(True, Severity.WARNING), (True, Severity.CRITICAL)] == told.of(PAST_LINE)
    world.faults.clear()
    world.run(until=world.settled, span=HOURS, tick=10 * SECONDS)
    world.run(span=MINUTES)
    assert () == world.engine.alerting.raised()
    assert [("alert_raised", "warning"), ("alert_raised", "critical"), ("alert_cleared", "ok")] == recorded(
        world, AlertKind.SAFETY_LINE, SERVICE
    )
    assert [("alert_raised", "critical"), ("alert_cleared", "ok")] == recorded(world, AlertKind.EXPIRED, SERVICE)


def test_the_same_trouble_again_is_told_and_recorded_again(world: World, told: Told) -> None:
    """A second leaf past its line is no duplicate of the first."""
    for _ in range(2):
        seal(world)
        world.run(until=is_raised(world, PAST_LINE), span=2 * HOURS, tick=10 * SECONDS)
        world.faults.clear()
        world.run(until=is_clear(world, PAST_LINE), span=HOURS, tick=10 * SECONDS)
    assert [True, False, True, False] == [raised for raised, _ in told.of(PAST_LINE)]
    assert ["alert_raised", "alert_cleared"] * 2 == [
        each for each, _ in recorded(world, AlertKind.SAFETY_LINE, SERVICE)
    ]


def test_a_consumer_that_shows_nothing_is_told_of(world: World, told: Told) -> None:
    """A dead consumer is named after the time that a proof may take, and cleared when it is back."""
    world.consumers[SERVICE].alive = False
    key = f"{SERVICE}/{AlertKind.UNPROVEN}"
    world.run(until=is_raised(world, key), span=HOURS)
    assert f"probe:{SERVICE}" in next(each.summary for each in told.notices if each.key == key)
    world.consumers[SERVICE].alive = True
    world.run(until=is_clear(world, key), span=HOURS)
    assert ["alert_raised", "alert_cleared"] == [each for each, _ in recorded(world, AlertKind.UNPROVEN, SERVICE)]


def test_a_tripped_breaker_is_told_of(tmp_path: Path, told: Told) -> None:
    """Somebody undoes what is published until issuing stops."""
    world = World(tmp_path, notifiers=[told], limit=IssuanceLimit(count=3, within=HOURS))
    world.run(until=world.settled)
    key = f"{SERVICE}/{AlertKind.BREAKER_TRIPPED}"
    store = world.consumers[SERVICE].store
    for _ in range(5):
        if is_raised(world, key)():
            break
        world.ask(SERVICE, SubjectKind.CERTIFICATE)
        world.run(span=MINUTES)
    assert store.read() is not None
    assert [(True, Severity.CRITICAL)] == told.of(key)
    world.close()


def test_a_drain_past_its_deadline_is_told_of(world: World, told: Told) -> None:
    """A worker whose work does not end is named, from the deadline on; no longer once its work has ended."""
    name, fleet = workers(world)
    fleet.give_work("w1", 15 * MINUTES)
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    key = f"{name}/{AlertKind.ROLL_HELD}"
    world.run(until=is_raised(world, key), span=HOURS)
    notice = next(each for each in told.notices if each.key == key)
    assert "w1 to finish their work, past the drain deadline" in notice.summary
    world.run(until=is_clear(world, key), span=HOURS)
    world.run(until=world.settled, span=HOURS)
    assert ["alert_raised", "alert_cleared"] == [each for each, _ in recorded(world, AlertKind.ROLL_HELD, name)]


def test_a_member_that_does_not_start_is_told_of(world: World, told: Told) -> None:
    """Not while its start may still take, and no longer once it runs."""
    name, fleet = workers(world)
    fleet.workers["w2"].fails_to_start = True
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    key = f"{name}/{AlertKind.MEMBER_FAILED}"
    world.run(until=is_raised(world, key), span=HOURS)
    assert "w2 of workers" in next(each.summary for each in told.notices if each.key == key)
    fleet.workers["w2"].fails_to_start = False
    world.run(until=is_clear(world, key), span=HOURS)
    assert ["alert_raised", "alert_cleared"] == [each for each, _ in recorded(world, AlertKind.MEMBER_FAILED, name)]


def test_records_outside_the_ledger_are_told_of(world: World, told: Told) -> None:
    """Past a safety line and without a journal: people hear of the spool although the ledger cannot."""

    def refuse(call: str) -> None:
        if call == "journal.commit":
            raise JournalError("disk full")

    world.faults.before = refuse
    key = f"ledger/{AlertKind.RECORDS_SPOOLED}"
    world.run(until=is_raised(world, key), span=2 * HOURS, tick=10 * SECONDS)
    assert [(True, Severity.CRITICAL)] == told.of(key)
    assert [] == world.events(EventType.ALERT_RAISED)
    world.faults.clear()
    world.run(until=is_clear(world, key), span=HOURS)
    assert [("alert_raised", "critical"), ("alert_cleared", "ok")] == recorded(
        world, AlertKind.RECORDS_SPOOLED, "ledger"
    )


def test_a_lost_reply_doubles_no_record(world: World) -> None:
    """The commit took, its reply did not: the second try adds nothing."""
    seal(world)
    refuse_signing = world.faults.before

    def lose(call: str) -> None:
        if call == "journal.commit":
            raise JournalError("connection reset")

    world.run(until=is_raised(world, f"{SERVICE}/{AlertKind.RENEWAL_OVERDUE}"), span=HOURS, tick=10 * SECONDS)
    world.faults.after = lose
    world.run(until=is_raised(world, PAST_LINE), span=HOURS, tick=10 * SECONDS)
    world.faults.clear()
    world.faults.before = refuse_signing
    world.run(span=MINUTES)
    assert [("alert_raised", "warning")] == recorded(world, AlertKind.SAFETY_LINE, SERVICE)


def test_a_notifier_that_raises_stops_nobody(tmp_path: Path) -> None:
    """The other notifier, the record and the rotation go on; what it missed it gets when it works again."""
    broken, working = Told(), Told()
    broken.broken = True
    world = World(tmp_path, notifiers=[broken, working])
    world.run(until=world.settled)
    hold_up(world)
    assert ([], [(True, Severity.WARNING)]) == (broken.of(HELD), working.of(HELD))
    assert ["alert_raised"] == [each for each, _ in recorded(world, AlertKind.TRUST_DEADLINE, MESH)]
    broken.broken = False
    world.run(span=SECONDS)
    assert [(True, Severity.WARNING)] == broken.of(HELD)
    world.consumers[SERVICE].lag = timedelta()
    world.run(until=world.settled, span=HOURS)
    world.close()


def test_a_restart_tells_again_and_records_once(world: World, told: Told) -> None:
    """What is still true is told once more by the new process; the ledger has one raise and one clear."""
    hold_up(world)
    for _ in range(3):
        world.restart()
        world.run(span=10 * SECONDS)
    assert [(True, Severity.WARNING)] * 4 == told.of(HELD)
    world.consumers[SERVICE].lag = timedelta()
    world.run(until=is_clear(world, HELD), span=HOURS)
    kind = AlertKind.TRUST_DEADLINE
    assert [("alert_raised", "warning"), ("alert_cleared", "ok")] == recorded(world, kind, MESH)


def test_what_ended_during_a_restart_is_cleared_and_recorded(world: World, told: Told) -> None:
    """A new process ends what one before it has raised, once it has seen that it is over."""
    hold_up(world)
    world.consumers[SERVICE].lag = timedelta()
    world.consumers[SERVICE].settle()
    world.restart()
    world.run(until=is_clear(world, HELD), span=HOURS)
    assert [(True, Severity.WARNING), (True, Severity.WARNING), (False, Severity.WARNING)] == told.of(HELD)
    kind = AlertKind.TRUST_DEADLINE
    assert [("alert_raised", "warning"), ("alert_cleared", "ok")] == recorded(world, kind, MESH)
    assert () == world.store.standing_alerts()


def test_a_restart_does_not_begin_anew_what_only_the_process_before_saw_begin(world: World, told: Told) -> None:
    """A consumer that shows nothing was told of; the next process goes on with that, and ends it when it is over."""
    world.consumers[SERVICE].alive = False
    key = f"{SERVICE}/{AlertKind.UNPROVEN}"
    world.run(until=is_raised(world, key), span=HOURS)
    since = next(each.since for each in world.engine.alerting.raised() if each.key == key)
    world.restart()
    world.run(span=2 * MINUTES)
    assert [("alert_raised", "warning")] == recorded(world, AlertKind.UNPROVEN, SERVICE)
    assert since == next(each.since for each in world.engine.alerting.raised() if each.key == key)
    world.consumers[SERVICE].alive = True
    world.run(until=is_clear(world, key), span=HOURS)
    assert [True, True, False] == [raised for raised, _ in told.of(key)]


def test_what_cannot_be_looked_at_after_a_restart_stays_raised(world: World) -> None:
    """Not seen is not over: while the signer is away nothing is known of the rotation that was held."""
    hold_up(world)
    world.restart()

    def away(_call: str) -> None:
        raise Unavailable("no answer")

    world.faults.before = away
    world.run(span=3 * MINUTES, tick=10 * SECONDS)
    assert is_raised(world, HELD)()


def test_other_thresholds_take_hold_at_the_next_look(world: World, told: Told) -> None:
    """A reload that asks to be told sooner needs no new look at the certificates."""
    world.run(span=20 * MINUTES, tick=MINUTES)
    seal(world)
    world.run(until=is_raised(world, f"{SERVICE}/{AlertKind.RENEWAL_OVERDUE}"), span=HOURS, tick=10 * SECONDS)
    assert [] == told.of(f"{SERVICE}/{AlertKind.LIFETIME_USED}")
    world.engine.fleet_alerts.policy = AlertPolicy(used_ratio_warning=0.1, used_ratio_critical=0.95)
    world.engine.alerting.look()
    assert [(True, Severity.WARNING)] == told.of(f"{SERVICE}/{AlertKind.LIFETIME_USED}")


def test_a_clock_that_is_set_back_takes_alerts_back(world: World) -> None:
    """Nothing is worked out once and for all (law 20)."""
    seal(world)
    world.run(until=is_raised(world, PAST_LINE), span=2 * HOURS, tick=10 * SECONDS)
    world.clock.jump(-HOURS)
    world.engine.alerting.look()
    world.clock.advance(QUIET)
    world.engine.alerting.look()
    assert () == world.engine.alerting.raised()


def test_a_defect_in_a_source_stops_nobody(world: World) -> None:
    """The sweep goes on."""

    def broken(_now: object) -> tuple[()]:
        raise ZeroDivisionError

    world.engine.alerting.watch(broken)
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(until=world.settled)


def test_an_issuer_that_was_never_logged_in_to_is_told_of_after_a_while(world: World) -> None:
    """Not at the first look: the first login may need a second try."""
    sessions = Sessions(world.clock, 1, {})
    settings = VaultIssuer.model_validate(
        {
            "address": "https://127.0.0.1:1",
            "auth": {"token": {"token_file": "/nowhere"}},
            "mount": "pki",
            "issuer": "0" * 40,
        }
    )
    sessions.of("corporate", settings)
    policy = AlertPolicy()
    assert () == tuple(sessions.alerts(policy, world.clock.now()))
    world.clock.advance(policy.overdue_after)
    assert [AlertKind.LOGIN_LOST] == [each.kind for each in sessions.alerts(policy, world.clock.now())]
    sessions.close()


def test_a_drain_outside_a_rotation_has_its_deadline_too(world: World) -> None:
    """A member that somebody started on old material is drained, told of at the deadline, and dealt with as chosen."""
    name, fleet = workers(world)
    target = world.workloads[name]
    world.workloads[name] = replace(target, policy=replace(target.policy, at_drain_deadline=AtDrainDeadline.FORCE))
    world.engine.use(world.fleet())
    rotations = len(world.rotations(SERVICE))
    fleet.workers["w1"].started_at = world.clock.now() - 5 * HOURS
    fleet.give_work("w1", 3 * HOURS)
    world.engine.pool.kick(world.workloads[name].id)
    world.run(span=4 * MINUTES)
    assert 0 == fleet.lost
    world.run(until=lambda: fleet.lost == 1, span=5 * MINUTES)
    assert rotations == len(world.rotations(SERVICE))
    assert 1 == len(world.events(EventType.EXCEPTION_OPENED))
