"""The demonstration's numbers keep law 4, and its timeline fits into three minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rotator.core.authority_policy import JITTER, AuthorityPolicy
from rotator.core.model import TrustDomainName
from rotator.core.window import Budget, LeafPolicy
from rotator.demo.scenario import MESH, WORKERS_DOMAIN, DomainNumbers, Numbers, Timeline, written

NUMBERS = Numbers()
DOMAINS = [(MESH, NUMBERS.mesh), (WORKERS_DOMAIN, NUMBERS.workers)]
NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)


def authority_policy(name: str, numbers: DomainNumbers) -> AuthorityPolicy:
    return AuthorityPolicy(
        trust_domain=TrustDomainName(name),
        longest_leaf=numbers.leaf,
        lifetime=numbers.ca_lifetime,
        renew_at=numbers.ca_renew_at,
        trust_deadline=NUMBERS.trust_deadline,
        skew=NUMBERS.skew,
        propagation=NUMBERS.propagation,
        retry_budget=NUMBERS.retry_budget,
        minimum_overlap=numbers.minimum_overlap,
    )


def leaf_policy(numbers: DomainNumbers, drain: timedelta) -> LeafPolicy:
    return LeafPolicy(
        renew_at=numbers.leaf_renew_at,
        skew=NUMBERS.skew,
        backdate=timedelta(seconds=1),
        budget=Budget(
            issue=NUMBERS.issue,
            publish=NUMBERS.publish,
            drain=drain,
            proof=NUMBERS.proof,
            retry=NUMBERS.retry_budget,
        ),
    )


@pytest.mark.parametrize(("name", "numbers"), DOMAINS)
def test_law_04_the_demonstration_keeps_its_own_arithmetic(name: str, numbers: DomainNumbers) -> None:
    """No CA of the demonstration can be outlived by a leaf or grow too old for its successor."""
    assert () == authority_policy(name, numbers).complaints()


def test_law_04_the_arithmetic_is_the_one_that_was_worked_out() -> None:
    """47 s are needed to begin to sign, and the last 17 s are not signed in."""
    policy = authority_policy(MESH, NUMBERS.mesh)
    assert timedelta(seconds=47) == policy.floor_to_activate
    assert timedelta(seconds=17) == policy.stop_signing_before_end


@pytest.mark.parametrize(
    ("numbers", "drain"),
    [(NUMBERS.mesh, timedelta()), (NUMBERS.workers, NUMBERS.drain)],
    ids=["mesh", "workers"],
)
def test_every_leaf_renews_before_its_safety_line(numbers: DomainNumbers, drain: timedelta) -> None:
    assert () == leaf_policy(numbers, drain).complaints(numbers.leaf)


def test_a_killed_daemon_has_time_to_come_back() -> None:
    """Between the renewal of a mesh leaf and its safety line lie more than the time it is down and its start."""
    reserve = leaf_policy(NUMBERS.mesh, timedelta()).budget.total
    opens = NUMBERS.mesh.leaf * NUMBERS.mesh.leaf_renew_at
    start = timedelta(seconds=2)
    left = NUMBERS.mesh.leaf - reserve - opens
    assert left >= timedelta(seconds=Timeline().down_for) + start - timedelta(milliseconds=1)


def test_a_kill_fits_into_the_middle_of_a_ca_rotation() -> None:
    """The overlap outlasts a poll, the downtime and a start by far, so the rotation is open when the daemon is back."""
    assert timedelta(seconds=Timeline().down_for + 5) < NUMBERS.mesh.minimum_overlap


def test_the_scheduled_rotation_falls_after_the_requested_one_and_before_its_bound() -> None:
    """A CA that arrived soon after the request falls due when the requested rotation is over."""
    arrived = Timeline().rotate_now_at
    earliest = arrived + (NUMBERS.mesh.ca_lifetime * (NUMBERS.mesh.ca_renew_at - JITTER)).total_seconds()
    latest = arrived + (NUMBERS.mesh.ca_lifetime * NUMBERS.mesh.ca_renew_at).total_seconds()
    requested = NUMBERS.mesh.minimum_overlap + 2 * NUMBERS.trust_deadline
    assert arrived + requested.total_seconds() < earliest
    assert latest + NUMBERS.trust_deadline.total_seconds() < Timeline().activated_by


def test_the_whole_of_it_fits_into_three_minutes() -> None:
    """Preparation (10 s), the timeline's last bound, and the comparison (12 s) stay below 180 s."""
    assert 10 + Timeline().quiet_by + 12 < 180


def test_a_longer_run_moves_every_bound_behind_it() -> None:
    longer = Timeline().stretched(300)
    assert 300 == longer.completed_by
    assert 325 == longer.quiet_by
    assert 300 == longer.at_least
    assert Timeline().quiet_by == Timeline().stretched(20).quiet_by


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(seconds=90), "90s"),
        (timedelta(minutes=30), "1800s"),
        (timedelta(milliseconds=1500), "1500ms"),
    ],
)
def test_durations_are_written_as_the_configuration_takes_them(length: timedelta, text: str) -> None:
    assert text == written(length)
