"""Chains verify exactly when a TLS peer says so: a table of our own, and OpenSSL's verdict on drawn chains."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from hypothesis import event, given
from hypothesis import strategies as st

from rotator.errors import Rejected
from rotator.pki.chain import verify, verify_pem
from tests.fakes.certificate_authority import EPOCH, FakeCA, key_usage

DOMAIN = "td.example"
IDENTITY = f"spiffe://{DOMAIN}/worker"
NOW = EPOCH + timedelta(hours=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LEAF_KEY = ec.generate_private_key(ec.SECP256R1())

ROOT = FakeCA("root", "corp.example", path_length=2)
MIDDLE = FakeCA("middle", "corp.example", parent=ROOT, path_length=1)
CA = FakeCA("one", DOMAIN, parent=MIDDLE)
SIBLING = FakeCA("two", DOMAIN, parent=MIDDLE)


def leaf(ca: FakeCA = CA, *, now: datetime = NOW, lifetime: timedelta = HOUR) -> x509.Certificate:
    builder = ca.leaf_builder(LEAF_KEY.public_key(), IDENTITY, lifetime, now)
    return builder.sign(ca.key, hashes.SHA256())


def named(ca: FakeCA, *names: x509.GeneralName, subject: x509.Name | None = None) -> x509.Certificate:
    """Return a leaf of *ca* that carries *names* only."""
    builder = (
        x509.CertificateBuilder(ca.certificate.subject, subject or x509.Name([]), LEAF_KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + HOUR)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(ca.key, hashes.SHA256())


def certificates(*authorities: FakeCA) -> list[x509.Certificate]:
    return [authority.certificate for authority in authorities]


@pytest.mark.parametrize(
    ("sent", "anchors"),
    [
        ((), (CA,)),
        ((), (SIBLING, CA)),
        ((CA,), (CA,)),
        ((CA,), (MIDDLE,)),
        ((CA, MIDDLE), (ROOT,)),
        ((MIDDLE, CA, SIBLING), (ROOT,)),
        ((CA, MIDDLE, ROOT), (ROOT,)),
        ((), (CA, CA)),
    ],
)
def test_a_leaf_verifies_under_any_anchor_above_it(sent: Sequence[FakeCA], anchors: Sequence[FakeCA]) -> None:
    """The anchor may be its own CA, one in the middle or the root; order and surplus do not matter."""
    verify([leaf(), *certificates(*sent)], certificates(*anchors), NOW)


@pytest.mark.parametrize(
    ("sent", "anchors", "message"),
    [
        ((), (), "no anchor has signed it"),
        ((), (SIBLING,), "no anchor has signed it"),
        ((), (MIDDLE,), "no anchor has signed it"),
        ((MIDDLE,), (ROOT,), "no anchor has signed it"),
        ((CA,), (ROOT,), "nothing leads from authority"),
        ((CA,), (SIBLING,), "nothing leads from authority"),
    ],
)
def test_a_leaf_without_a_path_is_refused(sent: Sequence[FakeCA], anchors: Sequence[FakeCA], message: str) -> None:
    """No path to an anchor: refused, with what was missing; what is sent along is no anchor."""
    with pytest.raises(Rejected, match=message):
        verify([leaf(), *certificates(*sent)], certificates(*anchors), NOW)


def test_the_moment_decides() -> None:
    """Valid from notBefore to notAfter, both included, to the second; leaf and CA alike."""
    short = FakeCA("short", DOMAIN, NOW, NOW + HOUR)
    made = leaf(short, lifetime=DAY)
    for moment in (NOW, NOW + HOUR, NOW + HOUR + timedelta(milliseconds=999)):
        verify([made], [short.certificate], moment)
    for moment, message in ((NOW - timedelta(milliseconds=1), "not valid before"), (NOW + HOUR * 2, "ended at")):
        with pytest.raises(Rejected, match=message):
            verify([made], [short.certificate], moment)
    with pytest.raises(Rejected, match="ended at"):
        verify([leaf(lifetime=HOUR)], [CA.certificate], NOW + HOUR + timedelta(seconds=1))


def test_same_name_other_key_is_refused() -> None:
    """An authority with the right name and another key is found out by its key id, or by the signature."""
    imposter = FakeCA("one", DOMAIN)
    with pytest.raises(Rejected, match="another key id"):
        verify([leaf()], [imposter.certificate], NOW)
    bare = named(CA, x509.UniformResourceIdentifier(IDENTITY))
    with pytest.raises(Rejected, match="did not sign"):
        verify([bare], [imposter.certificate], NOW)
    verify([bare], certificates(imposter, CA), NOW)


def _authority(**changed: Any) -> FakeCA:
    """Return a self-signed CA with one thing changed that `FakeCA` would not do."""
    ca = FakeCA("odd", DOMAIN)
    shape: dict[str, Any] = {"ca": True, "usage": key_usage(key_cert_sign=True, crl_sign=True), "more": ()} | changed
    builder = (
        x509.CertificateBuilder(ca.certificate.subject, ca.certificate.subject, ca.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(EPOCH)
        .not_valid_after(EPOCH + DAY)
    )
    if shape["ca"] is not None:
        constraints = x509.BasicConstraints(ca=shape["ca"], path_length=None)
        builder = builder.add_extension(constraints, critical=True)
    if shape["usage"] is not None:
        builder = builder.add_extension(shape["usage"], critical=True)
    for extension, critical in shape["more"]:
        builder = builder.add_extension(extension, critical=critical)
    ca.certificate = builder.sign(ca.key, hashes.SHA256())
    return ca


UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
ANY_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ca": False}, "is no authority"),
        ({"ca": None}, "is no authority"),
        ({"usage": key_usage(crl_sign=True)}, "lacks keyCertSign"),
        ({"more": ((UNKNOWN, True),)}, "critical extension that is not understood"),
        ({"more": ((SERVER_AUTH, False),)}, "extended key usage is narrower"),
    ],
)
def test_an_authority_must_be_one(changed: dict[str, Any], message: str) -> None:
    """CA:TRUE, keyCertSign, understood extensions and wide enough usages, also of an anchor."""
    ca = _authority(**changed)
    with pytest.raises(Rejected, match=message):
        verify([leaf(ca)], [ca.certificate], NOW)


@pytest.mark.parametrize(
    "changed", [{}, {"usage": None}, {"more": ((UNKNOWN, False),)}, {"more": ((ANY_USAGE, False),)}]
)
def test_what_an_authority_may_leave_out(changed: dict[str, Any]) -> None:
    """No key usage at all, unknown extensions that are not critical, and anyExtendedKeyUsage are no obstacle."""
    ca = _authority(**changed)
    verify([leaf(ca)], [ca.certificate], NOW)


def test_path_length_counts_authorities_below() -> None:
    """Path length 0 signs leaves only, wherever in the path and as an anchor too."""
    strict = FakeCA("strict", DOMAIN, path_length=0)
    below = FakeCA("below", DOMAIN, parent=strict)
    with pytest.raises(Rejected, match="allows 0 authorities below it, there are 1"):
        verify([leaf(below), below.certificate], [strict.certificate], NOW)
    verify([leaf(strict)], [strict.certificate], NOW)


def test_a_broken_hash_is_refused() -> None:
    """A leaf signed with SHA-1 does not verify (RSA, since cryptography refuses to make one for EC)."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rsa")])
    ca = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(EPOCH)
        .not_valid_after(EPOCH + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    builder = (
        x509.CertificateBuilder(name, x509.Name([]), LEAF_KEY.public_key(), 2)
        .not_valid_before(EPOCH)
        .not_valid_after(EPOCH + DAY)
    )
    verify([builder.sign(key, hashes.SHA256())], [ca], NOW)
    tampered = _with_sha1(builder.sign(key, hashes.SHA256()), key)
    with pytest.raises(Rejected, match=r"broken hash|cannot be checked|did not sign"):
        verify([tampered], [ca], NOW)


def _with_sha1(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> x509.Certificate:
    """Sign *certificate* again with SHA-1, by hand: the two algorithms' identifiers differ in their last byte."""
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415 -- only here

    oid = bytes.fromhex("06092a864886f70d01010b")
    body = certificate.tbs_certificate_bytes.replace(oid, oid[:-1] + b"\x05")
    signature = key.sign(body, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 -- what is to be refused
    whole = certificate.public_bytes(serialization.Encoding.DER)
    whole = whole.replace(certificate.tbs_certificate_bytes, body).replace(oid, oid[:-1] + b"\x05")
    return x509.load_der_x509_certificate(whole.replace(certificate.signature, signature))


def test_a_hostile_heap_of_lookalikes_ends() -> None:
    """Many authorities of one name cost a bounded number of signature checks."""
    heap = [FakeCA("one", DOMAIN, key=CA.key, path_length=None).certificate for _ in range(12)]
    with pytest.raises(Rejected):
        verify([leaf(), *heap], [ROOT.certificate], NOW)


def test_verify_pem_does_the_same() -> None:
    """PEM as it is published verifies like the parsed certificates; errors quote none of it."""
    pem = leaf().public_bytes(serialization.Encoding.PEM)
    verify_pem(pem, CA.pem, NOW)
    with pytest.raises(Rejected) as refused:
        verify_pem(pem, SIBLING.pem, NOW)
    assert "BEGIN" not in str(refused.value)


def test_an_empty_chain_is_refused() -> None:
    """Nothing does not verify."""
    with pytest.raises(Rejected, match="empty"):
        verify([], [CA.certificate], NOW)


# --- name constraints ------------------------------------------------------------------------------------------------

URI, DNS, MAIL, IP = x509.UniformResourceIdentifier, x509.DNSName, x509.RFC822Name, x509.IPAddress
OTHER = x509.RegisteredID(ObjectIdentifier("1.2.3"))


def _directory(*units: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, each) for each in units]))


@pytest.mark.parametrize(
    ("base", "name", "inside"),
    [
        (DNS("a.example"), DNS("a.example"), True),
        (DNS("a.example"), DNS("A.EXAMPLE"), True),
        (DNS("a.example"), DNS("x.a.example"), True),
        (DNS("a.example"), DNS("xa.example"), False),
        (DNS("a.example"), DNS("example"), False),
        (DNS(".a.example"), DNS("x.a.example"), True),
        (DNS(".a.example"), DNS("a.example"), False),
        (DNS("a.example"), DNS("*.a.example"), True),
        (URI(DOMAIN), URI(IDENTITY), True),
        (URI(DOMAIN), URI("spiffe://x.td.example/worker"), False),
        (URI(".example"), URI(IDENTITY), True),
        (URI(".td.example"), URI(IDENTITY), False),
        (URI(DOMAIN), URI("spiffe://td.example.evil/worker"), False),
        (URI(DOMAIN), URI("urn:td.example"), False),
        (URI("127.0.0.1"), URI("https://127.0.0.1/"), False),
        (MAIL("td.example"), MAIL("a@td.example"), True),
        (MAIL("td.example"), MAIL("a@x.td.example"), False),
        (MAIL(".td.example"), MAIL("a@x.td.example"), True),
        (MAIL("a@td.example"), MAIL("a@TD.example"), True),
        (MAIL("a@td.example"), MAIL("b@td.example"), False),
        (IP(ip_network("10.0.0.0/8")), IP(ip_address("10.1.2.3")), True),
        (IP(ip_network("10.0.0.0/8")), IP(ip_address("11.1.2.3")), False),
        (IP(ip_network("10.0.0.0/8")), IP(ip_address("::1")), False),
        (IP(ip_network("fd00::/8")), IP(ip_address("fd00::1")), True),
        (_directory("a"), _directory("a", "b"), True),
        (_directory("a", "b"), _directory("a"), False),
        (_directory("a"), _directory("b"), False),
    ],
)
def test_name_constraints_permit_and_exclude(base: x509.GeneralName, name: x509.GeneralName, inside: bool) -> None:  # noqa: FBT001 -- pytest passes it by name
    """What lies inside a subtree is permitted by it and excluded by it; what lies outside is neither."""
    permitting = FakeCA("nc", DOMAIN, name_constraints=x509.NameConstraints([base], None))
    excluding = FakeCA("nc", DOMAIN, name_constraints=x509.NameConstraints(None, [base]))
    verdicts = (_passes(permitting, name), _passes(excluding, name))
    judged = not (isinstance(name, URI) and ("urn:" in name.value or "127.0.0.1" in name.value))
    assert (inside, not inside and judged) == verdicts


def _passes(ca: FakeCA, *names: x509.GeneralName, subject: x509.Name | None = None) -> bool:
    try:
        verify([named(ca, *names, subject=subject)], [ca.certificate], NOW)
    except Rejected as e:
        assert "excludes" in str(e) or "does not permit" in str(e)  # noqa: PT017 -- both reasons are right ones
        return False
    return True


def test_a_wildcard_that_could_stand_for_an_excluded_name_is_refused() -> None:
    """*.example is refused where x.example is excluded."""
    ca = FakeCA("nc", DOMAIN, name_constraints=x509.NameConstraints(None, [DNS("x.example")]))
    assert [False, True] == [_passes(ca, DNS("*.example")), _passes(ca, DNS("y.example"))]


def test_kinds_of_names_do_not_meet() -> None:
    """Permitted DNS names say nothing of URIs; a kind that cannot be judged is refused where it is constrained."""
    ca = FakeCA("nc", DOMAIN, name_constraints=x509.NameConstraints([DNS("a.example")], None))
    assert _passes(ca, URI(IDENTITY), OTHER)
    odd = FakeCA("nc", DOMAIN, name_constraints=x509.NameConstraints([OTHER], None))
    assert not _passes(odd, OTHER)


def test_the_subject_is_a_name_too() -> None:
    """A directory constraint binds the subject."""
    ca = FakeCA("nc", DOMAIN, name_constraints=x509.NameConstraints([_directory("a")], None))
    assert [True, False] == [_passes(ca, subject=_directory(unit).value) for unit in ("a", "b")]


def test_constraints_bind_everything_below() -> None:
    """A constraint of the anchor binds the leaf two levels below, and the authorities between."""
    top = FakeCA("top", DOMAIN, path_length=2, name_constraints=x509.NameConstraints([URI("other.example")], None))
    below = FakeCA("below", "other.example", parent=top, path_length=0)
    bad = named(below, URI(IDENTITY))
    with pytest.raises(Rejected, match=r"does not permit the name 'spiffe://td\.example/worker'"):
        verify([bad, below.certificate], [top.certificate], NOW)
    verify([named(below, URI("spiffe://other.example/x")), below.certificate], [top.certificate], NOW)
    verify([bad], [below.certificate], NOW)


# --- the same question to OpenSSL ------------------------------------------------------------------------------------

PRESENT = datetime.now(UTC).replace(microsecond=0)
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One certificate of a drawn chain, anchor first."""

    starts: int
    """Days from now."""
    days: int
    ca: bool
    cert_sign: bool
    path_length: int | None
    constraint: x509.GeneralName | None
    exclude: bool


authorities = st.builds(
    Drawn,
    starts=st.sampled_from([-1, -1, -1, -1, 1]),
    days=st.sampled_from([30, 30, 30, 30, 0]),
    ca=st.sampled_from([True, True, True, True, True, False]),
    cert_sign=st.sampled_from([True, True, True, True, True, False]),
    path_length=st.sampled_from([None, None, 0, 1, 2]),
    constraint=st.sampled_from(
        [None, None, None, DNS("example"), DNS("a.example"), URI(DOMAIN), URI(".example"), MAIL("td.example")]
    ),
    exclude=st.booleans(),
)
leaf_names = st.lists(
    st.sampled_from(
        [URI(IDENTITY), DNS("a.example"), DNS("b.example"), MAIL("x@td.example"), URI("https://x.example/")]
    ),
    min_size=1,
    max_size=3,
    unique=True,
)


def _drawn_chain(shapes: Sequence[Drawn], names: Sequence[x509.GeneralName]) -> list[x509.Certificate]:
    """Return the chain of *shapes*, leaf first."""
    made: list[x509.Certificate] = []
    for depth, shape in enumerate(shapes):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {depth}")])
        issuer, key = (made[-1].subject, KEYS[depth - 1]) if made else (name, KEYS[0])
        begins = PRESENT + timedelta(days=shape.starts)
        builder = (
            x509.CertificateBuilder(issuer, name, KEYS[depth].public_key(), x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + timedelta(days=shape.days, hours=1))
            .add_extension(
                x509.BasicConstraints(ca=shape.ca, path_length=shape.path_length if shape.ca else None), critical=True
            )
            .add_extension(key_usage(key_cert_sign=shape.cert_sign, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(KEYS[depth].public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        if shape.constraint is not None:
            subtree = [shape.constraint]
            constraints = x509.NameConstraints(None if shape.exclude else subtree, subtree if shape.exclude else None)
            builder = builder.add_extension(constraints, critical=True)
        made.append(builder.sign(key, hashes.SHA256()))
    last = KEYS[len(shapes) - 1]
    end = (
        x509.CertificateBuilder(made[-1].subject, x509.Name([]), LEAF_KEY.public_key(), x509.random_serial_number())
        .not_valid_before(PRESENT - HOUR)
        .not_valid_after(PRESENT + DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(last.public_key()), critical=False)
        .sign(last, hashes.SHA256())
    )
    return [end, *reversed(made)]


def _openssl_takes(chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]) -> bool:
    """Return whether OpenSSL, as a TLS client that trusts *anchors*, takes *chain* from a server, in memory."""
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=b"".join(map(_pem, anchors)).decode())
    key = LEAF_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    memory = os.memfd_create("chain")
    try:
        os.write(memory, b"".join(map(_pem, chain)) + key)
        server.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    waiting = list(ends)
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
        if not waiting:
            return True
    raise AssertionError("the handshake in memory does not end")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@given(
    shapes=st.lists(authorities, min_size=1, max_size=4),
    names=leaf_names,
    anchored=st.integers(min_value=0, max_value=3),
    left_out=st.sampled_from([None, None, None, None, 1, 2]),
)
def test_openssl_says_the_same(
    shapes: list[Drawn], names: list[x509.GeneralName], anchored: int, left_out: int | None
) -> None:
    """For drawn chains of up to four authorities, any of them the anchor, our verdict is OpenSSL's."""
    chain = _drawn_chain(shapes, names)
    anchor = chain[min(anchored, len(shapes) - 1) + 1]
    sent = [each for depth, each in enumerate(chain) if depth != left_out]
    try:
        verify(sent, [anchor], datetime.now(UTC))
    except Rejected as e:
        ours, why = False, str(e)
    else:
        ours, why = True, "it verifies"
    event("verifies" if ours else "refused")
    assert _openssl_takes(sent, [anchor]) == ours, why
