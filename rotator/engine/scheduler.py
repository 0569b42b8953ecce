"""
APScheduler 3 at arm's length: a few interval jobs, no truth.

Rules that must stay true here:

- One sweep job, not one job per certificate; a missed run is coalesced into the next, never piled up.
- APScheduler is named in this file only.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler


class Scheduler:
    """Runs named jobs at fixed intervals in one thread of their own."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(3)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )

    def every(self, interval: timedelta, name: str, job: Callable[[], None]) -> None:
        """Run *job* every *interval* under *name*; a job of the same name is replaced."""
        self._scheduler.add_job(
            job, "interval", seconds=interval.total_seconds(), id=name, name=name, replace_existing=True
        )

    def start(self) -> None:
        """Start running jobs; the first run of each comes after its interval."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop; a job that runs is waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
