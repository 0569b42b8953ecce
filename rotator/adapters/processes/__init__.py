"""
Workloads on this machine: commands that rotator starts, and systemd units.

Rules that must stay true here:

- TERM goes to a member's main process, never to its group; only a forced stop kills, and only after its grace period
  (law 17).
- `Processes.replace` may be called again at any moment, after a crash too: it looks first, ends what still runs,
  and starts only what does not run.
- A member is running, or not, by what the kernel says now; a pid file alone proves nothing.
- A spare is a member as long as it runs, and that it runs is all the memory there is of a number that was raised: a
  restart or a crash at any point leaves nothing behind that the next one does not see (law 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import assert_never

from rotator.adapters.processes import command
from rotator.adapters.processes.command import CommandMember
from rotator.adapters.processes.unit import Systemd, UnitMember, refuse_harsh_stop, refuse_return
from rotator.core.model import Member, SubjectName, Surge
from rotator.errors import ConfigError, Conflict, Rejected
from rotator.ports import Clock

__all__ = ["CommandMember", "Processes", "UnitMember"]

_NOT_RUNNING = "it does not run"


class Processes:
    """`rotator.ports.Workloads` and `rotator.ports.Surging` for one workload on this machine."""

    def __init__(
        self,
        workload: SubjectName,
        members: Sequence[CommandMember | UnitMember],
        *,
        clock: Clock,
        stop_timeout: timedelta,
        start_timeout: timedelta,
        drained: bool = True,
        settle: timedelta = timedelta(seconds=1),
        systemctl: Sequence[str] = ("systemctl",),
    ) -> None:
        """
        Describe the workload without touching it.

        Args:
            workload: Its name in the configuration.
            members: In the order in which they are rolled; spares among them are listed only while they run.
            clock: Dates starts.
            stop_timeout: How long a member may take to end after TERM, in one call.
            start_timeout: How long its start may take.
            drained: Its members are drained before they are replaced: units that kill their children are refused.
            settle: A command that ends sooner than this counts as not started.
            systemctl: The program, with ``--user`` for a user's own units.

        Raises:
            ConfigError: If two members have one name, pid file or unit.
        """
        self._workload = workload
        self._members = {member.name: member for member in members}
        self._clock = clock
        self._stop_timeout = stop_timeout
        self._start_timeout = start_timeout
        self._drained = drained
        self._settle = settle
        self._systemd = Systemd(systemctl, clock)
        self._at_work: frozenset[str] = frozenset()
        """Spares that ran at the last look."""
        places = [member.pid_file if isinstance(member, CommandMember) else member.unit for member in members]
        if len(self._members) < len(members) or len(set(places)) < len(places):
            raise ConfigError(f"two members of {workload} have the same name, pid file or unit")

    def members(self) -> tuple[Member, ...]:
        """Return every member as the kernel shows it; ``ready`` says only that it runs, the drainer knows more."""
        seen = tuple(self._look(member) for member in self._members.values() if not member.spare)
        spares = tuple(self._look(member) for member in self._spares())
        self._at_work = frozenset(each.name for each in spares if each.running)
        return (*seen, *(replace(each, extra=True) for each in spares if each.running))

    def held(self) -> str | None:
        """Return None: nobody else replaces them."""
        return None

    def replace(self, member: str, *, forced: bool) -> None:
        """Stop the main process of *member* if it runs, wait until it is gone, and start it anew."""
        match self._members.get(member):
            case CommandMember() as one:
                self._replace_command(one, forced=forced)
            case UnitMember() as one:
                self._replace_unit(one, forced=forced)
            case None:
                raise Rejected(f"{self._workload} has no member {member}")
            case other:
                assert_never(other)

    # --- spares -----------------------------------------------------------------------------------------------------

    def seen(self, *, scaler: bool) -> Surge | None:  # noqa: ARG002 -- nobody else starts processes
        """Return how many run or should, and which part of that is spares."""
        wanted = sum(not member.spare for member in self._members.values())
        more = len(self._at_work)
        return Surge(wanted=wanted + more, before=wanted if more else None, raised_to=wanted + more if more else None)

    def more(self, by: int) -> None:
        """Start *by* spares, the first that are listed."""
        waiting = [member for member in self._spares() if not self._look(member).running]
        if self._at_work or len(waiting) < by:
            raise Conflict(f"{by} spares of {self._workload} are not there to be started: one runs already")
        for member in waiting[:by]:
            if isinstance(member, UnitMember):
                refuse_return(member, self._systemd.look(member.unit))
            self.replace(member.name, forced=False)

    def back(self) -> None:
        """Stop the spares gently, and return once they are gone. Still there in time: `Unavailable`; call again."""
        for member in self._spares():
            match member:
                case CommandMember():
                    with command.locked(member):
                        started = command.find(member, self._clock)
                        if started is not None:
                            command.stop(member, started, within=self._stop_timeout, forced=False)
                case UnitMember():
                    self._systemd.stop(member, self._systemd.look(member.unit), within=self._stop_timeout, forced=False)
                case other:
                    assert_never(other)

    def _spares(self) -> tuple[CommandMember | UnitMember, ...]:
        return tuple(member for member in self._members.values() if member.spare)

    # --- one member -------------------------------------------------------------------------------------------------

    def _look(self, member: CommandMember | UnitMember) -> Member:
        match member:
            case CommandMember():
                started = command.find(member, self._clock)
                main, at = (started.process, started.at) if started else (None, None)
                detail = _NOT_RUNNING
            case UnitMember():
                seen = self._systemd.look(member.unit)
                main, at = seen.main, seen.started_at
                detail = f"{member.unit} is {seen.state}"
            case other:
                assert_never(other)
        return Member(
            workload=self._workload,
            name=member.name,
            running=main is not None,
            ready=main is not None,
            started_at=at,
            identity=main.identity if main else "",
            detail="" if main else detail,
        )

    def _replace_command(self, member: CommandMember, *, forced: bool) -> None:
        with command.locked(member) as lock:
            started = command.find(member, self._clock)
            if started is not None:
                command.stop(member, started, within=self._stop_timeout, forced=forced)
            command.start(member, lock=lock, clock=self._clock, within=self._start_timeout, settle=self._settle)

    def _replace_unit(self, member: UnitMember, *, forced: bool) -> None:
        seen = self._systemd.look(member.unit)
        if self._drained:
            refuse_harsh_stop(member, seen)
        self._systemd.stop(member, seen, within=self._stop_timeout, forced=forced)
        self._systemd.start(member, within=self._start_timeout)
