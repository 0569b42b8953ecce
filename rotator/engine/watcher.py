"""
Looks at certificates that rotator does not manage: when each is due, what was seen, what people should know of it.

Rules that must stay true here:

- Looking never waits in the sweep: a bounded pool looks, and one place at a time is looked at by one thread.
- An unreachable place is no expired certificate: what was seen last still counts, and after a while not being able to
  see it is an alert of its own.
- Nothing is raised of what was not looked at since its moment came: a certificate that was renewed in time raises
  nothing, however seldom it is looked at.
- When to look is spread by hash of the name (law 20). What is well is looked at seldom, what alerts more often.
- Kept per certificate: some small texts and moments.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from rotator.core.alert_kinds import AlertKind
from rotator.core.foreign import Foreign
from rotator.core.foreseen import Alert, AlertPolicy, WatchedStanding, true_at, watched_alerts
from rotator.core.model import SubjectName
from rotator.errors import RotatorError
from rotator.ports import Clock, Watch
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

AT_ONCE = 4
"""Places looked at at the same time."""

SOONER = 12
"""A place that alerts, or was not seen, is looked at so many times as often."""

SOONEST = timedelta(seconds=10)
SPREAD = timedelta(minutes=1)
"""Over how long the first looks are spread, at most."""

STALE = timedelta(minutes=5)
"""A look that hangs for longer holds no alert back."""

MOST_READINGS = 1_000
"""Of one place of many, how many certificates have a metric of their own: those that end first."""

BegunBefore = Callable[[AlertKind, SubjectName], datetime | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One entry: where to look, how often, and from when on people are told."""

    name: str
    watch: Watch
    every: timedelta = timedelta(hours=1)
    unreachable_after: timedelta = timedelta(minutes=15)
    used_ratio_warning: float | None = None
    """None: as for everything."""
    used_ratio_critical: float | None = None
    signs_for: timedelta | None = None
    """For an issuer of rotator's CAs: the longest life of a CA that it has to sign."""

    def policy(self, policy: AlertPolicy) -> AlertPolicy:
        """Return the thresholds of this entry: its own, or those of *policy*."""
        if self.used_ratio_warning is None and self.used_ratio_critical is None:
            return policy
        return replace(
            policy,
            used_ratio_warning=self.used_ratio_warning or policy.used_ratio_warning,
            used_ratio_critical=self.used_ratio_critical or policy.used_ratio_critical,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One watched certificate, for metrics."""

    name: str
    kind: str
    not_after: datetime
    used_ratio: float
    seen_at: datetime


@dataclass(slots=True)
class _State:
    """What is known of one entry."""

    entry: Watched
    due_at: datetime
    seen: tuple[tuple[datetime, Foreign], ...] = ()
    """What was seen last, each with the moment of its first alert, earliest first."""
    judged_by: AlertPolicy | None = None
    seen_at: datetime | None = None
    attempted_at: datetime | None = None
    missing_since: datetime | None = None
    problem: str = ""
    running: bool = field(default=False)


class Watcher:
    """Keeps an eye on every entry. Safe from several threads."""

    def __init__(
        self,
        *,
        clock: Clock,
        policy: Callable[[], AlertPolicy],
        begun_before: BegunBefore = lambda _kind, _name: None,
        threads: int = AT_ONCE,
    ) -> None:
        """Judge by *policy*, asked at each look; *threads* 0 looks in the caller's thread."""
        self._clock = clock
        self._policy = policy
        self._begun_before = begun_before
        self._lock = threading.Lock()
        self._states: dict[str, _State] = {}
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="watch") if threads else None
        self._stopped = False

    def use(self, entries: Sequence[Watched]) -> None:
        """Watch exactly *entries* from the next look on; what is known of an unchanged one is kept."""
        now = self._clock.now()
        with self._lock:
            before = self._states
            self._states = {}
            for entry in entries:
                known = before.get(entry.name)
                if known is not None and known.entry.watch.place == entry.watch.place:
                    known.entry, known.judged_by = entry, None
                    self._states[entry.name] = known
                else:
                    first = now + min(SPREAD, entry.every / SOONER) * _share(entry.name)
                    self._states[entry.name] = _State(entry=entry, due_at=now if len(entries) <= AT_ONCE else first)

    def sweep(self) -> None:
        """Begin to look at what is due; does not wait for it."""
        now = self._clock.now()
        with self._lock:
            if self._stopped:
                return
            due = [
                each
                for each in self._states.values()
                # A clock that went far back makes it due too (law 20).
                if not each.running and (each.due_at <= now or each.due_at > now + 2 * each.entry.every)
            ]
            for each in due:
                each.running = True
        for each in sorted(due, key=lambda one: one.due_at):
            if self._executor is None:
                self._look(each)
            else:
                self._executor.submit(self._look, each)

    def stop(self) -> None:
        """Look at nothing more; a look under way ends by its own time-out and changes nothing here."""
        with self._lock:
            self._stopped = True
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    # --- what the engine asks ---------------------------------------------------------------------------------------

    def alerts(self, now: datetime) -> Iterator[Alert]:
        """Yield what the entries raise at *now*."""
        policy = self._policy()
        with self._lock:
            states = tuple(self._states.values())
        for state in states:
            yield from self._alerts_of(state, policy, now)

    def _alerts_of(self, state: _State, policy: AlertPolicy, now: datetime) -> Iterator[Alert]:
        if state.judged_by is not policy:
            with self._lock:
                state.seen = self._judged(state.entry, [each for _, each in state.seen], policy)
                state.judged_by = policy
        entry, missing, attempted = state.entry, state.missing_since, state.attempted_at
        if attempted is None:
            return
        if missing is not None:
            standing = WatchedStanding(
                name=SubjectName(entry.name),
                missing_since=missing,
                problem=state.problem,
                unreachable_after=entry.unreachable_after,
            )
            yield from true_at(watched_alerts(standing, policy), now)
        # What came true since the last look may have been renewed since: the next look is due at that moment.
        at = min(now, max(attempted, now - STALE))
        for first, each in state.seen:
            if first > at:
                break
            yield from true_at(watched_alerts(_standing(entry, each), entry.policy(policy)), at)

    def has_seen(self, subject: SubjectName) -> bool:
        """Return whether *subject* was seen since the start, or is none of what is watched."""
        with self._lock:
            state = self._states.get(subject) or self._states.get(subject.partition(":")[0])
        return state is None or state.seen_at is not None

    def rows(self) -> list[dict[str, Any]]:
        """Return every entry for status: what ends first there, and how many there are."""
        with self._lock:
            states = sorted(self._states.values(), key=lambda each: each.entry.name)
        return [_row(each) for each in states]

    def readings(self) -> Iterator[Reading]:
        """Yield what metrics show; of a place of many those that end first."""
        now = self._clock.now()
        with self._lock:
            states = tuple(self._states.values())
        for state in states:
            if state.seen_at is None:
                continue
            for each in sorted((one for _, one in state.seen), key=lambda one: one.not_after)[:MOST_READINGS]:
                life = (each.not_after - each.not_before).total_seconds()
                yield Reading(
                    name=_name(state.entry, each),
                    kind=state.entry.watch.kind,
                    not_after=each.not_after,
                    used_ratio=(now - each.not_before).total_seconds() / life if life > 0 else 1.0,
                    seen_at=state.seen_at,
                )

    # --- one look ---------------------------------------------------------------------------------------------------

    def _look(self, state: _State) -> None:
        entry = state.entry
        problem, found = "", None
        try:
            found = entry.watch.look()
        except RotatorError as error:
            problem = str(error)
        except Exception as error:
            # A defect in one look must not stop the others'.
            log.exception(LogEvent.THREAD_FAILED, doing=f"looking at {entry.name}")
            problem = f"a defect in rotator: {type(error).__name__}"
        now, policy = self._clock.now(), self._policy()
        with self._lock:
            if self._stopped:
                return
            state.running = False
            state.attempted_at = now
            if found is not None:
                state.seen, state.judged_by = self._judged(entry, found, policy), policy
                state.seen_at, state.missing_since, state.problem = now, None, ""
            elif state.missing_since is None:
                told = self._begun_before(AlertKind.WATCHED_UNREACHABLE, SubjectName(entry.name))
                state.missing_since = now if told is None else told - entry.unreachable_after
            if problem:
                state.problem = problem
            state.due_at = self._next(state, now)
        if problem:
            log.warning(LogEvent.WATCH_FAILED, watched=entry.name, place=entry.watch.place, error=problem)

    @staticmethod
    def _judged(entry: Watched, found: Sequence[Foreign], policy: AlertPolicy) -> tuple[tuple[datetime, Foreign], ...]:
        own = entry.policy(policy)
        judged = ((min(alert.since for alert in watched_alerts(_standing(entry, each), own)), each) for each in found)
        return tuple(sorted(judged, key=lambda each: each[0]))

    @staticmethod
    def _next(state: _State, now: datetime) -> datetime:
        """Return when to look again: seldom, but when the next alert would become true, and soon while one is."""
        entry = state.entry
        jitter = entry.every / 10 * _share(entry.name)
        seldom = now + entry.every - jitter
        soon = now + max(SOONEST, entry.every / SOONER)
        if state.missing_since is not None:
            return min(seldom, soon)
        first = min((at for at, _ in state.seen), default=seldom)
        return min(seldom, soon if first <= now else max(first, now + SOONEST))


def _standing(entry: Watched, seen: Foreign) -> WatchedStanding:
    return WatchedStanding(
        name=SubjectName(_name(entry, seen)),
        not_before=seen.not_before,
        not_after=seen.not_after,
        ends_first=seen.ends_first,
        signs_for=entry.signs_for,
    )


def _name(entry: Watched, seen: Foreign) -> str:
    return f"{entry.name}:{seen.which}" if seen.which else entry.name


def _share(name: str) -> float:
    """Return a number from 0 to 1 that is always the same for *name*."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / (1 << 32)


def _row(state: _State) -> dict[str, Any]:
    first = min((each for _, each in state.seen), key=lambda each: each.not_after, default=None)
    return {
        "name": state.entry.name,
        "kind": state.entry.watch.kind,
        "place": state.entry.watch.place,
        "count": len(state.seen),
        "first": first,
        "seen_at": state.seen_at,
        "problem": state.problem if state.missing_since is not None else "",
    }
