"""
How people are told.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rotator.core.model import (
    Severity,
    SubjectName,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One alert as it is sent: raised or cleared."""

    key: str
    """Stable identity for deduplication: ``subject/kind``."""
    subject: SubjectName
    severity: Severity
    summary: str
    raised: bool
    at: datetime


class Notifier(Protocol):
    """Tells people. Never raises into the engine."""

    def notify(self, notices: Sequence[Notice]) -> None:
        """Send *notices*; a failure is counted and logged, never raised."""
        ...
