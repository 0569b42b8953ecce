"""
The right to change the world.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

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
