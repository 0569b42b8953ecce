"""
Members that systemd runs.

Rules that must stay true here:

- TERM goes to the main process alone (``systemctl kill``), not through a stop job: that one signals the whole
  control group at once or kills it when its time is over, whatever still runs in it (law 17).
- A unit whose own stop would hit the children too is refused for a drained workload, with the mend: the next
  ``systemctl restart``, upgrade or shutdown by anybody else would undo the drain's care.
- Every call of ``systemctl`` has a timeout and asks for no password.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.adapters.processes.seen import Process, held, process, started_at
from rotator.errors import Denied, Rejected, Unavailable
from rotator.ports import Clock

_GENTLE = frozenset({"mixed", "process"})
_QUESTION_TAKES = timedelta(seconds=10)
_KILL_TAKES = timedelta(seconds=10)
_SHOWN = ("LoadState", "ActiveState", "SubState", "MainPID", "KillMode", "Restart", "Result", "ExecMainStatus")
_COMES_BACK = frozenset({"always", "on-success"})
"""Values of ``Restart=`` with which a unit that ended as it was told to is started again by systemd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitMember:
    """A worker that is a systemd service."""

    name: str
    unit: str
    """``airflow-worker@1.service``"""
    spare: bool = False
    """It runs only for the time of a roll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSeen:
    """What systemd says of a unit."""

    state: str
    """``active/running``, ``activating/auto-restart``, ``failed/failed``, ..."""
    kill_mode: str
    restart: str
    result: str
    main: Process | None
    started_at: datetime | None


class Systemd:
    """One service manager, spoken to by ``systemctl``."""

    def __init__(self, systemctl: Sequence[str], clock: Clock) -> None:
        """Speak by *systemctl*: the program and what goes before its verb (``--user``)."""
        self._systemctl = tuple(systemctl)
        self._clock = clock

    def look(self, unit: str) -> UnitSeen:
        """Return what systemd says of *unit*. Raises `Rejected` if it knows none of that name."""
        text = self._run(_QUESTION_TAKES, "show", f"--property={','.join(_SHOWN)}", "--", unit)
        shown = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if shown.get("LoadState") != "loaded":
            raise Rejected(f"systemd has no usable unit {unit} (it is {shown.get('LoadState', 'unknown')})")
        pid = int(shown.get("MainPID", "0") or "0")
        main = process(pid) if pid else None
        return UnitSeen(
            state=f"{shown.get('ActiveState', 'unknown')}/{shown.get('SubState', 'unknown')}",
            kill_mode=shown.get("KillMode", "unknown"),
            restart=shown.get("Restart", "unknown"),
            result=f"{shown.get('Result', 'unknown')}, status {shown.get('ExecMainStatus', 'unknown')}",
            main=main,
            started_at=started_at(main, self._clock.now()) if main else None,
        )

    def stop(self, member: UnitMember, seen: UnitSeen, *, within: timedelta, forced: bool) -> None:
        """
        Tell the main process of *member* to end, and return once it is gone.

        Raises:
            Unavailable: If it is not gone *within* the time. With *forced* the whole unit is killed then.
        """
        if seen.main is None:
            return
        with held(seen.main) as main:
            if main is None:
                return
            self._run(_QUESTION_TAKES, "kill", "--kill-who=main", "--signal=SIGTERM", "--", member.unit)
            if main.ended(within):
                return
            if not forced:
                raise Unavailable(
                    f"{member.name} ({member.unit}, process {seen.main.pid}) has not ended "
                    f"{within.total_seconds():g} s after TERM: its work goes on, it is looked at again"
                )
            self._run(_QUESTION_TAKES, "kill", "--kill-who=all", "--signal=SIGKILL", "--", member.unit)
            if not main.ended(_KILL_TAKES):
                raise Unavailable(f"{member.name} ({member.unit}) has not ended after KILL: it hangs in the kernel")

    def start(self, member: UnitMember, *, within: timedelta) -> None:
        """Start *member*, also one that systemd is about to start again by itself. Raises `Unavailable` if it fails."""
        seen = self.look(member.unit)
        if seen.state.startswith("failed/"):
            # Clears the limit on starts in a row, which a unit with Restart= may have reached while it was broken.
            self._run(_QUESTION_TAKES, "reset-failed", "--", member.unit)
        # A start would wait until RestartSec= is over; nothing of the unit runs then that a restart could stop.
        verb = "restart" if seen.main is None and seen.state.endswith("/auto-restart") else "start"
        try:
            self._run(within, verb, "--", member.unit)
        except Rejected as e:
            raise Unavailable(
                f"{member.name} ({member.unit}) did not start ({self.look(member.unit).result}): "
                f"see journalctl -u {member.unit}"
            ) from e

    def _run(self, within: timedelta, *words: str) -> str:
        doing = f"systemctl {words[0]} {words[-1]}"
        try:
            done = subprocess.run(  # noqa: S603 -- a fixed program and the operator's own unit name, without a shell
                [*self._systemctl, "--no-ask-password", "--no-pager", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=within.total_seconds(),
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise Unavailable(f"{doing} did not return within {within.total_seconds():g} s") from e
        except OSError as e:
            raise Unavailable(f"{doing} cannot be run: {e.strerror}") from e
        if done.returncode == 0:
            return done.stdout
        problem = " ".join(done.stderr.split())[:300]
        if "ccess denied" in problem or "authentication required" in problem:
            raise Denied(f"{doing} is not allowed for this user: give it a polkit rule for this unit, or run as root")
        if "connect to bus" in problem or "not been booted with systemd" in problem:
            raise Unavailable(f"{doing} reached no service manager: {problem}")
        raise Rejected(f"{doing} failed: {problem}")


def refuse_return(member: UnitMember, seen: UnitSeen) -> None:
    """Raise `Rejected` if systemd would start *member*, a spare, again after rotator has stopped it."""
    if seen.restart in _COMES_BACK:
        raise Rejected(
            f"{member.unit} has Restart={seen.restart}, so that it would not stay stopped after the roll: set "
            "Restart=on-failure in its [Service] section, then systemctl daemon-reload"
        )


def refuse_harsh_stop(member: UnitMember, seen: UnitSeen) -> None:
    """Raise `Rejected` if *member*'s own stop would signal its children, which are the work."""
    if seen.kill_mode not in _GENTLE:
        raise Rejected(
            f"{member.unit} has KillMode={seen.kill_mode}, so that any stop of it kills running tasks: set "
            "KillMode=mixed and a TimeoutStopSec longer than the longest task in its [Service] section, "
            "then systemctl daemon-reload"
        )
