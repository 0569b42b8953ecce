"""Ten thousand certificates get ten thousand answers, and work grows with them and not faster (counted, not timed)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import pytest

from rotator.core.authority import decide as decide_authority
from rotator.core.checks import broken_pairs
from rotator.core.model import AuthoritySeen, IssuerId, SubjectName
from rotator.core.renewal import decide
from rotator.core.steps import IssueLeaf, Nothing, PublishBundle, ReissueLeaves
from tests.core.test_authority import BOTH, NEW, OLD, POLICY, intent
from tests.core.worlds import HOUR, NOW, domain, leaf, leaf_policy, party, publication, seen, want

MANY = 10_000
LINEAR = 1.3
"""Ten times as many may cost that much more than ten times the calls: dictionaries and sorting grow a little."""


def calls(work: Callable[[], object]) -> int:
    """Return how many calls of Python functions *work* makes."""
    count = 0

    def note(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def renewals(count: int) -> list[object]:
    """Return the decisions about *count* certificates, every tenth of which is due."""
    policy = leaf_policy()
    found: list[object] = []
    for number in range(count):
        wanted = want()
        wanted = replace(wanted, certificate=replace(wanted.certificate, name=SubjectName(f"c{number}")))
        made = leaf(issued_at=NOW - 7 * HOUR if number % 10 == 0 else NOW, serial=f"{number:x}")
        found.append(decide(wanted, seen(publication(made)), policy, NOW, held_until=None))
    return found


def parties(count: int, *, activated: bool) -> AuthoritySeen:
    """Return a trust domain of *count* parties in the middle of a rotation."""
    members = tuple(party(f"p{number:05d}", published=BOTH if activated else ("ca-1",)) for number in range(count))
    return domain(OLD, NEW, active="ca-2" if activated else "ca-1", parties=members, highest=2)


def test_ten_thousand_certificates_get_ten_thousand_answers() -> None:
    """Each its own; those that are due are issued and no other."""
    found = renewals(MANY)
    assert MANY == len(found)
    assert MANY // 10 == sum(isinstance(each, IssueLeaf) for each in found)
    assert MANY - MANY // 10 == sum(isinstance(each, Nothing) for each in found)


def test_renewal_work_is_linear() -> None:
    """Ten times the certificates, ten times the calls."""
    assert calls(lambda: renewals(2000)) <= 10 * calls(lambda: renewals(200)) * LINEAR


@pytest.mark.parametrize("activated", [False, True])
def test_an_authoritys_decision_is_one_pass_over_its_parties(*, activated: bool) -> None:
    """In either half of a rotation, and its steps carry waves."""
    policy = replace(POLICY, wave=50)
    small, large = parties(1000, activated=activated), parties(MANY, activated=activated)
    rotation = intent(activated=NOW if activated else None)
    decided = decide_authority(rotation, large, policy, NOW).next
    assert isinstance(decided, ReissueLeaves if activated else PublishBundle)
    assert 50 == len(decided.consumers)
    many = calls(lambda: decide_authority(rotation, large, policy, NOW))
    few = calls(lambda: decide_authority(rotation, small, policy, NOW))
    assert many <= 10 * few * LINEAR
    assert many <= 40 * MANY


def test_law_03_the_matrix_is_over_distinct_pairs() -> None:
    """Ten thousand leaves under ten thousand bundles are three issuers under two bundles."""
    issuers = [IssuerId(f"ca-{number}") for number in range(3)]
    sets = [frozenset(issuers), frozenset(issuers[:2])]
    leaves = [(SubjectName(f"c{number}"), issuers[number % 3]) for number in range(MANY)]
    bundles = [(SubjectName(f"c{number}"), sets[number % 2]) for number in range(MANY)]
    broken = broken_pairs(leaves, bundles)
    assert [(issuers[2], sets[1])] == [(each.issuer, each.bundle) for each in broken]
    assert (MANY // 3, MANY // 2) == (len(broken[0].presenters), len(broken[0].verifiers))
    few = calls(lambda: broken_pairs(leaves[:1000], bundles[:1000]))
    assert calls(lambda: broken_pairs(leaves, bundles)) <= 10 * few * LINEAR
