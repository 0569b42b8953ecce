"""
Which tasks are longer than the next roll has time for, looked for now and then.

Rules that must stay true here:

- Before a roll, not during it: while one is under way nobody is asked, and what was known stays.
- Asked for by the workload's own visit, seldom; an Airflow that does not answer delays nothing but this look.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from rotator.core.long_tasks import LOOKS_BACK, TimeLeft, longest_fitting, too_long
from rotator.core.model import Member, SubjectName
from rotator.engine.targets import WorkloadTarget
from rotator.errors import AdapterError
from rotator.ports import Clock
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

EVERY: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    target: WorkloadTarget
    at: datetime
    sentences: tuple[str, ...]


class LongTasksAhead:
    """What is foreseen for each workload. Safe from several threads."""

    def __init__(self, clock: Clock) -> None:
        """Foresee nothing yet."""
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[SubjectName, _Known] = {}

    def told(self, workload: SubjectName) -> tuple[str, ...]:
        """Return what was last found of *workload*, in sentences."""
        with self._lock:
            known = self._known.get(workload)
        return known.sentences if known is not None else ()

    def look(self, target: WorkloadTarget, members: Sequence[Member], left: Sequence[TimeLeft]) -> None:
        """Ask, if it is time to, what took longer than a roll of *target* would have; *left* for each certificate."""
        now = self._clock.now()
        with self._lock:
            known = self._known.get(target.name)
        if target.history is None or not left:
            return
        if known is not None and known.target is target and known.at <= now < known.at + EVERY:
            return
        sentences = known.sentences if known is not None else ()
        queues = frozenset(queue for member in members for queue in member.queues)
        try:
            tasks = [
                each
                for each in target.history.longer(longest_fitting(target.policy, left), since=now - LOOKS_BACK, now=now)
                if not (each.queue and queues) or each.queue in queues
            ]
            sentences = too_long(target.policy, left, tasks, now)
        except AdapterError as e:
            log.warning(LogEvent.LOOKAHEAD_FAILED, subject=target.name, error=str(e))
        with self._lock:
            self._known[target.name] = _Known(target=target, at=now, sentences=sentences)
