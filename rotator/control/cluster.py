"""
Asks a rotator in a cluster: by objects made with the asker's own kubeconfig, whose status it reads.

Rules that must stay true here:

- The name in an object is the one by which the API server knows who asks; it holds us to it.
- An object is made once, and is never changed or removed: whoever stops watching stops nothing.
- Every call has a deadline; that nobody has answered yet is an answer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Final

from rotator.clock import SystemClock
from rotator.cluster.objects import JSON, ObjectAPI
from rotator.cluster.people import (
    API_VERSION,
    APPROVAL,
    REQUEST,
    ApprovalPhase,
    Decision,
    RequestPhase,
    approvals_path,
    requests_path,
)
from rotator.control.requests import (
    AdoptRequest,
    ApplyRequest,
    ApproveRequest,
    Order,
    PauseRequest,
    RejectRequest,
    ResumeRequest,
    RollbackRequest,
    RotateRequest,
    UndoRequest,
)
from rotator.control.spelling import spec_of
from rotator.core.model import SubjectName
from rotator.durations import moment_text
from rotator.errors import ConfigError, Denied, Rejected

_LOOK_EVERY: Final = timedelta(milliseconds=500)
_REVIEWS: Final = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_STATES: Final[Mapping[str, str]] = {
    RequestPhase.AWAITING_APPROVAL: "awaiting_approval",
    RequestPhase.REFUSED: "refused",
    RequestPhase.REJECTED: "rejected",
    RequestPhase.EXPIRED: "expired",
}
"""Phases as the control socket says them; the others are ``accepted``."""


class ClusterClient:
    """The daemon, as seen through the objects in its namespace. Not safe from several threads."""

    plans_first: ClassVar[bool] = False
    """One object is one request: its plan comes with its answer."""

    def __init__(self, api: ObjectAPI, namespace: str, *, patience: timedelta = timedelta(seconds=30)) -> None:
        """Ask in *namespace*, as whoever *api* is; *patience* is how long to wait for a first answer."""
        self._api = api
        self._namespace = namespace
        self._patience = patience
        self._clock = SystemClock()
        self._made: dict[str, str] = {}
        """Names of requests by the rotations that they opened."""

    # --- orders -----------------------------------------------------------------------------------------------------

    def rotate(self, request: RotateRequest) -> dict[str, Any]:
        """Open rotations, or only plan them."""
        return self._ask(request)

    def pause(self, request: PauseRequest) -> dict[str, Any]:
        """Hold a subject."""
        return self._ask(request) | {"subject": request.subject, "paused_until": moment_text(request.until)}

    def resume(self, subject: str) -> dict[str, Any]:
        """Take a hold away."""
        return self._ask(ResumeRequest(subject=SubjectName(subject))) | {"subject": subject}

    def rollback(self, request: RollbackRequest) -> dict[str, Any]:
        """Walk a CA rotation back."""
        return self._ask(request)

    def adopt(self, request: AdoptRequest) -> dict[str, Any]:
        """Lead a mesh from now on, or only plan it."""
        return self._ask(request)

    def apply(self, request: ApplyRequest) -> dict[str, Any]:
        """Write the platform's documents, or only plan it."""
        return self._ask(request)

    def undo(self, request: UndoRequest) -> dict[str, Any]:
        """Take a change of the platform's documents back, or only plan it."""
        return self._ask(request)

    def approve(self, request: ApproveRequest) -> dict[str, Any]:
        """Agree to what somebody else asks."""
        return self._answer(request.id, Decision.APPROVE, request.reason)

    def reject(self, request: RejectRequest) -> dict[str, Any]:
        """End what somebody asks with a no."""
        return self._answer(request.id, Decision.REJECT, request.reason)

    # --- views ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the requests of the namespace, newest first; what subjects do is told by the HTTP service."""
        ordered = sorted(
            self._api.listed(requests_path(self._namespace)),
            key=lambda each: str(each["metadata"]["creationTimestamp"]),
            reverse=True,
        )
        return {"subjects": [], "requests": [_view(each) for each in ordered]}

    def plan(self, horizon: timedelta) -> list[dict[str, Any]]:
        """Raise `ConfigError`: the schedule is not told by objects."""
        del horizon
        raise ConfigError("the schedule is not shown through the cluster's API: ask with --dry-run what one would do")

    def request(self, request_id: str) -> dict[str, Any]:
        """Return where the request of that name stands."""
        return _view(self._read(request_id))

    def progress(self, rotation_id: str) -> dict[str, Any]:
        """Return where one rotation of a request that was made or answered here stands."""
        name = self._made.get(rotation_id)
        if name is None:
            raise Rejected(f"rotation {rotation_id} was not opened by a request that was made here")
        rows = self._read(name).get("status", {}).get("rotations", ())
        found: Mapping[str, Any] = next((each for each in rows if each.get("id") == rotation_id), {})
        return {"state": "open", **found, "id": rotation_id, "waiting_on": list(found.get("waitingOn", ()))}

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _ask(self, order: Order) -> dict[str, Any]:
        made = self._api.create(
            requests_path(self._namespace),
            {
                "apiVersion": API_VERSION,
                "kind": REQUEST,
                "metadata": {"generateName": f"{order.operation}-", "namespace": self._namespace},
                "spec": spec_of(order, requested_by=self._myself()),
            },
        )
        return self._said(self._taken_up(made["metadata"]["name"]))

    def _answer(self, name: str, decision: Decision, reason: str | None) -> dict[str, Any]:
        request = self._read(name)
        about = {
            "name": name,
            "uid": request["metadata"]["uid"],
            "requestedBy": request.get("spec", {}).get("requestedBy"),
        }
        spec = {"request": about, "decision": decision.value, "approvedBy": self._myself()}
        made = self._api.create(
            approvals_path(self._namespace),
            {
                "apiVersion": API_VERSION,
                "kind": APPROVAL,
                "metadata": {"generateName": f"{name}-", "namespace": self._namespace},
                "spec": spec | ({"reason": reason} if reason is not None else {}),
            },
        )
        path = approvals_path(self._namespace, made["metadata"]["name"])
        status = self._until(path, lambda found: bool(found.get("phase")))
        if status.get("phase") == ApprovalPhase.REFUSED:
            raise Denied(f"the approval was refused: {status.get('message')}")
        if not status:
            return {**self._said(request), "waiting_on": ["a rotator that looks at the approval"]}
        if decision is Decision.REJECT:
            return self._said(self._read(name))
        # The last word that was needed: what follows from it shows a moment later.
        self._until(
            requests_path(self._namespace, name),
            lambda found: found.get("phase") != RequestPhase.AWAITING_APPROVAL or _missing(found) > 0,
        )
        return self._said(self._read(name))

    def _taken_up(self, name: str) -> JSON:
        """Return the request *name* once rotator has taken it up, or as it is when patience ends."""
        path = requests_path(self._namespace, name)
        self._until(path, lambda status: status.get("phase") not in {None, RequestPhase.PENDING})
        return self._read(name)

    def _until(self, path: str, done: Any) -> JSON:  # noqa: ANN401 -- a predicate over a status
        """Return the status of the object at *path* once it is *done*, or as it is when patience ends."""
        never, end = threading.Event(), self._clock.monotonic() + self._patience.total_seconds()
        while True:
            found: JSON = (self._api.get(path) or {}).get("status") or {}
            if done(found) or self._clock.monotonic() >= end:
                return found
            self._clock.wait(never, _LOOK_EVERY)

    def _said(self, request: JSON) -> dict[str, Any]:
        """Return what stands in the status of *request*, as the control socket answers."""
        name, status = request["metadata"]["name"], request.get("status") or {}
        rotations = [
            {"id": each.get("id"), "subject": each.get("subject"), "kind": each.get("kind", "")}
            for each in status.get("rotations", ())
        ]
        self._made.update({str(each["id"]): name for each in rotations})
        view = _view(request)
        refused = [dict(each) for each in status.get("refused", ())]
        if view["state"] in {"refused", "rejected", "expired"} and not refused:
            refused = [{"subject": ", ".join(view["subjects"]), "why": str(status.get("message", ""))}]
        waiting = []
        if view["phase"] in {None, RequestPhase.PENDING}:
            waiting = [f"a rotator that takes the request up: {status.get('message') or 'none has yet'}"]
        elif view["phase"] == RequestPhase.AWAITING_APPROVAL:
            waiting = [f"{_missing(status)} more approval{'s' if _missing(status) != 1 else ''}"]
        return {
            "plan": [dict(each) for each in status.get("plan", ())],
            "rotations": rotations,
            "refused": refused,
            "waiting_on": waiting,
            "request": view,
            "found": status.get("found"),
            "interrupts": status.get("interrupts"),
            "digest": status.get("digest"),
            "differs": list(status.get("differs", ())),
        }

    def _read(self, name: str) -> JSON:
        found = self._api.get(requests_path(self._namespace, name))
        if found is None:
            raise Rejected(f"there is no request {name} in namespace {self._namespace}: rotator status lists them")
        return found

    def _myself(self) -> str:
        """Return the name by which the API server knows who asks."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        found: str = self._api.create(_REVIEWS, review)["status"]["userInfo"]["username"]
        return found


def _missing(status: Mapping[str, Any]) -> int:
    return int(status.get("approvalsNeeded", 0)) - int(status.get("approvalsGiven", 0))


def _view(request: JSON) -> dict[str, Any]:
    """Return *request* as the control socket shows one."""
    spec, status = request.get("spec") or {}, request.get("status") or {}
    phase = status.get("phase")
    return {
        "id": request["metadata"]["name"],
        "uid": request["metadata"]["uid"],
        "operation": str(spec.get("operation", "")).lower(),
        "subjects": list(spec.get("subjects", ["everything"])),
        "emergency": bool(spec.get("emergency") or spec.get("compromised")),
        "state": "pending" if phase in {None, RequestPhase.PENDING} else _STATES.get(phase, "accepted"),
        "phase": phase,
        "requested_by": spec.get("requestedBy"),
        "reason": spec.get("reason"),
        "asked_at": request["metadata"].get("creationTimestamp"),
        "expires_at": status.get("expiresAt"),
        "approvals_needed": int(status.get("approvalsNeeded", 0)),
        "approvals_given": int(status.get("approvalsGiven", 0)),
        "rotations": [each.get("id") for each in status.get("rotations", ())],
        "outcome": str(status.get("message", "")),
    }
