"""
Watching rotations until their last consumer is proven.

Rules that must stay true here:

- Looking changes nothing: whoever stops watching stops nothing.
- A daemon that restarts in between is waited for, not an error: its rotation goes on from what it observes (law 13).
- Held beyond a deadline is an answer (waiting), because only a person can end it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rotator.cli.tables import progress_line
from rotator.clock import SystemClock
from rotator.control import Daemon
from rotator.errors import Unavailable
from rotator.exits import ExitCode
from rotator.ports import Clock

EVERY: Final = timedelta(milliseconds=500)
PATIENCE: Final = timedelta(seconds=60)
"""How long the daemon may be away before that is the answer: longer than a restart, shorter than a person's."""
_CODES: Final[Mapping[str, ExitCode]] = {
    "done": ExitCode.DONE,
    "failed": ExitCode.FAILED,
    "rolled_back": ExitCode.FAILED,
    "refused": ExitCode.LAW,
}

_UNDECIDED: Final = frozenset({"awaiting_approval", "pending", "begun"})
"""A request in one of these states has not been carried out, and may yet be."""


@dataclass(slots=True)
class Followed:
    """What was seen of the rotations that are followed."""

    progress: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    away_since: datetime | None = None
    """Since when the daemon does not answer; None while it does."""

    def is_over(self, rotation_id: str) -> bool:
        """Return whether the rotation has ended, or is held until a person acts."""
        seen = self.progress.get(rotation_id, {})
        return seen.get("state") in _CODES or bool(seen.get("alert"))

    @property
    def code(self) -> ExitCode:
        """Return the exit code for everything that was seen: what needs a person most decides; nothing is waiting."""
        if not self.progress:
            return ExitCode.WAITING
        codes = {_CODES.get(str(seen.get("state")), ExitCode.WAITING) for seen in self.progress.values()}
        order = (ExitCode.LAW, ExitCode.FAILED, ExitCode.WAITING)
        return next((code for code in order if code in codes), ExitCode.DONE)


def follow(
    daemon: Daemon,
    rotation_ids: Sequence[str],
    *,
    clock: Clock,
    show: Callable[[Followed], None],
    at_most: timedelta | None = None,
) -> Followed:
    """
    Return what became of *rotation_ids* once each has ended or is held, or *at_most* has passed.

    *show* is called after every look.

    Raises:
        Unavailable: If the daemon has not answered for a minute.
    """
    started, never, seen = clock.monotonic(), threading.Event(), Followed()
    while True:
        for rotation_id in rotation_ids:
            if seen.is_over(rotation_id):
                continue
            try:
                seen.progress[rotation_id] = daemon.progress(rotation_id)
                seen.away_since = None
            except Unavailable:
                now = clock.now()
                seen.away_since = seen.away_since or now
                if now - seen.away_since > PATIENCE:
                    raise
        show(seen)
        if all(seen.is_over(each) for each in rotation_ids):
            return seen
        if at_most is not None and clock.monotonic() - started > at_most.total_seconds():
            return seen
        clock.wait(never, EVERY)


def decided(daemon: Daemon, request_id: str, *, clock: Clock, at_most: timedelta | None = None) -> Mapping[str, Any]:
    """
    Return where a request stands once no word is waited for any more, *at_most* has passed, or Ctrl-C was pressed.

    Raises:
        Unavailable: If the daemon has not answered for a minute.
    """
    started, never, away = clock.monotonic(), threading.Event(), 0.0
    seen: Mapping[str, Any] = {"id": request_id, "state": "pending"}
    with contextlib.suppress(KeyboardInterrupt):
        while seen.get("state") in _UNDECIDED:
            try:
                seen, away = daemon.request(request_id), 0.0
            except Unavailable:
                away = away or clock.monotonic()
                if clock.monotonic() - away > PATIENCE.total_seconds():
                    raise
            if at_most is not None and clock.monotonic() - started > at_most.total_seconds():
                break
            if seen.get("state") in _UNDECIDED:
                clock.wait(never, EVERY)
    return seen


def watched(
    daemon: Daemon, rotation_ids: Sequence[str], *, console: Console | None, at_most: timedelta | None
) -> Followed:
    """
    Follow *rotation_ids* and draw them on *console* (None: draw nothing); Ctrl-C ends the watching alone.

    On a terminal the lines are redrawn in place; elsewhere a line is printed whenever it changes.
    """
    clock, latest, said = SystemClock(), Followed(), dict[str, str]()
    live = Live(console=console, auto_refresh=False) if console is not None and console.is_terminal else None

    def show(seen: Followed) -> None:
        latest.progress = seen.progress
        lines = {key: progress_line(each) for key, each in seen.progress.items()}
        if seen.away_since is not None:
            lines["daemon"] = Text("the daemon does not answer: waiting for it", style="yellow")
        if live is not None:
            live.update(Group(*lines.values()), refresh=True)
        elif console is not None:
            for key, line in lines.items():
                if said.get(key) != line.plain:
                    console.print(line)
            said.clear()
            said.update({key: line.plain for key, line in lines.items()})

    with live if live is not None else contextlib.nullcontext():
        try:
            return follow(daemon, rotation_ids, clock=clock, show=show, at_most=at_most)
        except KeyboardInterrupt:
            if console is not None:
                console.print("no longer watching: the rotation goes on, see rotator status")
            return latest
