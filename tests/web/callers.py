"""
Callers of the HTTP service: raw enough to be rude.

Rules that must stay true here:

- Every wait ends: sockets have time-outs that two busy cores do not reach.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATIENCE = 30.0
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer."""

    code: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes


def ask(
    port: int,
    path: str = "/healthz",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Make one request over a connection of its own."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        if tls is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=tls)
    )
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        with connection.getresponse() as got:
            headers_got: dict[str, str] = {}
            for name, value in got.getheaders():
                known = headers_got.get(name.lower())
                headers_got[name.lower()] = value if known is None else f"{known}, {value}"
            return Answer(code=got.status, headers=headers_got, body=got.read())
    finally:
        connection.close()


def trusting_nobody() -> ssl.SSLContext:
    """Return a client that looks at the certificate itself, as a kubelet's probe does not look at all."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def shown_by(port: int, context: ssl.SSLContext | None = None) -> x509.Certificate:
    """Return the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        (context or trusting_nobody()).wrap_socket(plain) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
        assert der is not None, "a server always shows one"
        return x509.load_der_x509_certificate(der)


def closed(connection: socket.socket) -> bool:
    """Wait until the other side closes *connection*; return whether it did before patience ended."""
    connection.settimeout(PATIENCE)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def pair(
    name: str, *, signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[bytes, bytes]:
    """Return certificate and key PEM for *name*: its own signer, or signed by *signer*."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, by = (subject, key) if signer is None else (signer[0].subject, signer[1])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .sign(by, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
