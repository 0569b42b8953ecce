"""
What happens to a roll of workers on a bad day: real Celery workers, a real broker, the real daemon.

Rules that must stay true here:

- One fleet and one daemon serve the module. After each test, a failed one too, every worker is brought back to work,
  every task to its end and every roll too (`at_rest`); the configuration is put back by whoever changed it.
- Where a test breaks something is a condition, never a time; what a task did is read from its own line.
- A task during which something must happen, or must not, ends when its test says so, never after a time.
- They need nothing that `make test` lacks but minutes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from rotator.core.event import Event, EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from tests.fixtures_celery import CeleryFleet, Gate
from tests.fixtures_workers import WORKER_LEAF, WorkerInstallation

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(600)]

NAMES = ("worker-1", "worker-2")
JOINER = "worker-3"
PATIENCE = timedelta(seconds=120)
OFTEN = timedelta(milliseconds=5)
AT_WORK = 3
"""Tasks that wait or run at a time: fewer than two workers take at once, so that they come to an end soon."""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """What a test kills and starts again is its module's: the fixtures end it."""


class Scene:
    """The fleet and its daemon."""

    def __init__(self, fleet: CeleryFleet, installation: WorkerInstallation) -> None:
        self.fleet = fleet
        self.installation = installation
        self.gates: list[Gate] = []
        """What tasks of this test wait for."""
        self.given_up: set[str] = set()
        """Tasks that died with their worker, as the test wanted."""

    def left(self) -> frozenset[str]:
        """Return the tasks that are still to come to an end."""
        return self.fleet.ledger.lost() - self.given_up

    @contextmanager
    def busy_one(self) -> Iterator[tuple[str, Gate]]:
        """Let one worker, first in line for the roll, be at work until the gate is opened; give its name."""
        found: list[str] = []

        def begun() -> bool:
            found[:] = [each.name for each in self.fleet.seen() if each.busy]
            return bool(found)

        wait_until(lambda: not begun(), within=PATIENCE, what="the workers to be idle")
        with self.fleet.working() as gate:
            self.gates.append(gate)
            wait_until(begun, within=PATIENCE, what="a worker to take the task")
            self.first_in_line(found[0])
            yield found[0], gate

    def rest(self) -> None:
        """Bring back whatever a test broke, and wait until every task and every roll has come to its end."""
        for each in self.gates:
            each.open()
        self.gates.clear()
        if not self.fleet.valkey.alive:
            self.fleet.valkey.run()
        if self.installation.status() is None:
            self.installation.daemon.kill()
            self.installation.start()
        self.installation.wait_rolled()
        wait_until(lambda: not self.left(), within=PATIENCE, what="every task to end")

    @contextmanager
    def load(self) -> Iterator[None]:
        """Give tasks of one to three seconds all the time, and wait for their end."""
        stop = threading.Event()

        def give() -> None:
            while not stop.wait(0.3):
                if len(self.left()) < AT_WORK:
                    self.fleet.ledger.submit(1, seconds=(1, 3))

        giver = threading.Thread(target=give)
        giver.start()
        try:
            yield
        finally:
            stop.set()
            giver.join()
        wait_until(lambda: not self.left(), within=PATIENCE, what="every task to end")

    def first_in_line(self, name: str) -> None:
        """Let the configuration name *name* first, so that it is rolled first; written by whoever reconfigures."""
        processes = self.workload["processes"]
        processes.sort(key=lambda each: (each["name"] != name, each["name"]))

    @property
    def workload(self) -> dict[str, Any]:
        found: dict[str, Any] = self.installation.document["workloads"][self.installation.workload]
        return found

    @property
    def drain(self) -> dict[str, Any]:
        found: dict[str, Any] = self.workload["drain"]["celery"]
        return found

    def draining(self, name: str) -> bool:
        """Return whether the daemon has seen *name* drain."""
        rows = self.installation.workload_row().get("members", ())
        return any(each["draining"] for each in rows if each["name"] == name)

    def ready(self, name: str, other_than: str) -> bool:
        """Return whether *name* is another process than that one and consumes its queues."""
        return self.installation.identities()[name] not in {"", other_than} and bool(self.installation.queues_of(name))


@pytest.fixture(scope="module")
def scene(openbao: OpenBaoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("workers")
    with CeleryFleet(directory, names=(*NAMES, JOINER)) as fleet:
        members = [each for each in fleet.members if each.name != JOINER]
        with WorkerInstallation(
            tmp_path_factory.mktemp("rotator"),
            openbao,
            members=members,
            processes=fleet.workloads,
            broker=fleet.valkey.url,
            queues=sorted(fleet.queues),
        ) as installation:
            yield Scene(fleet, installation)


@pytest.fixture(autouse=True)
def at_rest(scene: Scene) -> Iterator[None]:
    """Let no test poison the next: whatever came of it, the fleet is at rest afterwards, or the fault is told here."""
    yield
    scene.rest()


@contextmanager
def rolled_meanwhile(scene: Scene) -> Iterator[tuple[dict[str, str], int]]:
    """Rotate, give who the workers were and how long the ledger was; open the gates, and wait for the roll's end."""
    installation = scene.installation
    before, known = installation.identities(), len(installation.events())
    installation.rotate(WORKER_LEAF)
    yield before, known
    for each in scene.gates:
        each.open()
    installation.wait_rolled()
    assert all(before[name] != installation.identities()[name] for name in NAMES)


def members_of(events: list[Event]) -> Counter[str]:
    return Counter(str(each.detail["member"]) for each in events)


def steps_of(scene: Scene, name: str, was: str, known: int) -> dict[str, Callable[[], bool]]:
    """Return the steps of replacing the run *was* of *name*, in order, and how each is seen to be reached."""
    installation = scene.installation

    def gone() -> bool:
        return installation.identities()[name] != was

    def recorded(type_: EventType, result: str) -> bool:
        return name in members_of(installation.told(type_, result, known=known))

    return {
        "takes nothing new": lambda: gone() or not installation.queues_of(name),
        "its drain is recorded": lambda: gone() or recorded(EventType.DRAINED, "started"),
        "it is let go": lambda: recorded(EventType.DRAINED, "ok"),
        "it has ended": gone,
        "the next has started": lambda: installation.identities()[name] not in {"", was},
        "its replacement is recorded": lambda: recorded(EventType.ROLLED, "ok"),
        "the next is at work": lambda: scene.ready(name, was),
    }


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_law_13_the_daemon_is_killed_at_every_step_of_a_roll(scene: Scene, workers: int) -> None:
    """Told, drained, let go, ended, started, recorded, at work: at each, of one worker here and of all in the soak."""
    installation = scene.installation
    scene.first_in_line(NAMES[0])
    installation.reconfigure()
    steps: list[str] = []
    with scene.load(), rolled_meanwhile(scene) as (before, known):
        for name in NAMES[:workers]:
            for what, reached in steps_of(scene, name, before[name], known).items():
                wait_until(reached, within=PATIENCE, what=f"{name}: {what}", every=OFTEN)
                installation.daemon.kill()
                steps.append(f"{name}: {what}")
                installation.start()
    assert 7 * workers == len(steps)
    assert frozenset() == scene.fleet.ledger.repeated()
    once = Counter(NAMES)
    assert once == members_of(installation.told(EventType.DRAINED, "ok", known=known))
    assert once == members_of(installation.told(EventType.ROLLED, "ok", known=known))


def test_a_worker_that_dies_by_itself_is_started_while_another_drains(scene: Scene) -> None:
    """It is back at work before the other has finished, nobody hurries that one, and both are recorded as they were."""
    installation, fleet = scene.installation, scene.fleet
    with scene.busy_one() as (busy, gate):
        other = next(name for name in NAMES if name != busy)
        installation.reconfigure()
        with rolled_meanwhile(scene) as (before, known):
            wait_until(lambda: scene.draining(busy), within=PATIENCE, what=f"{busy} to drain")
            fleet.kill(other)
            wait_until(lambda: scene.ready(other, before[other]), within=PATIENCE, what=f"{other} at work again")
            assert set(gate.tasks) == fleet.ledger.lost() - scene.given_up
            assert before[busy] == installation.identities()[busy]
    assert [1] == [fleet.ledger.finished()[task] for task in gate.tasks]
    assert Counter([other]) == members_of(installation.told(EventType.DRAINED, "not running", known=known))
    let_go = installation.told(EventType.DRAINED, "ok", known=known)
    assert Counter(name for name in NAMES if name != other) == members_of(let_go)


def test_a_worker_that_joins_in_the_middle_of_a_roll(scene: Scene) -> None:
    """It is started on what is published now, works, and is not rolled once more; the roll of the others ends."""
    installation, fleet = scene.installation, scene.fleet
    joiner = next(each for each in fleet.members if each.name == JOINER)
    described = installation.described(joiner)
    try:
        with scene.busy_one() as (busy, _):
            installation.reconfigure()
            with scene.load(), rolled_meanwhile(scene) as (before, known):
                wait_until(lambda: scene.draining(busy), within=PATIENCE, what=f"{busy} to drain")
                scene.workload["processes"].append(described)
                installation.reconfigure()
                wait_until(lambda: scene.ready(JOINER, ""), within=PATIENCE, what="the new worker at work")
                joined = installation.identities()[JOINER]
                assert before[busy] == installation.identities()[busy]
        assert joined == installation.identities()[JOINER]
        assert frozenset() == fleet.ledger.repeated()
        assert Counter(NAMES) == members_of(installation.told(EventType.DRAINED, "ok", known=known))
    finally:
        scene.workload["processes"][:] = [each for each in scene.workload["processes"] if each["name"] != JOINER]
        installation.reconfigure()
        if installation.identities()[JOINER]:
            fleet.kill(JOINER)


@contextmanager
def never_ending(scene: Scene, then: str) -> Iterator[tuple[str, str, int]]:
    """Roll while one worker has a task that does not end, with the operator's choice for the deadline of seconds."""
    installation = scene.installation
    usual = dict(scene.drain)
    with scene.busy_one() as (busy, gate):
        try:
            scene.drain.update({"deadline": "6s", "then": then})
            scene.workload["stop_timeout"] = "2s"
            installation.reconfigure()
            was, known = installation.identities()[busy], len(installation.events())
            installation.rotate(WORKER_LEAF)
            installation.wait_event(EventType.DRAINED, "started", known=known)
            yield busy, was, known
        finally:
            if then == "force":
                scene.given_up |= set(gate.tasks)
            scene.drain.clear()
            scene.drain.update(usual)
            scene.workload["stop_timeout"] = "60s"
            installation.reconfigure()


def test_a_task_that_never_ends_is_waited_for(scene: Scene) -> None:
    """`then: wait`: past the deadline people are told, nobody goes, and the others keep their work."""
    installation = scene.installation
    with never_ending(scene, "wait") as (busy, was, known):
        wait_until(lambda: "roll_held" in installation.alerts(), within=PATIENCE, what="the alert")
        # Between two looks, and while the daemon does not answer, nothing is waited for in so many words.
        waits = f"{busy} to finish their work"
        wait_until(lambda: waits in installation.why(), within=PATIENCE, what=f"the daemon to wait for {waits}")
        assert was == installation.identities()[busy]
        assert [] == installation.told(EventType.ROLLED, "ok", known=known)
        one_each = Counter(dict.fromkeys(installation.queues, 1))
        wait_until(lambda: one_each == installation.consumed(), within=PATIENCE, what="one consumer of each queue")


def test_a_task_that_never_ends_keeps_its_worker_by_the_operators_word(scene: Scene) -> None:
    """`then: skip`: the worker gets its queues back on its old certificate, and the record says whose word that was."""
    installation = scene.installation
    with never_ending(scene, "skip") as (busy, was, known):
        installation.wait_event(EventType.DRAINED, "deferred", known=known)
        wait_until(installation.all_consume, within=PATIENCE, what="all to consume")
        wait_until(lambda: "roll_held" in installation.alerts(), within=PATIENCE, what="the alert")
        assert was == installation.identities()[busy]
        (deferred,) = installation.told(EventType.DRAINED, "deferred", known=known)
        assert (busy, 1, "it still works at the drain deadline") == (
            deferred.detail["member"], deferred.detail["busy"], deferred.reason,
        )  # fmt: skip
        assert "drain.then = skip" in str(deferred.detail["decided_by"])
        assert [] == [each for each in installation.events()[known:] if each.type is EventType.EXCEPTION_OPENED]


def test_a_task_that_never_ends_is_ended_by_the_operators_word(scene: Scene) -> None:
    """`then: force`: that worker is killed, and it alone; the exception in the ledger says whose word that was."""
    installation = scene.installation
    with never_ending(scene, "force") as (busy, was, known):
        wait_until(lambda: scene.ready(busy, was), within=PATIENCE, what="the next worker")
        installation.wait_rolled()
        opened = installation.told(EventType.EXCEPTION_OPENED, "forced", known=known)
        assert "drain.then = force" in str(opened[0].detail["decided_by"])
        assert (busy, was, 1) == tuple(opened[0].detail[each] for each in ("member", "was", "busy"))
        assert not [each for each in opened[1:] if each.detail["busy"] == 1], "the others had nothing to lose"
        assert Counter(NAMES) == members_of(installation.told(EventType.ROLLED, "ok", known=known))


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=pytest.mark.soak)])
def test_law_17_the_broker_is_away_in_the_middle_of_a_roll(scene: Scene, seconds: int) -> None:
    """Nobody is drained or replaced meanwhile, the certificate's own life goes on, and the roll ends afterwards."""
    installation, fleet = scene.installation, scene.fleet
    with scene.busy_one() as (busy, gate):
        installation.reconfigure()
        with rolled_meanwhile(scene) as (before, known):
            wait_until(lambda: scene.draining(busy), within=PATIENCE, what=f"{busy} to drain")
            fleet.valkey.kill()
            wait_until(
                lambda: "the broker did not answer" in installation.why(), within=PATIENCE, what="it to be missed"
            )
            threading.Event().wait(seconds)  # how long it is away is what the test says
            assert before == installation.identities()
            assert [] == installation.told(EventType.ROLLED, "ok", known=known)
            fleet.valkey.run()
    assert [1] == [fleet.ledger.finished()[task] for task in gate.tasks]
    assert Counter(NAMES) == members_of(installation.told(EventType.DRAINED, "ok", known=known))
