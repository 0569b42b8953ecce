"""
The certificate that the HTTP service shows: one of rotator's own, taken over again whenever it is published anew.

Rules that must stay true here:

- A pair is tried as a whole before it is shown; one that cannot be used is refused and the one before stays.
- Connections that are open keep what they began with; every new one gets the newest, since none is resumed.
- Until the first publication a stand-in is shown that signs for itself: probes, which verify nothing, get their answer
  over TLS, and whoever verifies gets none. Its key never leaves this process.
- No key is written to a disk: it reaches OpenSSL through memory (law 10).
- TLS 1.2 at least, with forward secrecy.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rotator.errors import RotatorError, Unavailable
from rotator.ports import Clock, LeafStore
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

STAND_IN_LIFE: Final = timedelta(days=1)
"""Nobody trusts it anyway; it is made anew when half of this has passed."""

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; TLS 1.3 has no others than good ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What new connections are shown."""

    context: ssl.SSLContext
    number: int
    """Of the publication; 0 for the stand-in."""
    not_after: datetime
    callers: bytes
    """The bundle that verifies callers' certificates; empty if none is asked for."""

    @property
    def is_stand_in(self) -> bool:
        """Return whether nothing was published yet."""
        return not self.number


class ServedCertificate:
    """Gives listeners their TLS context. Safe from several threads."""

    def __init__(
        self,
        store: Callable[[], LeafStore],
        *,
        clock: Clock,
        names: Sequence[str],
        client_ca_file: Path | None = None,
    ) -> None:
        """
        Show what *store* holds, first a stand-in for *names*; `look` takes over what is published.

        Raises:
            ConfigError: If *client_ca_file* cannot be used: nobody is let in who should not.
        """
        self._store = store
        self._clock = clock
        self._names = tuple(names)
        self._client_ca_file = client_ca_file
        self._looking = threading.Lock()
        self.problem = ""
        """Why what is published is not shown; empty if it is."""
        self.problem_since: datetime | None = None
        callers = self._read_callers()
        self._shown = self._stand_in(callers)
        self.listening = _context(callers)
        """What a listener is opened with: it chooses what is shown anew at each handshake."""
        self.listening.sni_callback = self._choose

    @property
    def shown(self) -> Shown:
        """Return what a connection that begins now is shown."""
        return self._shown

    def look(self) -> None:
        """Take over what is published if it has changed. Never raises; `problem` says what is wrong."""
        with self._looking:
            try:
                self._look()
            except (RotatorError, OSError, ValueError) as error:
                # ssl's errors are OSErrors; a PEM that cannot be parsed is a ValueError.
                self._note(str(error) if isinstance(error, RotatorError) else type(error).__name__)
            else:
                self.problem, self.problem_since = "", None

    def _look(self) -> None:
        store, shown = self._store(), self._shown
        publication = store.read()
        callers = self._read_callers()
        if publication is None or publication.leaf is None:
            if publication is not None and publication.problem:
                raise Unavailable(publication.problem)
            now = self._clock.now()
            if shown.is_stand_in and (shown.not_after - now < STAND_IN_LIFE / 2 or callers != shown.callers):
                self._shown = self._stand_in(callers)
            return
        if publication.number == shown.number and callers == shown.callers:
            return
        material = store.material()
        context = _context(callers)
        _load(context, material.chain_pem, material.key_pem)
        self._shown = Shown(
            context=context, number=publication.number, not_after=material.leaf.not_after, callers=callers
        )
        log.info(LogEvent.CERTIFICATE_LOADED, serial=material.leaf.serial, publication=publication.number)

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            log.warning(LogEvent.CERTIFICATE_REFUSED, error=problem)
        self.problem, self.problem_since = problem, self.problem_since or self._clock.now()

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Show the newest certificate to *connection*, whatever name it asks for."""
        connection.context = self._shown.context

    def _read_callers(self) -> bytes:
        if self._client_ca_file is None:
            return b""
        try:
            return self._client_ca_file.read_bytes()
        except OSError as e:
            raise Unavailable(f"cannot read {self._client_ca_file}: {e.strerror}") from e

    def _stand_in(self, callers: bytes) -> Shown:
        """Return a certificate that signs for itself."""
        now = self._clock.now().replace(microsecond=0)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rotator stand-in until its certificate is issued")])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + STAND_IN_LIFE)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(each) for each in self._names or ("localhost",)]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        context = _context(callers)
        _load(
            context,
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        return Shown(context=context, number=0, not_after=now + STAND_IN_LIFE, callers=callers)


def _context(callers: bytes) -> ssl.SSLContext:
    """Return a server's context without a certificate yet; *callers* verifies those that callers show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session would go on with the certificate that it began with.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    if callers:
        # Optional: probes and Prometheus may show none and still see health and metrics.
        context.verify_mode = ssl.CERT_OPTIONAL
        # A trust domain's bundle holds its own CA, which the corporate PKI has signed: that is where trust ends.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=callers.decode("ascii"))
    return context


def _load(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    """Let *context* show *chain_pem*; a key that does not belong to it is an `ssl.SSLError`."""
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(file, chain_pem.rstrip() + b"\n" + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
