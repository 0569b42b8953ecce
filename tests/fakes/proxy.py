"""
A man in the middle of rotator and a real Vault: slow, deaf, or lying, as the test says.

Rules that must stay true here:

- What it does not touch is the real server's own answer.
- A cut before the server means that nothing happened, a cut after it that everything did.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3

Answer = dict[str, Any]


class Cut(Exception):
    """Close the connection here, without an answer."""


@dataclass
class Faulty:
    """What is to go wrong; each hook gets method and path as ``POST pki/revoke`` and may raise `Cut`."""

    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None
    alter: Callable[[str, Answer], Answer] = lambda _, answer: answer
    """Gets the decoded answer, an empty one for none, and returns the one that is sent on."""
    status: Callable[[str, int], int] = lambda _, status: status
    calls: list[str] = field(default_factory=list)
    """Every request, in order of arrival."""


class VaultProxy:
    """
    Plain HTTP on loopback to rotator, TLS to the server behind it.

    As a context manager it listens; `faults` says what goes wrong and may be changed at any time.
    """

    def __init__(self, address: str, ca_file: Path) -> None:
        self.faults = Faulty()
        self._pool = urllib3.PoolManager(ca_certs=str(ca_file), retries=False, maxsize=8)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (Cut, ConnectionError):
                    self.close_connection = True

            def parse_request(self) -> bool:
                if not super().parse_request():
                    return False
                # Whatever the method (Vault has LIST), there is one way to serve it.
                setattr(self, f"do_{self.command}", self._serve)
                return True

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                what = f"{self.command} {self.path.removeprefix('/v1/').partition('?')[0]}"
                proxy.faults.calls.append(what)
                proxy.faults.before(what)
                headers = {
                    name: value for name, value in self.headers.items() if name.startswith(("X-Vault", "Content-T"))
                }
                answer = proxy._pool.request(self.command, f"{address}{self.path}", body=body, headers=headers)
                proxy.faults.after(what)
                decoded = json.loads(answer.data) if answer.data else {}
                altered = proxy.faults.alter(what, decoded)
                sent = json.dumps(altered).encode() if altered else b""
                self.send_response(proxy.faults.status(what, answer.status))
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        # Waits for its handlers; they end when rotator closes its connections, at the latest after their timeout.
        self._server.server_close()
        self._pool.clear()
