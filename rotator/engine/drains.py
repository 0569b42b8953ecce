"""
What was seen while members drained: since when, and which tasks they still had.

Rules that must stay true here:

- Names of tasks only, never their arguments; what did not fit is counted.
- Told as far as it is known: after a restart in the middle of a drain, from the first look on, and that is said.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rotator.core.model import Member, SubjectName
from rotator.evidence.record import MAX_DETAIL_CHARACTERS
from rotator.redaction import redacted_text

_KEPT = 1000
"""Tasks of one drain that are remembered by name: a worker has seldom more than its concurrency at once."""

_ROOM = MAX_DETAIL_CHARACTERS // 2


@dataclass(slots=True)
class _Drain:
    since: datetime
    seen_from_its_start: bool
    work: dict[str, None] = field(default_factory=dict)
    """In the order in which they were seen."""


class Drains:
    """The drains that are under way. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drains: dict[tuple[SubjectName, str, str], _Drain] = {}

    def begin(self, member: Member, now: datetime) -> None:
        """Note that *member* was told to take no new work."""
        with self._lock:
            self._drains[_key(member)] = _Drain(since=now, seen_from_its_start=True)

    def see(self, workload: SubjectName, members: tuple[Member, ...], now: datetime) -> None:
        """Note what *members*, all of *workload*, work on; forget those that are gone or take work again."""
        with self._lock:
            alive = {_key(each): each for each in members}
            for key in [key for key in self._drains if key[0] == workload]:
                one = alive.get(key)
                if one is None or (one.ready and not one.draining and one.busy is not None):
                    del self._drains[key]
            for key, each in alive.items():
                if each.draining and key not in self._drains:
                    self._drains[key] = _Drain(since=now, seen_from_its_start=False)
                if key in self._drains:
                    known = self._drains[key].work
                    known.update(dict.fromkeys(each.work[: max(0, _KEPT - len(known))]))

    def told(self, member: Member, now: datetime) -> Mapping[str, str | int | bool]:
        """Return what a record of *member* says of its drain; empty if it does not drain."""
        with self._lock:
            drain = self._drains.get(_key(member))
            if drain is None:
                return {}
            names = [redacted_text(each) for each in drain.work]
            told: dict[str, str | int | bool] = {
                "drained_seconds": int((now - drain.since).total_seconds()),
                "drain_seen_from_its_start": drain.seen_from_its_start,
                "tasks_seen": len(names),
            }
        shown, length = [], 0
        for name in names:
            length += len(name) + 2
            if length > _ROOM:
                break
            shown.append(name)
        return {**told, "tasks": "; ".join(shown)} if shown else told


def _key(member: Member) -> tuple[SubjectName, str, str]:
    return member.workload, member.name, member.identity
