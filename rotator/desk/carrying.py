"""
Carrying out what people ask: one order, one target, one intent.

Rules that must stay true here:

- Nothing has a second path: a request opens a rotation like the schedule does, and the engine does the rest.
- One rotation per subject at a time (law 5); what is under way already is named, not doubled.
- An emergency skips windows and freezes only, and opens an exception; compromise is another intent (law 8).
- A mesh that runs on somebody else's CA is led only after a person has said so; whatever that interrupts is accepted
  in words of their own and opens an exception.
- Everything is looked at again at the moment it is carried out: a person's word may have come hours later (law 13).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

import structlog

from rotator.control import (
    AdoptRequest,
    ApplyRequest,
    Order,
    PauseRequest,
    ResumeRequest,
    RollbackRequest,
    RotateRequest,
    UndoRequest,
)
from rotator.core.event import EventType, Trigger
from rotator.core.model import IntentKind, SubjectKind, SubjectName, TrustDomainName
from rotator.desk.asking import Asked
from rotator.desk.book import Book, Draft, Exceptional, Target, name_of
from rotator.engine import status
from rotator.engine.domains import DomainState
from rotator.engine.engine import Engine
from rotator.engine.targets import (
    CertificateTarget,
    DomainTarget,
    PlatformTarget,
    SigningKeyTarget,
    TokenTarget,
)
from rotator.errors import ConfigError, Rejected, Unavailable
from rotator.platform.changes import ChangeKind, shown
from rotator.platform.documents import PLATFORM
from rotator.ports import Adoption, Hold, PlatformChange, Rotation, RotationState
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

_STALE: Final = "the plan has changed since it was shown: the control plane or the configuration has; look at it again"
_NOT_ROLLED_BACK: Final = "{} is no trust domain: only a trust domain's CA rotation is rolled back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What became of an order at one target."""

    rotation: Rotation | None = None
    refused: str | None = None
    """Why nothing was done."""
    said: Mapping[str, Any] | None = None
    """What the answer says of it beside rotations and refusals."""


class Carrier:
    """Carries orders out. The desk lets one order in at a time."""

    def __init__(self, engine: Engine, book: Book) -> None:
        self._engine = engine
        self._book = book

    # --- before -----------------------------------------------------------------------------------------------------

    def targets(self, order: Order) -> list[Target]:
        """Return what *order* is for. Raises `ConfigError` if the configuration names no such thing."""
        match order:
            case RotateRequest():
                names = self._everything() if order.everything else order.subjects
            case ApplyRequest() | UndoRequest():
                return [self._platform()]
            case PauseRequest() | ResumeRequest() | RollbackRequest() | AdoptRequest():
                names = (order.subject,)
            case other:
                assert_never(other)
        return [self._target(name) for name in names]

    def plan(self, order: Order, targets: Sequence[Target]) -> dict[str, Any]:
        """
        Return what *order* would do, in sentences, and for an adoption what it finds and interrupts.

        Raises:
            Rejected: If it makes no sense for its target.
            Unavailable: If a mesh was not looked at yet.
        """
        match order:
            case RotateRequest():
                for each in targets:
                    if isinstance(each, DomainTarget):
                        self._seen(each)
                plan = [
                    _step(name_of(target), sentence)
                    for target in targets
                    if not isinstance(target, PlatformTarget)
                    for sentence in status.rotation_plan(self._engine, target, compromised=order.compromised)
                ]
                return {"plan": plan}
            case AdoptRequest():
                (target,) = targets
                domain, state, adoption = self._adoption(target)
                steps = adoption.plan if adoption is not None else ()
                return {
                    "plan": [_step(domain.subject, each) for each in steps],
                    "found": adoption.found if adoption is not None else None,
                    "interrupts": adoption.interrupts if adoption is not None else None,
                    "refusals": list(state.mesh.refusals) if state.mesh is not None else [],
                }
            case PauseRequest():
                if order.until <= self._engine.clock.now():
                    raise Rejected(f"{order.until:%Y-%m-%dT%H:%M:%SZ} is past: a pause ends in the future")
                return {"plan": []}
            case RollbackRequest():
                (target,) = targets
                if not isinstance(target, DomainTarget):
                    raise Rejected(_NOT_ROLLED_BACK.format(order.subject))
                return {"plan": []}
            case ResumeRequest():
                return {"plan": []}
            case ApplyRequest() | UndoRequest():
                self._engine.recorder.settle_doubt()
                change, differs = self._change(order, self._platform())
                rows = [{"subject": PLATFORM, "at": None, "why": "asked for", **each} for each in shown(change.plan)]
                return {"plan": rows, "digest": change.plan.digest, "differs": differs}
            case other:
                assert_never(other)

    def why_not(self, order: Order, target: Target) -> str | None:
        """Return why *order* cannot be carried out at *target* as things stand, or None."""
        match order:
            case RotateRequest():
                return self._no_rotation(target, order)
            case RollbackRequest():
                return self._no_rollback(target)
            case AdoptRequest():
                return self._no_adoption(target, order)
            case PauseRequest():
                return None if order.until > self._engine.clock.now() else "the moment until which to pause has passed"
            case ResumeRequest():
                return None
            case ApplyRequest() | UndoRequest():
                return self._no_change(order)
            case other:
                assert_never(other)

    # --- the deed ---------------------------------------------------------------------------------------------------

    def opened_before(self, asked: Asked, target: Target) -> Rotation | None:
        """Return the rotation that this very request has opened for *target* before a crash."""
        if asked.row is None:
            return None
        wanted = asked.rotation_id(name_of(target))
        known = self._engine.recorder.journal.rotations(subject=name_of(target))
        return next((each for each in known if each.id == wanted), None)

    def carry_out(self, order: Order, target: Target, asked: Asked, draft: Draft | None) -> Carried:
        """Do what *order* says at *target*; *draft* makes the request's own row, saved with it."""
        match order:
            case RotateRequest():
                return Carried(rotation=self._open(target, order, asked, draft))
            case AdoptRequest():
                return Carried(rotation=self._open_adoption(target, order, asked, draft))
            case RollbackRequest():
                return self._turn_back(target, asked, draft)
            case PauseRequest():
                hold = Hold(subject=name_of(target), until=order.until, past_safety_line=order.past_safety_line)
                detail = {"past_safety_line": order.past_safety_line}
                self._book.note(
                    EventType.PAUSED, target, asked, [hold], detail, draft=draft, exceptions=_skipped(asked)
                )
                return Carried(said={"subject": name_of(target), "paused_until": status.moment(order.until)})
            case ResumeRequest():
                was_paused = self._engine.memory.hold(name_of(target)) is not None
                self._book.released(target, asked, draft=draft)
                return Carried(said={"subject": name_of(target), "was_paused": was_paused})
            case ApplyRequest() | UndoRequest():
                return self._open_change(order, asked, draft)
            case other:
                assert_never(other)

    # --- rotate -----------------------------------------------------------------------------------------------------

    def _no_rotation(self, target: Target, order: RotateRequest) -> str | None:
        if order.compromised and not isinstance(target, DomainTarget):
            return "only a trust domain's CA can be declared compromised: rotate what you named instead"
        refuses = self._mesh_refuses(target) if isinstance(target, DomainTarget) else None
        if refuses is not None:
            return refuses
        under_way = self._engine.memory.open_rotation(name_of(target))
        if under_way is None:
            return None
        if order.compromised and under_way.intent is not IntentKind.COMPROMISE:
            return None
        if isinstance(target, CertificateTarget | TokenTarget) and under_way.trigger is not Trigger.REQUEST:
            return None
        return f"rotation {under_way.id} is under way already (law 5): wait for it"

    def _open(self, target: Target, order: RotateRequest, asked: Asked, draft: Draft | None) -> Rotation:
        """Open a rotation for a person, or turn the one that is under way to what the person asks for."""
        under_way = self._engine.memory.open_rotation(name_of(target))
        now = self._engine.clock.now()
        active: int | None = None
        if isinstance(target, DomainTarget):
            state = self._engine.domains.get(target.name)
            signer = state.signer if state is not None else None
            active = signer.number if signer is not None else None
        superseded = self._superseded(under_way)
        rotations = [superseded] if superseded is not None else []
        rotation = Rotation(
            id=asked.rotation_id(name_of(target)),
            subject=name_of(target),
            kind=kind_of(target),
            intent=IntentKind.COMPROMISE if order.compromised else IntentKind.ROTATE,
            trigger=Trigger.REQUEST,
            state=RotationState.OPEN,
            opened_at=now,
            emergency=order.emergency,
            ticket=order.ticket,
            from_generation=active,
        )
        detail: dict[str, str | int | bool] = {"intent": rotation.intent.value}
        if order.ticket is not None:
            detail["ticket"] = order.ticket
        if under_way is not None:
            detail["instead_of"] = under_way.id
        emergency = Exceptional(result="emergency", reason="windows and freezes were skipped on a person's word")
        self._book.note(
            EventType.INTENT,
            target,
            asked,
            [*rotations, rotation],
            detail,
            rotation=rotation,
            exceptions=[*([emergency] if order.emergency else []), *_skipped(asked)],
            closes=under_way,
            draft=draft,
        )
        log.info(LogEvent.REQUEST_RECEIVED, subject=rotation.subject, rotation_id=rotation.id)
        return rotation

    # --- rollback ---------------------------------------------------------------------------------------------------

    def _no_rollback(self, target: Target) -> str | None:
        if not isinstance(target, DomainTarget):
            return _NOT_ROLLED_BACK.format(name_of(target))
        rotation = self._engine.memory.open_rotation(target.subject)
        if rotation is None:
            return "no CA rotation is under way; past retirement there is no rollback, only a new rotation (law 7)"
        if rotation.intent is IntentKind.COMPROMISE:
            return "a compromised CA is never signed with again (law 8)"
        if rotation.from_generation is None:
            return "this is the first generation: there is nothing to go back to"
        # Back to a CA that was found there is a way, too.
        return self._mesh_refuses(target, led=False)

    def _turn_back(self, target: Target, asked: Asked, draft: Draft | None) -> Carried:
        """Turn the rotation that is under way."""
        rotation = self._engine.memory.open_rotation(name_of(target))
        if rotation is None:
            return Carried(refused="the rotation has just ended: only a new rotation leads on (law 7)")
        with self._engine.recorder.amending(rotation) as current:
            if self._engine.memory.open_rotation(name_of(target)) is not current:
                # It ended since it was looked at: writing it back would open what is finished.
                return Carried(refused="the rotation has just ended: only a new rotation leads on (law 7)")
            back = replace(current, intent=IntentKind.ROLL_BACK)
            detail = {"intent": "roll_back"}
            self._book.note(
                EventType.INTENT, target, asked, [back], detail, rotation=back, draft=draft, exceptions=_skipped(asked)
            )
        return Carried(rotation=back)

    # --- adopt ------------------------------------------------------------------------------------------------------

    def _adoption(self, target: Target) -> tuple[DomainTarget, DomainState, Adoption | None]:
        if not isinstance(target, DomainTarget) or target.mesh is None:
            raise Rejected(f"{name_of(target)} is no mesh: there is nothing to adopt")
        state = self._seen(target)
        if state is None or state.mesh is None:
            raise Unavailable(f"the mesh of {target.name} was not looked at yet: ask again in a moment")
        return target, state, state.mesh.adoption

    def _no_adoption(self, target: Target, order: AdoptRequest) -> str | None:
        domain, _, adoption = self._adoption(target)
        words = order.accept_interruption
        under_way = self._engine.memory.open_rotation(domain.subject)
        # What it interrupts may show only on the way: then the same adoption goes on with the person's words.
        goes_on = under_way is not None and not under_way.from_generation and not under_way.may_interrupt
        if adoption is None:
            return f"{domain.name} runs on a CA of rotator's already: there is nothing to adopt"
        if under_way is not None and not (goes_on and adoption.interrupts is not None and words is not None):
            return f"rotation {under_way.id} is under way already (law 5): wait for it"
        if adoption.interrupts is not None and words is None:
            return f"this interrupts: {adoption.interrupts}; accept it in words of your own if it may"
        return self._mesh_refuses(domain, led=False)

    def _open_adoption(self, target: Target, order: AdoptRequest, asked: Asked, draft: Draft | None) -> Rotation:
        """Open the rotation of an adoption; what it interrupts is an exception with the person's words."""
        domain, state, adoption = self._adoption(target)
        held = state.held
        interrupts = adoption.interrupts if adoption is not None else None
        rotation = self._engine.memory.open_rotation(domain.subject) or Rotation(
            id=asked.rotation_id(domain.subject),
            subject=domain.subject,
            kind=SubjectKind.TRUST_DOMAIN,
            intent=IntentKind.ROTATE,
            trigger=Trigger.REQUEST,
            state=RotationState.OPEN,
            opened_at=self._engine.clock.now(),
            ticket=order.ticket,
            from_generation=next((each.number for each in held.generations if each.authority.id == held.active), None),
        )
        rotation = replace(rotation, may_interrupt=interrupts is not None)
        detail: dict[str, str | int | bool] = {"intent": "adopt"}
        if adoption is not None:
            detail["found"] = adoption.found
        if order.ticket is not None:
            detail["ticket"] = order.ticket
        accepted = [
            Exceptional(
                result="interruption accepted",
                reason=f"an adoption interrupts on a person's word: {interrupts}",
                in_words=True,
            )
        ]
        self._book.note(
            EventType.INTENT,
            domain,
            asked,
            [rotation],
            detail,
            rotation=rotation,
            exceptions=[*(accepted if interrupts is not None else []), *_skipped(asked)],
            draft=draft,
        )
        return rotation

    # --- the platform -----------------------------------------------------------------------------------------------

    def _platform(self) -> PlatformTarget:
        found = self._engine.fleet.platform
        if found is None:
            raise ConfigError("the configuration says nothing under platform: there is nothing to apply")
        return found

    def _change(self, order: ApplyRequest | UndoRequest, target: PlatformTarget) -> tuple[PlatformChange, list[str]]:
        """Return what *order* would write as things stand now, and in words what is not as an undone change left it."""
        match order:
            case ApplyRequest():
                plan = self._engine.platform.planned(target)
                return PlatformChange(id="", kind=ChangeKind.APPLY, plan=plan), []
            case UndoRequest():
                undone = self._engine.recorder.journal.platform_change(order.change)
                if undone is None:
                    raise Rejected("no change of the platform has that id: rotator platform changes lists them")
                plan, differing = self._engine.platform.undoing(target, undone)
                change = PlatformChange(id="", kind=ChangeKind.UNDO, plan=plan, undoes=undone.id)
                return change, [each.in_words for each in differing]
            case other:
                assert_never(other)

    def _no_change(self, order: ApplyRequest | UndoRequest) -> str | None:
        under_way = self._engine.memory.open_rotation(PLATFORM)
        if under_way is not None and not order.supersede:
            return (
                f"change {under_way.id} is under way already: wait for it, or say --supersede to end it where it stands"
            )
        change, differs = self._change(order, self._platform())
        if order.plan is not None and order.plan != change.plan.digest:
            return _STALE
        if isinstance(order, UndoRequest) and differs and not order.overwrite:
            return (
                f"not as that change left it: {', '.join(differs)}; look at the plan, and say --overwrite if it may go"
            )
        return None

    def _open_change(self, order: ApplyRequest | UndoRequest, asked: Asked, draft: Draft | None) -> Carried:
        """Open the rotation that writes what the plan says, if it says anything; it may take another one's place."""
        target = self._platform()
        with self._engine.platform.stopped(target) as under_way:
            # Planned once more: until here the other one may have gone on.
            found, _ = self._change(order, target)
            if under_way is not None and not order.supersede:
                return Carried(refused=f"change {under_way.id} is under way already: wait for it")
            if order.plan is not None and order.plan != found.plan.digest:
                return Carried(refused=_STALE)
            if not found.plan.steps:
                known = self._engine.platform.found_applied(target) if isinstance(order, ApplyRequest) else ()
                self._book.nothing_to_do(target, asked, known, draft, closes=self._superseded(under_way))
                return Carried(said={"nothing_to_do": True})
            return self._begin_change(order, asked, draft, found, self._superseded(under_way))

    def _superseded(self, rotation: Rotation | None) -> Rotation | None:
        """Return *rotation* as it ends when a person's request takes its place."""
        if rotation is None:
            return None
        now = self._engine.clock.now()
        return replace(rotation, state=RotationState.FAILED, finished_at=now, outcome="superseded")

    def _begin_change(
        self,
        order: ApplyRequest | UndoRequest,
        asked: Asked,
        draft: Draft | None,
        found: PlatformChange,
        closes: Rotation | None,
    ) -> Carried:
        """Write down the intent of *found*, and the end of the change whose place it takes."""
        target = self._platform()
        rotation = Rotation(
            id=asked.rotation_id(PLATFORM),
            subject=PLATFORM,
            kind=SubjectKind.PLATFORM,
            intent=IntentKind.ROLL_BACK if isinstance(order, UndoRequest) else IntentKind.ROTATE,
            trigger=Trigger.REQUEST,
            state=RotationState.OPEN,
            opened_at=self._engine.clock.now(),
            ticket=order.ticket,
        )
        detail: dict[str, str | int | bool] = {
            "intent": found.kind.value,
            "step": f"an {found.kind.value} of the platform",
            "steps": len(found.plan.steps),
            "plan_sha256": found.plan.digest,
        }
        if order.ticket is not None:
            detail["ticket"] = order.ticket
        if isinstance(order, UndoRequest):
            detail |= {"undoes": order.change, "overwrites": order.overwrite}
        if closes is not None:
            detail["instead_of"] = closes.id
        self._book.note(
            EventType.INTENT,
            target,
            asked,
            [*([closes] if closes is not None else []), rotation],
            detail,
            rotation=rotation,
            closes=closes,
            draft=draft,
            change=replace(found, id=rotation.id),
        )
        log.info(LogEvent.REQUEST_RECEIVED, subject=PLATFORM, rotation_id=rotation.id)
        return Carried(rotation=rotation)

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _everything(self) -> tuple[SubjectName, ...]:
        """Return every certificate, trust domain, token and signing key."""
        fleet = self._engine.fleet
        return (
            *(each.subject for each in fleet.domains.values()),
            *fleet.certificates,
            *fleet.signing_keys,
            *fleet.tokens,
        )

    def _target(self, name: SubjectName) -> Target:
        """Return what *name* names in the configuration, with the journal as it stands."""
        # A commit whose reply was lost may have taken: what is under way is changed from what the journal holds.
        self._engine.recorder.settle_doubt()
        fleet = self._engine.fleet
        found: Target | None = (
            fleet.certificates.get(name)
            or fleet.domains.get(TrustDomainName(name))
            or fleet.tokens.get(name)
            or fleet.signing_keys.get(name)
        )
        if found is None:
            known = ", ".join(sorted(self._everything()))
            raise ConfigError(f"nothing is called {name}; the configuration names {known}")
        return found

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


def _step(subject: SubjectName, sentence: str) -> dict[str, Any]:
    return {"subject": subject, "at": None, "what": sentence, "why": "asked for"}


def kind_of(target: Target) -> SubjectKind:
    """Return what kind of subject *target* is."""
    match target:
        case DomainTarget():
            return SubjectKind.TRUST_DOMAIN
        case CertificateTarget():
            return SubjectKind.CERTIFICATE
        case PlatformTarget():
            return SubjectKind.PLATFORM
        case TokenTarget() | SigningKeyTarget():
            return SubjectKind.TOKEN
        case other:
            assert_never(other)


def _skipped(asked: Asked) -> list[Exceptional]:
    """Return the exception of an emergency that goes on without the approvals that rules ask for."""
    if not asked.skipped:
        return []
    rules = ", ".join(asked.skipped)
    return [Exceptional(result="approval skipped", reason=f"an emergency went on without the approvals of {rules}")]
