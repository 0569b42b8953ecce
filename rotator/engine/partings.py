"""
Whom a roll has drained, let go, or told to work on: so that each of them leaves one record of it, whatever crashes.

Rules that must stay true here:

- The ledger is what counts: it is read again after a restart, and after a commit whose reply was lost (law 13).
- What belongs to an open rotation is looked for as far back as that began; what belongs to none, some days, and once.
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
BEGUN = "started"
"""How a `drained` record says that its member is told to take no new work."""
DEFERRED = "deferred"
"""How a `drained` record says that its member is told to work on."""

_SLICE = 1024
_CLOCKS = timedelta(minutes=5)
"""How far two replicas' clocks may be apart, amply: records are in order, their times nearly."""
_DOWN = timedelta(days=7)
"""Longer than nobody leads, amply: what was told before that, outside any rotation, is nobody's concern any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """One member that was let go, or told to drain or to work on."""

    was: str
    """Its run then; empty if it did not run."""
    forced: bool
    is_open: bool
    """Nobody has recorded that it was replaced."""
    told: str = ""
    """`BEGUN` or `DEFERRED`: what is recorded and was not seen yet; empty once it was let go."""


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
        """Know what the ledger says of *workload*: once in each of *rotations*, and at the start outside any."""
        wanted = frozenset(each.id for each in rotations)
        with self._lock:
            is_first = workload not in self._read
            if not is_first and wanted <= self._read[workload]:
                return
            found = self._told(workload, rotations, outside=is_first)
            self._known = {key: one for key, one in self._known.items() if key[0] != workload} | found
            self._read[workload] = wanted

    def doubt(self, workload: SubjectName) -> None:
        """Read the ledger again before anything is believed of *workload*: a commit may have taken or not."""
        with self._lock:
            self._read.pop(workload, None)

    def of(self, workload: SubjectName, member: str) -> Parting | None:
        """Return how *member* was let go last; None if it was not, or was told something else since."""
        with self._lock:
            known = self._known.get((workload, member))
            return None if known is None or known.told else known

    def is_told(self, workload: SubjectName, member: Member, what: str) -> bool:
        """Return whether *what* this run of *member* is told now is recorded already, and was not yet seen."""
        with self._lock:
            known = self._known.get((workload, member.name))
            return known is not None and (known.told, known.was) == (what, member.identity)

    def note(self, workload: SubjectName, member: str, parting: Parting) -> None:
        """Remember how *member* was let go, or what it was told."""
        with self._lock:
            self._known[workload, member] = parting

    def settle(self, workload: SubjectName, members: Collection[Member]) -> None:
        """Forget what members were told, once they are seen to do it: the next time is another."""
        with self._lock:
            for each in members:
                known = self._known.get((workload, each.name))
                if known is not None and known.told == (BEGUN if each.draining else DEFERRED):
                    del self._known[workload, each.name]

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

    def _told(
        self, workload: SubjectName, rotations: Collection[Rotation], *, outside: bool
    ) -> dict[tuple[SubjectName, str], Parting]:
        """Return what the ledger says, the last word on each member."""
        found: dict[tuple[SubjectName, str], Parting] = {}
        seen: set[str] = set()
        ids = frozenset({*(each.id for each in rotations), *([None] if outside else [])})
        mark = f'"{workload}"'.encode()
        end, since = self._ledger.size() if ids else 0, None
        while end > 0:
            start = max(0, end - _SLICE)
            entries = self._ledger.entries(start, end)
            if since is None:
                last = [decode(entries[-1]).event.time - _DOWN] if outside else []
                since = min([*last, *(each.opened_at for each in rotations)]) - _CLOCKS
            for raw in reversed(entries):
                if mark not in raw:
                    continue
                event = decode(raw).event
                name = event.detail.get("member")
                if event.detail.get("workload") != workload or name is None or name in seen:
                    continue
                if event.type not in {EventType.DRAINED, EventType.ROLLED, EventType.EXCEPTION_OPENED}:
                    continue
                # Whatever came of it in a rotation that has ended since is the last word on it, too.
                seen.add(str(name))
                parting = _parting(event) if event.rotation_id in ids else None
                if parting is not None:
                    found[workload, str(name)] = parting
            if decode(entries[0]).event.time < since:
                break
            end = start
        return found


def _parting(event: Event) -> Parting | None:
    was = str(event.detail.get("was", ""))
    if event.type is EventType.ROLLED:
        return Parting(was=was, forced=False, is_open=False)
    if event.type is EventType.EXCEPTION_OPENED:
        return Parting(was=was, forced=True, is_open=True) if event.result == FORCED else None
    if event.result in {BEGUN, DEFERRED}:
        return Parting(was=was, forced=False, is_open=False, told=event.result)
    return Parting(was=was, forced=False, is_open=True) if event.result in FREE_TO_GO else None
