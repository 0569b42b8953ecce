"""
How a control plane signs leaves and judges CA pairs.

Rules that must stay true here:

- The first certificate of a blob signs; the leaf is sent alone, without chain.
- A leaf's end is not capped by its CA's.
- What Kuma does not check is not checked here either: dates, path length, order, key identifiers.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LeafKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

# As in the workload certificates of Kuma: ten seconds for clocks that disagree.
SKEW = timedelta(seconds=10)


class BadPair(Exception):
    """A CA pair that cannot sign; the text is what the control plane would say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate alone and its key, PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    not_after: datetime
    issued_at: datetime


def certificates_of(pem: bytes) -> list[x509.Certificate]:
    """Return every certificate of *pem*. Raises `BadPair` if there is none."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as e:
        raise BadPair("not a valid TLS key pair: failed to find any PEM certificate") from e


def _spki(public: PublicKeyTypes) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@functools.lru_cache(maxsize=256)
def load_pair(certificate_pem: bytes, key_pem: bytes) -> tuple[x509.Certificate, LeafKey]:
    """Return the first certificate of the blob and its key. Raises `BadPair` if they do not belong together."""
    first = certificates_of(certificate_pem)[0]
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as e:
        raise BadPair("not a valid TLS key pair: failed to parse the private key") from e
    if not isinstance(key, LeafKey) or _spki(key.public_key()) != _spki(first.public_key()):
        raise BadPair("not a valid TLS key pair: private key does not match public key")
    return first, key


def pair_violations(certificate_pem: bytes, key_pem: bytes) -> list[str]:
    """Return what admission finds wrong with a CA pair; empty if nothing."""
    try:
        load_pair(certificate_pem, key_pem)
    except BadPair as e:
        return [str(e)]
    found = []
    for certificate in certificates_of(certificate_pem):
        constraints = _extension(certificate, x509.BasicConstraints)
        if constraints is None or not constraints.ca:
            found.append("basic constraint 'CA' must be set to 'true'")
        usage = _extension(certificate, x509.KeyUsage)
        if usage is None or not usage.key_cert_sign:
            found.append("key usage extension 'keyCertSign' must be set")
        if usage is not None and usage.key_agreement:
            found.append("key usage extension 'keyAgreement' must NOT be set")
    return found


def is_self_signed(pem: bytes) -> bool:
    """Return whether the first certificate of *pem* signed itself."""
    first = certificates_of(pem)[0]
    if first.subject != first.issuer:
        return False
    try:
        first.verify_directly_issued_by(first)
    except Exception:  # noqa: BLE001 -- whatever the reason, it did not
        return False
    return True


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def new_key(like: LeafKey | None) -> LeafKey:
    """Return a fresh key of the kind of *like*; P-256 without one."""
    if isinstance(like, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, 2048)
    if isinstance(like, ed25519.Ed25519PrivateKey):
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(like.curve if like is not None else ec.SECP256R1())


def sign_leaf(
    certificate_pem: bytes, key_pem: bytes, *, uris: Sequence[str], lifetime: timedelta, now: datetime, like_ca: bool
) -> KeyPair:
    """
    Return a leaf with a key of its own, signed by the first certificate of the blob.

    With *like_ca* the leaf's key is of the CA's kind (MeshIdentity); otherwise P-256, where Kuma's legacy path makes
    RSA keys: two of them a second would be all that this machine could spare.
    """
    issuer, signer = load_pair(certificate_pem, key_pem)
    key = new_key(signer if like_ca else None)
    not_after = (now + lifetime).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before((now - SKEW).replace(microsecond=0))
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_encipherment=True, key_agreement=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=True
        )
    )
    identifier = _extension(issuer, x509.SubjectKeyIdentifier)
    if identifier is not None:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    leaf = builder.sign(signer, algorithm)
    return KeyPair(
        certificate_pem=leaf.public_bytes(serialization.Encoding.PEM),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        not_after=not_after,
        issued_at=now,
    )


def new_root(
    common_name: str, trust_domain: str, now: datetime, *, by_rsa: bool = True, serial_number: int | None = None
) -> KeyPair:
    """
    Return a self-signed root as a control plane makes one for itself: ten years, the mesh in the URI name.

    RSA as there, unless a test wants the many leaves of a MeshIdentity in less time.
    """
    key = rsa.generate_private_key(65537, 2048) if by_rsa else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Kuma"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Mesh"),
            _common_name(common_name),
        ]
    )
    not_after = (now + timedelta(days=3650)).replace(microsecond=0)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial_number or x509.random_serial_number())
        .not_valid_before((now - SKEW).replace(microsecond=0))
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return KeyPair(
        certificate_pem=root.public_bytes(serialization.Encoding.PEM),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ),
        not_after=not_after,
        issued_at=now,
    )


def new_builtin_root(mesh: str, now: datetime) -> KeyPair:
    """Return the root that a control plane makes for a builtin backend: as `new_root`, with the serial number 0."""
    root = new_root(mesh, mesh, now, serial_number=1)
    certificate, key = x509.load_pem_x509_certificate(root.certificate_pem), _rsa_key(root.key_pem)
    said = certificate.tbs_certificate_bytes
    # Nobody who makes certificates by the book lets it be 0, so it is written over and signed again.
    one, zero = b"\xa0\x03\x02\x01\x02\x02\x01\x01", b"\xa0\x03\x02\x01\x02\x02\x01\x00"
    resaid = said.replace(one, zero, 1)
    signature = key.sign(resaid, padding.PKCS1v15(), hashes.SHA256())
    der = certificate.public_bytes(serialization.Encoding.DER)
    der = der.replace(said, resaid, 1).replace(certificate.signature, signature, 1)
    return replace(root, certificate_pem=ssl.DER_cert_to_PEM_cert(der).encode())


def _rsa_key(pem: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _common_name(text: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, text)


def _usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_agreement: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=key_agreement,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
