"""
Processes and pods that load certificates at their start.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rotator.core.model import (
    Member,
)


class Workloads(Protocol):
    """The members of one workload: processes, units or pods."""

    def members(self) -> tuple[Member, ...]:
        """Return every configured member, also one that does not run; ``draining``, ``busy`` and ``queues`` unset."""
        ...

    def replace(self, member: str, *, forced: bool) -> None:
        """
        Stop the main process of *member* gently (never its group), wait until it is gone, start it anew.

        With *forced* it is killed at the end of its own grace period. Not gone in time: `Unavailable`; call again.
        """
        ...


class Drainer(Protocol):
    """Takes work away from members and sees what they still do."""

    def inspect(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return *members* with ``draining``, ``busy``, ``queues`` and ``ready`` filled in; arguments redacted."""
        ...

    def drain(self, member: Member) -> None:
        """Let *member* take no new work; it keeps answering."""
        ...

    def undrain(self, member: Member) -> None:
        """Let *member* take work again from the queues it had."""
        ...
