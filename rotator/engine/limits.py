"""
How fast and how often: the rate each system bears, the breaker on looping issuance, and back-off that knows deadlines.

Rules that must stay true here:

- The next try is never later than the safety line; past it tries go on, rate-bounded, through expiry (law 15).
- A loop of *successful* issuance trips the breaker; failure never does (law 15).
- Back-off is a function of the number of failures, not a random draw (law 20).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.ports import Clock

FIRST_RETRY = timedelta(seconds=1)
LONGEST_RETRY = timedelta(minutes=5)
PAST_SAFETY_LINE = timedelta(seconds=2)
"""How often a subject is tried whose safety line has passed: often enough to matter, seldom enough not to hammer."""


class RateLimit:
    """A token bucket on the monotonic clock; a taker waits for its turn."""

    def __init__(self, clock: Clock, *, per_second: float, burst: int | None = None) -> None:
        self._clock = clock
        self._interval = 1.0 / per_second
        self._burst = self._interval * (burst if burst is not None else max(1, int(per_second)))
        self._next = clock.monotonic()
        self._lock = threading.Lock()
        self._never = threading.Event()

    def take(self) -> None:
        """Take one turn, waiting until the rate allows it."""
        with self._lock:
            now = self._clock.monotonic()
            self._next = max(self._next, now - self._burst) + self._interval
            wait = self._next - now
        if wait > 0:
            self._clock.wait(self._never, timedelta(seconds=wait))


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceLimit:
    """At most *count* successful issuances of one subject within *within*."""

    count: int
    within: timedelta


class Limits:
    """What this process may do per second and per subject."""

    def __init__(self, clock: Clock, *, issuer_per_second: float, per_subject: IssuanceLimit) -> None:
        self.issuer = RateLimit(clock, per_second=issuer_per_second)
        self._clock = clock
        self._per_subject = per_subject
        self._issued: dict[str, list[datetime]] = {}
        self._lock = threading.Lock()

    def issued(self, subject: str) -> None:
        """Count one successful issuance of *subject*."""
        with self._lock:
            self._issued.setdefault(subject, []).append(self._clock.now())

    def tripped_until(self, subject: str) -> datetime | None:
        """Return until when *subject* is not issued again because it looped, or None."""
        now = self._clock.now()
        with self._lock:
            recent = [at for at in self._issued.get(subject, ()) if timedelta(0) <= now - at < self._per_subject.within]
            self._issued[subject] = recent
        if len(recent) < self._per_subject.count:
            return None
        return recent[-self._per_subject.count] + self._per_subject.within


def next_try(failures: int, now: datetime, safety_line: datetime | None) -> datetime:
    """
    Return when to try again after *failures* failures in a row.

    Doubles from `FIRST_RETRY` to `LONGEST_RETRY`, but is never later than *safety_line*, and past that line every
    `PAST_SAFETY_LINE`. Several tries are left before the line: the wait is at most a quarter of what remains.
    """
    doublings: int = min(max(failures - 1, 0), 16)
    wait = min(LONGEST_RETRY, FIRST_RETRY * (1 << doublings))
    if safety_line is None:
        return now + wait
    if now >= safety_line:
        return now + PAST_SAFETY_LINE
    return min(now + wait, now + max(FIRST_RETRY, (safety_line - now) / 4), safety_line)
