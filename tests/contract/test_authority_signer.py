"""What every `AuthoritySigner` does: the `FakeAuthoritySigner` that mesh tests use, and a real OpenBao."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography import x509

from rotator.clock import SystemClock
from rotator.core.model import KeyType, Serial, TrustDomainName
from rotator.errors import InvariantBroken, Rejected
from rotator.pki.authority_name import common_name
from rotator.pki.certificates import authority_of, parse_certificates, uri_names
from rotator.pki.chain import verify
from rotator.pki.signing_request import PrivateKey, new_key, signing_request
from rotator.ports import AuthorityRequest, AuthoritySigner, Clock, SignedAuthority
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.clock import ManualClock
from tests.fakes.vault import FakeVault
from tests.fixtures_openbao import new_mesh

LIFETIME = timedelta(hours=6)
ROTATION = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One trust domain's signer, seen through the port alone."""

    trust_domain: TrustDomainName
    clock: Clock
    signer: AuthoritySigner

    def request(
        self, number: int = 1, *, lifetime: timedelta = LIFETIME, key: PrivateKey | None = None
    ) -> AuthorityRequest:
        """Return the request for generation *number*."""
        key = key or new_key(KeyType.ECDSA_P256)
        return AuthorityRequest(
            csr_pem=signing_request(key, f"spiffe://{self.trust_domain}"),
            spki_sha256=key.spki_sha256,
            common_name=common_name(self.trust_domain, number, ROTATION),
            trust_domain=self.trust_domain,
            lifetime=lifetime,
        )


@pytest.fixture(params=["fake", pytest.param("openbao", marks=pytest.mark.external)])
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    """Give a trust domain whose CAs are signed by a mesh root of its own: in memory, then at a real server."""
    with ExitStack() as cleanup:
        if request.param == "fake":
            clock = ManualClock()
            name = TrustDomainName("mesh.test")
            root = FakeCA("mesh.test mesh root", name, clock.now(), clock.now() + timedelta(days=1825), path_length=1)
            yield Parent(trust_domain=name, clock=clock, signer=FakeVault(clock).signer(name, root))
        else:
            mesh = new_mesh(request.getfixturevalue("openbao"), tmp_path_factory.mktemp("vault"))
            session = cleanup.enter_context(mesh.session())
            yield Parent(trust_domain=mesh.trust_domain, clock=SystemClock(), signer=mesh.signer(session))


def certificates(signed: SignedAuthority) -> list[x509.Certificate]:
    """Return the CA certificate, then those above it."""
    return [parse_certificates(pem, source="the signer")[0] for pem in (signed.certificate_pem, *signed.above_pem)]


def test_a_ca_is_signed_as_asked(parent: Parent) -> None:
    """The key is the one sent, the name the one asked for, the life the one asked for; it signs leaves alone."""
    asked = parent.request()
    before = parent.clock.now()

    signed = parent.signer.sign_authority(asked)

    certificate, *above = certificates(signed)
    authority = authority_of(certificate)
    assert signed.request_id
    assert (asked.spki_sha256, f"CN={asked.common_name}", 0, (f"spiffe://{parent.trust_domain}",)) == (
        authority.spki_sha256,
        authority.subject,
        authority.path_length,
        uri_names(certificate),
    )
    assert timedelta(0) <= authority.not_after - before - LIFETIME + timedelta(seconds=1) < timedelta(seconds=5)
    assert authority_of(above[-1]).self_signed


def test_law_06_the_root_above_is_the_meshs_own(parent: Parent) -> None:
    """What stands above ends in a self-signed root that carries the mesh's own SPIFFE name, and verifies."""
    certificate, *above = certificates(parent.signer.sign_authority(parent.request()))

    assert (f"spiffe://{parent.trust_domain}",) == uri_names(above[-1])
    assert 1 == authority_of(above[-1]).path_length
    verify([certificate, *above[:-1]], [above[-1]], parent.clock.now())


def test_strays_are_those_of_this_trust_domain(parent: Parent) -> None:
    """The list shows each CA that was signed, but for the known serials; the mesh root is none of them."""
    serials = {
        authority_of(certificates(parent.signer.sign_authority(parent.request(number)))[0]).serial for number in (1, 2)
    }

    assert serials == {line.serial for line in parent.signer.strays()}
    assert () == parent.signer.strays(frozenset(serials))


def test_revoking_twice_is_no_error(parent: Parent) -> None:
    """A revoked CA is seen as revoked; what was never signed is not revoked, and revoking it is an error."""
    serial = authority_of(certificates(parent.signer.sign_authority(parent.request()))[0]).serial
    assert not parent.signer.is_revoked(serial)

    assert parent.signer.revoke_authority(serial)
    parent.signer.revoke_authority(serial)

    assert parent.signer.is_revoked(serial)
    assert [True] == [line.revoked_at is not None for line in parent.signer.strays()]
    assert not parent.signer.is_revoked(Serial("abcdef0123456789"))
    with pytest.raises(Rejected):
        parent.signer.revoke_authority(Serial("abcdef0123456789"))


def test_law_04_a_ca_never_outlives_its_parent(parent: Parent) -> None:
    """A CA that would outlive the issuer is refused before anything is signed."""
    with pytest.raises(InvariantBroken, match="law 4"):
        parent.signer.sign_authority(parent.request(lifetime=timedelta(days=36500)))

    assert () == parent.signer.strays()


def test_law_11_another_key_than_the_one_sent_is_refused(parent: Parent) -> None:
    """A certificate for a key that is not the announced one is refused; it shows among the strays."""
    asked = parent.request()
    other = AuthorityRequest(
        csr_pem=asked.csr_pem,
        spki_sha256="0" * 64,
        common_name=asked.common_name,
        trust_domain=asked.trust_domain,
        lifetime=asked.lifetime,
    )

    with pytest.raises(Rejected, match="another public key"):
        parent.signer.sign_authority(other)

    assert 1 == len(parent.signer.strays())
