"""One receiver hears what it wants to hear: once, soon, not too often, and all of it in the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.core.alert_kinds import AlertKind
from rotator.core.event import EventType
from rotator.core.model import Severity, SubjectName
from rotator.engine.telling import LONGEST_RETRY, Counts, Teller, Terms
from rotator.errors import Unavailable
from rotator.ports import Message, Notice
from tests.engine.test_alerting import HELD, SERVICE, hold_up, is_clear
from tests.engine.world import World
from tests.fakes.clock import ManualClock

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Heard:
    """A receiver that keeps what it was sent; `away` makes it fail, `held` makes it wait."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.tries = 0
        self.ids: list[str] = []
        self.away = False
        self.held: threading.Event | None = None

    def send(self, message: Message) -> None:
        """Keep *message*."""
        self.tries += 1
        self.ids.append(message.id)
        if self.held is not None:
            assert self.held.wait(60), "nobody let go"
        if self.away:
            raise Unavailable("the pager is gone")
        self.messages.append(message)

    def close(self) -> None:
        """Nothing is open."""

    @property
    def notices(self) -> list[Notice]:
        """Return everything that was told."""
        return [notice for message in self.messages for notice in message.notices]


@pytest.fixture
def clock() -> ManualClock:
    """Time that the test moves."""
    return ManualClock()


@pytest.fixture
def heard() -> Heard:
    """A receiver that works."""
    return Heard()


def notice(clock: ManualClock, subject: str = "web", *, severity: Severity = Severity.WARNING) -> Notice:
    """Return a raise of now."""
    kind = AlertKind.SAFETY_LINE
    return Notice(
        key=f"{subject}/{kind}",
        kind=kind,
        subject=SubjectName(subject),
        severity=severity,
        summary=f"{subject} is late",
        raised=True,
        since=clock.now(),
        at=clock.now(),
    )


def over(raised: Notice, clock: ManualClock) -> Notice:
    """Return the end of *raised*, now."""
    return replace(raised, raised=False, at=clock.now())


def teller(heard: Heard, clock: ManualClock, terms: Terms | None = None) -> Teller:
    """Return a teller without a thread."""
    return Teller("pager", heard, terms or Terms(), clock=clock, may_tell=lambda: True)


def work(told: Teller, clock: ManualClock, *, span: timedelta = timedelta()) -> None:
    """Let *told* do what its thread would do for *span*."""
    end = clock.now() + span
    while True:
        wait = told.work()
        if wait and clock.now() + wait > end:
            clock.set(end)
            return
        clock.advance(wait)


def test_a_raise_and_its_end_are_told_once_each(heard: Heard, clock: ManualClock) -> None:
    """Nothing comes twice when nothing is to be repeated."""
    told = teller(heard, clock)
    raised = notice(clock)
    told.notify([raised])
    work(told, clock, span=HOUR)
    told.notify([over(raised, clock)])
    work(told, clock, span=HOUR)
    assert [True, False] == [each.raised for each in heard.notices]
    assert Counts(sent=2) == told.counts()


def test_what_lasts_is_repeated_as_no_news(heard: Heard, clock: ManualClock) -> None:
    """Every so often, marked as a repeat, with a message id of its own; not after its end."""
    told = teller(heard, clock, Terms(repeat_every=10 * MINUTE))
    raised = notice(clock)
    told.notify([raised])
    work(told, clock, span=25 * MINUTE)
    told.notify([over(raised, clock)])
    work(told, clock, span=HOUR)
    assert [(True, False), (True, True), (True, True), (False, False)] == [
        (each.raised, each.again) for each in heard.notices
    ]
    assert 4 == len(set(heard.ids))


def test_an_outage_loses_no_transition(heard: Heard, clock: ManualClock) -> None:
    """Tries go on, later and later, with one id; then the latest state of each comes, and how much was overtaken."""
    told = teller(heard, clock)
    first, second, third = (notice(clock, name) for name in ("one", "two", "three"))
    told.notify([first])
    work(told, clock)
    heard.away = True
    told.notify([over(first, clock), second, third])
    work(told, clock, span=10 * MINUTE)
    assert 5 < heard.tries < 20
    assert 2 == len(set(heard.ids))
    told.notify([over(second, clock)])
    heard.away = False
    work(told, clock, span=2 * LONGEST_RETRY)
    assert {"one": False, "two": False, "three": True} == {
        str(each.subject): each.raised for each in heard.messages[-1].notices
    }
    assert 1 == heard.messages[-1].left_out
    assert 0 == told.waiting()


def test_grave_notices_come_first_and_a_message_has_an_end(heard: Heard, clock: ManualClock) -> None:
    """A thousand at once are several messages, critical ones at the front, and none is lost."""
    told = teller(heard, clock, Terms(most=100))
    told.notify([notice(clock, f"web-{number}") for number in range(950)])
    told.notify([notice(clock, f"core-{number}", severity=Severity.CRITICAL) for number in range(50)])
    work(told, clock)
    assert [100] * 10 == [len(each.notices) for each in heard.messages]
    assert {Severity.CRITICAL} == {each.severity for each in heard.messages[0].notices[:50]}
    assert 1000 == len({each.key for each in heard.notices})


def test_more_than_the_rate_is_gathered(heard: Heard, clock: ManualClock) -> None:
    """Two hundred single notices in a minute become few messages; none of them is lost."""
    told = teller(heard, clock, Terms(messages=5, within=MINUTE))
    for number in range(200):
        told.notify([notice(clock, f"web-{number}")])
        work(told, clock, span=timedelta(milliseconds=300))
    work(told, clock, span=MINUTE)
    assert 200 == len({each.key for each in heard.notices})
    assert len(heard.messages) <= 5 + 10 + 1


def test_what_flaps_faster_than_it_can_be_told_is_counted(heard: Heard, clock: ManualClock) -> None:
    """Only the latest state is sent, and the message says what it leaves out."""
    told = teller(heard, clock, Terms(messages=1, within=MINUTE))
    told.notify([notice(clock, "first")])
    work(told, clock)
    for _ in range(10):
        raised = notice(clock)
        told.notify([raised])
        told.notify([over(raised, clock)])
    work(told, clock, span=2 * MINUTE)
    last = heard.messages[-1]
    assert ([False], 19) == ([each.raised for each in last.notices], last.left_out)
    assert 19 == told.counts().left_out


def test_only_what_is_wanted_is_told(heard: Heard, clock: ManualClock) -> None:
    """Severity and subjects choose; an end comes to whoever heard of the beginning."""
    told = teller(heard, clock, Terms(minimum=Severity.CRITICAL, subjects=frozenset({"web"})))
    warned, grave = notice(clock), notice(clock, severity=Severity.CRITICAL)
    told.notify([warned, notice(clock, "other", severity=Severity.CRITICAL)])
    told.notify([over(warned, clock)])
    told.notify([grave])
    work(told, clock)
    told.notify([replace(grave, severity=Severity.WARNING, again=True)])
    work(told, clock)
    assert [(True, Severity.CRITICAL), (False, Severity.CRITICAL)] == [
        (each.raised, each.severity) for each in heard.notices
    ]


def test_a_receiver_that_fails_is_told_of_to_the_others_alone(heard: Heard, clock: ManualClock) -> None:
    """After two minutes a warning, after fifteen critical; not to itself; over once it takes something."""
    told = teller(heard, clock)
    heard.away = True
    told.notify([notice(clock)])
    work(told, clock, span=MINUTE)
    assert () == told.alerts(clock.now())
    work(told, clock, span=2 * MINUTE)
    assert [(AlertKind.RECEIVER_FAILING, Severity.WARNING)] == [
        (each.kind, each.severity) for each in told.alerts(clock.now())
    ]
    work(told, clock, span=15 * MINUTE)
    assert [Severity.CRITICAL] == [each.severity for each in told.alerts(clock.now())]
    own = replace(notice(clock, "pager"), kind=AlertKind.RECEIVER_FAILING)
    told.notify([own])
    assert 1 == told.waiting()
    heard.away = False
    work(told, clock, span=2 * LONGEST_RETRY)
    assert () == told.alerts(clock.now())


def test_a_standby_is_silent(heard: Heard, clock: ManualClock) -> None:
    """Without the lease nothing is sent, and it comes once the lease is there."""
    leads = [False]
    told = Teller("pager", heard, Terms(), clock=clock, may_tell=lambda: leads[0])
    told.notify([notice(clock)])
    work(told, clock, span=HOUR)
    assert [] == heard.messages
    leads[0] = True
    work(told, clock)
    assert 1 == len(heard.messages)


def test_a_receiver_that_hangs_stops_nobody(heard: Heard) -> None:
    """`notify` comes back at once while a message is on its way, and the thread ends when it is told to."""
    clock = ManualClock(moves_itself=False)
    told = teller(heard, clock)
    heard.held = threading.Event()
    told.start()
    try:
        told.notify([notice(clock)])
        for number in range(1000):
            told.notify([notice(clock, f"web-{number}")])
        assert [] == heard.messages
    finally:
        heard.held.set()
        told.stop(timedelta(seconds=60))
    assert 1001 == len({each.key for each in heard.notices})


# --- with the engine, over restarts -----------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A settled world of three services."""
    made = World(tmp_path)
    made.run(until=made.settled)
    yield made
    made.close()


class Unthreaded(Teller):
    """A teller whose work is done where the test says."""

    def start(self) -> None:
        """Start no thread."""


def tell(world: World, *heard: Heard) -> Sequence[Teller]:
    """Let the world's engine tell *heard*, each under its number."""
    made = [
        Unthreaded(
            f"receiver-{number}", each, Terms(repeat_every=4 * HOUR), clock=world.clock, may_tell=world.lease.held
        )
        for number, each in enumerate(heard)
    ]
    world.engine.alerting.use(made)
    return made


def test_a_restart_tells_whoever_has_not_heard_yet_and_nobody_twice(world: World) -> None:
    """The one that was away hears of it from the next process; the other one hears no news twice."""
    there, away = Heard(), Heard()
    away.away = True
    tellers = tell(world, there, away)
    hold_up(world)
    for each in tellers:
        each.work()
    world.run(span=timedelta(seconds=5))
    world.restart()
    away.away = False
    tellers = tell(world, there, away)
    world.run(span=timedelta(seconds=5))
    for each in tellers:
        each.work()
    told = [[each.again for each in one.notices if each.key == HELD] for one in (there, away)]
    assert [[False], [False]] == told


def test_an_end_that_nobody_heard_of_survives_a_restart(world: World) -> None:
    """Cleared and recorded by one process, told by the next."""
    heard = Heard()
    (told,) = tell(world, heard)
    hold_up(world)
    told.work()
    heard.away = True
    world.consumers[SERVICE].lag = timedelta()
    world.run(until=is_clear(world, HELD), span=HOUR)
    told.work()
    world.run(span=timedelta(seconds=2))
    assert [False] == [each.raised for each in world.store.standing_alerts() if each.key == HELD]
    world.restart()
    heard.away = False
    (told,) = tell(world, heard)
    world.run(span=timedelta(seconds=2))
    told.work()
    assert [True, False] == [each.raised for each in heard.notices if each.key == HELD]
    world.run(span=timedelta(seconds=2))
    assert () == world.store.standing_alerts()


def test_law_21_a_message_that_tells_something_new_is_one_record(world: World) -> None:
    """Who was told, how much and of what; a repeat is no record."""
    heard = Heard()
    (told,) = tell(world, heard)
    hold_up(world)
    told.work()
    world.run(span=timedelta(seconds=2))
    world.clock.advance(5 * HOUR)
    told.work()
    world.engine.alerting.look()
    assert [False, True] == [each.again for each in heard.notices if each.key == HELD]
    with_news = [[one.key for one in each.notices] for each in heard.messages if not each.notices[0].again]
    told_of = [each.detail for each in world.events(EventType.NOTIFIED)]
    assert [("receiver-0", len(keys), ", ".join(keys)) for keys in with_news] == [
        (each["receiver"], each["raised"], each["alerts"]) for each in told_of
    ]
