"""
The objects in which people ask in a cluster, brought to the desk, and their status kept true.

Rules that must stay true here:

- An object's uid is its request's id: looked at again after a crash, it is the same request (law 13).
- A name in an object is believed only where the API server binds it to whoever makes the object; else nobody is known.
- An object whose status says that it was taken up, and which the journal does not know, is never carried out again.
- A status follows journal and engine; what people see there was true when it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from rotator.cluster.people import FINAL, MACHINES, ApprovalPhase, Decision, RequestPhase
from rotator.control import ApproveRequest, Order, Person, RejectRequest
from rotator.control.spelling import order_in
from rotator.core.approval import Operation
from rotator.desk import Desk
from rotator.durations import moment_text
from rotator.errors import ConfigError, Conflict, Denied, InvariantBroken, Rejected, RotatorError
from rotator.ports import Clock, PostedObject, RequestBoard, RequestState, RotationState
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

_FEW: Final = 5
"""So many names fit into a message."""

_TIDY_EVERY: Final = timedelta(hours=1)
MOST_SHOWN: Final = 200
"""Of a request for a whole fleet a status lists no more: an object has room for about a megabyte."""

MOST_DIFFED: Final = 400_000
"""Characters of diffs in one status: an object has room for about a megabyte."""

_REFUSES: Final = (ConfigError, Rejected, Denied)
"""What is an answer; everything else is trouble of the moment, and is tried again at the next look."""


@dataclass(slots=True)
class _Seen:
    """What is known of one object beside its row in the journal."""

    answer: Mapping[str, Any] = field(default_factory=dict)
    """What the desk said when it took the request up."""
    ended: tuple[RequestPhase, str] | None = None
    """How a request ended that has no row."""
    trouble: str = ""
    """Why it could not be taken up yet."""
    over: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Rotations that have ended, which need not be read again."""


class Board:
    """Looks at the objects, one pass at a time. Not safe from several threads."""

    def __init__(
        self, desk: Desk, objects: RequestBoard, clock: Clock, *, taken_within: timedelta, kept: timedelta
    ) -> None:
        """*taken_within*: how old an object may be when it is first seen; *kept*: how long one that ended stays."""
        self._desk = desk
        self._objects = objects
        self._clock = clock
        self.taken_within = taken_within
        self.kept = kept
        self._seen: dict[str, _Seen] = {}
        self._tidied: datetime | None = None

    def look(self) -> None:
        """Take up what is new, count approvals, and write what has changed into every status. Never raises."""
        try:
            self._desk.fence()
            guarded = self._objects.guarded_since()
            posted = self._objects.requests()
            for each in posted:
                self._take(each, guarded)
            for each in self._objects.approvals():
                self._count(each, posted, guarded)
            for each in posted:
                self._tell(each)
            self._seen = {each.uid: self._seen[each.uid] for each in posted if each.uid in self._seen}
            self._tidy()
        except RotatorError as error:
            log.warning(LogEvent.REQUEST_DELAYED, error=str(error))

    # --- requests ---------------------------------------------------------------------------------------------------

    def _take(self, posted: PostedObject, guarded: datetime | None) -> None:
        """Bring *posted* to the desk, if that was not done."""
        seen = self._seen.setdefault(posted.uid, _Seen())
        if seen.ended is not None or self._desk.knows(posted.uid):
            return
        if posted.status.get("phase") not in {None, RequestPhase.PENDING}:
            # A journal that was restored or made anew: what was done then must not be done twice.
            seen.ended = RequestPhase.FAILED, "the journal does not know this request: look at what it did, ask again"
            return
        person = _person(posted, "requestedBy", guarded)
        try:
            order = order_in(posted.spec)
        except ConfigError as error:
            self._desk.unreadable(person, posted.uid, "the object asks for what cannot be understood")
            seen.ended = RequestPhase.REFUSED, str(error)
            return
        try:
            self._bring(posted, order, person, seen)
        except _REFUSES as error:
            # Recorded by the desk, and known to it from now on but for a dry run.
            seen.ended = RequestPhase.REFUSED, str(error)
        except InvariantBroken as error:
            self._desk.fence()
            # Such as a ticket that looks like a secret: no record of it could be written.
            self._desk.unreadable(person, posted.uid, str(error))
            seen.ended = RequestPhase.REFUSED, str(error)
        except RotatorError as error:
            seen.trouble = str(error)
            log.warning(LogEvent.REQUEST_DELAYED, request=posted.uid, error=str(error))

    def _bring(self, posted: PostedObject, order: Order, person: Person, seen: _Seen) -> None:
        age = self._clock.now() - posted.made_at
        if age > self.taken_within and not order.dry_run:
            why = f"it was made {moment_text(posted.made_at)}, too long before rotator saw it: make it again"
            self._desk.too_late(order, person, posted.uid, why)
            return
        seen.answer = self._desk.ask(order, person, request_id=posted.uid, kubernetes=posted.uid)
        seen.trouble = ""
        if order.dry_run:
            seen.ended = RequestPhase.DONE, "nothing was changed: this is the plan"

    # --- approvals --------------------------------------------------------------------------------------------------

    def _count(self, approval: PostedObject, posted: Sequence[PostedObject], guarded: datetime | None) -> None:
        """Bring one approval to the desk, and say in its status what became of it."""
        person = _person(approval, "approvedBy", guarded)
        about = approval.spec.get("request", {})
        request = next((each for each in posted if each.uid == about.get("uid")), None)
        phase, message = ApprovalPhase.COUNTED, ""
        try:
            why = self._no_word(about, request, person)
            if why is not None:
                self._desk.word_refused(person, why, kubernetes=approval.uid)
                raise Rejected(why)
            reason = approval.spec.get("reason")
            uid = str(about["uid"])
            if approval.spec.get("decision") == Decision.APPROVE:
                self._desk.approve(ApproveRequest(id=uid, reason=reason), person, kubernetes=approval.uid)
            else:
                self._desk.reject(RejectRequest(id=uid, reason=str(reason)), person, kubernetes=approval.uid)
        except _REFUSES as error:
            phase, message = ApprovalPhase.REFUSED, str(error)
        except InvariantBroken:
            raise
        except RotatorError as error:
            log.warning(LogEvent.REQUEST_DELAYED, request=approval.uid, error=str(error))
            return
        self._show(
            approval,
            {"phase": phase.value, "message": message, "finishedAt": moment_text(self._clock.now())},
            approval=True,
        )

    def _no_word(self, about: Mapping[str, Any], request: PostedObject | None, person: Person) -> str | None:
        """Return why a word is about nothing that waits, or about something else than it says."""
        if request is None:
            return "there is no request of that uid which has not ended"
        if about.get("name") != request.name:
            return "the request of that uid has another name"
        if about.get("requestedBy") != request.spec.get("requestedBy"):
            return "somebody else has made the request of that uid"
        if person.name.startswith(MACHINES):
            return "a ServiceAccount is nobody who could approve"
        return None

    # --- status -----------------------------------------------------------------------------------------------------

    def _tell(self, posted: PostedObject) -> None:
        """Write the status of *posted* if it has changed."""
        status = self._status(posted)
        if any(posted.status.get(key) != value for key, value in status.items()):
            if status["phase"] in FINAL:
                status["finishedAt"] = moment_text(self._clock.now())
            self._show(posted, status)

    def _status(self, posted: PostedObject) -> dict[str, Any]:
        seen = self._seen[posted.uid]
        told = {
            "plan": _plan(seen.answer.get("plan", ())[:MOST_SHOWN]),
            "digest": seen.answer.get("digest"),
            "differs": list(seen.answer.get("differs", ()))[:MOST_SHOWN],
            "refused": [dict(each) for each in seen.answer.get("refused", ())[:MOST_SHOWN]],
            "found": seen.answer.get("found"),
            "interrupts": seen.answer.get("interrupts"),
        }
        kept = {key: value for key, value in told.items() if value}
        if self._desk.knows(posted.uid):
            return {**kept, **self._standing(posted.uid)}
        if seen.ended is not None:
            phase, message = seen.ended
            return {**kept, "phase": phase.value, "message": message}
        return {"phase": RequestPhase.PENDING.value, "message": seen.trouble}

    def _standing(self, uid: str) -> dict[str, Any]:
        """Return the status of a request that the journal knows."""
        row = self._desk.request(uid)
        match row["state"]:
            case RequestState.AWAITING:
                missing = row["approvals_needed"] - row["approvals_given"]
                return {
                    "phase": RequestPhase.AWAITING_APPROVAL.value,
                    "message": f"waits for {missing} more approval{'s' if missing != 1 else ''}",
                    "approvalsNeeded": row["approvals_needed"],
                    "approvalsGiven": row["approvals_given"],
                    "expiresAt": row["expires_at"],
                }
            case RequestState.ACCEPTED:
                return {**self._rotations(row, self._seen[uid].over), "approvalsGiven": row["approvals_given"]}
            case RequestState.REJECTED:
                return {"phase": RequestPhase.REJECTED.value, "message": row["outcome"]}
            case RequestState.EXPIRED:
                return {"phase": RequestPhase.EXPIRED.value, "message": row["outcome"]}
            case RequestState.BEGUN:
                return {"phase": RequestPhase.RUNNING.value, "message": "is being carried out"}
            case _:
                return {"phase": RequestPhase.REFUSED.value, "message": row["outcome"]}

    def _rotations(self, row: Mapping[str, Any], over: dict[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return how far the rotations of a request are; those that are *over* are not looked up again."""
        found = [over.get(each) or self._desk.progress(each) for each in row["rotations"]]
        over.update({each["id"]: each for each in found if each["state"] != RotationState.OPEN})
        states = {each["state"] for each in found}
        waiting = sorted({name for each in found for name in each["waiting_on"]})
        message = row["outcome"]
        if RotationState.OPEN in states:
            phase = RequestPhase.RUNNING
            others = f" and {len(waiting) - _FEW} more" if len(waiting) > _FEW else ""
            message = f"waits for {', '.join(waiting[:_FEW])}{others}" if waiting else "under way"
        elif states & {RotationState.FAILED, RotationState.REFUSED}:
            phase = RequestPhase.FAILED
            failed = [each for each in found if each["state"] in {RotationState.FAILED, RotationState.REFUSED}]
            message = "; ".join(f"{each['subject']}: {each['outcome']}" for each in failed[:_FEW])
        elif RotationState.ROLLED_BACK in states and row["operation"] != Operation.ROLLBACK:
            phase = RequestPhase.ROLLED_BACK
        else:
            phase = RequestPhase.DONE
        return {
            "phase": phase.value,
            "message": message,
            "rotations": [
                {
                    "id": each["id"],
                    "subject": each["subject"],
                    "state": each["state"],
                    "phase": each["phase"] or "",
                    "waitingOn": list(each["waiting_on"]),
                    "proven": each["proven"],
                    "total": each["total"],
                    "alert": each["alert"],
                    "outcome": each["outcome"],
                }
                for each in found[:MOST_SHOWN]
            ],
        }

    def _show(self, posted: PostedObject, status: Mapping[str, Any], *, approval: bool = False) -> None:
        # Who has lost the lease says nothing any more: what was true then may not be (law 14).
        self._desk.fence()
        try:
            self._objects.show(posted, status, approval=approval)
        except Conflict as error:
            # Changed or gone since it was read: the next look reads it again.
            log.debug(LogEvent.REQUEST_DELAYED, request=posted.uid, error=str(error))

    def _tidy(self) -> None:
        """Remove what ended long ago, once an hour."""
        now = self._clock.now()
        if self._tidied is not None and timedelta(0) <= now - self._tidied < _TIDY_EVERY:
            return
        self._tidied = now
        removed = self._objects.tidy(now - self.kept)
        if removed:
            log.info(LogEvent.REQUESTS_TIDIED, count=removed)


def _plan(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return *steps* as a status has room for them: diffs are left out where an object could not hold them."""
    room, shown = MOST_DIFFED, []
    for step in steps:
        one = {key: str(step[key]) for key in ("subject", "what", "trust_domain", "mesh") if key in step}
        if "diff" in step:
            room -= len(step["diff"])
            one["diff"] = step["diff"] if room >= 0 else "left out: ask on the machine, or render it"
        shown.append(one)
    return shown


def _person(posted: PostedObject, key: str, guarded: datetime | None) -> Person:
    """Return who made *posted*, as the API server has bound it; nobody if it did not bind names then."""
    known = guarded is not None and guarded <= posted.made_at
    return Person(uid=None, name=str(posted.spec.get(key, "")), groups=frozenset(), known=known)
