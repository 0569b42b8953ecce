"""
What the HTTP service needs of the daemon around it, and whether that daemon is alive and ready.

Rules that must stay true here:

- Live means: a restart would not help. A sweep that has not ended for far too long is not live, nor are visits none of
  which ends; a ledger that cannot be written is, and says so: a restart would not mend the disk.
- Ready means: may be counted on. A standby is ready: it will take over. Whatever is wrong keeps its metrics in reach,
  so only what is not live, or stops, is not ready.
- What anybody may read names no subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from rotator.bootstrap import Wired
from rotator.desk import Desk
from rotator.durations import parse_moment
from rotator.errors import JournalError
from rotator.settings import Settings

STANDBY = "standby"
LEADER = "leader"
STOPPING = "stopping"


class Daemon(Protocol):
    """The daemon as the service sees it; read from many threads."""

    @property
    def wired(self) -> Wired:
        """Return its objects."""
        ...

    @property
    def desk(self) -> Desk:
        """Return what answers people; only its views are asked for here."""
        ...

    @property
    def role(self) -> str:
        """Return `STANDBY`, `LEADER` or `STOPPING`."""
        ...

    def silent_for(self) -> timedelta:
        """Return for how long no sweep, and no look of a standby, has ended."""
        ...

    def ledger_status(self) -> Mapping[str, Any]:
        """Return the contract's ``ledger`` object."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the probes are told."""

    live: bool
    ready: bool
    role: str
    silent_seconds: int
    """Since the last sweep, or a standby's look, has ended."""
    problems: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "live": self.live,
            "ready": self.ready,
            "role": self.role,
            "silent_seconds": self.silent_seconds,
            "problems": list(self.problems),
        }


def health(daemon: Daemon) -> Health:
    """Return how *daemon* is, from memory alone."""
    wired, role, silent = daemon.wired, daemon.role, daemon.silent_for()
    http = wired.settings.http
    limit = http.not_live_after(wired.settings.timing.sweep_every) if http is not None else timedelta.max
    problems = []
    if stuck := role != STOPPING and silent > limit:
        problems.append(f"no sweep has ended for {_seconds(silent)} s")
    unmoved = wired.engine.pool.unmoved_for()
    if halted := role == LEADER and unmoved > limit + longest_step(wired.settings):
        problems.append(f"no visit has ended for {_seconds(unmoved)} s")
    if role == LEADER:
        problems += ledger_problems(daemon)
    return Health(
        live=not stuck and not halted,
        ready=role != STOPPING and not stuck and not halted,
        role=role,
        silent_seconds=_seconds(silent),
        problems=tuple(problems),
    )


def ledger_problems(daemon: Daemon) -> list[str]:
    """Return what is wrong with the ledger, in words for everybody."""
    found = []
    if daemon.ledger_status().get("problem"):
        found.append("the evidence log cannot be signed")
    if spooled_records(daemon):
        found.append("records wait outside the ledger")
    return found


def spooled_records(daemon: Daemon) -> int:
    """Return how many records wait outside the ledger; 0 if the disk does not say."""
    try:
        return daemon.wired.engine.recorder.waiting_outside()
    except JournalError:
        return 0


def checkpoint_at(daemon: Daemon) -> datetime | None:
    """Return when the last checkpoint was signed; None before this process signed one."""
    at = daemon.ledger_status().get("checkpoint_at")
    return parse_moment(at) if isinstance(at, str) else None


def longest_step(settings: Settings) -> timedelta:
    """Return how long one visit may take that does nothing but wait for one member of a workload."""
    return max(
        (each.stop_timeout + each.start_timeout for each in settings.workloads.values()),
        default=timedelta(),
    )


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())
