"""
Which parts the daemon has, and in which order they start: the one place to add one.

Rules that must stay true here:

- `Parts.always` runs in every role, so it changes nothing in the world: views, health, a standby's own freshness.
- `Parts.while_leading` starts after the lease was taken and has ended before it is given back (law 14).
- The work of the engine starts when what it needs is there; only people's requests, which need it, start later and
  stop earlier.
"""

from __future__ import annotations

from dataclasses import dataclass

from rotator.daemon.control import ControlSocket
from rotator.daemon.copies import Copies
from rotator.daemon.exporting import Exporting
from rotator.daemon.life import Life
from rotator.daemon.people import PeoplesRequests
from rotator.daemon.services import Service
from rotator.daemon.standby import Freshness
from rotator.daemon.work import Work
from rotator.web import Tallies, service_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Every service of one life, in the order of starting."""

    always: tuple[Service, ...]
    while_leading: tuple[Service, ...]
    work: Work


def parts(life: Life) -> Parts:
    """Return the parts of *life*; nothing starts here."""
    work = Work(life)
    socket = ControlSocket(life)
    tallies = Tallies.of(life)
    http = service_of(life, tallies)
    return Parts(
        always=(Exporting(life, tallies), Freshness(life), socket, *([http] if http is not None else [])),
        # Again the socket: two daemons of one machine share its path, and it is the leader's.
        while_leading=(socket, Copies(life), work, PeoplesRequests(life)),
        work=work,
    )
