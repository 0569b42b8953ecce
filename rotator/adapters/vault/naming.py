"""
What rotator calls its things at Vault; policies and adapters share these words.

Rules that must stay true here:

- Pure. A name says which generation it belongs to, so that what a crash left behind is recognised (law 13).
- A value that a policy fixes is written in one way only, and numbers as text: Vault's ``allowed_parameters`` compare
  a JSON number with nothing that a policy can say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from rotator.core.model import KeyType, TrustDomainName
from rotator.pki.authority_name import common_name, common_name_stem

__all__ = [
    "BACKDATE",
    "EXPIRY_BEHAVIOR",
    "KEY_PARAMETERS",
    "PATH_LENGTH",
    "common_name",
    "common_name_stem",
    "generation_name",
    "number_in",
    "slug",
    "ttl",
]


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
