"""A certificate authority in memory, for every test that needs real certificates and no server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rotator.core.model import Authority, KeyType
from rotator.pki.certificates import Material, authority_of, material, spki_sha256_of
from rotator.pki.signing_request import new_key, signing_request

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""When tests with a clock of their own begin."""

Mutation = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]


def key_usage(
    *,
    digital_signature: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
    key_encipherment: bool = False,
) -> x509.KeyUsage:
    """Return the key usage with these bits and no other."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


class FakeCA:
    """
    One signing authority with its key.

    Self-signed without *parent*, else signed by it.
    Names carry the trust domain as ``spiffe://`` URI, path length 0 unless told otherwise.
    Moments are cut to whole seconds, as certificates hold them.
    """

    def __init__(
        self,
        name: str,
        trust_domain: str,
        not_before: datetime = EPOCH,
        not_after: datetime = EPOCH + timedelta(days=3650),
        parent: Self | None = None,
        *,
        path_length: int | None = 0,
        name_constraints: x509.NameConstraints | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        self.name = name
        self.trust_domain = trust_domain
        self.parent = parent
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.revoked: set[int] = set()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = parent.certificate.subject if parent else subject
        issuer_key = parent.key if parent else self.key
        builder = (
            x509.CertificateBuilder(issuer, subject, self.key.public_key(), x509.random_serial_number())
            .not_valid_before(not_before.replace(microsecond=0))
            .not_valid_after(not_after.replace(microsecond=0))
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]),
                critical=False,
            )
        )
        if name_constraints is not None:
            builder = builder.add_extension(name_constraints, critical=True)
        self.certificate: x509.Certificate = builder.sign(issuer_key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """The CA certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def authority(self) -> Authority:
        """The CA certificate as the core sees it."""
        return authority_of(self.certificate)

    def leaf_builder(
        self,
        public_key: ec.EllipticCurvePublicKey | x509.CertificateSigningRequest,
        identity: str,
        lifetime: timedelta,
        now: datetime,
        *,
        dns_names: Sequence[str] = (),
        backdate: timedelta = timedelta(seconds=1),
    ) -> x509.CertificateBuilder:
        """Return a faultless leaf, not yet signed, for tests that spoil it."""
        key = public_key.public_key() if isinstance(public_key, x509.CertificateSigningRequest) else public_key
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity)]
        names += [x509.DNSName(name) for name in dns_names]
        moment = now.replace(microsecond=0)
        return (
            x509.CertificateBuilder(
                self.certificate.subject,
                x509.Name([]),
                key,
                x509.random_serial_number(),
            )
            .not_valid_before(moment - backdate)
            .not_valid_after(moment + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )

    def sign_builder(self, builder: x509.CertificateBuilder) -> bytes:
        """Sign whatever *builder* says; return its PEM."""
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign(
        self,
        csr_pem: bytes,
        identity: str,
        lifetime: timedelta,
        now: datetime,
        *,
        dns_names: Sequence[str] = (),
        backdate: timedelta = timedelta(seconds=1),
    ) -> bytes:
        """Return the leaf for the key of *csr_pem*, from *now* for *lifetime*, back-dated by a second."""
        request = x509.load_pem_x509_csr(csr_pem)
        builder = self.leaf_builder(request, identity, lifetime, now, dns_names=dns_names, backdate=backdate)
        return self.sign_builder(builder)

    def sign_authority(
        self, csr_pem: bytes, name: str, trust_domain: str, lifetime: timedelta, now: datetime
    ) -> x509.Certificate:
        """Return the CA certificate *name* of *trust_domain* for the key of *csr_pem*, back-dated by a second."""
        key = x509.load_pem_x509_csr(csr_pem).public_key()
        moment = now.replace(microsecond=0)
        return (
            x509.CertificateBuilder(
                self.certificate.subject,
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
                key,
                x509.random_serial_number(),
            )
            .not_valid_before(moment - timedelta(seconds=1))
            .not_valid_after(moment + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )

    def material(
        self,
        identity: str,
        lifetime: timedelta,
        now: datetime,
        *,
        bundle: Sequence[FakeCA] | None = None,
        dns_names: Sequence[str] = (),
    ) -> Material:
        """Return a fresh leaf with its key under *bundle* (only this CA unless told otherwise)."""
        key = new_key(KeyType.ECDSA_P256)
        chain = self.sign(signing_request(key, identity, dns_names), identity, lifetime, now, dns_names=dns_names)
        return material(chain, key.pem(), b"".join(ca.pem for ca in ([self] if bundle is None else bundle)))

    def successor(self, name: str, not_before: datetime, not_after: datetime) -> FakeCA:
        """Return another generation of the same trust domain under the same parent."""
        return FakeCA(name, self.trust_domain, not_before, not_after, self.parent)


def spki_sha256(csr_pem: bytes) -> str:
    """Return the id of the key in *csr_pem*, as orders name it."""
    return spki_sha256_of(x509.load_pem_x509_csr(csr_pem))
