"""A stolen key is left behind from every state, by its own phases, and nothing of it stays."""

from __future__ import annotations

from random import Random

import pytest

from rotator.core.model import IntentKind
from rotator.core.movement import Next
from rotator.core.steps import ActivateIssuer, Nothing, PrepareIssuer, RevokeIssuer
from tests.core.simulated_mesh import MINUTE, Fault, SimulatedMesh


def mesh_somewhere(seed: int) -> SimulatedMesh:
    """Return a mesh somewhere in its life: steady, in the middle of a rotation, or rolling back."""
    chance = Random(seed)  # noqa: S311 -- a repeatable start
    mesh = SimulatedMesh()
    mesh.run(2 * MINUTE)
    if seed % 3:
        mesh.open(IntentKind.ROTATE)
        for _ in range(chance.randrange(12)):
            mesh.step(chance.choice(list(Fault)))
            mesh.renew_all()
            mesh.load_all()
            mesh.now += MINUTE
    if seed % 3 == 2 and mesh.intent is not None:
        mesh.open(IntentKind.ROLL_BACK)
        mesh.step()
    return mesh


@pytest.mark.parametrize("seed", range(30))
def test_law_08_compromise_ends_with_one_fresh_generation_that_alone_is_trusted(seed: int) -> None:
    """Whatever was under way, with lost replies and a consumer that is away: the stolen one is gone."""
    chance = Random(seed)  # noqa: S311 -- a repeatable run
    mesh = mesh_somewhere(seed)
    before = set(mesh.generations)
    mesh.intent = None
    mesh.open(IntentKind.COMPROMISE)
    away = chance.choice(list(mesh.consumers.values()))
    away.reachable = False
    taken: list[Next] = []
    for _ in range(80):
        if mesh.intent is None:
            break
        taken.append(mesh.step(chance.choice([Fault.NONE, Fault.NONE, Fault.LOST, Fault.TWICE, Fault.NEVER])))
        mesh.now += MINUTE / 6
    assert mesh.intent is None
    assert 1 == len(mesh.generations)
    assert not before & set(mesh.generations)
    for consumer in mesh.consumers.values():
        assert consumer.store is not None
        assert {mesh.active} == consumer.store.trusts
        assert mesh.active == consumer.store.leaf.issuer
    kinds = [type(each) for each in taken]
    assert kinds.index(PrepareIssuer) < kinds.index(RevokeIssuer) < kinds.index(ActivateIssuer)
    assert isinstance(mesh.decide().next, Nothing)
