"""What is done about one certificate, and how long anything may put it off."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import pytest

from rotator.core.model import AskedFor, CertificateWant, Observation
from rotator.core.renewal import decide
from rotator.core.steps import IssueLeaf, Nothing, Reason, Republish, RepublishReason, Wait
from rotator.core.window import Calendar, Freeze, LeafPolicy, MaintenanceWindow
from tests.core.worlds import (
    DOMAIN,
    HOUR,
    LIFETIME,
    MINUTE,
    NAME,
    NOW,
    SECOND,
    authority,
    leaf,
    leaf_policy,
    publication,
    seen,
    want,
)

FROZEN = leaf_policy(calendar=Calendar(freezes=(Freeze(since=NOW - HOUR, until=NOW + 100 * HOUR),)))
EXPIRING = seen(publication(leaf(issued_at=NOW - 7 * HOUR)))
LINE = NOW + 5 * HOUR - LIFETIME / 10
"""The safety line of what is expiring."""


def verdict_on(  # the call that every test makes
    wanted: CertificateWant,
    observed: Observation,
    *,
    policy: LeafPolicy | None = None,
    now: datetime = NOW,
    held_until: datetime | None = None,
    past: bool = False,
) -> IssueLeaf | Republish | Wait | Nothing:
    """Return the decision."""
    return decide(wanted, observed, policy or leaf_policy(), now, held_until=held_until, hold_past_safety_line=past)


def test_a_good_leaf_is_left_alone_until_its_window_opens() -> None:
    """The next look is the opening."""
    assert Nothing(next_look=NOW + 6 * HOUR) == verdict_on(want(), seen(publication(leaf())))


def test_an_expiring_leaf_is_issued_with_its_safety_line() -> None:
    """The step says from when bookkeeping no longer stops it."""
    assert IssueLeaf(certificate=NAME, signer=authority(), reasons=(Reason.EXPIRING,), safety_line=LINE) == verdict_on(
        want(), EXPIRING
    )


def test_a_target_that_is_behind_is_published_again_without_a_new_certificate() -> None:
    """A crash between two writes costs no issuance."""
    observed = seen(publication(leaf()), None)
    assert Republish(certificate=NAME, reason=RepublishReason.TARGET_BEHIND) == verdict_on(want(), observed)


def test_a_bundle_that_changed_is_published_with_the_present_leaf() -> None:
    """More trust, same key."""
    observed = seen(publication(leaf()))
    wanted = want(bundle=(authority(2), authority(1)))
    assert Republish(certificate=NAME, reason=RepublishReason.BUNDLE_CHANGED) == verdict_on(wanted, observed)


def test_the_order_of_a_bundle_is_no_reason_to_write() -> None:
    """Trust is a set."""
    observed = seen(publication(leaf(), bundle=(authority(1), authority(2))))
    assert isinstance(verdict_on(want(bundle=(authority(2), authority(1))), observed), Nothing)


def test_law_04_a_leaf_is_never_cut_short_to_fit_its_issuer() -> None:
    """A signer with less life than the leaf and skew is named and waited for; one second more and it signs."""
    needed = LIFETIME + MINUTE
    short = authority(issued_at=NOW, lifetime=needed - SECOND)
    decided = verdict_on(want(signer=short), EXPIRING)
    assert isinstance(decided, Wait)
    assert (short.subject,) == decided.on
    assert not decided.alert
    assert LINE == decided.until
    assert isinstance(verdict_on(want(signer=authority(issued_at=NOW, lifetime=needed)), EXPIRING), IssueLeaf)
    late = verdict_on(want(signer=short), EXPIRING, now=LINE)
    assert isinstance(late, Wait)
    assert late.alert


def test_law_06_a_signer_that_is_not_valid_yet_does_not_sign() -> None:
    """Nor does one that does not exist."""
    early = authority(issued_at=NOW + 2 * MINUTE)
    decided = verdict_on(want(signer=early), EXPIRING)
    assert isinstance(decided, Wait)
    assert NOW + 2 * MINUTE == decided.until
    nobody = verdict_on(want(signer=None), EXPIRING)
    assert isinstance(nobody, Wait)
    assert (DOMAIN,) == nobody.on


@pytest.mark.parametrize("until", [NOW + HOUR, NOW + 100 * HOUR])
def test_law_12_a_hold_ends_at_the_safety_line(until: datetime) -> None:
    """A pause delays what is due, and never beyond the line."""
    held = verdict_on(want(), EXPIRING, held_until=until)
    assert isinstance(held, Wait)
    assert min(until, LINE) == held.until
    assert isinstance(verdict_on(want(), EXPIRING, held_until=until, now=max(LINE, until)), IssueLeaf)
    assert isinstance(verdict_on(want(), EXPIRING, held_until=LINE + HOUR, now=LINE), IssueLeaf)


def test_law_12_only_a_persons_word_holds_past_the_safety_line_and_then_it_alerts() -> None:
    """Said in words, even an expiry is held; what is broken is not."""
    until = NOW + 100 * HOUR
    held = verdict_on(want(), EXPIRING, held_until=until, past=True, now=LINE + HOUR)
    assert isinstance(held, Wait)
    assert held.alert
    assert until == held.until
    expired = seen(publication(leaf(issued_at=NOW - LIFETIME)))
    assert isinstance(verdict_on(want(), expired, held_until=until, past=True), Wait)
    assert isinstance(verdict_on(want(), expired, held_until=until), IssueLeaf)
    assert isinstance(verdict_on(want(), seen(None), held_until=until, past=True), IssueLeaf)


def test_law_12_freezes_and_windows_end_at_the_safety_line() -> None:
    """A freeze of days and a window next week hold no longer than the line."""
    windows = Calendar(windows=(MaintenanceWindow(days=frozenset({5}), start=time(22, 0), length=HOUR),))
    for policy in (FROZEN, leaf_policy(calendar=windows)):
        held = verdict_on(want(), EXPIRING, policy=policy)
        assert isinstance(held, Wait)
        assert LINE == held.until
        assert isinstance(verdict_on(want(), EXPIRING, policy=policy, now=LINE), IssueLeaf)


@pytest.mark.parametrize(
    "observed",
    [
        seen(None),
        seen(publication(None, problem="torn")),
        seen(publication(leaf(), key_matches=False)),
        seen(publication(leaf()), revoked=True),
        seen(publication(leaf(issuer="ca-9"))),
        seen(publication(leaf(issued_at=NOW - LIFETIME))),
    ],
)
def test_what_is_broken_now_waits_for_nobody(observed: Observation) -> None:
    """No freeze and no pause delays a mend."""
    decided = verdict_on(want(), observed, policy=FROZEN, held_until=NOW + 50 * HOUR)
    assert isinstance(decided, IssueLeaf)


def test_an_emergency_skips_freezes_but_not_pauses() -> None:
    """It is a right of its own, for windows and freezes only."""
    observed = seen(publication(leaf()))
    plain, emergency = AskedFor(rotation_id="r"), AskedFor(rotation_id="r", emergency=True)
    assert isinstance(verdict_on(want(asked=plain), observed, policy=FROZEN), Wait)
    assert isinstance(verdict_on(want(asked=emergency), observed, policy=FROZEN), IssueLeaf)
    assert isinstance(verdict_on(want(asked=emergency), observed, held_until=NOW + HOUR), Wait)


def test_law_15_the_next_look_is_never_later_than_the_safety_line() -> None:
    """Whatever is waited for, and past the line every look is a try."""
    short = authority(issued_at=NOW, lifetime=LIFETIME)
    for decided in (
        verdict_on(want(), seen(publication(leaf()))),
        verdict_on(want(), EXPIRING, policy=FROZEN),
        verdict_on(want(), EXPIRING, held_until=NOW + 100 * HOUR),
        verdict_on(want(signer=short), EXPIRING),
        verdict_on(want(signer=None), EXPIRING),
    ):
        moment = decided.next_look if isinstance(decided, Nothing) else getattr(decided, "until", None)
        assert moment is not None
        assert moment <= NOW + 12 * HOUR - LIFETIME / 10
    past = verdict_on(want(signer=short), EXPIRING, now=LINE)
    assert isinstance(past, Wait)
    assert past.until is None


def test_missing_trust_is_mended_even_while_the_leaf_waits() -> None:
    """A pause, a freeze or a missing signer never starves a bundle."""
    grown = (authority(2), authority(1))
    mend = Republish(certificate=NAME, reason=RepublishReason.BUNDLE_CHANGED)
    assert mend == verdict_on(want(bundle=grown), EXPIRING, held_until=NOW + HOUR)
    assert mend == verdict_on(want(bundle=grown), seen(publication(leaf())), policy=FROZEN, held_until=NOW + HOUR)
    assert mend == verdict_on(want(bundle=grown, signer=None), EXPIRING)


def test_trust_that_is_merely_too_much_waits_for_a_pause_and_a_freeze() -> None:
    """Taking away can wait."""
    observed = seen(publication(leaf(), bundle=(authority(2), authority(1))))
    assert isinstance(verdict_on(want(), observed, held_until=NOW + HOUR), Wait)
    assert isinstance(verdict_on(want(), observed, policy=FROZEN), Wait)
    assert isinstance(verdict_on(want(), observed), Republish)


def test_law_19_a_joiner_gets_what_holds_in_this_phase_and_the_next() -> None:
    """In the middle of a rotation: a leaf of the one that signs, whatever the window says, nothing to lose."""
    decided = verdict_on(want(bundle=(authority(2), authority(1)), accepted=("ca-1",)), seen(None), policy=FROZEN)
    assert IssueLeaf(certificate=NAME, signer=authority(1), reasons=(Reason.ABSENT,), safety_line=None) == decided


@pytest.mark.parametrize("jump", [-100 * HOUR, -HOUR, -SECOND])
def test_law_20_a_clock_that_jumps_back_issues_nothing_twice(jump: timedelta) -> None:
    """A fresh leaf from the future is a fresh leaf."""
    fresh = seen(publication(leaf(issued_at=NOW)))
    assert isinstance(verdict_on(want(), fresh, now=NOW + jump), Nothing)


def test_law_20_a_clock_that_jumps_forward_misses_no_deadline() -> None:
    """After a suspension the leaf is issued at the first look."""
    assert isinstance(verdict_on(want(signer=authority(lifetime=999 * HOUR)), EXPIRING, now=NOW + 50 * HOUR), IssueLeaf)
