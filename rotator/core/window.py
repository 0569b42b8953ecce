"""
When a leaf may be renewed: arithmetic, hash jitter, maintenance windows and freezes, and the safety line.

Rules that must stay true here:

- Lifetimes count from issuance, never from a back-dated notBefore.
- Jitter is a hash of the identity (law 20): it only moves a renewal earlier, and a restart never reshuffles a fleet.
- An opening is a whole second and never lies past the safety line.
- Nothing here holds a renewal past its safety line; a calendar only says what a person would like (law 12).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Protocol

_SECOND = timedelta(seconds=1)
_HASH_BYTES = 8


class Ending(Protocol):
    """What lives from one moment to another: a leaf, or a token."""

    @property
    def not_before(self) -> datetime:
        """Return when it begins."""
        ...

    @property
    def not_after(self) -> datetime:
        """Return when it ends by itself."""
        ...

    @property
    def chain_not_after(self) -> datetime:
        """Return the earliest end of it and of whatever stands above it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long one renewal may take, part by part; the safety line leaves this much before the end."""

    issue: timedelta
    publish: timedelta
    drain: timedelta
    """All waves of the workloads that load the certificate at their start, in sequence."""
    proof: timedelta
    retry: timedelta

    @property
    def total(self) -> timedelta:
        """Return the sum of the parts."""
        return self.issue + self.publish + self.drain + self.proof + self.retry


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceWindow:
    """A weekly time in which planned work may start. Zones are resolved where the file is read: here it is UTC."""

    days: frozenset[int]
    """Weekdays on which it starts, Monday is 0."""
    start: time
    """UTC."""
    length: timedelta
    """May reach past midnight; a week at most."""

    def starts(self, around: datetime) -> Iterator[datetime]:
        """Yield every start from a week before *around* to a week after it, ascending."""
        midnight = around.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        for days in range(-7, 9):
            day = midnight + timedelta(days=days)
            if day.weekday() in self.days:
                yield day.replace(hour=self.start.hour, minute=self.start.minute, second=self.start.second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """A time in which planned work does not start, whatever the windows say."""

    since: datetime
    until: datetime
    """Exclusive."""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """When planned work may start. Without windows: always, but for the freezes."""

    windows: tuple[MaintenanceWindow, ...] = ()
    freezes: tuple[Freeze, ...] = ()

    def allows(self, now: datetime) -> bool:
        """Return whether planned work may start at *now*."""
        return self._frozen_until(now) is None and self._is_open(now)

    def next_allowed(self, now: datetime) -> datetime | None:
        """Return the first moment from *now* on at which planned work may start; None if no window ever opens."""
        moment = now
        # Each round leaves one freeze behind for good or moves to the next start of a window, so twice as many
        # rounds as there are freezes reach the answer.
        for _ in range(2 * len(self.freezes) + 2):
            frozen_until = self._frozen_until(moment)
            if frozen_until is not None:
                moment = frozen_until
            elif self._is_open(moment):
                return moment
            else:
                following = [each for window in self.windows for each in window.starts(moment) if each > moment]
                if not following:
                    return None
                moment = min(following)
        return moment if self.allows(moment) else None

    def _frozen_until(self, now: datetime) -> datetime | None:
        return max((freeze.until for freeze in self.freezes if freeze.since <= now < freeze.until), default=None)

    def _is_open(self, now: datetime) -> bool:
        return not self.windows or any(
            start <= now < start + window.length for window in self.windows for start in window.starts(now)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafPolicy:
    """How one certificate is kept fresh."""

    renew_at: float
    """Fraction of the lifetime after which it may be renewed."""
    jitter: float = 0.1
    """Largest fraction of the lifetime by which the identity's hash moves that earlier."""
    skew: timedelta
    """Allowed clock difference to the CA and to the consumers."""
    budget: Budget
    backdate: timedelta = timedelta(seconds=30)
    """How far the CA sets notBefore back (OpenBao and Vault: 30 s unless the role says otherwise)."""
    calendar: Calendar = Calendar()

    def complaints(self, lifetime: timedelta) -> tuple[str, ...]:
        """Return what cannot work for leaves of *lifetime*, each with its arithmetic; empty if all is well."""
        found = []
        if not 0 < self.renew_at < 1:
            found.append(f"renew_at {self.renew_at:.0%} must lie between 0 % and 100 %")
        if self.renew_at - self.jitter <= 0:
            found.append(f"renew_at {self.renew_at:.0%} - jitter {self.jitter:.0%} leaves no time before the renewal")
        opens, reserve = lifetime * self.renew_at, _reserve(lifetime, self.budget)
        if opens > lifetime - reserve:
            found.append(
                f"a leaf of {written(lifetime)} would open for renewal {written(opens)} after issue, but its safety "
                f"line is {written(lifetime)} - max({written(lifetime / 10)}, budget {written(self.budget.total)}) = "
                f"{written(lifetime - reserve)} after issue"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The life of one leaf."""

    issued_at: datetime
    opens: datetime
    """From here on it may be renewed."""
    safety_line: datetime
    """From here on it must be: no pause, freeze, window, approval or breaker holds any longer (law 12)."""
    closes: datetime
    """It has expired."""

    def used(self, now: datetime) -> float:
        """Return the part of its life that has passed at *now*; above 1 once it has expired."""
        return (now - self.issued_at) / max(self.closes - self.issued_at, _SECOND)


def hash_fraction(identity: str) -> float:
    """Return a number in [0, 1) that is always the same for *identity* and evenly spread over many."""
    digest = hashlib.sha256(identity.encode()).digest()[:_HASH_BYTES]
    return int.from_bytes(digest, "big") / float(1 << 8 * _HASH_BYTES)


def renewal_window(leaf: Ending, lifetime: timedelta, policy: LeafPolicy, identity: str) -> Window:
    """
    Return when *leaf* may be renewed: opens early, must be renewed by the safety line, closes at expiry.

    *lifetime* is the wanted one. A leaf that lives longer than that is renewed as if it had the wanted lifetime;
    one that lives shorter is measured by its own. *identity* is what the jitter is a hash of.

    Source: RFC 5280 section 4.1.2.5; shape as in cert-manager's RenewalTime.
    """
    issued_at = _issued_at(leaf, lifetime, policy.backdate)
    closes = min(leaf.not_after, leaf.chain_not_after)
    life = max(leaf.not_after - issued_at, _SECOND)
    counted = min(life, lifetime)
    latest = issued_at + counted * policy.renew_at
    earliest = latest - counted * policy.jitter
    opens = _floor(latest - (latest - earliest) * hash_fraction(identity))
    if opens < earliest <= _floor(latest):
        # the floor fell out of the jitter's span, as it does for leaves of seconds: take the next whole second
        opens += _SECOND
    safety_line = _floor(closes - _reserve(life, policy.budget))
    return Window(
        issued_at=issued_at,
        opens=max(issued_at, min(opens, safety_line)),
        safety_line=max(issued_at, safety_line),
        closes=closes,
    )


def written(duration: timedelta) -> str:
    """Return *duration* as people write it: ``90s``, ``12h``, ``7d``, ``1h30m``."""
    if duration < timedelta():
        return f"-{written(-duration)}"
    rest = duration.total_seconds()
    if not rest.is_integer():
        return f"{rest:g}s"
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:.0f}{unit}")
    return "".join(parts) or "0s"


def _issued_at(leaf: Ending, lifetime: timedelta, backdate: timedelta) -> datetime:
    """Return when *leaf* was signed: its wanted lifetime before its end, else the undone back-dating."""
    by_lifetime = leaf.not_after - lifetime
    # One second of slack: CAs cut fractions off both ends.
    if leaf.not_before <= by_lifetime <= leaf.not_before + backdate + _SECOND:
        return by_lifetime
    # Issued under another lifetime. A leaf shorter than the back-dating was not back-dated by it.
    undone = leaf.not_before + backdate
    return undone if undone < leaf.not_after else leaf.not_before


def _reserve(life: timedelta, budget: Budget) -> timedelta:
    return max(life / 10, budget.total)


def _floor(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
