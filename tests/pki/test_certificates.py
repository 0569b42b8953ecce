"""Parsing and describing: nothing is guessed, nothing secret is shown."""

from __future__ import annotations

import contextlib
import pickle
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from rotator.core.model import KeyType, TrustDomainName
from rotator.errors import Rejected
from rotator.pki import bundle
from rotator.pki.certificates import (
    authority_of,
    key_matches,
    leaf_of,
    material,
    normal_serial,
    parse_certificates,
    serial_of,
)
from rotator.pki.signing_request import PrivateKey, new_key, signing_request
from tests.fakes.certificate_authority import EPOCH, FakeCA, spki_sha256

DOMAIN = "td.example"
IDENTITY = f"spiffe://{DOMAIN}/worker"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ROOT = FakeCA("root", "corp.example", path_length=1)
CA = FakeCA("one", DOMAIN, EPOCH, EPOCH + 2 * HOUR, parent=ROOT)
KEY = new_key(KeyType.ECDSA_P256)
LEAF = CA.sign(signing_request(KEY, IDENTITY), IDENTITY, HOUR, EPOCH)


# --- parsing ---------------------------------------------------------------------------------------------------------


def test_certificates_are_read_in_order() -> None:
    """PEM with text between comes back in order."""
    read = parse_certificates(b"leaf\n" + LEAF + b"\nits CA\n" + CA.pem, source="x")
    assert [CA.authority.sha256] == [authority_of(read[1]).sha256]
    assert IDENTITY == leaf_of(read).spiffe_id


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "/etc/x holds no readable certificate"),
        (b"nonsense", "/etc/x holds no readable certificate"),
        (LEAF[:200], "/etc/x holds no readable certificate"),
        (LEAF.replace(b"MII", b"MIA", 1), "/etc/x holds no readable certificate"),
        (LEAF + KEY.pem(), "/etc/x holds a private key"),
        (KEY.pem(), "/etc/x holds a private key"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_source(content: bytes, message: str) -> None:
    """The error names where it comes from and quotes nothing of it."""
    with pytest.raises(Rejected, match=message) as refused:
        parse_certificates(content, source="/etc/x")
    assert "MII" not in str(refused.value)


@given(st.binary(max_size=300), st.integers(min_value=0, max_value=len(LEAF)))
def test_bytes_are_read_or_rejected(noise: bytes, at: int) -> None:
    """Whatever bytes come, the answer is certificates or `Rejected`."""
    for content in (noise, LEAF[:at] + noise + LEAF[at:], LEAF[:at] + noise + LEAF[at + len(noise) :]):
        with contextlib.suppress(Rejected):
            assert parse_certificates(content, source="x")


def test_a_certificate_with_an_extension_twice_is_rejected() -> None:
    """An extension that stands there twice is read differently by different readers: rejected."""
    certificate = x509.load_pem_x509_certificate(LEAF)
    # The subject key identifier is turned into a second authority key identifier: 2.5.29.14 into 2.5.29.35.
    spoiled = certificate.public_bytes(serialization.Encoding.DER).replace(
        b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x23"
    )
    pem = x509.load_der_x509_certificate(spoiled).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(Rejected, match="extensions that cannot be read"):
        parse_certificates(pem, source="x")


# --- describing ------------------------------------------------------------------------------------------------------


def test_a_leaf_is_described() -> None:
    """A leaf says who it is, who signed it, until when its whole chain holds, and which key it has."""
    leaf = leaf_of(parse_certificates(LEAF + CA.pem, source="x"))
    assert (IDENTITY, (), CA.authority.id, KEY.spki_sha256, KeyType.ECDSA_P256, "") == (
        leaf.spiffe_id,
        leaf.dns_names,
        leaf.issuer,
        leaf.spki_sha256,
        leaf.key_type,
        leaf.subject,
    )
    assert (EPOCH - timedelta(seconds=1), EPOCH + HOUR, EPOCH + HOUR) == (
        leaf.not_before,
        leaf.not_after,
        leaf.chain_not_after,
    )


def test_law_04_the_chain_ends_with_its_first_end() -> None:
    """A leaf under a CA that ends earlier is known to end with that CA."""
    long = CA.sign(signing_request(KEY, IDENTITY), IDENTITY, DAY, EPOCH)
    leaf = leaf_of(parse_certificates(long + CA.pem, source="x"))
    assert (EPOCH + DAY, EPOCH + 2 * HOUR) == (leaf.not_after, leaf.chain_not_after)


def test_an_authority_is_named_by_its_key() -> None:
    """An authority is named by its key id; two generations with one name stay apart."""
    again = FakeCA("one", DOMAIN, parent=ROOT)
    assert CA.authority.subject == again.authority.subject
    assert CA.authority.id != again.authority.id
    assert (ROOT.authority.id, False, 0) == (
        CA.authority.parent,
        CA.authority.self_signed,
        CA.authority.path_length,
    )
    assert (True, 1) == (ROOT.authority.self_signed, ROOT.authority.path_length)


def test_an_authority_without_key_id_is_refused() -> None:
    """Law 6: a CA certificate without subject key identifier cannot be named, so it is refused."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bare")])
    bare = (
        x509.CertificateBuilder(name, name, CA.key.public_key(), 1)
        .not_valid_before(EPOCH)
        .not_valid_after(EPOCH + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(CA.key, hashes.SHA256())
    )
    with pytest.raises(Rejected, match="no subject key identifier"):
        authority_of(bare)
    with pytest.raises(Rejected, match="is no authority"):
        authority_of(x509.load_pem_x509_certificate(LEAF))
    with pytest.raises(Rejected, match="starts with an authority"):
        leaf_of([CA.certificate])
    with pytest.raises(Rejected, match="empty"):
        leaf_of([])


@given(st.integers(min_value=1, max_value=2**159))
def test_serials_have_one_form(number: int) -> None:
    """However a tool writes a serial, rotator knows it again."""
    plain = f"{number:x}"
    even = plain.zfill(len(plain) + len(plain) % 2)
    pairs = [even[at : at + 2] for at in range(0, len(even), 2)]
    for written in (plain, plain.upper(), f"00{plain}", f"0x{plain}", ":".join(pairs), "-".join(pairs).upper()):
        assert plain == normal_serial(written)


def test_the_serial_of_a_certificate_has_that_form() -> None:
    """Serials of certificates have no leading zeros."""
    certificate = x509.load_pem_x509_certificate(LEAF)
    assert normal_serial(f"{certificate.serial_number:040X}") == serial_of(certificate)


# --- material --------------------------------------------------------------------------------------------------------


def test_material_is_a_pair_with_a_bundle() -> None:
    """Material is parsed whole; a key of another leaf is refused (law 9)."""
    made = material(LEAF, KEY.pem(), CA.pem + ROOT.pem)
    assert (IDENTITY, (CA.authority, ROOT.authority)) == (made.leaf.spiffe_id, made.bundle)
    with pytest.raises(Rejected, match="does not belong to leaf"):
        material(LEAF, new_key(KeyType.ECDSA_P256).pem(), CA.pem)
    with pytest.raises(Rejected, match="is no authority"):
        material(LEAF, KEY.pem(), LEAF)


@pytest.mark.parametrize("kind", list(KeyType))
def test_pairs_of_every_key_type(kind: KeyType) -> None:
    """A key matches the leaf made for it and no other, for every key type."""
    key = new_key(kind)
    request = signing_request(key, IDENTITY, ["a.example"])
    chain = CA.sign(request, IDENTITY, HOUR, EPOCH, dns_names=["a.example"])
    assert (True, False) == (key_matches(key.pem(), chain), key_matches(KEY.pem(), chain))
    assert (kind, kind, spki_sha256(request)) == (
        key.type,
        leaf_of(parse_certificates(chain, source="x")).key_type,
        key.spki_sha256,
    )


def _encrypted() -> bytes:
    key = serialization.load_pem_private_key(KEY.pem(), None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", LEAF, KEY.pem()[:80], _encrypted()],
    ids=["nothing", "nonsense", "certificate", "half a key", "encrypted"],
)
def test_law_10_an_unreadable_key_is_refused_without_a_word_of_it(content: bytes) -> None:
    """No readable, unencrypted key: refused; neither message nor cause quotes it."""
    with pytest.raises(Rejected, match="no readable, unencrypted private key") as refused:
        key_matches(content, LEAF)
    assert refused.value.__cause__ is None


def test_law_10_a_key_never_shows_itself() -> None:
    """Neither a key nor the material that holds it shows the secret, and a key is not pickled."""
    secret = KEY.pem().splitlines()[1].decode()
    shown = f"{KEY!r} {KEY!s} {material(LEAF, KEY.pem(), CA.pem)!r}"
    assert secret not in shown
    assert "redacted" in repr(KEY)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(KEY)
    assert not hasattr(KEY, "__dict__")
    assert isinstance(KEY, PrivateKey)


def test_law_10_every_key_is_new() -> None:
    """Two keys are never the same."""
    assert new_key(KeyType.ECDSA_P256).spki_sha256 != new_key(KeyType.ECDSA_P256).spki_sha256


def test_a_request_says_everything_in_its_names() -> None:
    """Empty subject, critical alternative names, signed by its own key."""
    request = x509.load_pem_x509_csr(signing_request(KEY, IDENTITY, ("a.example", "b.example")))
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert request.is_signature_valid
    assert ([], True, [IDENTITY], ["a.example", "b.example"]) == (
        list(request.subject),
        names.critical,
        names.value.get_values_for_type(x509.UniformResourceIdentifier),
        names.value.get_values_for_type(x509.DNSName),
    )


# --- bundles ---------------------------------------------------------------------------------------------------------

GENERATIONS = [FakeCA(f"generation {number}", DOMAIN, EPOCH + number * DAY) for number in range(3)]
FOREIGN = FakeCA("foreign", "other.example", EPOCH + 9 * DAY)
EVERYBODY = [each.certificate for each in (*GENERATIONS, FOREIGN, ROOT)]


@given(st.permutations(EVERYBODY))
def test_a_set_has_one_order(shuffled: list[x509.Certificate]) -> None:
    """Whatever order a bundle came in, it is written the same: own domain first, then newest first."""
    own = [each.certificate for each in reversed(GENERATIONS)]
    expected = [*own, FOREIGN.certificate, ROOT.certificate]
    ordered = bundle.order([*shuffled, *shuffled[:2]], own=TrustDomainName(DOMAIN))
    assert expected == list(ordered)
    assert bundle.digest(EVERYBODY) == bundle.digest(shuffled)
    assert bundle.encode(expected) == bundle.encode([*ordered, *ordered])


def test_without_an_own_domain_the_newest_is_first() -> None:
    """No own trust domain: only age counts."""
    assert FOREIGN.certificate == bundle.order(EVERYBODY)[0]


@given(st.lists(st.sampled_from(EVERYBODY)), st.lists(st.sampled_from(EVERYBODY)))
def test_merging_and_subtracting_are_set_operations(
    left: list[x509.Certificate], right: list[x509.Certificate]
) -> None:
    """Merge is union, subtract is difference, neither repeats a certificate."""
    assert set(left) | set(right) == set(bundle.merge(left, right))
    assert set(left) - set(right) == set(bundle.subtract(left, right))
    assert len(set(bundle.merge(left, right))) == len(bundle.merge(left, right))


def test_encoding_is_normal_and_comes_back() -> None:
    """One newline at the end, nothing but PEM blocks, and the same certificates when read."""
    pem = bundle.encode(EVERYBODY)
    assert pem.endswith(b"-----END CERTIFICATE-----\n")
    assert b"\n\n" not in pem
    assert EVERYBODY == list(parse_certificates(pem, source="x"))
    assert bundle.digest(EVERYBODY) != bundle.digest(EVERYBODY[1:])
