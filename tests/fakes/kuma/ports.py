"""
Ports for many listeners at once, out of the way of everybody's outgoing connections.

Rules that must stay true here:

- A port lies below the range that the kernel takes for outgoing connections: under load those take any port of theirs
  at any moment, also one that a proxy is about to listen on.
- Nobody in this process is given the same port twice.
"""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 10_000
_TRIES = 1_000


class QuietPorts:
    """Gives out free ports of 127.0.0.1, each once."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        self._lock = threading.Lock()
        first = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0]
        self._highest = int(first) - 1

    def take(self) -> int:
        """Return a port that nobody listens on now."""
        with self._lock:
            for _ in range(_TRIES):
                port = random.randint(_LOWEST, self._highest)  # noqa: S311 -- no secret, only apart from others
                if port not in self._given and _is_free(port):
                    self._given.add(port)
                    return port
        raise OSError("no port of 127.0.0.1 is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
