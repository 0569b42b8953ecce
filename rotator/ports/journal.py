"""
How intents are remembered, and what becomes true together with them.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from rotator.core.event import Commitment, Event
from rotator.core.model import SubjectName, TrustDomainName
from rotator.ports.asking import Request
from rotator.ports.intents import Hold, Issuance, IssuanceState, Rotation, RotationState, Sighting, StandingAlert
from rotator.ports.platform import AppliedDocument, PlatformChange, PlatformMemory


class Transaction(Protocol):
    """Journal rows and ledger entries that become true together, or not at all."""

    def save(
        self,
        row: Rotation | Issuance | Hold | Sighting | Request | StandingAlert | AppliedDocument | PlatformChange,
    ) -> None:
        """Insert or replace one row by its key (id, spki_sha256, subject, subject with party, id, key, address, id)."""
        ...

    def release(self, subject: SubjectName) -> None:
        """Remove the hold on *subject*."""
        ...

    def forget(self, row: Sighting | StandingAlert | AppliedDocument) -> None:
        """Remove the sighting of one party, one alert, or one applied document."""
        ...

    def append(self, event: Event) -> int:
        """
        Append one evidence record; return its sequence number (gap-free, from 0).

        An event whose ``id`` is already committed is not appended again: its number is returned.
        """
        ...

    def commit_to(self, text: str) -> Commitment:
        """Return a salted commitment to a person's name or words; the salt goes to the erasable side store."""
        ...


class Sightings(Protocol):
    """The memory of proxies."""

    def sightings(self) -> tuple[Sighting, ...]:
        """Return every sighting, by subject and party."""
        ...


class StandingAlerts(Protocol):
    """The memory of what people were told."""

    def standing_alerts(self) -> tuple[StandingAlert, ...]:
        """Return every alert that is raised, or whose end somebody does not know yet, by key."""
        ...


class PlatformRotations(Protocol):
    """The memory of who changed the platform."""

    def last_platform_rotations(self, count: int) -> tuple[Rotation, ...]:
        """Return the rotations of the newest *count* changes, oldest first: who asked for each, and how it stands."""
        ...


class Journal(Sightings, StandingAlerts, PlatformMemory, PlatformRotations, Protocol):
    """The memory of intents. Raises `JournalError` when it cannot be read or written."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open one transaction: committed when the block ends, nothing kept when it raises."""
        ...

    def rotations(
        self, *, state: RotationState | None = None, subject: SubjectName | None = None, last_ended: bool = False
    ) -> tuple[Rotation, ...]:
        """Return rotations, oldest first; with *last_ended* only the newest of each subject that has ended."""
        ...

    def issuances(
        self, *, states: frozenset[IssuanceState], subject: SubjectName | None = None
    ) -> tuple[Issuance, ...]:
        """Return certificate orders in the given states, oldest first."""
        ...

    def holds(self) -> tuple[Hold, ...]:
        """Return every pause, also those whose time is over."""
        ...

    def last_generation(self, trust_domain: TrustDomainName) -> int:
        """Return the highest generation number ever used for *trust_domain*, 0 for none."""
        ...
