"""What a real API server lets people ask of rotator, and what it refuses before rotator hears of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rotator.cluster.people import requests_path
from tests.stack.cluster import Cluster, Refused
from tests.stack.rotator_people import PeopleWorld

pytestmark = [pytest.mark.stack, pytest.mark.external]

NAMESPACE = "rotator-admission"


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> PeopleWorld:
    """Alice may ask, bob may ask in an emergency and approve, carol may approve, mallory may nothing."""
    roles = {"alice": ("requester", "approver"), "bob": ("emergency", "approver"), "carol": ("approver",)}
    return PeopleWorld(cluster, NAMESPACE, roles)


def refusal(act: Callable[[], object]) -> tuple[int, str]:
    """Return status and words with which the API server refuses *act*."""
    with pytest.raises(Refused) as found:
        act()
    return found.value.status, str(found.value)


def test_who_may_asks_in_their_own_name(world: PeopleWorld) -> None:
    """A request made by who may stands there with the name of who made it."""
    made = world.ask("alice", ticket="OPS-1")
    assert ("alice", "alice") == (made["spec"]["requestedBy"], world.request(made)["spec"]["requestedBy"])


def test_who_may_not_is_refused_by_rbac(world: PeopleWorld) -> None:
    """Without the role nothing is made, and the audit log says who tried."""
    status, words = refusal(lambda: world.ask("mallory"))
    assert (403, True) == (status, 'User \\"mallory\\" cannot create resource' in words)
    tried = [
        each
        for each in world.cluster.audit(user="mallory")
        if each["verb"] == "create" and each.get("objectRef", {}).get("namespace") == NAMESPACE
    ]
    assert {"forbid"} == {each["annotations"]["authorization.k8s.io/decision"] for each in tried}


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("alice", {"by": "bob"}, "spec.requestedBy must be your own name, alice"),
        ("alice", {"emergency": True}, "take the right emergency"),
        ("alice", {"compromised": True, "confirm": "web"}, "take the right emergency"),
        (
            "alice",
            {"operation": "Pause", "until": "2030-01-01T00:00:00Z", "pastSafetyLine": True},
            "take the right emergency",
        ),
        ("alice", {"operation": "Adopt", "acceptInterruption": "nobody is here"}, "take the right emergency"),
    ],
    ids=["another's name", "an emergency", "a compromise", "a pause past the safety line", "an interruption"],
)
def test_the_policy_refuses(world: PeopleWorld, name: str, spec: dict[str, Any], words: str) -> None:
    """Another's name, and what takes the right of emergencies without it, is refused at admission."""
    status, said = refusal(lambda: world.ask(name, **spec))
    assert (403, True) == (status, words in said), said


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"compromised": True, "confirm": "mail"}, "named once more in confirm"),
        ({"compromised": True}, "named once more in confirm"),
        ({"confirm": "web"}, "named once more in confirm"),
        ({"everything": True}, "not both"),
        ({"subjects": None}, "not both"),
        ({"operation": "Rollback", "subjects": ["web", "mail"]}, "name exactly one"),
        ({"operation": "Rollback", "subjects": None, "everything": True}, "name exactly one"),
        ({"reason": None}, "say why in reason"),
        ({"reason": "two\nlines"}, "spec.reason"),
        ({"operation": "Pause"}, "ends at until"),
        ({"until": "2030-01-01T00:00:00Z"}, "ends at until"),
        ({"operation": "Resume", "emergency": True}, "emergency is for rotate alone"),
        ({"operation": "Rollback", "ticket": "OPS-1"}, "ticket is for rotate and adopt and apply and undo alone"),
        ({"operation": "Destroy"}, "spec.operation"),
        ({"surprise": True}, "unknown field"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_the_schema_refuses(world: PeopleWorld, spec: dict[str, Any], words: str) -> None:
    """What makes no sense is refused with the mend, whoever asks."""
    status, said = refusal(lambda: world.ask("bob", **spec))
    assert (True, True) == (status in {400, 422}, words in said), said


def test_an_emergency_takes_its_own_right(world: PeopleWorld) -> None:
    """Whoever has the verb may ask for an emergency, and for a compromise by name."""
    made = world.ask("bob", emergency=True), world.ask("bob", compromised=True, confirm="web")
    assert [True, None] == [each["spec"].get("emergency") for each in made]


def test_what_was_asked_never_changes(world: PeopleWorld) -> None:
    """Not even an administrator changes a request or an approval, and nobody but rotator writes a status."""
    made = world.ask("alice")
    path = requests_path(NAMESPACE, made["metadata"]["name"])
    merge = "application/merge-patch+json"
    status, said = refusal(
        lambda: world.cluster.call("PATCH", path, {"spec": {"reason": "another"}}, content_type=merge)
    )
    assert (422, True) == (status, "never changes" in said)
    status, said = refusal(
        lambda: world.cluster.call("PATCH", f"{path}/status", {"status": {"phase": "Done"}}, content_type=merge)
    )
    assert (403, True) == (status, "own word" in said), said
    written = world.cluster.call(
        "PATCH", f"{path}/status", {"status": {"phase": "Done"}}, content_type=merge, token=world.token
    )
    assert "Done" == written["status"]["phase"]


def test_nobody_changes_or_removes_what_they_made(world: PeopleWorld) -> None:
    """Requests are made once: their maker may neither edit nor delete them."""
    made = world.ask("alice")
    path, token = requests_path(NAMESPACE, made["metadata"]["name"]), world.cluster.person("alice")
    assert 403 == refusal(lambda: world.cluster.call("PUT", path, made, token=token))[0]
    assert 403 == refusal(lambda: world.cluster.call("DELETE", path, token=token))[0]


def test_nobody_approves_their_own_request(world: PeopleWorld) -> None:
    """Who says truly whose request it is cannot approve their own, nor speak for another."""
    made = world.ask("alice")
    status, said = refusal(lambda: world.answer("alice", made))
    assert (403, True) == (status, "nobody approves their own request" in said), said
    status, said = refusal(lambda: world.answer("bob", made, by="carol"))
    assert (403, True) == (status, "spec.approvedBy must be your own name, bob" in said), said
    assert "Reject" == world.answer("alice", made, decision="Reject", reason="not today")["spec"]["decision"]
    assert "carol" == world.answer("carol", made)["spec"]["approvedBy"]


def test_a_machine_never_approves(world: PeopleWorld) -> None:
    """A ServiceAccount with the role is refused: it is nobody who could approve."""
    made = world.ask("alice")
    token = world.cluster.service_account(NAMESPACE, "robot")
    world.cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "robot", "namespace": NAMESPACE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rotator-approver"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": NAMESPACE}],
        }
    )
    status, said = refusal(
        lambda: world.answer("carol", made, by=f"system:serviceaccount:{NAMESPACE}:robot", token=token)
    )
    assert (403, True) == (status, "nobody who could approve" in said), said


def open_names(world: PeopleWorld) -> set[str]:
    """Return the names of the requests that are not done."""
    selected = {"fieldSelector": "status.phase!=Done"}
    listed = world.cluster.call("GET", requests_path(NAMESPACE), query=selected)["items"]
    return {each["metadata"]["name"] for each in listed}


def test_what_has_ended_is_not_listed_again(world: PeopleWorld) -> None:
    """The API server itself selects requests by their phase."""
    name = world.ask("alice")["metadata"]["name"]
    assert name in open_names(world)
    world.cluster.call(
        "PATCH",
        requests_path(NAMESPACE, name, part="status"),
        {"status": {"phase": "Done"}},
        content_type="application/merge-patch+json",
        token=world.token,
    )
    assert name not in open_names(world)
