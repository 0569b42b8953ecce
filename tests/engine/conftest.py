"""Worlds for engine tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.mesh_world import Make, MeshWorld
from tests.engine.world import World
from tests.fakes.mesh import Model


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world of three services in one trust domain, nothing published yet."""
    made = World(tmp_path)
    yield made
    made.close()


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
