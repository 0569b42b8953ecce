"""
Airflow's own account beside what Celery's workers say of themselves: real workers, a real broker, a told account.

Rules that must stay true here:

- Both must say idle; what cannot be confirmed is unknown, and a worker without a mailbox is told from a silent one.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.airflow.celery import CeleryDrainer, PodNodes, SecondOpinion
from rotator.adapters.airflow.hosts import at_work, is_at
from rotator.clock import SystemClock
from rotator.core.model import Member, SubjectName
from rotator.core.tasks import TaskAttempt
from rotator.embedded.process import wait_until
from rotator.errors import Unavailable
from tests.fixtures_celery import PATIENCE, CeleryFleet

pytestmark = pytest.mark.external


class ToldTasks:
    """`rotator.ports.RunningTasks` that a test fills."""

    def __init__(self) -> None:
        self.tasks: tuple[TaskAttempt, ...] = ()
        self.reachable = True
        self.asked = 0

    def running(self) -> tuple[TaskAttempt, ...]:
        self.asked += 1
        if not self.reachable:
            raise Unavailable("Airflow did not answer while listing the running tasks")
        return self.tasks


def attempt(host: str, task: str = "work") -> TaskAttempt:
    return TaskAttempt(dag="dag", run="run", task=task, attempt=1, state="running", host=host)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryFleet]:
    with CeleryFleet(tmp_path_factory.mktemp("celery"), answer_within=timedelta(seconds=2)) as fleet:
        fleet.start()
        yield fleet


def with_opinion(fleet: CeleryFleet, told: ToldTasks, **words: bool) -> CeleryDrainer:
    opinion = SecondOpinion(tasks=told, clock=SystemClock(), starts_within=timedelta(), **words)
    return CeleryDrainer(fleet.control, fleet.nodes, opinion)


def one(fleet: CeleryFleet, drainer: CeleryDrainer, name: str = "worker-1") -> Member:
    return next(each for each in drainer.inspect(fleet.workloads.members()) if each.name == name)


def test_law_17_idle_is_what_both_say(fleet: CeleryFleet) -> None:
    """A drained worker is busy while Airflow shows a task on it, and unknown while Airflow does not answer."""
    told = ToldTasks()
    drainer = with_opinion(fleet, told)
    drainer.drain(one(fleet, drainer))
    try:
        told.tasks = (attempt("worker-1.pods.example"), attempt("worker-2"), attempt("worker-10"))
        seen = one(fleet, drainer)
        assert (True, 1, ("dag/run/work#1",)) == (seen.draining, seen.busy, seen.work)
        told.tasks = ()
        assert 0 == one(fleet, drainer).busy
        told.reachable = False
        seen = one(fleet, drainer)
        assert seen.busy is None
        assert "cannot be confirmed" in seen.detail
    finally:
        drainer.undrain(next(each for each in fleet.workloads.members() if each.name == "worker-1"))


def test_airflow_is_not_asked_about_workers_that_just_work(fleet: CeleryFleet) -> None:
    """An idle look costs Airflow nothing."""
    told = ToldTasks()
    drainer = with_opinion(fleet, told)
    wait_until(lambda: all(each.ready for each in fleet.seen()), within=PATIENCE, what="ready workers")
    before = told.asked
    drainer.inspect(fleet.workloads.members())
    assert before == told.asked


def test_a_worker_that_hangs_is_not_taken_for_one_that_never_listened(fleet: CeleryFleet) -> None:
    """Silence with a mailbox stays unknown; it is never stopped for it."""
    drainer = with_opinion(fleet, ToldTasks(), stop_deaf=True)
    fleet.signal("worker-1", signal.SIGSTOP)
    try:
        seen = one(fleet, drainer)
        assert (False, None, False) == (seen.undrainable, seen.busy, seen.ready)
    finally:
        fleet.signal("worker-1", signal.SIGCONT)


def test_remote_control_that_is_off_is_recognised(tmp_path: Path) -> None:
    """Such a worker is named as what it is; only the configuration's word lets it be stopped without a drain."""
    with CeleryFleet(tmp_path, names=("worker-1",), remote_control=False, answer_within=timedelta(seconds=1)) as fleet:
        told = ToldTasks()
        fleet.workloads.replace("worker-1", forced=False)
        told.tasks = (attempt("worker-1"),)
        seen = one(fleet, with_opinion(fleet, told, stop_deaf=True))
        assert (True, True, None) == (seen.undrainable, seen.ready, seen.busy)
        assert "worker_enable_remote_control" in seen.detail
        told.tasks = ()
        assert not one(fleet, with_opinion(fleet, told, stop_deaf=True)).ready
        waits = one(fleet, with_opinion(fleet, told))
        assert (False, False) == (waits.undrainable, waits.ready)
        assert "waits for a person" in waits.detail


@pytest.mark.parametrize(
    ("host", "member", "same"),
    [
        ("airflow-worker-0", "airflow-worker-0", True),
        ("airflow-worker-0.airflow-worker.airflow.svc.cluster.local", "airflow-worker-0", True),
        ("Airflow-Worker-0", "airflow-worker-0.example.", True),
        ("airflow-worker-01", "airflow-worker-0", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.33", "10.1.2.3", False),
        ("", "", False),
    ],
)
def test_hosts(host: str, member: str, same: bool) -> None:  # noqa: FBT001 -- a row of a table
    """A host is its name, with or without its domain."""
    assert same == is_at(host, member)
    assert same == bool(at_work([attempt(host)], member))


def test_pods_are_nodes_by_their_host_names(fleet: CeleryFleet) -> None:
    """Workers that nobody named are drained all the same: who joins is known by its name."""
    drainer = CeleryDrainer(fleet.control, PodNodes(queues=frozenset({"default"})))
    pod = Member(
        workload=SubjectName("w"), name="airflow-0", host="worker-1", running=True, ready=True, started_at=None
    )
    wait_until(lambda: drainer.inspect([pod])[0].ready, within=PATIENCE, what="a ready worker")
    drainer.drain(pod)
    wait_until(lambda: drainer.inspect([pod])[0].draining, within=PATIENCE, what="a drained worker")
    drainer.undrain(pod)
    wait_until(lambda: drainer.inspect([pod])[0].ready, within=PATIENCE, what="a ready worker")
