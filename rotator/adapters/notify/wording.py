"""
A notice in the words of those who receive it.

Rules that must stay true here:

- Pure. No secret and no person's name: a notice holds neither.
- Moments are RFC 3339 UTC with whole seconds, as everywhere in the contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from rotator.core.alert_kinds import MEANINGS, AlertKind
from rotator.ports import Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Where a reader of a notice finds more."""

    environment: str
    """Of the configuration; stands in every notice."""
    runbooks: str = ""
    """Address below which the runbooks are served; empty: notices name the page alone."""
    status: str = ""
    """Address of this installation's status page, if it has one."""

    def runbook(self, kind: AlertKind) -> str:
        """Return where to read what to do about *kind*."""
        page = f"{MEANINGS[kind].runbook}.md"
        return f"{self.runbooks.rstrip('/')}/{page}" if self.runbooks else f"docs/runbooks/{page}"


def moment(at: datetime) -> str:
    """Return *at* as the contract writes moments."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def camel(kind: AlertKind) -> str:
    """Return *kind* as Kubernetes and Prometheus name such things: ``RenewalOverdue``."""
    return "".join(part.capitalize() for part in kind.value.split("_"))


def state(notice: Notice) -> str:
    """Return ``firing`` or ``resolved``."""
    return "firing" if notice.raised else "resolved"
