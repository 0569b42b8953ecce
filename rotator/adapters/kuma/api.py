"""
A control plane's HTTP API: one pool of connections, and every answer turned into JSON or into an error of ours.

Rules that must stay true here:

- Every call has a timeout, every answer a largest size, every list an end.
- A redirect is never followed and nothing is sent twice: a lost reply is the caller's to judge (law 13).
- A token travels over TLS or to loopback only. Token, certificate and CA files are read anew when they change.
- No error quotes a token, a key or the body of a secret; what a control plane says of a refusal is redacted first.
- Wherever ``next`` leads, only its ``offset`` is followed: the host and the path stay ours.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import urllib3

from rotator.errors import ConfigError, Conflict, Denied, Rejected, Unavailable
from rotator.redaction import redacted_text

Json = dict[str, Any]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

LARGEST_ANSWER = 64 << 20
"""Bytes. The configuration of a proxy that reaches a thousand services takes about 20 MB."""

PAGE = 500
"""Items a page; Kuma refuses more than 1000."""

MOST_PAGES = 2000
"""A list longer than a million items is one that never ends."""

_TOKEN = re.compile(r"[!-~]+")
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{64,}={0,2}")
_LONGEST_QUOTE = 300
_HTTP_PORT, _HTTPS_PORT = 80, 443


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
        self._largest_answer = largest_answer
        self._url = urllib3.util.parse_url(endpoint.url)
        self._prefix = (self._url.path or "").rstrip("/")
        self._lock = threading.Lock()
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._pool_stamp: tuple[object, ...] = ()
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

    def listed(self, path: str, *, doing: str, query: Mapping[str, str] | None = None) -> Iterator[Json] | None:
        """Yield every item of the list at *path*, page by page; None if there is no such list."""
        first = self.get(path, doing=doing, query={**(query or {}), "size": str(PAGE)})
        return None if first is None else self._pages(path, first, doing=doing, query=query or {})

    def put(self, path: str, body: Json, *, doing: str, secret: bool = False) -> None:
        """Create or replace what is at *path*; with *secret* nothing of a refusal is quoted."""
        self._call("PUT", path, doing=doing, body=body, secret=secret)

    def delete(self, path: str, *, doing: str) -> bool:
        """Delete what is at *path*; return whether anything was there."""
        answer = self._call("DELETE", path, doing=doing, also=(HTTPStatus.NOT_FOUND,))
        return answer.status != HTTPStatus.NOT_FOUND

    def close(self) -> None:
        """Close every idle connection; a later call opens new ones."""
        with self._lock:
            pool, self._pool, self._pool_stamp = self._pool, None, ()
        if pool is not None:
            pool.close()

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
        target = f"{self._prefix}{path}"
        if query:
            target = f"{target}?{urlencode(query)}"
        headers = {"Accept": "application/json"}
        if token := self._current_token(doing):
            headers["Authorization"] = f"Bearer {token}"
        content: bytes | None = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        with _translated(doing):
            answer = self._current_pool().urlopen(
                method,
                target,
                body=content,
                headers=headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
            )
            try:
                text = answer.read(self._largest_answer)
                too_long = bool(answer.read(1))
                if too_long:
                    # What was not read to its end is of no use to the next request.
                    answer.close()
            finally:
                answer.release_conn()
        if too_long:
            raise Rejected(f"the control plane's answer is too large, seen while {doing}")
        if answer.status not in also:
            _raise_for(answer.status, b"" if secret else text, doing)
        try:
            return Answer(status=answer.status, body=json.loads(text) if text.strip() else None)
        except ValueError as e:
            if answer.status in also:
                return Answer(status=answer.status, body=None)
            raise Rejected(f"the control plane's answer cannot be read, seen while {doing}") from e

    def _current_token(self, doing: str) -> str:
        """Return the token as the file holds it now, empty without a file."""
        path = self.endpoint.token_file
        if path is None:
            return ""
        try:
            stamp = _stamp(path)
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

    def _current_pool(self) -> urllib3.HTTPConnectionPool:
        """Return the pool, a new one when a file of its TLS settings has changed."""
        one = self.endpoint
        files = tuple(each for each in (one.ca_file, one.client_certificate_file, one.client_key_file) if each)
        with self._lock:
            try:
                stamp = tuple(_stamp(each) for each in files)
            except OSError as e:
                raise Denied(f"cannot read {' and '.join(map(str, files))} for TLS to the control plane") from e
            if self._pool is None or stamp != self._pool_stamp:
                if self._pool is not None:
                    self._pool.close()
                self._pool, self._pool_stamp = self._open(), stamp
            return self._pool

    def _open(self) -> urllib3.HTTPConnectionPool:
        one, url = self.endpoint, self._url
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
            raise Denied(f"cannot use {' and '.join(filter(None, files))} for TLS to the control plane") from e
        trust.minimum_version = ssl.TLSVersion.TLSv1_2
        return urllib3.HTTPSConnectionPool(
            host, url.port or _HTTPS_PORT, timeout=timeout, maxsize=one.connections, ssl_context=trust
        )


def segment(name: str) -> str:
    """Return *name* as one segment of a path, whatever it holds."""
    return quote(name, safe="")


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes whenever the file at *path* is written or replaced."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _offset(following: object) -> str | None:
    """Return the offset that the link to the next page names, None at the end."""
    if not isinstance(following, str) or not following:
        return None
    offsets = parse_qs(urlsplit(following).query).get("offset")
    return offsets[0] if offsets else None


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Talk to the control plane; *doing* completes "the control plane did not answer while ..."."""
    try:
        yield
    except (urllib3.exceptions.HTTPError, OSError) as e:
        raise Unavailable(f"the control plane did not answer while {doing}") from e


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
