"""
A control plane's HTTP API: every answer turned into JSON or into an error of ours.

Rules that must stay true here:

- Every call keeps the rules of `rotator.http_exchange`, and every list has an end.
- A token travels over TLS or to loopback only, and is read anew when its file changes.
- No error quotes a token, a key or the body of a secret; what a control plane says of a refusal is redacted first.
- Wherever ``next`` leads, only its ``offset`` is followed: the host and the path stay ours.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import urllib3

from rotator.errors import ConfigError, Conflict, Denied, Rejected, Unavailable
from rotator.http_exchange import LOOPBACK, Exchange, Server, stamp_of
from rotator.redaction import redacted_text

Json = dict[str, Any]

LARGEST_ANSWER = 64 << 20
"""Bytes. The configuration of a proxy that reaches a thousand services takes about 20 MB."""

PAGE = 500
"""Items a page; Kuma refuses more than 1000."""

MOST_PAGES = 2000
"""A list longer than a million items is one that never ends."""

_TOKEN = re.compile(r"[!-~]+")
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{64,}={0,2}")
_LONGEST_QUOTE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a control plane's HTTP API is, and who asks."""

    url: str
    """``https://kuma.example:5682``, perhaps with a path in front of the API's own."""
    ca_file: Path | None = None
    """PEM of who may have signed the server's certificate; None for the system's own list."""
    token_file: Path | None = None
    """A user token; None where the client certificate, or loopback, says who asks."""
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    timeout: timedelta = timedelta(seconds=10)
    """For connecting, and again for each wait for bytes."""
    connections: int = 16
    """How many stay open when idle."""

    def __post_init__(self) -> None:
        url = urllib3.util.parse_url(self.url)
        if url.host is None or url.scheme not in {"https", "http"}:
            raise ConfigError(f"{self.url!r} is no address of a control plane: https://host:5682 is")
        if url.auth is not None or url.query is not None:
            raise ConfigError("the address of a control plane holds neither user nor query: use token_file")
        if (self.client_certificate_file is None) != (self.client_key_file is None):
            raise ConfigError("a client certificate needs its key, and the key its certificate")
        if url.scheme == "https":
            return
        if self.client_certificate_file is not None:
            raise ConfigError(f"{self.url} takes no client certificate: use https")
        if self.token_file is not None and url.host.strip("[]") not in LOOPBACK:
            raise ConfigError(f"{self.url} would send the token readably: use https")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: its status, and its JSON if it has any."""

    status: int
    body: Any
    """Decoded; None if the answer is empty."""


class ControlPlaneAPI:
    """The HTTP API of one control plane. Nothing is sent before the first call; safe to share between threads."""

    def __init__(self, endpoint: Endpoint, *, largest_answer: int = LARGEST_ANSWER) -> None:
        """Talk to *endpoint*; no answer of more than *largest_answer* bytes is read."""
        self.endpoint = endpoint
        self._exchange = Exchange(
            Server(
                name="the control plane",
                url=endpoint.url,
                ca_file=endpoint.ca_file,
                client_certificate_file=endpoint.client_certificate_file,
                client_key_file=endpoint.client_key_file,
                timeout=endpoint.timeout,
                connections=endpoint.connections,
                largest_answer=largest_answer,
            )
        )
        self._lock = threading.Lock()
        self._token = ""
        self._token_stamp: object = None

    # --- calls ------------------------------------------------------------------------------------------------------

    def get(self, path: str, *, doing: str, query: Mapping[str, str] | None = None) -> Json | None:
        """Return the object at *path*, None if it is absent. *doing* completes "the control plane denied ..."."""
        answer = self._call("GET", path, doing=doing, query=query, also=(HTTPStatus.NOT_FOUND,))
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if not isinstance(answer.body, dict):
            raise Rejected(f"the control plane's answer is no object, seen while {doing}")
        return answer.body

    def text(self, path: str, *, doing: str) -> str | None:
        """Return the plain text at *path*, None if it is absent; bytes that are no UTF-8 are replaced."""
        headers = {"Accept": "*/*", **self._credentials(doing)}
        status, text = self._exchange.send("GET", path, doing=doing, headers=headers)
        if status == HTTPStatus.NOT_FOUND:
            return None
        _raise_for(status, text, doing)
        return text.decode(errors="replace")

    def listed(self, path: str, *, doing: str, query: Mapping[str, str] | None = None) -> Iterator[Json] | None:
        """Yield every item of the list at *path*, page by page; None if there is no such list."""
        first = self.get(path, doing=doing, query={**(query or {}), "size": str(PAGE)})
        return None if first is None else self._pages(path, first, doing=doing, query=query or {})

    def put(self, path: str, body: Json, *, doing: str, secret: bool = False) -> None:
        """Create or replace what is at *path*; with *secret* nothing of a refusal is quoted."""
        self._call("PUT", path, doing=doing, body=body, secret=secret)

    def issued(self, path: str, body: Json, *, doing: str) -> str:
        """Return the plain text that is answered to *body*, which is a secret: nothing of it is ever quoted."""
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "*/*", **self._credentials(doing)}
        status, text = self._exchange.send("POST", path, doing=doing, headers=headers, content=content)
        # What is refused is said in words; what is issued never reaches them.
        _raise_for(status, text, doing)
        try:
            return text.decode("ascii").strip()
        except UnicodeDecodeError as e:
            raise Rejected(f"the control plane's answer cannot be read, seen while {doing}") from e

    def delete(self, path: str, *, doing: str) -> bool:
        """Delete what is at *path*; return whether anything was there."""
        answer = self._call("DELETE", path, doing=doing, also=(HTTPStatus.NOT_FOUND,))
        return answer.status != HTTPStatus.NOT_FOUND

    def close(self) -> None:
        """Close every idle connection; a later call opens new ones."""
        self._exchange.close()

    # --- pages ------------------------------------------------------------------------------------------------------

    def _pages(self, path: str, page: Json, *, doing: str, query: Mapping[str, str]) -> Iterator[Json]:
        seen: set[str] = set()
        for _ in range(MOST_PAGES):
            items = page.get("items")
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict):
                    yield item
            offset = _offset(page.get("next"))
            if offset is None:
                return
            if offset in seen:
                break
            seen.add(offset)
            following = self.get(path, doing=doing, query={**query, "size": str(PAGE), "offset": offset})
            if following is None:
                raise Unavailable(f"a list went away between two pages, seen while {doing}")
            page = following
        raise Rejected(f"the control plane's list does not end, seen while {doing}")

    # --- one request ------------------------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        also: tuple[int, ...] = (),
        secret: bool = False,
    ) -> Answer:
        """Send one request; statuses in *also* are answers, not errors."""
        headers = {"Accept": "application/json", **self._credentials(doing)}
        content: bytes | None = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        target = f"{path}?{urlencode(query)}" if query else path
        status, text = self._exchange.send(method, target, doing=doing, headers=headers, content=content)
        if status not in also:
            _raise_for(status, b"" if secret else text, doing)
        try:
            return Answer(status=status, body=json.loads(text) if text.strip() else None)
        except ValueError as e:
            if status in also:
                return Answer(status=status, body=None)
            raise Rejected(f"the control plane's answer cannot be read, seen while {doing}") from e

    def _credentials(self, doing: str) -> dict[str, str]:
        """Return the header that says who asks; none where the client certificate, or loopback, does."""
        token = self._current_token(doing)
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _current_token(self, doing: str) -> str:
        """Return the token as the file holds it now, empty without a file."""
        path = self.endpoint.token_file
        if path is None:
            return ""
        try:
            stamp = stamp_of(path)
            with self._lock:
                if stamp != self._token_stamp:
                    self._token, self._token_stamp = path.read_text(encoding="ascii").strip(), stamp
                token = self._token
        except (OSError, UnicodeDecodeError) as e:
            raise Denied(f"the token in {path} cannot be read, needed for {doing}") from e
        # Checked here: whoever refused it as a header would quote it.
        if _TOKEN.fullmatch(token) is None:
            raise Denied(f"{path} holds no token, needed for {doing}")
        return token


def _offset(following: object) -> str | None:
    """Return the offset that the link to the next page names, None at the end."""
    if not isinstance(following, str) or not following:
        return None
    offsets = parse_qs(urlsplit(following).query).get("offset")
    return offsets[0] if offsets else None


def _raise_for(status: int, text: bytes, doing: str) -> None:
    """Raise the error that *status* asks for; return if it is none."""
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return
    words = f": {said}" if (said := _said(text)) else ""
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            raise Denied(f"the control plane denied {doing}{words}")
        case HTTPStatus.CONFLICT | HTTPStatus.PRECONDITION_FAILED:
            raise Conflict(f"somebody else wrote first, seen while {doing}{words}")
        case HTTPStatus.TOO_MANY_REQUESTS:
            raise Unavailable(f"the control plane limits the rate of requests, seen while {doing}")
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(f"the control plane failed with status {status} while {doing}{words}")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            raise Rejected(f"the control plane takes no changes here, seen while {doing}{words}")
        case _:
            raise Rejected(f"the control plane refused {doing} with status {status}{words}")


def _said(text: bytes) -> str:
    """Return what the control plane gave as its reasons, in one short line without secrets; empty if nothing."""
    try:
        problem = json.loads(text)
    except ValueError:
        return ""
    if not isinstance(problem, dict):
        return ""
    words = [str(problem.get(key)) for key in ("title", "detail") if problem.get(key)]
    wrong = problem.get("invalid_parameters") or problem.get("invalidParameters") or problem.get("causes")
    words += [
        f"{each.get('field', '')}: {each.get('reason') or each.get('message', '')}"
        for each in (wrong if isinstance(wrong, list) else ())
        if isinstance(each, dict)
    ]
    # A Mesh may hold a key in base64, and whoever refuses it may quote it.
    told = _ENCODED.sub("[removed]", redacted_text("; ".join(words)))
    return " ".join(told.split())[:_LONGEST_QUOTE]
