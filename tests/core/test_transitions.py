"""The table of transitions is what `decide` does: no row is missing and none is made up."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from random import Random

from rotator.core.authority import TRANSITIONS
from rotator.core.model import AtDeadline, IntentKind, Phase
from rotator.core.steps import Done, Nothing, Refused, Wait
from tests.core.simulated_mesh import MINUTE, POLICY, ROGUE, Fault, SimulatedMesh

Key = tuple[Phase, IntentKind | None, str]
WALKS = 100


def walked(seed: int, found: dict[Key, set[Phase]]) -> None:
    """Walk one mesh through everything that can happen to it and note each step with the phase after it."""
    chance = Random(seed)  # noqa: S311 -- a repeatable walk
    proceed = replace(POLICY, at_deadline=AtDeadline.PROCEED, at_most_left_behind=1)
    mesh = SimulatedMesh(policy=chance.choice([POLICY, proceed]))
    for _ in range(150):
        if mesh.intent is None and chance.random() < 0.3:
            mesh.open(chance.choice([IntentKind.ROTATE, IntentKind.ROTATE, IntentKind.COMPROMISE]))
        if mesh.intent is not None and mesh.intent.kind is IntentKind.ROTATE and chance.random() < 0.03:
            mesh.open(IntentKind.ROLL_BACK)
        for _ in range(chance.randrange(4)):
            _one_step(mesh, found, chance)
        _something_happens(mesh, chance)


def _one_step(mesh: SimulatedMesh, found: dict[Key, set[Phase]], chance: Random) -> None:
    before = mesh.decide()
    kind = mesh.intent.kind if mesh.intent is not None else None
    mesh.apply(before.next, before, chance.choice([Fault.NONE, Fault.NONE, Fault.LOST, Fault.PARTLY]))
    if not isinstance(before.next, Wait | Nothing | Done | Refused):
        found[before.phase, kind, type(before.next).__name__].add(mesh.decide().phase)


def _something_happens(mesh: SimulatedMesh, chance: Random) -> None:
    consumer = chance.choice(list(mesh.consumers.values()))
    match chance.randrange(12):
        case 0:
            consumer.reachable = not consumer.reachable
        case 1:
            mesh.stop(consumer)
        case 2 | 3:
            mesh.heal()
        case 4 if consumer.store is not None and consumer.store.bundle:
            mesh.put(consumer, consumer.store.leaf, consumer.store.bundle[1:], drifted=True)
        case 5 if consumer.store is not None:
            mesh.put(consumer, mesh.leaf(consumer, ROGUE), consumer.store.bundle, drifted=True)
        case 6 if chance.random() < 0.2:
            mesh.now += chance.choice([80 * MINUTE, 121 * MINUTE])
        case 7 if len(mesh.consumers) < 5:
            mesh.join()
        case 8 if chance.random() < 0.2 and mesh.active is not None:
            mesh.generations = {
                number: replace(each, can_sign=each.authority.id != mesh.active)
                for number, each in mesh.generations.items()
            }
        case 9 if chance.random() < 0.2:
            mesh.intent = None  # the journal was lost
        case _:
            mesh.renew(consumer, mesh.decide())
            mesh.load_all()
    mesh.now += timedelta(seconds=chance.choice([1, 20, 60]))


def test_the_table_and_the_decisions_agree() -> None:
    """Every step of many walks stands in the table with the phase it led to, and every row of the table was walked."""
    found: dict[Key, set[Phase]] = defaultdict(set)
    for seed in range(WALKS):
        walked(seed, found)
    table = {(row.phase, row.intent, row.step.__name__): set(row.then) for row in TRANSITIONS}
    assert len(TRANSITIONS) == len(table)
    assert table == dict(found)


def test_every_phase_is_reached() -> None:
    """A phase that nothing leads to or from is a word without a fact."""
    assert set(Phase) == {row.phase for row in TRANSITIONS} | {each for row in TRANSITIONS for each in row.then}
