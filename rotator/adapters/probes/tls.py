"""
What a TLS server uses, seen by shaking hands with it: which leaf it shows, and whom it lets in.

Rules that must stay true here:

- Seeing a serial needs no trust: an expired or foreign leaf is shown as it is.
- Letting somebody in is an HTTP answer. In TLS 1.3 the client's side of the handshake is done before the server has
  judged its certificate, so a handshake alone proves nothing.
- An answer counts only from the consumer itself: its chain verifies under the bundle, and if it is known who it must
  be, its SPIFFE ID says so. Anybody could answer 200 on a port.
- The unpublished key exists in memory only, never in a file that has a name (law 10).
"""

from __future__ import annotations

import os
import socket
import ssl
from datetime import timedelta

from cryptography import x509

from rotator.core.model import Served
from rotator.errors import ConfigError, Rejected
from rotator.pki.certificates import Material, serial_of, uri_names
from rotator.ports import Clock

# "HTTP/1.1 200" is twelve bytes; the rest of the answer is of no interest.
_STATUS_LINE = 12


class TLSProbe:
    """
    Shakes hands with one TLS server; `Probe`, and `BundleProbe` where *presents* is given.

    Looking goes without a client certificate, so a server that wants one counts a failed client for each look.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Clock,
        server_name: str | None = None,
        presents: str | None = None,
        expects: str | None = None,
        path: str = "/",
        timeout: timedelta = timedelta(seconds=2),
    ) -> None:
        """
        Name the server without connecting yet.

        Args:
            address: ``host:port``, or ``[address]:port`` for IPv6.
            clock: Stamps what is seen, and measures the timeout.
            server_name: Name to ask for (SNI); None sends none.
            presents: SPIFFE ID that the server admits, for the unpublished leaf; None for a server without mutual TLS.
            expects: SPIFFE ID that the server itself must show before its answer counts; None takes any of the bundle.
            path: What to ask for over HTTP.
            timeout: For a whole look or question.

        Raises:
            ConfigError: If *address* or *path* is none.
        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ConfigError(f"{address!r} is no address to probe: write host:port")
        if not path.startswith("/") or any(ord(each) <= ord(" ") or ord(each) > ord("~") for each in path):
            raise ConfigError(f"{path!r} is no path to ask for: start with a slash, without spaces")
        self._address = address
        self._host = host.removeprefix("[").removesuffix("]")
        self._port = int(port)
        self._clock = clock
        self._server_name = server_name
        self._presents = presents or ""
        self._expects = expects
        self._path = path
        self._timeout = timeout.total_seconds()

    @property
    def name(self) -> str:
        """Return the probe as people name it."""
        return f"tls:{self._address}"

    @property
    def presents(self) -> str:
        """Return the SPIFFE ID that the unpublished leaf must carry; empty if this probe cannot prove a bundle."""
        return self._presents

    def look(self) -> Served:
        """Return the serial of the leaf that the server shows now. A handshake shows no bundle."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        # Nothing is believed: the serial is compared with what was published.
        context.verify_mode = ssl.CERT_NONE
        try:
            with self._connected() as plain, self._shaken(plain, context) as tls:
                shown = _shown(tls)
        except (OSError, ValueError) as e:
            return self._unseen(f"no handshake: {_reason(e)}")
        if shown is None:
            return self._unseen("it shows no certificate")
        return Served(probe=self.name, seen_at=self._clock.now(), reachable=True, serial=serial_of(shown))

    def admits(self, material: Material) -> bool:
        """
        Return whether the server gives an HTTP answer, of any status, to *material*'s leaf.

        The server is believed only if it verifies under *material*'s bundle. No answer in time is False.
        """
        try:
            with self._connected() as plain, self._shaken(plain, _context(material)) as tls:
                shown = _shown(tls)
                if shown is None or (self._expects is not None and uri_names(shown) != (self._expects,)):
                    return False
                host = self._server_name or self._address
                tls.sendall(f"GET {self._path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                return self._status_line(tls).startswith(b"HTTP/1.")
        except (OSError, ValueError, Rejected):
            # SSLError is an OSError: an alert, a reset or silence all mean that it did not let us in.
            return False

    def _status_line(self, tls: ssl.SSLSocket) -> bytes:
        """Return the beginning of the answer, empty or short if the server ends before."""
        deadline = self._clock.monotonic() + self._timeout
        answer = b""
        while len(answer) < _STATUS_LINE:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return b""
            tls.settimeout(left)
            received = tls.recv(_STATUS_LINE - len(answer))
            if not received:
                return b""
            answer += received
        return answer

    def _connected(self) -> socket.socket:
        return socket.create_connection((self._host, self._port), timeout=self._timeout)

    def _shaken(self, plain: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Return the connection after the handshake, whose every wait is bounded by the timeout."""
        context.set_alpn_protocols(["http/1.1"])
        return context.wrap_socket(plain, server_hostname=self._server_name)

    def _unseen(self, why: str) -> Served:
        return Served(probe=self.name, seen_at=self._clock.now(), reachable=False, detail=why)


def _shown(tls: ssl.SSLSocket) -> x509.Certificate | None:
    """Return the leaf that the server showed. Raises `ValueError` if it cannot be read."""
    encoded = tls.getpeercert(binary_form=True)
    return None if encoded is None else x509.load_der_x509_certificate(encoded)


def _context(material: Material) -> ssl.SSLContext:
    """Return a client's side that presents *material*'s leaf and trusts its bundle, intermediates as anchors too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # SPIFFE names are URIs, which the ssl module does not compare; see `admits`.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # The bundle may hold the mesh's CA alone, without the corporate root above it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=material.bundle_pem.decode("ascii"))
    # The ssl module reads keys from files only: this one has no name, no disk, and ends with its descriptor.
    memory = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(material.chain_pem.rstrip() + b"\n" + material.key_pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


def _reason(error: Exception) -> str:
    """Return why a connection failed, in few words."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case ssl.SSLError():
            return (error.reason or "TLS failed").lower().replace("_", " ")
        case OSError():
            return (error.strerror or "connection failed").lower()
        case _:
            return "its certificate cannot be read"
