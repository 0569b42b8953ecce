"""
Airflow's REST API: a token that is renewed before it ends, and answers as JSON or as errors of ours.

Rules that must stay true here:

- Every call keeps the rules of `rotator.http_exchange`, and every list has an end.
- Password, token and what an error page quotes stand in no error and no ``repr``; the password is read for each log-in.
- A 401 is no lost reply: with a fresh token the same call is made once more, a change too.
- A token travels over TLS or to loopback only.

Airflow 3 answers below ``/api/v2`` to a token of its own (``POST /auth/token``), Airflow 2 below ``/api/v1`` to a user
and password. Which of them it is, is asked once, of a path that needs no right.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from rotator.errors import ConfigError, Conflict, Denied, Rejected, Unavailable
from rotator.http_exchange import LOOPBACK, Exchange, Server
from rotator.ports import Clock
from rotator.redaction import redacted_text

JSON = dict[str, Any]
Query = Sequence[tuple[str, str]]

LARGEST_ANSWER = 32 << 20
"""Bytes. A page of a hundred task instances with their rendered fields seldom takes one megabyte."""

PAGE = 100
"""Items a page: Airflow's own ``[api] maximum_page_limit``, above which it silently gives fewer."""

MOST_PAGES = 10_000
"""A list longer than a million items is one that never ends."""

_LONGEST_QUOTE = 200
_TOKEN_LIFE = timedelta(minutes=30)
"""Assumed of a token that does not tell its end; Airflow's default is a day."""
_RENEW_AT = 0.75
"""Share of a token's life after which it is renewed: a call that is under way then still has a quarter."""


class Version(StrEnum):
    """Which of Airflow's interfaces."""

    V1 = "v1"
    """Airflow 2."""
    V2 = "v2"
    """Airflow 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an Airflow's API server is, and who asks."""

    url: str
    """``https://airflow.example:8080``, perhaps with a path in front of the API's own."""
    ca_file: Path | None = None
    """PEM of who may have signed the server's certificate; None for the system's own list."""
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    """A token that somebody else renews, instead of user and password."""
    version: Version | None = None
    """None: it is asked."""
    timeout: timedelta = timedelta(seconds=10)
    """For connecting, and again for each wait for bytes."""

    def __post_init__(self) -> None:
        url = urllib3.util.parse_url(self.url)
        if url.host is None or url.scheme not in {"https", "http"}:
            raise ConfigError(f"{self.url!r} is no address of an Airflow: https://host:8080 is")
        if url.auth is not None or url.query is not None:
            raise ConfigError("the address of an Airflow holds neither user nor query: use username and password_file")
        if url.scheme == "http" and url.host.strip("[]") not in LOOPBACK:
            raise ConfigError(f"{self.url} would send password and token readably: use https")
        if (self.token_file is None) == (self.password_file is None):
            raise ConfigError("an Airflow is asked with either password_file or token_file")


class AirflowAPI:
    """The REST API of one Airflow. Nothing is sent before the first call; safe to share between threads."""

    def __init__(self, endpoint: Endpoint, *, clock: Clock, page: int = PAGE) -> None:
        """Talk to *endpoint*; lists are read *page* items at a time."""
        self.endpoint = endpoint
        self._clock = clock
        self._page = page
        self._exchange = Exchange(
            Server(
                name="Airflow",
                url=endpoint.url,
                ca_file=endpoint.ca_file,
                client_certificate_file=endpoint.client_certificate_file,
                client_key_file=endpoint.client_key_file,
                timeout=endpoint.timeout,
                connections=4,
                largest_answer=LARGEST_ANSWER,
            )
        )
        self._version = endpoint.version
        self._logging_in = threading.Lock()
        self._token = ""
        self._renew_at = 0.0
        """On the monotonic clock."""

    # --- calls ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> Version:
        """Return which interface it has; asked once."""
        if self._version is None:
            self._version = self._asked_version()
        return self._version

    def get(self, path: str, *, doing: str, query: Query = ()) -> JSON:
        """Return the object at *path* below the interface. *doing* completes "Airflow denied ..."."""
        return self._authorized("GET", self._api(path), doing=doing, query=query)

    def listed(self, path: str, of: str, *, doing: str, query: Query = ()) -> Iterator[JSON]:
        """
        Yield every item of the list *of* at *path*, page by page.

        Raises:
            Unavailable: If it gave fewer items than it said that there are: it changed while it was read.
        """
        offset = 0
        for _ in range(MOST_PAGES):
            paged = [*query, ("limit", str(self._page)), ("offset", str(offset))]
            answer = self.get(path, doing=doing, query=paged)
            page, total = answer.get(of), answer.get("total_entries")
            if not isinstance(page, list):
                raise Rejected(f"Airflow's answer has no {of}, seen while {doing}")
            yield from (each for each in page if isinstance(each, dict))
            offset += len(page)
            if page and (len(page) == self._page or (isinstance(total, int) and offset < total)):
                continue
            if isinstance(total, int) and offset < total:
                raise Unavailable(f"Airflow's list changed while it was read, seen while {doing}")
            return
        raise Rejected(f"Airflow's list does not end, seen while {doing}")

    def post(self, path: str, body: JSON, *, doing: str) -> JSON:
        """Send *body* to *path* below the interface, once."""
        return self._authorized("POST", self._api(path), doing=doing, body=body)

    def patch(self, path: str, body: JSON, *, doing: str) -> JSON:
        """Change what is at *path* below the interface, once."""
        return self._authorized("PATCH", self._api(path), doing=doing, body=body)

    def plugin(self, method: str, path: str, *, doing: str, body: JSON | None = None) -> JSON:
        """Make one call to *path* from the server's root: what a provider's plugin serves beside the interface."""
        return self._authorized(method, path, doing=doing, body=body)

    def healthy(self, *, doing: str) -> JSON:
        """Return what the server says of its components; needs no right."""
        path = "/api/v2/monitor/health" if self.version is Version.V2 else "/api/v1/health"
        return self._object(*self._call("GET", path, doing=doing), doing=doing)

    def close(self) -> None:
        """Close every idle connection; a later call opens new ones."""
        self._exchange.close()

    def _api(self, path: str) -> str:
        return f"/api/{self.version.value}{path}"

    def _asked_version(self) -> Version:
        doing = "asking which Airflow it is"
        for version in (Version.V2, Version.V1):
            status, text = self._call("GET", f"/api/{version.value}/version", doing=doing, also=(HTTPStatus.NOT_FOUND,))
            # Airflow 2 sends whoever asks for an unknown path to its start page: not JSON, not an interface.
            if status == HTTPStatus.OK and b'"version"' in text:
                return version
        raise Rejected(f"{self.endpoint.url} is no Airflow with /api/v2 or /api/v1: mend the url")

    # --- who asks ---------------------------------------------------------------------------------------------------

    def _authorized(self, method: str, path: str, *, doing: str, query: Query = (), body: JSON | None = None) -> JSON:
        used = self._authorization(doing)
        refused = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        status, text = self._call(
            method, path, doing=doing, query=query, body=body, authorization=used, also=refused
        )  # fmt: skip
        if status in refused:
            # Its key changed, say: nothing was done, so once more is safe. Airflow 3 says 403 of a token it cannot
            # read; of a right that is missing as well, and then it says so again.
            self._forget(used)
            status, text = self._call(
                method, path, doing=doing, query=query, body=body, authorization=self._authorization(doing)
            )
        return self._object(status, text, doing=doing)

    def _authorization(self, doing: str) -> str:
        """Return the header's value as it is good now."""
        if self.endpoint.token_file is not None:
            return f"Bearer {_secret(self.endpoint.token_file, doing)}"
        if self.version is Version.V1:
            pair = f"{self.endpoint.username}:{self._password(doing)}"
            return f"Basic {base64.b64encode(pair.encode()).decode()}"
        with self._logging_in:
            if not self._token or self._clock.monotonic() >= self._renew_at:
                self._token = self._log_in(doing)
                life = max(_life_of(self._token, self._clock), timedelta(seconds=1))
                self._renew_at = self._clock.monotonic() + _RENEW_AT * life.total_seconds()
            return f"Bearer {self._token}"

    def _log_in(self, doing: str) -> str:
        body = {"username": self.endpoint.username, "password": self._password(doing)}
        what = f"logging in as {self.endpoint.username}, needed for {doing}"
        status, text = self._call("POST", "/auth/token", doing=what, body=body, secret=True)
        token = self._object(status, text, doing=what).get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token or not token:
            raise Rejected(f"Airflow gave no token, seen while {what}")
        return token

    def _password(self, doing: str) -> str:
        assert self.endpoint.password_file is not None  # noqa: S101 -- the endpoint has refused it
        return _secret(self.endpoint.password_file, doing)

    def _forget(self, used: str) -> None:
        with self._logging_in:
            if used == f"Bearer {self._token}":
                self._token = ""

    # --- one request ------------------------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Query = (),
        body: JSON | None = None,
        authorization: str = "",
        also: tuple[int, ...] = (),
        secret: bool = False,
    ) -> tuple[int, bytes]:
        """Send one request; statuses in *also* are answers, not errors. With *secret* nothing of an answer is told."""
        headers = {"Accept": "application/json"}
        if authorization:
            headers["Authorization"] = authorization
        content: bytes | None = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        target = f"{path}?{urlencode(query)}" if query else path
        status, text = self._exchange.send(method, target, doing=doing, headers=headers, content=content)
        if status not in also:
            _raise_for(status, b"" if secret else text, doing)
        return status, text

    def _object(self, status: int, text: bytes, *, doing: str) -> JSON:
        if status == HTTPStatus.NO_CONTENT or not text.strip():
            return {}
        try:
            found = json.loads(text)
        except ValueError:
            # The decoder's own error quotes the text.
            raise Rejected(f"Airflow's answer cannot be read, seen while {doing}") from None
        return found if isinstance(found, dict) else {"value": found}


def _secret(path: Path, doing: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        # A decoding error quotes the bytes it stumbled over.
        raise Denied(f"{path} cannot be read, needed for {doing}") from None
    if not text or not text.isprintable():
        raise Denied(f"{path} holds no usable secret, needed for {doing}")
    return text


def _life_of(token: str, clock: Clock) -> timedelta:
    """Return how long *token* lasts by its own word; it is not verified, only its end is read."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 -- header, claims, signature
        return _TOKEN_LIFE
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return timedelta(seconds=float(claims["exp"]) - clock.now().timestamp())
    except (ValueError, KeyError, TypeError, OverflowError, binascii.Error):
        return _TOKEN_LIFE


def _raise_for(status: int, text: bytes, doing: str) -> None:
    """Raise the error that *status* asks for; return if it is none."""
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return
    words = f": {said}" if (said := _said(text)) else ""
    match status:
        case HTTPStatus.UNAUTHORIZED:
            raise Denied(f"Airflow does not know who asks, seen while {doing}: mend user, password or token")
        case HTTPStatus.FORBIDDEN:
            raise Denied(f"Airflow denied {doing}{words}: give the user the right that docs/airflow.md names")
        case HTTPStatus.CONFLICT:
            raise Conflict(f"somebody else wrote first, seen while {doing}{words}")
        case HTTPStatus.TOO_MANY_REQUESTS:
            raise Unavailable(f"Airflow limits the rate of requests, seen while {doing}")
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(f"Airflow failed with status {status} while {doing}")
        case _:
            raise Rejected(f"Airflow refused {doing} with status {status}{words}")


def _said(text: bytes) -> str:
    """Return what Airflow gave as its reason, in one short line without secrets; empty if nothing."""
    try:
        problem = json.loads(text)
    except ValueError:
        return ""
    detail = problem.get("detail") if isinstance(problem, dict) else None
    if isinstance(detail, Mapping):
        detail = detail.get("reason") or detail.get("message")
    if not isinstance(detail, str):
        # Airflow 3 lists what it could not parse, and quotes it.
        return ""
    return " ".join(redacted_text(detail).split())[:_LONGEST_QUOTE]
