"""
Law 11: everything a CA could give back that was not asked for is refused, one row per difference.

Each row takes the faultless certificate and changes one thing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from rotator.core.model import Authority, KeyType, Leaf
from rotator.errors import Rejected
from rotator.pki.certificates import spki_sha256_of
from rotator.pki.returned import check_authority, check_leaf
from rotator.pki.signing_request import new_key
from tests.fakes.certificate_authority import EPOCH, FakeCA, key_usage

DOMAIN = "td.example"
IDENTITY = f"spiffe://{DOMAIN}/worker"
DNS = ("a.example", "b.example")
ASKED = EPOCH + timedelta(hours=1, milliseconds=400)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
SKEW = 5 * SECOND

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = FakeCA("root", "corp.example", path_length=1, not_after=EPOCH + timedelta(days=30))
CA = FakeCA("one", DOMAIN, not_after=EPOCH + timedelta(days=7), parent=ROOT)


@dataclass(frozen=True, kw_only=True)
class LeafPlan:
    """A leaf as the CA makes it; the defaults are what was asked for. None leaves an extension out."""

    issuer: FakeCA = CA
    key: ec.EllipticCurvePrivateKey = KEY
    subject: x509.Name = x509.Name([])  # noqa: RUF009 -- frozen, never changed -- immutable
    begins: datetime = ASKED - 30 * SECOND
    ends: datetime = ASKED + HOUR
    names: tuple[x509.GeneralName, ...] | None = (
        x509.UniformResourceIdentifier(IDENTITY),
        *(x509.DNSName(name) for name in DNS),
    )
    names_critical: bool = True
    constraints: x509.BasicConstraints | None = x509.BasicConstraints(ca=False, path_length=None)  # noqa: RUF009 -- frozen, never changed
    usage: x509.KeyUsage | None = key_usage(digital_signature=True)  # noqa: RUF009 -- frozen, never changed -- immutable
    usage_critical: bool = True
    extended: tuple[ObjectIdentifier, ...] | None = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    names_signer: FakeCA | None = CA
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    signed_by: ec.EllipticCurvePrivateKey | None = None

    def made(self) -> x509.Certificate:
        """Return the certificate."""
        builder = (
            x509.CertificateBuilder(self.issuer.certificate.subject, self.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins.replace(microsecond=0))
            .not_valid_after(self.ends.replace(microsecond=0))
        )
        extensions: list[tuple[x509.ExtensionType | None, bool]] = [
            (self.constraints, True),
            (self.usage, self.usage_critical),
            (x509.ExtendedKeyUsage(self.extended) if self.extended else None, False),
            (x509.SubjectAlternativeName(self.names) if self.names else None, self.names_critical),
            (
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.names_signer.key.public_key())
                if self.names_signer
                else None,
                False,
            ),
            *self.more,
        ]
        for extension, critical in extensions:
            if extension is not None:
                builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.signed_by or self.issuer.key, hashes.SHA256())


def judged_leaf(plan: LeafPlan, **changed: Any) -> Leaf:
    asked: dict[str, Any] = {
        "spki_sha256": _spki(KEY),
        "identity": IDENTITY,
        "dns_names": DNS,
        "lifetime": HOUR,
        "signer": CA.certificate,
        "above": (ROOT.certificate,),
        "asked_at": ASKED,
        "received_at": ASKED + SECOND,
        "skew": SKEW,
    }
    return check_leaf([plan.made()], **(asked | changed))


def _spki(key: ec.EllipticCurvePrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return spki_sha256_of(builder.sign(key, hashes.SHA256()))


def _uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


URI, NAMES = _uri(IDENTITY), LeafPlan().names or ()
OTHER_CA = FakeCA("one", DOMAIN, not_after=EPOCH + timedelta(days=7))
COMMON_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "worker")])
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")

LEAF_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("another key", {"key": OTHER_KEY}, "another public key"),
    ("another identity", {"names": (_uri(f"spiffe://{DOMAIN}/admin"), *NAMES[1:])}, "its URI names are"),
    ("identity in other case", {"names": (_uri(f"spiffe://{DOMAIN}/Worker"), *NAMES[1:])}, "its URI names are"),
    ("two URIs", {"names": (*NAMES, _uri(f"spiffe://{DOMAIN}/x"))}, "its URI names are"),
    ("the same URI twice", {"names": (URI, *NAMES)}, "its URI names are"),
    ("no URI", {"names": NAMES[1:]}, "its URI names are"),
    ("no names", {"names": None}, "its URI names are"),
    ("a DNS name more", {"names": (*NAMES, x509.DNSName("c.example"))}, "its DNS names are"),
    ("a DNS name less", {"names": NAMES[:-1]}, "its DNS names are"),
    ("a DNS name twice", {"names": (*NAMES, NAMES[-1])}, "its DNS names are"),
    ("a wildcard instead", {"names": (*NAMES[:-1], x509.DNSName("*.example"))}, "its DNS names are"),
    ("an address", {"names": (*NAMES, x509.IPAddress(ipaddress.ip_address("127.0.0.1")))}, "neither URI nor DNS"),
    ("a mailbox", {"names": (*NAMES, x509.RFC822Name("a@b.example"))}, "neither URI nor DNS"),
    ("a directory name", {"names": (*NAMES, x509.DirectoryName(COMMON_NAME))}, "neither URI nor DNS"),
    ("a subject", {"subject": COMMON_NAME}, "its subject is"),
    ("names not critical", {"names_critical": False}, "must be critical"),
    ("no basic constraints", {"constraints": None}, "basic constraints are absent"),
    ("an authority", {"constraints": x509.BasicConstraints(ca=True, path_length=None)}, "starts with an authority"),
    ("no key usage", {"usage": None}, "no key usage"),
    ("key usage not critical", {"usage_critical": False}, "key usage is not critical"),
    ("no digitalSignature", {"usage": key_usage(key_encipherment=True)}, "lacks digitalSignature"),
    ("keyCertSign", {"usage": key_usage(digital_signature=True, key_cert_sign=True)}, "sign certificates or CRLs"),
    ("cRLSign", {"usage": key_usage(digital_signature=True, crl_sign=True)}, "sign certificates or CRLs"),
    ("no extended usage", {"extended": None}, "not exactly serverAuth and clientAuth"),
    ("only a client", {"extended": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, "lacks serverAuth or clientAuth"),
    (
        "code signing too",
        {"extended": (*(LeafPlan().extended or ()), ExtendedKeyUsageOID.CODE_SIGNING)},
        "not exactly serverAuth and clientAuth",
    ),
    ("not yet valid", {"begins": ASKED + 7 * SECOND}, "is not valid before"),
    ("back-dated too far", {"begins": ASKED - 37 * SECOND}, "back-dated by more than"),
    ("lives longer", {"ends": ASKED + HOUR + 7 * SECOND}, "longer than the 1:00:00 asked for"),
    ("truncated", {"ends": ASKED + HOUR - 7 * SECOND}, "shorter than the 1:00:00 asked for"),
    ("expired already", {"begins": ASKED - 20 * SECOND, "ends": ASKED - SECOND}, "shorter than"),
    ("does not say who signed", {"names_signer": None}, "does not say who signed it"),
    ("another signer", {"issuer": OTHER_CA, "names_signer": OTHER_CA}, "asked was"),
    ("a forged key id", {"issuer": OTHER_CA}, "did not sign certificate"),
    ("a wrong signature", {"signed_by": OTHER_KEY}, "did not sign certificate"),
    ("another issuer name", {"issuer": ROOT, "signed_by": CA.key}, "no anchor has signed it"),
    ("an unknown extension", {"more": ((UNKNOWN, False),)}, "nobody asked for its extension 1.3.6.1.4.1.99999.1"),
    (
        "name constraints",
        {"more": ((x509.NameConstraints([x509.DNSName("x")], None), True),)},
        "nobody asked for its extension 2.5.29.30",
    ),
    ("a must-staple", {"more": ((x509.TLSFeature([x509.TLSFeatureType.status_request]), False),)}, "nobody asked for"),
]


def test_law_11_the_leaf_asked_for_is_taken() -> None:
    """The faultless leaf passes and comes back described, whatever the order of its DNS names."""
    plan = LeafPlan(more=((x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), False),))
    leaf = judged_leaf(plan, dns_names=tuple(reversed(DNS)))
    assert (IDENTITY, DNS, CA.authority.id, KeyType.ECDSA_P256) == (
        leaf.spiffe_id,
        leaf.dns_names,
        leaf.issuer,
        leaf.key_type,
    )


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in LEAF_ROWS], ids=[row[0] for row in LEAF_ROWS])
def test_law_11_any_other_leaf_is_refused(change: dict[str, Any], message: str) -> None:
    """One difference from what was asked is enough to refuse a leaf; the reason says which."""
    with pytest.raises(Rejected, match=message):
        judged_leaf(replace(LeafPlan(), **change))


@pytest.mark.parametrize("above", [(), (ROOT.certificate,)])
def test_law_04_a_leaf_never_outlives_what_is_above_it(above: tuple[x509.Certificate, ...]) -> None:
    """A leaf that ends after its CA, or after a CA above that one, is refused, even if that was asked for."""
    short = FakeCA("short", DOMAIN, not_after=ASKED + HOUR - SECOND, parent=ROOT)
    plan = LeafPlan(issuer=short, names_signer=short)
    with pytest.raises(Rejected, match="above it only until"):
        judged_leaf(plan, signer=short.certificate, above=above)
    ending = FakeCA("root", "corp.example", path_length=1, not_after=ASKED + HOUR - SECOND, key=ROOT.key)
    with pytest.raises(Rejected, match="above it only until"):
        judged_leaf(LeafPlan(), above=(ending.certificate,))


@pytest.mark.parametrize("late", [timedelta(0), SECOND, 20 * SECOND])
def test_lifetime_counts_from_issuance_between_asking_and_answering(late: timedelta) -> None:
    """A slow answer may end as much later as it took, and no more."""
    received = ASKED + late
    assert judged_leaf(LeafPlan(ends=received + HOUR), received_at=received)
    with pytest.raises(Rejected, match="longer than"):
        judged_leaf(LeafPlan(ends=received + HOUR + SKEW + 2 * SECOND), received_at=received)


# --- authorities -----------------------------------------------------------------------------------------------------

NAME = "td.example generation 2"
WEEK = timedelta(days=7)
CONSTRAINTS = x509.NameConstraints([x509.DNSName("a.example"), x509.DNSName("b.example")], None)


@dataclass(frozen=True, kw_only=True)
class AuthorityPlan:
    """A CA certificate as the corporate PKI makes it; the defaults are what was asked for."""

    issuer: FakeCA = ROOT
    key: ec.EllipticCurvePrivateKey = KEY
    subject: x509.Name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])  # noqa: RUF009 -- frozen, never changed -- immutable
    begins: datetime = ASKED - SECOND
    ends: datetime = ASKED + WEEK
    ca: bool = True
    path_length: int | None = 0
    constraints_critical: bool = True
    usage: x509.KeyUsage | None = key_usage(key_cert_sign=True, crl_sign=True)  # noqa: RUF009 -- frozen, never changed -- immutable
    usage_critical: bool = True
    key_id: bytes | None = x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()).digest
    names: tuple[x509.GeneralName, ...] | None = (x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}"),)
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    signed_by: ec.EllipticCurvePrivateKey | None = None

    def made(self) -> x509.Certificate:
        """Return the certificate."""
        builder = (
            x509.CertificateBuilder(self.issuer.certificate.subject, self.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins.replace(microsecond=0))
            .not_valid_after(self.ends.replace(microsecond=0))
        )
        issuer_key = self.issuer.key.public_key()
        extensions: list[tuple[x509.ExtensionType | None, bool]] = [
            (
                x509.BasicConstraints(ca=self.ca, path_length=self.path_length if self.ca else None),
                self.constraints_critical,
            ),
            (self.usage, self.usage_critical),
            (x509.SubjectKeyIdentifier(self.key_id) if self.key_id else None, False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False),
            (x509.SubjectAlternativeName(self.names) if self.names else None, False),
            *self.more,
        ]
        for extension, critical in extensions:
            if extension is not None:
                builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.signed_by or self.issuer.key, hashes.SHA256())


def judged_authority(plan: AuthorityPlan, **changed: Any) -> Authority:
    asked: dict[str, Any] = {
        "spki_sha256": _spki(KEY),
        "common_name": NAME,
        "trust_domain": DOMAIN,
        "lifetime": WEEK,
        "parent": ROOT.certificate,
        "asked_at": ASKED,
        "received_at": ASKED + SECOND,
        "skew": SKEW,
    }
    return check_authority(plan.made(), **(asked | changed))


def _subject(*attributes: tuple[ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])


def _permitted(*names: str, critical: bool = True) -> dict[str, Any]:
    return {"more": ((x509.NameConstraints([x509.DNSName(name) for name in names], None), critical),)}


OTHER_ROOT = FakeCA("root", "corp.example", path_length=1)

AUTHORITY_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("another key", {"key": OTHER_KEY}, "another public key"),
    ("a leaf", {"ca": False}, "is no authority"),
    ("no key id", {"key_id": None}, "no subject key identifier"),
    ("a key id of another key", {"key_id": b"\x01" * 20}, "no hash of its key"),
    ("another name", {"subject": _subject((NameOID.COMMON_NAME, "other"))}, "its subject is"),
    (
        "more in its subject",
        {"subject": _subject((NameOID.ORGANIZATION_NAME, "x"), (NameOID.COMMON_NAME, NAME))},
        "its subject is",
    ),
    ("no subject", {"subject": _subject()}, "its subject is"),
    ("constraints not critical", {"constraints_critical": False}, "basic constraints are not critical"),
    ("path length 1", {"path_length": 1}, "path length is 1"),
    ("no path length", {"path_length": None}, "path length is None"),
    ("no key usage", {"usage": None}, "absent or not critical"),
    ("key usage not critical", {"usage_critical": False}, "absent or not critical"),
    ("no cRLSign", {"usage": key_usage(key_cert_sign=True)}, "key usage is"),
    ("digitalSignature too", {"usage": key_usage(key_cert_sign=True, crl_sign=True, digital_signature=True)}, "usage"),
    ("no trust domain", {"names": None}, "not exactly the trust domain"),
    ("another trust domain", {"names": (_uri("spiffe://other.example"),)}, "not exactly the trust domain"),
    ("an identity with a path", {"names": (URI,)}, "not exactly the trust domain"),
    ("a name more", {"names": (_uri(f"spiffe://{DOMAIN}"), x509.DNSName("x"))}, "not exactly the trust domain"),
    ("unwanted constraints", _permitted("a.example"), "name constraints are not those"),
    ("an extended usage", {"more": ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False),)}, "nobody"),
    ("an unknown extension", {"more": ((UNKNOWN, False),)}, "nobody asked for its extension"),
    ("not yet valid", {"begins": ASKED + 7 * SECOND}, "is not valid before"),
    ("back-dated too far", {"begins": ASKED - 37 * SECOND}, "back-dated by more than"),
    ("lives longer", {"ends": ASKED + WEEK + 7 * SECOND}, "longer than"),
    ("truncated", {"ends": ASKED + WEEK - 7 * SECOND}, "shorter than"),
    ("a wrong signature", {"signed_by": OTHER_KEY}, "did not sign certificate"),
    ("another signer", {"issuer": OTHER_ROOT}, "asked was"),
]


def test_law_11_the_authority_asked_for_is_taken() -> None:
    """The faultless CA certificate passes and comes back described."""
    authority = judged_authority(AuthorityPlan(), above=(ROOT.certificate,))
    assert (0, ROOT.authority.id, f"CN={NAME}", False) == (
        authority.path_length,
        authority.parent,
        authority.subject,
        authority.self_signed,
    )


@pytest.mark.parametrize(
    ("change", "message"), [row[1:] for row in AUTHORITY_ROWS], ids=[row[0] for row in AUTHORITY_ROWS]
)
def test_law_11_any_other_authority_is_refused(change: dict[str, Any], message: str) -> None:
    """One difference from what was asked is enough to refuse a CA certificate; the reason says which."""
    with pytest.raises(Rejected, match=message):
        judged_authority(replace(AuthorityPlan(), **change))


def test_law_04_an_authority_never_outlives_its_parent() -> None:
    """Vault signs an intermediate that outlives its root; we refuse it, even though that lifetime was asked for."""
    lifetime = timedelta(days=60)
    with pytest.raises(Rejected, match="above it only until"):
        judged_authority(AuthorityPlan(ends=ASKED + lifetime), lifetime=lifetime)


@pytest.mark.parametrize(
    ("plan", "verdict"),
    [
        (_permitted("b.example", "a.example"), None),
        ({}, "name constraints are not those"),
        (_permitted("a.example"), "name constraints are not those"),
        (_permitted("a.example", "b.example", "c.example"), "name constraints are not those"),
        (_permitted("a.example", "b.example", critical=False), "name constraints are not critical"),
    ],
)
def test_name_constraints_are_those_asked_for(plan: dict[str, Any], verdict: str | None) -> None:
    """Name constraints must be exactly those of the configuration, in any order, and critical."""
    if verdict is None:
        assert judged_authority(AuthorityPlan(**plan), name_constraints=CONSTRAINTS)
        return
    with pytest.raises(Rejected, match=verdict):
        judged_authority(AuthorityPlan(**plan), name_constraints=CONSTRAINTS)


@pytest.mark.parametrize("kind", list(KeyType))
@pytest.mark.parametrize("method", ["sha1 of the bits", "sha256 of the bits, cut", "sha256 of the whole"])
def test_every_usual_key_identifier_is_recognised(kind: KeyType, method: str) -> None:
    """Key identifiers of RFC 5280 and RFC 7093, for every key type; computed here by cryptography's own means."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 -- only this test needs it

    key = serialization.load_pem_private_key(new_key(kind).pem(), None)
    public = key.public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    raw = {
        KeyType.ED25519: (serialization.Encoding.Raw, serialization.PublicFormat.Raw),
        KeyType.RSA_2048: (serialization.Encoding.DER, serialization.PublicFormat.PKCS1),
        KeyType.RSA_3072: (serialization.Encoding.DER, serialization.PublicFormat.PKCS1),
    }.get(kind, (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint))
    bits = public.public_bytes(*raw)
    digests: dict[str, Callable[[], bytes]] = {
        "sha1 of the bits": lambda: _digest(hashes.SHA1(), bits),  # noqa: S303 -- RFC 5280 names it so
        "sha256 of the bits, cut": lambda: _digest(hashes.SHA256(), bits)[:20],
        "sha256 of the whole": lambda: _digest(hashes.SHA256(), spki),
    }
    plan = replace(AuthorityPlan(), key=key, key_id=digests[method]())  # type: ignore[arg-type]  # any key signs nothing here
    certificate = plan.made()
    assert judged_authority(plan, spki_sha256=spki_sha256_of(certificate))


def _digest(algorithm: hashes.HashAlgorithm, content: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(content)
    return digest.finalize()
