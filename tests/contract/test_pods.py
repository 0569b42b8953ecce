"""
One suite for every workload in a cluster: the fake, and real StatefulSets and Deployments with real controllers.

Rules that must stay true here:

- Pods come and go by their controller alone; a test sees them through the port and the few verbs of `Bench`.
- What fits is claimed as for processes (tests/contract/test_workloads.py): who runs, who is another, who is a stranger.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import pytest

from rotator.adapters.kubernetes.workloads import Kind, Pods, WorkloadPlace
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.core.model import Member, SubjectName
from rotator.errors import Conflict, NotYet, Rejected
from rotator.ports import Workloads
from tests.fakes.clock import ManualClock
from tests.fakes.pods import FakePods
from tests.stack.nodes import ENDS, PLAYS, Nodes, budget, workload

WORKLOAD = SubjectName("workers")
SIZE = 3

_numbers = itertools.count(1)


class Bench(Protocol):
    """A workload of `SIZE` ready pods."""

    kind: Kind

    @property
    def workloads(self) -> Workloads: ...
    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let time pass until *condition* holds."""

    def scale(self, size: int) -> None:
        """Let somebody want another number of pods."""

    def at_most_one_disrupted(self) -> None:
        """Put a PodDisruptionBudget over them."""

    def fall_sick(self, name: str) -> None:
        """Let a pod stop taking work."""

    def use_grace(self) -> None:
        """Let every pod that there is use some seconds to end."""

    def end(self, name: str) -> None:
        """Let somebody else tell a pod to end."""


class FakeBench:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.clock = ManualClock()
        self.workloads = FakePods(self.clock, kind, replicas=SIZE)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(1000):
            if condition():
                return
            self.clock.advance(timedelta(milliseconds=100))
        pytest.fail(f"never: {what}")

    def scale(self, size: int) -> None:
        self.workloads.scale(size)

    def at_most_one_disrupted(self) -> None:
        self.workloads.most_disrupted = 1

    def fall_sick(self, name: str) -> None:
        self.workloads.fall_sick(name)

    def use_grace(self) -> None:
        self.workloads.grace = timedelta(seconds=3)

    def end(self, name: str) -> None:
        self.workloads.end(name)


class RealBench:
    def __init__(self, nodes: Nodes, api: ObjectAPI, kind: Kind) -> None:
        self.kind = kind
        self.nodes = nodes
        self.namespace = nodes.namespace(f"contract-{next(_numbers)}")
        self.place = WorkloadPlace(kind=kind, namespace=self.namespace, name="worker")
        self.nodes.cluster.apply(workload(kind, self.namespace, "worker", replicas=SIZE, grace_seconds=3))
        self.nodes.until_ready(self.namespace, SIZE)
        self.workloads = Pods(api, self.place, workload=WORKLOAD)
        self.until(lambda: self.workloads.members() != () and self.workloads.held() is None, "its controller at rest")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.nodes.until(condition, what)

    def scale(self, size: int) -> None:
        scale: dict[str, Any] = {"spec": {"replicas": size}}
        self.nodes.cluster.call("PATCH", self.place.path, scale, content_type="application/merge-patch+json")

    def at_most_one_disrupted(self) -> None:
        self.nodes.cluster.apply(budget(self.namespace, "worker", maxUnavailable=1))
        path = f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets/worker"
        self.until(
            lambda: self.nodes.cluster.call("GET", path).get("status", {}).get("disruptionsAllowed") == 1,
            "the budget to be counted",
        )

    def fall_sick(self, name: str) -> None:
        self.nodes.annotate(self.namespace, name, {PLAYS: "unready"})
        self.until(lambda: not one(self, name).ready, f"{name} to be unready")

    def use_grace(self) -> None:
        for pod in self.nodes.pods(self.namespace):
            self.nodes.annotate(self.namespace, pod["metadata"]["name"], {ENDS: "at-grace"})

    def end(self, name: str) -> None:
        self.nodes.cluster.call("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One kind of workload, in memory or in a cluster."""

    kind: Kind
    nodes: Nodes | None = None
    api: ObjectAPI | None = None
    """As the cluster's administrator: rights are tried elsewhere."""


@pytest.fixture(
    scope="module",
    params=[
        ("fake", Kind.STATEFULSET),
        ("fake", Kind.DEPLOYMENT),
        pytest.param(("real", Kind.STATEFULSET), marks=pytest.mark.stack),
        pytest.param(("real", Kind.DEPLOYMENT), marks=pytest.mark.stack),
    ],
    ids=lambda each: f"{each[0]}-{each[1]}",
)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Give the servers, which are no test's own."""
    world, kind = request.param
    if world == "fake":
        yield Way(kind=kind)
        return
    nodes: Nodes = request.getfixturevalue("nodes")
    with closing(ObjectAPI(ClusterAccess(namespace="default", kubeconfig_file=nodes.cluster.kubeconfig))) as api:
        yield Way(kind=kind, nodes=nodes, api=api)


@pytest.fixture
def bench(way: Way) -> Bench:
    """Give a workload that no other test has."""
    if way.nodes is None or way.api is None:
        return FakeBench(way.kind)
    return RealBench(way.nodes, way.api, way.kind)


def one(bench: Bench, name: str) -> Member:
    """Return the member *name*."""
    return next(member for member in bench.workloads.members() if member.name == name)


def first(bench: Bench) -> Member:
    """Return the member that is rolled first."""
    return bench.workloads.members()[0]


def at_rest(bench: Bench, size: int = SIZE) -> bool:
    """Return whether there are exactly *size* members, all of them ready."""
    members = bench.workloads.members()
    return size == len(members) and all(each.ready and not each.ending for each in members)


def identities(bench: Bench) -> set[str]:
    """Return which pods there are."""
    return {each.identity for each in bench.workloads.members() if each.identity}


def test_every_pod_is_a_member(bench: Bench) -> None:
    """Each with a start in whole seconds, an identity and a host name of its own; looking again finds the same."""
    members = bench.workloads.members()
    assert SIZE == len({each.name for each in members}) == len({each.identity for each in members})
    assert all(each.ready and each.started_at is not None and not each.detail for each in members)
    assert [each.name for each in members] == [each.host for each in members]
    assert members == bench.workloads.members()
    assert bench.workloads.held() is None
    if bench.kind is Kind.STATEFULSET:
        assert ["worker-2", "worker-1", "worker-0"] == [each.name for each in members]


def test_a_replaced_pod_is_another(bench: Bench) -> None:
    """One went, one came, not earlier; the others are who they were."""
    gone = first(bench)
    before = identities(bench)
    bench.workloads.replace(gone.name, forced=False)
    bench.until(lambda: at_rest(bench), "its successor to be ready")
    after = identities(bench)
    assert {gone.identity} == before - after
    (came,) = (each for each in bench.workloads.members() if each.identity not in before)
    assert gone.started_at is not None
    assert came.started_at is not None
    assert gone.started_at <= came.started_at


@pytest.mark.parametrize("forced", [False, True], ids=["plainly", "forced"])
def test_law_17_a_pod_ends_in_its_own_time(bench: Bench, *, forced: bool) -> None:
    """It is shown as ending until it is gone, takes no work meanwhile, and telling it again changes nothing."""
    bench.use_grace()
    gone = first(bench)
    bench.workloads.replace(gone.name, forced=forced)
    seen = next(each for each in bench.workloads.members() if each.identity == gone.identity)
    assert (True, True, False) == (seen.running, seen.ending, seen.ready)
    # A Deployment's successor is there at once, a StatefulSet's has the same name and waits for it.
    assert (bench.kind is Kind.DEPLOYMENT) == seen.spare
    bench.workloads.replace(gone.name, forced=forced)
    bench.until(lambda: at_rest(bench) and gone.identity not in identities(bench), "it gone and another ready")


def test_law_17_a_disruption_budget_holds(bench: Bench) -> None:
    """With one pod down the next may not go: that is said with the budget's name, and nobody goes."""
    bench.at_most_one_disrupted()
    sick, well = bench.workloads.members()[:2]
    bench.fall_sick(sick.name)
    # The budget's controller counts a moment later than the pod's status tells.
    before = identities(bench)
    with pytest.raises(NotYet, match="disruption budget worker needs 2 healthy pods and has 2"):
        refused(bench, well.name)
    assert before == identities(bench)


def refused(bench: Bench, name: str) -> None:
    """Ask for *name* to go; what is asserted of it is that it may not."""
    bench.workloads.replace(name, forced=False)


def test_the_pod_that_was_seen_is_the_pod_that_goes(bench: Bench) -> None:
    """Somebody was faster: whoever has its name now stays."""
    seen = first(bench)
    bench.end(seen.name)
    if isinstance(bench, RealBench):
        # Through another eye: what the port last saw must stay what it decides about.
        bench.nodes.until_ready(bench.namespace, SIZE)
    else:
        assert isinstance(bench, FakeBench)
        bench.workloads.settle()
    if bench.kind is Kind.STATEFULSET:
        with pytest.raises(Conflict):
            bench.workloads.replace(seen.name, forced=False)
    else:
        bench.workloads.replace(seen.name, forced=False)
    before = identities(bench)
    bench.until(lambda: at_rest(bench), "all at rest")
    assert before == identities(bench)


def test_a_stranger_is_rejected(bench: Bench) -> None:
    """A pod that is not the workload's own is never evicted."""
    bench.workloads.members()
    with pytest.raises(Rejected, match="no pod other-0"):
        bench.workloads.replace("other-0", forced=False)


def test_members_follow_the_wanted_number(bench: Bench) -> None:
    """More are wanted, then fewer: who is too many counts as no loss."""
    bench.scale(SIZE + 1)
    bench.until(lambda: at_rest(bench, SIZE + 1), "one more")
    bench.use_grace()
    bench.scale(SIZE - 1)

    def two_end() -> bool:
        return len([each for each in bench.workloads.members() if each.ending]) == 2

    bench.until(two_end, "two to end")
    ending = [each for each in bench.workloads.members() if each.ending]
    assert all(each.spare for each in ending)
    bench.until(lambda: at_rest(bench, SIZE - 1), "two left")


def test_a_pod_that_falls_sick_is_seen(bench: Bench) -> None:
    """It runs on, as the same pod, takes no work, and the reason is said."""
    before = first(bench)
    bench.fall_sick(before.name)
    after = one(bench, before.name)
    assert before.identity == after.identity
    assert (True, False) == (after.running, after.ready)
    assert after.detail
