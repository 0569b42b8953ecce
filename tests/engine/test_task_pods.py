"""Task pods of a Kubernetes executor keep what they mounted: nobody sees them, and nobody breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.core.model import Publication, SubjectKind, SubjectName
from tests.engine.accounts import broken_pairs, unfinished_orders
from tests.engine.world import MESH, World

TASKS, OTHER = SubjectName("service-0"), SubjectName("service-1")
LIFE = timedelta(hours=1)
HOURS = timedelta(hours=6)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A settled world whose first certificate is mounted by task pods, too."""
    made = World(tmp_path, certificates=2, leaf_lifetime=LIFE, ca_lifetime=timedelta(days=2))
    made.authority_policy = replace(made.authority_policy, trust_deadline=2 * LIFE)
    target = made.certificates[TASKS]
    made.certificates[TASKS] = replace(target, certificate=replace(target.certificate, task_pods=True))
    made.restart()
    made.run(until=made.settled)
    made.clock.advance(timedelta(minutes=1))
    yield made
    made.close()


def mounted(world: World) -> Publication:
    """Return what a task pod that starts now mounts, and keeps."""
    found = world.consumers[TASKS].store.read()
    assert found is not None
    return found


def trouble(world: World, pod: Publication) -> list[str]:
    """Return who would not talk to a task pod that uses *pod*, or it to them, as long as its certificate lives."""
    assert pod.leaf is not None
    found = broken_pairs(world)
    if pod.leaf.not_after <= world.clock.now():
        return found
    trusted = {each.id for each in pod.bundle}
    for other in world.consumers.values():
        assert other.loaded is not None
        assert other.loaded.leaf is not None
        if other.loaded.leaf.issuer not in trusted:
            found.append(f"the pod does not trust {other.name}")
        if pod.leaf.issuer not in {each.id for each in other.loaded.bundle}:
            found.append(f"{other.name} does not trust the pod")
    return found


def test_law_18_what_task_pods_may_use_is_not_revoked_but_ends(world: World) -> None:
    """Replaced, it counts as in use until it has ended, and is recorded as lapsed then; another's is revoked."""
    before = mounted(world)
    assert before.leaf is not None
    for name in (TASKS, OTHER):
        world.ask(name, SubjectKind.CERTIFICATE)
    world.run(until=world.settled)
    revoked = [each.subject for each in world.events(EventType.REVOKED)]
    assert [OTHER] == revoked
    ends = before.leaf.not_after
    world.run(until=lambda: world.clock.now() > ends - timedelta(seconds=5), span=LIFE)
    assert TASKS not in {each.subject for each in world.events(EventType.LAPSED)}
    world.run(span=timedelta(minutes=10), tick=timedelta(seconds=5))
    lapsed = [each for each in world.events(EventType.LAPSED) if each.subject == TASKS]
    assert before.leaf.serial in str(lapsed[0].detail)
    assert TASKS not in {each.subject for each in world.events(EventType.REVOKED)}


def test_law_18_in_an_emergency_it_is_revoked(world: World) -> None:
    """Whoever asks for that means what is out there, task pods or not."""
    asked = world.ask(TASKS, SubjectKind.CERTIFICATE)
    world.engine.memory.apply([replace(asked, emergency=True)])
    world.run(until=world.settled)
    assert [TASKS] == [each.subject for each in world.events(EventType.REVOKED)]


def test_law_01_a_new_ca_waits_for_the_task_pods_certificates_to_end(world: World) -> None:
    """At no moment of a CA's rotation is a task pod refused or refuses anybody, and the rotation ends."""
    pod = mounted(world)
    assert pod.leaf is not None
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    for _ in range(int(LIFE / timedelta(seconds=20))):
        world.run(span=timedelta(seconds=20), tick=timedelta(seconds=10))
        assert [] == trouble(world, pod)
        if world.clock.now() < pod.leaf.not_after:
            assert 1 == len(world.events(EventType.ACTIVATED)), "the first generation's alone"
    # One that starts in the middle has both, and its own certificate is of the old one: it is waited for, too.
    later = mounted(world)
    world.run(until=lambda: 2 == len(world.events(EventType.ACTIVATED)), span=LIFE, tick=timedelta(seconds=5))
    while not world.settled():
        world.run(span=timedelta(seconds=30), tick=timedelta(seconds=10))
        assert [] == trouble(world, later)
        assert world.clock.now() < pod.leaf.not_after + HOURS
    assert [] == unfinished_orders(world)
    assert 1 == len(world.events(EventType.RETIRED))


def test_control_without_the_word_a_task_pod_is_broken(world: World) -> None:
    """The same rotation of a certificate that is not said to be mounted by task pods: the pod would be refused."""
    target = world.certificates[TASKS]
    world.certificates[TASKS] = replace(target, certificate=replace(target.certificate, task_pods=False))
    world.restart()
    world.run(until=world.settled)
    pod = mounted(world)
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=world.settled, span=LIFE)
    assert trouble(world, pod)


def test_law_01_renewals_keep_nobody_alive_who_is_out_of_contact(world: World) -> None:
    """A consumer that is gone is renewed as ever; the new CA waits for its last certificate beside the old bundle."""
    world.consumers[OTHER].alive = False
    gone = world.consumers[OTHER].store.read()
    assert gone is not None
    assert gone.leaf is not None
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=lambda: 2 == len(world.events(EventType.ACTIVATED)), span=3 * LIFE, tick=timedelta(seconds=20))
    assert gone.leaf.not_after <= world.clock.now() < gone.leaf.not_after + timedelta(minutes=5)
    assert 2 <= sum(each.subject == OTHER for each in world.events(EventType.DISTRIBUTED))
