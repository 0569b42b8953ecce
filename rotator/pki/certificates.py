"""
PEM at the edge, `Leaf` and `Authority` inside: parsing and describing, nothing else.

Rules that must stay true here:

- Pure: no clock, no file, no socket.
- A private key is never part of a ``repr`` or of an error; no error quotes a PEM.
- What cannot be described without guessing (an authority without key id, a leaf that does not say who signed it)
  is `Rejected`, never described by half.

What a certificate may be used for is judged elsewhere: `rotator.pki.chain` (does it verify),
`rotator.pki.returned` (is it what was ordered, law 11), `rotator.pki.spiffe` (is it an SVID).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from rotator.core.model import Authority, IssuerId, KeyType, Leaf, Serial
from rotator.errors import Rejected

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Key, leaf, chain and bundle that move as one (law 9)."""

    chain_pem: bytes
    """Leaf first, then intermediates."""
    key_pem: bytes = field(repr=False)
    """PKCS#8, unencrypted."""
    bundle_pem: bytes
    leaf: Leaf
    bundle: tuple[Authority, ...]


def parse_certificates(pem: bytes, *, source: str) -> tuple[x509.Certificate, ...]:
    """
    Return every certificate in *pem*, in order; at least one.

    *source* names where the bytes come from, in errors.

    Raises:
        Rejected: If there is none, one cannot be read, or a private key stands among them: such a file would be
            published for everyone to read (law 10).
    """
    if b"PRIVATE KEY-----" in pem:
        raise Rejected(f"{source} holds a private key where only certificates belong")
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as e:
        raise Rejected(f"{source} holds no readable certificate") from e
    for certificate in certificates:
        extensions_of(certificate, source=source)
        public_key_type(certificate, source=source)
    return certificates


def extensions_of(certificate: x509.Certificate, *, source: str = "a certificate") -> x509.Extensions:
    """Return the extensions, parsed. Raises `Rejected` if one is malformed or stands there twice."""
    try:
        return certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as e:
        raise Rejected(f"{source} has extensions that cannot be read") from e


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
    """Return the extension of *kind*, None if it is absent."""
    try:
        return extensions_of(certificate).get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def serial_of(certificate: x509.Certificate) -> Serial:
    """Return the serial number, lower-case hex without leading zeros."""
    return Serial(f"{certificate.serial_number:x}")


def normal_serial(text: str) -> Serial:
    """Return *text* (any case, colons or spaces, leading zeros, perhaps ``0x``) as rotator writes serials."""
    bare = text.strip().lower().removeprefix("0x").replace(":", "").replace(" ", "").replace("-", "").lstrip("0")
    return Serial(bare or "0")


def sha256_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of the DER, lower-case hex."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def spki_sha256_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Return the SHA-256 of the public key (SubjectPublicKeyInfo, DER), lower-case hex."""
    encoded = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(encoded).hexdigest()


def key_type_of(public_key: object) -> KeyType | None:
    """Return the key's type, None if it is none that may be configured."""
    match public_key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return KeyType.ECDSA_P256
        case ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            return KeyType.ECDSA_P384
        case rsa.RSAPublicKey(key_size=2048):
            return KeyType.RSA_2048
        case rsa.RSAPublicKey(key_size=3072):
            return KeyType.RSA_3072
        case ed25519.Ed25519PublicKey():
            return KeyType.ED25519
        case _:
            return None


def public_key_type(certificate: x509.Certificate, *, source: str = "a certificate") -> KeyType | None:
    """Return the type of *certificate*'s key. Raises `Rejected` if the key cannot be read at all."""
    try:
        return key_type_of(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm) as e:
        raise Rejected(f"{source} has a public key that cannot be read") from e


def subject_key_id(certificate: x509.Certificate) -> IssuerId | None:
    """Return the subject key identifier, None if absent."""
    found = extension(certificate, x509.SubjectKeyIdentifier)
    return None if found is None else IssuerId(found.value.digest.hex())


def authority_key_id(certificate: x509.Certificate) -> IssuerId | None:
    """Return the key identifier of whoever signed *certificate*, None if it does not say."""
    found = extension(certificate, x509.AuthorityKeyIdentifier)
    if found is None or not found.value.key_identifier:
        return None
    return IssuerId(found.value.key_identifier.hex())


def uri_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the URIs of the subject alternative name, in order."""
    found = extension(certificate, x509.SubjectAlternativeName)
    return () if found is None else tuple(found.value.get_values_for_type(x509.UniformResourceIdentifier))


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names of the subject alternative name, in order."""
    found = extension(certificate, x509.SubjectAlternativeName)
    return () if found is None else tuple(found.value.get_values_for_type(x509.DNSName))


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether basic constraints say CA:TRUE."""
    found = extension(certificate, x509.BasicConstraints)
    return found is not None and found.value.ca


def leaf_of(chain: Sequence[x509.Certificate]) -> Leaf:
    """
    Return the first of *chain* as a `Leaf`; ``chain_not_after`` is the earliest end in the whole chain.

    Raises:
        Rejected: If *chain* is empty, starts with an authority, or its leaf names no authority key id.
    """
    if not chain:
        raise Rejected("the chain is empty")
    first = chain[0]
    if is_authority(first):
        raise Rejected(f"the chain starts with an authority (serial {serial_of(first)}), not with a leaf")
    issuer = authority_key_id(first)
    if issuer is None:
        raise Rejected(f"leaf {serial_of(first)} does not say who signed it: no authority key identifier")
    uris = uri_names(first)
    return Leaf(
        serial=serial_of(first),
        sha256=sha256_of(first),
        subject=first.subject.rfc4514_string(),
        spiffe_id=uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else None,
        dns_names=dns_names(first),
        issuer=issuer,
        not_before=first.not_valid_before_utc,
        not_after=first.not_valid_after_utc,
        chain_not_after=min(certificate.not_valid_after_utc for certificate in chain),
        spki_sha256=spki_sha256_of(first),
        key_type=public_key_type(first),
    )


@lru_cache(maxsize=64)
def authority_of(certificate: x509.Certificate) -> Authority:
    """
    Return *certificate* as an `Authority`, named by its subject key identifier. Few are asked for again and again.

    Raises:
        Rejected: If it is no CA certificate, or carries no subject key identifier (law 6).
    """
    serial = serial_of(certificate)
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        raise Rejected(f"certificate {serial} is no authority: basic constraints do not say CA:TRUE")
    key_id = subject_key_id(certificate)
    if not key_id:
        raise Rejected(f"authority {serial} carries no subject key identifier")
    parent = authority_key_id(certificate)
    return Authority(
        id=key_id,
        serial=serial,
        sha256=sha256_of(certificate),
        subject=certificate.subject.rfc4514_string(),
        parent=parent,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        spki_sha256=spki_sha256_of(certificate),
        path_length=constraints.value.path_length,
        self_signed=certificate.subject == certificate.issuer and parent in {None, key_id},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """A trust bundle, parsed."""

    certificates: tuple[x509.Certificate, ...]
    authorities: tuple[Authority, ...]


@lru_cache(maxsize=64)
def anchors(bundle_pem: bytes, *, source: str = "the bundle") -> Anchors:
    """
    Return what is trusted, in order. Thousands of publications hold the same bundle: it is parsed and kept once.

    Raises:
        Rejected: If it cannot be read, or holds something else than CAs.
    """
    certificates = parse_certificates(bundle_pem, source=source)
    return Anchors(certificates=certificates, authorities=tuple(map(authority_of, certificates)))


def key_spki_sha256(key_pem: bytes, *, source: str) -> str:
    """Return the SHA-256 of the public half of *key_pem*. Raises `Rejected` if it is no unencrypted private key."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    # TypeError: the key is encrypted.
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause is dropped on purpose: nobody promises that it does not quote the key.
        raise Rejected(f"{source} holds no readable, unencrypted private key") from None
    encoded = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def key_matches(key_pem: bytes, chain_pem: bytes) -> bool:
    """Return whether the private key belongs to the first certificate of the chain. Raises `Rejected` if unreadable."""
    leaf = parse_certificates(chain_pem, source="the chain")[0]
    return key_spki_sha256(key_pem, source="the key") == spki_sha256_of(leaf)


def material(chain_pem: bytes, key_pem: bytes, bundle_pem: bytes) -> Material:
    """
    Return what moves as one, parsed and compared.

    Raises:
        Rejected: If a part cannot be read, key and leaf are no pair, or the bundle holds something else than CAs.
    """
    leaf = leaf_of(parse_certificates(chain_pem, source="the chain"))
    if key_spki_sha256(key_pem, source="the key") != leaf.spki_sha256:
        raise Rejected(f"the private key does not belong to leaf {leaf.serial}")
    bundle = anchors(bundle_pem).authorities
    return Material(chain_pem=chain_pem, key_pem=key_pem, bundle_pem=bundle_pem, leaf=leaf, bundle=bundle)
