"""
Draining by Airflow's own API: the Local executor (its DAGs are paused) and Edge workers (maintenance).

Rules that must stay true here:

- The server plays what Airflow 3.3.2 and its edge3 provider 5.1 answer; its state is what is asserted.
- A crash is a call that the server does not answer; what comes after it is a fresh drainer over the same ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.airflow.edge import COMMENT, EdgeDrainer
from rotator.adapters.airflow.local import LocalDrainer
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.core.model import Member, SubjectName
from rotator.core.rollout import RollDecision, RolloutPolicy, decide
from rotator.core.steps import Done, DrainMember, ReplaceMember, UndrainMember
from rotator.core.tasks import Paused, PauseStage
from rotator.engine.pauses import LedgerPauses
from rotator.errors import InvariantBroken, Rejected, Unavailable
from rotator.store.sql import SQLStore
from tests.adapters.test_airflow_rest import ATTEMPT, Told, api_of, password, told
from tests.engine.world import HeldLease
from tests.fakes.clock import ManualClock

__all__ = ["password", "told"]

JSON = dict[str, Any]
SCHEDULER = SubjectName("scheduler")


def member(identity: str = "1@a", *, name: str = "one") -> Member:
    return Member(workload=SCHEDULER, name=name, running=True, ready=True, started_at=None, identity=identity)


@dataclass
class Dags:
    """DAGs of an Airflow that fails at a wanted change."""

    paused: dict[str, bool] = field(default_factory=lambda: {"a": False, "b": False, "theirs": True, "c/d": False})
    changes: int = 0
    fails_at: int = 0

    def answer(self, method: str, path: str) -> tuple[int, object] | None:
        if path == "/api/v2/dags":
            rows = [{"dag_id": dag, "is_paused": paused} for dag, paused in self.paused.items()]
            return 200, {"dags": rows, "total_entries": len(rows)}
        if method == "PATCH":
            self.changes += 1
            if self.changes == self.fails_at:
                return 503, {}
            dag = path.removeprefix("/api/v2/dags/").replace("%2F", "/")
            self.paused[dag] = not self.paused[dag]
            return 200, {"dag_id": dag}
        return None


class Desk:
    """A drainer over a ledger that outlives it."""

    def __init__(self, told: tuple[Told, str], password: Path, directory: Path) -> None:
        self.server, self.url = told
        self.password = password
        self.dags = Dags()
        self.server.attempts = []
        self.server.answer = self.dags.answer
        self.store = SQLStore(f"sqlite:///{directory / 'state.db'}", environment="test")
        self.lease = HeldLease()
        self.anew()

    def anew(self) -> LocalDrainer:
        """Return a drainer as a restart makes one."""
        clock = ManualClock()
        self.book = LedgerPauses(journal=self.store, ledger=self.store, clock=clock, lease=self.lease)
        self.drainer = LocalDrainer(AirflowTasks(api_of(self.url, self.password)), self.book, workload=SCHEDULER)
        return self.drainer

    def seen(self, identity: str = "1@a") -> Member:
        return self.drainer.inspect([member(identity)])[0]


@pytest.fixture
def desk(told: tuple[Told, str], password: Path, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(told, password, tmp_path)
    yield made
    made.store.close()


def test_a_roll_pauses_all_and_resumes_only_what_it_paused(desk: Desk) -> None:
    """Tasks that run or wait in the executor are work; the replaced scheduler drains until its DAGs go on."""
    assert (False, True, 0) == (desk.seen().draining, desk.seen().ready, desk.seen().busy)
    desk.drainer.drain(member())
    assert {True} == set(desk.dags.paused.values())
    desk.server.attempts = [ATTEMPT, {**ATTEMPT, "task_id": "next", "state": "queued"}]
    assert (True, False, 2) == (desk.seen().draining, desk.seen().ready, desk.seen().busy)
    desk.server.attempts = [{**ATTEMPT, "executor": "CeleryExecutor"}]
    assert 0 == desk.seen().busy, "another executor's task does not die with the scheduler"
    assert desk.seen("2@b").draining
    desk.drainer.undrain(member("2@b"))
    assert {"a": False, "b": False, "theirs": True, "c/d": False} == desk.dags.paused
    assert (False, True) == (desk.seen("2@b").draining, desk.seen("2@b").ready)


def test_tasks_of_a_scheduler_in_a_pod_are_those_of_its_host(desk: Desk) -> None:
    """Two schedulers in pods: each has the tasks that run on it; what waits has no host yet, and holds both."""
    pods = [replace(member(f"{name}-uid"), name=name, host=name) for name in ("scheduler-0", "scheduler-1")]
    full = "scheduler-0.scheduler.airflow.svc.cluster.local"
    desk.server.attempts = [{**ATTEMPT, "hostname": full}, {**ATTEMPT, "task_id": "b", "hostname": "scheduler-1"},
                            {**ATTEMPT, "task_id": "c", "hostname": "scheduler-1"}]  # fmt: skip
    assert [1, 2] == [each.busy for each in desk.drainer.inspect(pods)]
    desk.server.attempts.append({**ATTEMPT, "task_id": "d", "hostname": "", "state": "queued"})
    assert [2, 3] == [each.busy for each in desk.drainer.inspect(pods)]
    desk.drainer.drain(pods[0])
    desk.server.attempts = [ATTEMPT | {"hostname": "scheduler-1"}]
    assert [(True, 0), (False, 1)] == [(each.draining, each.busy) for each in desk.drainer.inspect(pods)]
    after = [replace(pods[0], identity="another-uid"), pods[1]]
    desk.drainer.undrain(after[0])
    assert [True, True] == [each.ready for each in desk.drainer.inspect(after)]
    assert {"a": False, "b": False, "theirs": True, "c/d": False} == desk.dags.paused


class Schedulers:
    """Two schedulers that a controller starts: one that is told to end is gone at the next look, and comes after it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.changed_at = datetime(2026, 3, 2, tzinfo=UTC)
        self.pods = {name: self._pod(name, 0) for name in ("scheduler-0", "scheduler-1")}
        self.gone: list[str] = []
        self.most_away = 0
        self._idle: Counter[str] = Counter()

    def _pod(self, name: str, generation: int) -> Member:
        started = self.changed_at + timedelta(hours=1 if generation else -1)
        return replace(member(f"{name}-{generation}", name=name), host=name, started_at=started)

    def look(self) -> tuple[Member, ...]:
        """Return them as a roll sees them, how often in a row each was idle included."""
        seen = self.desk.drainer.inspect(tuple(self.pods.values()))
        self._idle = Counter({each.name: self._idle[each.name] + 1 for each in seen if each.draining and not each.busy})
        return tuple(replace(each, idle_seen=self._idle[each.name]) for each in seen)

    def go_on(self) -> None:
        """Let one moment pass: what ends is gone, what is gone is made, what was made gets ready."""
        for name, pod in self.pods.items():
            if pod.ending:
                self.pods[name] = replace(pod, running=False, ready=False, ending=False, started_at=None, identity="")
            elif not pod.running:
                self.pods[name] = replace(self._pod(name, 1), ready=False)
            else:
                self.pods[name] = replace(pod, ready=True)

    def apply(self, step: RollDecision) -> None:
        """Do what was decided."""
        match step:
            case DrainMember():
                self.desk.drainer.drain(self.pods[step.member])
            case UndrainMember():
                self.desk.drainer.undrain(self.pods[step.member])
            case ReplaceMember():
                self.gone.append(step.member)
                self.pods[step.member] = replace(self.pods[step.member], ending=True, ready=False)
        self.most_away = max(self.most_away, sum(not each.ready for each in self.pods.values()))


@pytest.mark.parametrize("fails_at", range(14))
def test_law_17_two_schedulers_are_replaced_one_after_the_other(desk: Desk, fails_at: int) -> None:
    """The second goes when the first one's successor is ready, wherever it crashes; then only theirs is paused."""
    schedulers = Schedulers(desk)
    desk.dags.fails_at = fails_at
    policy = RolloutPolicy(max_unavailable=1, drain_deadline=timedelta(hours=1), starts_members=False)
    now = schedulers.changed_at + timedelta(minutes=1)
    for _ in range(40):
        step = decide(policy, schedulers.look(), schedulers.changed_at, now, now, frozenset())
        if isinstance(step, Done):
            break
        try:
            schedulers.apply(step)
        except Unavailable:
            desk.anew()
        schedulers.go_on()
    assert Done() == step
    assert 12 <= desk.dags.changes
    assert ["scheduler-0", "scheduler-1"] == schedulers.gone
    assert 1 == schedulers.most_away
    assert {"a": False, "b": False, "theirs": True, "c/d": False} == desk.dags.paused


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_law_13_a_crash_at_any_change_leaves_nothing_paused_for_good(desk: Desk, fails_at: int) -> None:
    """A fresh drainer over the same ledger decides as a roll does, and in the end only theirs is paused."""
    desk.dags.fails_at = fails_at
    identity = "1@a"
    for _ in range(12):
        seen = desk.seen(identity)
        try:
            if identity == "1@a" and seen.draining:
                identity = "2@b"  # idle, so it is replaced
            elif identity == "1@a":
                desk.drainer.drain(member(identity))
            elif seen.draining:
                desk.drainer.undrain(member(identity))
            else:
                break
        except Unavailable:
            desk.anew()
    assert desk.dags.changes >= fails_at
    assert {"a": False, "b": False, "theirs": True, "c/d": False} == desk.dags.paused
    assert desk.book.paused(SCHEDULER) is None


def test_a_dag_that_comes_in_between_is_paused_too(desk: Desk) -> None:
    """Otherwise it would go on giving work."""
    desk.drainer.drain(member())
    desk.dags.paused["new"] = False
    assert not desk.seen().draining
    desk.drainer.drain(member())
    assert desk.seen().draining
    desk.drainer.undrain(member("2@b"))
    assert not desk.dags.paused["new"]


def test_law_12_nothing_is_paused_that_cannot_be_written_down(desk: Desk) -> None:
    """Without the lease nothing is written, and nothing paused."""
    desk.lease.is_held = False
    with pytest.raises(InvariantBroken):
        desk.drainer.drain(member())
    assert 0 == desk.dags.changes


def test_many_dags_are_remembered(desk: Desk) -> None:
    """In as many records as they take."""
    dags = tuple(f"{'d' * 240}{number}" for number in range(1000))
    paused = Paused(stage=PauseStage.PAUSED, dags=dags, identities=("1@a",))
    desk.book.write(SCHEDULER, paused)
    desk.anew()
    assert paused == desk.book.paused(SCHEDULER)
    assert desk.book.paused(SubjectName("other")) is None


class Edge:
    """One Edge worker, as the provider's plugin shows it."""

    def __init__(self, told: tuple[Told, str], password: Path) -> None:
        server, url = told
        server.answer = self.answer
        self.state, self.jobs, self.comment = "running", 1, ""
        self.drainer = EdgeDrainer(api_of(url, password), {"one": "edge-1"})

    def answer(self, method: str, path: str) -> tuple[int, object] | None:
        if path == "/edge_worker/ui/worker":
            row = {"worker_name": "edge-1", "state": self.state, "jobs_active": self.jobs, "queues": ["default"],
                   "maintenance_comments": self.comment}  # fmt: skip
            return 200, {"workers": [row], "total_entries": 1}
        if path == "/edge_worker/ui/worker/edge-1/maintenance":
            if method == "POST":
                self.state, self.comment = "maintenance request", f"[2026] - rotator put node ...\nComment: {COMMENT}"
            else:
                self.state, self.comment = "maintenance exit", ""
            return 200, None
        return None

    def seen(self) -> Member:
        return self.drainer.inspect([member()])[0]


@pytest.fixture
def edge(told: tuple[Told, str], password: Path) -> Edge:
    return Edge(told, password)


def test_an_edge_worker_is_idle_only_in_maintenance(edge: Edge) -> None:
    """Asked for is not yet in it; in it with jobs is busy; the next process comes up in it and is taken out."""
    assert (False, True, 1) == (edge.seen().draining, edge.seen().ready, edge.seen().busy)
    edge.drainer.drain(member())
    asked = {"maintenance request": True, "maintenance pending": True, "offline maintenance": False, "unknown": True}
    for state, draining in asked.items():
        edge.state = state
        assert (draining, False, None) == (edge.seen().draining, edge.seen().ready, edge.seen().busy), state
    edge.state = "maintenance mode"
    assert (True, 1) == (edge.seen().draining, edge.seen().busy)
    edge.jobs = 0
    assert (True, 0) == (edge.seen().draining, edge.seen().busy)
    edge.drainer.undrain(member())
    edge.state = "idle"
    assert (False, True) == (edge.seen().draining, edge.seen().ready)


def test_an_edge_worker_in_a_pod_goes_by_its_host_name(told: tuple[Told, str], password: Path, edge: Edge) -> None:
    """Its name in Airflow is its pod's, whatever the workload's pods are called by then."""
    drainer = EdgeDrainer(api_of(told[1], password), None)
    pods = [replace(member(), name=name, host=name) for name in ("edge-1", "edge-2")]
    assert [(True, ""), (False, "Airflow does not know an Edge worker of its name")] == [
        (each.ready, each.detail) for each in drainer.inspect(pods)
    ]
    drainer.drain(pods[0])
    assert "maintenance request" == edge.state


def test_maintenance_of_a_person_stays_theirs(edge: Edge) -> None:
    """It is named, and not ended."""
    edge.state, edge.comment = "maintenance mode", "[2026] - carol put node ...\nComment: new disk"
    assert "by a person's word" in edge.seen().detail
    edge.state = "maintenance pending"
    assert not edge.seen().draining
    edge.state = "maintenance mode"
    with pytest.raises(Rejected, match="by a person's word"):
        edge.drainer.undrain(member())
    assert "maintenance mode" == edge.state
