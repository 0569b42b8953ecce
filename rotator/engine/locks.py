"""
One lock for each target.

Rules that must stay true here:

- A trust domain's lock is taken before a certificate's, never after; a workload's stands alone.
- Locks are made on first use and never removed: a name that leaves the configuration may come back.
"""

from __future__ import annotations

import threading

from rotator.engine.targets import TargetId


class Locks:
    """Reentrant locks by target."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[TargetId, threading.RLock] = {}

    def of(self, target: TargetId) -> threading.RLock:
        """Return the lock of *target*."""
        with self._guard:
            return self._locks.setdefault(target, threading.RLock())
