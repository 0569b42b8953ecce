"""
A real Airflow with two executors, Local and Edge: its scheduler and its Edge worker are rolled, and no task is lost.

Rules that must stay true here:

- What tasks did is read from their own marks; what is paused and who is in maintenance, from Airflow itself.
- Scheduler and Edge worker are the daemon's members, as in production: it starts them, drains them, starts them anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.processes import CommandMember
from rotator.core.event import Event, EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until
from rotator.evidence.ledger import records
from rotator.store.sql import SQLStore
from tests.e2e.installation import DaemonInstallation
from tests.fixtures_airflow import Account
from tests.fixtures_openbao import new_domain
from tests.fixtures_postgres import running_postgresql
from tests.stack.airflow.deployment import AIRFLOW, PATIENCE, Airflow

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(900)]

CERTIFICATE = "airflow"
EDGE = "edge-1"
SECOND = timedelta(seconds=1)


class TwoExecutors(Airflow):
    """An Airflow whose scheduler, which runs the Local executor's tasks, and Edge worker are started by others."""

    def __init__(self, directory: Path, *, database: str) -> None:
        super().__init__(
            directory,
            database=database,
            broker=f"redis://{LOOPBACK}:{free_port()}/0",
            workers=(),
            executor="LocalExecutor,airflow.providers.edge3.executors.EdgeExecutor",
            settings={
                "AIRFLOW__CORE__PARALLELISM": "4",
                "AIRFLOW__EDGE__API_ENABLED": "True",
                # An Edge worker ends for good when a call of its is older than that, on a busy machine too.
                "AIRFLOW__API_AUTH__JWT_LEEWAY": "300",
                "AIRFLOW__EDGE__JWT_LEEWAY": "300",
                "AIRFLOW__EDGE__JOB_POLL_INTERVAL": "1",
                "AIRFLOW__EDGE__HEARTBEAT_INTERVAL": "2",
            },
        )
        self.environment["AIRFLOW__EDGE__API_URL"] = f"{self.url}/edge_worker/v1/rpcapi"
        pid_file = directory / "edge.own.pid"
        self.scheduling = self._member("scheduler", "scheduler", "--skip-serve-logs")
        self.edge = self._member(
            EDGE, "edge", "worker", "--edge-hostname", EDGE, "--queues", "edge", "--pid", str(pid_file)
        )
        self.workloads = self.processes((self.scheduling, self.edge))

    def _member(self, name: str, *words: str) -> CommandMember:
        return CommandMember(
            name=name,
            command=(str(AIRFLOW), *words),
            pid_file=self.directory / f"{name}.pid",
            log_file=self.directory / f"{name}.log",
            environment=self.environment,
        )

    def started_here(self) -> tuple[ServerProcess, ...]:
        """Return the rest."""
        return (self.dag_processor, self.triggerer)

    def start_workers(self) -> None:
        """Leave that to the daemon."""

    def paused(self) -> dict[str, bool]:
        """Return which DAGs are paused."""
        return {each["dag_id"]: each["is_paused"] for each in self.call("GET", "/api/v2/dags?limit=100")["dags"]}

    def edge_state(self) -> str:
        """Return how Airflow shows the Edge worker; empty while it is not known."""
        workers = self.call("GET", "/edge_worker/ui/worker")["workers"]
        return next((str(each["state"]) for each in workers if each["worker_name"] == EDGE), "")


class Rotated(DaemonInstallation):
    """A rotator over both."""

    def __init__(self, directory: Path, openbao: OpenBaoServer, airflow: TwoExecutors) -> None:
        self.airflow = airflow
        vault = new_domain(openbao, directory)
        super().__init__(
            directory,
            vault,
            trust_domain={
                "model": "standalone",
                "issuer": "corporate",
                "ca": {
                    "mount": vault.mount, "role": vault.rights.role, "lifetime": "6h",
                    "minimum_overlap": "1s", "crl_interval": "1m",
                },
                "longest_leaf": "1h",
                "trust_deadline": {"after": "30s"},
            },
            certificates={
                CERTIFICATE: {
                    "trust_domain": vault.trust_domain,
                    "identity": f"spiffe://{vault.trust_domain}/airflow",
                    "lifetime": "1h",
                    "publish": [{"directory": str(directory / "tls")}],
                    "probes": [{"read_back": {}}],
                    "rolls": ["scheduler", "edge"],
                },
            },
        )  # fmt: skip
        (directory / "password").write_text(airflow.passwords["bob"])
        self.document["airflow"] = {
            "main": {"url": airflow.url, "username": "bob", "password_file": str(directory / "password")}
        }
        self.document["workloads"] = {
            "scheduler": self._workload(airflow.scheduling, "scheduler", "local"),
            "edge": self._workload(airflow.edge, "worker", "edge"),
        }
        self.write()

    def _workload(self, member: CommandMember, component: str, drain: str) -> Mapping[str, Any]:
        secrets = self.directory / f"{member.name}.env"
        secrets.write_text("".join(f"{name}={value}\n" for name, value in member.environment.items()))
        return {
            "airflow": {"installation": "main", "component": component},
            "processes": [
                {
                    "name": member.name,
                    "command": list(member.command),
                    "pid_file": str(member.pid_file),
                    "log_file": str(member.log_file),
                    "environment_file": str(secrets),
                }
            ],
            "stop_timeout": "2m",
            "start_timeout": "4m",
            # The only worker of its queue: tasks that wait while it is replaced are what is allowed here.
            "drain": {drain: {"deadline": "10m"} | ({"single_consumer": "allow"} if drain == "edge" else {})},
        }

    def identities(self) -> dict[str, str]:
        """Return which process each member is."""
        return {each.name: each.identity for each in self.airflow.workloads.members()}

    def wait_rolled(self) -> None:
        """Wait until everything is in use and the Edge worker takes jobs."""
        wait_until(
            lambda: self.settled() and self.airflow.edge_state() in {"idle", "running"},
            within=PATIENCE,
            what="scheduler and Edge worker to be rolled",
            every=SECOND,
        )

    def drained(self) -> list[Event]:
        """Return the records of drains, in order."""
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            return [each.event for each in records(store) if each.event.type is EventType.DRAINED]


@pytest.fixture
def rotated(openbao: OpenBaoServer, tmp_path: Path) -> Iterator[Rotated]:
    """Give a rotator at rest over a running Airflow."""
    tmp_path.chmod(0o755)
    (tmp_path / "postgresql").mkdir()
    with running_postgresql(tmp_path / "postgresql") as postgresql:
        database = postgresql.database().replace("+psycopg:", "+psycopg2:")
        with TwoExecutors(tmp_path / "airflow", database=database) as airflow:
            made = Rotated(tmp_path, openbao, airflow)
            try:
                made.start()
                made.wait_rolled()
                yield made
            finally:
                made.daemon.stop()


def test_law_17_two_executors_are_rolled_and_no_task_is_lost(rotated: Rotated) -> None:
    """Tasks of both end at their first try, only what rotator paused goes on, and both executors take work again."""
    airflow = rotated.airflow
    airflow.call("PATCH", "/api/v2/dags/bash_load", {"is_paused": True})
    before = rotated.identities()
    with airflow.gate() as of_scheduler, airflow.gate() as of_edge:
        given = [
            (dag, airflow.give(dag, 0, until=gate))
            for dag, gate in (("python_load", of_scheduler), ("edge_load", of_edge))
        ]
        for dag, run in given:
            airflow.wait_for(dag, run, "begun")
        known = len(rotated.drained())
        rotated.rotate(CERTIFICATE)

        def drains(member: str) -> bool:
            return any(each.detail.get("member") == member for each in rotated.drained()[known:])

        # One of the two goes first, and the other's turn comes after it.
        wait_until(
            lambda: drains("scheduler") or drains(EDGE), within=PATIENCE, what="one of them to drain", every=SECOND / 4
        )
        assert before == rotated.identities(), "their tasks still run"
        of_edge.touch()
        wait_until(
            lambda: all(airflow.paused().values()), within=PATIENCE, what="every DAG to be paused", every=SECOND / 4
        )
        assert before["scheduler"] == rotated.identities()["scheduler"], "its task still runs"
    rotated.wait_rolled()
    after = rotated.identities()
    assert not set(before.values()) & set(after.values())
    assert {"bash_load": True} == {dag: paused for dag, paused in airflow.paused().items() if paused}
    given += [(dag, airflow.give(dag, 1)) for dag in ("python_load", "edge_load")]
    for dag, run in given:
        airflow.wait_for(dag, run, "ended")
    airflow.wait_finished()
    account = Account(airflow, given)
    assert ([], [], []) == (account.on_kill, account.cut_off, account.not_first_try)
    assert 4 == account.given == account.succeeded
    told = [(each.detail.get("member"), each.result) for each in rotated.drained()[known:]]
    paused = [result for member, result in told if member is None]
    assert ["dags pausing", "dags paused", "dags resuming", "dags resumed"] == paused
    for name in ("scheduler", EDGE):
        assert ["started", "ok"] == [result for member, result in told if member == name][:2]
