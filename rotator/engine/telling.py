"""
Telling one receiver: what it should hear, how often, how fast; in a thread of its own.

Rules that must stay true here:

- `Teller.notify` never waits: what a receiver does, or does not do, stops nobody else.
- Kept by key, the latest state only: memory is bounded by what there is to tell of, however long a receiver is away,
  and no raise and no end is lost. What was overtaken before it could be sent is counted and said in the next message.
- A message that failed is tried again, later and later up to `LONGEST_RETRY`; a receiver that fails for long is itself
  something to tell, to the others.
- Nothing is sent by a process that does not hold the lease: a standby is silent.
- Waits are measured on the monotonic clock: a wall clock that jumps makes nobody tell twice (law 20).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from rotator.core.alert_kinds import AlertKind
from rotator.core.foreseen import Alert, receiver_alerts, true_at
from rotator.core.model import Severity, SubjectName
from rotator.errors import RotatorError
from rotator.ports import Clock, Message, Notice, Receiver
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

FIRST_RETRY = timedelta(seconds=1)
LONGEST_RETRY = timedelta(minutes=2)
IDLE = timedelta(minutes=1)
"""How long the thread rests if nothing wakes it."""

_RANK = {Severity.WARNING: 0, Severity.CRITICAL: 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one receiver wants to hear, and how much of it."""

    minimum: Severity = Severity.WARNING
    subjects: frozenset[str] | None = None
    """None: of everything."""
    repeat_every: timedelta = timedelta()
    """How often what lasts is said again; zero: never."""
    tell_state_at_start: bool = False
    """It forgets what is not repeated: what lasts is said again at once after a restart."""
    messages: int = 30
    """At most so many ..."""
    within: timedelta = timedelta(minutes=1)
    """... in this time."""
    most: int = 100
    """Notices in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What one message told somebody for the first time."""

    receiver: str
    message_id: str
    at: datetime
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the notices of one receiver since the start."""

    sent: int = 0
    """Notices that it took, repeats included."""
    failed: int = 0
    """Messages that it did not take."""
    left_out: int = 0
    """Notices that were overtaken by newer ones before they could be sent."""


@dataclass(slots=True)
class _Kept:
    """The latest state of one alert, and what the receiver knows of it."""

    notice: Notice
    news: bool
    order: int
    repeat_at: float
    repeats: int = 0


class Teller:
    """Keeps one receiver told; a `Notifier`. Safe from several threads."""

    def __init__(
        self, name: str, receiver: Receiver, terms: Terms, *, clock: Clock, may_tell: Callable[[], bool]
    ) -> None:
        """Tell *receiver* under *name* by its *terms*, as long as *may_tell* says so; `start` begins."""
        self.name = name
        self.terms = terms
        self._receiver = receiver
        self._clock = clock
        self._may_tell = may_tell
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._order = 0
        self._left_out = 0
        self._counts = Counts()
        self._deliveries: list[Delivery] = []
        self._tokens = float(terms.messages)
        self._filled_at = clock.monotonic()
        self._not_before = 0.0
        self._failures = 0
        self._failing_since: datetime | None = None
        self._sending_since: datetime | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- what the engine says ---------------------------------------------------------------------------------------

    def notify(self, notices: Sequence[Notice]) -> None:
        """Take *notices*; those that this receiver does not want are dropped."""
        with self._lock:
            for notice in notices:
                self._take(notice)
        self._wake.set()

    def resume(self, untold: Sequence[Notice], told: Sequence[Notice]) -> None:
        """Take over from a process before: *untold* is news to this receiver, *told* it knows."""
        with self._lock:
            for notice in untold:
                if self._wants(replace(notice, raised=True)):
                    self._keep(notice, None)
            for notice in told:
                if notice.raised and self._wants(notice):
                    self._remind(notice, None)
        self._wake.set()

    def _take(self, notice: Notice) -> None:
        known = self._kept.get(notice.key)
        if not self._wants(notice):
            if known is None:
                return
            # It was told of something graver that has become milder than what it wants to hear.
            notice = replace(notice, raised=False, again=False, severity=known.notice.severity)
        if not notice.raised:
            if known is None:
                return
            self._keep(notice, known)
        elif notice.again:
            self._remind(notice, known)
        else:
            self._keep(notice, known)

    def _wants(self, notice: Notice) -> bool:
        terms = self.terms
        if notice.kind is AlertKind.RECEIVER_FAILING and notice.subject == self.name:
            return False
        if notice.raised and _RANK[notice.severity] < _RANK[terms.minimum]:
            return False
        return terms.subjects is None or notice.subject in terms.subjects

    def _keep(self, notice: Notice, known: _Kept | None) -> None:
        """Take *notice* as news in the place of what is *known*."""
        if known is not None and known.news:
            self._left_out += 1
            self._counts = replace(self._counts, left_out=self._counts.left_out + 1)
        self._order += 1
        self._kept[notice.key] = _Kept(notice=notice, news=True, order=self._order, repeat_at=0.0)

    def _remind(self, notice: Notice, known: _Kept | None) -> None:
        """Take the state of what was told before, without a message for its own sake."""
        if known is not None:
            known.notice = replace(notice, again=not known.news)
            return
        self._order += 1
        wait = 0.0 if self.terms.tell_state_at_start else self.terms.repeat_every.total_seconds()
        self._kept[notice.key] = _Kept(
            notice=notice, news=False, order=self._order, repeat_at=self._clock.monotonic() + wait
        )

    # --- what the engine asks ---------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Return what became of the notices so far."""
        with self._lock:
            return self._counts

    def delivered(self) -> tuple[Delivery, ...]:
        """Return what was told for the first time since the last question."""
        with self._lock:
            found, self._deliveries = tuple(self._deliveries), []
        return found

    def waiting(self) -> int:
        """Return how many notices are news that the receiver does not have yet."""
        with self._lock:
            return sum(each.news for each in self._kept.values())

    def owes(self, key: str) -> bool:
        """Return whether the receiver has yet to hear the news of *key*."""
        with self._lock:
            kept = self._kept.get(key)
            return kept is not None and kept.news

    def alerts(self, now: datetime) -> tuple[Alert, ...]:
        """Return what this receiver raises at *now*: that it does not take what it should hear."""
        with self._lock:
            since = self._failing_since or self._sending_since
        if since is None:
            return ()
        return true_at(receiver_alerts(SubjectName(self.name), since), now)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to tell."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=f"tell-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout: timedelta) -> None:
        """Tell nothing more but what is news now, if it is taken at once; return within *timeout*."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout.total_seconds())
            self._thread = None
        self._receiver.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._clock.wait(self._wake, self._step())
            self._wake.clear()
        while self.waiting() and not self._step():
            pass

    def _step(self) -> timedelta:
        try:
            return self.work()
        except Exception:
            # A defect here must not end the thread: people would never hear of anything again.
            log.exception(LogEvent.THREAD_FAILED, doing=f"telling {self.name}")
            return LONGEST_RETRY

    # --- one message ------------------------------------------------------------------------------------------------

    def work(self) -> timedelta:
        """Send one message if there is something to say and it may be said now; return when to look again."""
        if not self._may_tell():
            return IDLE
        mono = self._clock.monotonic()
        with self._lock:
            batch = self._batch(mono)
            if not batch:
                return self._until_next(mono)
            if mono < self._not_before:
                return timedelta(seconds=self._not_before - mono)
            if not self._has_token(mono):
                return timedelta(seconds=(1 - self._tokens) * self._seconds_a_token())
            self._tokens -= 1
            now = self._clock.now()
            left_out = self._left_out
            self._sending_since = now
            message = Message(
                id=_message_id(batch),
                notices=tuple(replace(each.notice, again=not each.news) for each in batch),
                left_out=left_out,
                at=now,
            )
            taken = [(each, each.notice) for each in batch]
        try:
            self._receiver.send(message)
        except Exception as error:  # noqa: BLE001 -- what somebody's receiver raises is not known here
            # Whatever is wrong with it, it is tried again, and stops nobody else.
            return self._failed(error, now)
        self._took(message, taken, left_out)
        return timedelta()

    def _batch(self, mono: float) -> list[_Kept]:
        """Return what goes into the next message: news, grave ones first; without news what is to be repeated."""
        most = self.terms.most
        news = [each for each in self._kept.values() if each.news]
        if news:
            return sorted(news, key=lambda each: (-_RANK[each.notice.severity], each.order))[:most]
        if not self.terms.repeat_every:
            return []
        due = [each for each in self._kept.values() if each.repeat_at <= mono]
        return sorted(due, key=lambda each: (-_RANK[each.notice.severity], each.order))[:most]

    def _until_next(self, mono: float) -> timedelta:
        if not self.terms.repeat_every or not self._kept:
            return IDLE
        return min(IDLE, timedelta(seconds=max(0.0, min(each.repeat_at for each in self._kept.values()) - mono)))

    def _seconds_a_token(self) -> float:
        return self.terms.within.total_seconds() / self.terms.messages

    def _has_token(self, mono: float) -> bool:
        self._tokens = min(
            float(self.terms.messages), self._tokens + (mono - self._filled_at) / self._seconds_a_token()
        )
        self._filled_at = mono
        # A hair less: what was waited for is there although fractions do not add up.
        return self._tokens >= 1 - 1e-6

    def _failed(self, error: Exception, now: datetime) -> timedelta:
        wait = min(LONGEST_RETRY, FIRST_RETRY * (1 << min(self._failures, 16)))
        with self._lock:
            self._failures += 1
            self._failing_since = self._failing_since or now
            self._sending_since = None
            self._not_before = self._clock.monotonic() + wait.total_seconds()
            self._counts = replace(self._counts, failed=self._counts.failed + 1)
        log.warning(LogEvent.NOTICE_FAILED, receiver=self.name, failures=self._failures, error=_words(error))
        return wait

    def _took(self, message: Message, taken: Sequence[tuple[_Kept, Notice]], left_out: int) -> None:
        repeat_at = self._clock.monotonic() + self.terms.repeat_every.total_seconds()
        news = tuple(notice for notice in message.notices if not notice.again)
        with self._lock:
            self._failures, self._failing_since, self._sending_since = 0, None, None
            self._left_out -= left_out
            self._counts = replace(self._counts, sent=self._counts.sent + len(taken))
            for kept, told in taken:
                kept.repeat_at, kept.repeats = repeat_at, kept.repeats + 1
                if kept.notice is told:
                    kept.news = False
                if not told.raised and self._kept.get(told.key) is kept:
                    del self._kept[told.key]
            if news:
                self._deliveries.append(
                    Delivery(receiver=self.name, message_id=message.id, at=message.at, notices=news)
                )
        log.debug(LogEvent.NOTICE_SENT, receiver=self.name, notices=len(taken), left_out=left_out)


def _message_id(batch: Sequence[_Kept]) -> str:
    """Return an id made of what is told: a try again has the same, another repeat another."""
    told = "|".join(
        f"{each.notice.key},{each.notice.severity},{each.notice.raised},{each.notice.at.isoformat()},{each.repeats}"
        for each in batch
    )
    return uuid.uuid5(uuid.NAMESPACE_URL, f"message:{told}").hex


def _words(error: Exception) -> str:
    """Return what may be logged of *error*: rotator's own errors hold no secret, what others raise may."""
    return str(error) if isinstance(error, RotatorError) else type(error).__name__
