"""
Who reads: callers of the HTTP service, known by somebody who knows people.

Rules that must stay true here: those of `rotator.ports`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Somebody who showed a token that is good."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Reviewer(Protocol):
    """Says whose a token is, and what they may read."""

    def identify(self, token: str) -> Reader | None:
        """Return whose *token* is; None if it is not good, or was not made for rotator."""
        ...

    def may_get(self, reader: Reader, resource: str) -> bool:
        """Return whether *reader* has the right ``get`` on *resource* of rotator's."""
        ...
