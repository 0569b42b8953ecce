"""
The workload behind a proxy where it does not speak HTTP: it answers a line with who it is.

Rules that must stay true here:

- It says nothing before it has heard something: an answer proves that the caller was let in.
- It listens on loopback, and no connection outlives it.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from rotator.embedded.process import LOOPBACK

_PATIENCE = 30.0


def answers(address: str, port: int) -> bool:
    """Return whether something accepts TCP connections there."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


class SpeakingTCP:
    """Listens on one port between `start` and `stop`."""

    def __init__(self, port: int, answer: str) -> None:
        self._port = port
        self._answer = answer.encode()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen."""
        listener = socket.create_server((LOOPBACK, self._port))
        self._listener = listener
        self._thread = threading.Thread(target=self._serve, args=(listener,), name=f"workload-{self._port}")
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        if self._listener is not None and self._thread is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listener.close()
            self._listener = None

    def _serve(self, listener: socket.socket) -> None:
        """Take one connection after the other: an answer is a line."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_PATIENCE)
                if connection.recv(4096):
                    connection.sendall(self._answer)
