"""
What stands of the platform on each control plane, as last seen: by mesh, and within a mesh by environment.

Rules that must stay true here:

- Pure: counted from what was read, wanted and applied; nothing is asked.
- A document that says no environment is for its whole mesh, and counted there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from rotator.core.model import TrustDomainName
from rotator.platform.changes import plan_of
from rotator.platform.documents import Address, Document
from rotator.platform.drift import Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentView:
    """One environment's documents in one mesh."""

    environment: str | None
    """None: those for the whole mesh."""
    applied: int = 0
    """How many rotator has applied and not removed."""
    own: int = 0
    """How many of rotator's own there are."""
    to_apply: int = 0
    """How many writes it takes to make them as the configuration says."""
    drifted: int = 0
    """How many are not as they were applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceView:
    """One mesh's documents as last seen."""

    trust_domain: TrustDomainName
    mesh: str
    own: int = 0
    """How many of rotator's own there are."""
    to_apply: int = 0
    """How many writes it takes to make them as the configuration says."""
    seen_at: datetime | None = None
    problem: str = ""
    environments: tuple[EnvironmentView, ...] = ()
    """By name, those for the whole mesh last."""


def seen_now(
    before: PlaceView,
    *,
    wanted: Mapping[Address, Document],
    applied: Mapping[Address, Document],
    own: Mapping[Address, Document],
    found: Iterable[Drift],
    now: datetime,
) -> PlaceView:
    """Return *before* as it is *now*: of one mesh what is *wanted*, *applied*, and stands there as rotator's *own*."""
    steps = plan_of(wanted, own).steps
    counts = {
        "applied": _by_environment(applied.values()),
        "own": _by_environment(own.values()),
        "to_apply": _by_environment(each.after or each.before for each in steps),
        "drifted": _by_environment(each.applied or each.found for each in found),
    }
    names = {name for counted in (*counts.values(), _by_environment(wanted.values())) for name in counted}
    return replace(
        before,
        own=len(own),
        to_apply=len(steps),
        seen_at=now,
        problem="",
        environments=tuple(
            EnvironmentView(environment=name, **{what: counted[name] for what, counted in counts.items()})
            for name in sorted(names, key=lambda each: (each is None, each or ""))
        ),
    )


def _by_environment(documents: Iterable[Document | None]) -> Counter[str | None]:
    return Counter(each.resource.environment if each is not None else None for each in documents)
