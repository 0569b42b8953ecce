"""
Where certificates are published, and how their use is seen.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rotator.core.model import (
    Publication,
    Served,
    SubjectName,
)
from rotator.pki.certificates import Material


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What a publication says of itself, beside the material."""

    subject: SubjectName
    rotation_id: str
    leaf_published_at: datetime
    bundle_published_at: datetime


class LeafStore(Protocol):
    """One place where one certificate is published, switched by one reference (law 9)."""

    @property
    def target(self) -> str:
        """Return the place as people name it: ``directory:/etc/airflow/tls``."""
        ...

    def read(self) -> Publication | None:
        """Return what is published now; None if nothing ever was. Unreadable material is a `Publication.problem`."""
        ...

    def material(self) -> Material:
        """Return what is published now, key included, to publish it again with another bundle."""
        ...

    def put(self, material: Material, *, expected: int, stamp: Stamp) -> Publication:
        """
        Publish *material* as publication ``expected + 1`` (or a later free number) and read it back.

        *expected* is the number that was read, 0 for none. Raises `Conflict` if another one is current (law 14).
        The publication before stays beside it until `forget`.
        """
        ...

    def forget(self, *, keep: frozenset[int]) -> None:
        """Remove publications that are neither current nor in *keep* (cut-over is proven)."""
        ...


class Readable(Protocol):
    """The half of a `LeafStore` that a probe needs to take what is published for what is in use."""

    @property
    def target(self) -> str:
        """Return the place as people name it."""
        ...

    def read(self) -> Publication | None:
        """Return what is published; None if nothing ever was."""
        ...


class Probe(Protocol):
    """Sees what one consumer uses, without changing anything."""

    @property
    def name(self) -> str:
        """Return the probe as people name it: ``envoy_admin:http://127.0.0.1:9901``."""
        ...

    def look(self) -> Served:
        """Return what the consumer uses now. No answer is ``reachable=False``, never an exception."""
        ...


class BundleProbe(Protocol):
    """The optional power to prove a bundle by an answer to an unpublished leaf of the new CA."""

    @property
    def presents(self) -> str:
        """Return the SPIFFE ID that the consumer admits and the unpublished leaf must carry."""
        ...

    def admits(self, material: Material) -> bool:
        """Return whether the consumer gives an HTTP answer to *material*'s leaf (a handshake alone proves nothing)."""
        ...
