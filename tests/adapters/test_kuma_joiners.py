"""Proxies that come, go and lag, and control planes that restart, in every phase of a rotation of both models."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from rotator.adapters.kuma.about import Model
from rotator.core.authority import decide
from rotator.core.steps import Wait
from tests.adapters.kuma_meshes import POLICY, MeshWorld

PHASES = ("PrepareIssuer", "PublishBundle", "activate", "RetireIssuer")


@pytest.fixture(params=[Model.PROVIDED, Model.IDENTITY])
def world(request: pytest.FixtureRequest) -> Iterator[MeshWorld]:
    """Give a mesh of each model on generation 1."""
    with MeshWorld(model=request.param) as world:
        world.first()
        yield world


@pytest.mark.parametrize("phase", PHASES)
def test_law_19_a_proxy_that_joins_in_any_phase_is_served_at_once(world: MeshWorld, phase: str) -> None:
    """It is given what is right then and next: no pair distrusts another, and the rotation counts it."""

    def join() -> None:
        world.standin.add_proxy("joiner")

    world.after[phase] = join

    world.rotate()
    world.tick(20)

    # Kuma tells its peers that a service speaks TLS once its insight says so: until then they try plaintext.
    assert [] == [each for each in world.broken if not each.endswith("plaintext")]
    assert ({}, 2, (2,)) == (world.standin.failures(), world.active(), world.numbers())
    assert "joiner" in {each.name for each in world.look().parties}


@pytest.mark.parametrize("phase", PHASES)
def test_a_control_plane_that_restarts_in_any_phase_breaks_no_pair(world: MeshWorld, phase: str) -> None:
    """It has forgotten what it gave to whom; proxies get all afresh."""
    world.after[phase] = world.standin.restart

    world.rotate()

    assert ([], 2, (2,)) == (world.broken, world.active(), world.numbers())


def test_law_01_a_proxy_that_is_stopped_before_and_started_after_is_served(world: MeshWorld) -> None:
    """It counts until its last leaf has ended, and starts with what the mesh gives then."""
    world.after["activate"] = lambda: world.standin.stop_proxy("web")

    world.rotate(within=timedelta(hours=6))

    assert ([], 2, (2,)) == (world.broken, world.active(), world.numbers())
    world.standin.start_proxy("web")
    world.tick(20)
    assert [] == world.broken


def test_law_01_a_proxy_cut_off_with_its_leaf_is_waited_for_until_that_ends(world: MeshWorld) -> None:
    """While it may still present a leaf and trusts the old CA alone, the new one does not sign."""
    world.after["PrepareIssuer"] = lambda: world.standin.cut_proxy("web")
    cut_at = world.clock.now()
    intent = world.intent()

    world.rotate(intent, until=lambda _: world.steps[-1:] == ["activate"], within=timedelta(hours=6))

    assert world.clock.now() - cut_at > timedelta(minutes=30)
    assert 2 == world.active()


def test_law_01_a_frozen_proxy_is_named_and_holds_the_rotation(world: MeshWorld) -> None:
    """It is online, and never shows the new bundle: the old CA goes on signing, and nothing breaks."""
    world.standin.proxies["web"].is_frozen = True
    intent = world.intent()

    with pytest.raises(AssertionError, match="not done: Wait"):
        world.rotate(intent, within=timedelta(minutes=5))

    view = world.look()
    decision = decide(intent, world.seen(view), POLICY, world.clock.now())
    assert isinstance(decision.next, Wait)
    assert ("web",) == decision.next.on
    assert ([], 1) == (world.broken, world.active())
    world.standin.proxies["web"].is_frozen = False
    world.rotate(intent)
    assert ([], 2, (2,)) == (world.broken, world.active(), world.numbers())


def test_a_global_control_plane_gates_on_the_proxies_of_its_zones() -> None:
    """The provided model through a Global control plane: every zone's proxies are parties."""
    with MeshWorld(mode="global", zones=("east", "west")) as world:
        world.first()
        names = [str(each.name) for each in world.look().parties[1:]]
        assert 5 == len(names)
        world.standin.proxies["worker-1"].is_frozen = True
        intent = world.intent()

        with pytest.raises(AssertionError, match="worker-1"):
            world.rotate(intent, within=timedelta(minutes=3))

        assert ([], 1) == (world.broken, world.active())
        world.standin.proxies["worker-1"].is_frozen = False
        world.rotate(intent)
        assert ([], 2, (2,)) == (world.broken, world.active(), world.numbers())
