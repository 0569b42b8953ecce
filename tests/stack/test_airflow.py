"""
A real Airflow under load while rotator rolls its workers: no task is killed, none is repeated, no queue stands alone.

Rules that must stay true here:

- What tasks did is read from their own marks: Airflow calls a killed task successful at times.
- Three workers and short tasks here; tasks of two minutes and ten rolls in the soak.
"""

from __future__ import annotations

import json
import math
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
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

WORKERS = 3
LONGEST = 12.0
"""Seconds that the longest task takes."""
OFTEN = 1.5
"""Seconds from one task to the next: two of three workers can do them all."""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """What a test kills and starts again is its module's: the fixtures end it."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Airflow, ValkeyServer]]:
    with running_airflow(tmp_path_factory.mktemp("airflow"), workers=WORKERS) as parts:
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
    with airflow.gate() as gate:
        run = airflow.give("python_load", 0, user="bob", until=gate)
        mark = airflow.wait_for("python_load", run, "begun")
        (found,) = [each for each in tasks.running() if each.run == run]
        assert (mark["host"], "default", "running") == (found.host, found.queue, found.state)
    airflow.wait_finished()
    assert [] == [each for each in tasks.running() if each.run == run]
    (ended,) = [each for each in tasks.ended(since, datetime.now(UTC)) if each.run == run]
    assert found.key == ended.key
    told = tasks.runs([("python_load", run)])["python_load", run]
    assert ("bob", "rest_api", "manual") == (told.triggering_user, told.triggered_by, told.run_type)


def test_law_17_two_rolls_under_load_kill_no_task(installation: AirflowInstallation) -> None:
    """Every task succeeds at its first try, `on_kill` never runs, each queue keeps two consumers, all are new twice."""
    airflow = installation.airflow
    taken, drains = [], []
    with Load(airflow, longest=LONGEST, every=OFTEN) as load, Watch(installation) as watch:
        airflow.wait_for(*load.first(), "begun")
        for _ in range(2):
            before, known, began = installation.identities(), len(installation.events()), datetime.now(UTC)
            installation.rotate(CERTIFICATE)
            installation.wait_rolled()
            taken.append((datetime.now(UTC) - began).total_seconds())
            after = installation.identities()
            assert all(before[name] != after[name] for name in before)
            drained = [each.detail for each in installation.told(EventType.DRAINED, "ok", known=known)]
            assert sorted(before) == sorted(str(each["member"]) for each in drained)
            assert all(each["drain_seen_from_its_start"] and 0 == each["busy"] for each in drained)
            drains += drained
    airflow.wait_finished()
    account = Account(airflow, load.given)
    assert ([], [], []) == (account.on_kill, account.cut_off, account.not_first_try)
    assert account.given == account.succeeded
    assert watch.looks > 10
    assert Counter(dict.fromkeys(QUEUES, WORKERS - 1)) == watch.fewest, "one of three is drained at a time"
    assert set(installation.identities()) == account.hosts
    given = {f"{dag}/{run}/work#1" for dag, run in load.given}
    seen = {name for each in drains for name in str(each.get("tasks", "")).split("; ") if name}
    assert seen
    assert seen <= given
    draining = sum(float(str(each["drained_seconds"])) for each in drains)
    shown = ", ".join(f"{each:.0f}" for each in taken)
    print(f"{account.given} tasks in two rolls of three workers: {shown} s, {draining:.0f} s of them draining")  # noqa: T201 -- for README


def test_control_a_plain_restart_kills_tasks(installation: AirflowInstallation) -> None:
    """The same load, TERM and five seconds of grace, as a plain rollout restart of pods does it: tasks are cut off."""
    airflow = installation.airflow
    with airflow.gate() as gate, Load(airflow, longest=LONGEST, every=OFTEN) as load:
        # Of the load there may be nothing that lasts for so long just then; of this one it is certain.
        held = ("python_load", airflow.give("python_load", 0, until=gate))
        airflow.wait_for(*held, "begun")
        for member in airflow.members:
            airflow.wait_for(*load.later(5), "begun")
            airflow.restart_harshly(member.name, grace=timedelta(seconds=5))
            installation.wait_consuming()
    for dag, run in installation.left_behind():
        airflow.give_up(dag, run)
    airflow.wait_finished()
    account = Account(airflow, [*load.given, held])
    lost = account.given - account.succeeded
    assert held in account.cut_off
    assert len(account.cut_off) <= lost, "some were killed before they had left their first line"
    print(f"a plain restart of three workers: {lost - 1} of {len(load.given)} tasks cut off")  # noqa: T201 -- for README


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_law_13_the_daemon_is_killed_at_steps_of_a_roll(installation: AirflowInstallation, every: int) -> None:
    """Killed after every so many records of a roll, it comes back and completes; no worker is left without queues."""
    airflow = installation.airflow
    before = installation.identities()
    with Load(airflow, longest=8, every=OFTEN) as load:
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


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.soak)])
def test_law_17_whoever_cannot_see_waits(installation: AirflowInstallation, seconds: int) -> None:
    """Airflow's API away for 20 s, then the broker: nothing is replaced, no task is lost, and the roll ends."""
    airflow = installation.airflow
    before = installation.identities()
    with airflow.gate() as gate:
        run = airflow.give("bash_load", 0, until=gate)
        host = airflow.wait_for("bash_load", run, "begun")["host"]
        known = len(installation.events())
        installation.rotate(CERTIFICATE)
        installation.wait_event("drained", "started", known=known)
        try:
            airflow.api_server.kill()
            away = [installation.identities()]
            threading.Event().wait(20)  # Airflow's workers live about 35 s without it: a length, not a condition
            away.append(installation.identities())
        finally:
            airflow.start_api_server()
        assert before == away[0] == away[1]
        try:
            installation.valkey.kill()
            threading.Event().wait(seconds)
            assert before[host] == installation.identities()[host]
        finally:
            installation.valkey.run()
    installation.wait_rolled()
    airflow.wait_finished()
    account = Account(airflow, [("bash_load", run)])
    assert ([], [], [], 1) == (account.on_kill, account.cut_off, account.not_first_try, account.succeeded)
    after = installation.identities()
    assert all(before[name] != after[name] for name in before)


def test_who_ran_is_what_was_really_run(installation: AirflowInstallation) -> None:
    """By the tasks' own marks: each on its worker and under the certificate that it had loaded; host names repeat."""
    airflow = installation.airflow
    runs: list[str] = []
    serials, identities = {}, {}

    def run_some() -> None:
        for run in [airflow.give("python_load", 1, user="bob") for _ in range(WORKERS)]:
            airflow.wait_for("python_load", run, "ended")
            runs.append(run)
            serials[run], identities[run] = installation.serial(), installation.identities()
        airflow.wait_finished()

    run_some()
    installation.rotate(CERTIFICATE)
    installation.wait_rolled()
    run_some()
    # The same name once more, and the same certificate: only the process is another.
    known = installation.identities()
    airflow.kill(airflow.members[0].name)
    wait_until(lambda: known != installation.identities(), within=PATIENCE, what="another worker")
    installation.wait_rolled()
    run_some()
    assert 3 == len({each[airflow.members[0].name] for each in identities.values()})
    assert 2 == len(set(serials.values()))

    def told(*words: str) -> dict[str, Any]:
        done = installation.run("--json", "evidence", "who-ran", "--reveal", *words)
        assert done.returncode == 0, done.stderr
        return {each["run"]: each for each in json.loads(done.stdout)["attempts"] if each["dag"] == "python_load"}

    wait_until(lambda: installation.copied(runs), within=PATIENCE, what="the batch", every=timedelta(milliseconds=500))
    found = told()
    marks = [mark for mark in airflow.marked() if mark["dag"] == "python_load" and mark["run"] in runs]
    hosts = {mark["run"]: mark["host"] for mark in marks}
    for run in runs:
        each = found[run]
        assert (hosts[run], identities[run][hosts[run]]) == (each["worker"], each["worker_run"])
        assert [{"name": CERTIFICATE, "serial": serials[run]}] == each["certificates"]
        assert ("bob", "rest_api", "success", 1) == (
            each["person_name"], each["triggered_by"], each["state"], each["try"],
        )  # fmt: skip
    last = serials[runs[-1]]
    assert {run for run in runs if serials[run] == last} == set(runs) & set(told("--serial", last))
    assert {runs[0]} == set(told("--run", f"python_load/{runs[0]}"))
    (begun,) = [mark["time"] for mark in marks if (mark["run"], mark["what"]) == (runs[0], "begun")]
    # Moments are asked for in whole seconds; each of these tasks lasts for more than one.
    assert runs[0] in told("--at", datetime.fromtimestamp(math.ceil(begun), UTC).isoformat())
    assert b"bob" not in b"".join(installation.raw_ledger())


@pytest.fixture
def alone(installation: AirflowInstallation) -> Iterator[tuple[Airflow, ValkeyServer]]:
    """Give the Airflow without the rotator that all other tests share: two would undo each other's drains."""
    installation.daemon.stop()
    yield installation.airflow, installation.valkey
    installation.start()
    installation.wait_rolled()


def test_a_worker_that_cannot_be_asked_is_told_to_end(
    alone: tuple[Airflow, ValkeyServer], openbao: OpenBaoServer, tmp_path: Path
) -> None:
    """Its remote control is off: recognised as that, ended without a drain or a killed task; the others are drained."""
    airflow = alone[0]
    deaf = airflow.members[0]
    silent = replace(deaf, environment={**deaf.environment, "AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL": "False"})
    installation = AirflowInstallation(
        tmp_path, openbao, *alone, drain={"without_remote_control": "stop"}, workload={"start_timeout": "45s"}
    )
    installation.described(silent)  # as the next one is started, too
    # One that is killed leaves its mailbox behind, and with it the look of somebody who may answer yet.
    airflow.signal(deaf.name, signal.SIGTERM)
    wait_until(lambda: "" == installation.identities()[deaf.name], within=PATIENCE, what=f"{deaf.name} to end")
    airflow.processes([silent]).replace(deaf.name, forced=False)
    before = installation.identities()
    with Load(airflow, longest=6, every=OFTEN) as load:
        airflow.wait_for(*load.first(), "begun")
        # All of them began before the first certificate: that is the roll.
        installation.start()
        try:
            wait_until(
                lambda: (
                    installation.settled()
                    and all(before[name] != now for name, now in installation.identities().items())
                ),
                within=PATIENCE * 2,
                what="the roll",
                every=timedelta(seconds=1),
            )
        finally:
            installation.daemon.stop()
    airflow.wait_finished()
    account = Account(airflow, load.given)
    assert ([], [], []) == (account.on_kill, account.cut_off, account.not_first_try)
    assert account.given == account.succeeded
    told = [each for each in installation.events() if each.type is EventType.DRAINED and "member" in each.detail]
    let_go = {str(each.detail["member"]): each for each in told if each.detail["was"] in before.values()}
    assert "told to end without a drain" == let_go[deaf.name].result
    assert "its remote control is off" in str(let_go[deaf.name].reason)
    assert {"ok"} == {each.result for name, each in let_go.items() if name != deaf.name}
    airflow.kill(deaf.name)


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


@pytest.mark.soak
@pytest.mark.parametrize("then", ["wait", "skip", "force"])
def test_soak_a_task_that_does_not_end(
    alone: tuple[Airflow, ValkeyServer], openbao: OpenBaoServer, tmp_path: Path, then: str
) -> None:
    """At the drain deadline the written choice decides: it goes on waiting, gives the work back, or kills."""
    airflow = alone[0]
    with AirflowInstallation(tmp_path, openbao, *alone) as installation, airflow.gate() as gate:
        before = installation.identities()
        run = airflow.give("python_load", 0, until=gate)
        host = airflow.wait_for("python_load", run, "begun")["host"]
        # Only now: the first roll, of workers that began before the first certificate, takes longer than that.
        workload = installation.document["workloads"][installation.workload]
        workload["stop_timeout"] = "3s"
        workload["drain"]["celery"].update({"deadline": "20s", "then": then})
        workload["processes"].sort(key=lambda each: each["name"] != host)  # its turn comes before the deadline
        installation.reconfigure()
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
        else:
            wait_until(lambda: "roll_held" in installation.alerts(), within=PATIENCE, what="the alert")
        assert before[host] == installation.identities()[host]
        gate.touch()
        airflow.wait_for("python_load", run, "ended")
        airflow.wait_finished()
        account = Account(airflow, [("python_load", run)])
        assert ([], [], 1) == (account.on_kill, account.cut_off, account.succeeded)
        if then == "wait":
            installation.wait_rolled()
            assert before[host] != installation.identities()[host]
