"""
PEM at the edge, `Leaf` and `Authority` inside: parsing, verification at a given moment, SPIFFE and RFC 5280 rules.

Rules that must stay true here:

- Pure: no clock, no file, no socket; the moment of verification is an argument.
- A private key is never part of a ``repr`` or of an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rotator.core.model import Authority, Leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Key, leaf, chain and bundle that move as one (law 9)."""

    chain_pem: bytes
    """Leaf first, then intermediates."""
    key_pem: bytes = field(repr=False)
    """PKCS#8, unencrypted."""
    bundle_pem: bytes
    leaf: Leaf
    bundle: tuple[Authority, ...]
