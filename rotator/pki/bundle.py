"""
The canonical trust bundle: one set of authorities has one order and one encoding.

Rules that must stay true here:

- The newest comes first: some readers take only the first certificate of a name (law 6). One's own trust domain comes
  before those of others.
- No authority stands there twice; two certificates of one key are two entries.
- Who may be in a bundle is the engine's business, not this module's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from rotator.pki.certificates import sha256_of, uri_names
from rotator.pki.spiffe import trust_domain_of


def merge(*bundles: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Return every certificate of *bundles* once, in the order of their first appearance."""
    return tuple({sha256_of(certificate): certificate for bundle in bundles for certificate in bundle}.values())


def subtract(bundle: Iterable[x509.Certificate], without: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Return *bundle*, each certificate once, but for those in *without*."""
    gone = {sha256_of(certificate) for certificate in without}
    return tuple(certificate for certificate in merge(bundle) if sha256_of(certificate) not in gone)


def order(bundle: Iterable[x509.Certificate], *, own: str | None = None) -> tuple[x509.Certificate, ...]:
    """
    Return *bundle*, each certificate once, in the one order that it has.

    Authorities of the trust domain *own* first, then the newest notBefore first, then by fingerprint: the same set
    always comes out the same, whatever order it came in.
    """

    def place(certificate: x509.Certificate) -> tuple[bool, float, str]:
        foreign = own is not None and all(trust_domain_of(uri) != own for uri in uri_names(certificate))
        return foreign, -certificate.not_valid_before_utc.timestamp(), sha256_of(certificate)

    return tuple(sorted(merge(bundle), key=place))


def encode(bundle: Sequence[x509.Certificate]) -> bytes:
    """Return *bundle* as normal PEM in the given order, each certificate once, one newline at the end."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in merge(bundle))


def digest(bundle: Iterable[x509.Certificate]) -> str:
    """Return a SHA-256, lower-case hex, that is the same for the same set in any order."""
    return hashlib.sha256("\n".join(sorted({sha256_of(certificate) for certificate in bundle})).encode()).hexdigest()
