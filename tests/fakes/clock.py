"""
A clock that a test moves by hand.

Rules that must stay true here:

- The wall clock and the monotonic one move together under `advance`; `jump` moves the wall clock alone (law 20).
- `wait` never sleeps: it moves the clock itself, or, with ``moves_itself=False``, waits until a test does.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

# How often a blocked `wait` looks at its event: an event set by another thread does not wake our condition.
LOOK_EVERY_SECONDS = 0.005


class ManualClock:
    """Time stands still until `advance`, `set` or `wait` moves it. Safe from several threads."""

    def __init__(self, now: datetime = datetime(2030, 1, 1, tzinfo=UTC), *, moves_itself: bool = True) -> None:
        """Start at *now*; with *moves_itself* a `wait` advances the clock instead of blocking."""
        self._now = now
        self._monotonic = 1000.0
        self._moves_itself = moves_itself
        self._moved = threading.Condition()
        self.waited: list[timedelta] = []
        """Every timeout that `wait` was asked for, in order."""

    def now(self) -> datetime:
        """Return the moment at which the clock stands, aware UTC."""
        with self._moved:
            return self._now

    def monotonic(self) -> float:
        """Return seconds that only ever grow."""
        with self._moved:
            return self._monotonic

    def advance(self, by: timedelta) -> datetime:
        """Let *by* pass on both clocks; return the new moment."""
        assert by >= timedelta(0), "time passes forward; use jump for a clock that is set back"
        with self._moved:
            self._now += by
            self._monotonic += by.total_seconds()
            self._moved.notify_all()
            return self._now

    def set(self, moment: datetime) -> None:
        """Let time pass until *moment*; nothing happens if it is past."""
        with self._moved:
            by = max(moment - self._now, timedelta(0))
        self.advance(by)

    def jump(self, by: timedelta) -> datetime:
        """Set the wall clock alone, forwards or back, as an administrator or NTP does; return the new moment."""
        with self._moved:
            self._now += by
            self._moved.notify_all()
            return self._now

    def wait(self, event: threading.Event, timeout: timedelta) -> bool:
        """Wait on this clock until *event* is set or *timeout* has passed; return whether it is set."""
        self.waited.append(timeout)
        if event.is_set():
            return True
        if self._moves_itself:
            self.advance(max(timeout, timedelta(0)))
            return event.is_set()
        with self._moved:
            until = self._monotonic + timeout.total_seconds()
            while self._monotonic < until and not event.is_set():
                self._moved.wait(LOOK_EVERY_SECONDS)
        return event.is_set()
