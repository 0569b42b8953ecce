"""
The objects in which people ask rotator for something in a cluster: their names, places and words.

Rules that must stay true here:

- Pure words; whoever writes such an object, reads it, or says who may, takes them from here.
- An object that was taken up names its phase; one whose phase is final is never looked at again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from rotator.cluster.paths import path_of

GROUP: Final = "rotator.io"
VERSION: Final = "v1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

REQUEST: Final = "RotationRequest"
REQUESTS: Final = "rotationrequests"
APPROVAL: Final = "RotationApproval"
APPROVALS: Final = "rotationapprovals"

EMERGENCY_VERB: Final = "emergency"
"""The verb on `REQUESTS` that RBAC grants to those who may skip windows, declare a compromise, or let things expire."""

MACHINES: Final = "system:serviceaccount:"
"""How the names of accounts begin that are no people."""


class Operation(StrEnum):
    """What a request may ask for."""

    ROTATE = "Rotate"
    PAUSE = "Pause"
    RESUME = "Resume"
    ROLLBACK = "Rollback"
    ADOPT = "Adopt"
    APPLY = "Apply"
    UNDO = "Undo"


class RequestPhase(StrEnum):
    """Where a request stands, as its status says."""

    PENDING = "Pending"
    """Seen, and not taken up yet: what is missing stands in the message."""
    AWAITING_APPROVAL = "AwaitingApproval"
    RUNNING = "Running"
    """Accepted; a rotation is under way."""
    DONE = "Done"
    FAILED = "Failed"
    ROLLED_BACK = "RolledBack"
    REFUSED = "Refused"
    REJECTED = "Rejected"
    """Somebody whose approval was asked for has said no."""
    EXPIRED = "Expired"


FINAL: Final = frozenset(
    {
        RequestPhase.DONE,
        RequestPhase.FAILED,
        RequestPhase.ROLLED_BACK,
        RequestPhase.REFUSED,
        RequestPhase.REJECTED,
        RequestPhase.EXPIRED,
    }
)


class Decision(StrEnum):
    """What an approval says."""

    APPROVE = "Approve"
    REJECT = "Reject"


class ApprovalPhase(StrEnum):
    """What became of an approval."""

    COUNTED = "Counted"
    REFUSED = "Refused"


def policy_name(namespace: str) -> str:
    """Return the name of the admission policy that binds names to people in *namespace*, and of its binding."""
    return f"rotator-people-{namespace}"


def requests_path(namespace: str, name: str | None = None, *, part: str | None = None) -> str:
    """Return where the requests of *namespace* are, or one of them, or its subresource *part*."""
    return path_of(API_VERSION, REQUESTS, namespace=namespace, name=name, part=part)


def approvals_path(namespace: str, name: str | None = None, *, part: str | None = None) -> str:
    """Return where the approvals of *namespace* are, or one of them, or its subresource *part*."""
    return path_of(API_VERSION, APPROVALS, namespace=namespace, name=name, part=part)
