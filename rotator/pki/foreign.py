"""
Certificates that somebody else made: when they end, and no more than that.

Rules that must stay true here:

- Pure. Nothing is asked of a foreign certificate but its dates, its serial and two names: what rotator would never
  issue is watched all the same.
- A private key that stands beside certificates is passed over, never parsed, never kept (law 10).
- Only small texts and moments are returned: whoever keeps ten thousand of these keeps no certificate.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from rotator.core.foreign import Foreign
from rotator.errors import Rejected

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----")


def certificates_among(pem: bytes, *, source: str) -> tuple[x509.Certificate, ...]:
    """Return every certificate in *pem*, whatever else stands there. Raises `Rejected` if none can be read."""
    try:
        found = tuple(x509.load_pem_x509_certificate(each) for each in _CERTIFICATE.findall(pem))
    except ValueError:
        # The cause might quote what it could not read.
        raise Rejected(f"{source} holds a certificate that cannot be read") from None
    if not found:
        raise Rejected(f"{source} holds no certificate")
    return found


def foreign(chain: Sequence[x509.Certificate], *, which: str = "") -> Foreign:
    """Return what is kept of *chain*, the certificate itself first. Raises `Rejected` if its dates cannot be read."""
    first = chain[0]
    try:
        ends = min(chain, key=_end)
        return Foreign(
            which=which,
            serial=f"{first.serial_number:x}",
            # Ten thousand leaves have a few issuers: one text for all of them.
            issuer=sys.intern(_common_name(first.issuer)),
            not_before=ends.not_valid_before_utc,
            not_after=ends.not_valid_after_utc,
            ends_first="" if ends is first else sys.intern(_common_name(ends.subject)),
        )
    except ValueError:
        raise Rejected(f"the certificate {which} cannot be read") from None


def _end(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc


def _common_name(name: x509.Name) -> str:
    """Return the common name, or the whole name where there is none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()
