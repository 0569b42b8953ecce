"""A place for publications in memory, with the manners of the real one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rotator.core.model import Publication
from rotator.errors import Conflict, Rejected
from rotator.pki.certificates import Material, key_matches
from rotator.ports import Stamp


@dataclass(slots=True)
class MemoryLeafStore:
    """
    `LeafStore` in memory.

    Faults: every call asks *before* (its name) first and tells *after* (its name) when its effect is there; what these
    raise is raised, so a reply can be lost after the effect. `spoil` is what an intruder does.
    """

    target: str = "memory:test"
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None
    history: dict[int, tuple[Material, Publication]] = field(default_factory=dict)
    current: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> Publication | None:
        """Return what is published now."""
        self.before("read")
        with self._lock:
            seen = self.history[self.current][1] if self.current else None
        self.after("read")
        return seen

    def material(self) -> Material:
        """Return what is published now, key included."""
        self.before("material")
        with self._lock:
            if not self.current:
                raise Rejected(f"nothing is published in {self.target}")
            material, seen = self.history[self.current]
        if seen.problem is not None:
            raise Rejected(f"what is published in {self.target} cannot be used: {seen.problem}")
        self.after("material")
        return material

    def put(self, material: Material, *, expected: int, stamp: Stamp) -> Publication:
        """Publish *material*."""
        self.before("put")
        with self._lock:
            if expected != self.current:
                raise Conflict(f"publication {self.current} is current in {self.target}, expected was {expected}")
            number = max([self.current, *self.history]) + 1
            seen = Publication(
                target=self.target,
                number=number,
                leaf=material.leaf,
                bundle=material.bundle,
                key_matches=key_matches(material.key_pem, material.chain_pem),
                leaf_published_at=stamp.leaf_published_at,
                bundle_published_at=stamp.bundle_published_at,
                subject=stamp.subject,
                rotation_id=stamp.rotation_id,
            )
            self.history[number] = (material, seen)
            self.current = number
        self.after("put")
        return seen

    def forget(self, *, keep: frozenset[int]) -> None:
        """Remove publications that are neither current nor in *keep*."""
        self.before("forget")
        with self._lock:
            for number in set(self.history) - keep - {self.current}:
                del self.history[number]
        self.after("forget")

    def spoil(self, problem: str) -> None:
        """Let somebody else damage what is published now."""
        with self._lock:
            material, seen = self.history[self.current]
            self.history[self.current] = (material, replace(seen, problem=problem, key_matches=False))
