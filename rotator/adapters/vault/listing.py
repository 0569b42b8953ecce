"""
Vault's own list of certificates, read as the world that reconciliation compares with (law 23).

Rules that must stay true here:

- A certificate is what its DER says; of Vault's words beside it only the moment of revocation is taken.
- One that disappears between listing and reading (tidied away) is no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from rotator.adapters.vault.session import Reply, VaultSession, names
from rotator.core.model import Serial
from rotator.errors import Rejected
from rotator.pki.certificates import (
    authority_key_id,
    is_authority,
    normal_serial,
    parse_certificates,
    serial_of,
    sha256_of,
    spki_sha256_of,
)
from rotator.ports import IssuedCertificate


def mapping(found: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- a piece of somebody else's JSON
    """Return *found* if it is an object, else an empty one."""
    return found if isinstance(found, Mapping) else {}


def colons(serial: Serial) -> str:
    """Return *serial* as Vault spells it: bytes in hex, colons between them."""
    number = int(serial, 16)
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8)).hex(":")


def certificate_in(reply: Reply | None, source: str) -> x509.Certificate:
    """Return the one certificate of an answer. Raises `Rejected` if there is none or more."""
    text = None if reply is None else reply.body.get("certificate")
    found = parse_certificates(text.encode() if isinstance(text, str) else b"", source=source)
    if len(found) != 1:
        raise Rejected(f"{source} holds {len(found)} certificates, not one")
    return found[0]


def serials(session: VaultSession, mount: str) -> list[str]:
    """Return the serials of everything stored at *mount*, as Vault spells them."""
    return list(names(session.list(f"{mount}/certs", doing=f"listing the certificates of {mount}")))


def stored(
    session: VaultSession, mount: str, serials: list[str], known: frozenset[Serial]
) -> Iterator[tuple[x509.Certificate, IssuedCertificate]]:
    """Read those of *serials* that are not *known*: each certificate with its line of the list."""
    for serial in serials:
        if normal_serial(serial) in known:
            continue
        doing = f"reading certificate {serial} of {mount}"
        reply = session.read(f"{mount}/cert/{serial.replace(':', '-')}", doing=doing)
        if reply is not None:
            certificate = certificate_in(reply, f"certificate {serial} of {mount}")
            yield certificate, _line(certificate, revoked_at(reply))


def revoked_at(reply: Reply) -> datetime | None:
    """Return when a stored certificate was revoked, None if it was not."""
    seconds = reply.body.get("revocation_time") or 0
    try:
        return datetime.fromtimestamp(int(seconds), tz=UTC) if int(seconds) > 0 else None
    except (TypeError, ValueError, OverflowError, OSError) as e:
        raise Rejected(f"Vault says {seconds!r} for a moment of revocation") from e


def _line(certificate: x509.Certificate, revoked: datetime | None) -> IssuedCertificate:
    """Return the line of the list that *certificate* makes."""
    return IssuedCertificate(
        serial=serial_of(certificate),
        sha256=sha256_of(certificate),
        spki_sha256=spki_sha256_of(certificate),
        subject=certificate.subject.rfc4514_string(),
        issuer=authority_key_id(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        revoked_at=revoked,
        is_authority=is_authority(certificate),
    )
