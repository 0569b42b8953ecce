"""
A real Airflow on this machine: every component a process of its own, workers started as rotator starts them.

Rules that must stay true here:

- Everything listens on 127.0.0.1 or not at all; nothing outlives `Airflow.stop`.
- Workers are members of a rotator workload (`CommandMember`): what replaces them in a test is what replaces them
  in production.
- What tasks did is read from the marks that they left themselves, not from Airflow's own states.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from rotator.adapters.processes import CommandMember, Processes
from rotator.adapters.processes.seen import Process, held, process, session_of
from rotator.clock import SystemClock
from rotator.core.model import SubjectName
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until

JSON = dict[str, Any]

HERE = Path(__file__).resolve().parent
AIRFLOW = HERE.parent / "bin" / "airflow" / "bin" / "airflow"

PATIENCE = timedelta(seconds=300)
"""How long anything may take on a machine that is busy with other things."""

QUEUES = ("default", "heavy")

_ANSWERS_WITHIN = 30
_numbers = itertools.count(1)


class Airflow:
    """One Airflow with its files below one directory; database and broker are given."""

    def __init__(
        self,
        directory: Path,
        *,
        database: str,
        broker: str,
        workers: Iterable[str] = ("airflow-worker-0", "airflow-worker-1"),
        executor: str = "CeleryExecutor",
        settings: Mapping[str, str] | None = None,
        stop_timeout: timedelta = PATIENCE,
        concurrency: int = 4,
        starts_workers: bool = True,
    ) -> None:
        """
        Describe it without starting it.

        Args:
            directory: Logs, pid files, marks.
            database: SQLAlchemy URL, as ``postgresql+psycopg2://...``.
            broker: Celery's broker URL.
            workers: Host names, which are member names too.
            executor: ``[core] executor``.
            settings: Further ``AIRFLOW__SECTION__KEY`` variables.
            stop_timeout: How long `Processes.replace` waits for a worker to end.
            concurrency: Tasks at a time in one worker.
            starts_workers: False where somebody else does.
        """
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._starts_workers = starts_workers
        self.port = free_port()
        self.marks = directory / "marks.jsonl"
        self.marks.touch()
        self.passwords = {name: secrets.token_urlsafe(12) for name in ("alice", "bob", "carol")}
        self.passwords_file = directory / "passwords.json"
        self.passwords_file.write_text(json.dumps(self.passwords))
        self._session = requests.Session()
        self._token: str | None = None
        self._lock = threading.Lock()
        self.environment = {
            "PATH": f"{AIRFLOW.parent}:{os.environ['PATH']}",
            "HOME": str(directory),
            "AIRFLOW_HOME": str(directory),
            "AIRFLOW_TEST_MARKS": str(self.marks),
            "AIRFLOW_TEST_HOST": "this-machine",
            "PYTHONWARNINGS": "ignore",
            "AIRFLOW__CORE__EXECUTOR": executor,
            "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "host_name.of_this_worker",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "alice:admin,bob:op,carol:viewer",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.passwords_file),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
            "AIRFLOW__CELERY__BROKER_URL": broker,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(concurrency),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
            # More than docs/airflow.md advises: a very busy machine takes minutes to bring an API server back.
            "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "50",
            # The default of 5 s fails tasks at their very start where the API server answers its first calls slowly.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            **(settings or {}),
        }
        self.api_server = self._component("api-server")
        self.scheduler = self._component("scheduler", "--skip-serve-logs")
        self.dag_processor = self._component("dag-processor")
        self.triggerer = self._component("triggerer", "--skip-serve-logs")
        self.members = tuple(self.member(name) for name in workers)
        self.stop_timeout = stop_timeout
        self.workloads = self.processes(self.members)

    @property
    def url(self) -> str:
        """Return where the API server listens."""
        return f"http://{LOOPBACK}:{self.port}"

    def _component(self, name: str, *words: str) -> ServerProcess:
        return ServerProcess(
            f"Airflow's {name}",
            [AIRFLOW, name, *words],
            log=self.directory / f"{name}.log",
            env=self.environment,
            stop_within=timedelta(seconds=30),
        )

    def member(self, name: str, *, queues: Iterable[str] = QUEUES, generation: str = "") -> CommandMember:
        """Return the worker *name* as a member of a workload."""
        return CommandMember(
            name=name,
            command=(
                str(AIRFLOW), "celery", "worker", "--celery-hostname", name, "--skip-serve-logs",
                "--pid", str(self.directory / f"{name}.celery.pid"), "-q", ",".join(queues),
            ),
            pid_file=self.directory / f"{name}.pid",
            log_file=self.directory / f"{name}.log",
            environment={**self.environment, "AIRFLOW_TEST_HOST": name, "AIRFLOW_TEST_GENERATION": generation},
        )  # fmt: skip

    def processes(self, members: Iterable[CommandMember]) -> Processes:
        """Return *members* as a workload."""
        return Processes(
            SubjectName("workers"),
            tuple(members),
            clock=SystemClock(),
            stop_timeout=self.stop_timeout,
            start_timeout=PATIENCE,
            settle=timedelta(milliseconds=200),
        )

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, and return once the DAGs can be run. Workers are started, not waited for."""
        self.command("db", "migrate")
        for component in self.started_here():
            component.start(ready=lambda: True)
        if self._starts_workers:
            self.start_workers()
        self.start_api_server()
        wait_until(
            lambda: {"python_load", "bash_load", "deferrable_load"} <= self._dags(),
            within=PATIENCE,
            what="the DAGs to be known",
            every=timedelta(seconds=1),
        )

    def started_here(self) -> tuple[ServerProcess, ...]:
        """Return the components that are started with it, beside the API server; all others are somebody's members."""
        return (self.scheduler, self.dag_processor, self.triggerer)

    def start_api_server(self) -> None:
        """Start the API server and return once it answers."""
        self.api_server.start(ready=self.answers, within=PATIENCE)

    def start_workers(self) -> None:
        """Start every worker that does not run."""
        for member in self.workloads.members():
            if not member.running:
                self.workloads.replace(member.name, forced=False)

    def stop(self) -> None:
        """End everything, the workers as a crash would."""
        for member in self.workloads.members():
            if member.running:
                self.kill(member.name)
        for component in (self.scheduler, self.dag_processor, self.triggerer, self.api_server):
            component.kill()
        self._session.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def command(self, *words: str) -> str:
        """Run one Airflow command to its end and return what it printed."""
        done = subprocess.run(
            [str(AIRFLOW), *words], env=self.environment, capture_output=True, text=True, check=False, timeout=180
        )
        assert done.returncode == 0, f"airflow {words}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
        return done.stdout

    def answers(self) -> bool:
        """Return whether the API server answers and sees its database."""
        try:
            with self._session.get(f"{self.url}/api/v2/monitor/health", timeout=5) as answer:
                return answer.status_code == 200 and answer.json()["metadatabase"]["status"] == "healthy"
        except (requests.RequestException, ValueError):
            return False

    # --- workers ----------------------------------------------------------------------------------------------------

    def main(self, name: str) -> Process:
        """Return the main process of a worker that runs."""
        pid = next(int(each.identity.partition("@")[0]) for each in self.workloads.members() if each.name == name)
        found = process(pid)
        assert found is not None, f"{name} does not run"
        return found

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the main process of a worker."""
        with held(self.main(name)) as main:
            assert main is not None
            main.send(number)

    def kill(self, name: str) -> None:
        """Kill a worker with all it started."""
        main = self.main(name)
        for each in (main, *session_of(main)):
            with held(each) as one:
                if one is not None:
                    one.send(signal.SIGKILL)
                    assert one.ended(PATIENCE)

    def restart_harshly(self, name: str, *, grace: timedelta) -> None:
        """Restart a worker as a kubelet does: TERM to its main process, a grace period, KILL to all that is left."""
        main = self.main(name)
        rest = session_of(main)
        with held(main) as one:
            assert one is not None
            one.send(signal.SIGTERM)
            one.ended(grace)
        for each in (main, *rest):
            with held(each) as one:
                if one is not None:
                    one.send(signal.SIGKILL)
                    assert one.ended(PATIENCE)
        self.start_workers()

    def give_up(self, dag: str, run: str) -> None:
        """Have Airflow call *run* failed, which nobody will finish."""
        self.call("PATCH", f"/api/v2/dags/{dag}/dagRuns/{run}", {"state": "failed"})

    # --- work -------------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: JSON | None = None, *, user: str = "alice") -> JSON:
        """Make one call as *user* and return its JSON."""
        with self._session.request(
            method,
            self.url + path,
            json=body,
            headers={"Authorization": f"Bearer {self.token(user)}"},
            timeout=_ANSWERS_WITHIN,
        ) as answer:
            assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text[:1000]}"
            found: JSON = answer.json() if answer.content else {}
            return found

    def token(self, user: str) -> str:
        """Return a new token of *user*; the administrator's is kept."""
        with self._lock:
            if user == "alice" and self._token:
                return self._token
            with self._session.post(
                f"{self.url}/auth/token",
                json={"username": user, "password": self.passwords[user]},
                timeout=_ANSWERS_WITHIN,
            ) as answer:
                assert answer.status_code < 400, answer.text[:1000]
                token: str = answer.json()["access_token"]
            if user == "alice":
                self._token = token
            return token

    def _dags(self) -> set[str]:
        return {each["dag_id"] for each in self.call("GET", "/api/v2/dags?limit=100")["dags"]}

    def give(self, dag: str, seconds: float, *, user: str = "alice", until: Path | None = None) -> str:
        """
        Have *dag* run once with a task of *seconds*, or *until* a file is there; return the run's id.

        One whose length something is asserted by goes on until its test opens a `gate`, never for a time.
        """
        run = f"run-{next(_numbers)}"
        conf = {"seconds": seconds, **({"until": str(until)} if until else {})}
        body = {"dag_run_id": run, "logical_date": None, "conf": conf}
        self.call("POST", f"/api/v2/dags/{dag}/dagRuns", body, user=user)
        return run

    @contextmanager
    def gate(self) -> Iterator[Path]:
        """Give a file that tasks may go on `until`: made by the test, or at the end of the block at the latest."""
        file = self.directory / f"gate-{next(_numbers)}"
        try:
            yield file
        finally:
            file.touch()

    def attempts(self, dag: str = "~") -> list[JSON]:
        """Return every task instance that Airflow knows, of *dag* or of all."""
        found: list[JSON] = []
        while True:
            path = f"/api/v2/dags/{dag}/dagRuns/~/taskInstances?limit=100&offset={len(found)}"
            page = self.call("GET", path)["task_instances"]
            found += page
            if len(page) < 100:
                return found

    def unfinished(self) -> list[JSON]:
        """Return the task instances that have not come to an end."""
        return [each for each in self.attempts() if each["state"] not in {"success", "failed", "upstream_failed"}]

    def marked(self) -> list[JSON]:
        """Return what the tasks wrote themselves, in order; a line that is still being written is left out."""
        lines = self.marks.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, dag: str, run: str, what: str) -> JSON:
        """Return the first mark *what* of *run*, once it is there."""

        def found() -> list[JSON]:
            return [
                each for each in self.marked() if (each["dag"], each["run"], each["what"]) == (dag, run, what)
            ]  # fmt: skip

        wait_until(lambda: bool(found()), within=PATIENCE, what=f"{what} of {dag}/{run}")
        return found()[0]

    def wait_finished(self) -> None:
        """Return once every task has come to an end."""
        wait_until(
            lambda: not self.unfinished(), within=PATIENCE * 2, what="all tasks to end", every=timedelta(seconds=1)
        )
