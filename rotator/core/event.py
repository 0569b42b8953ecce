"""
What happened, before it is a record: the pure half of the evidence.

Rules that must stay true here:

- One effect, one event (law 21); the words of `EventType` are the contract's and never change meaning.
- No name of a person and no free text of a person stands here, only salted commitments (law 24).
- An event says what rotator did and what *others* saw of it (`Corroboration`, law 23).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from rotator.core.model import SubjectName

Commitment = NewType("Commitment", str)
"""``sha256:<hex>`` over a random 32-byte salt and the value; the salt lies in an erasable side store."""


class EventType(StrEnum):
    """Types of evidence records."""

    INTENT = "intent"
    APPROVAL = "approval"
    ISSUED = "issued"
    DISTRIBUTED = "distributed"
    ACTIVATED = "activated"
    DRAINED = "drained"
    ROLLED = "rolled"
    VERIFIED = "verified"
    RETIRED = "retired"
    REVOKED = "revoked"
    LAPSED = "lapsed"
    COMPLETED = "completed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    MISSED = "missed"
    ALERT_RAISED = "alert_raised"
    ALERT_CLEARED = "alert_cleared"
    NOTIFIED = "notified"
    EXCEPTION_OPENED = "exception_opened"
    EXCEPTION_CLOSED = "exception_closed"
    CONFIG_LOADED = "config_loaded"
    HEARTBEAT = "heartbeat"
    RECONCILED = "reconciled"
    RUN_BATCH = "run_batch"
    LOG_KEY_ROTATED = "log_key_rotated"
    PAUSED = "paused"
    RESUMED = "resumed"
    REFUSED = "refused"
    SCALED = "scaled"
    """Another number of members was wanted of a workload, for the time of its roll or back."""
    APPLIED = "applied"
    """One document of the platform was written, or removed, as somebody asked."""
    UNDONE = "undone"
    """One document of the platform was written, or removed, as it was before a change."""
    PUT_BACK = "put_back"
    """One document of the platform that somebody else changed was written again as it was applied last."""
    DRIFTED = "drifted"
    """Somebody else changed, replaced or removed what was published; what rotator does about it has its own records."""


class Trigger(StrEnum):
    """What set a rotation off."""

    BOOTSTRAP = "bootstrap"
    SCHEDULE = "schedule"
    REQUEST = "request"
    DRIFT = "drift"
    RECOVERY = "recovery"
    AUTHORITY = "authority"
    """The leaf follows its trust domain's CA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What a record says of one certificate."""

    serial: str
    sha256: str
    issuer: str
    """Authority key identifier of its signer."""
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Corroboration:
    """What others saw of the same effect."""

    vault_request_id: str | None = None
    kubernetes: str | None = None
    dataplanes: tuple[str, ...] = ()
    probe: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One effect, or one intent before its effect."""

    type: EventType
    time: datetime
    subject: SubjectName | str
    result: str
    """``started``, ``ok``, or a short lower-case reason."""
    rotation_id: str | None = None
    spiffe_id: str | None = None
    trigger: Trigger | None = None
    reason: str | None = None
    """A rule's words (never a person's); a person's stand in ``reason_commitment``."""
    reason_commitment: Commitment | None = None
    requested_by: Commitment | None = None
    approved_by: tuple[Commitment, ...] = ()
    old: CertificateFacts | None = None
    new: CertificateFacts | None = None
    corroboration: Corroboration = Corroboration()
    trace_id: str | None = None
    late: bool = False
    detail: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Small facts beyond the fixed fields (``member``, ``phase``, ``spki_sha256``, ``probe`` ...); no secrets."""
    id: str | None = None
    """Set where the same event may be appended twice (a spool entered again after a kill); None: the store chooses."""
