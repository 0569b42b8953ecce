"""
The desk at which people ask: every request becomes an intent in the journal, or a refusal in the ledger.

Rules that must stay true here:

- Nothing has a second path: whoever asks, over the socket or by an object in a cluster, asks here.
- Every request is recorded, also a refused one; names and free text stand as salted commitments (law 24).
- What needs a second person's word waits for it in the journal and holds nothing meanwhile (law 12); carried out is
  what was written down, whatever is said later.
- Nobody's word counts for their own request, nor where nobody can be known.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from rotator.control import (
    AdoptRequest,
    ApplyRequest,
    ApproveRequest,
    Order,
    PauseRequest,
    Person,
    RejectRequest,
    ResumeRequest,
    Right,
    RollbackRequest,
    RotateRequest,
    UndoRequest,
)
from rotator.core.approval import ApprovalPolicy, Requirement
from rotator.core.event import Commitment
from rotator.core.model import SubjectName
from rotator.desk.asking import (
    Asked,
    Stand,
    again,
    asked_by,
    is_urgent,
    order_of,
    order_text,
    pinned,
    standing,
    subjects_of,
)
from rotator.desk.book import Book, Draft, Target, name_of
from rotator.desk.carrying import Carrier, kind_of
from rotator.engine import status
from rotator.engine.engine import Engine
from rotator.engine.platform_status import platform_row
from rotator.errors import ConfigError, Denied, Rejected, RotatorError
from rotator.platform.changes import Plan
from rotator.ports import Request, Requests, RequestState, Rotation
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

DENIED_ONCE_IN = timedelta(minutes=1)
"""Who tries again and again without a right makes no more records than this: the ledger never forgets."""

NOBODY = SubjectName("rotator")
"""The subject of records about requests that name none of the configuration."""

_NOTHING = Plan().digest
"""Of a plan that writes nothing, and so opens nothing."""

_UNKNOWN = "nobody can be known here, and approval.allow_unattributed does not let that pass"
_SHORTEST_ID = 6
_FEW_NAMED = 20
"""So many refusals stand in a request's outcome; the ledger has each."""


class Desk:
    """Answers the control socket and the objects in a cluster. Safe from several threads."""

    def __init__(
        self,
        engine: Engine,
        *,
        ledger: Callable[[], Mapping[str, Any]],
        requests: Requests,
        approval: Callable[[], ApprovalPolicy] = ApprovalPolicy,
        elsewhere: Callable[[], Mapping[str, Any] | None] = lambda: None,
        replica: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """
        Answer for *engine*.

        *ledger* gives the contract's ``ledger`` object, *approval* the policy in force at the moment, *elsewhere* what
        a leader in another process said last of subjects, workloads and alerts; None where this one leads. *replica*
        gives the contract's ``replica`` object.
        """
        self._replica = replica
        self._elsewhere = elsewhere
        self._engine = engine
        self._ledger = ledger
        self._requests = requests
        self._approval = approval
        self._book = Book(engine)
        self._carrier = Carrier(engine, self._book)
        self._lock = threading.Lock()
        self._turn = threading.RLock()
        """One order after the other: what is refused and what is done are judged by the same look."""
        self._denied: dict[tuple[str, str], datetime] = {}
        self._waiting: tuple[Mapping[str, Any], ...] = ()

    # --- views ------------------------------------------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        """Return every subject, the requests that wait for somebody's word, and the ledger's state."""
        seen = self._elsewhere() or self.seen()
        return {
            **seen,
            "ledger": dict(self._ledger()),
            "requests": list(self._waiting),
            "replica": dict(self._replica()),
        }

    def seen(self) -> Mapping[str, Any]:
        """Return what this process has seen of the world itself; nothing in it names a person."""
        return {
            "subjects": status.subjects(self._engine),
            "workloads": status.workloads(self._engine),
            "alerts": status.alerts(self._engine),
            "watched": status.watched(self._engine),
            "platform": platform_row(self._engine),
        }

    def plan(self, horizon: timedelta) -> Sequence[Mapping[str, Any]]:
        """Return what will happen within *horizon*, soonest first."""
        return status.plan(self._engine, horizon)

    def progress(self, rotation_id: str) -> Mapping[str, Any]:
        """Return where one rotation stands."""
        rotation = self._requests.rotation(rotation_id)
        if rotation is None:
            raise Rejected(f"no rotation {rotation_id} is known")
        return status.progress(self._engine, rotation)

    def request(self, request_id: str) -> Mapping[str, Any]:
        """Return where one request stands."""
        return self._view(self._known(request_id))

    def fence(self) -> None:
        """Raise `InvariantBroken` if this process may not change the world any more (law 14)."""
        self._engine.recorder.fence()

    def knows(self, request_id: str) -> bool:
        """Return whether the journal knows the request *request_id*."""
        return self._requests.request(request_id) is not None

    # --- orders -----------------------------------------------------------------------------------------------------

    def rotate(self, request: RotateRequest, person: Person) -> Mapping[str, Any]:
        """Open rotations, or only plan them."""
        return self.ask(request, person)

    def pause(self, request: PauseRequest, person: Person) -> Mapping[str, Any]:
        """Hold a subject until a moment."""
        return self.ask(request, person)

    def resume(self, subject: SubjectName, person: Person) -> Mapping[str, Any]:
        """Take the hold on *subject* away."""
        return self.ask(ResumeRequest(subject=subject), person)

    def rollback(self, request: RollbackRequest, person: Person) -> Mapping[str, Any]:
        """Walk the CA rotation that is under way back."""
        return self.ask(request, person)

    def adopt(self, request: AdoptRequest, person: Person) -> Mapping[str, Any]:
        """Open the rotation by which a mesh comes to run on a CA of rotator's, or only plan it."""
        return self.ask(request, person)

    def apply(self, request: ApplyRequest, person: Person) -> Mapping[str, Any]:
        """Open the change that writes the platform's documents, or only plan it."""
        return self.ask(request, person)

    def undo(self, request: UndoRequest, person: Person) -> Mapping[str, Any]:
        """Open the change that takes another one back, or only plan it."""
        return self.ask(request, person)

    def ask(
        self, order: Order, person: Person, *, request_id: str | None = None, kubernetes: str | None = None
    ) -> dict[str, Any]:
        """
        Carry *order* out, have it wait for somebody's word, refuse it, or only plan it; each once for *request_id*.

        *kubernetes* is the uid of the object in which it was asked.

        Raises:
            ConfigError: If it names what is not there; recorded.
            Rejected: If it makes no sense for its subject; recorded.
            Denied: If nobody can be known and policy does not let that pass; recorded.
        """
        asked = asked_by(order, person, request_id=request_id, kubernetes=kubernetes)
        try:
            targets = self._carrier.targets(order)
            plan = self._carrier.plan(order, targets)
        except ConfigError:
            if not order.dry_run:
                # The name that was typed is a person's word: it does not go into the ledger.
                self._refuse(NOBODY, order, asked, "nothing in the configuration has that name")
            raise
        except Rejected as error:
            if not order.dry_run:
                (subject,) = subjects_of(order)
                self._refuse(subject, order, asked, str(error))
            raise
        if order.dry_run:
            return _answer(plan)
        order = pinned(order, plan.get("digest"))
        with self._turn:
            if not person.known and not self._approval().allow_unattributed:
                for target in targets:
                    self._refuse(name_of(target), order, asked, _UNKNOWN)
                raise Denied(f"{_UNKNOWN}: ask in your own name, by an object in the cluster")
            refusals = {name_of(each): self._carrier.why_not(order, each) for each in targets}
            requirement = self._approval().requirement(
                order.operation, [(name_of(each), kind_of(each)) for each in targets], emergency=is_urgent(order)
            )
            if requirement.approvals and not all(refusals.values()):
                return _answer(plan) | self._waits(order, targets, asked, requirement)
            return _answer(plan) | self._carried(order, targets, replace(asked, skipped=requirement.skipped))

    # --- other people's words ---------------------------------------------------------------------------------------

    def approve(self, request: ApproveRequest, person: Person, *, kubernetes: str | None = None) -> Mapping[str, Any]:
        """
        Count *person*'s yes, and carry the request out if that was the last one needed.

        *kubernetes* is the uid of the object in which it was said. Saying it twice counts once.

        Raises:
            Denied: If it is their own request, or nobody can be known; recorded.
            Rejected: If no such request waits; recorded.
        """
        with self._turn:
            row = self._answered(request.id, person, approves=True, kubernetes=kubernetes)
            if row is None:
                return {**_answer({}), "request": self.request(request.id)}
            enough = len(row.approved_by) + 1 >= row.needed
            state = RequestState.BEGUN if enough else RequestState.AWAITING
            row = self._book.word(
                self._subject(row),
                row,
                person.described,
                request.reason,
                approves=True,
                kubernetes=kubernetes,
                then=lambda given: replace(given, state=state),
            )
            answer = self._go_on(row) if enough else {"waiting_on": [_waits_for(row)]}
            self._look_at_waiting()
            return {**_answer({}), **answer, "request": self.request(row.id)}

    def reject(self, request: RejectRequest, person: Person, *, kubernetes: str | None = None) -> Mapping[str, Any]:
        """
        End a request that waits for somebody's word with *person*'s no; whoever asked may take it back like this.

        Raises:
            Denied: If nobody can be known; recorded.
            Rejected: If no such request waits; recorded.
        """
        with self._turn:
            row = self._answered(request.id, person, approves=False, kubernetes=kubernetes)
            if row is not None:
                self._book.word(
                    self._subject(row),
                    row,
                    person.described,
                    request.reason,
                    approves=False,
                    kubernetes=kubernetes,
                    then=lambda given: replace(given, state=RequestState.REJECTED, outcome="somebody has said no"),
                )
                self._look_at_waiting()
            return {**_answer({}), "request": self.request(request.id)}

    def look(self) -> None:
        """Go on with what a crash cut short, and refuse what nobody has approved in time. Never raises."""
        try:
            with self._turn:
                for row in self._requests.requests(RequestState.BEGUN):
                    self._go_on(row)
                now = self._engine.clock.now()
                for row in self._requests.requests(RequestState.AWAITING):
                    if row.expires_at is not None and row.expires_at <= now:
                        why = f"nobody has approved it in time: {_waits_for(row)}"
                        draft = standing(row, Stand(state=RequestState.EXPIRED, outcome=why))
                        self._book.refused(
                            self._subject(row), again(row), why, operation=row.operation, result="expired", draft=draft
                        )
                self._look_at_waiting()
        except RotatorError as error:
            log.warning(LogEvent.REQUEST_DELAYED, error=str(error))

    # --- refusals ---------------------------------------------------------------------------------------------------

    def denied(self, operation: str, person: Person, right: Right) -> None:
        """Record that *person* asked without *right*: once a minute, however often they try. Never raises."""
        key, now = (person.described, operation), self._engine.clock.now()
        with self._lock:
            last = self._denied.get(key)
            if last is not None and timedelta(0) <= now - last < DENIED_ONCE_IN:
                return
            self._denied[key] = now
        with contextlib.suppress(RotatorError):
            # Whoever may not ask must not be able to stop the daemon with a full disk, either.
            self._book.refused(NOBODY, _nameless(person), f"the right {right.value} is missing", operation=operation)

    def unreadable(self, person: Person, request_id: str, why: str) -> None:
        """Record that the object with the uid *request_id* asks for what cannot be understood."""
        asked = Asked(id=request_id, who=person.described, kubernetes=request_id)
        self._book.refused(NOBODY, asked, why)

    def too_late(self, order: Order, person: Person, request_id: str, why: str) -> None:
        """Record that a request was found too late to be carried out."""
        asked = asked_by(order, person, request_id=request_id, kubernetes=request_id)
        draft = self._draft(order, asked, Stand(state=RequestState.EXPIRED, outcome=why))
        self._book.refused(NOBODY, asked, why, operation=order.operation, result="expired", draft=draft)

    def word_refused(self, person: Person, why: str, *, kubernetes: str) -> None:
        """Record that an approval, the object with the uid *kubernetes*, does not count."""
        self._book.refused(NOBODY, _nameless(person, kubernetes), why, operation="approve")

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _waits(self, order: Order, targets: Sequence[Target], asked: Asked, needs: Requirement) -> dict[str, Any]:
        """Have *order* wait for people's words."""
        subject = name_of(targets[0]) if len(targets) == 1 else NOBODY
        stand = Stand(
            state=RequestState.AWAITING,
            needed=needs.approvals,
            expires_at=self._engine.clock.now() + needs.expires_after,
            outcome=f"waits for approval as {', '.join(needs.rules)} says",
        )
        draft = self._draft(order, asked, stand)
        row = self._book.waits(subject, asked, order.operation, needs.approvals, draft)
        self._look_at_waiting()
        return {"waiting_on": [_waits_for(row)], "request": self._view(row)}

    def _carried(self, order: Order, targets: Sequence[Target], asked: Asked) -> dict[str, Any]:
        """Carry *order* out at every one of *targets*; what stands in its way there is recorded."""
        if asked.row is None and len(targets) > 1:
            asked = replace(
                asked, row=self._book.begun(asked, self._draft(order, asked, Stand(state=RequestState.BEGUN)))
            )
        opened: list[Rotation] = []
        refused: list[dict[str, Any]] = []
        said: dict[str, Any] = {}
        for target in targets:
            name = name_of(target)
            before = self._carrier.opened_before(asked, target)
            if before is not None:
                opened.append(before)
                continue
            why = self._why_not(order, target)
            if why is None:
                # The row goes with the last effect: a request is ended when everything is there.
                ids = [*(each.id for each in opened), *self._opens(order, asked, target)]
                draft = self._ended(order, asked, ids, refused) if target is targets[-1] else None
                done = self._carrier.carry_out(order, target, asked, draft)
                why, said = done.refused, {**said, **(done.said or {})}
                opened += [done.rotation] if done.rotation is not None else []
            if why is not None:
                refused.append({"subject": name, "why": why})
                draft = (
                    self._ended(order, asked, [each.id for each in opened], refused) if target is targets[-1] else None
                )
                self._book.refused(name, asked, why, operation=order.operation, draft=draft)
        self._engine.sweep()
        return {"rotations": [_opened(each) for each in opened], "refused": refused, **said}

    def _why_not(self, order: Order, target: Target) -> str | None:
        try:
            return self._carrier.why_not(order, target)
        except Rejected as error:
            return str(error)

    def _opens(self, order: Order, asked: Asked, target: Target) -> list[str]:
        """Return the id of the rotation that carrying *order* out opens, or turns."""
        under_way = self._engine.memory.open_rotation(name_of(target))
        match order:
            case RotateRequest():
                return [asked.rotation_id(name_of(target))]
            case AdoptRequest():
                return [under_way.id if under_way is not None else asked.rotation_id(name_of(target))]
            case RollbackRequest():
                return [under_way.id] if under_way is not None else []
            case ApplyRequest() | UndoRequest() if order.plan != _NOTHING:
                return [asked.rotation_id(name_of(target))]
            case _:
                return []

    def _ended(self, order: Order, asked: Asked, ids: Sequence[str], refused: Sequence[Mapping[str, Any]]) -> Draft:
        """Return how the request's row is made once everything was done or refused."""
        outcome = "; ".join(f"{each['subject']}: {each['why']}" for each in refused[:_FEW_NAMED])
        if len(refused) > _FEW_NAMED:
            outcome += f"; and {len(refused) - _FEW_NAMED} more"
        # A pause opens nothing and is carried out all the same.
        state = RequestState.REFUSED if refused and not ids else RequestState.ACCEPTED
        return self._draft(order, asked, Stand(state=state, rotations=tuple(ids), outcome=outcome))

    def _draft(self, order: Order, asked: Asked, stand: Stand) -> Draft:
        """Return how the request's row is made: the one that is there as it stands now, or a new one."""
        if asked.row is not None:
            return standing(asked.row, stand)
        return lambda signed: Request(
            id=asked.id,
            operation=order.operation,
            order=order_text(order),
            requested_by=signed.by,
            reason=signed.reason,
            words=signed.words,
            state=stand.state,
            asked_at=self._engine.clock.now(),
            expires_at=stand.expires_at,
            needed=stand.needed,
            rotations=stand.rotations,
            outcome=stand.outcome,
            kubernetes=asked.kubernetes,
        )

    def _refuse(self, subject: SubjectName, order: Order, asked: Asked, why: str) -> None:
        """Record a request that is refused as a whole."""
        draft = self._draft(order, asked, Stand(state=RequestState.REFUSED, outcome=why))
        self._book.refused(subject, asked, why, operation=order.operation, draft=draft)

    def _go_on(self, row: Request) -> dict[str, Any]:
        """Carry out what is written down as *row*."""
        try:
            order = order_of(row)
            return self._carried(order, self._carrier.targets(order), again(row))
        except (ConfigError, Rejected) as error:
            # What it is for has gone from the configuration meanwhile, or has become something else.
            why = (
                "nothing in the configuration has that name any more" if isinstance(error, ConfigError) else str(error)
            )
            draft = standing(row, Stand(state=RequestState.REFUSED, outcome=why))
            self._book.refused(self._subject(row), again(row), why, operation=row.operation, draft=draft)
            return {"refused": [{"subject": self._subject(row), "why": why}]}

    def _answered(self, request_id: str, person: Person, *, approves: bool, kubernetes: str | None) -> Request | None:
        """Return the request that *person*'s word is about; None if it was counted before. Refusals are recorded."""
        row: Request | None = None
        try:
            row = self._known(request_id)
            return self._countable(row, person, approves=approves)
        except (Denied, Rejected) as error:
            subject = self._subject(row) if row is not None else NOBODY
            said = str(error) if row is not None else "no such request is known"
            operation = "approve" if approves else "reject"
            self._book.refused(subject, _nameless(person, kubernetes), said, operation=operation)
            raise

    def _countable(self, row: Request, person: Person, *, approves: bool) -> Request | None:
        if not person.known:
            raise Denied("nobody can be known here: a word that is said here never counts")
        if approves and any(self._is(person, each) for each in row.approved_by):
            return None
        if not approves and row.state is RequestState.REJECTED:
            return None
        if row.state is not RequestState.AWAITING:
            raise Rejected(f"request {row.id} does not wait for anybody's word: it is {_words(row.state)}")
        if row.expires_at is not None and row.expires_at <= self._engine.clock.now():
            raise Rejected(f"request {row.id} has waited too long: ask again")
        if (row.kubernetes is None) != (person.uid is not None):
            # Names of two places cannot be compared: it might be the same person.
            raise Rejected(f"request {row.id} was made in another place: answer it there")
        if self._requests.reveal(row.requested_by) is None:
            raise Rejected(f"who made request {row.id} was erased: make it again")
        if approves and self._is(person, row.requested_by):
            raise Denied("nobody approves their own request: ask somebody else")
        return row

    def _is(self, person: Person, commitment: Commitment) -> bool:
        found = self._requests.reveal(commitment)
        return found is not None and person.is_described_by(found)

    def _known(self, request_id: str) -> Request:
        """Return the request of that id, or the one that waits whose id begins like that."""
        found = self._requests.request(request_id)
        if found is not None:
            return found
        like = [
            each
            for each in self._requests.requests(RequestState.AWAITING)
            if len(request_id) >= _SHORTEST_ID and each.id.startswith(request_id)
        ]
        if len(like) != 1:
            raise Rejected(f"no request {request_id} is known: rotator status lists those that wait")
        return like[0]

    def _subject(self, row: Request) -> SubjectName:
        """Return the one subject of *row*, or the name for none or several."""
        names = subjects_of(order_of(row))
        return names[0] if len(names) == 1 else NOBODY

    def _look_at_waiting(self) -> None:
        """Remember what waits, so that asking for the status reads no database."""
        self._waiting = tuple(self._view(each) for each in self._requests.requests(RequestState.AWAITING))

    def _view(self, row: Request) -> dict[str, Any]:
        """Return *row* for people."""
        order = order_of(row)
        return {
            "id": row.id,
            "operation": row.operation.value,
            "subjects": [str(each) for each in subjects_of(order)] or ["everything"],
            "emergency": is_urgent(order),
            "state": row.state.value,
            "requested_by": self._requests.reveal(row.requested_by),
            "reason": self._requests.reveal(row.reason) if row.reason is not None else None,
            "asked_at": status.moment(row.asked_at),
            "expires_at": status.moment(row.expires_at),
            "approvals_needed": row.needed,
            "approvals_given": len(row.approved_by),
            "rotations": list(row.rotations),
            "outcome": row.outcome,
            "plan": order.plan if isinstance(order, ApplyRequest | UndoRequest) else None,
        }


def _answer(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every order is answered with."""
    return {"plan": [], "rotations": [], "refused": [], "waiting_on": [], **plan}


def _opened(rotation: Rotation) -> dict[str, Any]:
    """Return how a rotation stands in an answer."""
    return {"id": rotation.id, "subject": rotation.subject, "kind": rotation.kind.value}


def _waits_for(row: Request) -> str:
    """Return whose words *row* lacks, as a sentence's end."""
    missing = row.needed - len(row.approved_by)
    return f"{missing} more approval{'s' if missing != 1 else ''}"


def _words(state: RequestState) -> str:
    return state.value.replace("_", " ")


def _nameless(person: Person, kubernetes: str | None = None) -> Asked:
    """Return *person*'s word or try for a record of its own; *kubernetes* is its object's uid, if it has one."""
    asked = Asked(id=uuid.uuid4().hex, who=person.described)
    return asked if kubernetes is None else replace(asked, id=kubernetes, kubernetes=kubernetes)
