"""
A wire that a test can cut: TCP from a port of its own to a server, until told otherwise.

Rules that must stay true here:

- Listens on loopback alone. A cut gate neither answers nor refuses: packets vanish, as they do behind a firewall.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_CHUNK = 65536
_LOOPBACK = "127.0.0.1"


class Gate:
    """Forwards connections to one port of this machine."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._listener = socket.create_server((_LOOPBACK, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._closed = threading.Event()
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Begin to forward."""
        threading.Thread(target=self._accept, name="gate", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        self._closed.set()
        self._open.set()
        # Shut first: closing alone leaves whoever accepts waiting.
        _shut(self._listener)
        with self._lock:
            ends, self._ends = self._ends, []
        for each in ends:
            _shut(each)

    def cut(self) -> None:
        """Let nothing through any more, in neither direction."""
        self._open.clear()

    def mend(self) -> None:
        """Let everything through again, also what waited."""
        self._open.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed.is_set():
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), name="gate", daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._open.wait()
        try:
            far = socket.create_connection((_LOOPBACK, self._target), timeout=10)
        except OSError:
            _shut(near)
            return
        far.settimeout(None)
        with self._lock:
            self._ends += [near, far]
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, sink), name="gate", daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                self._open.wait()
                if self._closed.is_set():
                    break
                sink.sendall(chunk)
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
