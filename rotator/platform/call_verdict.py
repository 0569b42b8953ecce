"""
What is said of a call that was looked at: links, marks, causes, and the words around them.

Rules that must stay true here:

- A link is as bad as the worst of its points; the first broken link is the finding.
- Whatever is broken or doubtful has a cause and a mend.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

_SHOWN: Final = 3


class Link(StrEnum):
    """The links of a call, in their order."""

    SIDECAR = "sidecar"
    """Both proxies follow their control plane."""
    IDENTITY = "identity"
    """Both hold the certificate that they ought to hold, and their tokens let them in."""
    TRUST = "trust"
    """Each takes what the other shows."""
    PERMISSION = "permission"
    """The destination lets the caller in."""
    ROUTE = "route"
    """The caller's proxy leads to the destination, in its environment."""
    DESTINATION = "destination"
    """Somebody is there who takes the call."""
    AIRFLOW = "airflow"
    """Airflow calls the name that leads there."""


class Mark(StrEnum):
    """What was found at one point, the best first."""

    GOOD = "good"
    FOLLOWS = "follows"
    """Wrong, and explained by another link."""
    NOT_SEEN = "not_seen"
    """Could not be looked at."""
    DOUBTFUL = "doubtful"
    """Would break some calls, or soon."""
    BROKEN = "broken"


class Cause(StrEnum):
    """Why a link is broken or doubtful."""

    NO_PROXY = "no_proxy"
    PROXY_OFFLINE = "proxy_offline"
    REJECTED = "configuration_rejected"
    NOT_ACKNOWLEDGED = "not_acknowledged"
    DIFFERS = "configuration_differs"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 -- a cause, no secret
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 -- a cause, no secret
    NO_CERTIFICATE = "no_certificate"
    WRONG_TRUST_DOMAIN = "wrong_trust_domain"
    WRONG_IDENTITY = "wrong_identity"
    LEAF_EXPIRED = "leaf_expired"
    NOT_TRUSTED = "not_trusted"
    MISSING_PERMISSION = "missing_permission"
    DENIED = "denied"
    NO_ROUTE = "no_route"
    WRONG_ENVIRONMENT = "wrong_environment"
    NO_DESTINATION = "no_destination"
    DESTINATION_OFFLINE = "destination_offline"
    NOT_READY = "not_ready"
    APPLICATION_DOWN = "application_down"
    WRONG_HOSTNAME = "wrong_hostname"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One thing that was looked at."""

    mark: Mark
    what: str
    mend: str = ""
    cause: Cause | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedLink:
    """One link and everything that was looked at of it."""

    link: Link
    points: tuple[Point, ...]

    @property
    def mark(self) -> Mark:
        """Return the worst that was found."""
        return max((each.mark for each in self.points), key=list(Mark).index, default=Mark.NOT_SEEN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The chain, judged."""

    links: tuple[JudgedLink, ...]

    @property
    def broken(self) -> JudgedLink | None:
        """Return the first link that is broken, None if none is."""
        return next((each for each in self.links if each.mark is Mark.BROKEN), None)

    @property
    def point(self) -> Point | None:
        """Return what breaks the first broken link."""
        found = self.broken
        return None if found is None else next(each for each in found.points if each.mark is Mark.BROKEN)


def good(what: str) -> Point:
    """Return that something is as it should be."""
    return Point(mark=Mark.GOOD, what=what)


def broken(cause: Cause, what: str, mend: str) -> Point:
    """Return what breaks the call."""
    return Point(mark=Mark.BROKEN, what=what, mend=mend, cause=cause)


def broken_or_doubtful(others: bool, cause: Cause, what: str, mend: str) -> Point:  # noqa: FBT001 -- a condition, read where it stands
    """Return a break, or a doubt while *others* stand in."""
    return Point(mark=Mark.DOUBTFUL if others else Mark.BROKEN, what=what, mend=mend, cause=cause)


def listed(names: Iterable[str]) -> str:
    """Return *names* for a sentence, the first few of many."""
    found = list(names)
    shown = ", ".join(found[:_SHOWN])
    return shown if len(found) <= _SHOWN else f"{shown} and {len(found) - _SHOWN} more"


def moment(at: datetime) -> str:
    """Return *at* as it is written everywhere: RFC 3339, UTC, whole seconds."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
