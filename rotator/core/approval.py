"""
Where a second person's word is needed, and whether it has been given.

Rules that must stay true here:

- Pure. Rules that match are added up to the strictest: most approvals, shortest time.
- A request that waits for a word holds nothing: what the schedule does, it does meanwhile (law 12).
- Nobody's word counts for their own request, nor twice, nor from a place where nobody can be known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatchcase

from rotator.core.model import SubjectKind, SubjectName


class Operation(StrEnum):
    """What people may ask for."""

    ROTATE = "rotate"
    PAUSE = "pause"
    RESUME = "resume"
    ROLLBACK = "rollback"
    ADOPT = "adopt"
    APPLY = "apply"
    """Write the platform's documents as the configuration says."""
    UNDO = "undo"
    """Write the platform's documents as they were before a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRule:
    """One written rule."""

    name: str
    subjects: tuple[str, ...] | None = None
    """Patterns of names (``*`` stands for anything); None: every subject."""
    kinds: frozenset[SubjectKind] = frozenset(SubjectKind)
    operations: frozenset[Operation]
    approvals: int = 1
    """How many people beside the one who asks."""
    expires_after: timedelta
    emergency_skips: bool = False
    """An emergency goes on without; recorded as an exception."""

    def covers(self, operation: Operation, subject: SubjectName, kind: SubjectKind) -> bool:
        """Return whether *operation* on *subject* takes this rule's approvals."""
        if operation not in self.operations or kind not in self.kinds:
            return False
        return self.subjects is None or any(fnmatchcase(subject, pattern) for pattern in self.subjects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What one request needs before it is carried out."""

    approvals: int = 0
    """How many people beside the one who asks; 0: none."""
    expires_after: timedelta = timedelta()
    rules: tuple[str, ...] = ()
    """Names of the rules that ask for them."""
    skipped: tuple[str, ...] = ()
    """Names of the rules that an emergency skips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalPolicy:
    """Every rule about people's words."""

    rules: tuple[ApprovalRule, ...] = ()
    allow_unattributed: bool = False
    """Carry out what was asked where nobody can be known (a pod); it never approves."""

    def requirement(
        self, operation: Operation, subjects: Iterable[tuple[SubjectName, SubjectKind]], *, emergency: bool = False
    ) -> Requirement:
        """Return what a request for *operation* on all of *subjects* needs."""
        named = tuple(subjects)
        covering = [rule for rule in self.rules if any(rule.covers(operation, *each) for each in named)]
        skipped = [rule for rule in covering if emergency and rule.emergency_skips]
        binding = [rule for rule in covering if rule not in skipped]
        return Requirement(
            approvals=max((rule.approvals for rule in binding), default=0),
            expires_after=min((rule.expires_after for rule in binding), default=timedelta()),
            rules=tuple(rule.name for rule in binding),
            skipped=tuple(rule.name for rule in skipped),
        )
