"""
What others have changed in what was applied, and what of theirs opens a service of ours.

Rules that must stay true here:

- What is wanted is what was applied last: a configuration that nobody has applied yet is no drift.
- A document that is not rotator's is told of, never touched.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rotator.platform.changes import PERMISSION, Plan, difference, plan_of, widens
from rotator.platform.documents import Address, Document


class DriftKind(StrEnum):
    """What somebody else did."""

    EDITED = "edited"
    REMOVED = "removed"
    ADDED = "added"
    """A document under rotator's name and label that rotator never applied."""
    FOREIGN = "foreign"
    """A permission of somebody else's that lets callers into a service of ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """One document that is not as it was applied, or should not be there."""

    kind: DriftKind
    address: Address
    applied: Document | None
    found: Document | None
    says: str = ""
    """What it opens, where it is somebody else's."""

    @property
    def is_grave(self) -> bool:
        """Return whether somebody may be let in who was not."""
        if self.kind is DriftKind.FOREIGN:
            return True
        return self.address.kind == PERMISSION and widens(self.applied, self.found)

    @property
    def in_words(self) -> str:
        """Return it as a sentence."""
        match self.kind:
            case DriftKind.EDITED:
                what = f"{self.address.in_words} was changed by somebody else"
            case DriftKind.REMOVED:
                what = f"{self.address.in_words} was removed by somebody else"
            case DriftKind.ADDED:
                what = f"{self.address.in_words} has rotator's name and rotator did not write it"
            case DriftKind.FOREIGN:
                return f"{self.address.in_words}, which is not rotator's, {self.says}"
        return f"{what} and lets in more than was applied" if self.is_grave else what

    @property
    def diff(self) -> str:
        """Return the unified diff that puts it back; empty for what is not rotator's."""
        return "" if self.kind is DriftKind.FOREIGN else difference(self.found, self.applied)


def drifts(applied: Mapping[Address, Document], present: Mapping[Address, Document]) -> tuple[Drift, ...]:
    """Return how *present*, rotator's own documents, differs from what was *applied*, by address."""
    found = []
    for address in sorted({*applied, *present}):
        wanted, seen = applied.get(address), present.get(address)
        if wanted == seen:
            continue
        kind = DriftKind.REMOVED if seen is None else DriftKind.ADDED if wanted is None else DriftKind.EDITED
        found.append(Drift(kind=kind, address=address, applied=wanted, found=seen))
    return tuple(found)


def putting_back(found: tuple[Drift, ...]) -> Plan:
    """Return the plan that makes of each of *found* that is rotator's what was applied."""
    own = [each for each in found if each.kind is not DriftKind.FOREIGN]
    return plan_of(
        {each.address: each.applied for each in own if each.applied is not None},
        {each.address: each.found for each in own if each.found is not None},
    )
