"""Law 4's arithmetic, shown to people; and when a rotation falls due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pytest

from rotator.core.authority import AuthorityPolicy, due, next_due
from rotator.core.model import AuthoritySeen
from rotator.core.window import Calendar, Freeze
from tests.core.test_authority import POLICY
from tests.core.worlds import DOMAIN, HOUR, MINUTE, NOW, SECOND, domain, generation

DEMONSTRATION = AuthorityPolicy(
    trust_domain=DOMAIN,
    longest_leaf=15 * SECOND,
    lifetime=120 * SECOND,
    renew_at=0.5,
    trust_deadline=6 * SECOND,
    skew=SECOND,
    propagation=SECOND,
    retry_budget=4 * SECOND,
    minimum_overlap=20 * SECOND,
)
MADE = generation(1, issued_at=NOW, lifetime=168 * HOUR)


def test_law_04_the_numbers_of_a_demonstration_fit() -> None:
    """120 s of CA, 15 s of leaf: 47 s to begin signing, 17 s to stop."""
    assert 47 * SECOND == DEMONSTRATION.floor_to_activate
    assert 17 * SECOND == DEMONSTRATION.stop_signing_before_end
    assert () == DEMONSTRATION.complaints()
    assert () == POLICY.complaints()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (partial(replace, lifetime=89 * SECOND), "lifetime 1m29s is less than 6 x longest_leaf 15s = 1m30s"),
        (
            partial(replace, renew_at=0.8),
            (
                "when a renewal opens at 80% of 2m, 24s are left, but trust_deadline 6s + retry_budget 4s + "
                "longest_leaf 15s + propagation 1s + skew 1s = 27s are needed"
            ),
        ),
        (
            partial(replace, trust_deadline=30 * SECOND),
            (
                "a new CA has lifetime 2m - trust_deadline 30s - retry_budget 4s = 1m26s left when it may begin to "
                "sign, but 2 x longest_leaf 15s + 2 x trust_deadline 30s + skew 1s + retry_budget 4s = 1m35s are needed"
            ),
        ),
        (
            partial(replace, minimum_overlap=60 * SECOND),
            (
                "the next renewal opens 48s after a CA's issue (renew_at 50% - 10% of 2m), but one rotation may take "
                "max(trust_deadline 6s + longest_leaf 15s + skew 1s, minimum_overlap 1m) + trust_deadline 6s + "
                "retry_budget 4s = 1m10s"
            ),
        ),
        (
            partial(replace, renew_at=0.1),
            "renew_at 10% must lie between 10% (the jitter may move it so much earlier) and 100 %",
        ),
        (partial(replace, wave=0), "wave 0 must be at least 1"),
    ],
)
def test_law_04_what_cannot_keep_it_is_refused_with_the_arithmetic(
    changed: Callable[[AuthorityPolicy], AuthorityPolicy], says: str
) -> None:
    """Every complaint shows its numbers."""
    complaints = changed(DEMONSTRATION).complaints()
    assert says in complaints


def test_law_04_a_new_authority_that_could_not_be_activated_is_refused() -> None:
    """One second decides."""
    # With a trust deadline of d seconds 35 + 2d are needed of 116 - d.
    fits = replace(DEMONSTRATION, trust_deadline=27 * SECOND)
    assert not any("a new CA has" in each for each in fits.complaints())
    late = replace(DEMONSTRATION, trust_deadline=28 * SECOND)
    assert any("a new CA has" in each for each in late.complaints())


def test_a_rotation_falls_due_by_the_hash_of_its_name_and_no_later_than_renew_at() -> None:
    """Up to a tenth of the lifetime earlier, the same moment every time."""
    seen = domain(MADE)
    opens = next_due(seen, POLICY, "mesh")
    assert opens is not None
    assert NOW + 0.4 * 168 * HOUR <= opens <= NOW + 84 * HOUR
    assert None is due(seen, POLICY, opens - SECOND, "mesh")
    assert "generation 1 is due for renewal" == due(seen, POLICY, opens, "mesh")
    assert 50 < len({next_due(seen, POLICY, f"mesh-{number}") for number in range(60)})


@pytest.mark.parametrize(
    ("seen", "now", "says"),
    [
        (domain(active=None), NOW, "no authority signs yet"),
        (domain(MADE, active="ca-9"), NOW, "no authority signs yet"),
        (domain(MADE), NOW + 168 * HOUR, "generation 1 has expired"),
        (domain(replace(MADE, revoked=True)), NOW, "generation 1 is revoked"),
        (domain(replace(MADE, can_sign=False)), NOW, "generation 1 cannot sign"),
        (domain(MADE), NOW + 156 * HOUR, "generation 1 has to stop signing"),
    ],
)
def test_what_cannot_sign_is_replaced_whatever_the_calendar_says(seen: AuthoritySeen, now: datetime, says: str) -> None:
    """An emergency needs no window."""
    frozen = replace(POLICY, calendar=Calendar(freezes=(Freeze(since=NOW - HOUR, until=NOW + 999 * HOUR),)))
    assert says == due(seen, frozen, now, "mesh")


def test_law_12_a_freeze_holds_a_rotation_only_up_to_the_last_safe_moment() -> None:
    """From then on there is just time enough for trust, retries and the last leaf."""
    frozen = replace(POLICY, calendar=Calendar(freezes=(Freeze(since=NOW, until=NOW + 999 * HOUR),)))
    seen = domain(MADE)
    last = NOW + 168 * HOUR - (2 * HOUR + HOUR + 12 * HOUR + 2 * MINUTE)
    assert last == POLICY.last_safe_moment(MADE.authority)
    assert None is due(seen, frozen, last - SECOND, "mesh")
    assert "generation 1 is due for renewal" == due(seen, frozen, last, "mesh")
    assert None is not due(seen, POLICY, last - SECOND, "mesh")


def test_the_longest_rotation_counts_each_wait_once() -> None:
    """Trust, then overlap or the last leaf, then forgetting, and retries."""
    assert 32 * SECOND == DEMONSTRATION.longest_rotation
    assert timedelta(seconds=10) + 40 * SECOND == replace(DEMONSTRATION, minimum_overlap=40 * SECOND).longest_rotation
