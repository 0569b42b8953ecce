"""
The workers of a real Airflow in the pods of a StatefulSet of a real cluster, and who ran what there.

Rules that must stay true here:

- Each pod is paired with a real Airflow worker of its host name (tests/stack/kubelet.py); names repeat, pods do not.
- What ran where is read from the tasks' own marks and the API server, and compared with what the ledger tells.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.store.sql import SQLStore
from tests.fixtures_airflow import Account, Load, running_airflow
from tests.stack.airflow.deployment import PATIENCE, QUEUES, Airflow
from tests.stack.kubelet import Kubelet
from tests.stack.nodes import ENDS, Nodes
from tests.stack.test_pods_rolled import CERTIFICATE, Farm

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(1800)]

SIZE = 2
LONGEST = 8.0
"""Seconds that the longest task takes: more than the pods' grace period."""


class AirflowFarm(Farm):
    """A StatefulSet whose pods are an Airflow's workers, and the daemon that rolls them."""

    def __init__(self, nodes: Nodes, namespace: str, openbao: OpenBaoServer, directory: Path, airflow: Airflow) -> None:
        directory.mkdir()
        super().__init__(nodes, namespace, openbao, directory, statefulset="airflow-worker", size=SIZE)
        self.airflow = airflow
        self.patience = PATIENCE
        (directory / "password").write_text(airflow.passwords["carol"])
        (directory / "broker").write_text(airflow.environment["AIRFLOW__CELERY__BROKER_URL"])
        self.daemon.document["airflow"] = {
            "main": {
                "url": airflow.url,
                "username": "carol",
                "password_file": str(directory / "password"),
                "copy_runs_every": "5s",
            }
        }
        self.daemon.document["workloads"]["workers"] |= {
            "airflow": "main",
            "start_timeout": "4m",
            "drain": {
                "celery": {
                    "broker_file": str(directory / "broker"),
                    "queues": list(QUEUES),
                    "deadline": "5m",
                    "timeout": "10s",
                }
            },
        }
        self.daemon.write()

    def serial(self) -> str:
        """Return the serial that a pod which starts now mounts."""
        return f"{x509.load_pem_x509_certificate(self.material()['tls.crt']).serial_number:x}"

    def copied(self, runs: list[str]) -> bool:
        """Return whether the ledger tells of every one of *runs*."""
        with contextlib.closing(SQLStore(self.daemon.document["store"], environment="test")) as store:
            told = b"".join(store.entries(0, store.size()))
        return all(f'{run}\\"'.encode() in told for run in runs)

    def workers(self) -> dict[str, str]:
        """Return which pod each worker is."""
        found = self.nodes.pods(self.namespace, "app=airflow-worker")
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in found}


@pytest.fixture
def farm(nodes: Nodes, pods_namespace: str, openbao: OpenBaoServer, tmp_path: Path) -> Iterator[AirflowFarm]:
    """Give the workers at rest in their pods."""
    home = tmp_path / "airflow"
    home.mkdir()
    with running_airflow(home, workers=SIZE, starts_workers=False) as (airflow, _):
        made = AirflowFarm(nodes, pods_namespace, openbao, tmp_path / "rotator", airflow)
        with Kubelet(nodes, pods_namespace, airflow) as kubelet:
            try:
                made.begin(**{ENDS: "never"})
                yield made
                assert [] == kubelet.trouble
            finally:
                made.daemon.daemon.stop()


def test_who_ran_in_the_pods_of_a_statefulset(farm: AirflowFarm) -> None:
    """Through a roll under load and a pod that somebody deleted: the right pod and certificate, though names repeat."""
    airflow = farm.airflow
    runs: list[str] = []
    pods, serials = {}, {}

    def run_some() -> None:
        for run in [airflow.give("python_load", 1, user="bob") for _ in range(2 * SIZE)]:
            airflow.wait_for("python_load", run, "ended")
            runs.append(run)
            pods[run], serials[run] = farm.workers(), farm.serial()
        airflow.wait_finished()

    run_some()
    with Load(airflow, longest=LONGEST, every=3) as load:
        airflow.wait_for(*load.first(), "begun")
        farm.daemon.rotate(CERTIFICATE)
        farm.settle()
    airflow.wait_finished()
    account = Account(airflow, load.given)
    assert ([], [], []) == (account.on_kill, account.cut_off, account.not_first_try)
    assert account.given == account.succeeded
    run_some()
    farm.nodes.cluster.call("DELETE", f"/api/v1/namespaces/{farm.namespace}/pods/airflow-worker-0")
    farm.settle()
    run_some()
    assert 3 == len({each["airflow-worker-0"] for each in pods.values()})
    assert 2 == len({each["airflow-worker-1"] for each in pods.values()}) == len(set(serials.values()))

    wait_until(lambda: farm.copied(runs), within=PATIENCE, what="the batch", every=timedelta(milliseconds=500))
    done = farm.daemon.run("--json", "evidence", "who-ran", "--reveal")
    assert done.returncode == 0, done.stderr
    found = {each["run"]: each for each in json.loads(done.stdout)["attempts"] if each["dag"] == "python_load"}
    hosts = {mark["run"]: mark["host"] for mark in airflow.marked()}
    for run in runs:
        each = found[run]
        assert (hosts[run], pods[run][hosts[run]]) == (each["worker"], each["worker_run"])
        assert [{"name": CERTIFICATE, "serial": serials[run]}] == each["certificates"]
        assert ("bob", "success", 1) == (each["person_name"], each["state"], each["try"])
