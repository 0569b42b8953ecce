"""
A real Airflow under load while rotator rolls its workers: no task is killed, none is repeated, no queue stands alone.

Rules that must stay true here:

- What tasks did is read from their own marks: Airflow calls a killed task successful at times.
- Two workers and short tasks here; three workers, tasks of two minutes and ten rolls in the soak.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.airflow.api import AirflowAPI, Endpoint
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.clock import SystemClock
from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.embedded.valkey import ValkeyServer
from tests.fixtures_airflow import CERTIFICATE, Account, AirflowInstallation, Load, Watch, running_airflow
from tests.stack.airflow.deployment import PATIENCE, QUEUES, Airflow

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1800)]

LONGEST = 20.0
"""Seconds that the longest task takes."""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """What a test kills and starts again is its module's: the fixtures end it."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Airflow, ValkeyServer]]:
    with running_airflow(tmp_path_factory.mktemp("airflow")) as parts:
        yield parts


@pytest.fixture(scope="module")
def installation(
    parts: tuple[Airflow, ValkeyServer], openbao: OpenBaoServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowInstallation]:
    with AirflowInstallation(tmp_path_factory.mktemp("rotator"), openbao, *parts) as installation:
        yield installation


def tasks_of(airflow: Airflow, directory: Path, user: str) -> AirflowTasks:
    (directory / "password").write_text(airflow.passwords[user])
    endpoint = Endpoint(url=airflow.url, username=user, password_file=directory / "password")
    return AirflowTasks(AirflowAPI(endpoint, clock=SystemClock(), page=2))


def test_airflow_tells_what_runs_and_who_asked_for_it(installation: AirflowInstallation, tmp_path: Path) -> None:
    """While a task runs it is on the list with its host; afterwards it is in the history, with the person."""
    airflow = installation.airflow
    tasks = tasks_of(airflow, tmp_path, "carol")
    since = datetime.now(UTC)
    run = airflow.give("python_load", 15, user="bob")
    mark = airflow.wait_for("python_load", run, "begun")
    (found,) = [each for each in tasks.running() if each.run == run]
    assert (mark["host"], "default", "running") == (found.host, found.queue, found.state)
    airflow.wait_finished()
    assert [] == [each for each in tasks.running() if each.run == run]
    (ended,) = [each for each in tasks.ended(since, datetime.now(UTC)) if each.run == run]
    assert found.key == ended.key
    told = tasks.runs([("python_load", run)])["python_load", run]
    assert ("bob", "rest_api", "manual") == (told.triggering_user, told.triggered_by, told.run_type)


def test_law_17_a_roll_under_load_kills_no_task(installation: AirflowInstallation) -> None:
    """Every task succeeds at its first try, `on_kill` never runs, each queue keeps a consumer, both workers are new."""
    airflow = installation.airflow
    before = installation.identities()
    known = len(installation.events())
    with Load(airflow, longest=LONGEST) as load, Watch(installation) as watch:
        airflow.wait_for(*load.first(), "begun")
        began = datetime.now(UTC)
        installation.rotate(CERTIFICATE)
        installation.wait_rolled()
        took = datetime.now(UTC) - began
    airflow.wait_finished()
    after = installation.identities()
    account = Account(airflow, load.given)
    assert ([], [], []) == (account.on_kill, account.cut_off, account.not_first_try)
    assert account.given == account.succeeded
    assert all(before[name] != after[name] for name in before)
    assert watch.looks > 10
    assert Counter(dict.fromkeys(QUEUES, 1)) == watch.fewest, "one of two is drained at a time"
    assert set(before) == account.hosts
    drained = [
        each.detail for each in installation.events()[known:] if each.type is EventType.DRAINED and each.result == "ok"
    ]
    assert sorted(before) == sorted(str(each["member"]) for each in drained)
    assert all(each["drain_seen_from_its_start"] and 0 == each["busy"] for each in drained)
    given = {f"{dag}/{run}/work#1" for dag, run in load.given}
    seen = {name for each in drained for name in str(each.get("tasks", "")).split("; ") if name}
    assert seen
    assert seen <= given
    ideal = sum(float(str(each["drained_seconds"])) for each in drained)
    print(f"{account.given} tasks; {took.total_seconds():.0f} s for two workers, {ideal:.0f} s of them draining")  # noqa: T201 -- for README


def test_control_a_plain_restart_kills_tasks(installation: AirflowInstallation) -> None:
    """The same load, TERM and five seconds of grace, as a plain rollout restart of pods does it: tasks are cut off."""
    airflow = installation.airflow
    with Load(airflow, longest=LONGEST) as load:
        for member in airflow.members:
            airflow.wait_for(*load.later(5), "begun")
            airflow.restart_harshly(member.name, grace=timedelta(seconds=5))
            installation.wait_consuming()
    cut = installation.left_behind()
    for dag, run in cut:
        airflow.give_up(dag, run)
    airflow.wait_finished()
    account = Account(airflow, load.given)
    assert account.cut_off
    assert set(account.cut_off) <= set(cut), "some were killed before they had left their first line"
    assert account.given == account.succeeded + len(cut)
    print(f"a plain restart of two workers: {len(cut)} of {account.given} tasks cut off")  # noqa: T201 -- for README


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_law_13_the_daemon_is_killed_at_steps_of_a_roll(installation: AirflowInstallation, every: int) -> None:
    """Killed after every so many records of a roll, it comes back and completes; no worker is left without queues."""
    airflow = installation.airflow
    before = installation.identities()
    with Load(airflow, longest=8) as load:
        airflow.wait_for(*load.first(), "begun")
        known = len(installation.events())
        installation.rotate(CERTIFICATE)
        steps = 0
        while not installation.done_since(known):
            installation.wait_records(every, known=known)
            installation.daemon.kill()
            steps += 1
            installation.start()
        installation.wait_rolled()
    airflow.wait_finished()
    after = installation.identities()
    account = Account(airflow, load.given)
    assert ([], [], []) == (account.on_kill, account.cut_off, account.not_first_try)
    assert account.given == account.succeeded
    assert all(before[name] != after[name] for name in before)
    assert steps * every >= 6
    print(f"killed {steps} times in one roll; {account.given} tasks")  # noqa: T201 -- for README


def test_law_17_whoever_cannot_see_waits(installation: AirflowInstallation) -> None:
    """Airflow's API away for 15 s, then the broker: nothing is replaced, no task is lost, and the roll ends."""
    airflow = installation.airflow
    before = installation.identities()
    run = airflow.give("bash_load", 45)
    host = airflow.wait_for("bash_load", run, "begun")["host"]
    known = len(installation.events())
    installation.rotate(CERTIFICATE)
    installation.wait_event("drained", "started", known=known)
    airflow.api_server.kill()
    away = [installation.identities()]
    threading.Event().wait(15)  # Airflow's workers live about 35 s without it: a length, not a condition
    away.append(installation.identities())
    airflow.start_api_server()
    assert before == away[0] == away[1]
    installation.valkey.kill()
    threading.Event().wait(10)
    assert before[host] == installation.identities()[host]
    installation.valkey.run()
    installation.wait_rolled()
    airflow.wait_finished()
    account = Account(airflow, [("bash_load", run)])
    assert ([], [], [], 1) == (account.on_kill, account.cut_off, account.not_first_try, account.succeeded)
    after = installation.identities()
    assert all(before[name] != after[name] for name in before)


def test_who_ran_is_what_was_really_run(installation: AirflowInstallation) -> None:
    """By the tasks' own marks: each on its worker, under the certificate that it had loaded, across a rotation."""
    airflow = installation.airflow
    serials, identities = [installation.serial()], [installation.identities()]
    runs: list[list[str]] = []
    for last in (False, True):
        runs.append([airflow.give("python_load", 1, user="bob") for _ in range(3)])
        for run in runs[-1]:
            airflow.wait_for("python_load", run, "ended")
        airflow.wait_finished()
        if not last:
            installation.rotate(CERTIFICATE)
            installation.wait_rolled()
            serials.append(installation.serial())
            identities.append(installation.identities())

    def told() -> dict[str, Any]:
        done = installation.run("--json", "evidence", "who-ran", "--reveal")
        assert done.returncode == 0, done.stderr
        return {each["run"]: each for each in json.loads(done.stdout)["attempts"] if each["dag"] == "python_load"}

    wanted = {run for some in runs for run in some}
    wait_until(lambda: wanted <= set(told()), within=PATIENCE, what="the batch", every=timedelta(seconds=2))
    found = told()
    hosts = {mark["run"]: mark["host"] for mark in airflow.marked() if mark["dag"] == "python_load"}
    for some, serial, processes in zip(runs, serials, identities, strict=True):
        for run in some:
            each = found[run]
            assert (hosts[run], processes[hosts[run]]) == (each["worker"], each["worker_run"])
            assert [{"name": CERTIFICATE, "serial": serial}] == each["certificates"]
            assert ("bob", "rest_api", "success", 1) == (
                each["person_name"], each["triggered_by"], each["state"], each["try"],
            )  # fmt: skip
    assert b"bob" not in b"".join(installation.raw_ledger())


# --- soak -------------------------------------------------------------------------------------------------------------


ROLLS = 10
RESTARTS = 3
"""Plain ones of all three workers, beside the rolls: each takes tasks with it, so few are enough to see how many."""
GRACE = timedelta(seconds=30)
"""What Kubernetes gives a pod that asks for nothing else."""


@pytest.fixture(scope="module")
def three(openbao: OpenBaoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowInstallation]:
    """Give three workers and the rotator that looks after them."""
    with (
        running_airflow(tmp_path_factory.mktemp("airflow"), workers=3) as parts,
        AirflowInstallation(
            tmp_path_factory.mktemp("rotator"), openbao, *parts, drain={"deadline": "25m"}
        ) as installation,
    ):
        yield installation


def long_load(airflow: Airflow) -> Load:
    """Keep about half of what three workers can do at a time busy: what they leave undone would grow old otherwise."""
    return Load(airflow, longest=120, every=8)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_soak_ten_rolls_of_three_workers(three: AirflowInstallation) -> None:
    """Tasks of up to two minutes arrive all the time; in ten rolls none is killed, none repeated."""
    airflow, taken = three.airflow, []
    with long_load(airflow) as load, Watch(three) as watch:
        airflow.wait_for(*load.first(), "begun")
        for number in range(1, ROLLS + 1):
            before, began = three.identities(), datetime.now(UTC)
            three.rotate(CERTIFICATE)
            three.wait_rolled(within=timedelta(minutes=40))
            taken.append((datetime.now(UTC) - began).total_seconds())
            after = three.identities()
            assert all(before[name] != after[name] for name in before)
            account = Account(airflow, list(load.given))
            assert ([], []) == (account.on_kill, account.not_first_try)
            print(f"roll {number}: {taken[-1]:.0f} s, {account.given} tasks so far", flush=True)  # noqa: T201 -- the soak prints
    airflow.wait_finished()
    account = Account(airflow, load.given)
    assert ([], [], []) == (account.on_kill, account.cut_off, account.not_first_try)
    assert account.given == account.succeeded
    assert min(watch.fewest.values()) >= 1
    shown = ", ".join(f"{each:.0f}" for each in taken)
    print(  # noqa: T201 -- the soak prints
        f"{account.given} tasks of up to 120 s in {ROLLS} rolls of three workers: all succeeded at their first try; "
        f"fewest consumers of a queue {min(watch.fewest.values())} in {watch.looks} looks; seconds {shown}"
    )


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_soak_the_same_load_under_plain_restarts(three: AirflowInstallation) -> None:
    """TERM and the grace period that pods have by default, one worker after the other: tasks are lost each time."""
    airflow, taken = three.airflow, []
    with long_load(airflow) as load:
        airflow.wait_for(*load.later(6), "begun")
        for _ in range(RESTARTS):
            began = datetime.now(UTC)
            for member in airflow.members:
                airflow.restart_harshly(member.name, grace=GRACE)
                three.wait_consuming()
            taken.append((datetime.now(UTC) - began).total_seconds())
    left = three.left_behind()
    for dag, run in left:
        airflow.give_up(dag, run)
    airflow.wait_finished()
    account = Account(airflow, load.given)
    lost = account.given - account.succeeded
    shown = ", ".join(f"{each:.0f}" for each in taken)
    print(  # noqa: T201 -- the soak prints
        f"{RESTARTS} plain restarts of three workers with {GRACE.seconds} s of grace: {lost} of {account.given} tasks "
        f"did not succeed, {len(account.cut_off)} seen cut off, {len(left)} still running for Airflow; seconds {shown}"
    )
    assert account.cut_off
    assert lost


@pytest.fixture
def alone(installation: AirflowInstallation) -> Iterator[tuple[Airflow, ValkeyServer]]:
    """Give the Airflow without the rotator that all other tests share: two would undo each other's drains."""
    installation.daemon.stop()
    yield installation.airflow, installation.valkey
    installation.start()
    installation.wait_rolled()


@pytest.mark.soak
@pytest.mark.parametrize("then", ["wait", "skip", "force"])
def test_soak_a_task_that_does_not_end(
    alone: tuple[Airflow, ValkeyServer], openbao: OpenBaoServer, tmp_path: Path, then: str
) -> None:
    """At the drain deadline the written choice decides: it goes on waiting, gives the work back, or kills."""
    airflow = alone[0]
    drain = {"deadline": "20s", "then": then}
    with AirflowInstallation(tmp_path, openbao, *alone, drain=drain, workload={"stop_timeout": "3s"}) as installation:
        before = installation.identities()
        run = airflow.give("python_load", 90)
        host = airflow.wait_for("python_load", run, "begun")["host"]
        known = len(installation.events())
        installation.rotate(CERTIFICATE)
        if then == "force":
            wait_until(lambda: installation.identities()[host] != before[host], within=PATIENCE, what="the kill")
            opened = [each for each in installation.events()[known:] if each.type is EventType.EXCEPTION_OPENED]
            assert ["forced"] == [each.result for each in opened]
            assert "force" in str(opened[0].detail["decided_by"])
            airflow.give_up("python_load", run)
            airflow.wait_finished()
            return
        if then == "skip":
            installation.wait_event("drained", "deferred", known=known)
            assert before[host] == installation.identities()[host]
        airflow.wait_for("python_load", run, "ended")
        airflow.wait_finished()
        account = Account(airflow, [("python_load", run)])
        assert ([], [], 1) == (account.on_kill, account.cut_off, account.succeeded)
        if then == "wait":
            installation.wait_rolled()
            assert before[host] != installation.identities()[host]
