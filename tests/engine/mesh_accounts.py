"""
What must be true of a mesh's world whatever happened to it, once nothing is under way.

Rules that must stay true here:

- Judged from the mesh, the corporate PKI's list and the ledger alone, never from what the engine believes.
"""

from __future__ import annotations

from collections import Counter

from rotator.core.event import EventType
from rotator.ports import IssuanceState
from tests.engine.mesh_world import MeshWorld

ENDED = frozenset({IssuanceState.REVOKED, IssuanceState.LAPSED, IssuanceState.NEVER})


def accounts_of(world: MeshWorld) -> list[str]:
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
    for each in begun:
        there, again = moved[each, False], moved[each, True]
        # Who goes back before the successor has signed has nothing to walk back.
        if there > 1 or again != (there if each in back else 0) or (there != 1 and each not in back):
            wrong.append(f"rotation {each} activated {there} times and went back {again} times")
    return wrong
