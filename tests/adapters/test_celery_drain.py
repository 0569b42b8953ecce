"""
Celery workers drained and rolled for real, and what must never be seen of their tasks.

Rules that must stay true here:

- Each claim that something does not happen has a control beside it in which it does.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import valkey
from celery import Celery

from rotator.adapters.airflow.celery import CeleryDrainer, CeleryNode, queues_of_command
from rotator.adapters.airflow.remote_control import RemoteControl, broker_from_file
from rotator.adapters.processes.seen import held
from rotator.clock import SystemClock
from rotator.core.model import Member, SubjectName
from rotator.embedded.process import LOOPBACK, free_port, wait_until
from rotator.embedded.tasks import WAIT
from rotator.embedded.valkey import ValkeyServer
from rotator.errors import ConfigError, Denied, Rejected, Unavailable
from tests.fixtures_celery import PATIENCE, CeleryFleet, group_of

SECRET = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0YXNrIn0.c2lnbmF0dXJl"  # noqa: S105 -- as Airflow's workload token looks
PASSWORD = "p4ss-w0rd"  # noqa: S105 -- made up

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryFleet]:
    """Two workers for tests that leave them as they were."""
    with CeleryFleet(tmp_path_factory.mktemp("celery")) as fleet:
        fleet.start()
        yield fleet


def roll(fleet: CeleryFleet, name: str) -> None:
    """Roll one worker as the engine does: drained, idle twice, replaced, ready."""
    fleet.drainer.drain(fleet.one(name))
    idle = 0
    while idle < 2:
        wait_until(lambda: fleet.one(name).busy == 0 and fleet.one(name).draining, within=PATIENCE, what="idle")
        seen = fleet.one(name)
        idle = idle + 1 if seen.draining and seen.busy == 0 else 0
    fleet.workloads.replace(name, forced=False)
    wait_until(lambda: fleet.one(name).ready, within=PATIENCE, what=f"{name} ready")


def test_law_17_a_roll_loses_no_task(tmp_path: Path) -> None:
    """Both workers are replaced under load, and every task is finished exactly once."""
    with CeleryFleet(tmp_path) as fleet:
        fleet.start()
        before = {member.name: member.identity for member in fleet.seen()}
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                fleet.ledger.submit(1, seconds=(1, 3))
                stop.wait(1)

        fleet.ledger.submit(8, seconds=(1, 3))
        giver = threading.Thread(target=load)
        giver.start()
        try:
            wait_until(lambda: all((m.busy or 0) > 0 for m in fleet.seen()), within=PATIENCE, what="busy workers")
            for name in before:
                roll(fleet, name)
        finally:
            stop.set()
            giver.join()
        wait_until(lambda: not fleet.ledger.lost(), within=PATIENCE, what="every task")
        after = {member.name: member.identity for member in fleet.seen()}
        assert frozenset() == fleet.ledger.lost()
        assert frozenset() == fleet.ledger.repeated()
        assert {True} == {line["ok"] for line in fleet.ledger.lines()}
        assert all(before[name] != after[name] for name in before)
        assert {"celery@worker-1", "celery@worker-2"} == {line["worker"] for line in fleet.ledger.lines()}


def test_control_term_to_the_group_loses_tasks(tmp_path: Path) -> None:
    """Without drain, and with TERM to the group, tasks are lost: the roll above could have shown a loss."""
    with CeleryFleet(tmp_path, names=("worker-1",)) as fleet:
        fleet.start()
        with fleet.working(2):
            wait_until(lambda: fleet.one("worker-1").busy == 2, within=PATIENCE, what="two running tasks")
            main = fleet.main("worker-1")
            with held(main) as handle:
                assert handle is not None
                os.killpg(group_of(main), signal.SIGTERM)
                assert handle.ended(PATIENCE)
        assert frozenset(fleet.ledger.submitted) == fleet.ledger.lost()


def test_nothing_of_a_tasks_arguments_is_seen(fleet: CeleryFleet, caplog: pytest.LogCaptureFixture) -> None:
    """Arguments carry tokens: they are in no answer, member, log line; yet the worker did send them."""
    caplog.set_level("DEBUG")
    with fleet.working(2, note=SECRET):
        wait_until(lambda: sum(m.busy or 0 for m in fleet.seen()) == 2, within=PATIENCE, what="two running tasks")
        answers = fleet.control.look(["celery@worker-1", "celery@worker-2"])
        app = Celery(broker=fleet.valkey.url, set_as_current=False)
        with closing(app):
            told = app.control.inspect(timeout=PATIENCE.seconds, destination=list(answers)).active()
        assert SECRET in repr(told)
        assert SECRET not in repr(answers)
        assert SECRET not in repr(fleet.seen())
    assert SECRET not in caplog.text
    wait_until(lambda: sum(m.busy or 0 for m in fleet.seen()) == 0, within=PATIENCE, what="idle workers")


def test_law_17_a_task_that_waits_for_its_time_is_work(tmp_path: Path) -> None:
    """A task with a countdown keeps its worker busy; should the worker end all the same, it goes back to its queue."""
    with CeleryFleet(tmp_path, names=("worker-1",)) as fleet:
        fleet.start()
        app = Celery(broker=fleet.valkey.url, set_as_current=False)
        with closing(app):
            app.send_task(WAIT, args=[1.0], queue="default", countdown=600)
        wait_until(lambda: fleet.one("worker-1").busy == 1, within=PATIENCE, what="the task to wait in the worker")
        fleet.drainer.drain(fleet.one("worker-1"))
        wait_until(lambda: fleet.one("worker-1").draining, within=PATIENCE, what="worker-1 drained")
        assert 1 == fleet.one("worker-1").busy
        with closing(valkey.Valkey(port=fleet.valkey.port)) as broker:
            assert 0 == broker.llen("default")
            with held(fleet.main("worker-1")) as main:
                assert main is not None
                main.send(signal.SIGTERM)
                assert main.ended(PATIENCE)
            assert 1 == broker.llen("default")


def test_an_answer_is_not_waited_for_longer_than_it_takes(fleet: CeleryFleet) -> None:
    """Looking ends with the last answer, not with the timeout: that would outlast any test."""
    control = RemoteControl(lambda: fleet.valkey.url, clock=SystemClock(), timeout=timedelta(hours=1))
    assert 2 == len(control.look(["celery@worker-1", "celery@worker-2"]))


def held_by(broker: valkey.Valkey) -> dict[str, int]:
    """Return every key of *broker*, with the number of members of sets."""
    keys = broker.keys()
    assert isinstance(keys, list)
    return {str(key): int(str(broker.scard(key))) if broker.type(key) == b"set" else 0 for key in keys}


def clients_of(broker: valkey.Valkey) -> int:
    """Return how many connections *broker* has."""
    clients = broker.client_list()
    assert isinstance(clients, list)
    return len(clients)


def test_asking_leaves_nothing_in_the_broker(fleet: CeleryFleet) -> None:
    """Neither keys, bindings nor connections grow with the number of questions."""
    with closing(valkey.Valkey(port=fleet.valkey.port)) as broker:
        fleet.seen()
        before, clients = held_by(broker), clients_of(broker)
        for _ in range(5):
            fleet.seen()
        fleet.control.look(["celery@nobody"])
        assert before == held_by(broker)
        wait_until(lambda: clients_of(broker) <= clients, within=PATIENCE, what="our connections to be closed")


def test_asking_puts_no_running_task_back_on_its_queue(tmp_path: Path) -> None:
    """A task that has run for two hours stays where it is; the library's own client would hand it out again."""
    server = ValkeyServer(tmp_path)
    server.run()
    with server, closing(valkey.Valkey(port=server.port)) as broker:
        message = '[{"body": "", "headers": {}, "properties": {"delivery_info": {}}}, "", "default"]'
        broker.hset("unacked", "tag", message)
        broker.zadd("unacked_index", {"tag": time.time() - 2 * 3600})
        control = RemoteControl(lambda: server.url, clock=SystemClock(), timeout=timedelta(seconds=1))
        assert {} == control.look(["celery@nobody"])
        assert 1 == broker.hlen("unacked")
        app = Celery(broker=server.url, set_as_current=False)
        with closing(app):
            app.control.inspect(timeout=1, destination=["celery@nobody"]).active()
        assert 0 == broker.hlen("unacked")


def test_a_broker_that_restarts_leaves_workers_drained(tmp_path: Path) -> None:
    """While the broker is away nothing is known; afterwards a drained worker is still drained."""
    with CeleryFleet(tmp_path, names=("worker-1",)) as fleet:
        fleet.start()
        fleet.drainer.drain(fleet.one("worker-1"))
        wait_until(lambda: fleet.one("worker-1").draining, within=PATIENCE, what="worker-1 drained")
        fleet.valkey.stop()
        with pytest.raises(Unavailable, match="the broker did not answer while workers were asked what they do"):
            fleet.seen()
        fleet.valkey.run()
        wait_until(lambda: fleet.one("worker-1").busy == 0, within=PATIENCE, what="worker-1 to answer again")
        assert fleet.one("worker-1").draining
        fleet.drainer.undrain(fleet.one("worker-1"))
        wait_until(lambda: fleet.one("worker-1").ready, within=PATIENCE, what="worker-1 ready")


def test_law_17_remote_control_off_is_told_and_never_idle(tmp_path: Path) -> None:
    """A worker that cannot be asked is not taken for idle, and the operator reads why."""
    with CeleryFleet(tmp_path, names=("worker-1",), remote_control=False, answer_within=timedelta(seconds=1)) as fleet:
        fleet.workloads.replace("worker-1", forced=False)
        fleet.ledger.submit(1, seconds=(0, 0))
        wait_until(lambda: bool(fleet.ledger.finished()), within=PATIENCE, what="the worker to work")
        seen = fleet.one("worker-1")
        assert (True, None, False) == (seen.running, seen.busy, seen.ready)
        assert "remote control is off (worker_enable_remote_control" in seen.detail
        with pytest.raises(Unavailable, match="cannot be drained"):
            fleet.drainer.drain(seen)


def test_a_wrapped_worker_is_told(tmp_path: Path) -> None:
    """If the member's process is not the worker itself, TERM would not reach it: never ready, and the mend is named."""
    with CeleryFleet(tmp_path, names=("worker-1",), wrapped=True) as fleet:
        fleet.workloads.replace("worker-1", forced=False)
        wait_until(lambda: "use exec" in fleet.one("worker-1").detail, within=PATIENCE, what="the mend")
        seen = fleet.one("worker-1")
        assert (None, False) == (seen.busy, seen.ready)


def test_law_16_the_old_process_is_not_taken_for_the_new_one(fleet: CeleryFleet) -> None:
    """An answer under the right name from another process proves nothing."""
    member = next(m for m in fleet.workloads.members() if m.name == "worker-1")
    (seen,) = fleet.drainer.inspect([replace(member, identity=f"{os.getpid()}@1")])
    assert (None, False) == (seen.busy, seen.ready)
    assert f"but this member is process {os.getpid()}" in seen.detail


def test_queues_are_known_by_looking_if_nobody_named_them(fleet: CeleryFleet) -> None:
    """Unconfigured queues are those seen consumed; a drainer that never saw them refuses to guess."""
    nodes = {name: CeleryNode(node=f"celery@{name}") for name in ("worker-1", "worker-2")}
    seeing, fresh = CeleryDrainer(fleet.control, nodes), CeleryDrainer(fleet.control, nodes)
    member = next(m for m in fleet.workloads.members() if m.name == "worker-1")
    (before,) = seeing.inspect([member])
    assert (True, frozenset({"default"})) == (before.ready, before.queues)
    seeing.drain(member)
    try:
        wait_until(lambda: seeing.inspect([member])[0].draining, within=PATIENCE, what="worker-1 drained")
        assert frozenset({"default"}) == seeing.inspect([member])[0].queues
        with pytest.raises(Rejected, match="nobody knows which queues celery@worker-1 had"):
            fresh.undrain(member)
    finally:
        seeing.undrain(member)
    wait_until(lambda: seeing.inspect([member])[0].ready, within=PATIENCE, what="worker-1 ready")


def test_a_queue_that_is_missing_is_named(fleet: CeleryFleet) -> None:
    """Consuming some of its queues is not ready."""
    drainer = CeleryDrainer(
        fleet.control, {"worker-1": CeleryNode(node="celery@worker-1", queues=frozenset({"default", "heavy"}))}
    )
    member = next(m for m in fleet.workloads.members() if m.name == "worker-1")
    (seen,) = drainer.inspect([member])
    assert (False, False, "it does not consume heavy") == (seen.ready, seen.draining, seen.detail)


# --- the broker ---------------------------------------------------------------------------------------------------


def member_of(name: str = "worker-1") -> Member:
    return Member(workload=SubjectName("workers"), name=name, running=True, ready=True, started_at=None, identity="1@1")


def drainer_of(url: str) -> CeleryDrainer:
    control = RemoteControl(lambda: url, clock=SystemClock(), timeout=timedelta(seconds=1))
    return CeleryDrainer(control, {"worker-1": CeleryNode(node="celery@worker-1", queues=frozenset({"default"}))})


def told(error: BaseException) -> str:
    """Return everything that a log with tracebacks would show of *error*, causes included."""
    return "".join(traceback.format_exception(error))


def test_a_password_is_in_no_error(tmp_path: Path) -> None:
    """Refused, unreachable or unreadable: neither the error nor its causes show the broker's password."""
    server = ValkeyServer(tmp_path, password="another")  # noqa: S106 -- made up
    server.run()
    with server:
        with pytest.raises(Denied, match="the broker refused this user") as refused:
            drainer_of(f"redis://:{PASSWORD}@{LOOPBACK}:{server.port}/0").inspect([member_of()])
        with pytest.raises(Unavailable) as unreachable:
            drainer_of(f"redis://:{PASSWORD}@{LOOPBACK}:{free_port()}/0").inspect([member_of()])
        with pytest.raises(ConfigError) as unreadable:
            drainer_of(f"redis://:{LOOPBACK}:{PASSWORD}").inspect([member_of()])
    for caught in (refused, unreachable, unreadable):
        assert PASSWORD not in told(caught.value)


def test_a_broker_that_accepts_and_says_nothing_is_unavailable() -> None:
    """A hanging broker costs the timeout, not the thread: without it this would never end."""
    with socket.create_server((LOOPBACK, 0)) as server, pytest.raises(Unavailable):
        drainer_of(f"redis://{LOOPBACK}:{server.getsockname()[1]}/0").inspect([member_of()])


def test_a_broker_file_is_read_at_each_call(tmp_path: Path) -> None:
    """A rotated broker password is used at once; what is missing or odd is named without being shown."""
    file = tmp_path / "broker"
    broker = broker_from_file(file)
    with pytest.raises(ConfigError, match="does not exist"):
        broker()
    file.write_text("redis://:one@broker:6379/0\n")
    assert "redis://:one@broker:6379/0" == broker()
    file.write_text("redis://:two@broker:6379/0\n")
    assert "redis://:two@broker:6379/0" == broker()
    for content in ("", PASSWORD, f"http://{PASSWORD}@broker", f"redis://:{PASSWORD}@broker:port/0"):
        file.write_text(content)
        with pytest.raises(ConfigError) as caught:
            broker()
        assert PASSWORD not in told(caught.value)


@pytest.mark.parametrize(
    ("command", "queues"),
    [
        ("celery -A app worker -Q one,two -c 2", {"one", "two"}),
        ("celery -A app worker -Qone", {"one"}),
        ("celery -A app worker --queues=one,two", {"one", "two"}),
        ("celery -A app worker --queues one", {"one"}),
        ("celery -q -A app worker", set()),
        ("/opt/airflow/bin/airflow celery worker -q one,two", {"one", "two"}),
        ("/usr/bin/python -m airflow celery worker --queues one", {"one"}),
        ("airflow celery worker", set()),
        ("celery worker -Q", set()),
    ],
)
def test_queues_stand_in_the_command_line(command: str, queues: set[str]) -> None:
    """Celery's and Airflow's own spelling are read; without the option nothing is assumed."""
    assert queues == queues_of_command(command.split())
