"""
What stands of the platform on the control planes at one moment, as rotator would have written it.

Rules that must stay true here:

- Reads only. What a control plane only adds to what rotator wrote makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rotator.platform.changes import Plan
from rotator.platform.documents import Address, Document
from rotator.ports import AppliedDocument, Journal, MeshDocuments, SeenDocument


@dataclass(slots=True)
class Present:
    """What stands on the control planes at one moment."""

    seen: dict[Address, SeenDocument] = field(default_factory=dict)
    own: dict[Address, Document] = field(default_factory=dict)
    """Rotator's own documents, as they were written where a control plane only added to them."""


def remembered(journal: Journal) -> dict[Address, AppliedDocument]:
    """Return what rotator has applied and not removed."""
    return {each.document.address: each for each in journal.applied_documents()}


def present_at(
    places: Iterable[MeshDocuments], applied: Mapping[Address, AppliedDocument], plan: Plan | None = None
) -> Present:
    """
    Return what stands at *places*; what was *applied*, or *plan* writes, tells what of it is rotator's own wording.

    Raises:
        AdapterError: If a control plane cannot be asked.
    """
    found = Present()
    for place in places:
        for address, seen in place.listed().items():
            found.seen[address] = seen
            if seen.document.is_rotators:
                found.own[address] = _as_written(place, seen, applied.get(address), plan)
    return found


def _as_written(
    place: MeshDocuments, seen: SeenDocument, applied: AppliedDocument | None, plan: Plan | None
) -> Document:
    """Return what was *seen* without what a control plane has added to what rotator wrote."""
    document = seen.document
    if applied is not None and document.sha256 == applied.stood_sha256:
        return applied.document
    steps = plan.steps if plan is not None else ()
    known = [each.after for each in steps if each.address == document.address and each.after is not None]
    if document not in known:
        # A write of the open change whose record a crash has cut off; a later one may say more than an earlier.
        return next((each for each in reversed(known) if place.says(seen, each)), document)
    return document
