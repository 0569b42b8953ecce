"""
Observe, decide, execute, verify, record: the platform's documents, as one target.

Rules that must stay true here:

- One change at a time, and each is in journal and ledger as a whole before its first write (law 12).
- Where a change stands is read off the control planes (law 13). What is neither as the plan saw it nor as the plan
  leaves it belongs to somebody else: the change ends there and says what is left.
- The lease is looked at right before each write (law 14), and a write carries what was seen.
- Nothing is narrowed or removed before everybody has had what was widened: every proxy in contact has acknowledged.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from rotator.core.event import EventType
from rotator.core.foreseen import Alert, true_at
from rotator.core.foreseen_platform import CHANGE_HELD_AFTER, SENTENCES_SHOWN, change_alerts, drift_alerts
from rotator.engine.leaf_reconciler import POLL, Look
from rotator.engine.locks import Locks
from rotator.engine.platform_drift import DriftWatch, record_id
from rotator.engine.platform_seen import Present, present_at, remembered
from rotator.engine.platform_views import PlaceView
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import PlatformTarget
from rotator.errors import Conflict, Denied, Rejected
from rotator.platform.changes import ChangeKind, Plan, Stage, Step, plan_of, reached
from rotator.platform.documents import PLATFORM, Address, Document
from rotator.platform.drift import Drift
from rotator.ports import (
    AppliedDocument,
    PlatformChange,
    Rotation,
    RotationState,
    SeenDocument,
    Transaction,
)
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

MOST_CHANGES: Final = 10
"""So many changes stand in the status; the ledger has all."""

_TYPES: Final[Mapping[ChangeKind, EventType]] = {
    ChangeKind.APPLY: EventType.APPLIED,
    ChangeKind.UNDO: EventType.UNDONE,
    ChangeKind.PUT_BACK: EventType.PUT_BACK,
}


class PlatformReconciler:
    """Carries changes of the platform out, and looks for those of others. Safe from several threads."""

    def __init__(self, *, recorder: Recorder, locks: Locks) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._memory = recorder.memory
        self._locks = locks
        self._guard = threading.Lock()
        self._watch = DriftWatch(recorder)
        self._written: tuple[str, float] = ("", 0.0)
        """The change that wrote last, and when, on the monotonic clock."""
        self._recorded: set[tuple[str, int]] = set()
        """Steps of the open change whose records are written, by its id and their number."""
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
                    # Where nobody looks any more, nothing being there proves no removal.
                    if step.address.trust_domain in target.places:
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
        return self._watch.drift()

    def views(self) -> tuple[PlaceView, ...]:
        """Return every mesh as last seen, by trust domain."""
        return self._watch.views()

    def has_seen(self) -> bool:
        """Return whether every mesh was looked at for drift since the start."""
        return self._watch.has_seen()

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
                return self._watch.look(target)
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

        self._recorder.write((), [replace(event, id=record_id(f"step:{rotation.id}:{number}"))], also=keep)
        self._recorded.add((rotation.id, number))
        self._watch.written(step.address)

    def _completed(self, rotation: Rotation, plan: Plan) -> Look:
        """End the change: everything is as it should be, and was acknowledged."""
        done = replace(
            rotation,
            state=RotationState.DONE,
            finished_at=self._clock.now(),
            outcome=f"{_documents(len(plan.ends()))} as planned, and every proxy in contact has acknowledged",
        )
        event = self._scribe(rotation).event(EventType.COMPLETED, detail={"documents": len(plan.ends())})
        self._recorder.write([done], [replace(event, id=record_id(f"completed:{rotation.id}"))])
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
        self._recorder.write([ended], [replace(event, id=record_id(f"failed:{rotation.id}"))])
        log.warning(LogEvent.ROTATION_FINISHED, subject=PLATFORM, rotation_id=rotation.id, result=why)
        self._recorded.clear()
        return Look(at=self._clock.now(), why=outcome)

    def _scribe(self, rotation: Rotation | None) -> Scribe:
        return Scribe(clock=self._clock, subject=PLATFORM, rotation=rotation)

    # --- observing --------------------------------------------------------------------------------------------------

    def _applied(self) -> dict[Address, AppliedDocument]:
        return remembered(self._recorder.journal)

    def _look_at(
        self, target: PlatformTarget, applied: Mapping[Address, AppliedDocument], plan: Plan | None = None
    ) -> Present:
        """Return what stands on every control plane, or on those that *plan* writes to."""
        places = target.places
        if plan is not None:
            concerned = {each.address.trust_domain for each in plan.steps}
            places = {domain: place for domain, place in places.items() if domain in concerned}
        return present_at(places.values(), applied, plan)

    @staticmethod
    def _check_places(target: PlatformTarget, plan: Plan) -> None:
        gone = sorted({each.address.trust_domain for each in plan.steps} - target.places.keys())
        if gone:
            raise Rejected(f"the configuration names no environment in {', '.join(gone)} any more")


def _documents(count: int) -> str:
    return f"{count} document{'s are' if count != 1 else ' is'}"
