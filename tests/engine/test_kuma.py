"""The engine leads a mesh at the stand-in control plane: both models, from adoption to rotation and back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.kuma.about import Model
from rotator.core.event import EventType
from tests.engine.kuma_world import HOUR, KumaWorld

KINDS = {
    "provided-2.14": ("2.14.3", Model.PROVIDED),
    "identity-2.14": ("2.14.3", Model.IDENTITY),
    "identity-3.0": ("3.0.1", Model.IDENTITY),
}


@pytest.fixture(params=sorted(KINDS))
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KumaWorld]:
    """Give a mesh of each model that has no CA yet."""
    version, model = KINDS[request.param]
    made = KumaWorld(tmp_path, version=version, model=model)
    yield made
    made.close()


def _first(world: KumaWorld) -> None:
    """Have the mesh adopted, whatever that interrupts."""
    assert [] == world.adopt(words="nobody uses it yet")
    world.finish()
    world.run(span=timedelta(seconds=30))
    world.broken.clear()
    assert 1 == world.row()["generation"]


def test_from_no_ca_over_two_rotations_to_a_rollback_no_pair_breaks(world: KumaWorld) -> None:
    """Generation 1, 2, 3, and from 4 back to 3: every pair speaks at every moment, and no secret is left over."""
    _first(world)
    for number in (2, 3):
        world.rotate()
        world.finish()
        assert ([], number) == (world.broken, world.row()["generation"])
    world.rotate()
    world.run(until=lambda: world.kuma.active() == 4, span=HOUR)
    world.roll_back()
    world.finish()
    assert ([], 3, (3,)) == (world.broken, world.row()["generation"], world.kuma.numbers())
    assert {"g3-cert", "g3-key"} == {each.purpose for each in world.kuma.plane.secrets.held()}
    given = world.events(EventType.DISTRIBUTED)
    assert len(given) == len({(each.rotation_id, each.detail["bundle_sha256"]) for each in given})


def test_a_restart_after_every_step_changes_nothing(world: KumaWorld) -> None:
    """A daemon that is killed and started anew every few seconds leads a rotation to its end."""
    _first(world)
    world.rotate()
    for _ in range(400):
        world.run(span=timedelta(seconds=4), tick=timedelta(seconds=2))
        world.restart()
        if world.settled():
            break
    world.finish()
    assert ([], 2, (2,)) == (world.broken, world.row()["generation"], world.kuma.numbers())


def test_a_control_plane_that_is_away_for_a_while_is_waited_for(world: KumaWorld) -> None:
    """In every phase a restart of the control plane delays the rotation and breaks nothing."""
    _first(world)
    world.rotate()
    for _ in range(6):
        world.kuma.standin.down()
        world.run(span=timedelta(seconds=5))
        world.kuma.standin.up()
        world.run(span=timedelta(seconds=20))
    world.finish()
    assert ([], 2, (2,)) == (world.broken, world.row()["generation"], world.kuma.numbers())
