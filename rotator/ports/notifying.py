"""
How people are told.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rotator.core.alert_kinds import AlertKind
from rotator.core.model import (
    Severity,
    SubjectName,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One alert as it is sent: raised or cleared."""

    key: str
    """Stable identity for deduplication: ``subject/kind``."""
    kind: AlertKind
    subject: SubjectName
    severity: Severity
    summary: str
    raised: bool
    since: datetime
    """From when on it is true."""
    at: datetime
    """When it was raised, or cleared."""
    again: bool = False
    """No news: what was told before, said again because it lasts."""


class Notifier(Protocol):
    """Takes what people should know. Never raises into the engine, never waits for anybody."""

    def notify(self, notices: Sequence[Notice]) -> None:
        """Take *notices*; a failure is counted and logged, never raised."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one receiver is sent at once."""

    id: str
    """The same for every try to deliver it."""
    notices: tuple[Notice, ...]
    """Grave ones first, then in the order in which they came."""
    left_out: int
    """How many notices were overtaken by newer ones before they could be sent, since the last message."""
    at: datetime


class Receiver(Protocol):
    """Delivers messages to one place outside. Slow, may fail, used by one thread."""

    def send(self, message: Message) -> None:
        """Deliver *message*; raises the tree of `AdapterError` if it may not have arrived."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...
