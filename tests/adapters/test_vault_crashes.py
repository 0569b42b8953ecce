"""Whatever is cut off, before or after its effect: asked again, rotator finishes, and nothing lies about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.adapters.vault.authorities import VaultAuthorities
from rotator.core.model import Generation, KeyType
from rotator.embedded.openbao import OpenBaoServer
from rotator.errors import RotatorError, Unavailable
from rotator.pki.signing_request import new_key, signing_request
from rotator.ports import AuthorityOrder, LeafOrder
from tests.fakes.proxy import Cut, VaultProxy
from tests.fixtures_openbao import VaultDomain, new_domain

pytestmark = pytest.mark.external

LONGEST_CHANGE = 40
"""More calls than any change makes."""


@pytest.fixture
def proxy(openbao: OpenBaoServer) -> Iterator[VaultProxy]:
    """Stand between rotator and the server."""
    with VaultProxy(openbao.address, openbao.ca_file) as proxy:
        yield proxy


def order(domain: VaultDomain, number: int, announced: list[str]) -> AuthorityOrder:
    """Return the order for generation *number*."""
    return AuthorityOrder(
        trust_domain=domain.trust_domain,
        number=number,
        lifetime=domain.lifetime,
        key=KeyType.ECDSA_P256,
        rotation_id=f"rotation-{number}",
        announce=announced.append,
    )


def cut_call(proxy: VaultProxy, n: int, *, after: bool) -> None:
    """Cut the *n*-th call from now and every later one, as a process that is killed makes no further call."""
    first = len(proxy.faults.calls) + n

    def cut(call: str) -> None:
        del call
        if len(proxy.faults.calls) >= first:
            raise Cut

    def cut_later(call: str) -> None:
        del call
        if len(proxy.faults.calls) > first:
            raise Cut

    proxy.faults.before, proxy.faults.after = (cut_later, cut) if after else (cut, lambda _: None)


def mend(proxy: VaultProxy) -> None:
    """Let every call pass again."""
    proxy.faults.before = proxy.faults.after = lambda _: None


def keys(domain: VaultDomain) -> set[str]:
    """Return the names of the keys in the mount, as an operator sees them."""
    with domain.server.admin() as admin:
        answer = admin.list(f"{domain.mount}/keys")
    return {key["key_name"] for key in answer["data"]["key_info"].values()} if isinstance(answer, dict) else set()


def issuers(domain: VaultDomain) -> set[str]:
    """Return the names of the issuers with a key in the mount, as an operator sees them."""
    with domain.server.admin() as admin:
        answer = admin.list(f"{domain.mount}/issuers")
    found = answer["data"]["key_info"].values() if isinstance(answer, dict) else ()
    return {issuer["issuer_name"] for issuer in found if issuer["key_id"]}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_law_13_a_generation_is_prepared_whatever_is_cut(
    openbao: OpenBaoServer, proxy: VaultProxy, tmp_path: Path, *, after: bool
) -> None:
    """
    Cut at call 1, 2, 3 ... of preparing a generation until it needs no more calls; then ask again.

    One generation is there, its key is the one announced last, no other key and no unnamed issuer; and every CA that
    the corporate PKI signed is on its list under a key that was announced before.
    """
    domain = new_domain(openbao, tmp_path)
    announced: list[str] = []
    for n in range(1, LONGEST_CHANGE):
        with domain.session(address=proxy.address) as session:
            session.keep_alive(session._clock.now())
            cut_call(proxy, n, after=after)
            try:
                domain.authorities(session).prepare(order(domain, n, announced))
            except Unavailable:
                whole = False
            else:
                whole = True
            mend(proxy)
        with domain.session() as session:
            authorities = domain.authorities(session)
            generation = authorities.prepare(order(domain, n, announced)).generation
            held = authorities.observe()
            assert [generation] == [one for one in held.generations if one.number == n]
            assert held.active is None, "nobody has ordered an activation"
            assert announced[-1] == generation.authority.spki_sha256
            names = {f"rotator-{domain.mount.removeprefix('pki_')}-test-g{m}" for m in range(1, n + 1)}
            assert (names, names) == (keys(domain), issuers(domain))
            strays = authorities.strays()
            assert {line.spki_sha256 for line in strays} <= set(announced)
            assert {one.authority.serial for one in held.generations} <= {line.serial for line in strays}
        if whole:
            break
    assert whole
    assert n > 8, "every call of a whole preparation was cut once"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_law_13_activation_and_retirement_are_finished_whatever_is_cut(
    openbao: OpenBaoServer, proxy: VaultProxy, tmp_path: Path, *, after: bool
) -> None:
    """Cut at every call of activating the new generation and retiring the old one, then ask again: both are done."""
    domain = new_domain(openbao, tmp_path)
    announced: list[str] = []
    with domain.session() as session:
        old = domain.authorities(session).prepare(order(domain, 1, announced)).generation
        domain.authorities(session).activate(old)

    for n in range(1, LONGEST_CHANGE):
        with domain.session() as session:
            new = domain.authorities(session).prepare(order(domain, n + 1, announced)).generation

        with domain.session(address=proxy.address) as session:
            session.keep_alive(session._clock.now())
            cut_call(proxy, n, after=after)
            try:
                move(domain.authorities(session), old, new)
            except Unavailable:
                whole = False
            else:
                whole = True
            mend(proxy)

        with domain.session() as session:
            authorities = domain.authorities(session)
            move(authorities, old, new)
            held = authorities.observe()
            assert ((new,), new.authority.id) == (held.generations, held.active)
            assert 1 == len(keys(domain)) == len(issuers(domain))
            revoked = {line.serial: line.revoked_at for line in authorities.strays()}
            assert revoked[old.authority.serial] is not None
            assert revoked[new.authority.serial] is None
        old = new
        if whole:
            break
    assert whole
    assert n > 8


def move(authorities: VaultAuthorities, old: Generation, new: Generation) -> None:
    """Activate *new*, then retire *old* with revocation."""
    authorities.activate(new)
    authorities.retire(old, revoke=True)


def test_law_13_a_leaf_whose_answer_was_lost_is_found_and_revoked(
    openbao: OpenBaoServer, proxy: VaultProxy, tmp_path: Path
) -> None:
    """A signature whose reply was cut off stands on the list under the key chosen before, and can be revoked."""
    domain = new_domain(openbao, tmp_path)
    key, identity = new_key(KeyType.ECDSA_P256), f"spiffe://{domain.trust_domain}/worker"
    with domain.session(address=proxy.address) as session:
        generation = domain.authorities(session).prepare(order(domain, 1, [])).generation
        issuer = domain.issuer(session)

        def cut(call: str) -> None:
            if "/sign/" in call:
                raise Cut

        proxy.faults.after = cut
        leaf = LeafOrder(
            csr_pem=signing_request(key, identity),
            spki_sha256=key.spki_sha256,
            identity=identity,
            dns_names=(),
            lifetime=domain.lifetime / 100,
            signer=generation,
            key=key.type,
        )
        with pytest.raises(RotatorError):
            issuer.sign(leaf)
        mend(proxy)

        (orphan,) = [line for line in issuer.issued() if line.spki_sha256 == key.spki_sha256]
        issuer.revoke(orphan.serial)

        assert frozenset({orphan.serial}) == issuer.revoked(generation)
