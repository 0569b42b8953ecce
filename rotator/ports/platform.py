"""
The platform's documents: where they are, and what is remembered of those that were applied.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from rotator.platform.changes import ChangeKind, Plan
from rotator.platform.documents import Address, Document


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDocument:
    """One document as it is on a control plane."""

    document: Document
    revision: str
    """What changes with every edit; a write carries the one that was read."""
    keepers: frozenset[str] = field(default_factory=frozenset)
    """Tools of somebody else's that keep applying what rotator would write (Kubernetes); empty elsewhere."""


class MeshDocuments(Protocol):
    """The documents of the platform's kinds in one mesh."""

    def listed(self) -> Mapping[Address, SeenDocument]:
        """Return every document of those kinds, rotator's and others'."""
        ...

    def write(self, wanted: Document, seen: SeenDocument | None) -> SeenDocument:
        """
        Create *wanted* (*seen* is None), or replace what was *seen*, and return it as it reads back.

        Raises `Conflict` if it is there already, gone, or was edited since; `Rejected` if it is not rotator's or the
        control plane refuses it; `Denied` if a tool of somebody else's keeps applying it, or a right is missing.
        """
        ...

    def remove(self, seen: SeenDocument) -> None:
        """Remove one of rotator's own; absent is no error, edited since a `Conflict`, not rotator's `Rejected`."""
        ...

    def says(self, seen: SeenDocument, wanted: Document) -> bool:
        """Return whether *seen* says all that *wanted* says, and only adds what a control plane adds."""
        ...

    def lagging(self) -> tuple[str, ...]:
        """Return the proxies in contact that have not acknowledged everything that they were sent, by name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedDocument:
    """One document as rotator has applied it last."""

    document: Document
    stood_sha256: str
    """Digest of what read back right after: a control plane may add what nobody wrote."""
    change: str
    """Id of the change that wrote it last."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformChange:
    """What one change of the platform writes; who asked and how it stands is its rotation's, of the same id."""

    id: str
    kind: ChangeKind
    plan: Plan
    undoes: str | None = None
    """The change that it takes back."""


class PlatformMemory(Protocol):
    """The memory of what was applied. Raises `JournalError` when it cannot be read."""

    def applied_documents(self) -> tuple[AppliedDocument, ...]:
        """Return every document that rotator has applied and not removed, by address."""
        ...

    def platform_change(self, change_id: str) -> PlatformChange | None:
        """Return one change, None if it is not known."""
        ...

    def last_platform_changes(self, count: int) -> tuple[PlatformChange, ...]:
        """Return the newest *count* changes, newest first."""
        ...
