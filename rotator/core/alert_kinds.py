"""
What people are told of: every kind of alert, with its sentence, its threshold and the page that says what to do.

Rules that must stay true here:

- A kind's word stands in keys, ledger and log; it never changes its meaning.
- Every kind has its `Meaning`; ``docs/alerts.md`` shows the same table, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class AlertKind(StrEnum):
    """Kinds of alerts; `MEANINGS` has the sentence of each."""

    RENEWAL_OVERDUE = "renewal_overdue"
    LIFETIME_USED = "lifetime_used"
    SAFETY_LINE = "safety_line"
    EXPIRED = "expired"
    UNPROVEN = "unproven"
    NOTHING_PUBLISHED = "nothing_published"
    BREAKER_TRIPPED = "breaker_tripped"
    AUTHORITY_USED = "authority_used"
    AUTHORITY_STOPS_SIGNING = "authority_stops_signing"
    NO_AUTHORITY = "no_authority"
    TRUST_DEADLINE = "trust_deadline"
    ROTATION_STUCK = "rotation_stuck"
    ROLL_HELD = "roll_held"
    MEMBER_FAILED = "member_failed"
    TASKS_TOO_LONG = "tasks_too_long"
    CHECKPOINT_OLD = "checkpoint_old"
    RECORDS_SPOOLED = "records_spooled"
    LOGIN_ENDING = "login_ending"
    LOGIN_LOST = "login_lost"
    ISSUER_ENDING = "issuer_ending"
    WATCHED_ENDING = "watched_ending"
    WATCHED_EXPIRED = "watched_expired"
    WATCHED_UNREACHABLE = "watched_unreachable"
    RECEIVER_FAILING = "receiver_failing"
    SWEEP_SILENT = "sweep_silent"
    HTTP_CERTIFICATE = "http_certificate"
    PLATFORM_DRIFTED = "platform_drifted"
    PLATFORM_HELD = "platform_held"
    SIGNING_KEY_HELD = "signing_key_held"
    TELEMETRY_LOST = "telemetry_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What one kind says, from when on, and where to read on."""

    sentence: str
    threshold: str
    """When it is a warning and when it is critical, in the words of the configuration."""
    runbook: str
    """Page under ``docs/runbooks``, without its ending."""


def _means(sentence: str, threshold: str, runbook: str) -> Meaning:
    return Meaning(sentence=sentence, threshold=threshold, runbook=runbook)


MEANINGS: Final[Mapping[AlertKind, Meaning]] = {
    AlertKind.RENEWAL_OVERDUE: _means(
        "A certificate, token or signing key could have been renewed for a while and was not.",
        "warning: `overdue_after` past its opening (windows, freezes and pauses count), or half-way to its safety line",
        "renewal-overdue",
    ),
    AlertKind.LIFETIME_USED: _means(
        "Most of the life of a certificate or token is used up without a renewal; life counts from issuance.",
        "warning: `expiry_ratio_warning`; critical: `expiry_ratio_critical` or `expires_within_critical`; "
        "never before its renewal is overdue",
        "renewal-overdue",
    ),
    AlertKind.SAFETY_LINE: _means(
        "A certificate or token comes near its safety line, or has passed it.",
        "warning: a tenth of its life before the line; critical: past the line",
        "renewal-overdue",
    ),
    AlertKind.EXPIRED: _means(
        "The published certificate, or one above it, or the published token has ended.",
        "critical: at its end",
        "expired-already",
    ),
    AlertKind.UNPROVEN: _means(
        "A consumer has not been seen using what is published for it.",
        "warning: longer than publishing, draining and proof may take together; "
        "critical: only that long before the certificate ends that it may still use",
        "consumer-unproven",
    ),
    AlertKind.NOTHING_PUBLISHED: _means(
        "Nothing that a consumer could use is published for a certificate or token.",
        "critical: for `overdue_after`",
        "renewal-overdue",
    ),
    AlertKind.BREAKER_TRIPPED: _means(
        "A certificate or token was issued too often in a row, so issuing stops for it.",
        "critical: at `limits.issuances_per_subject`, until its safety line",
        "issued-too-often",
    ),
    AlertKind.AUTHORITY_USED: _means(
        "Most of a signing CA's life is used up without a successor.",
        "warning: `expiry_ratio_warning`; critical: `expiry_ratio_critical` or `expires_within_critical`; "
        "never before its rotation is due",
        "ca-rotation-held",
    ),
    AlertKind.AUTHORITY_STOPS_SIGNING: _means(
        "A signing CA soon has too little life left to sign the longest leaf, or already has.",
        "warning: from the last moment at which a rotation can still end in time; critical: when it has stopped",
        "ca-rotation-held",
    ),
    AlertKind.NO_AUTHORITY: _means(
        "Nobody may sign for a trust domain.",
        "critical: at once where a CA cannot go on; for a first CA after `overdue_after`",
        "expired-already",
    ),
    AlertKind.TRUST_DEADLINE: _means(
        "A CA rotation waits past its trust deadline for the named consumers.",
        "warning: `trust_deadline`; critical: from the last moment at which a rotation can still end in time",
        "ca-rotation-held",
    ),
    AlertKind.ROTATION_STUCK: _means(
        "A CA rotation cannot go on before somebody mends what it names.", "critical: at once", "ca-rotation-held"
    ),
    AlertKind.ROLL_HELD: _means(
        "A workload's roll waits past its drain deadline, or may not take work from any member.",
        "warning: at `drain.celery.deadline`; at once where no member may be drained",
        "drain-deadline",
    ),
    AlertKind.MEMBER_FAILED: _means(
        "A member of a workload may not be replaced, does not start or does not get ready, so its roll stands still.",
        "critical: `start_timeout` after its start, or without one",
        "drain-deadline",
    ),
    AlertKind.TASKS_TOO_LONG: _means(
        "Tasks of a workload took longer than its next roll has time for: its drain's deadline, or its certificate.",
        "warning: when such a task was seen to run or to end within a day; looked for every ten minutes",
        "tasks-too-long",
    ),
    AlertKind.CHECKPOINT_OLD: _means(
        "The evidence log was not signed for a while.",
        "warning: 3 x `ledger.checkpoint_every`; critical: 10 x",
        "ledger-unwritable",
    ),
    AlertKind.RECORDS_SPOOLED: _means(
        "Evidence records wait outside the ledger.", "critical: at once", "ledger-unwritable"
    ),
    AlertKind.LOGIN_ENDING: _means(
        "The login at an issuer, or at the control plane of a trust domain, comes near its end and was not renewed.",
        "warning: `expiry_ratio_warning` of the token's life; critical: `expiry_ratio_critical`",
        "vault-denied",
    ),
    AlertKind.LOGIN_LOST: _means(
        "There is no login at an issuer, or at the control plane of a trust domain.",
        "critical: at the token's end; for a first login after `overdue_after`",
        "vault-denied",
    ),
    AlertKind.ISSUER_ENDING: _means(
        "A corporate issuer, or a certificate above it, comes near its end, and with it the signing of CAs.",
        "warning: `expiry_ratio_warning` of its life, or a `ca.lifetime` before it cannot sign a whole one any more; "
        "critical: when it cannot, `expiry_ratio_critical` or `expires_within_critical`",
        "issuer-ending",
    ),
    AlertKind.WATCHED_ENDING: _means(
        "Most of the life of a watched certificate, which rotator does not manage, is used up.",
        "warning: `expiry_ratio_warning`; critical: `expiry_ratio_critical` or `expires_within_critical`; "
        "each may be set for one entry of `watch`",
        "watched-ending",
    ),
    AlertKind.WATCHED_EXPIRED: _means(
        "A watched certificate, or one above it, has ended.", "critical: at its end", "watched-ending"
    ),
    AlertKind.WATCHED_UNREACHABLE: _means(
        "A watched certificate was not seen for a while: no answer, no right, or nothing there.",
        "warning: `watch.*.unreachable_after`",
        "watched-unreachable",
    ),
    AlertKind.RECEIVER_FAILING: _means(
        "A receiver of alerts does not take what it should be told; the others are told so.",
        "warning: after 2 minutes; critical: after 15",
        "receiver-failing",
    ),
    AlertKind.SWEEP_SILENT: _means(
        "Nothing was looked at for a while, so nothing is renewed.",
        "critical: 10 x `timing.sweep_every`, at least 2 minutes",
        "sweep-silent",
    ),
    AlertKind.HTTP_CERTIFICATE: _means(
        "The HTTP service cannot show what is published for it.",
        "warning: for `overdue_after`; it goes on with the certificate before",
        "http-certificate",
    ),
    AlertKind.PLATFORM_DRIFTED: _means(
        "Somebody else changed a document of the platform that rotator applied, or opened one of its services.",
        "warning: at the next look (`platform.drift.look_every`); critical: where somebody may be let in who was not",
        "platform-drifted",
    ),
    AlertKind.PLATFORM_HELD: _means(
        "A change of the platform has begun and not ended.",
        "warning: 15 minutes after it began",
        "platform-held",
    ),
    AlertKind.SIGNING_KEY_HELD: _means(
        "The rotation of a key that signs tokens waits longer than it should, and names for whom.",
        "warning: `overdue_after` past when `known_after`, `revoke_after` of its tokens and `others_live` let it go on",
        "signing-key-held",
    ),
    AlertKind.TELEMETRY_LOST: _means(
        "The telemetry collector takes nothing, or what rotator tells of itself is lost on the way.",
        "warning: 5 minutes after the last try that was taken; at once when spans or lines are dropped or refused",
        "telemetry-lost",
    ),
}
