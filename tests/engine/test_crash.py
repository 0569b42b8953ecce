"""Crash before, crash after and lost reply at every external call: a fresh engine finishes and the accounts close."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.core.model import SubjectKind, SubjectName
from rotator.errors import Denied
from tests.engine.accounts import everything_wrong
from tests.engine.world import MESH, World
from tests.fakes.faults import Crash, Faults

Fault = Callable[[Faults, int], None]

FAULTS: dict[str, Fault] = {
    "crash before": Faults.crash_before,
    "crash after": Faults.crash_after,
    "reply lost": Faults.lose_reply,
    "refused": lambda faults, n: faults.refuse(n, Denied),
}
SETTLE = timedelta(hours=3)


def _world(directory: Path, name: str) -> World:
    """Return a settled world of two services."""
    place = directory / name
    place.mkdir()
    world = World(place, certificates=2)
    world.run(until=world.settled)
    return world


def _until_renewed(world: World) -> None:
    """Ask for one service's leaf and run until it is in use."""
    world.ask(SubjectName("service-0"), SubjectKind.CERTIFICATE)
    world.run(until=world.settled, span=SETTLE, tick=timedelta(seconds=20))


def _until_rotated(world: World) -> None:
    """Ask for a CA rotation and run until it is over."""
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=world.settled, span=SETTLE, tick=timedelta(seconds=20))


JOBS: dict[str, Callable[[World], None]] = {"leaf": _until_renewed, "ca": _until_rotated}


def _calls(directory: Path, job: str) -> int:
    """Return how many external calls the job makes when nothing goes wrong."""
    world = _world(directory, "clean")
    try:
        before = len(world.faults.calls)
        JOBS[job](world)
        assert everything_wrong(world) == []
        return len(world.faults.calls) - before
    finally:
        world.close()


# Some eighty worlds one after the other: minutes on two busy cores.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("job", JOBS)
def test_law_13_every_call_may_be_the_last(tmp_path: Path, job: str, fault: str) -> None:
    """Whichever external call is the last, lost or refused, no pair is mismatched, no certificate is lost."""
    total = _calls(tmp_path, job)
    assert total >= {"leaf": 5, "ca": 20}[job]
    for n in range(1, total + 1):
        world = _world(tmp_path, f"{n}")
        try:
            FAULTS[fault](world.faults, n)
            with contextlib.suppress(Crash):
                JOBS[job](world)
            world.restart()
            world.run(until=world.settled, span=SETTLE, tick=timedelta(seconds=20))
            world.run(span=timedelta(minutes=3), tick=timedelta(seconds=30))
            world.run(until=world.settled, span=SETTLE)
            assert everything_wrong(world) == [], f"{job}, {fault} {n}: {world.faults.calls[-12:]}"
        finally:
            world.close()


def test_law_14_restart_issues_nothing(tmp_path: Path) -> None:
    """A restart in a settled world issues nothing and publishes nothing."""
    world = _world(tmp_path, "still")
    try:
        before = len(world.events(EventType.ISSUED, EventType.DISTRIBUTED))
        for _ in range(5):
            world.restart()
            world.run(span=timedelta(seconds=30))
        assert len(world.events(EventType.ISSUED, EventType.DISTRIBUTED)) == before
    finally:
        world.close()
