"""
Whom a roll has let go and not yet seen replaced: so that each of them leaves one record of both, whatever crashes.

Rules that must stay true here:

- The ledger is what counts: it is read again after a restart, and after a commit whose reply was lost (law 13).
- Only what belongs to an open rotation is looked for. A roll outside one is remembered by this process alone.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta

from rotator.core.event import Event, EventType
from rotator.core.model import Member, SubjectName
from rotator.evidence.record import decode
from rotator.ports import Ledger, Rotation

FREE_TO_GO = frozenset({"ok", "not running", "told to end without a drain", "nothing drains it"})
"""How a `drained` record says that its member may be replaced."""
FORCED = "forced"
"""How an exception's record says so."""

_SLICE = 1024
_CLOCKS = timedelta(minutes=5)
"""How far two replicas' clocks may be apart, amply: records are in order, their times nearly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """One member that was let go."""

    was: str
    """Its run then; empty if it did not run."""
    forced: bool
    is_open: bool
    """Nobody has recorded that it was replaced."""


class Partings:
    """The partings of every workload. Safe from several threads."""

    def __init__(self, ledger: Ledger) -> None:
        """Read from *ledger* what another process wrote."""
        self._ledger = ledger
        self._lock = threading.Lock()
        self._known: dict[tuple[SubjectName, str], Parting] = {}
        self._read: dict[SubjectName, frozenset[str]] = {}
        """By workload: the rotations whose records are known."""

    def recall(self, workload: SubjectName, rotations: Collection[Rotation]) -> None:
        """Know what the ledger says of *workload* in *rotations*; reads it once for each of them."""
        wanted = frozenset(each.id for each in rotations)
        with self._lock:
            if wanted <= self._read.get(workload, frozenset()):
                return
            found = self._told(workload, rotations)
            self._known = {key: one for key, one in self._known.items() if key[0] != workload} | found
            self._read[workload] = wanted

    def doubt(self, workload: SubjectName) -> None:
        """Read the ledger again before anything is believed of *workload*: a commit may have taken or not."""
        with self._lock:
            self._read.pop(workload, None)

    def of(self, workload: SubjectName, member: str) -> Parting | None:
        """Return how *member* was let go last; None if it was not, or got its work back since."""
        with self._lock:
            return self._known.get((workload, member))

    def note(self, workload: SubjectName, member: str, parting: Parting | None) -> None:
        """Remember how *member* was let go; None: it works on."""
        with self._lock:
            if parting is None:
                self._known.pop((workload, member), None)
            else:
                self._known[workload, member] = parting

    def close(self, workload: SubjectName, member: str) -> None:
        """Remember that *member* was recorded as replaced."""
        with self._lock:
            known = self._known.get((workload, member))
            if known is not None:
                self._known[workload, member] = replace(known, is_open=False)

    def gone(self, workload: SubjectName, members: Collection[Member]) -> tuple[tuple[str, Parting], ...]:
        """Return those that were let go, are not there any more, and whose replacement nobody has recorded."""
        now = {each.name: each for each in members}
        with self._lock:
            known = [(key[1], one) for key, one in self._known.items() if key[0] == workload and one.is_open]
        return tuple(
            (name, one)
            for name, one in known
            if name not in now or (now[name].running and now[name].identity != one.was)
        )

    def _told(self, workload: SubjectName, rotations: Collection[Rotation]) -> dict[tuple[SubjectName, str], Parting]:
        """Return what the ledger says, the last word on each member."""
        found: dict[tuple[SubjectName, str], Parting] = {}
        seen: set[str] = set()
        ids = tuple(each.id for each in rotations)
        marks = tuple(each.encode() for each in ids)
        begun = min((each.opened_at for each in rotations), default=None)
        end = self._ledger.size() if begun is not None else 0
        while end > 0:
            start = max(0, end - _SLICE)
            entries = self._ledger.entries(start, end)
            for raw in reversed(entries):
                if not any(mark in raw for mark in marks):
                    continue
                event = decode(raw).event
                name = event.detail.get("member")
                if event.rotation_id not in ids or event.detail.get("workload") != workload or name in seen:
                    continue
                if event.type not in {EventType.DRAINED, EventType.ROLLED, EventType.EXCEPTION_OPENED}:
                    continue
                seen.add(str(name))
                parting = _parting(event)
                if parting is not None:
                    found[workload, str(name)] = parting
            if begun is not None and decode(entries[0]).event.time < begun - _CLOCKS:
                break
            end = start
        return found


def _parting(event: Event) -> Parting | None:
    was = str(event.detail.get("was", ""))
    if event.type is EventType.ROLLED:
        return Parting(was=was, forced=False, is_open=False)
    if event.type is EventType.EXCEPTION_OPENED:
        return Parting(was=was, forced=True, is_open=True) if event.result == FORCED else None
    return Parting(was=was, forced=False, is_open=True) if event.result in FREE_TO_GO else None
