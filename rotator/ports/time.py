"""
Time, as the engine sees it.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Time, as a visitor (law 20): the wall clock for moments, the monotonic one for durations only."""

    def now(self) -> datetime:
        """Return the wall clock, aware UTC, re-read at each call."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
        ...

    def wait(self, event: threading.Event, timeout: timedelta) -> bool:
        """Wait until *event* is set or *timeout* has passed; return whether it is set."""
        ...
