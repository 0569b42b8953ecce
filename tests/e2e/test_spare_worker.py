"""
A queue with a single consumer on one machine: a spare worker stands in for it while it is rolled.

Rules that must stay true here:

- The daemon starts, drains and stops real Celery workers; whether a task was lost is told by the tasks' own lines.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rotator.core.event import Event, EventType
from rotator.embedded.celery_worker import node_name
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.store.sql import SQLStore
from tests.e2e.installation import Installation
from tests.fixtures_celery import PATIENCE, CeleryFleet
from tests.fixtures_openbao import new_domain

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(600)]

ONLY, SPARE = "worker-1", "worker-spare"
ROLLED = "service-0"


class Alone(Installation):
    """One worker that alone consumes its queue, and a spare; both are the daemon's to start."""

    def __init__(self, directory: Path, openbao: OpenBaoServer, fleet: CeleryFleet) -> None:
        super().__init__(directory, new_domain(openbao, directory), services=1)
        self.fleet = fleet
        self.document["certificates"][ROLLED]["rolls"] = ["workers"]
        self.document["workloads"] = {
            "workers": {
                "processes": [self._process(name) for name in (ONLY, SPARE)],
                "surge": 1,
                "max_unavailable": 0,
                "stop_timeout": "60s",
                "start_timeout": "60s",
                "drain": {"celery": {"broker_file": str(fleet.place.broker_file), "deadline": "5m", "timeout": "10s"}},
            }
        }
        self.write()

    def _process(self, name: str) -> dict[str, Any]:
        member = next(each for each in self.fleet.members if each.name == name)
        return {
            "name": name,
            "command": list(member.command),
            "pid_file": str(member.pid_file),
            "log_file": str(member.log_file),
            "environment": dict(member.environment),
            "node": node_name(name),
            "queues": ["default"],
            "spare": name == SPARE,
        }

    def running(self) -> dict[str, str]:
        """Return which process each worker that runs is."""
        return {each.name: each.identity for each in self.fleet.workloads.members() if each.running}

    def scaled(self) -> list[tuple[str, Any, Any]]:
        """Return how the number was changed, as the ledger tells it."""
        return [(each.result, each.detail["from"], each.detail["to"]) for each in self.events(EventType.SCALED)]

    def events(self, type_: EventType) -> list[Event]:
        """Return the events of one type, in order."""
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            return [each.event for each in records(store) if each.event.type is type_]


@pytest.fixture
def alone(tmp_path: Path, openbao: OpenBaoServer) -> Iterator[Alone]:
    place = tmp_path / "celery"
    place.mkdir()
    with CeleryFleet(place, names=(ONLY, SPARE)) as fleet:
        made = Alone(tmp_path, openbao, fleet)
        made.start()
        try:
            made.wait_settled()
            yield made
        finally:
            made.daemon.stop()


def test_law_17_a_spare_stands_in_for_a_queues_only_consumer(alone: Alone) -> None:
    """
    The queue is consumed at every moment, no task is lost or done twice, and afterwards the spare is gone.

    So it is though the daemon is killed while the spare is there: the next one sees it, rolls on, drains and ends it.
    """
    fleet, before = alone.fleet, alone.running()
    assert {ONLY} == set(before)
    stop, fewest = threading.Event(), [99]

    def look() -> None:
        while not stop.wait(0.1):
            answers = fleet.control.look([node_name(ONLY), node_name(SPARE)])
            # Who runs and says nothing is slow: that tells nothing of queues.
            if answers or not alone.running():
                fewest.append(sum("default" in each.queues for each in answers.values()))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with fleet.working(4):
            wait_until(lambda: (fleet.one(ONLY).busy or 0) > 0, within=PATIENCE, what="a busy worker")
            alone.rotate(ROLLED)
            wait_until(lambda: SPARE in alone.running(), within=PATIENCE, what="the spare")
            alone.daemon.kill()
            assert before[ONLY] == alone.running()[ONLY]
            alone.start()
        wait_until(lambda: alone.running().get(ONLY) not in {None, before[ONLY]}, within=PATIENCE, what="another")
        fleet.ledger.submit(4, seconds=(1, 2))
        alone.wait_settled()
        wait_until(lambda: {ONLY} == set(alone.running()), within=PATIENCE, what="the spare's end")
    finally:
        stop.set()
        watcher.join()
    wait_until(lambda: not fleet.ledger.lost(), within=PATIENCE, what="every task")
    assert frozenset() == fleet.ledger.repeated()
    assert 1 <= min(fewest)
    changes = [each for each in alone.scaled() if each[0] == "started"]
    assert [("started", 1, 2), ("started", 2, 1)] == changes, "the number is raised and set back once"
    drained = [each.detail["member"] for each in alone.events(EventType.DRAINED) if each.result == "started"]
    assert [ONLY, SPARE] == drained[-2:]
