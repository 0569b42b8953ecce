"""
What a trust domain's authorities are called, whoever holds their keys.

Rules that must stay true here:

- Pure. Two generations never share a subject: the common name carries number and rotation (law 6).
- The names of one trust domain begin alike and those of two differ, so that the corporate PKI's list can be searched.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from rotator.core.model import TrustDomainName

_COMMON_NAME_STEM: Final = 36
"""Characters. RFC 5280 allows 64 in a common name; " CA g", a number and eight characters of a rotation follow."""


def common_name_stem(trust_domain: TrustDomainName) -> str:
    """Return how the subject of every generation begins."""
    stem: str = trust_domain
    if len(stem) > _COMMON_NAME_STEM:
        # Cut names stay distinct.
        stem = f"{stem[: _COMMON_NAME_STEM - 9]}~{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
    return f"{stem} CA g"


def common_name(trust_domain: TrustDomainName, number: int, rotation_id: str) -> str:
    """Return the subject common name of generation *number*."""
    return f"{common_name_stem(trust_domain)}{number} {rotation_id[:8]}".rstrip()


def number_in_name(trust_domain: TrustDomainName, name: str) -> int | None:
    """Return the generation number in a subject common name, None if it is no name of *trust_domain*'s generations."""
    found = re.fullmatch(rf"{re.escape(common_name_stem(trust_domain))}([1-9][0-9]{{0,8}})( .*)?", name)
    return int(found.group(1)) if found else None
