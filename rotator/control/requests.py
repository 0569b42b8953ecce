"""
What may be asked of a running daemon, by whom, and who answers.

Rules that must stay true here:

- Everything that changes something carries the person who asked; the daemon never acts for nobody.
- A request is complete and checked before anyone sees it: known keys, bounded text, no control characters.
- `emergency` and `approve` are rights of their own: operating does not include them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Final, Protocol

from rotator.core.approval import Operation
from rotator.core.model import SubjectName
from rotator.durations import parse_duration, parse_moment
from rotator.errors import ConfigError
from rotator.platform.documents import PLATFORM

LONGEST_TEXT: Final = 1000
LONGEST_NAME: Final = 255


class Right(StrEnum):
    """What a person may do."""

    READ = "read"
    OPERATE = "operate"
    EMERGENCY = "emergency"
    APPROVE = "approve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who asks, as the kernel and the user database say, or the API server of a cluster."""

    uid: int | None
    """None: a user of the cluster, known by name alone."""
    name: str
    """The user's name, or the number where the machine knows none."""
    groups: frozenset[str]
    known: bool = True
    """False where the name may be anybody's: inside a pod, whoever may enter it has the service's own uid."""

    @property
    def described(self) -> str:
        """Return what stands behind the commitment to this person."""
        where = "cluster user" if self.uid is None else f"uid {self.uid}"
        return f"{self.name} ({where})" if self.known else f"unattributed, perhaps {self.name} ({where})"

    def is_described_by(self, described: str) -> bool:
        """Return whether *described* is this same person: one machine's by the uid, which outlives a new name."""
        if self.uid is None:
            return described == self.described
        return self.known and described.endswith(f"(uid {self.uid})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Who may do what, by Unix group."""

    operate: frozenset[str] = frozenset()
    emergency: frozenset[str] = frozenset()
    approve: frozenset[str] = frozenset()
    own_uid: int
    """The service's own user: may always operate."""

    def permits(self, person: Person, right: Right) -> bool:
        """Return whether *person* has *right*. Who can open the socket may read; root may do anything."""
        match right:
            case Right.READ:
                return True
            case Right.OPERATE:
                return person.uid in {0, self.own_uid} or bool(person.groups & (self.operate | self.emergency))
            case Right.EMERGENCY:
                return person.uid == 0 or bool(person.groups & self.emergency)
            case Right.APPROVE:
                return person.uid == 0 or bool(person.groups & self.approve)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateRequest:
    """Rotate now."""

    operation: ClassVar[Operation] = Operation.ROTATE
    subjects: tuple[SubjectName, ...] = ()
    everything: bool = False
    """Every certificate and trust domain, instead of *subjects*."""
    reason: str
    ticket: str | None = None
    dry_run: bool = False
    """Answer with the plan and change nothing."""
    emergency: bool = False
    """Skip windows and freezes, and nothing else."""
    compromised: bool = False
    """The trust domain's CA key is in wrong hands: another intent with its own phases (law 8)."""

    @property
    def right(self) -> Right:
        """Return the right that this takes."""
        if self.dry_run:
            return Right.READ
        return Right.EMERGENCY if self.emergency or self.compromised else Right.OPERATE


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequest:
    """Hold one subject."""

    operation: ClassVar[Operation] = Operation.PAUSE
    dry_run: ClassVar[bool] = False
    subject: SubjectName
    until: datetime
    reason: str
    past_safety_line: bool = False
    """The operator's word that the subject may expire of it (law 12)."""

    @property
    def right(self) -> Right:
        """Return the right that this takes."""
        return Right.EMERGENCY if self.past_safety_line else Right.OPERATE


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """Let one subject go on."""

    operation: ClassVar[Operation] = Operation.RESUME
    dry_run: ClassVar[bool] = False
    subject: SubjectName
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequest:
    """Walk one CA rotation back."""

    operation: ClassVar[Operation] = Operation.ROLLBACK
    dry_run: ClassVar[bool] = False
    subject: SubjectName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptRequest:
    """Lead a mesh that does not run on a CA of rotator's yet."""

    operation: ClassVar[Operation] = Operation.ADOPT
    subject: SubjectName
    reason: str
    ticket: str | None = None
    dry_run: bool = False
    """Answer with the plan and change nothing."""
    accept_interruption: str | None = None
    """Why what the plan says will be interrupted may be, in the person's own words; recorded as an exception."""

    @property
    def right(self) -> Right:
        """Return the right that this takes."""
        if self.dry_run:
            return Right.READ
        return Right.EMERGENCY if self.accept_interruption is not None else Right.OPERATE


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyRequest:
    """Write the platform's documents as the configuration says."""

    operation: ClassVar[Operation] = Operation.APPLY
    subject: SubjectName = PLATFORM
    reason: str
    ticket: str | None = None
    dry_run: bool = False
    """Answer with the plan and change nothing."""
    plan: str | None = None
    """Digest of the plan that was shown; another one by now is refused. None: whatever the plan is when it is asked."""
    supersede: bool = False
    """Also while another change is under way: that one ends where it stands, and this one goes on from there."""

    @property
    def right(self) -> Right:
        """Return the right that this takes."""
        return Right.READ if self.dry_run else Right.OPERATE


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRequest:
    """Write the platform's documents as they were before a change."""

    operation: ClassVar[Operation] = Operation.UNDO
    subject: SubjectName = PLATFORM
    change: str
    """The id of the change."""
    reason: str
    ticket: str | None = None
    dry_run: bool = False
    plan: str | None = None
    """As for `ApplyRequest`."""
    overwrite: bool = False
    """Also where a document is as no step of that change left it: what was done to it since is lost."""
    supersede: bool = False
    """As for `ApplyRequest`; the change that is undone may be the one that is under way."""

    @property
    def right(self) -> Right:
        """Return the right that this takes."""
        return Right.READ if self.dry_run else Right.OPERATE


Order = RotateRequest | PauseRequest | ResumeRequest | RollbackRequest | AdoptRequest | ApplyRequest | UndoRequest
"""Everything that a person may have the daemon do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveRequest:
    """Agree to what somebody else asks."""

    id: str
    """The request's, or the beginning of it."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectRequest:
    """End what somebody asks with a no."""

    id: str
    reason: str


class Views(Protocol):
    """What the daemon shows."""

    def status(self) -> Mapping[str, Any]:
        """Return every subject and the ledger's state, as the contract's ``status --json``."""
        ...

    def plan(self, horizon: timedelta) -> Sequence[Mapping[str, Any]]:
        """
        Return what will happen within *horizon*, soonest first.

        Each has ``at`` (RFC 3339), ``subject``, ``action`` (words) and ``why``.
        """
        ...

    def progress(self, rotation_id: str) -> Mapping[str, Any]:
        """
        Return where one rotation stands.

        ``id``, ``subject``, ``state`` (`rotator.ports.RotationState`), ``phase``, ``waiting_on`` (names),
        ``proven`` and ``total`` (consumers), ``alert`` (true while held beyond its deadline), ``outcome``.
        """
        ...

    def request(self, request_id: str) -> Mapping[str, Any]:
        """
        Return where one request stands.

        ``id``, ``operation``, ``subjects``, ``state`` (`rotator.ports.RequestState`), ``requested_by`` and ``reason``
        (null once erased), ``asked_at``, ``expires_at``, ``approvals_needed``, ``approvals_given``,
        ``rotations`` (ids), ``outcome`` (a sentence).
        """
        ...


class Orders(Protocol):
    """What a person may have the daemon do. Each raises `rotator.errors` where it refuses."""

    def rotate(self, request: RotateRequest, person: Person) -> Mapping[str, Any]:
        """
        Open rotations, or only plan them.

        ``plan`` (``subject``, ``what``: a sentence for each step, in order), ``rotations`` (``id``, ``subject``,
        ``kind``), ``refused`` (``subject``, ``why``), ``waiting_on`` (empty if it begins at once). What waits for
        somebody's word has ``request`` (as `Views.request`); that holds for every order.
        """
        ...

    def pause(self, request: PauseRequest, person: Person) -> Mapping[str, Any]:
        """Hold a subject; ``subject`` and ``paused_until``."""
        ...

    def resume(self, subject: SubjectName, person: Person) -> Mapping[str, Any]:
        """Take the hold away; ``subject`` and ``was_paused``."""
        ...

    def rollback(self, request: RollbackRequest, person: Person) -> Mapping[str, Any]:
        """Walk a CA rotation back; as `rotate`."""
        ...

    def adopt(self, request: AdoptRequest, person: Person) -> Mapping[str, Any]:
        """
        Open the rotation by which a mesh comes to run on a CA of rotator's, or only plan it.

        As `rotate`, and ``found`` (what the mesh runs on now) and ``interrupts`` (what will be interrupted, or None).
        """
        ...


class PlatformOrders(Protocol):
    """What a person may have done to the platform's documents. Each raises `rotator.errors` where it refuses."""

    def apply(self, request: ApplyRequest, person: Person) -> Mapping[str, Any]:
        """
        Open the change that writes what the configuration says, or only plan it.

        As `Orders.rotate`; each step of ``plan`` has also ``trust_domain``, ``mesh``, ``kind``, ``name``, ``stage``
        and ``diff``, and the answer has ``digest``.
        """
        ...

    def undo(self, request: UndoRequest, person: Person) -> Mapping[str, Any]:
        """
        Open the change that takes another one back, or only plan it.

        As `apply`, and ``differs``: the documents that are not as the other change left them, in words.
        """
        ...


class Words(Protocol):
    """What people say of what others ask. Each raises `rotator.errors` where it refuses."""

    def approve(self, request: ApproveRequest, person: Person) -> Mapping[str, Any]:
        """Count *person*'s yes; as `Orders.rotate`, and ``request``."""
        ...

    def reject(self, request: RejectRequest, person: Person) -> Mapping[str, Any]:
        """End the request; as `approve`."""
        ...


class Refusals(Protocol):
    """Where it is kept what was asked without a right to it."""

    def denied(self, operation: str, person: Person, right: Right) -> None:
        """Keep that *person* asked for *operation* without *right*. Never raises: the answer stands."""
        ...


class Operations(Views, Orders, PlatformOrders, Words, Refusals, Protocol):
    """Everything the control socket can do; the engine gives it."""


# --- reading requests -----------------------------------------------------------------------------------------------


def _text(fields: Mapping[str, object], key: str, longest: int, *, may_lack: bool = False) -> str:
    value = fields.get(key)
    if value is None and may_lack:
        return ""
    if not isinstance(value, str) or not (value.strip() or may_lack):
        raise ConfigError(f"{key}: found {_kind(value)}; allowed text; do give it")
    if len(value) > longest:
        raise ConfigError(f"{key}: found {len(value)} characters; allowed at most {longest}; do shorten it")
    if not value.isprintable():
        raise ConfigError(f"{key}: found control characters; allowed one line of text; do remove them")
    return value


def _flag(fields: Mapping[str, object], key: str) -> bool:
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key}: found {_kind(value)}; allowed true or false; do choose one")
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None or value == "" else f"a {type(value).__name__}"


def _only(fields: Mapping[str, object], *known: str) -> None:
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        raise ConfigError(f"{unknown[0][:LONGEST_NAME]!r}: found an unknown field; allowed {', '.join(known)}; "
                          "do use a client of the daemon's own version")  # fmt: skip


def rotate_request(fields: Mapping[str, object]) -> RotateRequest:
    """Return the request in *fields*; raise `ConfigError` if there is none."""
    _only(fields, *(field.name for field in dataclasses.fields(RotateRequest)))
    subjects = fields.get("subjects", [])
    if not isinstance(subjects, list) or not all(isinstance(each, str) for each in subjects):
        raise ConfigError(
            "subjects: found no list of names; allowed names of certificates and trust domains; do list them"
        )
    everything, compromised = _flag(fields, "everything"), _flag(fields, "compromised")
    if everything == bool(subjects):
        raise ConfigError("subjects: found both or neither of names and everything; allowed one; do choose one")
    if compromised and len(subjects) != 1:
        raise ConfigError("compromised: found no single trust domain; allowed exactly one; do name it")
    return RotateRequest(
        subjects=tuple(SubjectName(_text({"subjects": each}, "subjects", LONGEST_NAME)) for each in subjects),
        everything=everything,
        reason=_text(fields, "reason", LONGEST_TEXT),
        ticket=_text(fields, "ticket", LONGEST_NAME, may_lack=True) or None,
        dry_run=_flag(fields, "dry_run"),
        emergency=_flag(fields, "emergency"),
        compromised=compromised,
    )


def pause_request(fields: Mapping[str, object]) -> PauseRequest:
    """Return the request in *fields*; raise `ConfigError` if there is none."""
    _only(fields, *(field.name for field in dataclasses.fields(PauseRequest)))
    try:
        until = parse_moment(_text(fields, "until", LONGEST_NAME))
    except ValueError as e:
        raise ConfigError("until: found no moment; allowed RFC 3339 such as 2026-12-20T00:00:00Z; do write one") from e
    return PauseRequest(
        subject=subject_of(fields),
        until=until,
        reason=_text(fields, "reason", LONGEST_TEXT),
        past_safety_line=_flag(fields, "past_safety_line"),
    )


def resume_request(fields: Mapping[str, object]) -> ResumeRequest:
    """Return the request in *fields*; raise `ConfigError` if there is none."""
    _only(fields, *(field.name for field in dataclasses.fields(ResumeRequest)))
    reason = _text(fields, "reason", LONGEST_TEXT, may_lack=True) or None
    return ResumeRequest(subject=subject_of(fields), reason=reason)


def approve_request(fields: Mapping[str, object]) -> ApproveRequest:
    """Return the word in *fields*; raise `ConfigError` if there is none."""
    _only(fields, "id", "reason")
    reason = _text(fields, "reason", LONGEST_TEXT, may_lack=True) or None
    return ApproveRequest(id=_text(fields, "id", LONGEST_NAME), reason=reason)


def reject_request(fields: Mapping[str, object]) -> RejectRequest:
    """Return the word in *fields*; raise `ConfigError` if there is none."""
    _only(fields, "id", "reason")
    return RejectRequest(id=_text(fields, "id", LONGEST_NAME), reason=_text(fields, "reason", LONGEST_TEXT))


def rollback_request(fields: Mapping[str, object]) -> RollbackRequest:
    """Return the request in *fields*; raise `ConfigError` if there is none."""
    _only(fields, *(field.name for field in dataclasses.fields(RollbackRequest)))
    return RollbackRequest(subject=subject_of(fields), reason=_text(fields, "reason", LONGEST_TEXT))


def adopt_request(fields: Mapping[str, object]) -> AdoptRequest:
    """Return the request in *fields*; raise `ConfigError` if there is none."""
    _only(fields, *(field.name for field in dataclasses.fields(AdoptRequest)))
    return AdoptRequest(
        subject=subject_of(fields),
        reason=_text(fields, "reason", LONGEST_TEXT),
        ticket=_text(fields, "ticket", LONGEST_NAME, may_lack=True) or None,
        dry_run=_flag(fields, "dry_run"),
        accept_interruption=_text(fields, "accept_interruption", LONGEST_TEXT, may_lack=True).strip() or None,
    )


def subject_of(fields: Mapping[str, object]) -> SubjectName:
    """Return the subject in *fields*; raise `ConfigError` if there is none."""
    return SubjectName(_text(fields, "subject", LONGEST_NAME))


def only_name(fields: Mapping[str, object], key: str) -> str:
    """Return the one field *key*, a name or an id; raise `ConfigError` if there is another."""
    _only(fields, key)
    return _text(fields, key, LONGEST_NAME)


def only_horizon(fields: Mapping[str, object]) -> timedelta:
    """Return the one field ``horizon``; raise `ConfigError` if there is another."""
    _only(fields, "horizon")
    try:
        return parse_duration(_text(fields, "horizon", LONGEST_NAME))
    except ValueError as e:
        raise ConfigError("horizon: found no duration; allowed such as 24h; do write number and unit") from e


def no_fields(fields: Mapping[str, object]) -> None:
    """Raise `ConfigError` if *fields* holds anything."""
    _only(fields)


def apply_request(fields: Mapping[str, object]) -> ApplyRequest:
    """Return the request in *fields*; raise `ConfigError` if there is none."""
    _only(fields, *(field.name for field in dataclasses.fields(ApplyRequest)))
    return ApplyRequest(
        subject=_the_platform(fields),
        reason=_text(fields, "reason", LONGEST_TEXT),
        ticket=_text(fields, "ticket", LONGEST_NAME, may_lack=True) or None,
        dry_run=_flag(fields, "dry_run"),
        plan=_text(fields, "plan", LONGEST_NAME, may_lack=True) or None,
        supersede=_flag(fields, "supersede"),
    )


def undo_request(fields: Mapping[str, object]) -> UndoRequest:
    """Return the request in *fields*; raise `ConfigError` if there is none."""
    _only(fields, *(field.name for field in dataclasses.fields(UndoRequest)))
    return UndoRequest(
        subject=_the_platform(fields),
        change=_text(fields, "change", LONGEST_NAME),
        reason=_text(fields, "reason", LONGEST_TEXT),
        ticket=_text(fields, "ticket", LONGEST_NAME, may_lack=True) or None,
        dry_run=_flag(fields, "dry_run"),
        plan=_text(fields, "plan", LONGEST_NAME, may_lack=True) or None,
        overwrite=_flag(fields, "overwrite"),
        supersede=_flag(fields, "supersede"),
    )


def _the_platform(fields: Mapping[str, object]) -> SubjectName:
    """Return the one subject that the platform's operations have."""
    if fields.get("subject", PLATFORM) != PLATFORM:
        raise ConfigError(f"subject: found another name; allowed {PLATFORM}; do name it, or leave it out")
    return PLATFORM
