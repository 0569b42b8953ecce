"""
Real Celery workers on a real Valkey, started by `Processes` as rotator starts them.

Rules that must stay true here:

- A task whose length something is asserted by ends when its test says so (`working`), not after a time.
- The workers are nobody's children: whoever makes a `CeleryFleet` closes it, and it kills exactly what it started.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rotator.adapters.airflow.celery import CeleryDrainer, CeleryNode
from rotator.adapters.airflow.remote_control import RemoteControl
from rotator.adapters.processes import CommandMember, Processes
from rotator.adapters.processes.seen import Process, held, process, session_of
from rotator.clock import SystemClock
from rotator.core.model import Member, SubjectName
from rotator.embedded.celery_worker import TaskLedger, node_name, worker_command
from rotator.embedded.process import LOOPBACK, free_port, wait_until
from rotator.embedded.tasks import Place
from rotator.embedded.valkey import ValkeyServer

PATIENCE = timedelta(seconds=60)
"""How long anything may take on a machine that is busy with other things."""


class Gate:
    """The end of some tasks, in the hands of a test: they go on until it is opened."""

    def __init__(self, path: Path) -> None:
        """Let *path* be the file that tasks wait for."""
        self.path = path
        self.tasks: tuple[str, ...] = ()

    def open(self) -> None:
        """Let the tasks come to their end; twice is once."""
        self.path.touch()

    def open_for(self, worker: str) -> None:
        """Let those come to their end that this worker has."""
        Path(f"{self.path}.{node_name(worker)}").touch()


class CeleryFleet:
    """A broker, workers, and the two ports over them."""

    def __init__(
        self,
        directory: Path,
        *,
        names: Iterable[str] = ("worker-1", "worker-2"),
        queues: Iterable[str] = ("default",),
        stop_timeout: timedelta = PATIENCE,
        remote_control: bool = True,
        wrapped: bool = False,
        answer_within: timedelta = timedelta(seconds=5),
    ) -> None:
        """Start the broker; workers are started by `start` or `Processes.replace`."""
        self.directory = directory
        self.valkey = ValkeyServer(directory / "valkey")
        self.valkey.run()
        self.broker_up = True
        broker_file = directory / "broker"
        broker_file.write_text(self.valkey.url)
        self.place = Place(broker_file=broker_file, results=directory / "results", remote_control=remote_control)
        self.queues = frozenset(queues)
        wrapper = ("sh", "-c", '"$@"; exit $?', "sh") if wrapped else ()
        self.members = tuple(
            CommandMember(
                name=name,
                command=(*wrapper, *worker_command(name, queues=sorted(self.queues))),
                pid_file=directory / f"{name}.pid",
                log_file=directory / f"{name}.log",
                environment=self.place.environment(),
            )
            for name in names
        )
        clock = SystemClock()
        self.workloads = Processes(
            SubjectName("workers"),
            self.members,
            clock=clock,
            stop_timeout=stop_timeout,
            start_timeout=PATIENCE,
            settle=timedelta(milliseconds=200),
        )
        nobody = f"redis://{LOOPBACK}:{free_port()}/0"
        self.control = RemoteControl(
            lambda: self.valkey.url if self.broker_up else nobody, clock=clock, timeout=answer_within
        )
        self.nodes = {name: CeleryNode(node=node_name(name), queues=self.queues) for name in names}
        self.drainer = CeleryDrainer(self.control, self.nodes)
        self.ledger = TaskLedger(self.valkey.url, self.place.results)
        self._gates = itertools.count(1)

    def start_all(self) -> None:
        """Start every worker that does not run."""
        for member in self.workloads.members():
            if not member.running:
                self.workloads.replace(member.name, forced=False)
        wait_until(
            lambda: len(self.control.look(self._node_names())) == len(self.nodes), within=PATIENCE, what="answers"
        )

    def start(self) -> None:
        """Start every worker and wait until all take work."""
        self.start_all()
        self.wait_ready()

    def _node_names(self) -> list[str]:
        return [node.node for node in self.nodes.values()]

    def wait_ready(self) -> None:
        """Wait until every worker takes work."""
        wait_until(lambda: all(member.ready for member in self.seen()), within=PATIENCE, what="ready workers")

    def seen(self) -> tuple[Member, ...]:
        """Return the members as both ports show them."""
        return self.drainer.inspect(self.workloads.members())

    def one(self, name: str) -> Member:
        """Return the member *name* as both ports show it."""
        return next(member for member in self.seen() if member.name == name)

    def main(self, name: str) -> Process:
        """Return the main process of a worker that runs."""
        pid = next(int(member.identity.partition("@")[0]) for member in self.workloads.members() if member.name == name)
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
        rest = session_of(main)
        for each in (main, *rest):
            with held(each) as one:
                if one is not None:
                    one.send(signal.SIGKILL)
                    assert one.ended(PATIENCE)

    @contextmanager
    def working(self, count: int = 1, *, note: str = "") -> Iterator[Gate]:
        """Give *count* tasks that go on until the gate is opened, which it is at the end of the block at the latest."""
        gate = Gate(self.directory / f"gate-{next(self._gates)}")
        try:
            gate.tasks = self.ledger.submit(count, until=gate.path, note=note)
            yield gate
        finally:
            gate.open()

    def close(self) -> None:
        """End everything."""
        for member in self.workloads.members():
            if member.running:
                self.kill(member.name)
        self.ledger.close()
        self.valkey.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def group_of(one: Process) -> int:
    """Return the process group of *one*."""
    return os.getpgid(one.pid)
