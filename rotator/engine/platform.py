"""
Observe, decide, execute, verify, record: the platform's documents, as one target.

Rules that must stay true here:

- One change at a time, and each is in journal and ledger as a whole before its first write (law 12).
- Where a change stands is read off the control planes (law 13). What is neither as the plan saw it nor as the plan
  leaves it belongs to somebody else: the change ends there and says what is left.
- Nothing is narrowed or removed before everybody has had what was widened: every proxy in contact has acknowledged.
- Drift is judged by what was applied last. A configuration that nobody applied changes nothing and is no drift.
- Putting back has an end: what somebody undoes again and again is told of, not fought over.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from rotator.core.event import Event, EventType, Trigger
from rotator.core.foreseen import Alert, true_at
from rotator.core.foreseen_platform import CHANGE_HELD_AFTER, SENTENCES_SHOWN, change_alerts, drift_alerts
from rotator.core.model import IntentKind, SubjectKind, TrustDomainName
from rotator.engine.leaf_reconciler import POLL, Look
from rotator.engine.locks import Locks
from rotator.engine.platform_views import PlaceView, seen_now
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import PlatformTarget
from rotator.errors import AdapterError, Conflict, Denied, Rejected
from rotator.platform.changes import ChangeKind, Plan, Stage, Step, plan_of, reached
from rotator.platform.documents import PLATFORM, Address, Document
from rotator.platform.drift import Drift, DriftKind, drifts, putting_back
from rotator.platform.model import OnDrift
from rotator.ports import (
    AppliedDocument,
    MeshDocuments,
    PlatformChange,
    Rotation,
    RotationState,
    SeenDocument,
    Transaction,
)
from rotator.redaction import redacted_text
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

MOST_PUT_BACK: Final = 5
PUT_BACK_WITHIN: Final = timedelta(hours=1)
"""One document is put back at most so often within that time."""

MOST_CHANGES: Final = 10
"""So many changes stand in the status; the ledger has all."""

_TYPES: Final[Mapping[ChangeKind, EventType]] = {
    ChangeKind.APPLY: EventType.APPLIED,
    ChangeKind.UNDO: EventType.UNDONE,
    ChangeKind.PUT_BACK: EventType.PUT_BACK,
}
_LONGEST: Final = 500
"""Characters of what others chose, in a record."""


@dataclass(slots=True)
class _Known:
    """One drift as this process has found it."""

    drift: Drift
    since: datetime


@dataclass(slots=True)
class _Present:
    """What stands on the control planes at one moment."""

    seen: dict[Address, SeenDocument] = field(default_factory=dict)
    own: dict[Address, Document] = field(default_factory=dict)
    """Rotator's own documents, as they were written where a control plane only added to them."""


class PlatformReconciler:
    """Carries changes of the platform out, and looks for those of others. Safe from several threads."""

    def __init__(self, *, recorder: Recorder, locks: Locks) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._memory = recorder.memory
        self._locks = locks
        self._guard = threading.Lock()
        self._known: dict[Address, _Known] = {}
        self._noted: dict[Address, Drift] = {}
        """What is recorded of it."""
        self._views: dict[TrustDomainName, PlaceView] = {}
        self._written: tuple[str, float] = ("", 0.0)
        """The change that wrote last, and when, on the monotonic clock."""
        self._recorded: set[tuple[str, int]] = set()
        """Steps of the open change whose records are written, by its id and their number."""
        self._put_back: dict[Address, list[datetime]] = {}
        self._seen_at: datetime | None = None
        self._changes: tuple[PlatformChange, ...] = ()
        self._rotations: Mapping[str, Rotation] = {}
        """Who asked for these changes and how they stand, by id."""

    # --- what people ask --------------------------------------------------------------------------------------------

    def planned(self, target: PlatformTarget) -> Plan:
        """
        Return what it takes to make every control plane hold what the configuration says, as things stand now.

        Raises:
            AdapterError: If a control plane cannot be asked.
        """
        applied = self._applied()
        return plan_of(target.wanted, self._look_at(target, applied).own)

    def undoing(self, target: PlatformTarget, change: PlatformChange) -> tuple[Plan, tuple[Address, ...]]:
        """
        Return what it takes to undo *change* as things stand now, and which documents are not as it left them.

        Raises:
            Rejected: If it is about a mesh that the configuration does not name any more.
            AdapterError: If a control plane cannot be asked.
        """
        self._check_places(target, change.plan)
        present = self._look_at(target, self._applied()).own
        return change.plan.turned(present), change.plan.differing(present)

    @contextmanager
    def stopped(self, target: PlatformTarget) -> Iterator[Rotation | None]:
        """
        Give the change that is under way, None without one; it writes nothing meanwhile, and what it wrote is recorded.

        Raises:
            AdapterError: If a control plane cannot be asked.
        """
        with self._locks.of(target.id):
            rotation = self._memory.open_rotation(PLATFORM)
            change = self._recorder.journal.platform_change(rotation.id) if rotation is not None else None
            if rotation is not None and change is not None:
                present = self._look_at(target, self._applied(), plan=change.plan)
                for number, step in change.plan.done(present.own):
                    self._record(rotation, change, number, present.seen.get(step.address))
            yield rotation

    def found_applied(self, target: PlatformTarget) -> tuple[AppliedDocument, ...]:
        """Return documents that stand as the configuration says and were not remembered: to be kept from now on."""
        applied = self._applied()
        present = self._look_at(target, applied)
        now = self._clock.now()
        return tuple(
            AppliedDocument(document=document, stood_sha256=present.seen[address].document.sha256, change="", at=now)
            for address, document in target.wanted.items()
            if address not in applied and present.own.get(address) == document
        )

    def drift(self) -> tuple[tuple[Drift, datetime], ...]:
        """Return what others have changed, as last seen, and since when."""
        with self._guard:
            return tuple((each.drift, each.since) for _, each in sorted(self._known.items()))

    def views(self) -> tuple[PlaceView, ...]:
        """Return every mesh as last seen, by trust domain."""
        with self._guard:
            return tuple(each for _, each in sorted(self._views.items()))

    def has_seen(self) -> bool:
        """Return whether every mesh was looked at for drift since the start."""
        return self._seen_at is not None

    def alerts(self, now: datetime) -> tuple[Alert, ...]:
        """Return what people should know of it at *now*."""
        known = self.drift()
        found = drift_alerts(
            PLATFORM,
            [(each.in_words, since) for each, since in known],
            grave=any(each.is_grave for each, _ in known),
        )
        rotation = self._memory.open_rotation(PLATFORM)
        if rotation is not None:
            found += change_alerts(PLATFORM, rotation.id, rotation.opened_at)
        return true_at(found, now)

    def changes(self) -> tuple[PlatformChange, ...]:
        """Return the newest changes that this process knows of, newest first."""
        with self._guard:
            return self._changes

    def rotation_of(self, change: PlatformChange) -> Rotation | None:
        """Return who asked for *change* and how it stood when this process looked last; None if it is not known."""
        with self._guard:
            return self._rotations.get(change.id)

    def progress(self, rotation_id: str) -> tuple[int, int]:
        """Return how many writes of the open change *rotation_id* are recorded, of how many."""
        total = next((len(each.plan.steps) for each in self.changes() if each.id == rotation_id), 0)
        return sum(1 for change, _ in self._recorded.copy() if change == rotation_id), total

    # --- one visit --------------------------------------------------------------------------------------------------

    def reconcile(self, target: PlatformTarget) -> Look:
        """Go on with the change that is open, or look for what others have changed."""
        with self._locks.of(target.id):
            changes = self._recorder.journal.last_platform_changes(MOST_CHANGES)
            rotations = self._recorder.journal.last_platform_rotations(MOST_CHANGES)
            with self._guard:
                self._changes, self._rotations = changes, {each.id: each for each in rotations}
            rotation = self._memory.open_rotation(PLATFORM)
            if rotation is None:
                return self._look_for_drift(target)
            return self._go_on(target, rotation)

    def _go_on(self, target: PlatformTarget, rotation: Rotation) -> Look:
        change = self._recorder.journal.platform_change(rotation.id)
        if change is None:
            return self._failed(rotation, Plan(), 0, "the journal does not know what it was to write")
        plan = change.plan
        try:
            self._check_places(target, plan)
        except Rejected as error:
            return self._failed(rotation, plan, 0, str(error))
        applied = self._applied()
        present = self._look_at(target, applied, plan=plan)
        done = reached(plan.steps, present.own)
        lost = [address for address, at in done.items() if at is None]
        count = sum(at or 0 for at in done.values())
        if lost:
            named = ", ".join(each.in_words for each in lost[:SENTENCES_SHOWN])
            return self._failed(rotation, plan, count, f"{named}: neither as the plan saw it nor as it leaves it")
        turn: dict[Address, int] = {}
        has_shrunk = False
        for number, step in enumerate(plan.steps):
            turn[step.address] = turn.get(step.address, 0) + 1
            shrinks = step.stage >= Stage.NARROW
            if turn[step.address] <= (done[step.address] or 0):
                self._record(rotation, change, number, present.seen.get(step.address))
                has_shrunk = has_shrunk or shrinks
                continue
            # Only after a restart may something have shrunk already: then what grew was waited for.
            if shrinks and not has_shrunk and plan.steps[0].stage < Stage.NARROW:
                waits = self._waits(target, rotation, plan)
                if waits is not None:
                    return waits
            try:
                with self._recorder.tracing.piece("write_document", step.in_words, rotation.subject, rotation):
                    written = self._write(target, step, present.seen.get(step.address))
            except Conflict as error:
                # Observed again, which tells whose it is now.
                return Look(at=self._clock.now(), why=str(error))
            except (Rejected, Denied) as error:
                return self._failed(rotation, plan, count, f"{step.in_words}: {error}")
            count += 1
            has_shrunk = has_shrunk or shrinks
            self._written = (rotation.id, self._clock.monotonic())
            if written is None:
                present.seen.pop(step.address, None)
            else:
                present.seen[step.address] = written
            self._record(rotation, change, number, written)
        waits = self._waits(target, rotation, plan)
        return waits if waits is not None else self._completed(rotation, plan)

    def _write(self, target: PlatformTarget, step: Step, seen: SeenDocument | None) -> SeenDocument | None:
        """Make one step's write, and return what reads back; None once it is removed."""
        self._recorder.fence()
        place = target.places[step.address.trust_domain]
        if step.after is not None:
            return place.write(step.after, seen)
        if seen is not None:
            place.remove(seen)
        return None

    def _waits(self, target: PlatformTarget, rotation: Rotation, plan: Plan) -> Look | None:
        """Return whom the change waits for until what it has written is in use; None if for nobody."""
        now, moment = self._clock.now(), self._clock.monotonic()
        if self._written[0] != rotation.id:
            # After a restart nobody knows when the last write was: it counts as made now.
            self._written = (rotation.id, moment)
        left = target.settle.total_seconds() - (moment - self._written[1])
        if left > 0:
            at = now + min(POLL, timedelta(seconds=left))
            return Look(at=at, waiting_on=("the control planes",), why="what was written is on its way to the proxies")
        lagging = tuple(
            name
            for domain in dict.fromkeys(each.address.trust_domain for each in plan.steps)
            for name in target.places[domain].lagging()
        )
        if not lagging:
            return None
        return Look(
            at=now + POLL,
            waiting_on=lagging,
            why="they have not acknowledged what was written",
            alert=now - rotation.opened_at >= CHANGE_HELD_AFTER,
        )

    # --- records ----------------------------------------------------------------------------------------------------

    def _record(self, rotation: Rotation, change: PlatformChange, number: int, seen: SeenDocument | None) -> None:
        """Write down that step *number* is done, and what is there by it now, if that is not written down."""
        if (rotation.id, number) in self._recorded:
            return
        step = change.plan.steps[number]
        event = self._scribe(rotation).event(
            _TYPES[change.kind],
            detail={
                "trust_domain": step.address.trust_domain,
                "mesh": step.address.mesh,
                "kind": step.address.kind,
                "name": step.address.name,
                "what": step.in_words,
                "before_sha256": step.before.sha256 if step.before is not None else "",
                "after_sha256": step.after.sha256 if step.after is not None else "",
                "step": number + 1,
                "steps": len(change.plan.steps),
            },
        )
        row = gone = None
        if step.after is None:
            gone = AppliedDocument(
                document=step.before or Document(address=step.address), stood_sha256="", change=change.id, at=event.time
            )
        elif seen is not None:
            row = AppliedDocument(
                document=step.after, stood_sha256=seen.document.sha256, change=change.id, at=event.time
            )

        def keep(transaction: Transaction) -> None:
            if row is not None:
                transaction.save(row)
            if gone is not None:
                transaction.forget(gone)

        self._recorder.write((), [replace(event, id=_id(f"step:{rotation.id}:{number}"))], also=keep)
        self._recorded.add((rotation.id, number))
        with self._guard:
            self._known.pop(step.address, None)

    def _completed(self, rotation: Rotation, plan: Plan) -> Look:
        """End the change: everything is as it should be, and was acknowledged."""
        done = replace(
            rotation,
            state=RotationState.DONE,
            finished_at=self._clock.now(),
            outcome=f"{_documents(len(plan.ends()))} as planned, and every proxy in contact has acknowledged",
        )
        event = self._scribe(rotation).event(EventType.COMPLETED, detail={"documents": len(plan.ends())})
        self._recorder.write([done], [replace(event, id=_id(f"completed:{rotation.id}"))])
        log.info(LogEvent.ROTATION_FINISHED, subject=PLATFORM, rotation_id=rotation.id, result=done.state.value)
        self._recorded.clear()
        return Look(at=self._clock.now())

    def _failed(self, rotation: Rotation, plan: Plan, count: int, why: str) -> Look:
        """End the change where it stands, and say what is left of it."""
        outcome = (
            f"{count} of {len(plan.steps)} writes were made, then it ended: {why}; rotator platform diff shows the rest"
        )
        ended = replace(rotation, state=RotationState.FAILED, finished_at=self._clock.now(), outcome=outcome)
        event = self._scribe(rotation).event(
            EventType.FAILED, result="not as planned", reason=outcome, detail={"done": count, "steps": len(plan.steps)}
        )
        self._recorder.write([ended], [replace(event, id=_id(f"failed:{rotation.id}"))])
        log.warning(LogEvent.ROTATION_FINISHED, subject=PLATFORM, rotation_id=rotation.id, result=why)
        self._recorded.clear()
        return Look(at=self._clock.now(), why=outcome)

    def _scribe(self, rotation: Rotation | None) -> Scribe:
        return Scribe(clock=self._clock, subject=PLATFORM, rotation=rotation)

    # --- drift ------------------------------------------------------------------------------------------------------

    def _look_for_drift(self, target: PlatformTarget) -> Look:
        applied = self._applied()
        problems: list[AdapterError] = []
        found: list[Drift] = []
        views: dict[TrustDomainName, PlaceView] = {}
        revisions: dict[Address, str] = {}
        now = self._clock.now()
        for domain, place in target.places.items():
            before = self._views.get(domain, PlaceView(trust_domain=domain, mesh=target.meshes[domain]))
            try:
                present = self._present({domain: place}, applied)
            except AdapterError as error:
                problems.append(error)
                views[domain] = replace(before, problem=str(error))
                # What was known of it goes on: silence is no mend.
                found += [each for each, _ in self.drift() if each.address.trust_domain == domain]
                continue
            known = {address: each.document for address, each in applied.items() if address.trust_domain == domain}
            others = [each.document for address, each in present.seen.items() if address not in present.own]
            here = list(drifts(known, present.own)) if known else []
            here += target.foreign(domain, list(present.own.values()), others)
            found += here
            revisions |= {address: each.revision for address, each in present.seen.items()}
            wanted = {address: each for address, each in target.wanted.items() if address.trust_domain == domain}
            views[domain] = seen_now(before, wanted=wanted, applied=known, own=present.own, found=here, now=now)
        self._note(found, revisions, applied)
        with self._guard:
            self._views = views
        if problems:
            raise problems[0]
        self._seen_at = now
        opened = self._put_back_now(target)
        return Look(at=now if opened else now + target.look_every)

    def _note(
        self, found: Sequence[Drift], revisions: Mapping[Address, str], applied: Mapping[Address, AppliedDocument]
    ) -> None:
        """Record what is new among *found*, once, and forget what is gone."""
        now = self._clock.now()
        with self._guard:
            before = dict(self._known)
            # Known before it is recorded: people are told also while nothing can be written.
            self._known = {
                each.address: _Known(each, before[each.address].since if each.address in before else now)
                for each in found
            }
        fresh = [each for each in found if self._noted.get(each.address) != each]
        for each in fresh:
            log.warning(LogEvent.DRIFT_FOUND, subject=PLATFORM, reason=each.in_words)
        if fresh:
            self._recorder.write((), [self._drifted(each, revisions, applied) for each in fresh])
        self._noted = {each.address: each for each in found}

    def _drifted(
        self, drift: Drift, revisions: Mapping[Address, str], applied: Mapping[Address, AppliedDocument]
    ) -> Event:
        """Return the record of one drift: the same one seen again after a restart has the same id."""
        address = drift.address
        event = self._scribe(None).event(
            EventType.DRIFTED,
            result=drift.kind.value,
            reason=redacted_text(drift.in_words)[:_LONGEST],
            detail={
                # Somebody else chose the name: it may look like anything.
                "target": redacted_text(address.in_words)[:_LONGEST],
                "trust_domain": address.trust_domain,
                "mesh": address.mesh,
                "kind": address.kind,
                "name": redacted_text(address.name)[:_LONGEST],
                "applied_sha256": drift.applied.sha256 if drift.applied is not None else "",
                "found_sha256": drift.found.sha256 if drift.found is not None else "",
                "opens": drift.is_grave,
            },
        )
        last = applied[address].change if address in applied else ""
        said = drift.found.sha256 if drift.found is not None else "gone"
        return replace(event, id=_id(f"drift:{address}:{said}:{revisions.get(address, '')}:{last}"))

    def _put_back_now(self, target: PlatformTarget) -> bool:
        """Open the change that puts back what others changed, if that is wanted; return whether it was opened."""
        if target.on_drift is not OnDrift.PUT_BACK:
            return False
        now = self._clock.now()
        chosen = []
        for drift, _ in self.drift():
            recent = [at for at in self._put_back.get(drift.address, ()) if timedelta() <= now - at < PUT_BACK_WITHIN]
            self._put_back[drift.address] = recent
            if drift.kind is not DriftKind.FOREIGN and len(recent) < MOST_PUT_BACK:
                chosen.append(drift)
        plan = putting_back(tuple(chosen))
        if not plan.steps:
            return False
        rotation = Rotation(
            id=uuid.uuid4().hex,
            subject=PLATFORM,
            kind=SubjectKind.PLATFORM,
            intent=IntentKind.ROLL_BACK,
            trigger=Trigger.DRIFT,
            state=RotationState.OPEN,
            opened_at=now,
        )
        change = PlatformChange(id=rotation.id, kind=ChangeKind.PUT_BACK, plan=plan)
        event = self._scribe(rotation).event(
            EventType.INTENT,
            result="started",
            reason="what somebody else changed is put back as platform.drift.then says",
            detail={
                "intent": change.kind.value,
                "step": "putting back what others changed",
                "steps": len(plan.steps),
                "plan_sha256": plan.digest,
            },
        )
        self._recorder.write([rotation], [event], also=lambda transaction: transaction.save(change))
        for drift in chosen:
            self._put_back[drift.address].append(now)
        return True

    # --- observing --------------------------------------------------------------------------------------------------

    def _applied(self) -> dict[Address, AppliedDocument]:
        return {each.document.address: each for each in self._recorder.journal.applied_documents()}

    def _look_at(
        self, target: PlatformTarget, applied: Mapping[Address, AppliedDocument], plan: Plan | None = None
    ) -> _Present:
        """Return what stands on every control plane, or on those that *plan* writes to."""
        places = target.places
        if plan is not None:
            concerned = {each.address.trust_domain for each in plan.steps}
            places = {domain: place for domain, place in places.items() if domain in concerned}
        return self._present(places, applied, plan)

    def _present(
        self,
        places: Mapping[TrustDomainName, MeshDocuments],
        applied: Mapping[Address, AppliedDocument],
        plan: Plan | None = None,
    ) -> _Present:
        found = _Present()
        for place in places.values():
            for address, seen in place.listed().items():
                found.seen[address] = seen
                if seen.document.is_rotators:
                    found.own[address] = self._as_written(place, seen, applied.get(address), plan)
        return found

    @staticmethod
    def _as_written(
        place: MeshDocuments, seen: SeenDocument, applied: AppliedDocument | None, plan: Plan | None
    ) -> Document:
        """Return what was *seen* without what a control plane has added to what rotator wrote."""
        document = seen.document
        if applied is not None and document.sha256 == applied.stood_sha256:
            return applied.document
        steps = plan.steps if plan is not None else ()
        known = [each.after for each in steps if each.address == document.address and each.after is not None]
        if document not in known:
            # A write of the open change whose record a crash has cut off; a later one may say more than an earlier.
            return next((each for each in reversed(known) if place.says(seen, each)), document)
        return document

    @staticmethod
    def _check_places(target: PlatformTarget, plan: Plan) -> None:
        gone = sorted({each.address.trust_domain for each in plan.steps} - target.places.keys())
        if gone:
            raise Rejected(f"the configuration names no environment in {', '.join(gone)} any more")


def _documents(count: int) -> str:
    return f"{count} document{'s are' if count != 1 else ' is'}"


def _id(text: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"platform:{text}").hex
