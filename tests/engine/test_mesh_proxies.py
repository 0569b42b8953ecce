"""Proxies that vanish, meshes that somebody else began, and consumers outside that trust a mesh too."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rotator.control import AdoptRequest, RollbackRequest
from rotator.core.event import EventType
from rotator.core.model import SubjectName
from rotator.errors import Rejected
from rotator.ports import RotationState
from tests.engine.mesh_world import ALICE, EDGE, HOUR, SUBJECT, Make, MeshWorld

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


def _adopt(world: MeshWorld, *, words: str | None = None) -> list[str]:
    """Ask for the adoption; return why it is refused."""
    answer = world.desk.adopt(AdoptRequest(subject=SUBJECT, reason="ours now", accept_interruption=words), ALICE)
    return [each["why"] for each in answer["refused"]]


# --- proxies that vanish ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_law_01_a_vanished_proxy_counts_until_its_last_leaf_has_ended(make: Make, *, restarted: bool) -> None:
    """Where a proxy may come back, one that is no longer listed holds the rotation, also over a restart."""
    world = make(vanished_are_gone=False)
    world.adopted()
    world.run(span=2 * MINUTE)
    gone = world.mesh.proxies["proxy-1"]
    gone.online = gone.listed = False
    ends = gone.not_after
    assert ends is not None
    if restarted:
        world.restart()
    world.rotate()
    world.run(span=5 * MINUTE, tick=5 * SECOND)
    assert (1, ["proxy-1"]) == (world.number, world.row()["waiting_on"])
    world.run(until=lambda: world.number == 2, span=2 * HOUR, tick=5 * SECOND)
    assert ends <= world.clock.now() <= ends + MINUTE
    world.finish()
    assert ["proxy-0", "proxy-2"] == sorted(each.party for each in world.store.sightings())


def test_a_vanished_proxy_that_comes_back_is_one_of_them_again(make: Make) -> None:
    """It gets what stands there now, and the rotation goes on at once."""
    world = make(vanished_are_gone=False)
    world.adopted()
    world.run(span=2 * MINUTE)
    gone = world.mesh.proxies["proxy-1"]
    gone.online = gone.listed = False
    world.rotate()
    world.run(span=MINUTE)
    assert 1 == world.number
    gone.online = gone.listed = True
    world.run(until=lambda: world.number == 2, span=MINUTE)
    world.finish()


def test_law_02_a_proxy_that_vanished_with_an_old_leaf_keeps_its_ca_trusted(make: Make) -> None:
    """What it was last seen to use stays in the bundle until it has ended: it may come back with it."""
    world = make(vanished_are_gone=False)
    world.adopted()
    slow = world.mesh.proxies["proxy-1"]
    slow.lag = 20 * SECOND
    world.rotate()
    world.run(until=lambda: world.number == 2, span=HOUR)
    world.run(span=2 * SECOND)
    slow.online = slow.listed = False
    old, ends = slow.issuer, slow.not_after
    assert ends is not None
    assert old != world.mesh.told.signer
    world.run(until=lambda: old not in world.mesh.told.bundle, span=3 * HOUR, tick=5 * SECOND)
    assert ends <= world.clock.now()
    world.finish()


def test_where_vanished_proxies_are_gone_they_hold_up_nobody(make: Make) -> None:
    """A pod that is gone is gone: the rotation does not wait for it, and nothing is remembered of it."""
    world = make(vanished_are_gone=True)
    world.adopted()
    world.mesh.proxies["proxy-1"].online = False
    world.mesh.proxies["proxy-1"].listed = False
    world.rotate()
    world.run(until=lambda: world.number == 2, span=2 * MINUTE)
    assert () == world.store.sightings()
    world.judged = False
    world.finish()


def test_who_acknowledged_and_fell_silent_has_acknowledged(make: Make) -> None:
    """A proxy that showed the new bundle and then went away does not hold the rotation."""
    world = make(vanished_are_gone=False)
    world.adopted()
    world.mesh.proxies["proxy-0"].lag = 30 * SECOND
    world.rotate()
    world.run(span=20 * SECOND)
    for name in ("proxy-1", "proxy-2"):
        world.mesh.proxies[name].online = False
    world.mesh.proxies["proxy-2"].listed = False
    world.run(until=lambda: world.number == 2, span=MINUTE)
    world.finish()


# --- adoption ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("builtin", [False, True])
def test_nobody_elses_mesh_is_changed_before_a_person_says_so(make: Make, *, builtin: bool) -> None:
    """Left alone, a found mesh stays as it is, its status says for whom it waits, and nobody is paged."""
    world = make(builtin=builtin)
    revision = world.mesh.revision
    world.run(span=3 * HOUR, tick=MINUTE)
    assert (revision, []) == (world.mesh.revision, world.mesh.secrets())
    assert (["a person to have it adopted"], ()) == (world.row()["waiting_on"], world.engine.alerting.raised())
    assert ((), []) == (world.rotations(), world.desk.plan(24 * HOUR))


def test_a_builtin_ca_is_left_without_a_broken_pair_and_stays_where_it_is(make: Make) -> None:
    """Adoption of a mesh with a CA is a rotation from generation 0, which is neither revoked nor removed."""
    world = make(builtin=True)
    world.run(span=MINUTE)
    assert 0 == world.number
    plan = world.desk.adopt(AdoptRequest(subject=SUBJECT, reason="try", dry_run=True), ALICE)
    assert ("the builtin CA", []) == (plan["found"], plan["rotations"])
    assert [] == _adopt(world)
    world.finish()
    assert (1, ["g1-cert", "g1-key"]) == (world.number, world.mesh.secrets())
    assert [] == world.events(EventType.REVOKED)
    assert ["shrink"] == [each.reason for each in world.events(EventType.DISTRIBUTED)][-1:]
    world.rotate()
    world.finish()
    assert 2 == world.number


def test_an_adoption_is_walked_back_to_the_ca_that_was_found(make: Make) -> None:
    """Until the found CA is let go, a rollback signs with it again, and the mesh waits for a person once more."""
    world = make(builtin=True)
    world.run(span=MINUTE)
    assert [] == _adopt(world)
    world.run(until=lambda: world.number == 1, span=HOUR)
    world.roll_back()
    world.run(until=lambda: not world.store.rotations(state=RotationState.OPEN), span=3 * HOUR, tick=5 * SECOND)
    world.run(span=MINUTE)
    assert (0, [], ["a person to have it adopted"]) == (world.number, world.mesh.secrets(), world.row()["waiting_on"])
    assert [RotationState.ROLLED_BACK] == [each.state for each in world.rotations()]


def test_what_an_adoption_interrupts_is_accepted_in_words_or_not_done(make: Make) -> None:
    """Without words it is refused with what it interrupts; with them it is done, as an exception with those words."""
    world = make()
    world.mesh.interrupts = "plain traffic from workloads outside the mesh"
    world.run(span=MINUTE)
    assert [True] == [world.mesh.interrupts in each for each in _adopt(world)]
    assert () == world.rotations()
    assert [] == _adopt(world, words="maintenance window of Sunday")
    world.finish()
    opened = world.events(EventType.EXCEPTION_OPENED)
    assert ["interruption accepted"] == [each.result for each in opened]
    spoken = opened[0].reason_commitment
    assert spoken is not None
    assert "maintenance window of Sunday" == world.store.salts.reveal(spoken)
    assert 1 == world.number


def test_an_interruption_that_shows_on_the_way_is_accepted_then(make: Make) -> None:
    """The adoption that is under way stops before what nobody has accepted, and goes on with a person's words."""
    world = make(builtin=True)
    world.run(span=MINUTE)
    world.mesh.proxies["proxy-0"].lag = MINUTE
    assert [] == _adopt(world)
    world.mesh.interrupts = "connections to proxies of another zone"
    world.run(span=10 * MINUTE, tick=5 * SECOND)
    assert (0, ["a person to accept the interruption"]) == (world.number, world.row()["waiting_on"])
    assert [] == _adopt(world, words="agreed with the other zone")
    world.finish()
    assert (1, 1) == (world.number, len(world.rotations()))


def test_what_is_no_mesh_or_adopted_already_is_not_adopted(make: Make) -> None:
    """The desk says so, and opens nothing."""
    world = make(consumers=1)
    world.adopted()
    assert ["mesh.test runs on a CA of rotator's already: there is nothing to adopt"] == _adopt(world)
    with pytest.raises(Rejected, match="is no mesh"):
        world.desk.adopt(AdoptRequest(subject=SubjectName(EDGE), reason="what"), ALICE)
    request = RollbackRequest(subject=SUBJECT, reason="regret")
    assert "only a new rotation" in world.desk.rollback(request, ALICE)["refused"][0]["why"]


def test_a_ca_put_there_by_hand_in_the_middle_holds_the_rotation(make: Make) -> None:
    """A mesh that suddenly runs on a CA which the rotation did not leave is not changed further."""
    world = make()
    world.adopted()
    world.mesh.proxies["proxy-1"].lag = 5 * MINUTE
    world.rotate()
    told = world.mesh.told
    world.judged = False
    world.mesh.begin_with(world.vault.corporate)
    revision = world.mesh.revision
    world.run(span=10 * MINUTE, tick=5 * SECOND)
    assert revision == world.mesh.revision
    assert "which this rotation did not put there" in str(world.row()["why"])
    world.mesh._tell(told)
    world.run(until=lambda: world.number == 2, span=HOUR, tick=5 * SECOND)
    world.finish()


# --- consumers outside ------------------------------------------------------------------------------------------------


def test_consumers_that_trust_a_mesh_too_are_waited_for_like_proxies(make: Make) -> None:
    """A directory of another trust domain holds old and new before the mesh signs with the new, and lets go last."""
    world = make(consumers=2)
    world.adopted()
    old = world.mesh.told.signer
    slow = world.consumers[SubjectName("service-1")]
    slow.lag = 3 * MINUTE
    world.rotate()
    world.run(span=2 * MINUTE)
    assert (1, True) == (world.number, "service-1" in str(world.row()["waiting_on"]))
    world.finish()
    for consumer in world.consumers.values():
        found = consumer.store.read()
        assert found is not None
        assert (world.mesh.told.signer in {each.id for each in found.bundle}, False) == (
            True,
            old in {each.id for each in found.bundle},
        )
