"""
The demonstration's workers: which leaf they use, whom they believe, and what they report.

Rules that must stay true here:

- The service is a real Envoy that demands a certificate and echoes the serial that it saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.directory import DirectoryStore
from rotator.adapters.probes import ReportProbe
from rotator.clock import SystemClock
from rotator.core.model import SubjectName
from rotator.embedded.celery_worker import TaskLedger, worker_command
from rotator.embedded.envoy import EnvoyServer
from rotator.embedded.process import ServerProcess, wait_until
from rotator.embedded.tasks import CALL_SERVICE, Caller, Place
from rotator.embedded.valkey import ValkeyServer
from rotator.errors import ConfigError, Rejected, Unavailable
from rotator.pki.certificates import Material
from rotator.ports import Stamp
from tests.fakes.certificate_authority import FakeCA

pytestmark = pytest.mark.external

PATIENCE = timedelta(seconds=60)
HOUR = timedelta(hours=1)
WORKER = "spiffe://workers.test/worker-1"
SERVER = "spiffe://mesh.test/server"


def now() -> datetime:
    return datetime.now(tz=UTC)


class Stage:
    """A service, two authorities of its mesh, one of the workers, and a worker's directory."""

    def __init__(self, directory: Path) -> None:
        since, until = now() - HOUR, now() + 100 * HOUR
        self.old, self.new = FakeCA("old", "mesh.test", since, until), FakeCA("new", "mesh.test", since, until)
        self.workers = FakeCA("workers", "workers.test", since, until)
        self.server = DirectoryStore(directory / "server")
        self.worker = DirectoryStore(directory / "worker")
        self.publish(self.server, self.old.material(SERVER, HOUR, now(), bundle=[self.workers]))
        self.leaf = self.workers.material(WORKER, HOUR, now(), bundle=[self.old])
        self.publish(self.worker, self.leaf)
        self.envoy = EnvoyServer(directory / "run", certificates=self.server.path, admits=[WORKER])
        (directory / "broker").touch()
        self.place = Place(
            broker_file=directory / "broker",
            results=directory / "results",
            certificates=self.worker.path,
            report=directory / "report.json",
            server_identity=SERVER,
        )

    def publish(self, store: DirectoryStore, material: Material) -> None:
        current = store.read()
        stamp = Stamp(subject=SubjectName("test"), rotation_id="r", leaf_published_at=now(), bundle_published_at=now())
        store.put(material, expected=current.number if current else 0, stamp=stamp)

    def called(self) -> Place:
        """Return the worker's place, with the service's address."""
        return replace(self.place, server=self.envoy.address)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    with stage.envoy:
        yield stage


def test_the_leaf_is_loaded_once_and_the_bundle_each_time(stage: Stage) -> None:
    """A new leaf needs a new caller; a new bundle is believed at the next call."""
    place = stage.called()
    caller = Caller(place, stage.worker.path)
    assert stage.leaf.leaf.serial == caller.call()
    newer = stage.workers.material(WORKER, HOUR, now(), bundle=[stage.new, stage.old])
    stage.publish(stage.worker, newer)
    assert stage.leaf.leaf.serial == caller.call()
    assert newer.leaf.serial == Caller(place, stage.worker.path).call()
    assert place.report is not None
    seen = ReportProbe(place.report, clock=SystemClock()).look()
    assert newer.leaf.serial == seen.serial
    assert seen.bundle is not None
    assert {stage.new.authority.serial, stage.old.authority.serial} == set(seen.bundle)


def test_a_server_of_an_untrusted_authority_is_refused(stage: Stage) -> None:
    """The bundle of the moment decides: without the server's authority there is no call."""
    caller = Caller(stage.called(), stage.worker.path)
    stage.publish(stage.worker, stage.workers.material(WORKER, HOUR, now(), bundle=[stage.new]))
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        caller.call()


def test_another_identity_under_the_right_authority_is_refused(stage: Stage) -> None:
    """The chain alone admits nobody."""
    place = stage.called()
    other = replace(place, server_identity=SERVER + "-2")
    with pytest.raises(Rejected, match=r"not spiffe://mesh\.test/server-2$"):
        Caller(other, stage.worker.path).call()


def test_without_a_leaf_there_is_no_worker(stage: Stage, tmp_path: Path) -> None:
    """A worker that has no certificate does not start."""
    with pytest.raises(Unavailable, match="no certificate can be read"):
        Caller(stage.called(), tmp_path / "nothing")


def test_a_place_travels_as_environment() -> None:
    """What is written as variables is read back; what is missing is named."""
    place = Place(broker_file=Path("/b"), results=Path("/r"), server="h:1", remote_control=False)
    assert place == Place.from_environment(place.environment())
    with pytest.raises(ConfigError, match="ROTATOR_WORKER_BROKER_FILE"):
        Place.from_environment({})


def test_a_worker_proves_its_leaf_and_its_tasks(stage: Stage, tmp_path: Path) -> None:
    """It reports its own leaf as soon as it is ready; each task says which serial the server saw."""
    valkey = ValkeyServer(tmp_path / "valkey")
    place = stage.called()
    place.broker_file.write_text(valkey.url)
    worker = ServerProcess("worker-1", worker_command("worker-1"), log=tmp_path / "worker.log", env=place.environment())
    report = place.report
    assert report is not None
    ledger = TaskLedger(valkey.url, place.results)
    with valkey, worker:
        valkey.run()
        worker.start(ready=report.exists, within=PATIENCE)
        assert {"serial": stage.leaf.leaf.serial, "bundle": [stage.old.authority.serial]} == json.loads(
            report.read_text()
        )
        (task,) = ledger.submit(1, seconds=(1.2, 1.2), task=CALL_SERVICE)
        wait_until(lambda: not ledger.lost(), within=PATIENCE, what="the task")
        (line,) = ledger.lines()
        assert (task, "celery@worker-1", stage.leaf.leaf.serial, True, []) == tuple(
            line[name] for name in ("task", "worker", "serial", "ok", "failures")
        )
        assert isinstance(line["calls"], int)
        assert line["calls"] >= 2
        ledger.close()
