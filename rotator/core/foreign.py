"""
Certificates that rotator does not manage, by what ends first in their chain.

Rules that must stay true here:

- Small texts and moments only: whoever keeps ten thousand of these keeps no certificate and no key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """One certificate with its chain: all that is kept of it."""

    which: str = ""
    """Which of many at one place (``namespace/name``); empty where there is one."""
    serial: str
    """Of the first certificate, lower-case hex."""
    issuer: str
    """Common name of who signed the first certificate."""
    not_before: datetime
    """Of the certificate that ends first."""
    not_after: datetime
    """The earliest end in the whole chain."""
    ends_first: str = ""
    """Common name of the certificate that ends first; empty if it is the first one."""
