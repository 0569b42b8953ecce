"""
Does a leaf verify under these anchors at this moment, as a TLS peer would judge it.

Rules that must stay true here:

- Pure: the moment is an argument.
- An anchor may be an intermediate (a mesh trusts its own CA, not the corporate root above it); it is held to its dates,
  usages and constraints like every other certificate, as OpenSSL and BoringSSL do.
- Whatever is critical and not understood refuses the path; nothing is assumed in favour of the chain.
- A chain verifies if any path does; the reason given is that of the path that came furthest.

Source: RFC 5280 section 6.1, without policies; name constraints are in `rotator.pki.names`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from rotator.errors import Rejected
from rotator.pki.certificates import (
    authority_key_id,
    extension,
    extensions_of,
    parse_certificates,
    serial_of,
    subject_key_id,
)
from rotator.pki.names import constraint_problem

# A path longer than this is a mistake or an attack; corporate PKIs have three or four certificates in a row.
_LONGEST_PATH = 8

# Signature checks for one question; a hostile chain of look-alikes could ask for a factorial number (CVE-2018-16875).
_MOST_CHECKS = 100

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)


def verify(chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], at: datetime) -> None:
    """
    Return if the first of *chain* verifies under one of *anchors* at the moment *at*, through the rest if need be.

    Raises:
        Rejected: If no path does; the message names the leaf's serial and the reason.
    """
    if not chain:
        raise Rejected("the chain is empty")
    try:
        _Search(chain[1:], anchors, at).run(chain[0])
    except Rejected as e:
        raise Rejected(f"leaf {serial_of(chain[0])} does not verify: {e}") from e


def verify_pem(chain_pem: bytes, bundle_pem: bytes, at: datetime) -> None:
    """Do what `verify` does for PEM as it is published (one cell of law 3's matrix)."""
    verify(parse_certificates(chain_pem, source="the chain"), parse_certificates(bundle_pem, source="the bundle"), at)


class _Search:
    """One search for a path; counts its work and remembers the best reason."""

    def __init__(self, sent: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], at: datetime) -> None:
        self._sent = sent
        self._anchors = anchors
        self._at = at
        self._checks = 0
        self._reason = "no anchor has signed it, nor a certificate sent with it"
        self._depth = 0

    def run(self, leaf: x509.Certificate) -> None:
        """Return at the first whole path; raise the best reason if there is none."""
        problem = _alone_problem(leaf, self._at)
        if problem is not None:
            raise Rejected(problem)
        if not self._complete([leaf]):
            raise Rejected(self._reason)

    def _complete(self, path: list[x509.Certificate]) -> bool:
        """Return whether *path* (leaf first) can be brought to an anchor."""
        if len(path) > _LONGEST_PATH:
            self._note(len(path), f"the path is longer than {_LONGEST_PATH} certificates")
            return False
        for candidate, anchored in self._candidates(path):
            self._checks += 1
            if self._checks > _MOST_CHECKS:
                raise Rejected("too many look-alike authorities to try")
            problem = _issued_problem(path[-1], candidate) or self._issuer_problem(path, candidate)
            if problem is not None:
                self._note(len(path), problem)
            elif anchored or self._complete([*path, candidate]):
                return True
            else:
                self._note(len(path), f"nothing leads from authority {serial_of(candidate)} to an anchor")
        return False

    def _candidates(self, path: list[x509.Certificate]) -> Iterator[tuple[x509.Certificate, bool]]:
        """Yield who may have signed the end of *path* by name, anchors first."""
        for anchored, certificates in ((True, self._anchors), (False, self._sent)):
            for certificate in certificates:
                if certificate.subject == path[-1].issuer and certificate not in path:
                    yield certificate, anchored

    def _issuer_problem(self, path: list[x509.Certificate], issuer: x509.Certificate) -> str | None:
        """Return why *issuer* may not stand above *path*, None if it may."""
        return (
            _alone_problem(issuer, self._at)
            or _authority_problem(path, issuer)
            or next((why for below in path if (why := constraint_problem(issuer, below)) is not None), None)
        )

    def _note(self, depth: int, reason: str) -> None:
        """Keep *reason* if no path came further."""
        if depth > self._depth:
            self._depth, self._reason = depth, reason


def _alone_problem(certificate: x509.Certificate, at: datetime) -> str | None:
    """Return what is wrong with *certificate* whoever signed it, at the moment *at*."""
    name = serial_of(certificate)
    if at < certificate.not_valid_before_utc:
        return f"certificate {name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    # notAfter itself still belongs to the validity (RFC 5280 4.1.2.5), and a second has a thousand milliseconds.
    if at.replace(microsecond=0) > certificate.not_valid_after_utc:
        return f"certificate {name} ended at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    for found in extensions_of(certificate, source=f"certificate {name}"):
        if found.critical and found.oid not in _UNDERSTOOD:
            return f"certificate {name} has a critical extension that is not understood: {found.oid.dotted_string}"
    return None


def _issued_problem(certificate: x509.Certificate, issuer: x509.Certificate) -> str | None:
    """Return why *issuer* did not sign *certificate*, None if it did."""
    wanted, found = authority_key_id(certificate), subject_key_id(issuer)
    if wanted is not None and found is not None and wanted != found:
        return f"authority {serial_of(issuer)} has the right name, but another key id"
    try:
        weak = isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5)
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        return f"authority {serial_of(issuer)} did not sign certificate {serial_of(certificate)}"
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return f"the signature of certificate {serial_of(certificate)} cannot be checked"
    return f"certificate {serial_of(certificate)} is signed with a broken hash" if weak else None


def _authority_problem(path: list[x509.Certificate], issuer: x509.Certificate) -> str | None:
    """Return why *issuer* may not sign the last of *path*, None if it may."""
    name = f"authority {serial_of(issuer)}"
    constraints = extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        return f"{name} is no authority: basic constraints do not say CA:TRUE"
    usage = extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.value.key_cert_sign:
        return f"{name} may not sign certificates: its key usage lacks keyCertSign"
    # Self-issued certificates do not count (RFC 5280 6.1.4 l).
    below = sum(1 for certificate in path[1:] if certificate.subject != certificate.issuer)
    if constraints.value.path_length is not None and below > constraints.value.path_length:
        return f"{name} allows {constraints.value.path_length} authorities below it, there are {below}"
    wanted, allowed = extension(path[0], x509.ExtendedKeyUsage), extension(issuer, x509.ExtendedKeyUsage)
    if allowed is not None and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in allowed.value:
        missing = set(wanted.value if wanted is not None else ()) - set(allowed.value)
        if wanted is None or missing:
            return f"{name} may not sign for every usage of the leaf: its extended key usage is narrower"
    return None
