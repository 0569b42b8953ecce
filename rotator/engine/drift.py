"""
What somebody else did to what is published: found between two looks, recorded once, and when to look for it.

Rules that must stay true here:

- The same state is found at every look until it is put right, and is one effect: one record (law 21).
- Moments are hashed from the identity, so ten thousand are spread evenly and a restart reshuffles nobody (law 20).
- Past the safety line a record that cannot be written keeps no renewal waiting (law 12).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from rotator.core.event import Corroboration, Event, EventType
from rotator.core.model import Publication
from rotator.engine.recorder import Recorder, Scribe
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

SOONEST_DRIFT_LOOK = timedelta(seconds=10)
LATEST_DRIFT_LOOK = timedelta(minutes=10)
_ANY_MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
"""From which intervals are counted."""

Publications = Sequence[Publication | None]
"""What each place of one subject holds, None if nothing."""


def next_look_for_drift(identity: str, lifetime: timedelta, now: datetime) -> datetime:
    """
    Return when what lives for *lifetime* is looked at again though nothing is due: somebody may have changed it.

    A twentieth of the lifetime apart, within bounds, each at its own moment of that interval, which hashing *identity*
    chooses: ten thousand are spread evenly from the first interval on, after every restart alike (law 20).
    """
    every = min(max(lifetime / 20, SOONEST_DRIFT_LOOK), LATEST_DRIFT_LOOK)
    drawn = int.from_bytes(hashlib.sha256(f"drift:{identity}".encode()).digest()[:8], "big")
    # Durations are whole microseconds: a moment that has come is not found again.
    phase = timedelta(microseconds=drawn % (every // timedelta(microseconds=1)))
    return now + every - (now - _ANY_MOMENT - phase) % every


def note_drift(
    recorder: Recorder,
    scribe: Scribe,
    before: Publications,
    seen: Publications,
    *,
    detail: Mapping[str, str | int | bool],
    safety_line: datetime | None,
) -> None:
    """Record what somebody else did between *before* and *seen*, which what is decided next puts right."""
    events: list[Event] = []
    # A reload may have given it other places.
    for was, held in zip(before, seen, strict=True) if len(before) == len(seen) else ():
        found = _drift_of(was, held)
        known = held or was
        if found is None or known is None:
            continue
        event = scribe.event(
            EventType.DRIFTED,
            result="found",
            reason=found,
            old=was.leaf or was.token if was is not None else None,
            new=held.leaf or held.token if held is not None else None,
            corroboration=Corroboration(kubernetes=_written_by(held)),
            detail={**detail, "target": known.target, "publication": known.number},
        )
        identity = f"drifted:{_state_of(known)}:{found}"
        events.append(replace(event, id=uuid.uuid5(uuid.NAMESPACE_URL, identity).hex))
    if not events:
        return
    recorder.write((), events, safety_line=safety_line)
    for event in events:
        log.warning(LogEvent.DRIFT_FOUND, subject=event.subject, reason=event.reason, **event.detail)


def _drift_of(was: Publication | None, held: Publication | None) -> str | None:
    """Return what somebody else did between two looks, in words; None if nothing, or if that cannot be known."""
    if held is None:
        return "it is not there any more" if was is not None else None
    return "; ".join(each for each in (held.problem, held.drift) if each) or None


def _state_of(publication: Publication) -> str:
    """Return what tells one state of one place from every other."""
    held = publication.leaf or publication.token
    content = held.sha256 if held is not None else ""
    return f"{publication.target}:{publication.number}:{publication.revision or content}"


def _written_by(held: Publication | None) -> str | None:
    """Return what an API server says of who wrote there last."""
    if held is None or held.revision is None:
        return None
    return "; ".join((f"resourceVersion {held.revision}", *held.writers[:3]))
