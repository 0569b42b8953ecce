"""
One process of this machine, told apart from every other that ever had its number.

Rules that must stay true here:

- A process is its pid *and* its start: whoever signals one, holds a descriptor of it that was compared after it was
  opened, so a number that was given away again is never signalled.
- A zombie has ended.
- Waiting is the kernel's: the descriptor becomes readable when the process ends, nothing is asked in a loop.

Source: proc(5), pidfd_open(2).
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rotator.errors import Denied

# Position of a field in /proc/PID/stat, counted from the state, which follows the name in parentheses.
_STATE, _SESSION, _START = 0, 3, 19
_RESOLUTION = 0.01
"""Seconds in a tick, and in the last digit of the uptime."""
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that runs."""

    pid: int
    start_ticks: int
    """Clock ticks from boot to its start."""
    session: int

    @property
    def identity(self) -> str:
        """Return what tells it from any other: ``pid@start``."""
        return f"{self.pid}@{self.start_ticks}"


def process(pid: int) -> Process | None:
    """Return the process with the number *pid*; None if there is none or it has ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold spaces and parentheses; the last closing one ends it.
    fields = text.rpartition(")")[2].split()
    if fields[_STATE] in {"Z", "X"}:
        return None
    return Process(pid=pid, start_ticks=int(fields[_START]), session=int(fields[_SESSION]))


def still(one: Process) -> bool:
    """Return whether *one* still runs."""
    now = process(one.pid)
    return now is not None and now.start_ticks == one.start_ticks


def session_of(leader: Process) -> tuple[Process, ...]:
    """Return every running process in *leader*'s session but *leader*; none unless it leads one."""
    if leader.session != leader.pid:
        return ()
    numbers = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    found = (process(pid) for pid in numbers)
    return tuple(one for one in found if one is not None and one.session == leader.pid and one.pid != leader.pid)


def started_at(one: Process, now: datetime) -> datetime:
    """
    Return when *one* was started, on the wall clock that shows *now*.

    Never later than it was: the kernel counts in ticks and the uptime in hundredths, so both are taken off. Not whole
    seconds: whether a worker started before or after a publication is told apart within the same second.
    """
    uptime = float((_PROC / "uptime").read_text(encoding="ascii").split()[0])
    age = uptime - one.start_ticks / os.sysconf("SC_CLK_TCK")
    return now - timedelta(seconds=age + 2 * _RESOLUTION)


def boot_id() -> str:
    """Return the identity of this boot of the machine: ticks since boot mean nothing across two."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Handle:
    """A hold on one process: its number cannot mean another one."""

    def __init__(self, descriptor: int, one: Process) -> None:
        """See `held`."""
        self._descriptor = descriptor
        self.process = one

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process alone; nothing happens if it has ended. Raises `Denied` without the right."""
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            return
        except PermissionError as e:
            raise Denied(f"process {self.process.pid} may not be signalled by this user") from e

    def ended(self, within: timedelta) -> bool:
        """Wait until it ends, at most *within*; return whether it has."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(within.total_seconds() * 1000))


@contextmanager
def held(one: Process) -> Iterator[Handle | None]:
    """Hold *one*; None if it has ended."""
    try:
        descriptor = os.pidfd_open(one.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Compared after opening: from here on the descriptor means this process and no later one.
        yield Handle(descriptor, one) if still(one) else None
    finally:
        os.close(descriptor)
