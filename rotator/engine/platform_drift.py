"""
What others change of the platform's documents: found, told, and put back where that is wanted.

Rules that must stay true here:

- Drift is judged by what was applied last. A configuration that nobody applied changes nothing and is no drift.
- Putting back has an end: what somebody undoes again and again is told of, not fought over.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from rotator.core.event import Event, EventType, Trigger
from rotator.core.model import IntentKind, SubjectKind, TrustDomainName
from rotator.engine.leaf_reconciler import Look
from rotator.engine.platform_seen import present_at, remembered
from rotator.engine.platform_views import PlaceView, seen_now
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import PlatformTarget
from rotator.errors import AdapterError
from rotator.platform.changes import ChangeKind
from rotator.platform.documents import PLATFORM, Address
from rotator.platform.drift import Drift, DriftKind, drifts, putting_back
from rotator.platform.model import OnDrift
from rotator.ports import AppliedDocument, PlatformChange, Rotation, RotationState
from rotator.redaction import redacted_text
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

MOST_PUT_BACK: Final = 5
PUT_BACK_WITHIN: Final = timedelta(hours=1)
"""One document is put back at most so often within that time."""

_LONGEST: Final = 500
"""Characters of what others chose, in a record."""


@dataclass(slots=True)
class _Known:
    """One drift as this process has found it."""

    drift: Drift
    since: datetime


class DriftWatch:
    """Looks for what others change. Called under the platform's lock; what it knows is read from any thread."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._guard = threading.Lock()
        self._known: dict[Address, _Known] = {}
        self._noted: dict[Address, Drift] = {}
        """What is recorded of it."""
        self._views: dict[TrustDomainName, PlaceView] = {}
        self._put_back: dict[Address, list[datetime]] = {}
        self._seen_at: datetime | None = None

    def drift(self) -> tuple[tuple[Drift, datetime], ...]:
        """Return what others have changed, as last seen, and since when."""
        with self._guard:
            return tuple((each.drift, each.since) for _, each in sorted(self._known.items()))

    def views(self) -> tuple[PlaceView, ...]:
        """Return every mesh as last seen, by trust domain."""
        with self._guard:
            return tuple(each for _, each in sorted(self._views.items()))

    def has_seen(self) -> bool:
        """Return whether every mesh was looked at since the start."""
        return self._seen_at is not None

    def written(self, address: Address) -> None:
        """Forget what was known of the document at *address*: rotator has just written it."""
        with self._guard:
            self._known.pop(address, None)

    def look(self, target: PlatformTarget) -> Look:
        """
        Look for what others have changed, record it, and open the change that puts it back if that is wanted.

        Raises:
            AdapterError: If a control plane cannot be asked; the others were looked at.
        """
        applied = remembered(self._recorder.journal)
        problems: list[AdapterError] = []
        found: list[Drift] = []
        views: dict[TrustDomainName, PlaceView] = {}
        revisions: dict[Address, str] = {}
        now = self._clock.now()
        for domain, place in target.places.items():
            before = self._views.get(domain, PlaceView(trust_domain=domain, mesh=target.meshes[domain]))
            try:
                present = present_at([place], applied)
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
        event = Scribe(clock=self._clock, subject=PLATFORM, rotation=None).event(
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
        return replace(event, id=record_id(f"drift:{address}:{said}:{revisions.get(address, '')}:{last}"))

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
        event = Scribe(clock=self._clock, subject=PLATFORM, rotation=rotation).event(
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


def record_id(text: str) -> str:
    """Return the id of the record about *text*: the same one seen again, by another process too, has the same."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"platform:{text}").hex
