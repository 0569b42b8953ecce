"""What every board of requests does: the one in memory, and the objects of a real API server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from rotator.adapters.kubernetes.requests import PostedRequests
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.people import approvals_path, policy_name, requests_path
from rotator.durations import moment_text, parse_moment
from rotator.embedded.process import wait_until
from rotator.errors import Conflict
from rotator.ports import PostedObject, RequestBoard
from tests.fakes.clock import ManualClock
from tests.fakes.request_board import FakeRequestBoard
from tests.stack.cluster import Cluster
from tests.stack.rotator_people import PeopleWorld

ASKED = {"operation": "Rotate", "subjects": ["web"], "reason": "a test asks", "requestedBy": "alice"}
_numbers = itertools.count(1)


class Desk(Protocol):
    """A board and the people in front of it."""

    board: RequestBoard

    def ask(self) -> str:
        """Have alice make a request; return its name."""
        ...

    def answer(self, name: str) -> str:
        """Have bob approve the request *name*; return the approval's name."""
        ...

    def remove(self, name: str) -> None:
        """Remove the request *name*, as an administrator may."""
        ...

    def unguard(self) -> None:
        """Take away what binds names to people."""
        ...


class InMemory:
    """The fake."""

    def __init__(self) -> None:
        self.clock = ManualClock(parse_moment("2030-01-01T00:00:00Z"))
        self.fake = FakeRequestBoard(clock=self.clock, guarded=self.clock.now())
        self.board: RequestBoard = self.fake

    def ask(self) -> str:
        return self.fake.post(f"alice-{next(_numbers):04d}", ASKED).name

    def answer(self, name: str) -> str:
        spec = {"request": {"name": name}, "decision": "Approve", "approvedBy": "bob"}
        return self.fake.post(f"bob-{next(_numbers):04d}", spec, approval=True).name

    def remove(self, name: str) -> None:
        self.fake.take_away(name)

    def unguard(self) -> None:
        self.fake.guarded = None


class InCluster:
    """The objects of a real API server, with rotator's own rights alone."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        roles = {"alice": ("requester",), "bob": ("approver",)}
        self.world = PeopleWorld(cluster, f"rotator-board-{next(_numbers)}", roles)
        file = cluster.kubeconfig_for(self.world.token, self.world.namespace, directory / "kubeconfig")
        self.api = ObjectAPI(ClusterAccess(namespace=self.world.namespace, kubeconfig_file=file))
        self.board: RequestBoard = PostedRequests(self.api, self.world.namespace)

    def ask(self) -> str:
        found: str = self.world.ask("alice")["metadata"]["name"]
        return found

    def answer(self, name: str) -> str:
        request = self.world.cluster.call("GET", requests_path(self.world.namespace, name))
        found: str = self.world.answer("bob", request)["metadata"]["name"]
        return found

    def remove(self, name: str) -> None:
        self.world.cluster.call("DELETE", requests_path(self.world.namespace, name))

    def unguard(self) -> None:
        for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            name = policy_name(self.world.namespace)
            self.world.cluster.call("DELETE", f"/apis/admissionregistration.k8s.io/v1/{plural}/{name}")


@pytest.fixture(
    scope="module", params=["memory", pytest.param("cluster", marks=[pytest.mark.stack, pytest.mark.external])]
)
def server(request: pytest.FixtureRequest) -> Cluster | None:
    """Each kind in turn; a server is started before the first test that wants it."""
    return request.getfixturevalue("cluster") if request.param == "cluster" else None


@pytest.fixture
def desk(server: Cluster | None, tmp_path: Path) -> Iterator[Desk]:
    """Give a board of its own to each test."""
    if server is None:
        yield InMemory()
        return
    found = InCluster(server, tmp_path)
    yield found
    found.api.close()


def names(found: tuple[PostedObject, ...]) -> list[str]:
    return [each.name for each in found]


def one(read: Callable[[], tuple[PostedObject, ...]]) -> PostedObject:
    (found,) = read()
    return found


def test_what_people_ask_is_found_as_they_made_it(desk: Desk) -> None:
    """Requests are listed oldest first, with what was asked in whose name and no status yet."""
    asked = [desk.ask(), desk.ask()]
    found = desk.board.requests()
    assert asked == sorted(names(found), key=asked.index)
    assert [(ASKED, {}), (ASKED, {})] == [(dict(each.spec), dict(each.status)) for each in found]
    assert 2 == len({each.uid for each in found})


def test_a_status_is_shown_and_merged(desk: Desk) -> None:
    """What is written into a status stays there beside what is written later."""
    desk.ask()
    desk.board.show(one(desk.board.requests), {"phase": "AwaitingApproval", "approvalsNeeded": 1})
    desk.board.show(one(desk.board.requests), {"phase": "Running", "message": "under way"})
    status: dict[str, Any] = dict(one(desk.board.requests).status)
    assert {"phase": "Running", "approvalsNeeded": 1, "message": "under way"} == status


def test_what_has_ended_is_not_looked_at_again(desk: Desk) -> None:
    """A request whose phase is final, and an approval that was looked at, are not listed any more."""
    name = desk.ask()
    desk.answer(name)
    assert "bob" == one(desk.board.approvals).spec["approvedBy"]
    desk.board.show(one(desk.board.approvals), {"phase": "Counted"}, approval=True)
    desk.board.show(one(desk.board.requests), {"phase": "Done"})
    assert ((), ()) == (desk.board.requests(), desk.board.approvals())


def test_a_status_is_for_the_object_that_was_read(desk: Desk) -> None:
    """Changed since it was read, or gone: nothing is written, and that is a conflict."""
    name = desk.ask()
    before = one(desk.board.requests)
    desk.board.show(before, {"phase": "Running"})
    with pytest.raises(Conflict):
        desk.board.show(before, {"phase": "Done"})
    current = one(desk.board.requests)
    desk.remove(name)
    with pytest.raises(Conflict):
        desk.board.show(current, {"phase": "Done"})


def test_what_ended_long_ago_is_removed(desk: Desk) -> None:
    """Requests and approvals that had ended by then are removed, and nothing that is younger or under way."""
    old, young, under_way = desk.ask(), desk.ask(), desk.ask()
    desk.answer(old)
    (approval,) = desk.board.approvals()
    line = approval.made_at
    before, after = moment_text(line - timedelta(hours=1)), moment_text(line + timedelta(hours=1))
    desk.board.show(approval, {"phase": "Counted", "finishedAt": before}, approval=True)
    for each in desk.board.requests():
        if each.name != under_way:
            desk.board.show(each, {"phase": "Done", "finishedAt": before if each.name == old else after})
    assert 2 == desk.board.tidy(line)
    assert [under_way] == names(desk.board.requests())
    assert 1 == desk.board.tidy(line + timedelta(hours=2))
    assert young not in names(desk.board.requests())


def test_names_are_believed_only_where_they_are_bound(desk: Desk) -> None:
    """Since when names are bound is known, and that they are not any more, too."""
    since = desk.board.guarded_since()
    assert since is not None
    desk.ask()
    assert since <= one(desk.board.requests).made_at
    desk.unguard()
    wait_until(lambda: desk.board.guarded_since() is None, within=timedelta(seconds=30), what="the guard to be gone")


@pytest.mark.stack
@pytest.mark.external
@pytest.mark.parametrize(
    "change",
    [
        {"failurePolicy": "Ignore"},
        {"matchConditions": [{"name": "not-alice", "expression": "request.userInfo.username != 'alice'"}]},
        {"validations": [{"expression": "true"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_weakened_guard_is_none(cluster: Cluster, tmp_path: Path, change: dict[str, Any]) -> None:
    """A policy that somebody has weakened binds nobody's name."""
    desk = InCluster(cluster, tmp_path)
    try:
        assert None is not desk.board.guarded_since()
        path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy_name(desk.world.namespace)}"
        cluster.call("PATCH", path, {"spec": change}, content_type="application/merge-patch+json")
        assert None is desk.board.guarded_since()
    finally:
        desk.api.close()


@pytest.mark.stack
@pytest.mark.external
def test_rotator_may_do_no_more_than_it_has_to(cluster: Cluster, tmp_path: Path) -> None:
    """Its account makes no request or approval, and changes none: only their status."""
    desk = InCluster(cluster, tmp_path)
    desk.api.close()
    token, namespace = desk.world.token, desk.world.namespace
    made = desk.world.ask("alice")
    path = requests_path(namespace, made["metadata"]["name"])
    for method, where, body in (
        ("POST", requests_path(namespace), made),
        ("POST", approvals_path(namespace), made),
        ("PUT", path, made),
    ):
        assert 403 == desk.world.refused(method, where, body, token=token)
