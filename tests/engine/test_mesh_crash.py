"""Crash before, crash after, lost reply and refusal at every call of a mesh's rotation: a fresh engine finishes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.errors import Conflict, Denied, Unavailable
from tests.engine.mesh_accounts import accounts_of
from tests.engine.mesh_world import HOUR, MeshWorld
from tests.fakes.faults import Crash, Faults
from tests.fakes.mesh import Model

Fault = Callable[[Faults, int], None]

FAULTS: dict[str, Fault] = {
    "crash before": Faults.crash_before,
    "crash after": Faults.crash_after,
    "reply lost": Faults.lose_reply,
    "refused": lambda faults, n: faults.refuse(n, Denied),
    "changed by somebody": lambda faults, n: faults.refuse(n, Conflict),
}
TICK = timedelta(seconds=20)


def _adopt(world: MeshWorld) -> None:
    world.adopted()


def _rotate(world: MeshWorld) -> None:
    world.rotate()
    world.finish(tick=TICK)


def _roll_back(world: MeshWorld) -> None:
    world.rotate()
    world.run(until=lambda: world.number == 2, span=HOUR)
    world.roll_back()
    world.finish(tick=TICK)


JOBS: dict[str, Callable[[MeshWorld], None]] = {"adoption": _adopt, "rotation": _rotate, "rollback": _roll_back}


def _world(directory: Path, name: str, job: str) -> MeshWorld:
    """Return a world just before *job*: of two proxies that follow with a lag."""
    place = directory / name
    place.mkdir()
    world = MeshWorld(place, proxies=2, builtin=job == "adoption", model=Model.TOGETHER, vanished_are_gone=False)
    if job != "adoption":
        world.adopted()
    return world


# A world for each call and fault: minutes on busy cores.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("job", JOBS)
def test_law_13_every_call_may_be_the_last(tmp_path: Path, job: str, fault: str) -> None:
    """Whichever call is the last, lost or refused: no pair breaks, and accounts close with secrets, PKI and ledger."""
    clean = _world(tmp_path, "clean", job)
    before = len(clean.faults.calls)
    JOBS[job](clean)
    calls = clean.faults.calls[before:]
    assert [] == accounts_of(clean)
    clean.close()
    assert len(calls) >= 10
    # What only looks has no effect to lose: crash at every write, and at a look now and then.
    for n in (n for n, call in enumerate(calls, 1) if call not in {"mesh.look", "authorities.observe"} or n % 7 == 0):
        world = _world(tmp_path, f"{n}", job)
        try:
            FAULTS[fault](world.faults, n)
            with contextlib.suppress(Crash, Unavailable, Denied, Conflict):
                JOBS[job](world)
            world.restart()
            if not world.rotations() or (job != "adoption" and len(world.rotations()) == 1):
                # The request itself was lost: whoever asked was told, and asks again.
                JOBS[job](world)
            world.finish(tick=TICK)
            world.run(span=timedelta(minutes=3), tick=timedelta(seconds=30))
            world.finish()
            assert [] == accounts_of(world), f"{job}, {fault} {n}: {calls[max(0, n - 6) : n + 3]}"
        finally:
            world.close()
