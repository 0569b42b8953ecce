"""
A mesh whose control plane signs the leaves.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from rotator.core.model import (
    Authority,
    IssuerId,
    RelyingParty,
)
from rotator.ports.issuing import HeldAuthorities


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What it would take to lead a mesh that does not run on a generation of rotator's yet."""

    found: str
    """What it runs on now, in words: ``the builtin CA of backend ca-1``."""
    plan: tuple[str, ...]
    """What rotator would do, one sentence a step, in order."""
    interrupts: str | None = None
    """What will be interrupted for want of a seamless way; None if nothing will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshView:
    """What a control plane shows of one mesh, taken at one moment."""

    held: HeldAuthorities
    """
    The generations whose secrets the control plane holds, and which of them signs.

    A CA that rotator did not make is generation 0. It is held only while it signs, is in the bundle, or is seen in
    use: its secrets are not rotator's to remove, so it must not stay for their sake.
    """
    parties: tuple[RelyingParty, ...]
    """The mesh itself (what joiners are given), then its proxies by name; all were given one publication."""
    stray_until: Mapping[IssuerId, datetime] = field(default_factory=dict)
    """For each authority, when the last leaf ends that a proxy whose leaf cannot be seen may still hold."""
    vanished_are_gone: bool = True
    """Whether a proxy that is no longer listed has ended (Kubernetes), or may come back with its leaf (Universal)."""
    refusals: tuple[str, ...] = ()
    """Why nothing may be changed now, each with the mend; empty if all is well."""
    warnings: tuple[str, ...] = ()
    """What people should know although nothing is refused."""
    adoption: Adoption | None = None
    """Set while the mesh does not run on a generation of rotator's: a person has to say go."""


class Mesh(Protocol):
    """A mesh whose control plane signs the leaves and gives every proxy one bundle."""

    def look(self, *, proofs: bool) -> MeshView:
        """
        Return what the control plane shows now; never cached.

        Without *proofs* no proxy is asked what it trusts, and no proxy's ``acknowledged`` is filled in.
        """
        ...

    def publish(self, bundle: tuple[Authority, ...]) -> str | None:
        """
        Give every proxy *bundle* by one write, without moving who signs; return the control plane's revision.

        Raises `Conflict` if somebody else changed the mesh since it was looked at, `Rejected` if the control plane
        refused, `InvariantBroken` if a bundle may not hold what it would hold (law 6).
        """
        ...
