"""
When people should know that traces, log lines and metrics of rotator's own do not reach their collector.

Rules that must stay true here:

- As in `rotator.core.foreseen`: an alert says from which moment on it is true, and its summary what to do next.
- A collector that is started anew raises nothing: what waits is sent then. Nothing that rotator does depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rotator.core.alert_kinds import AlertKind
from rotator.core.foreseen import Alert, utc
from rotator.core.model import Severity, SubjectName

TELEMETRY: Final = SubjectName("telemetry")
COLLECTOR_AWAY_AFTER: Final = timedelta(minutes=5)
"""A restart of the collector takes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalStanding:
    """What alerts need to know of one signal (traces, metrics, logs) on its way to the collector."""

    untaken_since: datetime | None = None
    """Since when every try failed; None if the last one did not."""
    losing_since: datetime | None = None
    """Since when spans or lines are lost again and again, for want of room or refused; None if none is."""


def telemetry_alerts(signals: Mapping[str, SignalStanding]) -> tuple[Alert, ...]:
    """Return what *signals*, by their names, raise if nothing changes."""
    untaken = {name: each.untaken_since for name, each in signals.items() if each.untaken_since is not None}
    losing = {name: each.losing_since for name, each in signals.items() if each.losing_since is not None}
    found = []
    if losing:
        since = min(losing.values())
        says = f"{', '.join(sorted(losing))} for the telemetry collector are lost since {utc(since)}"
        found.append(_warning(since, f"{says}: see that it is quick enough and takes them (rotator doctor)"))
    if untaken:
        since = min(untaken.values())
        says = f"the telemetry collector takes no {', '.join(sorted(untaken))} since {utc(since)}"
        found.append(_warning(since + COLLECTOR_AWAY_AFTER, f"{says}: see that it answers (rotator doctor)"))
    return tuple(found)


def _warning(since: datetime, summary: str) -> Alert:
    return Alert(
        kind=AlertKind.TELEMETRY_LOST, subject=TELEMETRY, severity=Severity.WARNING, since=since, summary=summary
    )
