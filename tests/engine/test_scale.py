"""
Work of the engine grows with the fleet and not faster (calls are counted, nothing is timed).

Rules that must stay true here:

- A fleet ten times as large may cost that many times the calls and a little more, never the square.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from rotator.core.model import SubjectName
from rotator.ports import IssuanceState
from tests.engine.world import MESH, World

FEW, MANY = 10, 100
LINEAR = 1.5
"""Ten times as many may cost that much more than ten times the calls."""


def calls(work: Callable[[], object]) -> int:
    """Return how many calls of functions *work* makes."""
    count = 0

    def note(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def steady(directory: Path, certificates: int) -> World:
    """Return a world in which everything is published and proven."""
    directory.mkdir()
    world = World(directory, certificates=certificates)
    world.run(until=world.settled)
    return world


@pytest.mark.parametrize("what", ["trust domain", "certificates", "idle"])
def test_a_visit_is_linear_in_the_fleet(tmp_path: Path, what: str) -> None:
    """A look at a trust domain, at all certificates, and a sweep with nothing due cost calls in proportion."""
    counted = []
    for number in (FEW, MANY):
        world = steady(tmp_path / str(number), number)
        pool, domain = world.engine.pool, world.engine.fleet.domains[MESH]
        world.engine.sweep()
        if what == "trust domain":
            pool.kick(domain.id)
        elif what == "certificates":
            for target in world.certificates.values():
                pool.kick(target.id)
        counted.append(calls(world.engine.sweep))
        world.close()
    few, many = counted
    assert many <= few * MANY / FEW * LINEAR, f"{few} calls for {FEW}, {many} for {MANY}"


def test_what_others_trust_does_not_cost_by_their_number(tmp_path: Path) -> None:
    """Each leaf of a wave asks what the others trust: the answer is ready, however many they are."""
    counted = []
    for number in (FEW, MANY):
        world = steady(tmp_path / str(number), number)
        state = world.engine.domains.get(MESH)
        assert state is not None
        target = world.certificates[SubjectName("service-0")]
        counted.append(calls(lambda state=state, target=target: state.trusted_by_others(target)))  # type: ignore[misc]  # mypy cannot name the type of a default
        assert state.trusted_by_others(target) == frozenset(each.authority.id for each in world.held())
        world.close()
    assert counted[0] == counted[1]


def test_a_restart_reads_what_counts_now_and_no_history(tmp_path: Path) -> None:
    """However often a fleet was renewed, a restart reads one ended rotation of each subject and the live orders."""
    world = steady(tmp_path / "world", FEW)
    for _ in range(3):
        for name in world.certificates:
            world.engine.leaves.reissue(
                world.engine.fleet, world.certificates[name], accepted=frozenset(), cause=world.rotations()[0]
            )
    assert len(world.store.rotations()) == 4 * FEW + 1
    engine = world.restart()
    assert len(world.store.rotations(last_ended=True)) == FEW + 1
    assert all(engine.memory.last_rotation(name) is not None for name in world.certificates)
    assert FEW == len([each for each in engine.memory.orders_of_domain(MESH) if each.subject in world.certificates])
    assert {IssuanceState.PUBLISHED} == {each.state for each in engine.memory.orders_of_domain(MESH)}
    world.close()
