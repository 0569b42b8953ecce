"""
Rotations of a mesh at the stand-in control plane, both models, by the real state machine, without one refused pair.

The stand-in behaves as Kuma's sources say; no released control plane has confirmed it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from rotator.adapters.kuma.about import Model
from rotator.core.model import IntentKind
from rotator.errors import Unavailable
from tests.adapters.kuma_meshes import MeshWorld

KINDS = {
    "provided-2.14": ("2.14.3", Model.PROVIDED),
    "identity-2.14": ("2.14.3", Model.IDENTITY),
    "identity-3.0": ("3.0.1", Model.IDENTITY),
}


@pytest.fixture(params=sorted(KINDS))
def world(request: pytest.FixtureRequest) -> Iterator[MeshWorld]:
    """Give a mesh of each model that runs on generation 1."""
    version, model = KINDS[request.param]
    with MeshWorld(version=version, model=model) as world:
        world.first()
        yield world


def test_two_rotations_in_a_row_break_no_pair(world: MeshWorld) -> None:
    """Generation follows generation, and nothing of the old ones is left."""
    world.rotate()
    world.rotate()

    assert ([], (3,), 3) == (world.broken, world.numbers(), world.active())
    assert {"g3-cert", "g3-key"} == {each.purpose for each in world.plane.secrets.held()}


def test_law_07_a_rollback_breaks_no_pair_and_a_rotation_follows_it(world: MeshWorld) -> None:
    """The old generation signs again, the new one goes, and the next number is used then."""
    world.rotate(until=lambda _: world.steps[-1:] == ["activate"])
    world.tick(20)

    world.rotate(world.intent(IntentKind.ROLL_BACK))

    assert ([], (1,), 1) == (world.broken, world.numbers(), world.active())
    world.rotate()
    assert ([], (3,), 3) == (world.broken, world.numbers(), world.active())


def test_law_08_a_compromised_generation_is_left_at_once(world: MeshWorld) -> None:
    """It is revoked, nobody is waited for, and the mesh ends on another one that every pair trusts."""
    intent = replace(world.intent(), kind=IntentKind.COMPROMISE)

    world.rotate(intent)
    world.tick(20)

    assert ({}, (2,), 2) == (world.standin.failures(), world.numbers(), world.active())
    assert ["PrepareIssuer", "RevokeIssuer", "activate"] == world.steps[:3]
    assert 1 == len([each for each in world.mesh.strays() if each.revoked_at is not None])


def test_law_12_what_was_signed_and_never_kept_is_found(world: MeshWorld) -> None:
    """A CA that the corporate PKI signed, whose secrets were never made, shows among the strays."""
    announced: list[str] = []
    whole = world.plane

    class Full:
        """Secrets into which nothing goes any more."""

        held, read, remove = whole.secrets.held, whole.secrets.read, whole.secrets.remove

        def create(self, purpose: str, value: bytes) -> str:
            raise Unavailable(f"no room for {purpose} of {len(value)} bytes")

    world.plane = replace(whole, secrets=Full())
    with pytest.raises(Unavailable):
        world.mesh.prepare(world.order(2, announce=announced.append))
    world.plane = whole

    held = frozenset(each.authority.serial for each in world.mesh.observe().generations)
    assert announced == [each.spki_sha256 for each in world.mesh.strays(held)]
    world.rotate()
    assert ([], 2) == (world.broken, world.active())
