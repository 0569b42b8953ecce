"""
Single HTTP requests to one server that adapters ask: connections, TLS from files that may change, bounded answers.

Rules that must stay true here:

- Every wait has a timeout, and every answer a largest size.
- A redirect is never followed and nothing is sent twice: a lost reply is the caller's to judge (law 13).
- CA and certificate files are read anew when they change.
- No error quotes what was sent or what came back: what a status means, and what may be told of it, the adapter knows.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import urllib3
import urllib3.exceptions

from rotator.errors import Denied, Rejected, Unavailable

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Hosts to which a secret may travel without TLS."""

_HTTP_PORT, _HTTPS_PORT = 80, 443


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server, and how it is reached."""

    name: str
    """As errors call it: ``the control plane``."""
    url: str
    """Scheme, host, perhaps a port, perhaps a path in front of every other."""
    ca_file: Path | None
    """PEM of who may have signed the server's certificate; None for the system's own list."""
    client_certificate_file: Path | None
    client_key_file: Path | None
    timeout: timedelta
    """For connecting, and again for each wait for bytes."""
    connections: int
    """How many stay open when idle."""
    largest_answer: int
    """Bytes."""


class Exchange:
    """Requests to one server. Nothing is opened before the first; safe to share between threads."""

    def __init__(self, server: Server) -> None:
        """Talk to *server*."""
        self._server = server
        self._url = urllib3.util.parse_url(server.url)
        self._prefix = (self._url.path or "").rstrip("/")
        self._lock = threading.Lock()
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._stamp: tuple[object, ...] = ()

    def send(
        self, method: str, path: str, *, doing: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> tuple[int, bytes]:
        """
        Send one request and return the answer's status and body.

        *path* follows the url's own, with its query; *doing* completes "the control plane did not answer while ...".

        Raises:
            Unavailable: If no whole answer came; what was asked may have been done.
            Denied: If a file that TLS needs cannot be used.
            Rejected: If the answer is too large.
        """
        name, largest = self._server.name, self._server.largest_answer
        pool = self._current_pool()
        try:
            answer = pool.urlopen(
                method,
                self._prefix + path,
                body=content,
                headers=headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
            )
            try:
                text = answer.read(largest)
                too_long = bool(answer.read(1))
                if too_long:
                    # What was not read to its end is of no use to the next request.
                    answer.close()
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise Unavailable(f"{name} did not answer while {doing}") from e
        if too_long:
            raise Rejected(f"the answer of {name} is too large, seen while {doing}")
        return answer.status, text

    def close(self) -> None:
        """Close every idle connection; a later request opens new ones."""
        with self._lock:
            pool, self._pool, self._stamp = self._pool, None, ()
        if pool is not None:
            pool.close()

    def _current_pool(self) -> urllib3.HTTPConnectionPool:
        """Return the pool, a new one when a file of its TLS settings has changed."""
        one = self._server
        files = tuple(each for each in (one.ca_file, one.client_certificate_file, one.client_key_file) if each)
        with self._lock:
            try:
                stamp = tuple(stamp_of(each) for each in files)
            except OSError as e:
                raise Denied(f"cannot read {' and '.join(map(str, files))} for TLS to {one.name}") from e
            if self._pool is None or stamp != self._stamp:
                if self._pool is not None:
                    self._pool.close()
                self._pool, self._stamp = self._open(), stamp
            return self._pool

    def _open(self) -> urllib3.HTTPConnectionPool:
        one, url = self._server, self._url
        seconds = one.timeout.total_seconds()
        timeout = urllib3.Timeout(connect=seconds, read=seconds)
        host = (url.host or "").strip("[]")
        if url.scheme == "http":
            return urllib3.HTTPConnectionPool(host, url.port or _HTTP_PORT, timeout=timeout, maxsize=one.connections)
        try:
            trust = ssl.create_default_context(cafile=None if one.ca_file is None else str(one.ca_file))
            if one.client_certificate_file is not None and one.client_key_file is not None:
                trust.load_cert_chain(str(one.client_certificate_file), str(one.client_key_file))
        except (OSError, ssl.SSLError) as e:
            files = [str(one.ca_file or "the system's CA list"), str(one.client_certificate_file or "")]
            raise Denied(f"cannot use {' and '.join(filter(None, files))} for TLS to {one.name}") from e
        trust.minimum_version = ssl.TLSVersion.TLSv1_2
        return urllib3.HTTPSConnectionPool(
            host, url.port or _HTTPS_PORT, timeout=timeout, maxsize=one.connections, ssl_context=trust
        )


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Return what changes whenever the file at *path* is written or replaced."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def segment(name: str) -> str:
    """Return *name* as one segment of a path, whatever it holds."""
    return quote(name, safe="")
