"""Reasons to issue anew: one row for each, and the chain as a whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rotator.core.checks import CHECKS, BrokenPair, broken_pairs, reasons, verdict
from rotator.core.model import AskedFor, CertificateWant, IssuerId, KeyType, Leaf, Observation, SubjectName
from rotator.core.steps import Reason
from tests.core.worlds import HOUR, LIFETIME, MINUTE, NOW, authority, leaf, leaf_policy, publication, seen, want

ROTATE_ME = AskedFor(rotation_id="rotation-7")
ROWS: list[tuple[Reason, CertificateWant, Observation]] = [
    (Reason.ABSENT, want(), seen(None)),
    (Reason.UNREADABLE, want(), seen(publication(None, problem="tls.crt is empty"))),
    (Reason.UNREADABLE, want(), seen(publication(leaf(), problem="tls.key is missing"))),
    (Reason.KEY_MISMATCH, want(), seen(publication(leaf(), key_matches=False))),
    (Reason.REVOKED, want(), seen(publication(leaf()), revoked=True)),
    (Reason.CHAIN_BROKEN, want(), seen(publication(leaf(issuer="ca-9")))),
    (
        Reason.ISSUER_CHANGED,
        want(accepted=("ca-2",), bundle=(authority(2), authority(1))),
        seen(publication(leaf())),
    ),
    (Reason.IDENTITY_CHANGED, want(), seen(publication(leaf(spiffe_id="spiffe://mesh.example/other")))),
    (Reason.IDENTITY_CHANGED, want(), seen(publication(leaf(spiffe_id=None)))),
    (Reason.NAMES_CHANGED, want(dns_names=("a", "b")), seen(publication(leaf(dns_names=("a",))))),
    (Reason.KEY_TYPE_CHANGED, want(key=KeyType.RSA_3072), seen(publication(leaf()))),
    (Reason.KEY_TYPE_CHANGED, want(), seen(publication(leaf(key_type=None)))),
    (Reason.EXPIRED, want(), seen(publication(leaf(issued_at=NOW - LIFETIME)))),
    (Reason.ASKED_FOR, want(asked=ROTATE_ME), seen(publication(leaf(), rotation_id="rotation-6"))),
    (Reason.EXPIRING, want(), seen(publication(leaf(issued_at=NOW - LIFETIME / 2)))),
]


@pytest.mark.parametrize(("reason", "wanted", "observed"), ROWS)
def test_each_reason_is_found(reason: Reason, wanted: CertificateWant, observed: Observation) -> None:
    """The row's reason comes first."""
    assert reason == reasons(wanted, observed, leaf_policy(), NOW)[0]


def test_every_reason_has_a_row_and_a_check_in_its_order() -> None:
    """`CHECKS` is the order of `Reason`."""
    assert list(Reason) == [reason for reason, _ in CHECKS]
    assert set(Reason) == {reason for reason, _, _ in ROWS}


def test_the_whole_chain_is_ordered() -> None:
    """A leaf with everything wrong names everything, gravest first."""
    bad = leaf(issued_at=NOW - LIFETIME, issuer="ca-9", spiffe_id=None, dns_names=("x",), key_type=KeyType.RSA_2048)
    found = reasons(
        want(asked=ROTATE_ME),
        seen(publication(bad, problem="torn", key_matches=False), revoked=True),
        leaf_policy(),
        NOW,
    )
    assert tuple(each for each in Reason if each is not Reason.ABSENT) == found


@pytest.mark.parametrize(
    ("wanted", "made"),
    [
        (want(), leaf()),
        (want(dns_names=("b", "A")), leaf(dns_names=("a", "b"))),
        (want(asked=AskedFor(rotation_id="rotation-6")), leaf()),
    ],
)
def test_a_good_leaf_stays(wanted: CertificateWant, made: Leaf) -> None:
    """Names are sets, and a request that has been honoured asks for nothing more."""
    kept = publication(made, rotation_id="rotation-6")
    assert () == reasons(wanted, seen(kept), leaf_policy(), NOW)


def test_a_leaf_stays_in_the_last_second_before_its_window() -> None:
    """The window opens at its moment, not before."""
    made = leaf(issued_at=NOW - LIFETIME / 2)
    assert () == reasons(want(), seen(publication(made)), leaf_policy(), NOW - MINUTE / 60)


def test_while_one_target_is_good_none_is_a_reason_to_issue() -> None:
    """The newest good publication counts; the others are behind."""
    old, new = leaf(issued_at=NOW - 7 * HOUR, serial="1"), leaf(serial="2")
    observed = seen(None, publication(old, number=1), publication(new, number=2), publication(None, problem="torn"))
    assert () == reasons(want(), observed, leaf_policy(), NOW)
    found = verdict(want(), observed, leaf_policy(), NOW).publication
    assert found is not None
    assert new == found.leaf


def test_among_bad_targets_the_mildest_reason_counts() -> None:
    """An expiring leaf is better than a torn one."""
    expiring = publication(leaf(issued_at=NOW - 7 * HOUR))
    found = reasons(want(), seen(publication(None, problem="torn"), expiring, None), leaf_policy(), NOW)
    assert (Reason.EXPIRING,) == found


def test_law_03_every_pair_is_looked_at() -> None:
    """A leaf that one live bundle does not admit is named with whom it would fail."""
    one, two = IssuerId("ca-1"), IssuerId("ca-2")
    a, b, c = SubjectName("a"), SubjectName("b"), SubjectName("c")
    assert () == broken_pairs([(a, one), (b, two)], [(a, frozenset({one, two})), (b, frozenset({one, two}))])
    assert (BrokenPair(issuer=two, bundle=frozenset({one}), presenters=(b,), verifiers=(a, c)),) == broken_pairs(
        [(a, one), (b, two), (c, one)],
        [(a, frozenset({one})), (b, frozenset({one, two})), (c, frozenset({one}))],
    )


def test_an_authority_above_that_ended_is_an_expired_leaf() -> None:
    """The chain's earliest end counts."""
    made = replace(leaf(), chain_not_after=NOW)
    assert Reason.EXPIRED in reasons(want(), seen(publication(made)), leaf_policy(), NOW)
