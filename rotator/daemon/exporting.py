"""
Traces, metrics and logs on their way to a collector, as a part of the daemon.

Rules that must stay true here:

- The first part to start and the last to stop: what the others do while starting and stopping is told too.
- It works in every role; a standby tells of itself, and of no subject.
- Nothing of the daemon waits for it, and its end is bounded.
"""

from __future__ import annotations

from collections.abc import Callable

from rotator.settings import Settings
from rotator.telemetry import listen
from rotator.web import Daemon, Metrics, Tallies


class Exporting:
    """Lets the outlet hear the log and read the metrics. Implements the daemon's own idea of a service."""

    name = "telemetry"

    def __init__(self, daemon: Daemon, tallies: Tallies) -> None:
        """Tell of *daemon*, once started, with the counts of *tallies*."""
        self._outlet = daemon.wired.outlet
        self._metrics = Metrics(daemon, tallies)
        self._undo: Callable[[], None] | None = None

    def start(self) -> None:
        """Hear the log and begin to send."""
        self._undo = listen(self._outlet.line)
        self._outlet.start(self._metrics.readings)

    def stop(self) -> None:
        """Send what waits, within two seconds, and end."""
        self._outlet.stop()
        if self._undo is not None:
            self._undo()
            self._undo = None

    def reload(self, settings: Settings) -> None:
        """Take note of nothing: the outlet has the new settings already."""
