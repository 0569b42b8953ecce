"""
The daemon: signals, lease, and the order in which things start and stop.

Rules that must stay true here:

- The lease is taken before anything is changed and given back last (law 14).
- SIGTERM finishes the steps under way and stops within the budget; what is cut off is found again by observing.
- A changed configuration takes effect as a whole or not at all; a bad one is refused and the old one goes on.
"""

from __future__ import annotations

import functools
import signal
import threading
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType

import structlog

from rotator.bootstrap import Wired, wire
from rotator.clock import SystemClock
from rotator.control import ControlServer
from rotator.core.event import EventType
from rotator.core.foreseen import Alert, checkpoint_alerts, true_at
from rotator.desk import Desk
from rotator.engine.recorder import Scribe
from rotator.engine.scheduler import Scheduler
from rotator.errors import LedgerTampered, RotatorError
from rotator.evidence.note import Checkpoint
from rotator.ports import Clock
from rotator.settings import Settings, load
from rotator.telemetry import LogEvent, configure_logging

log = structlog.get_logger(__name__)


def run(settings_path: Path, *, clock: Clock | None = None) -> int:
    """
    Run the daemon until it is told to stop; return 0.

    Raises:
        ConfigError: If the configuration cannot be used.
        Conflict: If another daemon holds the lease on the same state.
    """
    settings = load(settings_path)
    configure_logging(settings.log.level, settings.log.format)
    wired = wire(settings, clock=clock or SystemClock())
    try:
        Daemon(wired, settings_path).run()
    finally:
        wired.close()
    return 0


@dataclass(slots=True)
class Signed:
    """The last checkpoint, for status."""

    checkpoint: Checkpoint | None = None
    at: datetime | None = None
    problem: str = ""


class Daemon:
    """One running daemon."""

    def __init__(self, wired: Wired, settings_path: Path) -> None:
        self._wired = wired
        self._settings_path = settings_path
        self._stopping = threading.Event()
        self._reload = threading.Event()
        self._wake = threading.Event()
        self._seen_file = _fingerprint(settings_path)
        self._signed = Signed()
        self._scheduler = Scheduler()
        self._control: ControlServer | None = None
        self._began = wired.clock.now()
        wired.engine.alerting.watch(self._log_alerts)

    def run(self) -> None:
        """Take the lease, work until told to stop, give everything back."""
        wired = self._wired
        wired.lease.acquire()
        try:
            log.info(LogEvent.LEASE_ACQUIRED)
            self._install_signals()
            wired.engine.start()
            self._note_settings(wired.settings)
            desk = Desk(wired.engine, ledger=self._ledger_status)
            self._control = ControlServer(
                wired.settings.socket,
                desk,
                socket_group=wired.settings.people.socket_group,
                operate=wired.settings.people.operate,
                emergency=wired.settings.people.emergency,
            )
            with self._control:
                self._schedule(wired.settings)
                log.info(LogEvent.DAEMON_STARTED, environment=wired.settings.environment)
                self._sweep()
                self._scheduler.start()
                self._wait()
                log.info(LogEvent.DAEMON_STOPPING)
                self._scheduler.stop()
                finished = wired.engine.stop(wired.settings.limits.stop_within)
            self.checkpoint()
            log.info(LogEvent.DAEMON_STOPPED, unfinished=not finished)
        finally:
            wired.lease.release()

    def _wait(self) -> None:
        """Wait for a signal; reload when asked to or when the file has changed."""
        clock = self._wired.clock
        while not self._stopping.is_set():
            if clock.wait(self._wake, self._wired.settings.timing.sweep_every):
                self._wake.clear()
            if self._stopping.is_set():
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
        if self._control is not None:
            self._control.allow(operate=settings.people.operate, emergency=settings.people.emergency)
        self._schedule(settings)
        self._note_settings(settings)

    def checkpoint(self) -> None:
        """Project what is committed into the log and sign it."""
        try:
            self._signed.checkpoint = self._wired.log.publish(self._wired.store)
            self._signed.at = self._wired.clock.now()
            self._signed.problem = ""
        except LedgerTampered as error:
            self._signed.problem = str(error)
            log.error(LogEvent.LEDGER_UNWRITABLE, error=str(error))  # noqa: TRY400 -- found, not failed
        except RotatorError as error:
            self._signed.problem = str(error)
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))

    def _log_alerts(self, now: datetime) -> tuple[Alert, ...]:
        """Return what the evidence log raises at *now*; until its first checkpoint it counts from the start."""
        every = self._wired.settings.ledger.checkpoint_every
        signed_at = self._signed.at or self._began
        return true_at(checkpoint_alerts(signed_at, every, self._signed.problem), now)

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _schedule(self, settings: Settings) -> None:
        """Set the interval of every job."""
        self._scheduler.every(settings.timing.sweep_every, "sweep", self._sweep)
        beat = settings.ledger.heartbeat_every
        self._scheduler.every(beat, "heartbeat", functools.partial(self._wired.engine.heartbeat, beat))
        self._scheduler.every(settings.ledger.checkpoint_every, "checkpoint", self.checkpoint)

    def _sweep(self) -> None:
        """Keep logins alive and look at what is due."""
        engine = self._wired.engine
        if not self._wired.lease.held():
            log.error(LogEvent.LEASE_LOST)
            self._stopping.set()
            self._wake.set()
            return
        now = self._wired.clock.now()
        for session in self._wired.sessions.all():
            try:
                session.keep_alive(now)
            except RotatorError as error:
                log.warning(LogEvent.SESSION_LOST, error=str(error))
        engine.sweep()

    def _note_settings(self, settings: Settings) -> None:
        """Record which configuration is in force."""
        loaded = Scribe(clock=self._wired.clock, subject="rotator", rotation=None).event(
            EventType.CONFIG_LOADED,
            detail={
                "certificates": len(settings.certificates),
                "trust_domains": len(settings.trust_domains),
                "workloads": len(settings.workloads),
            },
        )
        self._wired.engine.recorder.write((), [loaded])
        self._note_shared_roots(settings)
        log.info(LogEvent.SETTINGS_LOADED, policy_sha256=self._wired.policy[0])

    def _note_shared_roots(self, settings: Settings) -> None:
        """Record, once for each wording, that a mesh may trust a root which is not its own (law 6)."""
        for name, domain in settings.trust_domains.items():
            words = domain.mesh.accept_shared_root if domain.mesh is not None else None
            if words is None:
                continue
            opened = Scribe(clock=self._wired.clock, subject=name, rotation=None).event(
                EventType.EXCEPTION_OPENED,
                result="shared root accepted",
                reason="the configuration lets the mesh trust a root that is not its own",
            )
            told = uuid.uuid5(uuid.NAMESPACE_URL, f"spiffe://{name}#accept_shared_root={words}").hex
            with self._wired.store.transaction() as transaction:
                transaction.append(replace(opened, id=told, reason_commitment=transaction.commit_to(words)))

    def _ledger_status(self) -> dict[str, object]:
        """Return the contract's ``ledger`` object."""
        checkpoint = self._signed.checkpoint
        return {
            "size": checkpoint.size if checkpoint is not None else 0,
            "root": checkpoint.root.hex() if checkpoint is not None else "",
            "checkpoint_at": self._signed.at.strftime("%Y-%m-%dT%H:%M:%SZ") if self._signed.at is not None else None,
            "witness": "LOCAL",
            "problem": self._signed.problem,
        }

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
        self._stopping.set()
        self._wake.set()

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()

    def _on_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload.set()
        self._wake.set()


def _fingerprint(path: Path) -> tuple[int, int, int]:
    """Return what changes when somebody writes the file at *path*; a missing file has a fingerprint of its own."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
