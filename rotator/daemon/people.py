"""
People's requests between one answer and the next: those that wait, those that a crash cut short, those in the cluster.

Rules that must stay true here:

- Only the leader looks: a request ends in the journal, and a standby must not write there (law 14).
- A thread of its own: whatever people ask, the sweep is not kept waiting, nor they by it.
- Trouble with the API server is logged and tried again; it stops nothing.
"""

from __future__ import annotations

import threading

import structlog

from rotator.bootstrap.cluster import open_board
from rotator.daemon.life import Life
from rotator.desk.board import Board
from rotator.errors import RotatorError
from rotator.settings import Settings
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

_ENDS_WITHIN = 30.0
"""Seconds for a look under way to end: longer than a call to the API server may take."""


class PeoplesRequests:
    """Looks after requests. Implements `rotator.daemon.services.Service`."""

    name = "people's requests"

    def __init__(self, life: Life) -> None:
        """Look after those of *life* once started."""
        self._life = life
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._board: Board | None = None

    def start(self) -> None:
        """Begin to look."""
        self._board = self._opened(self._life.wired.settings)
        self._ending.clear()
        self._thread = threading.Thread(target=self._look_on, name="people", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a look under way ends first."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_ENDS_WITHIN)
            self._thread = None

    def reload(self, settings: Settings) -> None:
        """Go by the times of *settings*; another cluster is looked at from the next start on."""
        if self._board is not None and settings.cluster is not None:
            self._board.taken_within = settings.cluster.requests.taken_within
            self._board.kept = settings.cluster.requests.kept

    def _look_on(self) -> None:
        clock = self._life.wired.clock
        while True:
            self._look()
            settings = self._life.wired.settings
            every = settings.timing.sweep_every if settings.cluster is None else settings.cluster.requests.look_every
            if clock.wait(self._ending, every):
                return

    def _look(self) -> None:
        try:
            self._life.desk.look()
            if self._board is not None:
                self._board.look()
        except Exception:  # the thread must outlive a mistake in one look; the traceback is in the log
            log.exception(LogEvent.THREAD_FAILED, service=self.name)

    def _opened(self, settings: Settings) -> Board | None:
        cluster = settings.cluster
        if cluster is None:
            return None
        try:
            objects = open_board(settings)
        except RotatorError as error:
            # Without credentials nothing in the cluster works, and whatever needs them says so; the socket still does.
            log.warning(LogEvent.REQUEST_DELAYED, error=str(error))
            return None
        return Board(
            self._life.desk,
            objects,
            self._life.wired.clock,
            taken_within=cluster.requests.taken_within,
            kept=cluster.requests.kept,
        )
