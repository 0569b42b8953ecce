"""
Processes and pods that load certificates at their start.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rotator.core.model import (
    Member,
    Surge,
)


class Workloads(Protocol):
    """The members of one workload: processes, units or pods."""

    def members(self) -> tuple[Member, ...]:
        """
        Return every member that there should be, also one that does not run, in the order in which they are rolled.

        ``draining``, ``busy`` and ``queues`` are unset.
        """
        ...

    def held(self) -> str | None:
        """Return why nobody may be replaced, as the last `members` saw it, in words; None if they may."""
        ...

    def replace(self, member: str, *, forced: bool) -> None:
        """
        Stop the main process of *member* gently (never its group), wait until it is gone, start it anew.

        With *forced* it is killed at the end of its own grace period. Not gone in time: `Unavailable`; call again.

        Where a controller starts the members anew (pods) it is told to end and nothing is waited for: `members` shows
        it as ``ending`` until it is gone. It is the member as last seen by `members` that ends: another of its name by
        now is a `Conflict`. What forbids it for a time is `NotYet`.
        """
        ...


class Surging(Protocol):
    """The wanted number of a workload's members, raised for the time of a roll."""

    def seen(self, *, scaler: bool) -> Surge | None:
        """
        Return how many are wanted, as the last `Workloads.members` saw it; None if there is no such workload.

        With *scaler* the cluster is asked who else sets the number.
        """
        ...

    def more(self, by: int) -> None:
        """
        Want *by* more than were `seen`, and leave at the workload, in the same write, from which number to which.

        Changed since, or gone: `Conflict`.
        """
        ...

    def back(self) -> None:
        """
        Want the number that stood before, and take off what `more` left; a number that somebody set since stands.

        Changed since it was `seen`, or gone: `Conflict`.
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
