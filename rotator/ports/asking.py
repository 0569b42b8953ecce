"""
What people have asked, remembered, and the objects in a cluster in which they ask.

Rules that must stay true here:

- Those of `rotator.ports`; names and words of people stand as commitments in everything that is remembered (law 24).
- A request has one id for life: that of its object in a cluster, so that a crash in between asks for nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from rotator.core.approval import Operation
from rotator.core.event import Commitment
from rotator.ports.intents import Rotation


class RequestState(StrEnum):
    """What became of a request."""

    AWAITING = "awaiting_approval"
    BEGUN = "begun"
    """Nothing more is needed; what a crash left undone of it is done at the next look."""
    ACCEPTED = "accepted"
    """Carried out as far as it could be; its rotations go their own way from here."""
    REFUSED = "refused"
    REJECTED = "rejected"
    """Somebody whose approval was asked for has said no."""
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request that changes something."""

    id: str
    operation: Operation
    order: str
    """What was asked, as JSON without anybody's words."""
    requested_by: Commitment
    reason: Commitment | None = None
    words: Commitment | None = None
    """What else the person said in words: why an interruption may be."""
    state: RequestState
    asked_at: datetime
    expires_at: datetime | None = None
    """When it is refused if the approvals are not there; None: it needed none."""
    needed: int = 0
    approved_by: tuple[Commitment, ...] = ()
    rotations: tuple[str, ...] = ()
    """Ids of what was opened for it."""
    outcome: str = ""
    """A sentence for people, in rotator's words."""
    kubernetes: str | None = None
    """The uid of its object; None: it came over the control socket."""


class Requests(Protocol):
    """The memory of requests. Raises `JournalError` when it cannot be read."""

    def request(self, request_id: str) -> Request | None:
        """Return the request *request_id*, None if it is not known."""
        ...

    def requests(self, state: RequestState) -> tuple[Request, ...]:
        """Return every request in *state*, oldest first."""
        ...

    def rotation(self, rotation_id: str) -> Rotation | None:
        """Return the rotation *rotation_id*, None if it is not known."""
        ...

    def reveal(self, commitment: Commitment) -> str | None:
        """Return the text behind *commitment*; None if it was erased."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedObject:
    """A request's or an approval's object, as read."""

    name: str
    uid: str
    revision: str
    """Its resourceVersion: what is written about it carries it."""
    made_at: datetime
    spec: Mapping[str, Any]
    status: Mapping[str, Any]


class RequestBoard(Protocol):
    """The objects of one namespace in which people ask. Raises as every port does."""

    def guarded_since(self) -> datetime | None:
        """
        Return since when the API server binds the names in new objects to whoever makes them.

        None: it does not now, and a name in an object is anybody's word.
        """
        ...

    def requests(self) -> tuple[PostedObject, ...]:
        """Return every request that has not ended, oldest first."""
        ...

    def approvals(self) -> tuple[PostedObject, ...]:
        """Return every approval that nobody has looked at, oldest first."""
        ...

    def show(self, posted: PostedObject, status: Mapping[str, Any], *, approval: bool = False) -> None:
        """Write *status* of a request, or of an approval; `Conflict` if the object has changed or is gone."""
        ...

    def tidy(self, ended_before: datetime) -> int:
        """Remove requests and approvals that had ended before that moment; return how many."""
        ...
