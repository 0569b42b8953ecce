"""
The desk at which people ask: every request becomes an intent in the journal, or a refusal in the ledger.

Rules that must stay true here:

- Nothing has a second path: a request opens a rotation like the schedule does, and the engine does the rest.
- Every request is recorded, also a refused one; names and free text stand as salted commitments (law 24).
- One rotation per subject at a time (law 5); what is under way already is named, not doubled.
- An emergency skips windows and freezes only, and opens an exception; compromise is another intent (law 8).
- A mesh that runs on somebody else's CA is led only after a person has said so; whatever that interrupts is accepted
  in words of their own and opens an exception.
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

from rotator.control import AdoptRequest, PauseRequest, Person, Right, RollbackRequest, RotateRequest
from rotator.core.event import EventType, Trigger
from rotator.core.model import IntentKind, SubjectKind, SubjectName, TrustDomainName
from rotator.desk.book import Book, name_of, who
from rotator.engine import status
from rotator.engine.domains import DomainState
from rotator.engine.engine import Engine
from rotator.engine.targets import CertificateTarget, DomainTarget
from rotator.errors import ConfigError, Rejected, RotatorError, Unavailable
from rotator.ports import Adoption, Hold, Rotation, RotationState
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

DENIED_ONCE_IN = timedelta(minutes=1)
"""Who tries again and again without a right makes no more records than this: the ledger never forgets."""


class Desk:
    """Answers the control socket. Safe from several threads."""

    def __init__(self, engine: Engine, *, ledger: Callable[[], Mapping[str, Any]]) -> None:
        """*ledger* gives the contract's ``ledger`` object."""
        self._engine = engine
        self._ledger = ledger
        self._book = Book(engine)
        self._lock = threading.Lock()
        self._denied: dict[tuple[int, str], datetime] = {}

    # --- views ------------------------------------------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        """Return every subject and the ledger's state."""
        return {
            "subjects": status.subjects(self._engine),
            "workloads": status.workloads(self._engine),
            "ledger": dict(self._ledger()),
            "alerts": status.alerts(self._engine),
            "watched": status.watched(self._engine),
        }

    def plan(self, horizon: timedelta) -> Sequence[Mapping[str, Any]]:
        """Return what will happen within *horizon*, soonest first."""
        return status.plan(self._engine, horizon)

    def progress(self, rotation_id: str) -> Mapping[str, Any]:
        """Return where one rotation stands."""
        rotation = next((each for each in self._engine.recorder.journal.rotations() if each.id == rotation_id), None)
        if rotation is None:
            raise Rejected(f"no rotation {rotation_id} is known")
        return status.progress(self._engine, rotation)

    # --- orders -----------------------------------------------------------------------------------------------------

    def rotate(self, request: RotateRequest, person: Person) -> Mapping[str, Any]:
        """Open rotations, or only plan them."""
        names = self._everything() if request.everything else request.subjects
        targets = [self._target(name) for name in names]
        for each in targets:
            if isinstance(each, DomainTarget):
                self._seen(each)
        plan = [
            {"subject": name_of(target), "at": None, "what": sentence, "why": "asked for"}
            for target in targets
            for sentence in status.rotation_plan(self._engine, target, compromised=request.compromised)
        ]
        if request.dry_run:
            return _answer(plan=plan)
        opened: list[dict[str, Any]] = []
        refused: list[dict[str, Any]] = []
        for target in targets:
            why = self._refusal(target, request)
            if why is not None:
                refused.append({"subject": name_of(target), "why": why})
                self._book.refused(name_of(target), request.reason, person, why)
                continue
            rotation = self._open(target, request, person)
            opened.append(_opened(rotation))
        self._engine.sweep()
        return _answer(plan=plan, rotations=opened, refused=refused)

    def pause(self, request: PauseRequest, person: Person) -> Mapping[str, Any]:
        """Hold a subject until a moment."""
        target = self._target(request.subject)
        if request.until <= self._engine.clock.now():
            raise Rejected(f"{request.until:%Y-%m-%dT%H:%M:%SZ} is past: a pause ends in the future")
        hold = Hold(subject=name_of(target), until=request.until, past_safety_line=request.past_safety_line)
        self._book.note(
            EventType.PAUSED, target, person, request.reason, [hold], {"past_safety_line": request.past_safety_line}
        )
        return {"subject": name_of(target), "paused_until": status.moment(request.until)}

    def resume(self, subject: SubjectName, person: Person) -> Mapping[str, Any]:
        """Take the hold on *subject* away."""
        target = self._target(subject)
        was_paused = self._engine.memory.hold(name_of(target)) is not None
        recorder = self._engine.recorder
        recorder.fence()
        with self._book.writing(target), recorder.journal.transaction() as transaction:
            transaction.release(name_of(target))
            event = self._book.scribe(target, None).event(EventType.RESUMED)
            transaction.append(replace(event, requested_by=transaction.commit_to(who(person))))
        self._engine.memory.release(name_of(target))
        self._engine.pool.kick(target.id)
        return {"subject": name_of(target), "was_paused": was_paused}

    def rollback(self, request: RollbackRequest, person: Person) -> Mapping[str, Any]:
        """Walk the CA rotation that is under way back."""
        target = self._target(request.subject)
        if not isinstance(target, DomainTarget):
            raise Rejected(f"{request.subject} is a certificate: only a trust domain's CA rotation is rolled back")
        rotation = self._engine.memory.open_rotation(target.subject)
        why = None
        if rotation is None:
            why = "no CA rotation is under way; past retirement there is no rollback, only a new rotation (law 7)"
        elif rotation.intent is IntentKind.COMPROMISE:
            why = "a compromised CA is never signed with again (law 8)"
        elif rotation.from_generation is None:
            why = "this is the first generation: there is nothing to go back to"
        else:
            # Back to a CA that was found there is a way, too.
            why = self._mesh_refuses(target, led=False)
        if rotation is None or why is not None:
            self._book.refused(target.subject, request.reason, person, why or "")
            return _answer(refused=[{"subject": target.subject, "why": why}])
        with self._engine.recorder.amending(rotation) as current:
            if self._engine.memory.open_rotation(target.subject) is not current:
                # It ended since it was looked at: writing it back would open what is finished.
                why = "the rotation has just ended: only a new rotation leads on (law 7)"
                self._book.refused(target.subject, request.reason, person, why)
                return _answer(refused=[{"subject": target.subject, "why": why}])
            back = replace(current, intent=IntentKind.ROLL_BACK)
            self._book.note(
                EventType.INTENT, target, person, request.reason, [back], {"intent": "roll_back"}, rotation=back
            )
        self._engine.sweep()
        return _answer(rotations=[_opened(back)])

    def adopt(self, request: AdoptRequest, person: Person) -> Mapping[str, Any]:
        """Open the rotation by which a mesh comes to run on a CA of rotator's, or only plan it."""
        target = self._target(request.subject)
        if not isinstance(target, DomainTarget) or target.mesh is None:
            raise Rejected(f"{request.subject} is no mesh: there is nothing to adopt")
        state = self._seen(target)
        if state is None or state.mesh is None:
            raise Unavailable(f"the mesh of {target.name} was not looked at yet: ask again in a moment")
        adoption = state.mesh.adoption
        steps = adoption.plan if adoption is not None else ()
        answer = {
            **_answer(
                plan=[{"subject": target.subject, "at": None, "what": each, "why": "asked for"} for each in steps]
            ),
            "found": adoption.found if adoption is not None else None,
            "interrupts": adoption.interrupts if adoption is not None else None,
            "refusals": list(state.mesh.refusals),
        }
        if request.dry_run:
            return answer
        words = request.accept_interruption
        under_way = self._engine.memory.open_rotation(target.subject)
        # What it interrupts may show only on the way: then the same adoption goes on with the person's words.
        goes_on = under_way is not None and not under_way.from_generation and not under_way.may_interrupt
        why = None
        if adoption is None:
            why = f"{target.name} runs on a CA of rotator's already: there is nothing to adopt"
        elif under_way is not None and not (goes_on and adoption.interrupts is not None and words is not None):
            why = f"rotation {under_way.id} is under way already (law 5): wait for it"
        elif adoption.interrupts is not None and words is None:
            why = f"this interrupts: {adoption.interrupts}; accept it in words of your own if it may"
        else:
            why = self._mesh_refuses(target, led=False)
        if adoption is None or why is not None:
            self._book.refused(target.subject, request.reason, person, why or "")
            return {**answer, "refused": [{"subject": target.subject, "why": why}]}
        rotation = self._open_adoption(target, state, adoption, request, person)
        self._engine.sweep()
        return {**answer, "rotations": [_opened(rotation)]}

    def denied(self, operation: str, person: Person, right: Right) -> None:
        """Record that *person* asked without *right*: once a minute, however often they try. Never raises."""
        key, now = (person.uid, operation), self._engine.clock.now()
        with self._lock:
            last = self._denied.get(key)
            if last is not None and timedelta(0) <= now - last < DENIED_ONCE_IN:
                return
            self._denied[key] = now
        with contextlib.suppress(RotatorError):
            # Whoever may not ask must not be able to stop the daemon with a full disk, either.
            self._book.refused(SubjectName("rotator"), None, person, f"the right {right.value} is missing", operation)

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _everything(self) -> tuple[SubjectName, ...]:
        """Return every certificate and trust domain."""
        fleet = self._engine.fleet
        return (*(each.subject for each in fleet.domains.values()), *fleet.certificates)

    def _target(self, name: SubjectName) -> CertificateTarget | DomainTarget:
        """Return what *name* names in the configuration, with the journal as it stands."""
        # A commit whose reply was lost may have taken: what is under way is changed from what the journal holds.
        self._engine.recorder.settle_doubt()
        fleet = self._engine.fleet
        found = fleet.certificates.get(name) or fleet.domains.get(TrustDomainName(name))
        if found is None:
            known = ", ".join(sorted(self._everything()))
            raise ConfigError(f"nothing is called {name}; the configuration names {known}")
        return found

    def _refusal(self, target: CertificateTarget | DomainTarget, request: RotateRequest) -> str | None:
        """Return why the request cannot be carried out, or None."""
        if request.compromised and not isinstance(target, DomainTarget):
            return "only a trust domain's CA can be declared compromised: rotate the certificate instead"
        refuses = self._mesh_refuses(target) if isinstance(target, DomainTarget) else None
        if refuses is not None:
            return refuses
        under_way = self._engine.memory.open_rotation(name_of(target))
        if under_way is None:
            return None
        if request.compromised and under_way.intent is not IntentKind.COMPROMISE:
            return None
        if isinstance(target, CertificateTarget) and under_way.trigger is not Trigger.REQUEST:
            return None
        return f"rotation {under_way.id} is under way already (law 5): wait for it"

    def _seen(self, target: DomainTarget) -> DomainState | None:
        """Return *target* as last looked at, after a first look if there was none since the start."""
        if self._engine.domains.get(target.name) is None:
            # Which generation a rotation leads away from is known only by looking.
            self._engine.visit(target.id)
        return self._engine.domains.get(target.name)

    def _mesh_refuses(self, target: DomainTarget, *, led: bool = True) -> str | None:
        """Return why a mesh may not be changed, as last looked at; None if it may. *led*: it has to be rotator's."""
        state = self._engine.domains.get(target.name)
        view = state.mesh if state is not None else None
        if led and view is not None and view.adoption is not None:
            return f"{target.name} runs on {view.adoption.found}: have rotator adopt it first"
        return "; ".join(view.refusals) or None if view is not None else None

    def _open_adoption(
        self, target: DomainTarget, state: DomainState, adoption: Adoption, request: AdoptRequest, person: Person
    ) -> Rotation:
        """Open the rotation of an adoption; what it interrupts is an exception with the person's words."""
        held, interrupts = state.held, adoption.interrupts
        under_way = self._engine.memory.open_rotation(target.subject)
        rotation = under_way or Rotation(
            id=uuid.uuid4().hex,
            subject=target.subject,
            kind=SubjectKind.TRUST_DOMAIN,
            intent=IntentKind.ROTATE,
            trigger=Trigger.REQUEST,
            state=RotationState.OPEN,
            opened_at=self._engine.clock.now(),
            ticket=request.ticket,
            from_generation=next((each.number for each in held.generations if each.authority.id == held.active), None),
        )
        rotation = replace(rotation, may_interrupt=interrupts is not None)
        detail: dict[str, str | int | bool] = {"intent": "adopt", "found": adoption.found}
        if request.ticket is not None:
            detail["ticket"] = request.ticket
        self._book.note(
            EventType.INTENT,
            target,
            person,
            request.reason,
            [rotation],
            detail,
            rotation=rotation,
            exception=(
                ("interruption accepted", f"an adoption interrupts on a person's word: {interrupts}")
                if interrupts is not None
                else None
            ),
            words=request.accept_interruption if interrupts is not None else None,
        )
        return rotation

    def _open(self, target: CertificateTarget | DomainTarget, request: RotateRequest, person: Person) -> Rotation:
        """Open a rotation for a person, or turn the one that is under way to what the person asks for."""
        under_way = self._engine.memory.open_rotation(name_of(target))
        now = self._engine.clock.now()
        active: int | None = None
        if isinstance(target, DomainTarget):
            state = self._engine.domains.get(target.name)
            signer = state.signer if state is not None else None
            active = signer.number if signer is not None else None
        rotations: list[Rotation] = []
        if under_way is not None:
            rotations.append(replace(under_way, state=RotationState.FAILED, finished_at=now, outcome="superseded"))
        rotation = Rotation(
            id=uuid.uuid4().hex,
            subject=name_of(target),
            kind=SubjectKind.TRUST_DOMAIN if isinstance(target, DomainTarget) else SubjectKind.CERTIFICATE,
            intent=IntentKind.COMPROMISE if request.compromised else IntentKind.ROTATE,
            trigger=Trigger.REQUEST,
            state=RotationState.OPEN,
            opened_at=now,
            emergency=request.emergency,
            ticket=request.ticket,
            from_generation=active,
        )
        detail: dict[str, str | int | bool] = {"intent": rotation.intent.value}
        if request.ticket is not None:
            detail["ticket"] = request.ticket
        if under_way is not None:
            detail["instead_of"] = under_way.id
        self._book.note(
            EventType.INTENT,
            target,
            person,
            request.reason,
            [*rotations, rotation],
            detail,
            rotation=rotation,
            exception=("emergency", "windows and freezes were skipped on a person's word")
            if request.emergency
            else None,
            closes=under_way,
        )
        log.info(LogEvent.REQUEST_RECEIVED, subject=rotation.subject, rotation_id=rotation.id)
        return rotation


def _answer(
    *,
    plan: Sequence[Mapping[str, Any]] = (),
    rotations: Sequence[Mapping[str, Any]] = (),
    refused: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return what every order is answered with."""
    return {"plan": list(plan), "rotations": list(rotations), "refused": list(refused), "waiting_on": []}


def _opened(rotation: Rotation) -> dict[str, Any]:
    """Return how a rotation stands in an answer."""
    return {"id": rotation.id, "subject": rotation.subject, "kind": rotation.kind.value}
