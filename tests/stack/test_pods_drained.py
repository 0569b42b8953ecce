"""
Celery workers in pods of a real cluster, drained before they are evicted: each pod paired with a real worker.

Rules that must stay true here:

- A worker lives as its pod does (tests/stack/kubelet.py), so what an eviction without a drain would cut off is cut off.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from tests.fixtures_celery import CeleryFleet
from tests.stack.kubelet import Kubelet
from tests.stack.nodes import ENDS, Nodes
from tests.stack.test_pods_rolled import CERTIFICATE, PATIENCE, SIZE, Farm

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(900)]

NAMES = tuple(f"worker-{number}" for number in range(SIZE))
MOST = 5
"""Pods that the StatefulSet has at most, while somebody scales it."""
BACKLOG = 4 * SIZE
"""How many tasks may be waiting or running at a time: enough to keep every worker busy, and few enough to end soon."""
GRACE_SECONDS = 120.0
"""More than a task takes: what somebody else ends may finish what it has."""


@pytest.fixture
def farm(nodes: Nodes, pods_namespace: str, openbao: OpenBaoServer, tmp_path: Path) -> Iterator[Farm]:
    """Give a farm whose daemon is stopped at the end."""
    made = Farm(nodes, pods_namespace, openbao, tmp_path)
    try:
        yield made
    finally:
        made.daemon.daemon.stop()


class Drained:
    """Workers in pods under load, and the daemon that rolls them."""

    def __init__(self, farm: Farm, fleet: CeleryFleet, broker_file: Path) -> None:
        self.farm = farm
        self.fleet = fleet
        self.kubelet = Kubelet(farm.nodes, farm.namespace, fleet)
        workers = farm.daemon.document["workloads"]["workers"]
        workers["start_timeout"] = "2m"
        workers["drain"] = {
            "celery": {"broker_file": str(broker_file), "queues": ["default"], "deadline": "5m", "timeout": "10s"}
        }
        farm.daemon.write()

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Give tasks of three to eight seconds all the time; then wait until each has ended, once."""
        stop = threading.Event()

        def give() -> None:
            while not stop.wait(0.5):
                if len(self.fleet.ledger.lost()) < BACKLOG:
                    self.fleet.ledger.submit(1, seconds=(3, 8))

        giver = threading.Thread(target=give)
        giver.start()
        try:
            yield
        finally:
            stop.set()
            giver.join()
        assert [] == self.kubelet.trouble
        wait_until(lambda: not self.fleet.ledger.lost(), within=PATIENCE, what="every task to end")
        assert frozenset() == self.fleet.ledger.repeated()

    def wait_busy(self) -> None:
        """Wait until every worker that there should be has work."""
        wait_until(
            lambda: all((each.busy or 0) > 0 for each in self.fleet.seen() if each.name in NAMES),
            within=PATIENCE,
            what="busy workers",
        )

    def wait_draining(self, name: str) -> None:
        """Wait until the daemon has seen *name* drain."""

        def draining() -> bool:
            rows = (self.farm.daemon.status() or {}).get("workloads", ())
            members = [member for each in rows if each["name"] == "workers" for member in each["members"]]
            return any(each["draining"] for each in members if each["name"] == name)

        wait_until(draining, within=PATIENCE, what=f"{name} to drain")

    def wait_leaving(self, name: str) -> None:
        """Wait until somebody has told the pod *name* to end."""

        def leaving() -> bool:
            pods = [each["metadata"] for each in self.farm.nodes.pods(self.farm.namespace)]
            return all("deletionTimestamp" in each for each in pods if each["name"] == name)

        self.farm.until(leaving, f"{name} to be told to end")

    def want(self, replicas: int) -> None:
        """Let somebody else want so many, as `kubectl scale` does."""
        path = f"/apis/apps/v1/namespaces/{self.farm.namespace}/statefulsets/worker"
        body = {"spec": {"replicas": replicas}}
        self.farm.nodes.cluster.call("PATCH", path, body, content_type="application/merge-patch+json")

    def wait_at_work(self, replicas: int) -> None:
        """Wait until exactly so many work."""
        self.farm.until(lambda: {f"worker-{n}" for n in range(replicas)} == self.at_work(), f"{replicas} at work")

    def at_work(self) -> set[str]:
        """Return the workers that consume."""
        return {each.name for each in self.fleet.seen() if each.queues and (each.ready or each.draining)}


@pytest.fixture
def drained(farm: Farm, tmp_path: Path) -> Iterator[Drained]:
    """Give workers in pods that are at rest; each pod ends as its process does."""
    place = tmp_path / "celery"
    place.mkdir()
    with CeleryFleet(place, names=[f"worker-{number}" for number in range(MOST)]) as fleet:
        made = Drained(farm, fleet, place / "broker")
        with made.kubelet:
            yield made


def test_law_17_workers_in_pods_are_drained_before_they_are_evicted(drained: Drained) -> None:
    """Tasks outlast the pods' grace period of two seconds; every pod is replaced, and every task ends once."""
    farm = drained.farm
    farm.begin(**{ENDS: "never"})
    before, evicted, known = farm.pods(), len(farm.evictions()), len(farm.events(EventType.DRAINED))
    with drained.load():
        drained.wait_busy()
        farm.daemon.rotate(CERTIFICATE)
        farm.settle()
    assert not before & farm.pods()
    assert 2 * SIZE == len(farm.evictions()) - evicted
    let_go = [
        each.detail
        for each in farm.events(EventType.DRAINED)[known:]
        if each.detail["workload"] == "workers" and each.result == "ok"
    ]
    assert sorted(NAMES) == sorted(str(each["member"]) for each in let_go)
    assert {0} == {each["busy"] for each in let_go}


def test_law_17_workers_in_pods_are_scaled_in_the_middle_of_a_roll(drained: Drained) -> None:
    """Two join, four are taken away, one of them while it drains: no task is lost, no joiner goes, no queue is bare."""
    farm = drained.farm
    farm.grace_seconds = drained.kubelet.grace_seconds = GRACE_SECONDS
    farm.begin(**{ENDS: "never"})
    before, evicted = farm.pods(), len(farm.evictions())
    with drained.fleet.working(2 * SIZE) as gate, drained.load():
        drained.wait_busy()
        farm.daemon.rotate(CERTIFICATE)
        drained.wait_draining("worker-2")
        drained.want(5)
        drained.wait_at_work(5)
        joined = {pod["metadata"]["uid"] for pod in farm.nodes.pods(farm.namespace)} - before
        gate.open_for("worker-2")
        drained.wait_draining("worker-1")
        drained.want(1)
        drained.wait_leaving("worker-1")
        gate.open()
        drained.wait_at_work(1)
        # The only consumer of its queue is not drained, and people are told.
        farm.until(lambda: "which alone consume" in farm.why("workers"), "the last one to be kept")
        assert {"worker-0"} == drained.at_work()
        drained.want(2)
        drained.wait_at_work(2)
        farm.settle(2 + SIZE)
    assert not before & farm.pods()
    gone = Counter(name for name in farm.evictions()[evicted:] if name.startswith("worker-"))
    # Who drains while the workload is scaled down may have been let go just before.
    assert Counter(["worker-0", "worker-2"]) <= gone <= Counter(NAMES)
    rolled = {str(each.detail["was"]) for each in farm.events(EventType.ROLLED)}
    assert joined - before
    assert not joined & rolled
