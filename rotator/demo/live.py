"""
The run as it happens: a live view on a terminal, one plain line every few seconds elsewhere.

Rules that must stay true here:

- Shows what was seen, decides nothing; a drawing that fails would not change the run's outcome.
- Without a terminal no control sequence is written, so that a log file stays readable.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rotator.clock import SystemClock
from rotator.demo.watch import Row, Snapshot
from rotator.evidence.record import Record

_PLAIN_EVERY_SECONDS = 5.0
_KEPT_ANNOUNCEMENTS = 7
_LATE = 0.75  # share of a lifetime after which its bar turns yellow
_SERIAL_CHARACTERS = 10


class LiveView:
    """Draws snapshots; `announce` says what the demonstration does."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._snapshot = Snapshot()
        self._said: deque[tuple[float | None, str]] = deque(maxlen=_KEPT_ANNOUNCEMENTS)
        self._last_line = -_PLAIN_EVERY_SECONDS
        self._live = (
            Live(console=console, get_renderable=self._drawn, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def announce(self, text: str, *, at: float | None = None) -> None:
        """Say what happens now; *at* is the second of the run."""
        with self._lock:
            self._said.append((at, text))
        if self._live is None:
            self._console.print(_stamped(at, text), highlight=False, soft_wrap=True)

    def show(self, snapshot: Snapshot) -> None:
        """Take *snapshot* for the next drawing; called by the watching thread."""
        with self._lock:
            self._snapshot = snapshot
        if self._live is None and snapshot.at - self._last_line >= _PLAIN_EVERY_SECONDS:
            self._last_line = snapshot.at
            self._console.print(plain_line(snapshot), highlight=False, soft_wrap=True)

    def _drawn(self) -> Group:
        with self._lock:
            snapshot, said = self._snapshot, tuple(self._said)
        now = self._clock.now()
        return Group(
            _headline(snapshot),
            _subjects(snapshot, now),
            _workers(snapshot),
            _records(snapshot.last),
            Text(),
            *(Text(_stamped(at, text), style="dim") for at, text in said[:-1]),
            *(Text(_stamped(at, text), style="bold") for at, text in said[-1:]),
        )


def plain_line(snapshot: Snapshot) -> str:
    """Return *snapshot* in one line for a log file."""
    domains = [row for row in snapshot.subjects if row["kind"] == "trust_domain"]
    phases = ", ".join(f"{row['name']} g{row['generation']} {row['phase']}" for row in domains)
    daemon = phases if snapshot.answers else "the daemon does not answer"
    return _stamped(
        snapshot.at,
        f"{daemon}; {snapshot.rate:.0f} connections/s, {snapshot.requests} requests, {snapshot.failed} failed; "
        f"tasks {snapshot.tasks_finished} of {snapshot.tasks_submitted}; log {snapshot.entries}",
    )


def _stamped(at: float | None, text: str) -> str:
    return f"{'':>6}  {text}" if at is None else f"{at:5.0f}s  {text}"


def _headline(snapshot: Snapshot) -> Text:
    """Return the first line: time, load, tasks, log."""
    failed = f"{snapshot.failed} failed"
    line = Text.assemble(
        ("rotator demo ", "bold"),
        (f"{snapshot.at:4.0f}s  ", "cyan"),
        (f"{snapshot.rate:4.0f}", "bold"),
        (" new TLS connections/s   ", ""),
        (f"{snapshot.requests:,} requests, ", ""),
        (failed, "bold red" if snapshot.failed else "bold green"),
        (f"   tasks {snapshot.tasks_finished}/{snapshot.tasks_submitted}   log {snapshot.entries} records", ""),
    )
    if not snapshot.answers:
        line.append("   the daemon does not answer", style="bold red")
    return line


def _subjects(snapshot: Snapshot, now: datetime) -> Table:
    """Return the table of trust domains and certificates with their remaining life."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("subject", "phase", "gen.", "serial", "life left", "", "waiting on"):
        table.add_column(name, no_wrap=True)
    for row in snapshot.subjects:
        left, share = _life(row, now)
        bar = ProgressBar(
            total=1.0,
            completed=share,
            width=24,
            complete_style="yellow" if share < 1 - _LATE else "green",
            finished_style="green",
        )
        strong = "bold" if row["kind"] == "trust_domain" else ""
        table.add_row(
            Text(row["name"], style=strong),
            Text(row["phase"], style="yellow" if row.get("open_rotation") else ""),
            str(row["generation"] or ""),
            str(row["serial"] or "")[:_SERIAL_CHARACTERS],
            bar,
            f"{left:5.0f}s" if left is not None else "",
            Text(", ".join(row["waiting_on"])[:50], style="dim"),
        )
    return table


def _life(row: Row, now: datetime) -> tuple[float | None, float]:
    """Return the seconds that are left and their share of the whole life."""
    if not row["not_before"] or not row["not_after"]:
        return None, 0.0
    begins = datetime.fromisoformat(row["not_before"]).astimezone(UTC)
    ends = datetime.fromisoformat(row["not_after"]).astimezone(UTC)
    left = (ends - now).total_seconds()
    whole = (ends - begins).total_seconds()
    return left, min(max(left / whole, 0.0), 1.0) if whole > 0 else 0.0


def _workers(snapshot: Snapshot) -> Text:
    """Return one line for all workers."""
    line = Text()
    for row in snapshot.workloads:
        for member in row["members"]:
            word, style = _state(member)
            busy = f", {member['busy']} tasks" if member.get("busy") is not None else ""
            line.append(f"{member['name']} ", style="bold")
            line.append(f"{word}{busy}   ", style=style)
    return line


def _state(member: Row) -> tuple[str, str]:
    """Return one member's state in a word, and its colour."""
    match (bool(member["running"]), bool(member["draining"]), bool(member["ready"])):
        case (False, _, _):
            return "down", "red"
        case (True, True, _):
            return "draining", "yellow"
        case (True, False, True):
            return "working", "green"
        case _:
            return "starting", "yellow"


def _records(records: tuple[Record, ...]) -> Table:
    """Return the newest records of the log."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for record in records:
        event = record.event
        detail: Any = event.detail.get("member") or event.reason or ""
        table.add_row(
            Text(f"#{record.seq}", style="dim"),
            Text(event.type.value),
            Text(str(event.subject)),
            Text(str(detail)[:60], style="dim"),
        )
    return table
