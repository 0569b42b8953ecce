"""
One life of the daemon: what its parts share, and what they are told of its role.

Rules that must stay true here:

- A life leads at most once. When the lease is lost the life is over, and everything in it with it: the next one is
  wired anew, so that nothing of a lost term can act in a later one (law 14).
- A standby changes nothing in the world; it reads, answers questions, and keeps itself fresh.
- Who leads takes no order before it knows what the journal remembers: an order is judged by what is open and held.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from rotator.bootstrap import Wired
from rotator.core.foreseen import Alert, checkpoint_alerts, sweep_alerts, true_at
from rotator.desk import Desk
from rotator.evidence.note import Checkpoint
from rotator.settings import approval_policy


class Role(StrEnum):
    """What this process is among its replicas."""

    STANDBY = "standby"
    """Reads, answers, and waits for the lease."""
    LEADER = "leader"
    """Holds the lease: this process alone changes the world."""
    STOPPING = "stopping"
    """Finishes what is under way and begins nothing."""


class End(StrEnum):
    """Why a life ended."""

    TOLD = "told"
    """Somebody asked it to stop."""
    LOST = "lost"
    """The lease was lost; everything of this life has ended."""
    UNFINISHED = "unfinished"
    """The lease was lost and a step under way did not end in time: only the process's end ends it for certain."""


@dataclass(slots=True)
class Signed:
    """The last checkpoint, for status."""

    checkpoint: Checkpoint | None = None
    at: datetime | None = None
    problem: str = ""


@dataclass(slots=True)
class Life:
    """What every part of one life may use. Safe to read from many threads."""

    wired: Wired
    role: Role = Role.STANDBY
    signed: Signed = field(default_factory=Signed)
    ending: threading.Event = field(default_factory=threading.Event)
    """Set once nothing new may begin."""
    remembers: threading.Event = field(default_factory=threading.Event)
    """Set once the engine works on what the journal remembers."""
    wake: threading.Event = field(default_factory=threading.Event)
    """Set when the main thread has something to look at."""
    report: Mapping[str, Any] | None = None
    """What the leader said last of the world, while this process stands by."""
    desk: Desk = field(init=False)
    """Where people's requests arrive, whichever way they come."""
    began: datetime = field(init=False)
    _turn: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin now."""
        wired = self.wired
        self.began = wired.clock.now()
        self.desk = Desk(
            wired.engine,
            ledger=self.ledger_status,
            requests=wired.store,
            approval=lambda: approval_policy(wired.settings),
            elsewhere=self._leaders_words,
            replica=self.replica,
        )
        self._turn = self.wired.clock.monotonic()

    @property
    def leads(self) -> bool:
        """Return whether this process alone may change the world."""
        return self.role is Role.LEADER

    def leader(self) -> str | None:
        """Return the name of whoever holds the lease, as last seen; None if nobody does or it is not known."""
        return self.wired.lease.holder()

    def _leaders_words(self) -> Mapping[str, Any] | None:
        """Return what the leader said last; None where this process leads, or nobody has said anything."""
        return self.report if self.role is Role.STANDBY else None

    def replica(self) -> dict[str, object]:
        """Return the contract's ``replica`` object: the role of this process, and who leads."""
        return {"role": self.role.value, "leader": self.leader()}

    def orders_refused(self) -> str | None:
        """Return why no order of a person can be taken here, in a sentence for them; None if it can."""
        if self.leads:
            if self.remembers.is_set():
                return None
            return "this replica has just begun to lead and is still reading its journal: ask again in a moment"
        leader = self.leader()
        where = f"{leader} leads: ask there" if leader else "nobody leads at this moment: ask again in a moment"
        return f"this replica stands by and changes nothing; {where}"

    def beat(self) -> None:
        """Note that the sweep, or a standby's look, has just ended."""
        self._turn = self.wired.clock.monotonic()

    def silent_for(self) -> timedelta:
        """Return for how long no sweep, and no look of a standby, has ended."""
        return timedelta(seconds=self.wired.clock.monotonic() - self._turn)

    def end(self) -> None:
        """Ask this life to end: its main thread stops everything in order."""
        self.ending.set()
        self.wake.set()

    def ledger_status(self) -> dict[str, object]:
        """Return the contract's ``ledger`` object."""
        checkpoint, at = self.signed.checkpoint, self.signed.at
        return {
            "size": checkpoint.size if checkpoint is not None else 0,
            "root": checkpoint.root.hex() if checkpoint is not None else "",
            "checkpoint_at": at.strftime("%Y-%m-%dT%H:%M:%SZ") if at is not None else None,
            "witness": "LOCAL",
            "problem": self.signed.problem,
        }

    def log_alerts(self, now: datetime) -> tuple[Alert, ...]:
        """Return what the evidence log raises at *now*; until its first checkpoint it counts from the start."""
        every = self.wired.settings.ledger.checkpoint_every
        signed_at = self.signed.at or self.began
        return true_at(checkpoint_alerts(signed_at, every, self.signed.problem), now)

    def sweep_alerts(self, now: datetime) -> tuple[Alert, ...]:
        """Return what a sweep raises that has not ended for too long at *now*."""
        every = self.wired.settings.timing.sweep_every
        return true_at(sweep_alerts(now - self.silent_for(), every), now)
