"""Where a second person's word is needed: every part of a rule, and what several rules add up to."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rotator.core.approval import ApprovalPolicy, ApprovalRule, Operation
from rotator.core.model import SubjectKind, SubjectName

HOUR = timedelta(hours=1)
RULE = ApprovalRule(name="r", operations=frozenset({Operation.ROTATE}), expires_after=HOUR)
WEB = (SubjectName("airflow.web"), SubjectKind.CERTIFICATE)
PROD = (SubjectName("airflow.prod"), SubjectKind.TRUST_DOMAIN)


@pytest.mark.parametrize(
    ("rule", "operation", "subject", "covers"),
    [
        (RULE, Operation.ROTATE, WEB, True),
        (RULE, Operation.PAUSE, WEB, False),
        (replace(RULE, kinds=frozenset({SubjectKind.TRUST_DOMAIN})), Operation.ROTATE, WEB, False),
        (replace(RULE, kinds=frozenset({SubjectKind.TRUST_DOMAIN})), Operation.ROTATE, PROD, True),
        (replace(RULE, subjects=("airflow.*",)), Operation.ROTATE, WEB, True),
        (replace(RULE, subjects=("airflow",)), Operation.ROTATE, WEB, False),
        (replace(RULE, subjects=("AIRFLOW.*",)), Operation.ROTATE, WEB, False),
    ],
)
def test_a_rule_covers_what_it_names(
    rule: ApprovalRule,
    operation: Operation,
    subject: tuple[SubjectName, SubjectKind],
    covers: bool,  # noqa: FBT001 -- by pytest
) -> None:
    """Operation, kind and name all have to fit."""
    assert covers == rule.covers(operation, *subject)


def test_the_strictest_counts() -> None:
    """Of several rules the most approvals and the shortest time count, over all subjects of the request."""
    policy = ApprovalPolicy(
        rules=(
            replace(RULE, name="web", subjects=("airflow.web",), approvals=1, expires_after=HOUR),
            replace(RULE, name="prod", subjects=("airflow.prod",), approvals=2, expires_after=3 * HOUR),
        )
    )
    both = policy.requirement(Operation.ROTATE, [WEB, PROD])
    assert (2, HOUR, ("web", "prod")) == (both.approvals, both.expires_after, both.rules)
    assert 0 == policy.requirement(Operation.ROTATE, [(SubjectName("mail"), SubjectKind.CERTIFICATE)]).approvals


def test_an_emergency_skips_only_what_may_be_skipped() -> None:
    """A rule that an emergency skips is named; the others still bind, and without an emergency all do."""
    policy = ApprovalPolicy(rules=(replace(RULE, name="soft", approvals=2, emergency_skips=True), RULE))
    urgent = policy.requirement(Operation.ROTATE, [WEB], emergency=True)
    assert (1, ("r",), ("soft",)) == (urgent.approvals, urgent.rules, urgent.skipped)
    assert (2, ()) == ((calm := policy.requirement(Operation.ROTATE, [WEB])).approvals, calm.skipped)
