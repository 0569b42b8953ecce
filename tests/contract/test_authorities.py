"""What every `Authorities` does: the fake that engine tests use, and a real OpenBao."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rotator.core.model import Serial
from rotator.errors import Conflict, InvariantBroken, Rejected
from rotator.pki.certificates import authority_of, parse_certificates
from tests.contract.vault_worlds import LIFETIME, Domain


def test_an_empty_signer_holds_nothing(domain: Domain) -> None:
    """Before the first generation there is none, and none is active."""
    held = domain.authorities.observe()

    assert ((), None, {}) == (held.generations, held.active, held.certificates_pem)


def test_a_prepared_generation_is_held_and_not_active(domain: Domain) -> None:
    """The very first generation too is active only once somebody has ordered it."""
    before = domain.clock.now()

    prepared = domain.authorities.prepare(domain.order(1))

    held = domain.authorities.observe()
    assert (prepared.generation,) == held.generations
    assert held.active is None
    assert prepared.request_id
    authority = prepared.generation.authority
    certificate = parse_certificates(held.certificates_pem[authority.id], source="the signer")[0]
    assert authority == authority_of(certificate)
    assert (1, 0, True, False) == (
        prepared.generation.number,
        authority.path_length,
        prepared.generation.can_sign,
        prepared.generation.revoked,
    )
    assert timedelta(0) <= authority.not_after - before - LIFETIME + timedelta(seconds=1) < timedelta(seconds=5)


def test_law_12_the_key_is_announced_before_it_is_signed(domain: Domain) -> None:
    """At the moment of the announcement the corporate PKI has signed nothing; the announced key is the one signed."""
    announced: list[tuple[str, int]] = []

    def announce(spki_sha256: str) -> None:
        announced.append((spki_sha256, len(domain.authorities.strays())))

    prepared = domain.authorities.prepare(domain.order(1, announce=announce))

    assert [(prepared.generation.authority.spki_sha256, 0)] == announced


def test_law_13_preparing_twice_prepares_once(domain: Domain) -> None:
    """The same number is one generation, however often it is asked for."""
    first = domain.authorities.prepare(domain.order(1)).generation

    again = domain.authorities.prepare(domain.order(1)).generation

    assert first == again
    assert 1 == len(domain.authorities.strays())


def test_law_06_generations_share_neither_subject_nor_key(domain: Domain) -> None:
    """Each generation has a name, a key and a key id of its own, also in one rotation."""
    generations = [domain.generation(number) for number in (1, 2, 3)]

    assert tuple(generations) == domain.authorities.observe().generations
    for fact in ("id", "subject", "spki_sha256", "serial"):
        assert 3 == len({getattr(one.authority, fact) for one in generations}), fact


def test_the_pointer_moves_by_order_and_back(domain: Domain) -> None:
    """Activation moves the pointer, and a rollback moves it back; twice is as good as once."""
    first, second = domain.generation(1), domain.generation(2)

    for generation in (first, second, second, first):
        assert domain.authorities.activate(generation)
        assert generation.authority.id == domain.authorities.observe().active


def test_a_successor_does_not_move_the_pointer(domain: Domain) -> None:
    """Preparing a successor leaves the active generation active."""
    first = domain.generation(1)
    domain.authorities.activate(first)

    domain.generation(2)

    assert first.authority.id == domain.authorities.observe().active


def test_a_retired_generation_is_gone_with_its_key(domain: Domain) -> None:
    """After retirement the signer holds neither issuer nor key: the number could be prepared anew."""
    first, second = domain.generation(1), domain.generation(2)
    domain.authorities.activate(second)

    domain.authorities.retire(first, revoke=False)

    held = domain.authorities.observe()
    assert ((second,), second.authority.id) == (held.generations, held.active)
    with pytest.raises(Rejected):
        domain.authorities.activate(first)
    assert first.authority.spki_sha256 != domain.generation(1).authority.spki_sha256


def test_retiring_twice_is_no_error(domain: Domain) -> None:
    """A retirement whose reply was lost may be ordered again, revocation included."""
    first, second = domain.generation(1), domain.generation(2)
    domain.authorities.activate(second)

    assert domain.authorities.retire(first, revoke=True)
    assert domain.authorities.retire(first, revoke=True)

    assert (second,) == domain.authorities.observe().generations


def test_the_active_generation_is_not_retired(domain: Domain) -> None:
    """Retiring what the pointer names is refused: somebody activated it meanwhile."""
    first = domain.generation(1)
    domain.authorities.activate(first)

    with pytest.raises(Conflict):
        domain.authorities.retire(first, revoke=True)

    assert first == domain.authorities.observe().generations[0]


def test_law_06_a_revoked_generation_cannot_sign(domain: Domain) -> None:
    """Revoked at its parent, a generation is seen as revoked and unable to sign, and is not activated again."""
    first = domain.generation(1)

    assert domain.revocation.revoke_authority(first.authority.serial)
    domain.revocation.revoke_authority(first.authority.serial)

    (seen,) = domain.authorities.observe().generations
    assert (True, False) == (seen.revoked, seen.can_sign)
    with pytest.raises(Rejected):
        domain.authorities.activate(first)
    with pytest.raises(Conflict):
        domain.authorities.prepare(domain.order(1))
    assert [True] == [line.revoked_at is not None for line in domain.authorities.strays()]


def test_what_the_parent_never_signed_is_not_revoked(domain: Domain) -> None:
    """Revoking an authority that the corporate PKI did not sign is an error."""
    with pytest.raises(Rejected):
        domain.revocation.revoke_authority(Serial("abcdef0123456789"))


def test_strays_are_those_of_this_trust_domain(domain: Domain) -> None:
    """The corporate PKI's list shows this trust domain's CAs, retired ones included, but for the known serials."""
    first, second = domain.generation(1), domain.generation(2)
    domain.authorities.activate(second)
    domain.authorities.retire(first, revoke=False)

    found = {line.serial: line for line in domain.authorities.strays()}

    assert {first.authority.serial, second.authority.serial} == set(found)
    line = found[first.authority.serial]
    assert (first.authority.spki_sha256, True) == (line.spki_sha256, line.is_authority)
    known = frozenset({second.authority.serial})
    assert {first.authority.serial} == {one.serial for one in domain.authorities.strays(known)}


def test_law_13_a_crash_at_the_announcement_leaves_nothing_in_the_way(domain: Domain) -> None:
    """After a crash between making the key and having it signed the same number is prepared with another key."""
    announced: list[str] = []

    def crash(spki_sha256: str) -> None:
        announced.append(spki_sha256)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        domain.authorities.prepare(domain.order(1, announce=crash))
    assert () == domain.authorities.observe().generations

    prepared = domain.authorities.prepare(domain.order(1, announce=announced.append))

    assert (prepared.generation,) == domain.authorities.observe().generations
    assert announced[1] == prepared.generation.authority.spki_sha256 != announced[0]
    assert {prepared.generation.authority.serial} == {line.serial for line in domain.authorities.strays()}


def test_law_04_a_generation_never_outlives_its_parent(domain: Domain) -> None:
    """A CA that would outlive the corporate issuer is refused before anything is made."""
    with pytest.raises(InvariantBroken, match="law 4"):
        domain.authorities.prepare(domain.order(1, lifetime=timedelta(days=36500)))

    assert ((), ()) == (domain.authorities.observe().generations, domain.authorities.strays())
