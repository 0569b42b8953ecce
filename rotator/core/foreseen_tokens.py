"""
When people should know of the keys that sign tokens: a rotation does not begin, or does not end.

Rules that must stay true here:

- As in `rotator.core.foreseen`: an alert says from which moment on it is true, and its summary what to do next.
- Both keys are valid while a rotation waits, so nobody is refused by it: it is never more than a warning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rotator.core.alert_kinds import AlertKind
from rotator.core.foreseen import Alert, AlertPolicy, some_names, utc
from rotator.core.model import Severity, SubjectName
from rotator.core.tokens import KeyRotation, SigningKeyPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyStanding:
    """What alerts need to know of one set of signing keys as last seen."""

    name: SubjectName
    due: datetime | None = None
    """From when on a rotation may begin by itself; None if nobody knows, or one is under way."""
    goes_on_by: datetime | None = None
    """When the rotation that is under way takes its next step, if all is well; None without one."""
    waiting_on: tuple[str, ...] = ()
    why: str = ""


def goes_on_by(
    rotation: KeyRotation, opened_at: datetime, policy: SigningKeyPolicy, reissued_by: Iterable[datetime]
) -> datetime:
    """
    Return when *rotation*, begun at *opened_at*, takes its next step if all is well.

    *reissued_by* says of each managed token by when it has another and nobody needs the one before any more.
    """
    if rotation.trusted_at is None:
        return (rotation.added_at or opened_at) + policy.known_after
    others = rotation.trusted_at + (policy.others_live + policy.skew if policy.others_live else policy.others_live)
    return max((others, *reissued_by))


def signing_key_alerts(seen: SigningKeyStanding, policy: AlertPolicy) -> tuple[Alert, ...]:
    """Return what *seen* raises, now and later, if nothing changes."""
    found = []
    if seen.due is not None:
        says = f"the signing keys {seen.name} could be rotated since {utc(seen.due)} and are not"
        found.append(_warning(AlertKind.RENEWAL_OVERDUE, seen, seen.due, policy, says))
    if seen.goes_on_by is not None:
        on = f" for {some_names(seen.waiting_on)} {seen.why}".rstrip() if seen.waiting_on else ""
        says = f"the rotation of the signing keys {seen.name} waits{on}, and should not since {utc(seen.goes_on_by)}"
        found.append(_warning(AlertKind.SIGNING_KEY_HELD, seen, seen.goes_on_by, policy, says))
    return tuple(found)


def _warning(kind: AlertKind, seen: SigningKeyStanding, at: datetime, policy: AlertPolicy, says: str) -> Alert:
    return Alert(
        kind=kind,
        subject=seen.name,
        severity=Severity.WARNING,
        since=at + policy.overdue_after,
        summary=f"{says}: see what stops it (rotator explain {seen.name})",
    )
