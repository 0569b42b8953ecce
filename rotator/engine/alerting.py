"""
Raise and clear: what is true now against what was raised, told to people and recorded.

Rules that must stay true here:

- Alerting stops nobody: neither a receiver that fails nor a ledger that cannot be written reaches the sweep. Both are
  tried again, people first: when the ledger cannot be written they need to know most.
- One raise and one clear, one record each (law 21). A record's id is made from key, severity and the moment at which
  the alert began, so a write whose reply was lost adds none.
- What is raised, and who has been told, stands in the journal beside its record. So a restart and a fail-over raise
  nothing anew, go on telling who has not heard yet, and clear what ended meanwhile.
- What a process before has raised is not cleared before this one has looked at its subject: not seen is not over.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from rotator.core.alert_kinds import AlertKind
from rotator.core.event import Event, EventType
from rotator.core.foreseen import Alert, changes
from rotator.core.model import SubjectName
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.telling import Delivery, Teller
from rotator.errors import InvariantBroken, JournalError, RotatorError
from rotator.ports import Notice, Notifier, StandingAlert
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

MOST_KEPT_NOTICES = 10_000
"""For one notifier that does not deliver: the oldest are dropped, the ledger has them all."""

MOST_RECORDS_A_LOOK = 1_000
"""A quarter of a second of the store's only writer: where thousands of alerts begin at once, steps come first."""

QUIET = timedelta(seconds=30)
"""How long an alert must have been gone before it is over: a roll that goes on to its next member is the same roll."""

LAST_WORDS = timedelta(seconds=5)
"""For the last message of each teller at the end; what is not said then is said by the next process."""

KEYS_IN_A_RECORD = 10
"""Alerts that a record of a message names; it counts them all."""

Source = Callable[[datetime], Iterable[Alert]]
"""Gives the alerts that are true at a moment."""

HasSeen = Callable[[SubjectName], bool]
"""Says whether this process has looked at a subject; also of what it does not look after, of which nothing is true."""


class Alerting:
    """Keeps people told. Safe from several threads: a look during another one is none."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        notifiers: Sequence[Notifier],
        sources: Sequence[Source],
        has_seen: HasSeen = lambda _: True,
    ) -> None:
        self._recorder = recorder
        self._clock = recorder.clock
        self._sources = list(sources)
        self._has_seen = [has_seen]
        self._outboxes = [(notifier, deque[Notice](maxlen=MOST_KEPT_NOTICES)) for notifier in notifiers]
        self._tellers: tuple[Teller, ...] = ()
        self._fresh: tuple[Teller, ...] = ()
        """Tellers that have not begun yet."""
        self._raised: dict[str, Alert] = {}
        self._standing: dict[str, StandingAlert] = {}
        """As the journal has or will have it: what is raised, and ends that somebody does not know yet; by key."""
        self._unsaved: dict[str, StandingAlert] = {}
        """Rows that the journal does not have as they stand, or still has; by key."""
        self._resumed = False
        self._carried: set[str] = set()
        """Keys that a process before has raised and this one has not seen true yet."""
        self._turned: dict[str, datetime] = {}
        """When this process last saw an alert end or get milder, by key: what comes after is a new one."""
        self._gone: dict[str, datetime] = {}
        """Since when what is raised is no longer true, by key."""
        self._unrecorded: list[Event] = []
        self._looking = threading.Lock()
        self._stopped = False

    def watch(self, source: Source, has_seen: HasSeen | None = None) -> None:
        """Look at *source* too from the next look on; *has_seen* says of which subjects it knows already."""
        self._sources.append(source)
        if has_seen is not None:
            self._has_seen.append(has_seen)

    def use(self, tellers: Sequence[Teller]) -> None:
        """Tell *tellers*, not started yet, from the next look on, in the place of those before."""
        with self._looking:
            before, self._tellers = self._tellers, tuple(tellers)
            unbegun, self._fresh = self._fresh, self._tellers
        for teller in before:
            if teller not in unbegun:
                teller.stop(LAST_WORDS)

    def stop(self) -> None:
        """Let every teller end; no look tells anybody any more."""
        with self._looking:
            self._stopped = True
            begun = [each for each in self._tellers if each not in self._fresh]
        for teller in begun:
            teller.stop(LAST_WORDS)
        with self._looking:
            self._note_deliveries()
            self._record()

    def tellers(self) -> tuple[Teller, ...]:
        """Return who is told, for metrics."""
        return self._tellers

    def raised(self) -> tuple[Alert, ...]:
        """Return what is raised now, by key."""
        return tuple(sorted(self._raised.copy().values(), key=lambda each: each.key))

    def begun_before(self, kind: AlertKind, subject: SubjectName) -> datetime | None:
        """Return since when an alert is true that a process before has raised; None if this one knows better."""
        key = f"{subject}/{kind}"
        return self._raised[key].since if key in self._carried and key in self._raised else None

    def look(self) -> None:
        """Tell people and the ledger what has changed. Never raises."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            if not self._stopped:
                self._look(self._clock.now())
        except Exception:
            # A defect in telling people must not stop what they would be told of.
            log.exception(LogEvent.THREAD_FAILED, doing="looking at alerts")
        finally:
            self._looking.release()

    def _look(self, now: datetime) -> None:
        reminders = self._resume()
        true_now = {each.key: each for source in self._sources for each in source(now)}
        true_now |= {each.key: each for teller in self._tellers for each in teller.alerts(now)}
        self._carried -= true_now.keys()
        to_raise, gone = changes(self._raised, true_now.values())
        to_clear = self._over(gone, now)
        for alert in to_raise:
            self._unrecorded.append(self._raise(alert, now))
        for alert in to_clear:
            self._unrecorded.append(self._clear(alert, now))
        eased = [each for key, each in true_now.items() if each.severity is not self._raised[key].severity]
        for alert in eased:
            self._turned[alert.key] = now
            self._raised[alert.key] = alert
            self._stand(replace(self._standing[alert.key], severity=alert.severity, summary=alert.summary))
        notices = [*(_notice(each, now, raised=True) for each in to_raise)]
        notices += (_notice(each, now, raised=False) for each in to_clear)
        known = [*reminders, *(replace(_notice(each, now, raised=True), again=True) for each in eased)]
        for notifier, outbox in self._outboxes:
            outbox.extend((*reminders, *notices))
            _deliver(notifier, outbox)
        self._begin_fresh()
        for teller in self._tellers:
            teller.notify([*known, *notices])
        self._note_deliveries()
        self._record()

    # --- over a restart -----------------------------------------------------------------------------------------------

    def _resume(self) -> list[Notice]:
        """Take over what a process before has raised, once; return it as notices that are no news."""
        if self._resumed:
            return []
        try:
            found = self._recorder.journal.standing_alerts()
        except JournalError as error:
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))
            return []
        self._resumed = True
        rows = [each for each in found if each.key not in self._standing]
        for row in rows:
            self._standing[row.key] = row
            if row.raised:
                self._raised[row.key] = Alert(
                    kind=row.kind, subject=row.subject, severity=row.severity, since=row.since, summary=row.summary
                )
                self._carried.add(row.key)
        # Those who began while the journal could not be read do not know of these.
        begun = [each for each in self._tellers if each not in self._fresh]
        for teller in begun:
            self._brief(teller, rows)
        return [replace(_standing_notice(each), again=True) for each in rows if each.raised]

    def _begin_fresh(self) -> None:
        """Start tellers that are new, each with what it knows and does not know of what stands."""
        fresh, self._fresh = self._fresh, ()
        for teller in fresh:
            self._brief(teller, self._standing.values())
            teller.start()

    @staticmethod
    def _brief(teller: Teller, rows: Iterable[StandingAlert]) -> None:
        rows = tuple(rows)
        teller.resume(
            untold=[_standing_notice(each) for each in rows if teller.name not in each.told],
            told=[replace(_standing_notice(each), again=True) for each in rows if teller.name in each.told],
        )

    def _over(self, gone: Sequence[Alert], now: datetime) -> tuple[Alert, ...]:
        """Return those of *gone* that have been gone for long enough; a clock that was set back counts as that."""
        seen = [each for each in gone if each.key not in self._carried or self._is_known(each.subject)]
        self._gone = {each.key: self._gone.get(each.key, now) for each in seen}
        return tuple(each for each in seen if not timedelta() <= now - self._gone[each.key] < QUIET)

    def _is_known(self, subject: SubjectName) -> bool:
        return all(has_seen(subject) for has_seen in self._has_seen)

    # --- raise and clear --------------------------------------------------------------------------------------------

    def _raise(self, alert: Alert, now: datetime) -> Event:
        """Take *alert* as raised; return its record."""
        began = max(alert.since, self._turned.get(alert.key, alert.since))
        record_id = _id(f"alert_raised:{alert.key}:{alert.severity}:{began.isoformat()}")
        self._raised[alert.key] = alert
        self._stand(
            StandingAlert(
                key=alert.key,
                kind=alert.kind,
                subject=alert.subject,
                severity=alert.severity,
                since=alert.since,
                summary=alert.summary,
                raised=True,
                at=now,
                record_id=record_id,
            )
        )
        return replace(self._event(EventType.ALERT_RAISED, alert, result=alert.severity.value), id=record_id)

    def _clear(self, alert: Alert, now: datetime) -> Event:
        """Take *alert* as ended at *now*; return its record."""
        del self._raised[alert.key]
        self._carried.discard(alert.key)
        self._turned[alert.key] = now
        standing = self._standing[alert.key]
        self._stand(replace(standing, raised=False, at=now, told=frozenset()))
        record_id = _id(f"alert_cleared:{standing.record_id}")
        return replace(self._event(EventType.ALERT_CLEARED, alert, result="ok"), id=record_id)

    def _stand(self, row: StandingAlert) -> None:
        self._standing[row.key] = self._unsaved[row.key] = row

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

    # --- who has been told ------------------------------------------------------------------------------------------

    def _note_deliveries(self) -> None:
        """Note who has been told what; ends that nobody waits for any more stand no longer."""
        for teller in self._tellers:
            for delivery in teller.delivered():
                self._unrecorded.append(self._notified(delivery))
                for notice in delivery.notices:
                    row = self._standing.get(notice.key)
                    if row is not None and (row.raised, row.severity) == (notice.raised, notice.severity):
                        self._stand(replace(row, told=row.told | {delivery.receiver}))
        for row in [each for each in self._standing.values() if not each.raised]:
            if not any(teller.owes(row.key) for teller in self._tellers):
                self._unsaved[row.key] = self._standing.pop(row.key)

    def _notified(self, delivery: Delivery) -> Event:
        """Return the record of one message: one effect in the world outside."""
        keys = [each.key for each in delivery.notices]
        more = len(keys) - KEYS_IN_A_RECORD
        raised = sum(each.raised for each in delivery.notices)
        scribe = Scribe(clock=self._clock, subject="rotator", rotation=None)
        event = scribe.event(
            EventType.NOTIFIED,
            detail={
                "receiver": delivery.receiver,
                "raised": raised,
                "cleared": len(keys) - raised,
                "alerts": ", ".join(keys[:KEYS_IN_A_RECORD]) + (f" and {more} more" if more > 0 else ""),
            },
        )
        return replace(event, time=delivery.at, id=_id(f"notified:{delivery.receiver}:{delivery.message_id}"))

    def _record(self) -> None:
        """Write what is not recorded yet, oldest first; what cannot be written now is tried at the next look."""
        batch = self._unrecorded[:MOST_RECORDS_A_LOOK]
        # A row never runs ahead of its record.
        later = {f"{each.subject}/{each.detail.get('alert')}" for each in self._unrecorded[len(batch) :]}
        rows = [each for key, each in self._unsaved.items() if key not in later][:MOST_RECORDS_A_LOOK]
        if not batch and not rows:
            return
        gone = [each for each in rows if each.key not in self._standing]
        kept = [each for each in rows if each.key in self._standing]
        try:
            self._recorder.noted(batch, kept, gone)
        except InvariantBroken as error:
            # Trying again would be refused again, and hold up every later record.
            log.error(LogEvent.LAW_KEPT, law=error.law, error=str(error))  # noqa: TRY400 -- found, not failed
        except RotatorError as error:
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))
            return
        del self._unrecorded[: len(batch)]
        for row in rows:
            del self._unsaved[row.key]


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
        kind=alert.kind,
        subject=alert.subject,
        severity=alert.severity,
        summary=alert.summary,
        raised=raised,
        since=alert.since,
        at=now,
    )


def _standing_notice(row: StandingAlert) -> Notice:
    return Notice(
        key=row.key,
        kind=row.kind,
        subject=row.subject,
        severity=row.severity,
        summary=row.summary,
        raised=row.raised,
        since=row.since,
        at=row.at,
    )


def _id(text: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, text).hex
