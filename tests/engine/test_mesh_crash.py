"""Crash before, crash after, lost reply and refusal at every call of a mesh's rotation: a fresh engine finishes it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.errors import Conflict, Denied, Unavailable
from rotator.ports import IssuanceState
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
ENDED = frozenset({IssuanceState.REVOKED, IssuanceState.LAPSED, IssuanceState.NEVER})


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


def _wrong(world: MeshWorld) -> list[str]:
    """Return every account that does not close: secrets, orders, records."""
    held = {each.authority.serial: each.number for each in world.held()}
    wrong = [] if len(world.mesh.secrets()) == 2 * len(held) else [f"left over: {world.mesh.secrets()}"]
    rows = {each.serial: each.state for each in world.store.issuances(states=frozenset(IssuanceState))}
    wrong += [
        f"{each.subject} is {rows.get(each.serial)}"
        for each in world.mesh.strays()
        if each.serial not in held and rows.get(each.serial) not in ENDED
    ]
    wrong += [f"{each} is held and {rows.get(each)}" for each in held if rows.get(each) is not IssuanceState.PUBLISHED]
    events = world.events()
    issued = Counter(each.new.serial for each in events if each.type is EventType.ISSUED and each.new)
    wrong += [
        f"{each.serial} is issued {issued[each.serial]}" for each in world.mesh.strays() if issued[each.serial] != 1
    ]
    given = Counter(
        (each.rotation_id, str(each.detail["bundle_sha256"])) for each in events if each.type is EventType.DISTRIBUTED
    )
    wrong += [f"{key} is given {count} times" for key, count in given.items() if count != 1]
    begun = {each.rotation_id for each in events if each.type is EventType.INTENT}
    outcomes = {EventType.COMPLETED, EventType.ROLLED_BACK}
    ended = {each.rotation_id for each in events if each.type in outcomes}
    wrong += [f"rotation {each} has no outcome" for each in begun - ended]
    moved = Counter((each.rotation_id, each.detail["back"]) for each in events if each.type is EventType.ACTIVATED)
    back = {each.rotation_id for each in events if each.type is EventType.ROLLED_BACK}
    wrong += [f"rotation {each} activated {moved[each, False]} times" for each in begun if moved[each, False] != 1]
    return wrong + [f"rotation {each} went back {moved[each, True]} times" for each in back if moved[each, True] != 1]


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
    assert [] == _wrong(clean)
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
            assert [] == _wrong(world), f"{job}, {fault} {n}: {calls[max(0, n - 6) : n + 3]}"
        finally:
            world.close()
