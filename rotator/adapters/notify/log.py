"""
Telling people by the daemon's own log.

Rules that must stay true here:

- A notifier never raises into the engine: a failure is counted and logged.
- A notice holds no secret and no person's name.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from rotator.core.model import Severity
from rotator.ports import Notice
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)


class LogNotifier:
    """Writes notices into the daemon's own log, where every collector finds them."""

    def notify(self, notices: Sequence[Notice]) -> None:
        """Log *notices*: a critical one as an error, for a person must act."""
        for notice in notices:
            if not notice.raised:
                log.info(LogEvent.ALERT_CLEARED, subject=notice.subject, key=notice.key, summary=notice.summary)
            elif notice.severity is Severity.CRITICAL:
                log.error(LogEvent.ALERT_RAISED, subject=notice.subject, key=notice.key, summary=notice.summary)
            else:
                log.warning(LogEvent.ALERT_RAISED, subject=notice.subject, key=notice.key, summary=notice.summary)
