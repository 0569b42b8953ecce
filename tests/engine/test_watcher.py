"""What rotator does not manage is looked at seldom, told of in time, and never forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from rotator.core.alert_kinds import AlertKind
from rotator.core.foreign import Foreign
from rotator.core.foreseen import AlertPolicy
from rotator.core.model import Severity, SubjectName
from rotator.engine.watcher import MOST_READINGS, Watched, Watcher
from rotator.errors import Rejected, Unavailable
from tests.fakes.clock import ManualClock

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
LIFE = 100 * HOUR


class Place:
    """A place that shows what the test puts there."""

    kind = "tls"

    def __init__(self, clock: ManualClock, place: str = "tls:somewhere") -> None:
        self.place = place
        self.found: list[Foreign] = [issued(clock)]
        self.problem: Exception | None = None
        self.looks = 0

    def look(self) -> Sequence[Foreign]:
        """Show it, or fail as told."""
        self.looks += 1
        if self.problem is not None:
            raise self.problem
        return tuple(self.found)


def issued(clock: ManualClock, which: str = "") -> Foreign:
    """Return a certificate of `LIFE` from now on."""
    now = clock.now()
    return Foreign(which=which, serial="ab", issuer="Somebody", not_before=now, not_after=now + LIFE)


@pytest.fixture
def clock() -> ManualClock:
    """Time that the test moves."""
    return ManualClock()


@pytest.fixture
def place(clock: ManualClock) -> Place:
    """One place with one certificate."""
    return Place(clock)


def watcher(clock: ManualClock, *entries: Watched) -> Watcher:
    """Return a watcher of *entries* that looks in the caller's thread."""
    policy = AlertPolicy()
    made = Watcher(clock=clock, policy=lambda: policy, threads=0)
    made.use(entries)
    return made


def run(watched: Watcher, clock: ManualClock, span: timedelta, tick: timedelta = MINUTE) -> list[tuple[str, str]]:
    """Sweep for *span*; return every alert that was true at some moment, in order of appearance."""
    seen: list[tuple[str, str]] = []
    end = clock.now() + span
    while clock.now() < end:
        watched.sweep()
        for alert in watched.alerts(clock.now()):
            if (alert.key, alert.severity.value) not in seen:
                seen.append((alert.key, alert.severity.value))
        clock.advance(tick)
    return seen


def test_an_end_is_told_of_in_time_and_no_more_once_it_was_renewed(clock: ManualClock, place: Place) -> None:
    """Warning at four fifths, critical, ended; a new certificate ends it all within minutes."""
    watched = watcher(clock, Watched(name="web", watch=place))
    assert [] == run(watched, clock, 79 * HOUR, 10 * MINUTE)
    assert [("web/watched_ending", "warning")] == run(watched, clock, 10 * HOUR, 10 * MINUTE)
    assert [("web/watched_ending", "critical"), ("web/watched_expired", "critical")] == run(watched, clock, 12 * HOUR)[
        1:
    ]
    place.found = [issued(clock)]
    run(watched, clock, 6 * MINUTE)
    assert [] == list(watched.alerts(clock.now()))


def test_what_is_renewed_in_time_raises_nothing_however_seldom_it_is_looked_at(
    clock: ManualClock, place: Place
) -> None:
    """Renewed an hour before the warning, looked at once a day: it is seen before anybody is told."""
    watched = watcher(clock, Watched(name="web", watch=place, every=24 * HOUR))
    found = run(watched, clock, 79 * HOUR, 10 * MINUTE)
    place.found = [issued(clock)]
    found += run(watched, clock, 20 * HOUR, 10 * MINUTE)
    assert [] == found
    assert place.looks < 10


def test_unreachable_is_not_expired(clock: ManualClock, place: Place) -> None:
    """An alert of its own after a while, with the reason; what was seen last still counts."""
    watched = watcher(clock, Watched(name="web", watch=place))
    run(watched, clock, HOUR)
    place.problem = Unavailable("web: no answer in time")
    assert [("web/watched_unreachable", "warning")] == run(watched, clock, 3 * HOUR)
    assert "no answer in time" in next(iter(watched.alerts(clock.now()))).summary
    found = run(watched, clock, LIFE, 10 * MINUTE)
    assert ("web/watched_expired", "critical") in found
    place.problem, place.found = None, [issued(clock)]
    run(watched, clock, 10 * MINUTE)
    assert [] == list(watched.alerts(clock.now()))


def test_a_short_absence_is_nobodys_business(clock: ManualClock, place: Place) -> None:
    """Two failed looks within a quarter of an hour."""
    watched = watcher(clock, Watched(name="web", watch=place))
    run(watched, clock, 55 * MINUTE)
    place.problem = Rejected("not there")
    found = run(watched, clock, 14 * MINUTE)
    place.problem = None
    assert [] == found + run(watched, clock, HOUR)


def test_of_many_each_is_told_of_by_its_own_name(clock: ManualClock, place: Place) -> None:
    """One of a hundred ends; it is named, the others are not; gone from the place is gone from the alerts."""
    place.found = [replace(issued(clock, f"web/{number}"), not_after=clock.now() + 10 * LIFE) for number in range(99)]
    place.found.append(issued(clock, "web/late"))
    watched = watcher(clock, Watched(name="team", watch=place))
    assert [("team:web/late/watched_ending", "warning")] == run(watched, clock, 85 * HOUR, 10 * MINUTE)
    assert (100, "web/late") == (watched.rows()[0]["count"], watched.rows()[0]["first"].which)
    place.found.pop()
    run(watched, clock, HOUR)
    assert [] == list(watched.alerts(clock.now()))


def test_an_entry_may_have_thresholds_of_its_own(clock: ManualClock, place: Place) -> None:
    """Half of its life, for this one alone."""
    other = Place(clock, "tls:other")
    watched = watcher(
        clock, Watched(name="early", watch=place, used_ratio_warning=0.5), Watched(name="usual", watch=other)
    )
    assert [("early/watched_ending", "warning")] == run(watched, clock, 60 * HOUR, 10 * MINUTE)


def test_an_issuer_is_over_before_its_end(clock: ManualClock, place: Place) -> None:
    """A CA of a day can no longer be signed in the last day: critical then, a warning a day before."""
    watched = watcher(clock, Watched(name="corporate", watch=place, signs_for=30 * HOUR))
    assert [("corporate/issuer_ending", "warning")] == run(watched, clock, 60 * HOUR, 10 * MINUTE)
    assert ("corporate/issuer_ending", "critical") in run(watched, clock, 11 * HOUR, 10 * MINUTE)


def test_a_thousand_places_are_spread_and_looked_at_seldom(clock: ManualClock) -> None:
    """No ten seconds see more than a quarter of them, and about one look an hour each."""
    places = [Place(clock, f"tls:{number}") for number in range(1000)]
    watched = watcher(clock, *(Watched(name=f"w{number}", watch=each) for number, each in enumerate(places)))
    most = before = 0
    for _ in range(3 * 60 * 6):
        watched.sweep()
        looks = sum(each.looks for each in places)
        most, before = max(most, looks - before), looks
        clock.advance(10 * SECOND)
    assert 2000 < before < 4500
    assert most < 300


def test_a_reload_keeps_what_is_known_of_what_has_not_changed(clock: ManualClock, place: Place) -> None:
    """The same place is not asked again for it; another one under that name is."""
    watched = watcher(clock, Watched(name="web", watch=place))
    watched.sweep()
    watched.use([Watched(name="web", watch=place, used_ratio_warning=0.5)])
    watched.sweep()
    assert (1, 1) == (place.looks, watched.rows()[0]["count"])
    watched.use([Watched(name="web", watch=Place(clock, "tls:elsewhere"))])
    assert 0 == watched.rows()[0]["count"]


def test_not_seen_yet_is_said(clock: ManualClock, place: Place) -> None:
    """What a process before has raised is not over before this one has seen the place."""
    place.problem = Unavailable("away")
    watched = watcher(clock, Watched(name="team", watch=place))
    watched.sweep()
    names = [SubjectName(each) for each in ("team", "team:web/one", "stranger")]
    assert [False, False, True] == [watched.has_seen(each) for each in names]
    place.problem = None
    run(watched, clock, 10 * MINUTE)
    assert [True, True, True] == [watched.has_seen(each) for each in names]


def test_what_was_unreachable_before_a_restart_still_is(clock: ManualClock, place: Place) -> None:
    """It is not told of anew a quarter of an hour later: it goes on."""
    place.problem = Unavailable("away")
    policy = AlertPolicy()
    since = clock.now() - 5 * HOUR
    watched = Watcher(clock=clock, policy=lambda: policy, begun_before=lambda _kind, _name: since, threads=0)
    watched.use([Watched(name="web", watch=place)])
    watched.sweep()
    assert [(AlertKind.WATCHED_UNREACHABLE, Severity.WARNING, since)] == [
        (each.kind, each.severity, each.since) for each in watched.alerts(clock.now())
    ]


def test_metrics_show_what_ends_first(clock: ManualClock, place: Place) -> None:
    """Of ten thousand at one place a thousand series."""
    place.found = [replace(issued(clock, f"w/{n}"), not_after=clock.now() + LIFE + n * SECOND) for n in range(10_000)]
    watched = watcher(clock, Watched(name="team", watch=place))
    watched.sweep()
    clock.advance(LIFE / 2)
    found = list(watched.readings())
    assert (MOST_READINGS, "team:w/0") == (len(found), found[0].name)
    assert 0.5 == found[0].used_ratio


def test_a_defect_in_a_look_stops_nobody(clock: ManualClock, place: Place) -> None:
    """It counts as not seen, and the next look comes."""
    place.problem = ZeroDivisionError()
    watched = watcher(clock, Watched(name="web", watch=place))
    assert [("web/watched_unreachable", "warning")] == run(watched, clock, HOUR)
    assert "a defect in rotator: ZeroDivisionError" == watched.rows()[0]["problem"]
