"""
Celery workers in pods of a real cluster, drained before they are evicted: each pod paired with a real worker.

Rules that must stay true here:

- A worker lives as its pod does: told to end when the pod is, killed when the pod is gone, started with its successor.
  What an eviction without a drain would cut off is cut off here too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from rotator.adapters.processes.seen import held, session_of
from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from tests.fixtures_celery import CeleryFleet
from tests.stack.nodes import Nodes
from tests.stack.test_pods_rolled import CERTIFICATE, PATIENCE, SIZE, Farm

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(900)]

NAMES = tuple(f"worker-{number}" for number in range(SIZE))
BACKLOG = 4 * SIZE
"""How many tasks may be waiting or running at a time: enough to keep every worker busy, and few enough to end soon."""


class Kubelet:
    """Lets a worker's process follow its pod."""

    def __init__(self, farm: Farm, fleet: CeleryFleet) -> None:
        """Pair each pod of the StatefulSet with the worker of its name."""
        self._farm = farm
        self._fleet = fleet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._lives: dict[str, str] = {}
        self._told: set[str] = set()
        self.trouble: list[str] = []

    def _follow(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self._look()
            except Exception as e:  # noqa: BLE001 -- told by the test, which would wait for ever otherwise
                self.trouble.append(repr(e))
                return

    def _look(self) -> None:
        pods = {pod["metadata"]["name"]: pod["metadata"] for pod in self._farm.nodes.pods(self._farm.namespace)}
        for name in NAMES:
            pod, lives = pods.get(name), self._lives.get(name)
            if lives is not None and (pod is None or pod["uid"] != lives):
                self._fleet_kill(name)
                del self._lives[name]
            elif lives is not None and pod is not None and "deletionTimestamp" in pod and lives not in self._told:
                self._told.add(lives)
                self._fleet.signal(name, signal.SIGTERM)
            if pod is not None and name not in self._lives and "deletionTimestamp" not in pod:
                self._fleet.workloads.replace(name, forced=False)
                self._lives[name] = pod["uid"]

    def _fleet_kill(self, name: str) -> None:
        running = {each.name for each in self._fleet.workloads.members() if each.running}
        if name not in running:
            return
        main = self._fleet.main(name)
        for each in (main, *session_of(main)):
            with held(each) as one:
                if one is not None:
                    one.send(signal.SIGKILL)
                    one.ended(PATIENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def farm(nodes: Nodes, pods_namespace: str, openbao: OpenBaoServer, tmp_path: Path) -> Iterator[Farm]:
    """Give a farm whose daemon is stopped at the end."""
    made = Farm(nodes, pods_namespace, openbao, tmp_path)
    try:
        yield made
    finally:
        made.daemon.daemon.stop()


def test_law_17_workers_in_pods_are_drained_before_they_are_evicted(farm: Farm, tmp_path: Path) -> None:
    """Tasks outlast the pods' grace period of two seconds; every pod is replaced, and every task ends once."""
    place = tmp_path / "celery"
    place.mkdir()
    with CeleryFleet(place, names=NAMES) as fleet, Kubelet(farm, fleet) as kubelet:
        workers = farm.daemon.document["workloads"]["workers"]
        workers["start_timeout"] = "2m"
        workers["drain"] = {
            "celery": {"broker_file": str(place / "broker"), "queues": ["default"], "deadline": "5m", "timeout": "10s"}
        }
        farm.daemon.write()
        farm.begin()
        before, evicted, known = farm.pods(), len(farm.evictions()), len(farm.events(EventType.DRAINED))
        stop = threading.Event()

        def load() -> None:
            while not stop.wait(0.5):
                if len(fleet.ledger.lost()) < BACKLOG:
                    fleet.ledger.submit(1, seconds=(3, 8))

        giver = threading.Thread(target=load)
        giver.start()
        try:
            wait_until(lambda: all((each.busy or 0) > 0 for each in fleet.seen()), within=PATIENCE, what="busy workers")
            farm.daemon.rotate(CERTIFICATE)
            farm.settle()
        finally:
            stop.set()
            giver.join()
        assert [] == kubelet.trouble
        wait_until(lambda: not fleet.ledger.lost(), within=PATIENCE, what="every task to end")
        assert frozenset() == fleet.ledger.repeated()
        assert not before & farm.pods()
        assert 2 * SIZE == len(farm.evictions()) - evicted
        drained = [
            each.detail
            for each in farm.events(EventType.DRAINED)[known:]
            if each.detail["workload"] == "workers" and each.result == "ok"
        ]
        assert sorted(NAMES) == sorted(str(each["member"]) for each in drained)
        assert {0} == {each["busy"] for each in drained}
