"""
What keeps a standby warm: its memory is the journal's, read again and again.

Rules that must stay true here:

- Nothing is asked of Vault or of a cluster: a standby costs its database a few reads. Written is its own copy of the
  log, and what it spooled while it led: records are appended, never changed, so no leader is in the way.
- Once this process leads it stops by itself: then memory is the engine's own.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from rotator.daemon.life import Life, Role
from rotator.daemon.reports import read_report
from rotator.engine.scheduler import Scheduler
from rotator.errors import Conflict, RotatorError
from rotator.ports import Claiming
from rotator.settings import Settings
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

FRESH_EVERY = timedelta(seconds=10)


class Freshness:
    """Reads the journal while standing by. Implements `rotator.daemon.services.Service`."""

    name = "freshness"

    def __init__(self, life: Life) -> None:
        """Keep *life*'s engine fresh once started."""
        self._life = life
        self._scheduler = Scheduler()

    def start(self) -> None:
        """Begin to look, at once and then every few seconds."""
        self.look()
        self._scheduler.every(FRESH_EVERY, "freshness", self.look)
        self._scheduler.start()

    def stop(self) -> None:
        """Look no more."""
        self._scheduler.stop()

    def reload(self, settings: Settings) -> None:
        """Take note of nothing: the engine has the new fleet already."""

    def look(self) -> None:
        """Read what the journal holds now, if this process stands by. Never raises what a database may do."""
        life = self._life
        if life.role is not Role.STANDBY:
            return
        try:
            self._enter_spooled()
            life.wired.engine.refresh()
            life.report = read_report(life.wired.store.last_report())
            self._follow()
        except RotatorError as error:
            life.signed.problem = str(error)
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))
        life.beat()

    def _enter_spooled(self) -> None:
        """
        Enter what this replica had to spool while it led: true records, which must not wait until it leads again.

        Only with a disk of its own: on one machine the leader may be at the same file.
        """
        if isinstance(self._life.wired.lease, Claiming):
            self._life.wired.engine.recorder.enter_spooled()

    def _follow(self) -> None:
        """Have this replica's own copy of the log show what the leader has signed; nothing is signed here."""
        life = self._life
        try:
            checkpoint = life.wired.log.follow(life.wired.store, life.wired.store)
        except Conflict:
            # A leader on the same machine writes this very directory.
            return
        if checkpoint is not None and checkpoint != life.signed.checkpoint:
            life.signed.checkpoint, life.signed.at = checkpoint, life.wired.clock.now()
        life.signed.problem = ""
