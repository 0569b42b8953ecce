"""SPIFFE's rules, against examples of the standard and an independent reading of its grammar."""

from __future__ import annotations

import re
import string

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from rotator.pki.spiffe import (
    spiffe_authority_problems,
    spiffe_id_problem,
    spiffe_leaf_problems,
    trust_domain_of,
    trust_domain_problem,
)
from tests.fakes.certificate_authority import EPOCH, FakeCA, key_usage

# The grammar as one expression, written without looking at the code: trust domain, then one or more segments that are
# not dots alone.
GRAMMAR = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/(?!\.{1,2}(?:/|\Z))[a-zA-Z0-9._-]+)+)\Z")

SEGMENT = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12)
TRUST_DOMAIN = st.text(string.ascii_lowercase + string.digits + "._-", min_size=1, max_size=30)


@given(domain=TRUST_DOMAIN, segments=st.lists(SEGMENT.filter(lambda s: s not in {".", ".."}), min_size=1, max_size=6))
def test_every_id_built_by_the_grammar_is_one(domain: str, segments: list[str]) -> None:
    """Whatever is built from allowed parts is a SPIFFE ID, and its trust domain is found again."""
    built = f"spiffe://{domain}/{'/'.join(segments)}"
    assert (None, domain) == (spiffe_id_problem(built), trust_domain_of(built))


@given(
    st.one_of(
        st.text(),
        st.text().map("spiffe://".__add__),
        st.from_regex(r"spiffe://[a-zA-Z0-9._:@%-]{0,12}[/?#a-zA-Z0-9._%-]{0,20}", fullmatch=True),
    )
)
def test_any_text_is_judged_as_the_grammar_says(text: str) -> None:
    """A text is a SPIFFE ID exactly if the grammar says so and it is not too long; judging never raises."""
    expected = GRAMMAR.match(text) is not None and len(text) <= 2048
    assert expected == (spiffe_id_problem(text) is None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "does not start with spiffe://"),
        ("https://td/a", "does not start with spiffe://"),
        ("SPIFFE://td/a", "does not start with spiffe://"),
        ("spiffe:///a", "trust domain is empty"),
        ("spiffe://TD/a", "lower-case"),
        ("spiffe://user@td/a", "lower-case"),
        ("spiffe://td:8080/a", "lower-case"),
        ("spiffe://td%41/a", "lower-case"),
        ("spiffe://tdé/a", "lower-case"),
        ("spiffe://td", "names the trust domain itself"),
        ("spiffe://td/", "empty segment"),
        ("spiffe://td/a/", "empty segment"),
        ("spiffe://td//a", "empty segment"),
        ("spiffe://td/.", "relative segment"),
        ("spiffe://td/a/../b", "relative segment"),
        ("spiffe://td/a?b", "path holds"),
        ("spiffe://td/a#b", "path holds"),
        ("spiffe://td/%41", "path holds"),
        ("spiffe://td/a\n", "path holds"),
        ("spiffe://td/ａ", "path holds"),  # noqa: RUF001 -- a full-width letter
        ("spiffe://td/" + "a" * 2048, "longer than 2048"),
        ("spiffe://" + "a" * 256 + "/a", "longer than 255"),
    ],
)
def test_the_problem_is_named(text: str, problem: str) -> None:
    """What is wrong with an ID is said in words."""
    assert problem in (spiffe_id_problem(text) or "")


@pytest.mark.parametrize(("name", "good"), [("td.example", True), ("a_b-c.1", True), ("", False), ("a/b", False)])
def test_trust_domain_names(name: str, good: bool) -> None:  # noqa: FBT001 -- the verdict of the row
    """Trust domains are judged alone too."""
    assert good == (trust_domain_problem(name) is None)


KEY = ec.generate_private_key(ec.SECP256R1())
URI = x509.UniformResourceIdentifier("spiffe://td.example/worker")
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def certificate(
    *names: x509.GeneralName,
    subject: str | None = None,
    critical: bool = True,
    ca: bool = False,
    usage: x509.KeyUsage | None = None,
    usage_critical: bool = True,
    extended: tuple[x509.ObjectIdentifier, ...] = BOTH,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = (
        x509.CertificateBuilder(x509.Name([]), name, KEY.public_key(), 1).not_valid_before(EPOCH).not_valid_after(EPOCH)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if usage is not None:
        builder = builder.add_extension(usage, critical=usage_critical)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical)
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    return builder.sign(KEY, hashes.SHA256())


SIGNS = key_usage(digital_signature=True)


@pytest.mark.parametrize(
    ("made", "problems"),
    [
        (certificate(URI, usage=SIGNS), ()),
        (certificate(URI, x509.DNSName("a.example"), usage=SIGNS, extended=()), ()),
        (certificate(URI, usage=SIGNS, subject="x", critical=False), ()),
        (certificate(usage=SIGNS), ("it has 0 URI names, not exactly one",)),
        (certificate(URI, URI, usage=SIGNS), ("it has 2 URI names, not exactly one",)),
        (
            certificate(x509.UniformResourceIdentifier("https://x/"), usage=SIGNS),
            ("'https://x/' is no SPIFFE ID: it does not start with spiffe://",),
        ),
        (
            certificate(URI, usage=SIGNS, critical=False),
            ("its subject is empty, so its alternative names must be critical",),
        ),
        (certificate(URI, usage=SIGNS, ca=True), ("it is an authority",)),
        (certificate(URI), ("it has no key usage",)),
        (certificate(URI, usage=SIGNS, usage_critical=False), ("its key usage is not critical",)),
        (certificate(URI, usage=key_usage(key_encipherment=True)), ("its key usage lacks digitalSignature",)),
        (
            certificate(URI, usage=key_usage(digital_signature=True, crl_sign=True)),
            ("its key usage lets it sign certificates or CRLs",),
        ),
        (
            certificate(URI, usage=SIGNS, extended=BOTH[:1]),
            ("its extended key usage lacks serverAuth or clientAuth",),
        ),
    ],
)
def test_what_keeps_a_certificate_from_being_a_leaf_svid(made: x509.Certificate, problems: tuple[str, ...]) -> None:
    """Every rule of X509-SVID for leaves, alone."""
    assert problems == spiffe_leaf_problems(made)


def test_every_problem_is_told_at_once() -> None:
    """A certificate with several faults shows them all."""
    assert 4 == len(spiffe_leaf_problems(certificate(ca=True, usage=key_usage(key_cert_sign=True))))


CA_SIGNS = key_usage(key_cert_sign=True, crl_sign=True)
TD = x509.UniformResourceIdentifier("spiffe://td.example")


@pytest.mark.parametrize(
    ("made", "problems"),
    [
        (FakeCA("one", "td.example").certificate, ()),
        (certificate(ca=True, usage=CA_SIGNS), ()),
        (certificate(TD, usage=CA_SIGNS), ("it is no authority",)),
        (certificate(TD, ca=True), ("its key usage lacks keyCertSign",)),
        (certificate(TD, ca=True, usage=CA_SIGNS, usage_critical=False), ("its key usage is not critical",)),
        (certificate(TD, TD, ca=True, usage=CA_SIGNS), ("it has 2 URI names, not at most one",)),
        (
            certificate(x509.UniformResourceIdentifier("td.example"), ca=True, usage=CA_SIGNS),
            ("'td.example' is no SPIFFE trust domain: it does not start with spiffe://",),
        ),
    ],
)
def test_what_keeps_a_certificate_from_signing_svids(made: x509.Certificate, problems: tuple[str, ...]) -> None:
    """Every rule of X509-SVID for signing certificates, alone."""
    assert problems == spiffe_authority_problems(made)


def test_a_signing_certificate_names_no_workload() -> None:
    """The SPIFFE ID of a signing certificate has no path."""
    assert 1 == len(spiffe_authority_problems(certificate(URI, ca=True, usage=CA_SIGNS)))
