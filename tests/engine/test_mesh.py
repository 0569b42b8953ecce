"""The laws for a mesh, whose control plane signs and whose proxies follow: each with a test that fails without it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import pytest

from tests.engine.mesh_world import HOUR, MeshWorld
from tests.fakes.mesh import Model

MINUTE = timedelta(minutes=1)


class Make(Protocol):
    """Makes a world of the model under test."""

    def __call__(
        self, *, proxies: int = 3, vanished_are_gone: bool = True, builtin: bool = False, consumers: int = 0
    ) -> MeshWorld: ...


@pytest.fixture(params=list(Model))
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes worlds of one model after the other, and closes them."""
    made: list[MeshWorld] = []

    def one(
        *, proxies: int = 3, vanished_are_gone: bool = True, builtin: bool = False, consumers: int = 0
    ) -> MeshWorld:
        place = tmp_path / str(len(made))
        place.mkdir()
        world = MeshWorld(
            place,
            proxies=proxies,
            model=request.param,
            vanished_are_gone=vanished_are_gone,
            builtin=builtin,
            consumers=consumers,
        )
        made.append(world)
        return world

    yield one
    for each in made:
        each.close()


def test_a_mesh_is_adopted_and_rotated_twice_and_back(make: Make) -> None:
    """From no CA to generation 1, 2 and 3 and back to 3 from 4: no pair breaks, and no secret is left over."""
    world = make()
    world.adopted()
    assert 1 == world.number
    for number in (2, 3):
        world.rotate()
        world.finish()
        assert number == world.number
    world.rotate()
    world.run(until=lambda: world.number == 4, span=HOUR)
    world.roll_back()
    world.finish()
    assert (3, ["g3-cert", "g3-key"]) == (world.number, world.mesh.secrets())
