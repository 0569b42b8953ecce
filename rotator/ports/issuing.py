"""
Who signs: leaves, CA generations, and the corporate PKI above them.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from rotator.core.model import (
    Generation,
    IssuerId,
    KeyType,
    Leaf,
    Serial,
    TrustDomainName,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafOrder:
    """A leaf that is asked for. The key stays here; only the request travels (law 10)."""

    csr_pem: bytes
    spki_sha256: str
    """The client-chosen id of this order: it stands in the intent before the call, and finds the orphan."""
    identity: str
    dns_names: tuple[str, ...]
    lifetime: timedelta
    signer: Generation
    key: KeyType


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedLeaf:
    """A leaf that came back and was compared with the order (law 11)."""

    chain_pem: bytes
    """Leaf first, then whatever the relying parties need between it and the bundle (may be nothing)."""
    leaf: Leaf
    request_id: str | None
    """The issuer's own id of the call (at Vault: ``request_id``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """One line of the CA's own list."""

    serial: Serial
    sha256: str
    spki_sha256: str
    subject: str
    issuer: IssuerId | None
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None
    is_authority: bool = False


class Issuer(Protocol):
    """Signs and revokes the leaves of one trust domain, always by a pinned generation (law 6)."""

    def sign(self, order: LeafOrder) -> IssuedLeaf:
        """Have *order* signed by its own generation. Raises `Rejected` if what came back is not what was asked."""
        ...

    def revoke(self, serial: Serial) -> str | None:
        """Revoke one leaf that this issuer signed; return the issuer's request id. Revoking twice is no error."""
        ...

    def revoked(self, signer: Generation) -> frozenset[Serial]:
        """Return the serials on *signer*'s current CRL."""
        ...

    def issued(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return the CA's own list of what it issued, without reading those whose serial is *known*."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityOrder:
    """A CA generation that is asked for."""

    trust_domain: TrustDomainName
    number: int
    lifetime: timedelta
    key: KeyType
    rotation_id: str
    announce: Callable[[str], None]
    """Called with the new key's SPKI SHA-256 before the corporate PKI is asked to sign it (intent before effect)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedAuthority:
    """A CA generation that came back and was compared with the order."""

    generation: Generation
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAuthorities:
    """What the signer holds for one trust domain."""

    generations: tuple[Generation, ...]
    """Ascending by number."""
    active: IssuerId | None
    """The generation that the signer's own pointer names."""
    certificates_pem: dict[IssuerId, bytes]
    """One PEM per generation."""


class Authorities(Protocol):
    """The CA generations of one trust domain and the one pointer that says which signs."""

    def observe(self) -> HeldAuthorities:
        """Return what the signer holds, expired ones included; never cached."""
        ...

    def prepare(self, order: AuthorityOrder) -> PreparedAuthority:
        """
        Make a key inside the signer, have it signed by the corporate PKI's pinned issuer, and install the result.

        Left-overs of an earlier try with the same number (a key without issuer, a signed CA that was never installed)
        are removed first; the corporate PKI's certificates among them are revoked or reported by `strays`.
        """
        ...

    def activate(self, generation: Generation) -> str | None:
        """Move the pointer to *generation* and read it back; return the request id."""
        ...

    def retire(self, generation: Generation, *, revoke: bool) -> str | None:
        """Remove *generation* and its key from the signer, after revoking its certificate at its parent if asked."""
        ...

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        ...


class ParentRevocation(Protocol):
    """The power to revoke a CA certificate at its parent without touching the signer (compromise, and orphans)."""

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial* at the corporate PKI; return the request id. Revoking twice is no error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityRequest:
    """A CA certificate that is asked for; its key was made here and goes only where it must (law 10)."""

    csr_pem: bytes
    spki_sha256: str
    common_name: str
    """Distinct for every generation (law 6)."""
    trust_domain: TrustDomainName
    lifetime: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedAuthority:
    """A CA certificate that came back and was compared with the request (law 11)."""

    certificate_pem: bytes
    above_pem: tuple[bytes, ...]
    """The certificates above it, its issuer first, the self-signed root last as far as the signer knows them."""
    request_id: str | None


class AuthoritySigner(Protocol):
    """Signs CAs whose keys were made here, by the one pinned issuer of the corporate PKI (law 6)."""

    def sign_authority(self, request: AuthorityRequest) -> SignedAuthority:
        """Have *request* signed. Raises `InvariantBroken` if the issuer may not sign, `Rejected` if it came wrong."""
        ...

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        ...

    def is_revoked(self, serial: Serial) -> bool:
        """Return whether the corporate PKI has revoked *serial*; what it no longer stores has ended."""
        ...

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial*; return the request id. Revoking twice is no error."""
        ...
