"""
A real Airflow under load while rotator rolls its workers: no task is killed, none is repeated, no queue stands alone.

Rules that must stay true here:

- What tasks did is read from their own marks: Airflow calls a killed task successful at times.
- Two workers and short tasks here; three workers, tasks of two minutes and ten rolls in the soak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.airflow.api import AirflowAPI, Endpoint
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.clock import SystemClock
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.embedded.valkey import ValkeyServer
from tests.fixtures_airflow import CERTIFICATE, Account, AirflowInstallation, Load, Watch, running_airflow
from tests.stack.airflow.deployment import QUEUES, Airflow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]

LONGEST = 20.0
"""Seconds that the longest task takes."""


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
    began = datetime.now(UTC)
    with Load(airflow, longest=LONGEST) as load, Watch(installation) as watch:
        airflow.wait_for(*load_first(load), "begun")
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
    print(f"{account.given} tasks, {took.total_seconds():.0f} s for {len(before)} workers")  # noqa: T201 -- for README


def load_first(load: Load) -> tuple[str, str]:
    """Return the first task given."""
    wait_until(lambda: bool(load.given), within=timedelta(seconds=120), what="a task")
    return load.given[0]
