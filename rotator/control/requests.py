"""
What may be asked of a running daemon, by whom, and who answers.

Rules that must stay true here:

- Everything that changes something carries the person who asked; the daemon never acts for nobody.
- A request is complete and checked before anyone sees it: known keys, bounded text, no control characters.
- `emergency` is a right of its own: operating does not include it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from rotator.core.model import SubjectName
from rotator.durations import parse_duration, parse_moment
from rotator.errors import ConfigError

LONGEST_TEXT: Final = 1000
LONGEST_NAME: Final = 255


class Right(StrEnum):
    """What a person may do."""

    READ = "read"
    OPERATE = "operate"
    EMERGENCY = "emergency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is at the other end of the socket, as the kernel and the user database say."""

    uid: int
    name: str
    """The user's name, or the number where the machine knows none."""
    groups: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Who may do what, by Unix group."""

    operate: frozenset[str] = frozenset()
    emergency: frozenset[str] = frozenset()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateRequest:
    """Rotate now."""

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
class RollbackRequest:
    """Walk one CA rotation back."""

    subject: SubjectName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptRequest:
    """Lead a mesh that does not run on a CA of rotator's yet."""

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


class Orders(Protocol):
    """What a person may have the daemon do. Each raises `rotator.errors` where it refuses."""

    def rotate(self, request: RotateRequest, person: Person) -> Mapping[str, Any]:
        """
        Open rotations, or only plan them.

        ``plan`` (``subject``, ``what``: a sentence for each step, in order), ``rotations`` (``id``, ``subject``,
        ``kind``), ``refused`` (``subject``, ``why``), ``waiting_on`` (names, empty if it begins at once).
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


class Refusals(Protocol):
    """Where it is kept what was asked without a right to it."""

    def denied(self, operation: str, person: Person, right: Right) -> None:
        """Keep that *person* asked for *operation* without *right*. Never raises: the answer stands."""
        ...


class Operations(Views, Orders, Refusals, Protocol):
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


def only_subject(fields: Mapping[str, object]) -> SubjectName:
    """Return the one field ``subject``; raise `ConfigError` if there is another."""
    _only(fields, "subject")
    return subject_of(fields)


def only_rotation(fields: Mapping[str, object]) -> str:
    """Return the one field ``rotation_id``; raise `ConfigError` if there is another."""
    _only(fields, "rotation_id")
    return _text(fields, "rotation_id", LONGEST_NAME)


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
