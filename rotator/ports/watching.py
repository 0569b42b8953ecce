"""
Certificates that rotator does not manage, as it sees them.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rotator.core.foreign import Foreign


class Watch(Protocol):
    """One place where certificates are looked at."""

    @property
    def kind(self) -> str:
        """Return what kind of place it is, as the configuration names it."""
        ...

    @property
    def place(self) -> str:
        """Return the place as people name it."""
        ...

    def look(self) -> Sequence[Foreign]:
        """Return what is there, at least one unless it is a place of many; raises the tree of `AdapterError`."""
        ...
