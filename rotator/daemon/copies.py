"""
Copying what each Airflow ran into the ledger, while leading.

Rules that must stay true here:

- A copy that fails is logged and tried again at its next time; rotating does not wait for it, nor it for rotating.
- The lease is looked at before each batch is written (law 14); the recorder does.
"""

from __future__ import annotations

import functools

import structlog

from rotator.bootstrap.airflow import run_sources
from rotator.daemon.life import Life
from rotator.engine.run_batches import RunCopier
from rotator.engine.scheduler import Scheduler
from rotator.errors import RotatorError
from rotator.settings import Settings
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)


class Copies:
    """Runs a `RunCopier` for each Airflow whose history is copied. Implements `rotator.daemon.services.Service`."""

    name = "copies of what ran"

    def __init__(self, life: Life) -> None:
        """Copy for *life* once started."""
        self._life = life
        self._scheduler = Scheduler()

    def start(self) -> None:
        """Begin; the first copy of each comes after its interval."""
        self._schedule(self._life.wired.settings)
        self._scheduler.start()

    def stop(self) -> None:
        """End; a batch that is being written is waited for."""
        self._scheduler.stop()

    def reload(self, settings: Settings) -> None:
        """Copy what *settings* name from now on."""
        self._scheduler.stop()
        self._scheduler = Scheduler()
        self._schedule(settings)
        self._scheduler.start()

    def _schedule(self, settings: Settings) -> None:
        wired = self._life.wired
        for every, source in run_sources(settings, wired.clock):
            copier = RunCopier(
                source, recorder=wired.engine.recorder, ledger=wired.store, seen=wired.engine.rolls.runs_seen
            )
            self._scheduler.every(every, source.airflow, functools.partial(self._copy, source.airflow, copier))

    def _copy(self, airflow: str, copier: RunCopier) -> None:
        try:
            copied = copier.copy(self._life.wired.clock.now())
        except RotatorError as error:
            log.warning(LogEvent.COPYING_FAILED, airflow=airflow, error=str(error))
        else:
            if copied:
                log.info(LogEvent.RUNS_COPIED, airflow=airflow, attempts=copied)
