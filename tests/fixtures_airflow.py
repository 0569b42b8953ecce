"""
A real Airflow whose workers a real rotator looks after, and the load under which it is rolled.

Rules that must stay true here:

- One Airflow serves a module: it takes half a minute to start. Each test leaves it idle, with every worker at work.
- The daemon is driven as an operator and a crash would; what it did is read from its ledger, what tasks did from the
  marks that they left.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import requests

from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.embedded.valkey import ValkeyServer
from rotator.errors import RotatorError
from tests.fixtures_postgres import running_postgresql
from tests.fixtures_workers import WorkerInstallation
from tests.stack.airflow.deployment import PATIENCE, QUEUES, Airflow

CERTIFICATE = "airflow-worker"
WORKLOAD = "airflow-workers"

LOOKS_IN_A_ROW = 15
"""A second apart: an idle worker takes a message within one."""


@contextlib.contextmanager
def running_airflow(
    home: Path, *, workers: int = 2, settings: Mapping[str, str] = MappingProxyType({}), starts_workers: bool = True
) -> Iterator[tuple[Airflow, ValkeyServer]]:
    """Give an Airflow with CeleryExecutor on a PostgreSQL and a Valkey of its own; its workers are not started."""
    home.chmod(0o755)
    (home / "postgresql").mkdir()
    valkey = ValkeyServer(home / "valkey")
    with running_postgresql(home / "postgresql") as postgresql, valkey:
        valkey.run()
        airflow = Airflow(
            home / "airflow",
            database=postgresql.database().replace("+psycopg:", "+psycopg2:"),
            broker=valkey.url,
            workers=[f"airflow-worker-{number}" for number in range(workers)],
            settings=settings,
            starts_workers=starts_workers,
        )
        with airflow:
            yield airflow, valkey


class AirflowInstallation(WorkerInstallation):
    """A rotator over the workers of an Airflow."""

    certificate = CERTIFICATE
    workload = WORKLOAD
    patience = PATIENCE

    def __init__(
        self,
        directory: Path,
        openbao: OpenBaoServer,
        airflow: Airflow,
        valkey: ValkeyServer,
        *,
        drain: Mapping[str, Any] = MappingProxyType({}),
        workload: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Configure it; *drain* and *workload* change what the file says of the workers."""
        self.airflow = airflow
        self.valkey = valkey
        super().__init__(
            directory,
            openbao,
            members=airflow.members,
            processes=airflow.workloads,
            broker=valkey.url,
            queues=QUEUES,
            drain=drain,
            workload={"airflow": "main", **workload},
        )
        (directory / "password").write_text(airflow.passwords["carol"])
        self.document["airflow"] = {
            "main": {
                "url": airflow.url,
                "username": "carol",
                "password_file": str(directory / "password"),
                "copy_runs_every": "5s",
            }
        }
        self.write()

    def __enter__(self) -> Self:
        """Start the daemon, which starts the workers, and wait until all is in use and a first task was run."""
        super().__enter__()
        # What answers its first calls is cold: no test is about that.
        self.airflow.wait_for("python_load", self.airflow.give("python_load", 1), "ended")
        return self

    def left_behind(self) -> list[tuple[str, str]]:
        """Return the runs that Airflow believes to run, or to wait in the broker, though every worker stays idle."""
        in_a_row = 0

        def quiet() -> bool:
            nonlocal in_a_row
            answers = self.control.look(self.nodes)
            idle = len(answers) == len(self.nodes) and not any(answer.busy for answer in answers.values())
            # A message that a killed worker had taken is waited for by Airflow for ten minutes.
            lost = all(each["state"] in {"running", "queued"} for each in self.airflow.unfinished())
            in_a_row = in_a_row + 1 if idle and lost else 0
            return in_a_row >= LOOKS_IN_A_ROW

        wait_until(quiet, within=PATIENCE, what="the workers to stay idle", every=timedelta(seconds=1))
        return [(each["dag_id"], each["dag_run_id"]) for each in self.airflow.unfinished()]


class Load:
    """Tasks that arrive all the time, of a spread of lengths, by three operators, on two queues."""

    def __init__(self, airflow: Airflow, *, longest: float, every: float = 1.0) -> None:
        """Give a task of up to *longest* seconds *every* so many."""
        self._airflow = airflow
        self._longest = longest
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._give)
        self.given: list[tuple[str, str]] = []
        self.refused = 0

    def _give(self) -> None:
        for number in itertools.count():
            # The golden ratio spreads lengths evenly without a random draw.
            share = (number * 0.6180339887498949) % 1.0
            dag = ("python_load", "bash_load", "python_load", "bash_load", "deferrable_load")[number % 5]
            try:
                self.given.append((dag, self._airflow.give(dag, 1 + share * (self._longest - 1))))
            except (requests.RequestException, AssertionError):
                self.refused += 1
            if self._stop.wait(self._every):
                return

    def first(self) -> tuple[str, str]:
        """Return the first task, once it is given."""
        wait_until(lambda: bool(self.given), within=PATIENCE, what="a task to be given")
        return self.given[0]

    def later(self, count: int) -> tuple[str, str]:
        """Return the task that is given after *count* more, once it is given."""
        wanted = len(self.given) + count
        wait_until(lambda: len(self.given) > wanted, within=PATIENCE, what="more tasks to be given")
        return self.given[wanted]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


class Watch:
    """How many consumers each queue has, looked at all the time."""

    def __init__(self, installation: AirflowInstallation) -> None:
        """Look at the workers of *installation*."""
        self._installation = installation
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.looks = 0
        self.fewest: Counter[str] = Counter()

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            with contextlib.suppress(RotatorError):
                consumed = self._installation.consumed()
                self.fewest = Counter(
                    {queue: min(consumed[queue], self.fewest[queue] if self.looks else 99) for queue in QUEUES}
                )
                self.looks += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


class Account:
    """What became of the tasks since a moment, by their own marks and by Airflow's word."""

    def __init__(self, airflow: Airflow, given: list[tuple[str, str]]) -> None:
        """Read both about the runs *given*."""
        wanted = set(given)
        attempts = [each for each in airflow.attempts() if (each["dag_id"], each["dag_run_id"]) in wanted]
        marks = [each for each in airflow.marked() if (each["dag"], each["run"]) in wanted]
        self.given = len(given)
        self.succeeded = sum(1 for each in attempts if each["state"] == "success")
        self.not_first_try = [each["dag_run_id"] for each in attempts if each["try_number"] != 1]
        self.on_kill = [each for each in marks if each["what"] == "killed"]
        begun = Counter((each["dag"], each["run"]) for each in marks if each["what"] == "begun")
        ended = Counter((each["dag"], each["run"]) for each in marks if each["what"] == "ended")
        self.cut_off = sorted((begun - ended).elements())
        self.hosts = {each["host"] for each in marks}
