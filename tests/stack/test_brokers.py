"""
The drain's conversation with brokers that only Debian brings: Redis with TLS, RabbitMQ with and without.

Rules that must stay true here:

- The workers are real ones, and what is asserted is what they do afterwards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.airflow.celery import CeleryDrainer, CeleryNode
from rotator.adapters.airflow.remote_control import BrokerTLS, RemoteControl
from rotator.clock import SystemClock
from rotator.core.model import Member, SubjectName
from rotator.embedded.loopback_tls import listener_certificate, write_private
from rotator.embedded.process import ServerProcess, wait_until
from rotator.errors import Unavailable
from tests.stack.brokers import RabbitMQ, RedisWithTLS

pytestmark = pytest.mark.stack

PATIENCE = timedelta(seconds=120)
NODE = "celery@worker-1"
QUEUES = frozenset({"default", "heavy"})

_WORKER = """
import json, ssl, sys
from celery import Celery
url, tls, remote = json.loads(sys.argv[1])
app = Celery("tests", broker=url, set_as_current=True)
app.conf.update(worker_enable_remote_control=remote, task_default_queue="default", broker_use_ssl=tls or None,
                broker_connection_retry_on_startup=True)
app.worker_main(["worker", "--pool=solo", "--loglevel=INFO", "--without-gossip", "--without-mingle",
                 "--without-heartbeat", "--hostname=celery@worker-1", "--queues=default,heavy"])
"""


class Files:
    """Certificate files: one pair for the broker, and the same for its clients."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.crt", "tls.crt", "tls.key"))
        certificate, key = listener_certificate(self.ca)
        self.certificate.write_bytes(certificate)
        write_private(self.key, key)

    @property
    def tls(self) -> BrokerTLS:
        return BrokerTLS(ca_file=self.ca, certificate_file=self.certificate, key_file=self.key)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def rabbit(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with RabbitMQ(
        tmp_path_factory.mktemp("rabbitmq"), ca=files.ca, certificate=files.certificate, key=files.key
    ) as broker:
        yield broker


@contextmanager
def worker(directory: Path, url: str, tls: dict[str, object] | None = None, *, remote: bool = True) -> Iterator[None]:
    """Run a real worker of a broker."""
    server = ServerProcess(
        "a worker",
        [sys.executable, "-c", _WORKER, json.dumps([url, tls, remote])],
        log=directory / "worker.log",
    )
    with server:
        server.start(ready=lambda: "ready." in server.log_tail(5), within=PATIENCE)
        yield


def control_of(url: str, tls: BrokerTLS | None = None) -> RemoteControl:
    return RemoteControl(lambda: url, clock=SystemClock(), timeout=timedelta(seconds=10), tls=tls)


def drained_and_back(control: RemoteControl) -> None:
    """Drain the worker and give it its queues back, as a roll that is deferred does."""
    drainer = CeleryDrainer(control, {"worker-1": CeleryNode(node=NODE, queues=QUEUES)})
    member = Member(workload=SubjectName("workers"), name="worker-1", running=True, ready=True, started_at=None)

    def seen() -> Member:
        return drainer.inspect([member])[0]

    wait_until(lambda: seen().ready, within=PATIENCE, what="a ready worker")
    drainer.drain(member)
    wait_until(lambda: seen().draining, within=PATIENCE, what="a drained worker")
    assert (True, 0, False) == (seen().draining, seen().busy, seen().ready)
    drainer.undrain(member)
    wait_until(lambda: seen().ready, within=PATIENCE, what="a worker that consumes again")
    assert QUEUES == control.look([NODE])[NODE].queues


def test_redis_over_tls_with_a_client_certificate(files: Files, tmp_path: Path) -> None:
    """A worker of a Redis that speaks TLS alone is drained and undrained."""
    with RedisWithTLS(tmp_path / "redis", ca=files.ca, certificate=files.certificate, key=files.key) as broker:
        tls: dict[str, object] = {
            "ssl_cert_reqs": "required", "ssl_ca_certs": str(files.ca),
            "ssl_certfile": str(files.certificate), "ssl_keyfile": str(files.key),
        }  # fmt: skip
        with worker(tmp_path, broker.url, tls):
            drained_and_back(control_of(broker.url, files.tls))
            # What the URL says of verification is not believed, and no certificate is no entry.
            lax = f"{broker.url}?ssl_cert_reqs=none"
            drained_and_back(control_of(lax, files.tls))
            with pytest.raises(Unavailable):
                control_of(lax, BrokerTLS(certificate_file=files.certificate, key_file=files.key)).look([NODE])
            with pytest.raises(Unavailable):
                control_of(broker.url, BrokerTLS(ca_file=files.ca)).look([NODE])


def test_rabbitmq(rabbit: RabbitMQ, tmp_path: Path) -> None:
    """A worker of a RabbitMQ is drained and undrained, and its mailbox is seen."""
    with worker(tmp_path, rabbit.url):
        control = control_of(rabbit.url)
        drained_and_back(control)
        assert frozenset({NODE}) == control.mailboxes([NODE, "celery@nobody"])


def test_rabbitmq_over_tls_with_a_client_certificate(rabbit: RabbitMQ, files: Files, tmp_path: Path) -> None:
    """The port with TLS takes our certificate, and neither a stranger's broker nor a client without one passes."""
    with worker(tmp_path, rabbit.url):
        drained_and_back(control_of(rabbit.tls_url, files.tls))
        stranger = Files(tmp_path)
        with pytest.raises(Unavailable):
            control_of(rabbit.tls_url, stranger.tls).look([NODE])
        with pytest.raises(Unavailable):
            control_of(rabbit.tls_url, BrokerTLS(ca_file=files.ca)).look([NODE])


def test_rabbitmq_knows_who_does_not_listen(rabbit: RabbitMQ, tmp_path: Path) -> None:
    """A worker whose remote control is off has no mailbox."""
    with worker(tmp_path, rabbit.url, remote=False):
        control = control_of(rabbit.url)
        assert {} == control.look([NODE])
        assert frozenset() == control.mailboxes([NODE])
