"""Certificates of the shapes that rotator accepts pass a linter that is not ours."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.certificate_authority import EPOCH, FakeCA, key_usage
from tests.pkix_lint import findings

HOUR = timedelta(hours=1)
IDENTITY = "spiffe://td.example/worker"
ROOT = FakeCA("root", "corp.example", path_length=1)
CA = FakeCA("one", "td.example", parent=ROOT)
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def leaf(builder: x509.CertificateBuilder) -> bytes:
    return builder.sign(CA.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "pem",
    [
        ROOT.pem,
        CA.pem,
        leaf(CA.leaf_builder(KEY, IDENTITY, HOUR, EPOCH)),
        leaf(CA.leaf_builder(KEY, IDENTITY, HOUR, EPOCH, dns_names=["worker.example"])),
        FakeCA("nc", "td.example", name_constraints=x509.NameConstraints([x509.DNSName("a.example")], None)).pem,
    ],
    ids=["root", "authority", "leaf", "leaf with a DNS name", "constrained authority"],
)
def test_our_shapes_pass(pem: bytes) -> None:
    """Root, authority and leaf have no finding but the linter's known false one."""
    assert [] == findings(pem)


def test_the_linter_looks() -> None:
    """Control: the linter finds keyCertSign on a leaf and non-critical names under an empty subject."""
    spoiled = (
        x509.CertificateBuilder(CA.certificate.subject, x509.Name([]), KEY, 1)
        .not_valid_before(EPOCH)
        .not_valid_after(EPOCH + HOUR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True, key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(IDENTITY)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(CA.key.public_key()), critical=False)
    )
    assert len(findings(leaf(spoiled))) >= 2
