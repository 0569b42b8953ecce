"""
A way to an API server that can be made slow, unwilling, deaf or cut: real TLS on both sides.

Rules that must stay true here:

- What it is told to spoil is spoiled before or after the server has acted, never silently mended: a cut answer is an
  effect whose reply is lost.
- Every request that reaches it is noted with its moment, so that a test can see who was asked to wait and did not.
- It holds no credential: what a request carries is passed on.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import yaml

from rotator.clock import SystemClock
from rotator.embedded.loopback_tls import listener_certificate, write_private
from rotator.embedded.process import LOOPBACK, free_port

_CLOCK = SystemClock()
_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "accept-encoding"}
_ANSWERS_WITHIN = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that came through."""

    number: int
    """Counts from 1 since the faults were last set."""
    at: float
    """Monotonic seconds."""
    method: str
    path: str
    status: int | None = None
    """What it was answered; None while it is not, or if the connection was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one request."""

    status: int | None = None
    """Answered instead of the server."""
    retry_after: int | None = None
    delay: timedelta = timedelta()
    """Before anything else."""
    cut_before: bool = False
    """The connection ends, and the server never heard."""
    cut_after: bool = False
    """The server has acted, and the reply is lost."""


Faults = Callable[[Asked], Fault | None]


def _none(_: Asked) -> None:
    """Let everything pass."""


class FaultProxy:
    """One listener in front of one API server."""

    def __init__(self, url: str, ca_file: Path, directory: Path) -> None:
        """Describe it; `start` listens."""
        self._target = urlsplit(url)
        self._upstream = ssl.create_default_context(cafile=str(ca_file))
        directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = directory / "proxy-ca.crt"
        certificate, key = listener_certificate(self.ca_file)
        write_private(directory / "proxy.pem", key + certificate)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(directory / "proxy.pem")
        self.port = free_port()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._faults: Faults = _none
        self._number = 0
        self.asked: list[Asked] = []
        """Every request, in the order in which it was answered."""

    def kubeconfig(self, token: str, file: Path) -> Path:
        """Write a kubeconfig that goes through here with *token*."""
        cluster = {"server": f"https://{LOOPBACK}:{self.port}", "certificate-authority": str(self.ca_file)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxied", "cluster": cluster}],
            "users": [{"name": "rotator", "user": {"token": token}}],
            "contexts": [{"name": "proxied", "context": {"cluster": "proxied", "user": "rotator"}}],
            "current-context": "proxied",
        }
        write_private(file, yaml.safe_dump(document).encode())
        return file

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen."""
        self._server = _Server((LOOPBACK, self.port), self)
        self._server.socket = self._context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fault-proxy")
        self._thread.start()

    def stop(self) -> None:
        """Be away: refuse connections, and cut those that are open."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.cut()
        self._server.server_close()
        self._thread.join()
        self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- faults -----------------------------------------------------------------------------------------------------

    def spoil(self, faults: Faults) -> None:
        """From now on ask *faults* what happens to each request."""
        with self._lock:
            self._faults, self._number = faults, 0

    def behave(self) -> None:
        """Let everything pass from now on."""
        self.spoil(_none)

    @contextlib.contextmanager
    def spoiling(self, faults: Faults) -> Iterator[None]:
        """Spoil within the block."""
        self.spoil(faults)
        try:
            yield
        finally:
            self.behave()

    def judged(self, method: str, path: str) -> tuple[Asked, Fault]:
        """Return one request with what happens to it."""
        with self._lock:
            self._number += 1
            asked = Asked(number=self._number, at=_CLOCK.monotonic(), method=method, path=path)
            return asked, self._faults(asked) or Fault()

    def note(self, asked: Asked, status: int | None) -> None:
        """Keep what one request was answered."""
        with self._lock:
            self.asked.append(
                Asked(number=asked.number, at=asked.at, method=asked.method, path=asked.path, status=status)
            )

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the server and return its answer."""
        connection = http.client.HTTPSConnection(
            str(self._target.hostname), self._target.port, timeout=_ANSWERS_WITHIN, context=self._upstream
        )
        with contextlib.closing(connection):
            connection.request(method, path, body=body or None, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            return answer.status, kept, content


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def cut(self) -> None:
        """End every open connection, so that its thread ends too."""
        for each in tuple(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever is killed in the middle of a request is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked, fault = proxy.judged(self.command, self.path)
        if fault.delay:
            _CLOCK.wait(threading.Event(), fault.delay)
        if fault.cut_before:
            self._cut(asked)
            return
        if fault.status is not None:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": fault.status}
            headers = [("Content-Type", "application/json")]
            if fault.retry_after is not None:
                headers.append(("Retry-After", str(fault.retry_after)))
            self._send(asked, fault.status, headers, json.dumps(status | {"message": "a test says so"}).encode())
            return
        sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        try:
            found, headers, content = proxy.forward(self.command, self.path, sent, body)
        except OSError:
            self._cut(asked)
            return
        if fault.cut_after:
            self._cut(asked)
            return
        self._send(asked, found, headers, content)

    def _send(self, asked: Asked, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.server.proxy.note(asked, status)
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _cut(self, asked: Asked) -> None:
        self.server.proxy.note(asked, None)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 -- the library's names
