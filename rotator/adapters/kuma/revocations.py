"""
Whether the corporate PKI has revoked a mesh's CA, asked seldom.

Rules that must stay true here:

- Once revoked is revoked for good (law 6). What was good a moment ago is asked again after `ASK_AGAIN`.
- A PKI that does not answer makes nobody blind to the mesh: the last answer counts; without one the silence is raised.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Final

from rotator.core.model import Serial
from rotator.errors import Unavailable
from rotator.ports import AuthoritySigner, Clock

ASK_AGAIN: Final = timedelta(minutes=1)
"""A mesh is looked at every few seconds; a revocation takes longer than this to be ordered."""


class Revocations:
    """Remembers what the corporate PKI said of each CA."""

    def __init__(self, signer: AuthoritySigner, clock: Clock) -> None:
        """Ask *signer*."""
        self._signer = signer
        self._clock = clock
        self._lock = threading.Lock()
        self._good: dict[Serial, datetime] = {}
        self._revoked: set[Serial] = set()

    def has(self, serial: Serial) -> bool:
        """Return whether *serial* is revoked."""
        now = self._clock.now()
        with self._lock:
            if serial in self._revoked:
                return True
            asked_at = self._good.get(serial)
        if asked_at is not None and timedelta() <= now - asked_at < ASK_AGAIN:
            return False
        try:
            revoked = self._signer.is_revoked(serial)
        except Unavailable:
            if asked_at is None:
                raise
            return False
        with self._lock:
            if revoked:
                self._revoked.add(serial)
            else:
                self._good[serial] = now
        return revoked

    def revoke(self, serial: Serial) -> str | None:
        """Have *serial* revoked and remember it; return the request id."""
        request_id = self._signer.revoke_authority(serial)
        with self._lock:
            self._revoked.add(serial)
        return request_id
