"""
The control socket: views in every role, orders only where this process leads.

Rules that must stay true here:

- An order ends in the journal, and a standby must not write there: it names the leader instead. A leader takes none
  before it knows what the journal remembers; the socket may be open by then, for views.
- Two daemons of one configuration share one path: the socket is the leader's, and a standby leaves it alone.
"""

from __future__ import annotations

import structlog

from rotator.control import ControlServer
from rotator.daemon.life import Life
from rotator.errors import Conflict
from rotator.settings import Settings
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)


class ControlSocket:
    """Answers people on this machine. Implements `rotator.daemon.services.Service`."""

    name = "control socket"

    def __init__(self, life: Life) -> None:
        """Answer for *life*'s engine once started."""
        settings = life.wired.settings
        self._life = life
        self._serves = False
        self._server = ControlServer(
            settings.socket,
            life.desk,
            socket_group=settings.people.socket_group,
            operate=settings.people.operate,
            emergency=settings.people.emergency,
            approve=settings.people.approve,
            orders_refused=life.orders_refused,
        )

    def start(self) -> None:
        """
        Open the socket, if that was not done already.

        Raises:
            Conflict: If another process answers there and this one leads.
        """
        if self._serves:
            return
        try:
            self._server.start()
        except Conflict as error:
            if self._life.leads:
                raise
            log.info(LogEvent.SERVICE_FAILED, service=self.name, error=str(error))
            return
        self._serves = True

    def stop(self) -> None:
        """Close it; requests under way are answered first, within the server's own bound."""
        if self._serves:
            self._serves = False
            self._server.stop()

    def reload(self, settings: Settings) -> None:
        """Grant the rights of *settings*."""
        people = settings.people
        self._server.allow(operate=people.operate, emergency=people.emergency, approve=people.approve)
