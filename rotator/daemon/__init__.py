"""
The daemon: signals, lease, and the order in which things start and stop.

Rules that must stay true here:

- The lease is taken before anything is changed and given back last (law 14).
- SIGTERM finishes the steps under way and stops within the budget; what is cut off is found again by observing.
- A changed configuration takes effect as a whole or not at all; a bad one is refused and the old one goes on.
- A lost lease ends a life (`rotator.daemon.life`). The next one begins in the same process, unless a step of the lost
  one is still under way: then the process ends, so that whoever supervises it starts it clean.
- What does not end within the budget ends with the process: nobody waits for a server that does not answer.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import NoReturn

import structlog

from rotator.bootstrap import Wired, wire
from rotator.clock import SystemClock
from rotator.daemon.life import End, Life, Role
from rotator.daemon.parts import parts
from rotator.daemon.services import Services
from rotator.errors import AdapterError, Conflict, InvariantBroken, JournalError, RotatorError
from rotator.ports import Claiming, Clock, LeaseClaim
from rotator.settings import load
from rotator.telemetry import LogEvent, configure_logging

__all__ = ["LEASE_LOST", "Daemon", "run"]

log = structlog.get_logger(__name__)

LEASE_LOST = 6
"""Exit code: the lease was lost in the middle of a step that did not end in time; start the daemon again."""


def run(settings_path: Path, *, clock: Clock | None = None) -> int:
    """
    Run the daemon until it is told to stop and return 0.

    With a step under way that does not end in time the process ends here: with 0 if it was told to, else `LEASE_LOST`.

    Raises:
        ConfigError: If the configuration cannot be used.
        Conflict: If another daemon holds the lease on the same state and the settings do not say to stand by.
    """
    settings = load(settings_path)
    configure_logging(settings.log.level, settings.log.format)
    time = clock or SystemClock()
    told = threading.Event()
    wired: Wired | None = wire(settings, clock=time)
    while True:
        if wired is not None:
            daemon = Daemon(wired, settings_path, told=told)
            try:
                end = daemon.run()
                if daemon.unfinished:
                    _end_process(LEASE_LOST if end is End.UNFINISHED else 0)
            finally:
                wired.close()
            # What was accepted last: the file itself may be wrong at this moment.
            settings = wired.settings
        if told.is_set() or time.wait(told, BETWEEN_LIVES):
            return 0
        try:
            wired = wire(settings, clock=time)
        except JournalError as error:
            # It was there before this life ended, so it may come back.
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))
            wired = None


def _end_process(code: int) -> NoReturn:
    """
    End this process now, with the step that goes on in it.

    Leaving in order would wait for that step's thread, for as long as whatever it asked takes to answer.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


BETWEEN_LIVES = timedelta(seconds=1)
"""Whatever ended a life at once shall not end a thousand in a minute."""


class Daemon:
    """One life of the daemon: it stands by, leads once, and ends."""

    def __init__(self, wired: Wired, settings_path: Path, *, told: threading.Event | None = None) -> None:
        """Look after what *wired* holds; *told* is set by whoever wants the whole process to end."""
        self._wired = wired
        self._settings_path = settings_path
        self._told = told or threading.Event()
        self._reload = threading.Event()
        self._seen_file = _fingerprint(settings_path)
        self._refused = ""
        """Why the lease was not taken at the last look."""
        self.life = Life(wired=wired)
        self._parts = parts(self.life)
        self._always = Services(self._parts.always)
        self._leading = Services(self._parts.while_leading)

    @property
    def unfinished(self) -> bool:
        """Return whether a step that was under way did not end in time: only the process's end ends it."""
        return self._parts.work.unfinished

    def run(self) -> End:
        """Take the lease or stand by for it, work until told to stop or the lease is lost, give everything back."""
        lease, life = self._wired.lease, self.life
        self._install_signals()
        lease.when_lost(life.end)
        # Before anything else starts: who must not stand by refuses here.
        leads = self._try_lease()
        if leads:
            life.role = Role.LEADER
        try:
            self._always.start()
            if leads or self._stand_by():
                return self._lead()
            return End.TOLD
        finally:
            life.role = Role.STOPPING
            self._always.stop()
            if not self.unfinished:
                # With a step under way it is left to lapse: a successor waits it out instead of meeting that step.
                lease.release()

    # --- roles ------------------------------------------------------------------------------------------------------

    def _try_lease(self) -> bool:
        """Return whether the lease was taken. Raises what prevents it if this daemon must not stand by."""
        try:
            if self._wired.stands_by is not None:
                # Who could not write must not keep the lease from somebody who can.
                self._wired.store.size()
            self._wired.lease.acquire()
        except (AdapterError, JournalError) as error:
            if self._wired.stands_by is None:
                raise
            if str(error) != self._refused and not isinstance(error, Conflict):
                # Once, not at every look: an API server may be away for long.
                log.warning(LogEvent.STANDING_BY, error=str(error))
            self._refused = str(error)
            return False
        log.info(LogEvent.LEASE_ACQUIRED)
        return True

    def _stand_by(self) -> bool:
        """Wait for the lease; return whether it came before the daemon was told to stop."""
        log.info(LogEvent.STANDING_BY, leader=self.life.leader())
        retry = self._wired.stands_by
        while retry is not None and not self._ends():
            self._pause(retry)
            if not self._ends() and self._try_lease():
                self.life.role = Role.LEADER
                return True
        return False

    def _lead(self) -> End:
        """Do what only the leader does until that ends."""
        wired, life = self._wired, self.life
        try:
            self._begin_term()
            self._leading.start()
            log.info(LogEvent.DAEMON_STARTED, environment=wired.settings.environment)
            while not self._ends():
                self._pause(wired.settings.timing.sweep_every)
            log.info(LogEvent.DAEMON_STOPPING)
        except (InvariantBroken, JournalError) as error:
            if wired.stands_by is None:
                raise
            log.warning(LogEvent.LEASE_LOST, error=str(error))
        finally:
            life.role = Role.STOPPING
            self._leading.stop()
        log.info(LogEvent.DAEMON_STOPPED, unfinished=self.unfinished)
        if self._told.is_set():
            return End.TOLD
        log.error(LogEvent.LEASE_LOST, leader=life.leader())
        return End.UNFINISHED if self.unfinished else End.LOST

    def _begin_term(self) -> None:
        """Have the store refuse every earlier leader from now on (law 14)."""
        lease = self._wired.lease
        # A lock of a file or of a database session has one holder for certain: any name will do.
        claim = lease.claim() if isinstance(lease, Claiming) else _unnumbered(lease.holder())
        epoch = self._wired.store.begin_term(claim, held=lease.held)
        log.info(LogEvent.TERM_BEGUN, epoch=epoch, holder=claim.holder)

    def _ends(self) -> bool:
        return self._told.is_set() or self.life.ending.is_set()

    def _pause(self, interval: timedelta) -> None:
        """Wait for a signal, at most *interval*; reload when asked to or when the file has changed."""
        if self._wired.clock.wait(self.life.wake, interval):
            self.life.wake.clear()
        if self._ends():
            return
        found = _fingerprint(self._settings_path)
        if self._reload.is_set() or found != self._seen_file:
            self._reload.clear()
            self._seen_file = found
            self.reload()

    def reload(self) -> None:
        """Read the configuration again; a bad one is refused and the old one goes on."""
        try:
            settings = load(self._settings_path)
            self._wired.reload(settings)
        except RotatorError as error:
            log.error(LogEvent.SETTINGS_REFUSED, error=str(error))  # noqa: TRY400 -- it is a person's mistake, no defect
            return
        configure_logging(settings.log.level, settings.log.format)
        self._always.reload(settings)
        self._leading.reload(settings)

    # --- signals ----------------------------------------------------------------------------------------------------

    def _install_signals(self) -> None:
        """Let TERM and INT stop, HUP reload. Only the main thread of a process may be told."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)

    def stop(self) -> None:
        """Ask the daemon to stop; `run` returns when the steps under way have ended."""
        self._told.set()
        self.life.end()

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()

    def _on_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload.set()
        self.life.wake.set()


def _unnumbered(holder: str | None) -> LeaseClaim:
    return LeaseClaim(lease=uuid.uuid4().hex, number=0, holder=holder or "")


def _fingerprint(path: Path) -> tuple[int, int, int]:
    """Return what changes when somebody writes the file at *path*; a missing file has a fingerprint of its own."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
