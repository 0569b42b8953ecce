"""What every mesh does: the fake that engine tests use, and both of Kuma's models at the stand-in control plane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rotator.adapters.kuma.about import Model
from rotator.core.model import Generation, IssuerId, RelyingParty, Serial
from rotator.errors import Conflict, Rejected
from rotator.pki.certificates import authority_of, parse_certificates
from tests.contract.mesh_worlds import PROXY, Contracted, FakeContracted, StandInContracted, order
from tests.fakes import mesh as fakes

KINDS = ("fake-together", "fake-apart", "provided-2.14.3", "identity-2.14.3", "identity-3.0.1")


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> Iterator[Contracted]:
    """Give a mesh without any CA, of each kind."""
    kind, _, which = str(request.param).partition("-")
    with ExitStack() as cleanup:
        if kind == "fake":
            yield FakeContracted(fakes.Model(which))
        else:
            yield StandInContracted(which, Model(kind), cleanup)


def generation(world: Contracted, number: int) -> Generation:
    """Prepare one generation, and let the control plane take note of it."""
    prepared = world.mesh.prepare(order(number)).generation
    world.settle()
    return prepared


def started(world: Contracted) -> Generation:
    """Bring the mesh up on generation 1."""
    first = generation(world, 1)
    world.mesh.activate(first)
    world.settle()
    return first


def party(world: Contracted, name: str = PROXY) -> RelyingParty:
    """Return one proxy as it is seen with proofs."""
    return next(each for each in world.mesh.look(proofs=True).parties if each.name == name)


def ids(*generations: Generation) -> frozenset[IssuerId]:
    """Return the key ids of *generations*."""
    return frozenset(each.authority.id for each in generations)


def test_a_mesh_without_ca_waits_to_be_adopted(world: Contracted) -> None:
    """Nothing is held, nobody signs, the mesh itself is the first party and was given nothing."""
    view = world.mesh.look(proofs=True)

    assert ((), None) == (view.held.generations, view.held.active)
    assert view.parties[0].name.startswith("mesh:")
    assert (None, frozenset()) == (view.parties[0].published, view.parties[0].acknowledged)
    assert view.adoption is not None
    assert () == view.refusals
    assert PROXY in {each.name for each in view.parties}


def test_a_prepared_generation_is_held_and_does_not_sign(world: Contracted) -> None:
    """It is what it says, and nobody trusts it yet."""
    prepared = generation(world, 1)

    view = world.mesh.look(proofs=True)
    assert ((prepared,), None) == (view.held.generations, view.held.active)
    assert (1, True, False) == (prepared.number, prepared.can_sign, prepared.revoked)
    pem = view.held.certificates_pem[prepared.authority.id]
    assert prepared.authority == authority_of(parse_certificates(pem, source="the mesh")[0])
    assert view.held == world.mesh.observe()


def test_law_12_the_key_is_announced_before_it_is_signed(world: Contracted) -> None:
    """The announced key is the one that is signed."""
    announced: list[str] = []

    prepared = world.mesh.prepare(order(1, announced)).generation

    assert [prepared.authority.spki_sha256] == announced


def test_law_13_preparing_twice_prepares_once(world: Contracted) -> None:
    """The same number is one generation, however often it is asked for."""
    first = world.mesh.prepare(order(1)).generation

    again = world.mesh.prepare(order(1)).generation

    assert first == again
    assert 1 == len(world.mesh.strays())


def test_law_06_generations_share_neither_subject_nor_key(world: Contracted) -> None:
    """Each has a name, a key and a key id of its own."""
    generations = [generation(world, number) for number in (1, 2)]

    assert tuple(generations) == world.mesh.observe().generations
    for fact in ("id", "subject", "spki_sha256", "serial"):
        assert 2 == len({getattr(each.authority, fact) for each in generations}), fact


def test_the_first_activation_gives_everyone_leaf_and_bundle(world: Contracted) -> None:
    """From then on the mesh is rotator's."""
    first = started(world)

    view = world.mesh.look(proofs=True)
    assert (first.authority.id, None) == (view.held.active, view.adoption)
    for each in view.parties:
        assert (ids(first), ids(first)) == (each.published, each.acknowledged), each.name
    seen = party(world)
    assert (first.authority.id, True) == (seen.served_issuer, seen.reachable)
    assert seen.last_leaf_not_after is not None
    assert seen.last_leaf_not_after > world.clock.now()


def test_law_01_a_bundle_is_acknowledged_by_what_a_proxy_trusts(world: Contracted) -> None:
    """Given at once, acknowledged once it is there; who signs stays."""
    first = started(world)
    second = generation(world, 2)

    assert world.mesh.publish((second.authority, first.authority))

    assert ids(first, second) == party(world).published
    world.settle()
    view = world.mesh.look(proofs=True)
    assert first.authority.id == view.held.active
    for each in view.parties:
        assert (ids(first, second), ids(first, second)) == (each.published, each.acknowledged), each.name
    assert first.authority.id == party(world).served_issuer


def test_law_13_publishing_twice_is_as_good_as_once(world: Contracted) -> None:
    """What is there already stays there."""
    first = started(world)
    second = generation(world, 2)

    for _ in range(2):
        assert world.mesh.publish((second.authority, first.authority))

    world.settle()
    assert ids(first, second) == party(world).acknowledged


def test_who_signs_moves_by_order_and_back(world: Contracted) -> None:
    """Both stay trusted; proxies follow with their leaves; twice is as good as once."""
    first = started(world)
    second = generation(world, 2)
    world.mesh.publish((second.authority, first.authority))
    world.settle()

    for target in (second, second, first):
        assert world.mesh.activate(target)
        world.settle()
        assert target.authority.id == world.mesh.observe().active
        seen = party(world)
        assert (target.authority.id, ids(first, second)) == (seen.served_issuer, seen.acknowledged)


def test_a_bundle_without_who_signs_is_rejected(world: Contracted) -> None:
    """Nobody could speak to anybody."""
    first = started(world)
    second = generation(world, 2)

    with pytest.raises(Rejected):
        world.mesh.publish((second.authority,))

    assert ids(first) == party(world).published


def test_the_generation_that_signs_is_not_retired(world: Contracted) -> None:
    """Nor taken out of the bundle."""
    first = started(world)

    with pytest.raises(Conflict):
        world.mesh.retire(first, revoke=False)

    assert (first,) == world.mesh.observe().generations


def test_a_retired_generation_is_gone_with_its_key(world: Contracted) -> None:
    """Twice is as good as once; the rest goes on."""
    first = started(world)
    second = generation(world, 2)
    world.mesh.publish((second.authority, first.authority))
    world.settle()
    world.mesh.activate(second)
    world.settle()
    world.mesh.publish((second.authority,))
    world.settle()
    assert ids(second) == party(world).acknowledged

    for _ in range(2):
        world.mesh.retire(first, revoke=False)

    held = world.mesh.observe()
    assert ((second,), second.authority.id) == (held.generations, held.active)
    with pytest.raises(Rejected):
        world.mesh.activate(first)
    world.settle()
    assert second.authority.id == party(world).served_issuer


def test_a_generation_is_revoked_at_its_parent(world: Contracted) -> None:
    """It can no longer sign, and stays revoked."""
    first = generation(world, 1)

    world.mesh.revoke_authority(first.authority.serial)

    (held,) = world.mesh.observe().generations
    assert (True, False) == (held.revoked, held.can_sign)
    assert {first.authority.serial} == {each.serial for each in world.mesh.strays() if each.revoked_at is not None}
    assert () == world.mesh.strays(frozenset({first.authority.serial}))


def test_a_proxy_out_of_contact_is_named_with_its_last_leaf(world: Contracted) -> None:
    """It acknowledges nothing more, and its leaf may be of any generation."""
    first = started(world)
    second = generation(world, 2)
    leaf = party(world).last_leaf_not_after
    world.leave(PROXY)

    world.mesh.publish((second.authority, first.authority))
    world.settle()

    view = world.mesh.look(proofs=True)
    lost = next(each for each in view.parties if each.name == PROXY)
    assert (False, frozenset(), None, leaf) == (
        lost.reachable,
        lost.acknowledged,
        lost.served_issuer,
        lost.last_leaf_not_after,
    )
    assert {second.authority.id: leaf} == dict(view.stray_until)


def test_without_proofs_nobody_is_asked(world: Contracted) -> None:
    """Parties are named; what they trust is not known."""
    first = started(world)

    view = world.mesh.look(proofs=False)

    assert first.authority.id == view.held.active
    seen = next(each for each in view.parties if each.name == PROXY)
    assert (frozenset(), None, True) == (seen.acknowledged, seen.served_issuer, seen.reachable)
    assert Serial("") not in {each.authority.serial for each in view.held.generations}
