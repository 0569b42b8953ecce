"""
The only reader of time.

Rules that must stay true here:

- ``datetime.now`` and the monotonic clock are read nowhere else in rotator (law 20).
- Moments are aware UTC; the wall clock is re-read at each call, so a jump or a suspension is seen at the next tick.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
# Linux's monotonic clock stands still during a suspension: a lease would seem fresh that others have long taken.


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the wall clock, aware UTC, with microseconds (decisions round to whole seconds themselves)."""
        return datetime.now(tz=UTC)

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps, and goes on while the machine is suspended where it has one."""
        return time.clock_gettime(_MONOTONIC)

    def wait(self, event: threading.Event, timeout: timedelta) -> bool:
        """Wait until *event* is set or *timeout* has passed; return whether it is set."""
        return event.wait(max(0.0, timeout.total_seconds()))
