"""
Who reaches whom, called pair by pair, against what the configuration says.

Rules that must stay true here:

- Every identity calls every service of every environment, directly and by each hostname; nothing is left out.
- A hostname counts as right if it leads to the caller's own environment or nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from rotator.platform.model import Identity, Protocol, Service
from rotator.platform.reach import reach
from tests.example.workloads import Workloads
from tests.fakes.kuma.machines import Call, Machines, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One identity that called one service, and what should have become of it."""

    caller: Identity
    service: Service
    by_hostname: bool
    allowed: bool
    call: Call
    answers: str
    """What the proxy of the service is called."""

    @property
    def is_right(self) -> bool:
        """Return whether what happened is what the configuration says."""
        if not self.allowed:
            return self.call.outcome is Outcome.REFUSED
        return self.call.outcome is Outcome.ANSWERED and self.call.answered_by == self.answers

    @property
    def in_words(self) -> str:
        """Return what happened, in a sentence."""
        way = f" as {self.service.hostname}" if self.by_hostname else ""
        said = self.call.answered_by or self.call.detail
        return f"{self.caller.qualified} called {self.service.qualified}{way}: {self.call.outcome.value} ({said})"


class Matrix:
    """Calls everything that an example's platform names, through the machines of its workloads."""

    def __init__(self, workloads: Workloads, machines: Machines) -> None:
        self._workloads = workloads
        self._platform = workloads.platform
        self._machines = machines

    def tried(self) -> tuple[Tried, ...]:
        """Call everything once, and return what became of it."""
        found = [self._direct(each.caller, each.service, allowed=each.allowed) for each in reach(self._platform)]
        allowed = {(each.caller.qualified, each.service.qualified): each.allowed for each in reach(self._platform)}
        for caller in self._platform.identities:
            for service in self._platform.services:
                if service.hostname is not None and service.environment == caller.environment:
                    may = allowed[caller.qualified, service.qualified]
                    found.append(self._by_hostname(caller, service, allowed=may))
        return tuple(found)

    def wrong(self) -> tuple[str, ...]:
        """Call everything once, and return every call that ended otherwise than the configuration says, in words."""
        return tuple(each.in_words for each in self.tried() if not each.is_right)

    def _direct(self, caller: Identity, service: Service, *, allowed: bool) -> Tried:
        port = self._workloads.direct[service.qualified]
        return self._called(caller, service, port, by_hostname=False, allowed=allowed)

    def _by_hostname(self, caller: Identity, service: Service, *, allowed: bool) -> Tried:
        port = self._workloads.hostnames[service.name]
        return self._called(caller, service, port, by_hostname=True, allowed=allowed)

    def _called(self, caller: Identity, service: Service, port: int, *, by_hostname: bool, allowed: bool) -> Tried:
        is_http = service.protocol is not Protocol.TCP
        call = self._machines.call(self._workloads.name_of(caller), port, is_http=is_http)
        answers = self._workloads.name_of(service)
        return Tried(
            caller=caller, service=service, by_hostname=by_hostname, allowed=allowed, call=call, answers=answers
        )


_MARKS = {Outcome.ANSWERED: "yes", Outcome.REFUSED: "-", Outcome.FAILED: "?"}


def table(tried: tuple[Tried, ...]) -> str:
    """Return who reached whom as a table: ``yes``, ``-`` for a refusal, ``!`` after what should not be."""
    services = list(dict.fromkeys(each.service.qualified for each in tried))
    callers = list(dict.fromkeys(each.caller.qualified for each in tried))
    cells = {
        (each.caller.qualified, each.service.qualified): _MARKS[each.call.outcome] + ("" if each.is_right else "!")
        for each in tried
        if not each.by_hostname
    }
    width = max(map(len, callers))
    widths = [max(len(part) for part in name.split("/")) for name in services]
    lines = []
    for part in (0, 1):
        names = (name.split("/")[part].ljust(size) for name, size in zip(services, widths, strict=True))
        lines.append(" " * width + "  " + "  ".join(names).rstrip())
    for caller in callers:
        row = (cells[caller, name].ljust(size) for name, size in zip(services, widths, strict=True))
        lines.append(caller.ljust(width) + "  " + "  ".join(row).rstrip())
    return "\n".join(lines)
