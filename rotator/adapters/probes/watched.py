"""
Certificates of others on the network and on this machine's disk that are looked at.

Rules that must stay true here:

- Looking needs no trust: an expired, foreign or mismatched chain is shown as it is presented. Nothing is sent to such
  a server but a handshake, and nothing of ours is shown.
- The whole presented chain counts: an intermediate that ends first breaks clients as well.
- A file may hold a private key beside its certificate; it is passed over (law 10).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from rotator.core.foreign import Foreign
from rotator.errors import Rejected, Unavailable
from rotator.pki.foreign import certificates_among, foreign

_MOST_BYTES = 1 << 20
"""Of a file: a chain is some kilobytes."""


class WatchedEndpoint:
    """What a TLS server presents; a `Watch`."""

    kind = "tls"

    def __init__(self, address: str, *, server_name: str | None, timeout: timedelta) -> None:
        """Look at *address* (``host:port``), asking for *server_name*, or for its host if that is a name."""
        host, _, port = address.rpartition(":")
        self._address = address
        self._host, self._port = host.removeprefix("[").removesuffix("]"), int(port)
        self._server_name = server_name
        self._timeout = timeout.total_seconds()

    @property
    def place(self) -> str:
        """Return the address, and the name that is asked for."""
        return f"tls:{self._address}" + (f"#{self._server_name}" if self._server_name else "")

    def look(self) -> Sequence[Foreign]:
        """Return what it presents. Raises `Unavailable` if the handshake fails before it has."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection((self._host, self._port), timeout=self._timeout) as plain,
                context.wrap_socket(plain, server_hostname=self._server_name or self._host) as tls,
            ):
                chain = [x509.load_der_x509_certificate(each) for each in _presented(tls)]
        except ValueError as e:
            raise Rejected(f"{self._address} presents a certificate that cannot be read") from e
        except OSError as e:
            raise Unavailable(f"{self._address}: {_reason(e)}") from e
        if not chain:
            raise Rejected(f"{self._address} presents no certificate")
        return (foreign(chain),)


class WatchedFile:
    """What stands in a PEM file; a `Watch`."""

    kind = "file"

    def __init__(self, path: Path) -> None:
        """Look at the file at *path*."""
        self._path = path
        self._known: tuple[tuple[int, int, int], Foreign] | None = None

    @property
    def place(self) -> str:
        """Return the path."""
        return f"file:{self._path}"

    def look(self) -> Sequence[Foreign]:
        """Return its chain, as it stands there. Raises `Unavailable` if it cannot be read."""
        try:
            found = self._path.stat()
            state = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._known is None or self._known[0] != state:
                with self._path.open("rb") as file:
                    content = file.read(_MOST_BYTES)
                self._known = (state, foreign(certificates_among(content, source=str(self._path))))
        except OSError as e:
            raise Unavailable(f"cannot read {self._path}: {(e.strerror or 'failed').lower()}") from e
        return (self._known[1],)


def _presented(tls: ssl.SSLSocket) -> list[bytes]:
    """Return the chain as presented, DER; Python shows it publicly from 3.13 on only."""
    shown: Any = getattr(tls, "get_unverified_chain", None)
    if shown is not None:
        return list(shown())
    inner: Any = tls._sslobj  # type: ignore[attr-defined] # noqa: SLF001 -- the same method, one layer below
    return [each.public_bytes(ssl._ssl.ENCODING_DER) for each in inner.get_unverified_chain() or ()]  # type: ignore[attr-defined] # noqa: SLF001 -- as above


def _reason(error: OSError) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case ssl.SSLError():
            return (error.reason or "TLS failed").lower().replace("_", " ")
        case _:
            return (error.strerror or "connection failed").lower()
