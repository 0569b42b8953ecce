"""
When people should know of the platform: its documents were changed by somebody else, or a change of it does not end.

Rules that must stay true here:

- As in `rotator.core.foreseen`: an alert says from which moment on it is true, and its summary what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from rotator.core.alert_kinds import AlertKind
from rotator.core.foreseen import Alert
from rotator.core.model import Severity, SubjectName

CHANGE_HELD_AFTER: Final = timedelta(minutes=15)
"""A change of the platform that takes longer waits for somebody."""
SENTENCES_SHOWN: Final = 5


def drift_alerts(subject: SubjectName, found: Sequence[tuple[str, datetime]], *, grave: bool) -> tuple[Alert, ...]:
    """Return what changes by others raise: *found* are their sentences and since when; *grave*: one opens a service."""
    if not found:
        return ()
    says = "; ".join(sentence for sentence, _ in found[:SENTENCES_SHOWN])
    more = f"; and {len(found) - SENTENCES_SHOWN} more" if len(found) > SENTENCES_SHOWN else ""
    return (
        Alert(
            kind=AlertKind.PLATFORM_DRIFTED,
            subject=subject,
            severity=Severity.CRITICAL if grave else Severity.WARNING,
            since=min(since for _, since in found),
            summary=f"{says}{more}: rotator {subject} diff shows it",
        ),
    )


def change_alerts(subject: SubjectName, change: str, opened_at: datetime) -> tuple[Alert, ...]:
    """Return what the open *change* raises, begun at *opened_at*."""
    return (
        Alert(
            kind=AlertKind.PLATFORM_HELD,
            subject=subject,
            severity=Severity.WARNING,
            since=opened_at + CHANGE_HELD_AFTER,
            summary=f"change {change} of the {subject} has not ended: rotator status says why",
        ),
    )
