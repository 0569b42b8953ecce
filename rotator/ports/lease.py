"""
The right to change the world.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Lease(Protocol):
    """The right to change the world; one holder at a time (law 14)."""

    def acquire(self) -> None:
        """Take the lease or raise `Conflict` naming who holds it."""
        ...

    def held(self) -> bool:
        """Return whether it is still held; asked before every write."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...

    def holder(self) -> str | None:
        """Return who held it when this process last looked, in words for people; None if nobody did."""
        ...

    def when_lost(self, told: Callable[[], None]) -> None:
        """Have *told* called, from any thread and at least once, when a lease that was taken is found lost."""
        ...
