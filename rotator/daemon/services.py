"""
Parts of the daemon that start and stop together.

Rules that must stay true here:

- What starts later may use what started before it; stopping goes the other way round.
- One part's trouble while stopping keeps no other part from being stopped.
- A part that cannot start is an error of the whole: what had started is stopped again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import structlog

from rotator.errors import RotatorError
from rotator.settings import Settings
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)


class Service(Protocol):
    """One part of the daemon."""

    @property
    def name(self) -> str:
        """What logs call it."""
        ...

    def start(self) -> None:
        """Begin, and return at once: whatever lasts has a thread of its own. Raises `RotatorError` if it cannot."""
        ...

    def stop(self) -> None:
        """End: what is under way is finished within a bounded time, and nothing new is begun."""
        ...

    def reload(self, settings: Settings) -> None:
        """Go by *settings* from now on; they were checked, and the engine has them already."""
        ...


class Services:
    """Several services that start in order and stop in the reverse order."""

    def __init__(self, services: Iterable[Service]) -> None:
        """Nothing starts yet."""
        self._wanted = tuple(services)
        self._started: list[Service] = []

    def start(self) -> None:
        """Start every service; if one cannot, stop those before it and raise what it raised."""
        for each in self._wanted:
            try:
                each.start()
            except BaseException:
                self.stop()
                raise
            self._started.append(each)

    def stop(self) -> None:
        """Stop everything that runs, the last one first."""
        while self._started:
            each = self._started.pop()
            try:
                each.stop()
            except (RotatorError, OSError) as error:
                log.warning(LogEvent.SERVICE_FAILED, service=each.name, error=str(error))

    def reload(self, settings: Settings) -> None:
        """Let everything that runs go by *settings*."""
        for each in tuple(self._started):
            try:
                each.reload(settings)
            except (RotatorError, OSError) as error:
                log.warning(LogEvent.SERVICE_FAILED, service=each.name, error=str(error))
