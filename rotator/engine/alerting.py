"""
Raise and clear: what is true now against what was raised, told to people and recorded.

Rules that must stay true here:

- Alerting stops nobody: neither a notifier that fails nor a ledger that cannot be written reaches the sweep. Both are
  tried again at the next look, people first: when the ledger cannot be written they need to know most.
- One raise and one clear, one record each (law 21). A record's id is made from key, severity and the moment at which
  the alert began, so a write whose reply was lost, and a restart while the alert is still true, add none.
- Nothing is remembered over a restart: what is still true is told again, once a key; what has ended meanwhile is
  absent. An alert whose beginning only this process saw (a consumer that shows nothing, a roll that waits without a
  deadline, a login) is then recorded again too, with its new beginning.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from rotator.core.event import Event, EventType
from rotator.core.foreseen import Alert, changes
from rotator.engine.recorder import Recorder, Scribe
from rotator.errors import InvariantBroken, RotatorError
from rotator.ports import Notice, Notifier
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

MOST_KEPT_NOTICES = 10_000
"""For one notifier that does not deliver: the oldest are dropped, the ledger has them all."""

MOST_RECORDS_A_LOOK = 1_000
"""A quarter of a second of the store's only writer: where thousands of alerts begin at once, steps come first."""

QUIET = timedelta(seconds=30)
"""How long an alert must have been gone before it is over: a roll that goes on to its next member is the same roll."""

Source = Callable[[datetime], Iterable[Alert]]
"""Gives the alerts that are true at a moment."""


class Alerting:
    """Keeps people told. Safe from several threads: a look during another one is none."""

    def __init__(self, *, recorder: Recorder, notifiers: Sequence[Notifier], sources: Sequence[Source]) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._sources = list(sources)
        self._outboxes = [(notifier, deque[Notice](maxlen=MOST_KEPT_NOTICES)) for notifier in notifiers]
        self._raised: dict[str, Alert] = {}
        self._record_ids: dict[str, str] = {}
        """Of the last raise, by key."""
        self._turned: dict[str, datetime] = {}
        """When this process last saw an alert end or get milder, by key: what comes after is a new one."""
        self._gone: dict[str, datetime] = {}
        """Since when what is raised is no longer true, by key."""
        self._unrecorded: list[Event] = []
        self._looking = threading.Lock()

    def watch(self, source: Source) -> None:
        """Look at *source* too from the next look on."""
        self._sources.append(source)

    def raised(self) -> tuple[Alert, ...]:
        """Return what is raised now, by key."""
        return tuple(sorted(self._raised.copy().values(), key=lambda each: each.key))

    def look(self) -> None:
        """Tell people and the ledger what has changed. Never raises."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._look(self._clock.now())
        except Exception:
            # A defect in telling people must not stop what they would be told of.
            log.exception(LogEvent.THREAD_FAILED, doing="looking at alerts")
        finally:
            self._looking.release()

    def _look(self, now: datetime) -> None:
        true_now = {each.key: each for source in self._sources for each in source(now)}
        to_raise, gone = changes(self._raised, true_now.values())
        to_clear = self._over(gone, now)
        for alert in to_raise:
            self._unrecorded.append(self._raise(alert))
        for alert in to_clear:
            self._unrecorded.append(self._clear(alert, now))
        for key, alert in true_now.items():
            if alert.severity is not self._raised[key].severity:
                self._turned[key] = now
                self._raised[key] = alert
        notices = [*(_notice(each, now, raised=True) for each in to_raise)]
        notices += (_notice(each, now, raised=False) for each in to_clear)
        for notifier, outbox in self._outboxes:
            outbox.extend(notices)
            _deliver(notifier, outbox)
        self._record()

    def _over(self, gone: Sequence[Alert], now: datetime) -> tuple[Alert, ...]:
        """Return those of *gone* that have been gone for long enough; a clock that was set back counts as that."""
        self._gone = {each.key: self._gone.get(each.key, now) for each in gone}
        return tuple(each for each in gone if not timedelta() <= now - self._gone[each.key] < QUIET)

    # --- raise and clear --------------------------------------------------------------------------------------------

    def _raise(self, alert: Alert) -> Event:
        """Take *alert* as raised; return its record."""
        began = max(alert.since, self._turned.get(alert.key, alert.since))
        record_id = _id(f"alert_raised:{alert.key}:{alert.severity}:{began.isoformat()}")
        self._raised[alert.key] = alert
        self._record_ids[alert.key] = record_id
        return replace(self._event(EventType.ALERT_RAISED, alert, result=alert.severity.value), id=record_id)

    def _clear(self, alert: Alert, now: datetime) -> Event:
        """Take *alert* as ended at *now*; return its record."""
        del self._raised[alert.key]
        self._turned[alert.key] = now
        record_id = _id(f"alert_cleared:{self._record_ids.pop(alert.key)}")
        return replace(self._event(EventType.ALERT_CLEARED, alert, result="ok"), id=record_id)

    def _event(self, type_: EventType, alert: Alert, *, result: str) -> Event:
        rotation = self._recorder.memory.open_rotation(alert.subject)
        scribe = Scribe(
            clock=self._clock,
            subject=alert.subject,
            rotation=None,
            rotation_id=rotation.id if rotation is not None else None,
        )
        detail = {"alert": alert.kind.value, "severity": alert.severity.value}
        return scribe.event(type_, result=result, reason=alert.summary, detail=detail)

    def _record(self) -> None:
        """Write what is not recorded yet, oldest first; what cannot be written now is tried at the next look."""
        batch = self._unrecorded[:MOST_RECORDS_A_LOOK]
        if not batch:
            return
        try:
            self._recorder.write((), batch)
        except InvariantBroken as error:
            # Trying again would be refused again, and hold up every later record.
            log.error(LogEvent.LAW_KEPT, law=error.law, error=str(error))  # noqa: TRY400 -- found, not failed
        except RotatorError as error:
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))
            return
        del self._unrecorded[: len(batch)]


def _deliver(notifier: Notifier, outbox: deque[Notice]) -> None:
    """Send what waits in *outbox*; it waits on if that fails."""
    if not outbox:
        return
    try:
        notifier.notify(tuple(outbox))
    except Exception as error:  # noqa: BLE001 -- what somebody's notifier raises is not known here
        # Whatever is wrong with it: one notifier must stop neither the others nor the sweep.
        log.warning(LogEvent.NOTICE_FAILED, notifier=type(notifier).__name__, error=type(error).__name__)
        return
    outbox.clear()


def _notice(alert: Alert, now: datetime, *, raised: bool) -> Notice:
    return Notice(
        key=alert.key,
        subject=alert.subject,
        severity=alert.severity,
        summary=alert.summary,
        raised=raised,
        at=now,
    )


def _id(text: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, text).hex
