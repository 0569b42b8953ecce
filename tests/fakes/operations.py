"""
A daemon's `Operations` that a test fills by hand.

Rules that must stay true here:

- Answers are what the test put there; every order is kept with the person who gave it.
- `refuse` makes every order raise; nothing else is clever.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rotator.control import (
    AdoptRequest,
    ApplyRequest,
    ApproveRequest,
    PauseRequest,
    Person,
    RejectRequest,
    Right,
    RollbackRequest,
    RotateRequest,
    UndoRequest,
)
from rotator.core.model import SubjectName
from rotator.durations import moment_text

PLAN = [
    {"subject": "web", "at": None, "what": "issue web anew", "why": "asked for"},
    {"subject": "web", "at": None, "what": "wait for proof", "why": "asked for"},
]


CHANGE = [
    {
        "subject": "platform",
        "trust_domain": "mesh.prod",
        "mesh": "default",
        "what": "create MeshTrafficPermission rotator-ledger in mesh default",
        "diff": "+type: MeshTrafficPermission",
    }
]


@dataclass(slots=True)
class FakeOperations:
    """Answers what it was told to answer."""

    shown: Mapping[str, Any] = field(default_factory=lambda: {"subjects": [], "ledger": {"size": 0}})
    planned: Sequence[Mapping[str, Any]] = ()
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    """What `progress` says, one look after the other; the last one stays."""
    waiting_on: list[str] = field(default_factory=list)
    waits: Mapping[str, Any] | None = None
    """The request that waits for somebody's word, where there is one."""
    refused: list[Mapping[str, Any]] = field(default_factory=list)
    standing: list[Mapping[str, Any]] = field(default_factory=list)
    """What `request` says, one look after the other; the last one stays."""
    refuse: Exception | None = None
    asked: list[tuple[object, Person]] = field(default_factory=list)
    """Every order, oldest first."""
    denials: list[tuple[str, str, Right]] = field(default_factory=list)
    """What was asked without a right to it."""
    hold: threading.Event | None = None
    """`status` waits for it, ten seconds at most."""
    held: list[str] = field(default_factory=list)
    """The threads that wait there, or did."""

    def status(self) -> Mapping[str, Any]:
        """Return what the test put into `shown`."""
        if self.hold is not None:
            self.held.append(threading.current_thread().name)
            self.hold.wait(60)
        return self.shown

    def plan(self, horizon: timedelta) -> Sequence[Mapping[str, Any]]:
        """Return what the test put into `planned`."""
        return [{**each, "horizon": horizon.total_seconds()} for each in self.planned]

    def progress(self, rotation_id: str) -> Mapping[str, Any]:
        """Return the next look."""
        return {"id": rotation_id, **(self.steps.pop(0) if len(self.steps) > 1 else self.steps[0])}

    def rotate(self, request: RotateRequest, person: Person) -> Mapping[str, Any]:
        """Open one rotation for each subject."""
        self._note(request, person)
        idle = request.dry_run or self.refused or self.waits is not None
        names: Sequence[str] = [] if idle else request.subjects or ("everything",)
        opened = [{"id": f"r-{each}", "subject": each, "kind": "certificate"} for each in names]
        return {"plan": PLAN, "rotations": opened, "refused": self.refused} | self._waiting()

    def pause(self, request: PauseRequest, person: Person) -> Mapping[str, Any]:
        """Repeat what was asked."""
        self._note(request, person)
        return {"subject": request.subject, "paused_until": moment_text(request.until)} | self._waiting()

    def resume(self, subject: SubjectName, person: Person) -> Mapping[str, Any]:
        """Repeat what was asked."""
        self._note(subject, person)
        return {"subject": subject, "was_paused": True}

    def rollback(self, request: RollbackRequest, person: Person) -> Mapping[str, Any]:
        """Open one rotation."""
        self._note(request, person)
        opened = {"id": f"r-{request.subject}", "subject": request.subject, "kind": "trust_domain"}
        return {"plan": [], "rotations": [opened], "refused": [], "waiting_on": []}

    def adopt(self, request: AdoptRequest, person: Person) -> Mapping[str, Any]:
        """Open one rotation."""
        self._note(request, person)
        names = [] if request.dry_run or self.refused else [request.subject]
        opened = [{"id": f"r-{each}", "subject": each, "kind": "trust_domain"} for each in names]
        return {
            "plan": PLAN,
            "rotations": opened,
            "refused": self.refused,
            "waiting_on": [],
            "found": "the builtin CA of backend ca-1",
            "interrupts": None,
        }

    def apply(self, request: ApplyRequest, person: Person) -> Mapping[str, Any]:
        """Open one change of the platform."""
        return self._changed(request, person)

    def undo(self, request: UndoRequest, person: Person) -> Mapping[str, Any]:
        """Open the change that takes another back."""
        return self._changed(request, person)

    def _changed(self, request: ApplyRequest | UndoRequest, person: Person) -> Mapping[str, Any]:
        self._note(request, person)
        opened = [] if request.dry_run or self.refused else [{"id": "r-1", "subject": "platform", "kind": "platform"}]
        return {
            "plan": CHANGE,
            "digest": "5" * 64,
            "differs": [],
            "rotations": opened,
            "refused": self.refused,
            "waiting_on": [],
        }

    def request(self, request_id: str) -> Mapping[str, Any]:
        """Return what stands in `standing`."""
        return {"id": request_id, **(self.standing.pop(0) if len(self.standing) > 1 else self.standing[0])}

    def approve(self, request: ApproveRequest, person: Person) -> Mapping[str, Any]:
        """Open one rotation, unless something is still waited for."""
        self._note(request, person)
        opened = [] if self.waiting_on else [{"id": "r-web", "subject": "web", "kind": "certificate"}]
        return {"plan": [], "rotations": opened, "refused": [], "waiting_on": self.waiting_on}

    def reject(self, request: RejectRequest, person: Person) -> Mapping[str, Any]:
        """Say that it is rejected."""
        self._note(request, person)
        return {"plan": [], "rotations": [], "refused": [], "waiting_on": [], "request": {"state": "rejected"}}

    def denied(self, operation: str, person: Person, right: Right) -> None:
        """Keep it."""
        self.denials.append((operation, person.name, right))

    def _waiting(self) -> dict[str, Any]:
        return {"waiting_on": self.waiting_on} | ({"request": self.waits} if self.waits is not None else {})

    def _note(self, request: object, person: Person) -> None:
        self.asked.append((request, person))
        if self.refuse is not None:
            raise self.refuse
