"""
Law 11: what a certificate authority gave back, compared with what was asked.

Rules that must stay true here:

- Nothing is published, installed or believed before it has passed here; every difference is a `Rejected` that names it.
- What is not on the list is refused: an extension, a name or a usage that nobody asked for.
- Refuse, never truncate: a certificate that lives shorter than asked is refused like one that lives longer (law 4).
- Lifetimes count from issuance, which lies between asking and answering, not from a back-dated notBefore.
- Nothing outlives what stands above it (law 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from rotator.core.model import Authority, Leaf
from rotator.errors import Rejected
from rotator.pki.certificates import (
    authority_key_id,
    authority_of,
    dns_names,
    extension,
    extensions_of,
    leaf_of,
    serial_of,
    spki_sha256_of,
    uri_names,
)
from rotator.pki.chain import verify
from rotator.pki.spiffe import spiffe_authority_problems, spiffe_leaf_problems

# As Vault back-dates by default (its role's not_before_duration), so that slightly slow clocks accept a fresh leaf.
BACKDATE_LIMIT: Final = timedelta(seconds=30)

# Certificates hold whole seconds, cut off: a moment read back may lie up to a second earlier.
_CUT: Final = timedelta(seconds=1)

_COMMON_EXTENSIONS: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        # Where to find CRL, OCSP and issuer, and under which policy: an authority adds them, they grant nothing.
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)
_LEAF_EXTENSIONS: Final = _COMMON_EXTENSIONS | {ExtensionOID.EXTENDED_KEY_USAGE}
_AUTHORITY_EXTENSIONS: Final = _COMMON_EXTENSIONS | {ExtensionOID.NAME_CONSTRAINTS}

_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def check_leaf(
    chain: Sequence[x509.Certificate],
    *,
    spki_sha256: str,
    identity: str,
    dns_names: Sequence[str],
    lifetime: timedelta,
    signer: x509.Certificate,
    above: Sequence[x509.Certificate] = (),
    asked_at: datetime,
    received_at: datetime,
    skew: timedelta,
    backdate_limit: timedelta = BACKDATE_LIMIT,
) -> Leaf:
    """
    Return the first of *chain* as a `Leaf` if it is what was ordered.

    Args:
        chain: What came back, leaf first.
        spki_sha256: The key that was sent in the request.
        identity: The SPIFFE ID asked for.
        dns_names: The DNS names asked for, in any order.
        lifetime: The lifetime asked for.
        signer: The certificate of the generation that was told to sign.
        above: Further certificates above *signer* (the corporate PKI's), as far as they are known.
        asked_at: When the request left, by our clock.
        received_at: When the answer came, by our clock.
        skew: How far the signer's clock may be from ours.
        backdate_limit: How far notBefore may lie before issuance.

    Raises:
        Rejected: At the first difference. The certificate exists nevertheless: it must be revoked or recorded.
    """
    leaf = leaf_of(chain)
    certificate = chain[0]
    _refuse_if(spki_sha256 != leaf.spki_sha256, leaf.serial, "it certifies another public key than the one sent")
    _check_extensions(certificate, allowed=_LEAF_EXTENSIONS)
    _check_leaf_names(certificate, identity=identity, wanted_dns=dns_names)
    for problem in spiffe_leaf_problems(certificate):
        _refuse_if(True, leaf.serial, problem)
    constraints = extension(certificate, x509.BasicConstraints)
    _refuse_if(constraints is None, leaf.serial, "its basic constraints are absent, CA:FALSE was asked for")
    extended = extension(certificate, x509.ExtendedKeyUsage)
    _refuse_if(
        extended is None or set(extended.value) != {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH},
        leaf.serial,
        "its extended key usage is not exactly serverAuth and clientAuth",
    )
    _check_times(
        certificate,
        lifetime=lifetime,
        asked_at=asked_at,
        received_at=received_at,
        skew=skew,
        backdate_limit=backdate_limit,
    )
    _check_issuer(certificate, signer, (*chain[1:], *above))
    verify([certificate], [signer], max(received_at, leaf.not_before))
    return leaf


def check_authority(
    certificate: x509.Certificate,
    *,
    spki_sha256: str,
    common_name: str,
    trust_domain: str,
    lifetime: timedelta,
    parent: x509.Certificate,
    above: Sequence[x509.Certificate] = (),
    asked_at: datetime,
    received_at: datetime,
    skew: timedelta,
    name_constraints: x509.NameConstraints | None = None,
    backdate_limit: timedelta = BACKDATE_LIMIT,
) -> Authority:
    """
    Return *certificate* as an `Authority` if it is the CA that was ordered: one that signs leaves and nothing else.

    Args:
        certificate: What came back.
        spki_sha256: The key that was sent in the request.
        common_name: The subject asked for; nothing else may stand in the subject.
        trust_domain: The trust domain, without ``spiffe://``.
        lifetime: The lifetime asked for.
        parent: The certificate of the corporate issuer that was told to sign.
        above: Further certificates above *parent*, as far as they are known.
        asked_at: When the request left, by our clock.
        received_at: When the answer came, by our clock.
        skew: How far the signer's clock may be from ours.
        name_constraints: The constraints asked for; None for none.
        backdate_limit: How far notBefore may lie before issuance.

    Raises:
        Rejected: At the first difference. The certificate exists nevertheless: it must be revoked or recorded.
    """
    authority = authority_of(certificate)
    serial = authority.serial
    _refuse_if(spki_sha256 != authority.spki_sha256, serial, "it certifies another public key than the one sent")
    _check_extensions(certificate, allowed=_AUTHORITY_EXTENSIONS)
    wanted_subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    _refuse_if(
        certificate.subject.rfc4514_string() != wanted_subject.rfc4514_string(),
        serial,
        f"its subject is {authority.subject!r}, asked for was CN={common_name!r} alone",
    )
    constraints = extension(certificate, x509.BasicConstraints)
    _refuse_if(constraints is None or not constraints.critical, serial, "its basic constraints are not critical")
    _refuse_if(authority.path_length != 0, serial, f"its path length is {authority.path_length}, not 0")
    usage = extension(certificate, x509.KeyUsage)
    _refuse_if(usage is None or not usage.critical, serial, "its key usage is absent or not critical")
    if usage is not None:
        used = {name for name in _USAGES if getattr(usage.value, name)}
        _refuse_if(
            used != {"key_cert_sign", "crl_sign"},
            serial,
            f"its key usage is {sorted(used)}, not keyCertSign and cRLSign",
        )
    _refuse_if(authority.id not in _key_ids(certificate), serial, "its subject key identifier is no hash of its key")
    uris = uri_names(certificate)
    _refuse_if(
        uris != (f"spiffe://{trust_domain}",) or _count_names(certificate) != 1,
        serial,
        f"its alternative names are not exactly the trust domain spiffe://{trust_domain}",
    )
    for problem in spiffe_authority_problems(certificate):
        _refuse_if(True, serial, problem)
    _check_constraints(certificate, name_constraints)
    _check_times(
        certificate,
        lifetime=lifetime,
        asked_at=asked_at,
        received_at=received_at,
        skew=skew,
        backdate_limit=backdate_limit,
    )
    _check_issuer(certificate, parent, above)
    verify([certificate], [parent], max(received_at, authority.not_before))
    return authority


def _refuse_if(wrong: bool, serial: str, why: str) -> None:  # noqa: FBT001 -- a condition, read where it stands
    """Raise `Rejected` if *wrong*."""
    if wrong:
        raise Rejected(f"certificate {serial} came back and is refused: {why}")


def _check_extensions(certificate: x509.Certificate, *, allowed: frozenset[x509.ObjectIdentifier]) -> None:
    """Refuse an extension that nobody asked for."""
    serial = serial_of(certificate)
    for found in extensions_of(certificate, source=f"certificate {serial}"):
        _refuse_if(found.oid not in allowed, serial, f"nobody asked for its extension {found.oid.dotted_string}")


def _count_names(certificate: x509.Certificate) -> int:
    """Return how many alternative names of any kind *certificate* carries."""
    found = extension(certificate, x509.SubjectAlternativeName)
    return 0 if found is None else len(list(found.value))


def _check_leaf_names(certificate: x509.Certificate, *, identity: str, wanted_dns: Sequence[str]) -> None:
    """Refuse any name but *identity* and *wanted_dns*, in the subject too."""
    serial = serial_of(certificate)
    uris, names = uri_names(certificate), dns_names(certificate)
    _refuse_if(uris != (identity,), serial, f"its URI names are {list(uris)}, asked for was {identity}")
    _refuse_if(
        len(names) != len(set(names)) or set(names) != set(wanted_dns),
        serial,
        f"its DNS names are {sorted(names)}, asked for were {sorted(wanted_dns)}",
    )
    _refuse_if(
        _count_names(certificate) != len(uris) + len(names),
        serial,
        "it carries names that are neither URI nor DNS name",
    )
    _refuse_if(
        bool(list(certificate.subject)),
        serial,
        f"its subject is {certificate.subject.rfc4514_string()!r}, an empty one was asked for",
    )


def _check_times(
    certificate: x509.Certificate,
    *,
    lifetime: timedelta,
    asked_at: datetime,
    received_at: datetime,
    skew: timedelta,
    backdate_limit: timedelta,
) -> None:
    """Refuse a validity that does not follow from *lifetime* and an issuance between the two moments."""
    serial = serial_of(certificate)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    _refuse_if(begins > received_at + skew, serial, f"it is not valid before {begins:%Y-%m-%dT%H:%M:%SZ}")
    _refuse_if(
        begins < asked_at - skew - backdate_limit - _CUT,
        serial,
        f"its notBefore {begins:%Y-%m-%dT%H:%M:%SZ} is back-dated by more than {backdate_limit}",
    )
    _refuse_if(
        ends > received_at + lifetime + skew,
        serial,
        f"it lives until {ends:%Y-%m-%dT%H:%M:%SZ}, longer than the {lifetime} asked for",
    )
    _refuse_if(
        ends < asked_at + lifetime - skew - _CUT,
        serial,
        f"it lives until {ends:%Y-%m-%dT%H:%M:%SZ}, shorter than the {lifetime} asked for",
    )


def _check_issuer(certificate: x509.Certificate, signer: x509.Certificate, above: Sequence[x509.Certificate]) -> None:
    """Refuse another signer than the pinned one (law 6), and a life that goes on after any above it (law 4)."""
    serial, pinned = serial_of(certificate), authority_of(signer)
    found = authority_key_id(certificate)
    _refuse_if(found != pinned.id, serial, f"authority {found} signed it, asked was {pinned.id}")
    for parent in (signer, *above):
        _refuse_if(
            certificate.not_valid_after_utc > parent.not_valid_after_utc,
            serial,
            f"it lives until {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, "
            f"but authority {serial_of(parent)} above it only until {parent.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        )


def _check_constraints(certificate: x509.Certificate, wanted: x509.NameConstraints | None) -> None:
    """Refuse other name constraints than *wanted*, in any order, or constraints that readers may skip."""
    serial, found = serial_of(certificate), extension(certificate, x509.NameConstraints)
    if wanted is None or found is None:
        _refuse_if((wanted is None) != (found is None), serial, "its name constraints are not those asked for")
        return
    _refuse_if(not found.critical, serial, "its name constraints are not critical")
    same = set(found.value.permitted_subtrees or ()) == set(wanted.permitted_subtrees or ())
    same = same and set(found.value.excluded_subtrees or ()) == set(wanted.excluded_subtrees or ())
    _refuse_if(not same, serial, "its name constraints are not those asked for")


def _key_ids(certificate: x509.Certificate) -> frozenset[str]:
    """Return the subject key identifiers that follow from the key: RFC 5280 method 1, RFC 7093 methods 1 and 4."""
    by_sha1 = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest.hex()
    point = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return frozenset({by_sha1, hashlib.sha256(_bit_string(point)).hexdigest()[:40], spki_sha256_of(certificate)})


def _bit_string(spki: bytes) -> bytes:
    """Return the key bits of a DER SubjectPublicKeyInfo: the content of its last element, a BIT STRING."""
    outer = _header(spki, 0)
    algorithm = _header(spki, outer[0])
    start, _ = _header(spki, algorithm[0] + algorithm[1])
    # The first byte counts unused bits; there are none in keys.
    return spki[start + 1 :]


def _header(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the DER element at *at* begins, and its length."""
    length = der[at + 1]
    if length < 0x80:  # noqa: PLR2004 -- DER's short form
        return at + 2, length
    count = length & 0x7F
    return at + 2 + count, int.from_bytes(der[at + 2 : at + 2 + count])
