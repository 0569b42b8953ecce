"""
What published parts say when they are read back, each by the name that people see.

Rules that must stay true here:

- Pure. Whatever is wrong with a part becomes a sentence in *problems*, never an exception.
- No sentence quotes a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rotator.core.model import Authority, Leaf
from rotator.errors import Rejected
from rotator.pki.certificates import anchors, key_spki_sha256, leaf_of, parse_certificates

CHAIN: Final = "tls.crt"
"""Leaf, then intermediates."""
KEY: Final = "tls.key"
"""PKCS#8."""
BUNDLE: Final = "ca.crt"
"""Trust bundle."""


def published_leaf(parts: Mapping[str, bytes], problems: list[str]) -> Leaf | None:
    """Return the published leaf; None if there is no chain, or with a problem if it cannot be read."""
    if CHAIN not in parts:
        return None
    try:
        return leaf_of(parse_certificates(parts[CHAIN], source=CHAIN))
    except Rejected as e:
        problems.append(str(e))
        return None


def published_bundle(parts: Mapping[str, bytes], problems: list[str]) -> tuple[Authority, ...]:
    """Return the published bundle; empty if there is none, or with a problem if it cannot be read."""
    if BUNDLE not in parts:
        return ()
    try:
        return anchors(parts[BUNDLE], source=BUNDLE).authorities
    except Rejected as e:
        problems.append(str(e))
        return ()


def is_pair(parts: Mapping[str, bytes], leaf: Leaf | None, problems: list[str]) -> bool:
    """Return whether the published key belongs to the published *leaf*."""
    if KEY not in parts:
        return False
    try:
        pair = leaf is not None and key_spki_sha256(parts[KEY], source=KEY) == leaf.spki_sha256
    except Rejected as e:
        problems.append(str(e))
        return False
    if leaf is not None and not pair:
        problems.append(f"{KEY} does not belong to {CHAIN}")
    return pair
