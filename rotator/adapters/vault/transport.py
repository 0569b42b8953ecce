"""
How hvac's requests travel: over a pool of kept-alive connections, at a fraction of the CPU that requests takes.

Rules that must stay true here:

- TLS is verified against the given CA file or the system's; plain HTTP is for loopback only, and refused elsewhere:
  a token would travel readably.
- A redirect is never followed: the token would go to whoever the answer names.
- Nothing is sent twice: a lost reply is the caller's to judge (law 13).
- No environment variable changes where a request goes or what is trusted.
"""

from __future__ import annotations

import json as json_codec
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import hvac.adapters
import hvac.exceptions
import hvac.utils
import urllib3

from rotator.errors import ConfigError, Denied
from rotator.redaction import redacted_text

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})

LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes. A list of 100,000 certificates takes 6 MB; an endless answer must not take all memory."""

_NO_SUCH_ISSUER = "unable to find PKI issuer for reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the server is, and how to reach it."""

    address: str
    """``https://vault.example:8200``, perhaps with a path in front of ``/v1``."""
    ca_file: Path | None = None
    """PEM of who may have signed the server's certificate; None for the system's own list."""
    namespace: str | None = None
    timeout: timedelta = timedelta(seconds=10)
    """For connecting, and again for each wait for bytes."""
    connections: int = 16
    """How many stay open when idle; as many as there are threads is best."""

    def __post_init__(self) -> None:
        url = urllib3.util.parse_url(self.address)
        if url.host is None or url.scheme not in {"https", "http"}:
            raise ConfigError(f"{self.address!r} is no address of a Vault server: https://host:port is")
        if url.scheme == "http" and url.host not in LOOPBACK:
            raise ConfigError(f"{self.address} would send tokens readably: use https")

    def open_pool(self, client_certificate: tuple[Path, Path] | None) -> urllib3.HTTPConnectionPool:
        """
        Return a new pool; nothing is connected yet.

        *client_certificate* is (certificate file, key file), read now.

        Raises:
            Denied: If a file cannot be read, or key and certificate are no pair.
        """
        url = urllib3.util.parse_url(self.address)
        seconds = self.timeout.total_seconds()
        timeout = urllib3.Timeout(connect=seconds, read=seconds)
        assert url.host is not None  # noqa: S101 -- __post_init__ has refused it
        host = url.host.strip("[]")
        if url.scheme == "http":
            return urllib3.HTTPConnectionPool(host, url.port or 80, timeout=timeout, maxsize=self.connections)
        try:
            trust = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
            if client_certificate is not None:
                trust.load_cert_chain(*map(str, client_certificate))
        except (OSError, ssl.SSLError) as e:
            files = [str(self.ca_file or "the system's CA list"), *map(str, client_certificate or ())]
            raise Denied(f"cannot use {' and '.join(files)} for TLS to Vault") from e
        trust.minimum_version = ssl.TLSVersion.TLSv1_2
        return urllib3.HTTPSConnectionPool(
            host, url.port or 443, timeout=timeout, maxsize=self.connections, ssl_context=trust
        )


if TYPE_CHECKING:
    _Adapter = hvac.adapters.Adapter[Any]
else:
    # Generic in its stubs only.
    _Adapter = hvac.adapters.Adapter


class PooledAdapter(_Adapter):
    """hvac's JSON adapter over a urllib3 pool, which several clients may share."""

    def __init__(
        self,
        base_uri: str,
        token: str | None = None,
        namespace: str | None = None,
        *,
        pool: Callable[[], urllib3.HTTPConnectionPool],
        **_unused: object,
    ) -> None:
        """Send to *base_uri* through whatever *pool* returns; hvac's settings for requests are without effect."""
        # Not calling the parent: it would open a requests session that nobody uses.
        self.base_uri = base_uri
        self.token = token
        self.namespace = namespace
        self.allow_redirects = False
        self.ignore_exceptions = False
        self.strict_http = False
        self.request_header = True
        self._pool = pool
        self._prefix = (urllib3.util.parse_url(base_uri).path or "").rstrip("/")

    def close(self) -> None:
        """Do nothing: the pool belongs to the session."""

    def get_login_token(self, response: Any) -> str:  # noqa: ANN401 -- hvac's own signature
        """Return the client token of a login answer."""
        token: str = response["auth"]["client_token"]
        return token

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,  # noqa: FBT001, FBT002 -- hvac's own signature
        **kwargs: Any,  # noqa: ANN401 -- hvac's own signature
    ) -> Any:  # noqa: ANN401 -- hvac's own signature
        """Return the decoded JSON answer, None if the answer is empty; raise hvac's exception for an error status."""
        sent = {"X-Vault-Request": "true", **(headers or {})}
        if self.token:
            sent["X-Vault-Token"] = self.token
        if self.namespace:
            sent["X-Vault-Namespace"] = self.namespace
        path = f"{self._prefix}/{url.strip('/')}"
        if params := kwargs.get("params"):
            path = f"{path}?{urlencode(params)}"
        body: bytes | None = None
        if (content := kwargs.get("json")) is not None:
            body = json_codec.dumps(content).encode()
            sent["Content-Type"] = "application/json"
        answer = self._pool().urlopen(
            method.upper(),
            path,
            body=body,
            headers=sent,
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
        )
        try:
            text = answer.read(LARGEST_ANSWER)
            if answer.read(1):
                answer.close()
                raise hvac.exceptions.UnexpectedError("the answer is too large", method=method, url=url)
        finally:
            answer.release_conn()
        if answer.status >= HTTPStatus.BAD_REQUEST and raise_exception:
            _raise_for(method, url, answer.status, text)
        if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
            raise hvac.exceptions.BadGateway("the answer is a redirect", method=method, url=url)
        return json_codec.loads(text) if text else None


def _raise_for(method: str, url: str, status: int, text: bytes) -> None:
    """Raise hvac's exception for an error *status*; only the server's list of errors goes along, redacted."""
    try:
        errors = json_codec.loads(text)["errors"]
    except (ValueError, KeyError, TypeError):
        errors = None
    errors = [redacted_text(str(error)) for error in errors] if isinstance(errors, list) else []
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and any(_NO_SUCH_ISSUER in error for error in errors):
        # The PKI engine says 500 where everything else says 404.
        raise hvac.exceptions.InvalidPath(errors=errors, method=method, url=url)
    # hvac knows 502 and 503 only; whatever else a load balancer says of its backend is no judgement of the request.
    if status > HTTPStatus.SERVICE_UNAVAILABLE:
        raise hvac.exceptions.BadGateway(f"status {status}", errors=errors, method=method, url=url)
    hvac.utils.raise_for_error(method, url, status, f"status {status}", errors=errors)
