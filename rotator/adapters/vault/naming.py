"""
What rotator calls its things at Vault; policies and adapters share these words.

Rules that must stay true here:

- Pure. A name says which generation it belongs to, so that what a crash left behind is recognised (law 13).
- Two generations never share a subject: the common name carries number and rotation (law 6).
- A value that a policy fixes is written in one way only, and numbers as text: Vault's ``allowed_parameters`` compare
  a JSON number with nothing that a policy can say.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from rotator.core.model import KeyType, TrustDomainName

_COMMON_NAME_STEM: Final = 36
"""Characters. RFC 5280 allows 64 in a common name; " CA g", a number and eight characters of a rotation follow."""


def slug(trust_domain: TrustDomainName) -> str:
    """Return *trust_domain* as Vault's names may spell it: dots become dashes. One mount holds one trust domain."""
    return re.sub(r"[^a-z0-9]+", "-", trust_domain.lower()).strip("-")


def generation_name(trust_domain: TrustDomainName, number: int | str) -> str:
    """Return the name of generation *number*'s issuer and key; ``*`` for a policy."""
    return f"rotator-{slug(trust_domain)}-g{number}"


def number_in(trust_domain: TrustDomainName, name: str) -> int | None:
    """Return the generation number in *name*, None if rotator did not name it so."""
    found = re.fullmatch(rf"{re.escape(generation_name(trust_domain, ''))}([1-9][0-9]{{0,8}})", name)
    return int(found.group(1)) if found else None


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


def ttl(length: timedelta) -> str:
    """Return *length* in whole seconds, as every request and every policy writes it."""
    return f"{int(length.total_seconds())}s"


KEY_PARAMETERS: Final[Mapping[KeyType, tuple[str, str]]] = {
    KeyType.ECDSA_P256: ("ec", "256"),
    KeyType.ECDSA_P384: ("ec", "384"),
    KeyType.RSA_2048: ("rsa", "2048"),
    KeyType.RSA_3072: ("rsa", "3072"),
    KeyType.ED25519: ("ed25519", "0"),
}
"""Vault's ``key_type`` and ``key_bits`` of each key type."""

BACKDATE: Final = "1s"
"""How far the corporate PKI is told to back-date a CA; its default of 30 s would be most of a short life."""
PATH_LENGTH: Final = "0"
"""A trust domain's CA signs leaves and nothing else."""
EXPIRY_BEHAVIOR: Final = "err"
"""A leaf that would outlive its issuer is refused by Vault itself, never cut short (law 4)."""
