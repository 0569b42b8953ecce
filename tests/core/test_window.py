"""Renewal windows, calendars and jitter."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.core.window import (
    Budget,
    Calendar,
    Freeze,
    LeafPolicy,
    MaintenanceWindow,
    hash_fraction,
    renewal_window,
    written,
)
from tests.core.worlds import HOUR, MINUTE, NOW, SECOND, leaf, leaf_policy

SATURDAY_NIGHT = MaintenanceWindow(days=frozenset({5}), start=time(22, 0), length=4 * HOUR)


def test_a_demonstration_leaf_opens_in_its_jitter_and_has_its_safety_line_at_ten_seconds() -> None:
    """15 s, 40 %: every identity opens at 4.5 to 6 s after issue, in whole seconds."""
    policy = leaf_policy(renew_at=0.4, jitter=0.1, total=5 * SECOND)
    windows = [renewal_window(leaf(lifetime=15 * SECOND), 15 * SECOND, policy, f"id-{n}") for n in range(100)]
    assert {NOW + 5 * SECOND, NOW + 6 * SECOND} >= {each.opens for each in windows}
    assert {NOW + 10 * SECOND} == {each.safety_line for each in windows}
    assert {NOW + 15 * SECOND} == {each.closes for each in windows}


def test_a_worker_leaf_has_its_safety_line_where_its_budget_begins() -> None:
    """90 s with a budget of 46 s: 46 s before the end."""
    policy = leaf_policy(renew_at=0.45, total=46 * SECOND)
    window = renewal_window(leaf(lifetime=90 * SECOND), 90 * SECOND, policy, "worker")
    assert NOW + 44 * SECOND == window.safety_line
    assert NOW + 40 * SECOND == window.opens


def test_a_tenth_of_the_lifetime_is_kept_where_the_budget_is_smaller() -> None:
    """A day of life keeps 2.4 hours."""
    window = renewal_window(leaf(lifetime=24 * HOUR), 24 * HOUR, leaf_policy(), "a")
    assert NOW + 24 * HOUR - 144 * MINUTE == window.safety_line


def test_a_lifetime_counts_from_issuance_not_from_a_back_dated_not_before() -> None:
    """Thirty seconds of back-dating move nothing, whether or not the lifetime has been changed since."""
    policy = replace(leaf_policy(), backdate=30 * SECOND)
    made = replace(leaf(lifetime=2 * HOUR), not_before=NOW - 30 * SECOND)
    assert NOW == renewal_window(made, 2 * HOUR, policy, "a").issued_at
    assert NOW == renewal_window(made, HOUR, policy, "a").issued_at
    assert NOW == renewal_window(made, 9 * HOUR, policy, "a").issued_at


def test_a_leaf_that_lives_longer_than_wanted_is_renewed_as_if_it_did_not() -> None:
    """A configuration that shortens lifetimes takes hold without a reissue of everything at once."""
    window = renewal_window(leaf(lifetime=10 * HOUR), 2 * HOUR, leaf_policy(), "a")
    assert NOW + HOUR == window.opens


def test_an_authority_above_that_ends_sooner_closes_the_window() -> None:
    """What cannot be verified has expired."""
    made = replace(leaf(), chain_not_after=NOW + HOUR)
    window = renewal_window(made, timedelta(hours=12), leaf_policy(), "a")
    assert NOW + HOUR == window.closes
    assert window.safety_line < window.closes


@given(
    life=st.integers(min_value=2, max_value=10_000_000),
    renew_at=st.floats(min_value=0.15, max_value=0.95),
    jitter=st.floats(min_value=0, max_value=0.1),
    total=st.integers(min_value=0, max_value=10_000_000),
    microsecond=st.integers(min_value=0, max_value=999_999),
    identity=st.text(max_size=20),
)
def test_a_window_is_ordered_whatever_the_numbers(
    life: int, renew_at: float, jitter: float, total: int, microsecond: int, identity: str
) -> None:
    """Issued <= opens <= safety line <= closes, whole seconds, and never later than without jitter."""
    issued = NOW.replace(microsecond=microsecond)
    policy = leaf_policy(renew_at=renew_at, jitter=jitter, total=total * SECOND)
    window = renewal_window(leaf(issued_at=issued, lifetime=life * SECOND), life * SECOND, policy, identity)
    assert window.issued_at <= window.opens <= window.safety_line <= window.closes
    assert window.opens <= max(issued, issued + life * SECOND * renew_at)
    assert window.opens == window.issued_at or window.opens.microsecond == 0


def test_law_20_jitter_is_a_hash_of_the_identity() -> None:
    """The same identity always gets the same moment; ten thousand are spread evenly."""
    assert hash_fraction("spiffe://mesh.example/a") == hash_fraction("spiffe://mesh.example/a")
    assert 0.9039793211698679 == pytest.approx(hash_fraction("spiffe://mesh.example/a"))
    tenths = [0] * 10
    for number in range(10_000):
        tenths[int(hash_fraction(f"spiffe://mesh.example/{number}") * 10)] += 1
    assert all(900 < each < 1100 for each in tenths)


def test_a_policy_that_cannot_renew_before_its_safety_line_says_so_with_the_numbers() -> None:
    """The arithmetic is shown, for people."""
    assert () == leaf_policy().complaints(12 * HOUR)
    policy = leaf_policy(renew_at=0.9, total=30 * MINUTE)
    assert (
        (
            "a leaf of 1h would open for renewal 54m after issue, but its safety line is 1h - max(6m, budget 30m) = "
            "30m after issue"
        ),
    ) == policy.complaints(HOUR)
    assert 1 == len(leaf_policy(renew_at=0.1, jitter=0.1).complaints(12 * HOUR))
    assert 2 == len(leaf_policy(renew_at=1.5).complaints(12 * HOUR))


def test_the_parts_of_a_budget_add_up() -> None:
    """Issue, publish, drain, proof and retry, one after the other."""
    budget = Budget(issue=SECOND, publish=2 * SECOND, drain=3 * SECOND, proof=4 * SECOND, retry=5 * SECOND)
    assert 15 * SECOND == budget.total


@pytest.mark.parametrize(
    ("calendar", "expected"),
    [
        (Calendar(), NOW),
        (Calendar(windows=(SATURDAY_NIGHT,)), datetime(2026, 3, 7, 22, 0, tzinfo=UTC)),
        (Calendar(freezes=(Freeze(since=NOW - HOUR, until=NOW + HOUR),)), NOW + HOUR),
        (
            # The freeze swallows this week's window, the next one counts.
            Calendar(
                windows=(SATURDAY_NIGHT,),
                freezes=(Freeze(since=datetime(2026, 3, 7, tzinfo=UTC), until=datetime(2026, 3, 9, tzinfo=UTC)),),
            ),
            datetime(2026, 3, 14, 22, 0, tzinfo=UTC),
        ),
        (
            # The freeze ends within a window.
            Calendar(
                windows=(SATURDAY_NIGHT,),
                freezes=(Freeze(since=NOW, until=datetime(2026, 3, 7, 23, 30, tzinfo=UTC)),),
            ),
            datetime(2026, 3, 7, 23, 30, tzinfo=UTC),
        ),
        (Calendar(windows=(MaintenanceWindow(days=frozenset(), start=time(1, 0), length=HOUR),)), None),
    ],
)
def test_a_calendar_names_the_next_allowed_moment(calendar: Calendar, expected: datetime | None) -> None:
    """Windows open, freezes close, and what is named is indeed allowed."""
    assert expected == calendar.next_allowed(NOW)
    if expected is not None:
        assert calendar.allows(expected)
        assert (expected == NOW) == calendar.allows(NOW)


def test_a_window_reaches_past_midnight() -> None:
    """Saturday 22:00 and four hours end on Sunday at 02:00."""
    calendar = Calendar(windows=(SATURDAY_NIGHT,))
    assert calendar.allows(datetime(2026, 3, 8, 1, 59, 59, tzinfo=UTC))
    assert not calendar.allows(datetime(2026, 3, 8, 2, 0, tzinfo=UTC))
    assert not calendar.allows(datetime(2026, 3, 7, 21, 59, 59, tzinfo=UTC))


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (90 * SECOND, "1m30s"),
        (12 * HOUR, "12h"),
        (timedelta(days=7), "7d"),
        (timedelta(), "0s"),
        (-MINUTE, "-1m"),
        (timedelta(milliseconds=1500), "1.5s"),
    ],
)
def test_durations_are_written_as_people_write_them(duration: timedelta, expected: str) -> None:
    """Largest unit first."""
    assert expected == written(duration)


def test_the_default_back_dating_is_the_one_of_vault() -> None:
    """Thirty seconds."""
    policy = LeafPolicy(renew_at=0.5, skew=SECOND, budget=leaf_policy().budget)
    assert 30 * SECOND == policy.backdate
