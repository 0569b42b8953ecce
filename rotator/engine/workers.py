"""
Who is looked at next: a bounded pool, earliest deadline first, and back-off that knows deadlines.

Rules that must stay true here:

- The schedule is only a memo of when to look again; losing it loses nothing but a look (law 13).
- A target is never looked at by two threads at once through this pool.
- The next try is never later than the target's safety line (law 15).
- One target's trouble never stops another's turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from rotator.engine.leaf_reconciler import Look
from rotator.engine.limits import next_try
from rotator.engine.targets import TargetId
from rotator.errors import RotatorError, Unavailable
from rotator.ports import Clock
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

FAR = timedelta(days=3650)


@dataclass(slots=True)
class _Turn:
    """What the pool remembers of one target."""

    at: datetime
    deadline: datetime | None = None
    failures: int = 0
    error: str = ""
    running: bool = False
    asked_again: bool = False
    look: Look | None = field(default=None)


class Pool:
    """Runs visits of due targets, earliest deadline first."""

    def __init__(
        self,
        *,
        clock: Clock,
        threads: int,
        visit: Callable[[TargetId], Look],
        failed: Callable[[TargetId, RotatorError, int], None],
    ) -> None:
        """*threads* 0 runs every visit in the caller's thread; *failed* is told of each failure and its count."""
        self._clock = clock
        self._visit = visit
        self._failed = failed
        self._turns: dict[TargetId, _Turn] = {}
        self._lock = threading.Lock()
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="visit") if threads else None
        self._idle = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._moved = clock.monotonic()
        """When a visit last ended, or began while none ran."""

    def keep(self, targets: Iterable[TargetId]) -> None:
        """Know exactly *targets*; new ones are due at once, gone ones are forgotten."""
        now = self._clock.now()
        wanted = set(targets)
        with self._lock:
            for gone in [each for each in self._turns if each not in wanted]:
                del self._turns[gone]
            for target in wanted:
                self._turns.setdefault(target, _Turn(at=now))

    def kick(self, target: TargetId) -> None:
        """Let *target* be due now, also if it is being visited at this moment."""
        with self._lock:
            turn = self._turns.get(target)
            if turn is not None:
                turn.at = self._clock.now()
                turn.asked_again = turn.running

    def known(self) -> tuple[TargetId, ...]:
        """Return every target."""
        with self._lock:
            return tuple(self._turns)

    def look(self, target: TargetId) -> tuple[Look | None, int, str]:
        """Return the last look at *target*, its failures in a row, and the last error in words."""
        with self._lock:
            turn = self._turns.get(target)
            return (turn.look, turn.failures, turn.error) if turn is not None else (None, 0, "")

    def run_due(self) -> int:
        """Start the visits of everything that is due; return how many. Does not wait for them."""
        now = self._clock.now()
        with self._lock:
            due = [
                (turn.deadline or now + FAR, turn.at, key)
                for key, turn in self._turns.items()
                if self._is_due(turn, now)
            ]
            if due and not self._is_running():
                self._moved = self._clock.monotonic()
            for _, _, key in due:
                self._turns[key].running = True
        for _, _, key in sorted(due):
            if self._stopping.is_set():
                self._finish(key, None, None)
            elif self._executor is None:
                self._run(key)
            else:
                future: Future[None] = self._executor.submit(self._run, key)
                del future
        return len(due)

    @staticmethod
    def _is_due(turn: _Turn, now: datetime) -> bool:
        """Return whether *turn* has come. A clock that went far back makes it due too (law 20)."""
        return not turn.running and (turn.at <= now or turn.at > now + FAR)

    def wait_idle(self, timeout: timedelta) -> bool:
        """Wait until no visit runs; return whether that came true in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._is_running(), timeout.total_seconds())

    def unmoved_for(self) -> timedelta:
        """Return for how long visits have been running without any of them ending; zero while none runs."""
        with self._lock:
            return timedelta(seconds=self._clock.monotonic() - self._moved) if self._is_running() else timedelta()

    def _is_running(self) -> bool:
        """Return whether any visit runs or waits for a thread; the caller holds the lock."""
        return any(turn.running for turn in self._turns.values())

    def stop(self, timeout: timedelta) -> bool:
        """Start nothing more and wait for what runs; return whether everything ended in time."""
        self._stopping.set()
        ended = self.wait_idle(timeout)
        if self._executor is not None:
            self._executor.shutdown(wait=ended, cancel_futures=True)
        return ended

    def _run(self, target: TargetId) -> None:
        """Visit one target and note when to come back."""
        if self._stopping.is_set():
            self._finish(target, None, None)
            return
        try:
            look = self._visit(target)
        except RotatorError as error:
            self._finish(target, None, error)
        except Exception as error:
            # A defect in one target's visit must not stop the others' turns; in the caller's own thread it is raised.
            self._finish(target, None, RotatorError(f"a defect in rotator: {type(error).__name__}"))
            if self._executor is None:
                raise
            log.exception(LogEvent.THREAD_FAILED, target=target)
        else:
            self._finish(target, look, None)

    def _finish(self, target: TargetId, look: Look | None, error: RotatorError | None) -> None:
        """Note the outcome of one visit."""
        failures = 0
        with self._lock:
            self._moved = self._clock.monotonic()
            turn = self._turns.get(target)
            if turn is not None:
                now = self._clock.now()
                turn.running = False
                if look is not None:
                    turn.at, turn.deadline, turn.look = look.at, look.deadline, look
                    turn.failures, turn.error = 0, ""
                elif error is not None:
                    turn.failures += 1
                    turn.error = str(error)
                    turn.at = next_try(turn.failures, now, turn.deadline)
                    if isinstance(error, Unavailable) and error.after is not None:
                        # Whoever asks for patience would refuse an earlier try too.
                        turn.at = max(turn.at, now + error.after)
                    failures = turn.failures
                if turn.asked_again:
                    turn.at, turn.asked_again = now, False
            self._idle.notify_all()
        if error is not None:
            self._failed(target, error, failures)
