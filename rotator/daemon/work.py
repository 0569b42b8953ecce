"""
What only the leader does: sweep, heartbeat, checkpoint.

Rules that must stay true here:

- The lease is looked at before each sweep, and again before each effect (law 14).
- Stopping finishes the steps under way within the budget; what is cut off is found again by observing (law 13).
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from dataclasses import replace
from datetime import timedelta

import structlog

from rotator.core.event import EventType
from rotator.daemon.life import Life
from rotator.daemon.reports import written_report
from rotator.engine.recorder import Scribe
from rotator.engine.scheduler import Scheduler
from rotator.engine.status import moment
from rotator.errors import LedgerTampered, RotatorError
from rotator.settings import Settings
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

REPORT_EVERY = timedelta(seconds=5)
"""A standby's page is never older by much more than this."""


LOOK_EVERY = timedelta(seconds=30)
"""How often alerts are looked at even if no sweep does."""


class Work:
    """Runs the engine. Implements `rotator.daemon.services.Service`."""

    name = "work"

    def __init__(self, life: Life) -> None:
        """Run *life*'s engine once started."""
        self._life = life
        self._scheduler = Scheduler()
        self.unfinished = False
        """A step under way did not end within the budget."""

    def start(self) -> None:
        """Load what the journal remembers, note the configuration, sweep once, and begin to sweep on time."""
        wired = self._life.wired
        wired.engine.start()
        self._life.remembers.set()
        self._note(wired.settings)
        wired.engine.alerting.watch(self._life.log_alerts)
        wired.engine.alerting.watch(self._life.sweep_alerts)
        self._schedule(wired.settings)
        self.sweep()
        self._scheduler.start()

    def stop(self) -> None:
        """Finish the steps under way within ``limits.stop_within``, enter what waits outside, sign what is there."""
        life = self._life
        self._scheduler.stop()
        self.unfinished = not life.wired.engine.stop(life.wired.settings.limits.stop_within)
        if not life.wired.lease.held():
            return
        try:
            life.wired.engine.recorder.enter_spooled()
        except RotatorError as error:
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))
        self._tell_what_waits()
        self.checkpoint()

    def _tell_what_waits(self) -> None:
        """Say that records wait on this disk, if they do: they are lost with it."""
        with contextlib.suppress(RotatorError):
            waiting = self._life.wired.engine.recorder.waiting_outside()
            if waiting:
                log.error(LogEvent.LEDGER_SPOOLED, waiting=waiting)

    def reload(self, settings: Settings) -> None:
        """Keep the intervals of *settings*, and record which configuration is in force."""
        self._schedule(settings)
        self._note(settings)

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _schedule(self, settings: Settings) -> None:
        """Set the interval of every job."""
        self._scheduler.every(settings.timing.sweep_every, "sweep", self.sweep)
        # Beside the sweep, which looks at alerts too: one that hangs must be told of.
        self._scheduler.every(max(settings.timing.sweep_every, LOOK_EVERY), "alerts", self.look_at_alerts)
        beat = settings.ledger.heartbeat_every
        self._scheduler.every(beat, "heartbeat", functools.partial(self._life.wired.engine.heartbeat, beat))
        self._scheduler.every(settings.ledger.checkpoint_every, "checkpoint", self.checkpoint)
        if self._life.wired.stands_by is not None:
            self._scheduler.every(max(settings.timing.sweep_every, REPORT_EVERY), "report", self.report)

    def sweep(self) -> None:
        """Keep logins alive and look at what is due; without the lease this life ends."""
        life = self._life
        if not life.wired.lease.held():
            life.end()
            return
        now = life.wired.clock.now()
        for session in life.wired.sessions.all():
            try:
                session.keep_alive(now)
            except RotatorError as error:
                log.warning(LogEvent.SESSION_LOST, error=str(error))
        life.wired.engine.sweep()
        life.beat()

    def look_at_alerts(self) -> None:
        """Look at alerts where the sweep does not."""
        if self._life.wired.lease.held():
            self._life.wired.engine.alerting.look()

    def checkpoint(self) -> None:
        """Project what is committed into the log and sign it."""
        life, signed = self._life, self._life.signed
        try:
            signed.checkpoint = life.wired.log.publish(life.wired.store, life.wired.store)
            signed.at = life.wired.clock.now()
            signed.problem = ""
        except LedgerTampered as error:
            signed.problem = str(error)
            log.error(LogEvent.LEDGER_UNWRITABLE, error=str(error))  # noqa: TRY400 -- found, not failed
        except RotatorError as error:
            signed.problem = str(error)
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))

    def report(self) -> None:
        """Keep what this process sees where standbys find it."""
        life = self._life
        try:
            content = written_report(life.desk.seen(), moment(life.wired.clock.now()) or "")
            life.wired.store.keep_report(content)
        except RotatorError as error:
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))

    # --- the configuration in force ---------------------------------------------------------------------------------

    def _note(self, settings: Settings) -> None:
        """Record which configuration is in force."""
        wired = self._life.wired
        loaded = Scribe(clock=wired.clock, subject="rotator", rotation=None).event(
            EventType.CONFIG_LOADED,
            detail={
                "certificates": len(settings.certificates),
                "trust_domains": len(settings.trust_domains),
                "workloads": len(settings.workloads),
            },
        )
        wired.engine.recorder.write((), [loaded])
        self._note_shared_roots(settings)
        log.info(LogEvent.SETTINGS_LOADED, policy_sha256=wired.policy[0])

    def _note_shared_roots(self, settings: Settings) -> None:
        """Record, once for each wording, that a mesh may trust a root which is not its own (law 6)."""
        wired = self._life.wired
        for name, domain in settings.trust_domains.items():
            words = domain.mesh.accept_shared_root if domain.mesh is not None else None
            if words is None:
                continue
            opened = Scribe(clock=wired.clock, subject=name, rotation=None).event(
                EventType.EXCEPTION_OPENED,
                result="shared root accepted",
                reason="the configuration lets the mesh trust a root that is not its own",
            )
            told = uuid.uuid5(uuid.NAMESPACE_URL, f"spiffe://{name}#accept_shared_root={words}").hex
            with wired.store.transaction() as transaction:
                transaction.append(replace(opened, id=told, reason_commitment=transaction.commit_to(words)))
