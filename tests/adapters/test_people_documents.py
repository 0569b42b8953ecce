"""What operators apply so that people can ask in a cluster is what the code makes, and what tests run with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rotator.adapters.kubernetes import people
from rotator.cluster.people import FINAL, ApprovalPhase, RequestPhase
from rotator.cluster.rbac import Account

SHIPPED = Path(__file__).parents[2] / "deploy" / "people"
ACCOUNT = Account(namespace="rotator")


@pytest.mark.parametrize(
    ("file", "documents"),
    [
        ("definitions.yaml", people.definitions()),
        ("people.yaml", (*people.naming_policy(ACCOUNT), *people.roles_of_people(ACCOUNT.namespace))),
    ],
)
def test_what_is_shipped_is_what_tests_run_with(file: str, documents: tuple[people.JSON, ...]) -> None:
    """deploy/people holds the documents that the code makes for the namespace rotator."""
    assert list(documents) == list(yaml.safe_load_all((SHIPPED / file).read_text(encoding="utf-8")))


def test_no_role_of_people_lets_anybody_change_what_was_made() -> None:
    """Requests and approvals are made and read, nothing else; a status is written by nobody but rotator."""
    rules = [rule for role in people.roles_of_people("rotator") for rule in role["rules"]]
    assert {"create", "get", "list", "watch", "emergency"} == {verb for rule in rules for verb in rule["verbs"]}
    assert [] == [each for rule in rules for each in rule["resources"] if "/" in each]


def test_what_has_ended_is_never_listed() -> None:
    """The selectors leave out every final phase and no other."""
    assert {str(each) for each in FINAL} == {
        each.removeprefix("status.phase!=") for each in people.OPEN_REQUESTS.split(",")
    }
    assert RequestPhase.RUNNING not in people.OPEN_REQUESTS
    assert all(each.value in people.OPEN_APPROVALS for each in ApprovalPhase)
