"""Law 11 and law 6 at a real OpenBao whose answers are changed on their way, and whose corporate issuer is unfit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from rotator.adapters.vault.authorities import VaultAuthorities
from rotator.adapters.vault.issuer import VaultIssuer
from rotator.adapters.vault.session import Transport, VaultSession
from rotator.clock import SystemClock
from rotator.core.model import Generation, KeyType
from rotator.embedded.openbao import CORPORATE_ISSUING, CORPORATE_ROOT, OpenBaoServer, issuer_below, write
from rotator.embedded.process import wait_until
from rotator.errors import InvariantBroken, Rejected
from rotator.pki.signing_request import PrivateKey, new_key, signing_request
from rotator.ports import AuthorityOrder, LeafOrder
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.clock import ManualClock
from tests.fakes.proxy import Answer, VaultProxy
from tests.fixtures_openbao import VaultDomain, new_domain

pytestmark = pytest.mark.external

LEAF = timedelta(minutes=10)


@pytest.fixture
def proxy(openbao: OpenBaoServer) -> Iterator[VaultProxy]:
    """Stand between rotator and the server."""
    with VaultProxy(openbao.address, openbao.ca_file) as proxy:
        yield proxy


@pytest.fixture
def session(vault_domain: VaultDomain, proxy: VaultProxy) -> Iterator[VaultSession]:
    """Give a session through the proxy."""
    with vault_domain.session(address=proxy.address) as session:
        yield session


@pytest.fixture
def issuer(vault_domain: VaultDomain, session: VaultSession) -> VaultIssuer:
    """Give the issuer through the proxy."""
    return vault_domain.issuer(session)


@pytest.fixture(scope="module")
def generation(vault_domain: VaultDomain) -> Generation:
    """Give one generation, prepared over an honest connection."""
    with vault_domain.session() as session:
        return vault_domain.authorities(session).prepare(authority_order(vault_domain, 1)).generation


def authority_order(domain: VaultDomain, number: int) -> AuthorityOrder:
    """Return the order for generation *number*."""
    return AuthorityOrder(
        trust_domain=domain.trust_domain,
        number=number,
        lifetime=domain.lifetime,
        key=KeyType.ECDSA_P256,
        rotation_id="1b4e28ba",
        announce=lambda _: None,
    )


def leaf_order(domain: VaultDomain, signer: Generation, key: PrivateKey | None = None) -> LeafOrder:
    """Return the order for a leaf by *signer*."""
    key = key or new_key(KeyType.ECDSA_P256)
    identity = f"spiffe://{domain.trust_domain}/worker"
    return LeafOrder(
        csr_pem=signing_request(key, identity),
        spki_sha256=key.spki_sha256,
        identity=identity,
        dns_names=(),
        lifetime=LEAF,
        signer=signer,
        key=key.type,
    )


def instead(call_part: str, pem: Callable[[], str]) -> Callable[[str, Answer], Answer]:
    """Return what puts another certificate into the answers of calls whose path holds *call_part*."""

    def alter(call: str, answer: Answer) -> Answer:
        if call_part not in call or "data" not in answer:
            return answer
        return {**answer, "data": {**answer["data"], "certificate": pem()}}

    return alter


def test_an_honest_answer_passes(issuer: VaultIssuer, vault_domain: VaultDomain, generation: Generation) -> None:
    """The way through the proxy, which changes nothing, is open."""
    assert generation.authority.id == issuer.sign(leaf_order(vault_domain, generation)).leaf.issuer


@pytest.mark.parametrize("transport", list(Transport))
def test_either_transport_signs(vault_domain: VaultDomain, generation: Generation, transport: Transport) -> None:
    """Over the pool and over hvac's own client the same leaf comes back."""
    with vault_domain.session(transport=transport) as session:
        issued = vault_domain.issuer(session).sign(leaf_order(vault_domain, generation))

    assert issued.request_id
    assert generation.authority.id == issued.leaf.issuer


def test_law_11_another_key_is_refused(
    issuer: VaultIssuer, vault_domain: VaultDomain, generation: Generation, proxy: VaultProxy
) -> None:
    """A good certificate of this very CA, for somebody else's key, is refused."""
    other = issuer.sign(leaf_order(vault_domain, generation)).chain_pem.decode()
    proxy.faults.alter = instead("/sign/", lambda: other)

    with pytest.raises(Rejected, match="another public key"):
        issuer.sign(leaf_order(vault_domain, generation))


@pytest.mark.parametrize(
    ("identity", "dns_names", "lifetime", "complaint"),
    [
        ("spiffe://{td}/somebody-else", (), LEAF, "URI names"),
        ("spiffe://elsewhere.test/worker", (), LEAF, "URI names"),
        ("spiffe://{td}/worker", ("www.example.com",), LEAF, "DNS names"),
        ("spiffe://{td}/worker", (), LEAF * 2, "longer"),
        ("spiffe://{td}/worker", (), LEAF / 2, "shorter"),
        ("spiffe://{td}/worker", (), LEAF, "authority"),
    ],
)
def test_law_11_another_certificate_is_refused(
    issuer: VaultIssuer,
    vault_domain: VaultDomain,
    generation: Generation,
    proxy: VaultProxy,
    identity: str,
    dns_names: tuple[str, ...],
    lifetime: timedelta,
    complaint: str,
) -> None:
    """A wrong name, lifetime or signer is refused, though the key is ours."""
    now = SystemClock().now()
    order = leaf_order(vault_domain, generation)
    liar = FakeCA("Liar", vault_domain.trust_domain, now - timedelta(hours=1), now + timedelta(days=1))
    chain = liar.sign(
        order.csr_pem, identity.format(td=vault_domain.trust_domain), lifetime, now, dns_names=dns_names
    ).decode()
    proxy.faults.alter = instead("/sign/", lambda: chain)

    with pytest.raises(Rejected, match=complaint):
        issuer.sign(order)


@pytest.mark.parametrize("pem", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_law_11_no_certificate_is_refused(
    issuer: VaultIssuer, vault_domain: VaultDomain, generation: Generation, proxy: VaultProxy, pem: str
) -> None:
    """An answer without a readable certificate is refused."""
    proxy.faults.alter = instead("/sign/", lambda: pem)

    with pytest.raises(Rejected, match="no readable certificate"):
        issuer.sign(leaf_order(vault_domain, generation))


def test_law_06_a_generation_with_another_certificate_does_not_sign(
    issuer: VaultIssuer, vault_domain: VaultDomain, generation: Generation, proxy: VaultProxy
) -> None:
    """When Vault shows another certificate behind the generation's reference, nothing is asked of it."""
    now = SystemClock().now()
    liar = FakeCA("Liar", vault_domain.trust_domain, now - timedelta(hours=1), now + timedelta(days=1))
    proxy.faults.alter = instead(f"issuer/{generation.reference}", liar.pem.decode)

    with pytest.raises(Rejected, match="another certificate"):
        issuer.sign(leaf_order(vault_domain, generation))

    assert not [call for call in proxy.faults.calls if "/sign/" in call]


def test_law_11_a_crl_of_another_signer_is_refused(
    issuer: VaultIssuer, vault_domain: VaultDomain, generation: Generation, proxy: VaultProxy
) -> None:
    """A CRL that the generation did not sign says nothing."""
    now = SystemClock().now()
    liar = FakeCA("Liar", vault_domain.trust_domain, now - timedelta(hours=1), now + timedelta(days=1))
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(liar.certificate.subject)
        .last_update(now)
        .next_update(now + timedelta(days=1))
        .sign(liar.key, hashes.SHA256())
    )
    pem = crl.public_bytes(serialization.Encoding.PEM).decode()
    proxy.faults.alter = lambda call, answer: {**answer, "data": {"crl": pem}} if call.endswith("/crl") else answer

    with pytest.raises(Rejected, match="another authority"):
        issuer.revoked(generation)


def test_law_11_a_ca_with_another_key_is_not_installed(
    session: VaultSession, vault_domain: VaultDomain, proxy: VaultProxy
) -> None:
    """A CA certificate for another key is refused before it is installed; it shows among the strays."""
    now = SystemClock().now()
    liar = FakeCA("Liar", vault_domain.trust_domain, now - timedelta(seconds=1), now + vault_domain.lifetime)
    authorities = vault_domain.authorities(session)
    before = {one.number for one in authorities.observe().generations}
    proxy.faults.alter = instead("sign-intermediate", liar.pem.decode)

    with pytest.raises(Rejected, match="another public key"):
        authorities.prepare(authority_order(vault_domain, 77))

    assert before == {one.number for one in authorities.observe().generations}
    assert f"CN={vault_domain.trust_domain} CA g77 1b4e28ba" in {line.subject for line in authorities.strays()}


def test_law_06_the_pinned_issuer_signs_though_another_is_default(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """The configured corporate issuer signs the CA, whichever one is that mount's default."""
    with openbao.admin() as admin:
        pinned = issuer_below(admin, "corp-pinned", "Corp Pinned", timedelta(days=30), parent=f"{CORPORATE_ROOT}/root")
        certificate: Any = admin.read(f"{CORPORATE_ISSUING}/issuer/{pinned}")
        default: Any = admin.read(f"{CORPORATE_ISSUING}/config/issuers")
    assert pinned != default["data"]["default"]
    domain = new_domain(openbao, tmp_path, corporate_issuer="corp-pinned")

    with domain.session() as session:
        authority = domain.authorities(session).prepare(authority_order(domain, 1)).generation.authority

    parent = FakeParent(certificate["data"]["certificate"])
    assert parent.key_id == authority.parent


class FakeParent:
    """A certificate's key id, taken from its PEM."""

    def __init__(self, pem: str) -> None:
        found = x509.load_pem_x509_certificate(pem.encode()).extensions
        self.key_id = found.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def unfit(openbao: OpenBaoServer, tmp_path: Path, name: str, life: timedelta) -> VaultDomain:
    """Return a trust domain whose corporate issuer *name* lives for *life*."""
    with openbao.admin() as admin:
        issuer_below(admin, name, f"Corp {name}", life, parent=f"{CORPORATE_ROOT}/root")
    return new_domain(openbao, tmp_path, corporate_issuer=name)


def refused(authorities: VaultAuthorities, domain: VaultDomain, why: str) -> None:
    """Show that nothing is prepared, because of *why*, and that nothing was made."""
    with pytest.raises(InvariantBroken, match=why):
        authorities.prepare(authority_order(domain, 1))
    assert ((), ()) == (authorities.observe().generations, authorities.strays())


def test_law_04_vault_would_sign_past_the_parent_and_rotator_does_not(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """Vault signs a CA that outlives its parent; rotator refuses to ask."""
    domain = unfit(openbao, tmp_path, "corp-short", timedelta(hours=1))
    with openbao.admin() as admin:
        request = write(
            admin,
            f"{domain.mount}/issuers/generate/intermediate/internal",
            common_name="outliving",
            key_type="ec",
        )["data"]["csr"]
        path = f"{CORPORATE_ISSUING}/issuer/corp-short/sign-intermediate"
        signed = write(admin, path, csr=request, common_name="outliving", ttl="6h")["data"]
        parent: Any = admin.read(f"{CORPORATE_ISSUING}/issuer/corp-short")
    ends = [
        x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
        for pem in (signed["certificate"], parent["data"]["certificate"])
    ]
    assert ends[0] > ends[1], "this server no longer signs past the parent: the law has an easier life"

    with domain.session() as session:
        refused(domain.authorities(session), domain, "law 4")


def test_law_06_an_expired_corporate_issuer_does_not_sign(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """A corporate issuer past its end is refused, however willing Vault is."""
    domain = unfit(openbao, tmp_path, "corp-expired", timedelta(seconds=2))
    clock = SystemClock()
    ends = clock.now() + timedelta(seconds=3)
    wait_until(lambda: clock.now() > ends, within=timedelta(seconds=60), what="the corporate issuer to end")

    with domain.session() as session:
        refused(domain.authorities(session), domain, "law 6.*ended")


def test_law_06_a_corporate_issuer_of_tomorrow_does_not_sign(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """Seen by a clock that is a day behind, the corporate issuer is not valid yet and is refused."""
    domain = unfit(openbao, tmp_path, "corp-tomorrow", timedelta(days=30))
    with domain.session() as session:
        authorities = domain.authorities(session, clock=ManualClock(SystemClock().now() - timedelta(days=1)))
        refused(authorities, domain, "law 6.*not valid before")


def test_law_06_a_revoked_corporate_issuer_does_not_sign(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """A corporate issuer that its mount marks as revoked is refused."""
    domain = unfit(openbao, tmp_path, "corp-revoked", timedelta(days=30))
    with openbao.admin() as admin:
        write(admin, f"{CORPORATE_ISSUING}/issuer/corp-revoked/revoke")

    with domain.session() as session:
        refused(domain.authorities(session), domain, "law 6.*revoked")


def test_law_06_a_corporate_issuer_that_is_not_there_does_not_sign(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """A name that the corporate mount does not know is refused; no other issuer stands in for it."""
    domain = new_domain(openbao, tmp_path, corporate_issuer="corp-nowhere")
    with domain.session() as session:
        refused(domain.authorities(session), domain, "law 6.*not there")
