"""
The committed evidence records, and who signs for them.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Ledger(Protocol):
    """The committed evidence records, in order."""

    def size(self) -> int:
        """Return how many records are committed."""
        ...

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """Return the canonical bytes of records ``start <= seq < stop``."""
        ...


class CheckpointSigner(Protocol):
    """Signs checkpoints of the log; a local Ed25519 key file now, Vault Transit later."""

    @property
    def verifier_key(self) -> str:
        """Return the signed-note verifier key (``name+hash+base64``) to give to auditors out of band."""
        ...

    def sign(self, note_text: bytes) -> bytes:
        """Return the raw Ed25519 signature over *note_text*."""
        ...


class SignedCheckpoints(Protocol):
    """The last checkpoint that was signed, where every replica finds it."""

    def last_signed(self) -> bytes | None:
        """Return the signed note; None before the first."""
        ...

    def keep_signed(self, size: int, note: bytes) -> None:
        """
        Keep *note*, which signs *size* records, in place of the one before. The same one again is no error.

        Raises:
            LedgerTampered: If as many or more records were signed already, by another note.
            InvariantBroken: If another process leads since: it signs from now on (law 14).
        """
        ...
