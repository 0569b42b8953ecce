"""
A real HTTP server that takes what receivers send, and misbehaves when it is told to.

Rules that must stay true here:

- Listens on loopback only, and ends with its block; what hangs is let go then.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Sink:
    """Takes requests; `status` is what it answers, 0 closes the connection, -1 never answers."""

    def __init__(self) -> None:
        """Listen on a free port of loopback."""
        self.requests: list[Request] = []
        self.status = 200
        self._let_go = threading.Event()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Keep the request and answer as told."""
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                sink.requests.append(Request(path=self.path, headers=dict(self.headers), body=body))
                if sink.status < 0:
                    sink._let_go.wait(60)
                if sink.status <= 0:
                    self.close_connection = True
                    return
                self.send_response(sink.status)
                if sink.status in {301, 302, 307}:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"no" if sink.status >= 300 else b"ok")

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the base class's own name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Start to serve."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of whoever hangs, and end."""
        self._let_go.set()
        self._server.shutdown()
        self._thread.join(60)
        self._server.server_close()
