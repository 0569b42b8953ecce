"""
One request as the desk handles it: what is asked, by whom, in which words, and how it stands in the journal.

Rules that must stay true here:

- An order in the journal holds nobody's words: reasons stand beside it as commitments (law 24).
- Ids of what a request opens and records follow from its own id, so that carrying it out twice does it once (law 13).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from rotator.control import (
    AdoptRequest,
    ApplyRequest,
    Order,
    PauseRequest,
    Person,
    ResumeRequest,
    RotateRequest,
    UndoRequest,
)
from rotator.control.spelling import READERS
from rotator.core.approval import Operation
from rotator.core.event import Commitment
from rotator.core.model import SubjectName
from rotator.durations import moment_text
from rotator.ports import Request, RequestState, Transaction

_WORDS: Final = frozenset({"reason", "accept_interruption", "dry_run"})
_WRITTEN: Final = "written down"
"""Stands for words that are commitments already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """Who and in which words, as commitments of one transaction."""

    by: Commitment
    reason: Commitment | None
    words: Commitment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where a request stands, as its row says from now on."""

    state: RequestState
    needed: int = 0
    expires_at: datetime | None = None
    rotations: tuple[str, ...] = ()
    outcome: str = ""


def standing(row: Request, stand: Stand) -> Callable[[Signed], Request]:
    """Return how *row* is made anew; what it needs and until when stays as it was written down."""
    return lambda _signed: replace(row, state=stand.state, rotations=stand.rotations, outcome=stand.outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request and the person behind it."""

    id: str
    who: str = ""
    """The person, as committed to; of no use once `row` is there."""
    reason: str | None = None
    words: str | None = None
    """Why an interruption may be."""
    kubernetes: str | None = None
    """The uid of the object in which it was asked."""
    row: Request | None = None
    """As it stands in the journal, if it does: its commitments are what is signed with."""
    skipped: tuple[str, ...] = field(default=())
    """Rules about approvals that an emergency skips."""

    def sign(self, transaction: Transaction) -> Signed:
        """Return commitments to who asked and why: those that were made when it was written down, or new ones."""
        if self.row is not None:
            return Signed(by=self.row.requested_by, reason=self.row.reason, words=self.row.words)
        return Signed(
            by=transaction.commit_to(self.who),
            reason=transaction.commit_to(self.reason) if self.reason is not None else None,
            words=transaction.commit_to(self.words) if self.words is not None else None,
        )

    @property
    def approved_by(self) -> tuple[Commitment, ...]:
        """Return whose word it took beside the asker's."""
        return self.row.approved_by if self.row is not None else ()

    def record_id(self, what: str, subject: str) -> str:
        """Return the id of the one record that says *what* of *subject* for this request."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"request:{self.id}:{what}:{subject}").hex

    def rotation_id(self, subject: str) -> str:
        """Return the id of the rotation that this request opens for *subject*."""
        return self.record_id("rotation", subject)


def asked_by(order: Order, person: Person, *, request_id: str | None = None, kubernetes: str | None = None) -> Asked:
    """Return *order* as asked by *person*; *request_id* and *kubernetes* are its object's uid, if it has one."""
    return Asked(
        id=request_id or uuid.uuid4().hex,
        who=person.described,
        reason=None if isinstance(order, ResumeRequest) else order.reason,
        words=order.accept_interruption if isinstance(order, AdoptRequest) else None,
        kubernetes=kubernetes,
    )


def again(row: Request) -> Asked:
    """Return what stands in the journal as *row*."""
    return Asked(id=row.id, kubernetes=row.kubernetes, row=row)


def pinned(order: Order, digest: str | None) -> Order:
    """Return *order* for the plan of *digest* if it names none itself: what is approved is what is done."""
    if isinstance(order, ApplyRequest | UndoRequest) and order.plan is None:
        return replace(order, plan=digest)
    return order


def order_text(order: Order) -> str:
    """Return *order* as the journal keeps it, without anybody's words."""
    kept = {key: value for key, value in asdict(order).items() if key not in _WORDS}
    if isinstance(order, PauseRequest):
        kept["until"] = moment_text(order.until)
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def order_of(row: Request) -> Order:
    """Return the order that *row* keeps. Raises `ConfigError` if an older version wrote what this one cannot read."""
    fields: dict[str, Any] = json.loads(row.order)
    if row.operation is not Operation.RESUME:
        fields["reason"] = _WRITTEN
    if row.words is not None:
        fields["accept_interruption"] = _WRITTEN
    return READERS[row.operation](fields)


def subjects_of(order: Order) -> Sequence[SubjectName]:
    """Return whom *order* names; nobody if it is for everything."""
    match order:
        case RotateRequest():
            return order.subjects
        case _:
            return (order.subject,)


def is_urgent(order: Order) -> bool:
    """Return whether *order* is an emergency."""
    return isinstance(order, RotateRequest) and (order.emergency or order.compromised)
