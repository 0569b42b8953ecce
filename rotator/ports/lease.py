"""
The right to change the world.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseClaim:
    """Which holding of a lease one is."""

    lease: str
    """Names the lease itself: one that was removed and made anew is another."""
    number: int
    """Grows with every holder of this lease."""
    holder: str
    """In words for people."""


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


@runtime_checkable
class Claiming(Protocol):
    """A lease whose holdings are numbered, so that a database can tell a stale holder from its successor."""

    def claim(self) -> LeaseClaim:
        """Return which holding this is. Raises `Conflict` if it is not held."""
        ...
