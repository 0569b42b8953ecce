"""
What is remembered of intents: the rows of the journal.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rotator.core.alert_kinds import AlertKind
from rotator.core.event import Commitment, Trigger
from rotator.core.model import (
    IntentKind,
    IssuerId,
    Serial,
    Severity,
    SubjectKind,
    SubjectName,
    TrustDomainName,
)


class RotationState(StrEnum):
    """Where a rotation stands in the journal."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One rotation's intent and what cannot be read off the world. Progress is observed, not stored (law 13)."""

    id: str
    subject: SubjectName
    kind: SubjectKind
    intent: IntentKind
    trigger: Trigger
    state: RotationState
    opened_at: datetime
    finished_at: datetime | None = None
    emergency: bool = False
    reason_commitment: Commitment | None = None
    requested_by: Commitment | None = None
    ticket: str | None = None
    from_generation: int | None = None
    to_generation: int | None = None
    trust_published_at: datetime | None = None
    activated_at: datetime | None = None
    roll_started_at: datetime | None = None
    outcome: str = ""
    may_interrupt: bool = False
    """A person has accepted in words that this adoption interrupts connections."""
    approved_by: tuple[Commitment, ...] = ()
    """Whoever's word it took beside the one who asked."""
    kubernetes: str | None = None
    """The uid of the object in which it was asked for."""


class IssuanceState(StrEnum):
    """Where one ordered certificate stands; every order ends in ``superseded``, ``revoked`` or ``lapsed``."""

    ASKED = "asked"
    ISSUED = "issued"
    PUBLISHED = "published"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    LAPSED = "lapsed"
    NEVER = "never"
    """Asked for, and the CA's own list shows that it was never issued."""


class IssuanceKind(StrEnum):
    """What was ordered."""

    LEAF = "leaf"
    AUTHORITY = "authority"
    PROBE = "probe"
    TOKEN = "token"  # noqa: S105 -- a kind of order, not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """One certificate order, keyed by the public key that was chosen here before the call; or one of a token."""

    spki_sha256: str
    """For a token, which has no key of its own, an id that was chosen here: ``token:<hex>``."""
    kind: IssuanceKind
    subject: SubjectName
    trust_domain: TrustDomainName
    rotation_id: str
    state: IssuanceState
    asked_at: datetime
    signer: IssuerId | None
    serial: Serial | None = None
    not_after: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A person's pause of one subject."""

    subject: SubjectName
    until: datetime
    past_safety_line: bool = False
    """The operator has said in words that this pause may let the subject expire (law 12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A mesh's proxy as last listed: one that vanishes may still hold a leaf, and may come back with it."""

    subject: SubjectName
    """The trust domain."""
    party: SubjectName
    last_leaf_not_after: datetime
    served_issuer: IssuerId | None
    """Who signed the leaf that it was last seen to use; None if nobody saw it."""
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingAlert:
    """One alert as it was last raised or cleared, until everybody who is to be told has been."""

    key: str
    """``subject/kind``."""
    kind: AlertKind
    subject: SubjectName
    severity: Severity
    since: datetime
    """From when on it was true."""
    summary: str
    raised: bool
    at: datetime
    """When it was raised, or cleared."""
    record_id: str
    """Of the evidence record of its raise."""
    told: frozenset[str] = frozenset()
    """Receivers that know it as it stands here."""
