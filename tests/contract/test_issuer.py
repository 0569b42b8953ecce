"""What every `Issuer` does: the fake that engine tests use, and a real OpenBao."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rotator.core.model import KeyType, Serial
from rotator.errors import Rejected
from rotator.pki.certificates import normal_serial, parse_certificates, spki_sha256_of
from rotator.pki.chain import verify_pem
from rotator.pki.signing_request import new_key
from tests.contract.vault_worlds import LEAF, Domain


def test_a_leaf_is_what_was_ordered(domain: Domain) -> None:
    """The leaf carries the ordered key, identity and lifetime, and verifies under its generation alone."""
    generation = domain.generation()
    order = domain.leaf_order(generation)
    before = domain.clock.now()

    issued = domain.issuer.sign(order)

    assert order.spki_sha256 == issued.leaf.spki_sha256
    assert order.identity == issued.leaf.spiffe_id
    assert generation.authority.id == issued.leaf.issuer
    assert timedelta(0) <= issued.leaf.not_after - before - LEAF + timedelta(seconds=1) < timedelta(seconds=5)
    assert issued.request_id
    held = domain.authorities.observe()
    verify_pem(issued.chain_pem, held.certificates_pem[generation.authority.id], domain.clock.now())


def test_law_04_a_leaf_never_outlives_its_issuer(domain: Domain) -> None:
    """A leaf that would outlive its generation is refused, not cut short."""
    short = domain.generation(lifetime=timedelta(minutes=2))

    with pytest.raises(Rejected):
        domain.issuer.sign(domain.leaf_order(short, lifetime=timedelta(minutes=3)))


def test_law_06_the_order_names_its_signer(domain: Domain) -> None:
    """A generation that is not the active one signs when it is named (a probe's leaf, say)."""
    first, second = domain.generation(1), domain.generation(2)
    domain.authorities.activate(first)

    issued = domain.issuer.sign(domain.leaf_order(second))

    assert second.authority.id == issued.leaf.issuer
    assert first.authority.id == domain.authorities.observe().active


def test_another_trust_domain_is_refused(domain: Domain) -> None:
    """An identity of another trust domain is not signed."""
    with pytest.raises(Rejected):
        domain.issuer.sign(domain.leaf_order(domain.generation(), identity="spiffe://elsewhere.test/workload"))


def test_an_unknown_generation_does_not_sign(domain: Domain) -> None:
    """A generation that the signer does not hold cannot sign."""
    generation = domain.generation()
    gone = replace(generation, reference="5ab5f6e4-0000-4000-8000-000000000000")

    with pytest.raises(Rejected):
        domain.issuer.sign(domain.leaf_order(gone))


def test_a_revoked_leaf_stands_on_the_crl(domain: Domain) -> None:
    """Revoking twice is one revocation, seen at once on the CRL of the leaf's own generation."""
    first, second = domain.generation(1), domain.generation(2)
    leaf = domain.issuer.sign(domain.leaf_order(first)).leaf

    assert frozenset() == domain.issuer.revoked(first)
    assert domain.issuer.revoke(leaf.serial)
    domain.issuer.revoke(leaf.serial)

    assert frozenset({leaf.serial}) == domain.issuer.revoked(first)
    assert frozenset() == domain.issuer.revoked(second)


def test_an_unknown_serial_is_not_revoked(domain: Domain) -> None:
    """Revoking what was never issued is an error."""
    domain.generation()

    with pytest.raises(Rejected):
        domain.issuer.revoke(Serial("abcdef0123456789"))


def test_law_13_the_list_finds_an_order_by_its_key(domain: Domain) -> None:
    """What was signed stands on the issuer's own list under the key that was chosen before the call."""
    generation = domain.generation()
    key = new_key(KeyType.ECDSA_P256)
    leaf = domain.issuer.sign(domain.leaf_order(generation, key=key)).leaf
    other = domain.issuer.sign(domain.leaf_order(generation)).leaf
    domain.issuer.revoke(leaf.serial)

    listed = {line.spki_sha256: line for line in domain.issuer.issued()}

    assert {key.spki_sha256, other.spki_sha256} == set(listed)
    line = listed[key.spki_sha256]
    assert (leaf.serial, leaf.sha256, leaf.issuer) == (line.serial, line.sha256, line.issuer)
    assert (leaf.not_before, leaf.not_after) == (line.not_before, line.not_after)
    assert line.revoked_at is not None
    assert listed[other.spki_sha256].revoked_at is None


def test_known_serials_are_not_listed_again(domain: Domain) -> None:
    """The list leaves out what the caller knows."""
    generation = domain.generation()
    first = domain.issuer.sign(domain.leaf_order(generation)).leaf
    second = domain.issuer.sign(domain.leaf_order(generation)).leaf

    assert {second.serial} == {line.serial for line in domain.issuer.issued(frozenset({first.serial}))}


def test_serials_with_leading_zeros_are_one_serial(domain: Domain) -> None:
    """A serial is written in one way by every call, whatever its leading digits."""
    generation = domain.generation()
    leaves = [domain.issuer.sign(domain.leaf_order(generation)).leaf for _ in range(40)]

    assert {leaf.serial for leaf in leaves} == {line.serial for line in domain.issuer.issued()}
    assert all(leaf.serial == normal_serial(leaf.serial) for leaf in leaves)
    shortest = min(leaves, key=lambda leaf: len(leaf.serial))
    domain.issuer.revoke(shortest.serial)
    assert frozenset({shortest.serial}) == domain.issuer.revoked(generation)


def test_the_chain_holds_the_leaf_alone(domain: Domain) -> None:
    """What is between leaf and bundle is nothing: the bundle holds the generation itself."""
    issued = domain.issuer.sign(domain.leaf_order(domain.generation()))

    certificates = parse_certificates(issued.chain_pem, source="the chain")

    assert [issued.leaf.spki_sha256] == [spki_sha256_of(one) for one in certificates]
