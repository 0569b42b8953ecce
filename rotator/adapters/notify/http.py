"""
One HTTP POST to somebody who is told, with every wait bounded.

Rules that must stay true here:

- Made once: whoever sends decides about another try. Redirects are not followed.
- An error names the receiver and what its server said, never an address from a file, a token or a password.
- Files (CA, token, password, client certificate) are read at use, so that they may be rotated under us.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

import urllib3
import urllib3.exceptions

from rotator.errors import AdapterError, ConfigError, Denied, Rejected, Unavailable
from rotator.redaction import redacted_text

_WORDS = 200
"""Of a server's answer, how many characters an error quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a server, and as whom."""

    timeout: timedelta = timedelta(seconds=10)
    """For connecting, and for each wait on the answer."""
    ca_file: Path | None = None
    """None: the system's CAs."""
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    bearer_token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None


class Poster:
    """Posts to the servers of one receiver."""

    def __init__(self, receiver: str, access: Access) -> None:
        """Open no connection yet; *receiver* names whom it is for, in errors."""
        self._receiver = receiver
        self._access = access
        seconds = access.timeout.total_seconds()
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=seconds, read=seconds),
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(access.ca_file) if access.ca_file is not None else None,
            cert_file=str(access.client_certificate_file) if access.client_certificate_file is not None else None,
            key_file=str(access.client_key_file) if access.client_key_file is not None else None,
        )

    def close(self) -> None:
        """Close every connection."""
        self._pool.clear()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """
        Post JSON *body* to *url*.

        Raises:
            Unavailable: If it was not answered, or with a 5xx or 429.
            Denied: If the server does not know or let us, or a file of ours cannot be read.
            Rejected: If the server refuses this body.
        """
        try:
            answer = self._pool.request(
                "POST",
                url,
                body=body,
                headers={"Content-Type": "application/json", "User-Agent": "rotator", **self._credentials(), **headers},
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as e:
            # The library's words quote the address, which may be a secret: its class says enough.
            raise Unavailable(f"{self._receiver} did not answer: {_reason(e)}") from None
        try:
            if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
                raise self._error(answer.status, _beginning(answer))
        finally:
            # What is left of an answer is not waited for.
            answer.close()

    def _credentials(self) -> dict[str, str]:
        """Return the header that says who we are, read from its file now."""
        access = self._access
        if access.bearer_token_file is not None:
            return {"Authorization": f"Bearer {self.secret(access.bearer_token_file)}"}
        if access.password_file is not None:
            pair = f"{access.username or ''}:{self.secret(access.password_file)}"
            return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"}
        return {}

    def secret(self, file: Path) -> str:
        """Return what *file* holds, without white space around it. Raises `Denied` if it cannot be read."""
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise Denied(f"{self._receiver}: cannot read {file}") from e

    def _error(self, status: int, words: str) -> AdapterError:
        said = f"{self._receiver} answered {status}" + (f": {words}" if words else "")
        match status:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN | HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                return Denied(said)
            case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.REQUEST_TIMEOUT:
                return Unavailable(said)
            case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                return Unavailable(said)
            case _:
                return Rejected(said)


def _beginning(answer: urllib3.BaseHTTPResponse) -> str:
    """Return the first words of *answer* on one line, without secrets; empty if they do not come."""
    try:
        content = answer.read(_WORDS * 4)
    except (urllib3.exceptions.HTTPError, OSError):
        return ""
    return redacted_text(" ".join(content.decode("utf-8", errors="replace").split()))[:_WORDS]


def _reason(error: Exception) -> str:
    match error:
        case urllib3.exceptions.NewConnectionError():
            # A kind of time-out to the library.
            return "no connection"
        case urllib3.exceptions.TimeoutError():
            return "no answer in time"
        case urllib3.exceptions.SSLError():
            return "its certificate cannot be verified, or it does not speak TLS"
        case urllib3.exceptions.ProtocolError():
            return "it closed the connection"
        case urllib3.exceptions.LocationParseError() | ValueError():
            return "its address cannot be used"
        case _:
            return "no connection"


def one_address(receiver: str, file: Path) -> str:
    """Return the address that *file* holds. Raises `ConfigError` if it holds none."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"alerts.notify {receiver}: cannot read {file}") from e
    if not text.startswith(("https://", "http://")) or any(each.isspace() for each in text):
        raise ConfigError(f"alerts.notify {receiver}: {file} holds no http address on one line")
    return text
