"""
How long a roll of workers takes, against the ideal: the longest task plus a start, once for each wave.

Rules that must stay true here:

- Real workers of a real broker, every slot of each of them busy all the time, and the daemon as it is installed.
- A start is measured in the same run, on the same workers. A roll that loses a task is no figure but a failure.
- What rotator adds is what is left of a roll without what tasks and starts took; they are read from the tasks' own
  lines and the daemon's records.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from tests.bench.figures import Figure
from tests.fixtures_celery import CeleryFleet
from tests.fixtures_workers import WORKER_LEAF, WorkerInstallation

NAME = "rolls"
ROLLS = ((2, 1), (4, 1), (4, 2))
"""How many workers, and how many of them at a time."""
SLOTS = 2
"""Tasks that one worker does at a time."""
PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """What one roll took, in seconds."""

    whole: float
    """From the first worker that was told to drain to the certificate's proof."""
    working: float
    """In sum over the waves: from the drain of a worker to the end of its last task, the longest of each wave."""
    start: float
    """What a worker takes to start until it consumes, on average."""
    waves: int
    workers: int


@contextlib.contextmanager
def busy(fleet: CeleryFleet, longest: float) -> Iterator[None]:
    """Keep every slot busy with tasks of *longest* seconds; then wait for their end, and see that each had one."""
    stop = threading.Event()

    def give() -> None:
        while not stop.wait(0.1):
            missing = SLOTS * len(fleet.members) - len(fleet.ledger.lost())
            if missing > 0:
                fleet.ledger.submit(missing, seconds=(longest, longest))

    giver = threading.Thread(target=give)
    giver.start()
    try:
        yield
    finally:
        stop.set()
        giver.join()
    wait_until(lambda: not fleet.ledger.lost(), within=PATIENCE, what="every task to end")
    assert not fleet.ledger.repeated()


def started_in(fleet: CeleryFleet) -> float:
    """Start every worker, one after the other; return how long one took until it consumed, on average."""
    began = time.monotonic()
    for member in fleet.members:
        fleet.workloads.replace(member.name, forced=False)
        node = fleet.nodes[member.name].node

        def consumes(node: str = node) -> bool:
            answer = fleet.control.look([node]).get(node)
            return answer is not None and answer.queues == fleet.queues

        wait_until(consumes, within=PATIENCE, what=f"{node} to consume")
    return (time.monotonic() - began) / len(fleet.members)


def roll(directory: Path, openbao: OpenBaoServer, workers: int, at_a_time: int, longest: float) -> Roll:
    """Roll so many workers under load."""
    directory.mkdir()
    names = [f"worker-{number}" for number in range(workers)]
    with CeleryFleet(directory, names=names) as fleet:
        start = started_in(fleet)
        installation = WorkerInstallation(
            directory,
            openbao,
            members=fleet.members,
            processes=fleet.workloads,
            broker=fleet.valkey.url,
            queues=sorted(fleet.queues),
            workload={"max_unavailable": at_a_time},
        )
        with installation, busy(fleet, longest):
            wait_until(lambda: all(each.busy for each in fleet.seen()), within=PATIENCE, what="busy workers")
            known = len(installation.events())
            installation.rotate(WORKER_LEAF)
            wait_until(
                lambda: installation.done_since(known),
                within=workers * timedelta(seconds=longest) + PATIENCE,
                what="the roll",
                every=timedelta(milliseconds=100),
            )
            events = installation.events()[known:]
        drained = {
            str(each.detail["member"]): each.time
            for each in events
            if (each.type, each.result) == (EventType.DRAINED, "started")
        }
        released = {
            str(each.detail["member"]): each.time
            for each in events
            if (each.type, each.result) == (EventType.DRAINED, "ok")
        }
        done = next(each.time for each in events if each.type is EventType.COMPLETED)
        order = sorted(drained, key=lambda name: drained[name])
        lines = fleet.ledger.lines()

        def worked(name: str) -> float:
            ends = [
                moment
                for line in lines
                if line["worker"] == fleet.nodes[name].node
                and drained[name] <= (moment := datetime.fromisoformat(str(line["finished"]))) <= released[name]
            ]
            return (max(ends) - drained[name]).total_seconds() if ends else 0.0

        waves = [order[at : at + at_a_time] for at in range(0, workers, at_a_time)]
        return Roll(
            whole=(done - drained[order[0]]).total_seconds(),
            working=sum(max(map(worked, wave)) for wave in waves),
            start=start,
            waves=len(waves),
            workers=workers,
        )


def bench(directory: Path, seconds: float) -> list[Figure]:
    """Roll several sizes with tasks of *seconds*."""
    figures = []
    with OpenBaoServer(directory / "openbao") as openbao:
        openbao.provision_corporate()
        for workers, at_a_time in ROLLS:
            found = roll(directory / f"{workers}-{at_a_time}", openbao, workers, at_a_time, seconds)
            ideal = found.waves * (seconds + found.start)
            own = (found.whole - found.working - found.waves * found.start) / found.waves
            what = f"{workers} workers, {at_a_time} at a time, tasks of {seconds:g} s"
            figures += [
                Figure(
                    bench=NAME,
                    name=f"{what}: roll / {found.waves} x (longest task + start)",
                    value=found.whole / ideal,
                    unit="ratio",
                    aim="<= 1.5",
                ),
                Figure(bench=NAME, name=f"{what}: rotator's own part of each wave", value=own, unit="s"),
                Figure(bench=NAME, name=f"{what}: start of a worker", value=found.start, unit="s"),
            ]
    return figures
