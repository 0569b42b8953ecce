"""
A logged-in conversation with Vault or OpenBao, shared by many threads.

Rules that must stay true here:

- hvac's exceptions die here (`translated`); what leaves is rotator's own tree, without token, key or PEM.
- One hvac client per thread; the token is one for all, renewed before its end, replaced when it cannot be.
- A call that is denied because the token died is made once more with a new one, and only then: whoever was denied
  did nothing, so nothing happens twice.
- A warning that is not known to be harmless is a refusal (law 11): Vault ignores what it does not understand, and
  caps lifetimes, with nothing but a warning.
- Every call has a timeout.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

import hvac
import hvac.adapters
import hvac.exceptions
import requests
import urllib3

from rotator.adapters.vault.auth import Auth, Certificate, TokenFile, client_certificate, login_request, secret
from rotator.adapters.vault.token import Token, later, token_of
from rotator.adapters.vault.transport import Endpoint, PooledAdapter
from rotator.errors import AdapterError, Denied, Rejected, Unavailable
from rotator.ports import Clock
from rotator.redaction import redacted_text

HARMLESS = (
    re.compile(r"^This mount hasn't configured any authority information access \(AIA\) fields"),
    re.compile(r"^Max path length of the signed certificate is zero"),
)
"""Warnings that say nothing about whether the request was understood."""

_LONGEST_QUOTE = 300

_Answer = TypeVar("_Answer")


class Transport(StrEnum):
    """Which HTTP client hvac uses."""

    POOLED = "pooled"
    """A urllib3 pool for all threads."""
    REQUESTS = "requests"
    """hvac's own, one requests session a thread; for comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer."""

    body: Mapping[str, Any]
    """What stands under ``data``, empty if nothing does."""
    request_id: str | None
    """Vault's own id of the call: its audit log has it too."""
    auth: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What a login gave, token included."""


def quoted(error: hvac.exceptions.VaultError) -> str:
    """Return what the server said, in one short line, without anything that looks like a secret; empty if nothing."""
    words = said("; ".join(str(word) for word in error.errors or ()))
    return f": {words}" if words else ""


def said(words: str) -> str:
    """Return *words* of the server's as one short line without secrets."""
    return " ".join(redacted_text(words).split())[:_LONGEST_QUOTE]


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Make calls to Vault; *doing* completes "Vault denied ..." and "Vault did not answer while ..."."""
    try:
        yield
    except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as e:
        raise Denied(f"Vault denied {doing}{quoted(e)}") from e
    except hvac.exceptions.RateLimitExceeded as e:
        raise Unavailable(f"Vault limits the rate of requests, seen while {doing}") from e
    except (hvac.exceptions.VaultDown, hvac.exceptions.VaultNotInitialized) as e:
        raise Unavailable(f"Vault is sealed, starting or in maintenance, seen while {doing}{quoted(e)}") from e
    except (hvac.exceptions.InternalServerError, hvac.exceptions.BadGateway) as e:
        raise Unavailable(f"Vault failed while {doing}{quoted(e)}") from e
    except hvac.exceptions.InvalidPath as e:
        raise Rejected(f"Vault knows no such path, seen while {doing}{quoted(e)}") from e
    except hvac.exceptions.VaultError as e:
        raise Rejected(f"Vault refused {doing}{quoted(e)}") from e
    except ValueError as e:
        # The JSON decoder's error quotes the document; its text stays in the cause.
        raise Rejected(f"Vault's answer cannot be read, seen while {doing}") from e
    except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as e:
        raise Unavailable(f"Vault did not answer while {doing}") from e


class VaultSession:
    """
    One identity at one server.

    Nothing is sent before the first call. Safe to share between threads; `close` ends it for all.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        auth: Auth,
        *,
        clock: Clock,
        transport: Transport = Transport.POOLED,
        answered: Callable[[str], None] = lambda _result: None,
    ) -> None:
        """
        Talk to *endpoint* as *auth*.

        *answered* is told of every call how it went: ``ok``, or in lower case the class of the error that it raised.
        """
        self._endpoint = endpoint
        self._auth = auth
        self._clock = clock
        self._transport = transport
        self._answered = answered
        self._lock = threading.Lock()
        """Held by whoever logs in or renews."""
        self._token: Token | None = None
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._threads = threading.local()
        self._clients: list[hvac.Client] = []
        self._epoch = 0
        """Counts connections with another client certificate: a thread's client of an older one is replaced."""

    # --- calls ------------------------------------------------------------------------------------------------------

    def write(
        self, path: str, body: Mapping[str, object], *, doing: str, harmless_too: Sequence[re.Pattern[str]] = ()
    ) -> Reply:
        """
        Send *body* to *path* by POST.

        *doing* is what errors say was being done, as "signing a leaf"; warnings that match one of *harmless_too* are
        expected of this one call.
        """
        answer = self._call(lambda client: client.write_data(path, data=dict(body)), doing)
        return self._checked(answer, doing, harmless_too)

    def read(self, path: str, *, doing: str) -> Reply | None:
        """Return what stands at *path*, None if nothing does."""
        return self._unless_absent(self._call(lambda client: client.read(path), doing), doing)

    def list(self, path: str, *, doing: str) -> Reply | None:
        """Return the list at *path*, None if it is empty (Vault does not tell that from absent)."""
        return self._unless_absent(self._call(lambda client: client.list(path), doing), doing)

    def delete(self, path: str, *, doing: str) -> None:
        """Delete what stands at *path*; nothing there is no error."""
        with contextlib.suppress(_Absent):
            self._call(lambda client: client.delete(path), doing, absent_is=_Absent)

    def keep_alive(self, now: datetime) -> None:
        """
        Renew or replace the token if it is time to; called at every sweep.

        Raises:
            AdapterError: If that failed, also when the present token still lives: then there is time to tell a person.
        """
        with self._lock:
            token = self._token
            if token is None or not token.alive(now):
                self._log_in(now)
            elif token.look_again is not None and now >= token.look_again:
                self._refresh(token, now)

    @property
    def token_not_after(self) -> datetime | None:
        """Return when the present token ends; None before the first login, and for a token that does not end."""
        return self._token.not_after if self._token else None

    @property
    def token_life(self) -> timedelta | None:
        """Return how long the present token was given for; None before the first login, or if it does not end."""
        return self._token.life if self._token else None

    @property
    def is_logged_in(self) -> bool:
        """Return whether there is a token, living or not."""
        return self._token is not None

    def close(self) -> None:
        """Give the token back if it was rotator's own, and close every connection. Further calls log in anew."""
        with self._lock:
            token, self._token = self._token, None
            if token is not None and not isinstance(self._auth, TokenFile) and token.alive(self._clock.now()):
                with contextlib.suppress(AdapterError), translated("giving the token back"):
                    client = self._client()
                    client.token = token.value
                    client.write_data("auth/token/revoke-self", data={})
            self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- one call ---------------------------------------------------------------------------------------------------

    def _call(
        self,
        send: Callable[[hvac.Client], _Answer],
        doing: str,
        *,
        absent_is: type[Exception] | None = None,
    ) -> _Answer:
        """Send with the present token; once more with a new one if the present one turns out to be dead."""
        token = self._token_for_now()
        try:
            return self._send(send, token, doing, absent_is)
        except Denied:
            if not self._is_dead(token):
                raise
        with self._lock:
            # Another thread may have replaced it meanwhile.
            if self._token is token:
                self._log_in(self._clock.now())
            token = self._token or token
        return self._send(send, token, doing, absent_is)

    def _send(
        self, send: Callable[[hvac.Client], _Answer], token: Token, doing: str, absent_is: type[Exception] | None
    ) -> _Answer:
        absent = False
        try:
            with translated(doing):
                client = self._client()
                client.token = token.value
                try:
                    answer = send(client)
                except hvac.exceptions.InvalidPath:
                    if absent_is is None:
                        raise
                    absent = True
        except AdapterError as error:
            self._answered(type(error).__name__.lower())
            raise
        self._answered("ok")
        if absent and absent_is is not None:
            raise absent_is
        return answer

    def _is_dead(self, token: Token) -> bool:
        """Ask whether *token* is gone, after a call was denied: a missing right does not kill it."""
        with contextlib.suppress(AdapterError), translated("looking at the token"):
            client = self._client()
            client.token = token.value
            try:
                client.read("auth/token/lookup-self")
            except hvac.exceptions.Forbidden:
                return True
        return False

    def _unless_absent(self, answer: object, doing: str) -> Reply | None:
        return None if answer is None else self._checked(answer, doing)

    def _checked(self, answer: object, doing: str, harmless_too: Sequence[re.Pattern[str]] = ()) -> Reply:
        """Return *answer* as a `Reply`. Raises `Rejected` if it is none, or carries a warning that is not harmless."""
        reply = _reply(answer, doing)
        warnings = answer.get("warnings") if isinstance(answer, Mapping) else None
        for warning in warnings or ():
            if not any(pattern.search(str(warning)) for pattern in (*HARMLESS, *harmless_too)):
                raise Rejected(f"Vault warned while {doing}: {said(str(warning))} (request {reply.request_id})")
        return reply

    # --- the token --------------------------------------------------------------------------------------------------

    def _token_for_now(self) -> Token:
        """Return a token that should work now, renewing it on the way when it is time to."""
        now = self._clock.now()
        token = self._token
        if token is not None and token.alive(now):
            if token.look_again is None or now < token.look_again:
                return token
            # One thread renews; the others go on with what still works.
            if not self._lock.acquire(blocking=False):
                return token
            try:
                if self._token is token:
                    with contextlib.suppress(AdapterError):
                        self._refresh(token, now)
                return self._token or token
            finally:
                self._lock.release()
        with self._lock:
            if self._token is None or not self._token.alive(now):
                self._log_in(now)
            assert self._token is not None  # noqa: S101 -- _log_in sets it or raises
            return self._token

    def _refresh(self, token: Token, now: datetime) -> None:
        """Renew *token*, or log in anew where renewing no longer lengthens its life. The lock is held."""
        # Should this fail, the next try comes after a quarter of what is left, not with every call.
        self._token = later(token, now)
        if token.renewable:
            try:
                with translated("renewing the token"):
                    client = self._client()
                    client.token = token.value
                    reply = _reply(client.write_data("auth/token/renew-self", data={}), "renewing the token")
            except (Denied, Rejected):
                reply = None
            if reply is not None:
                renewed = token_of(reply.auth, now)
                # Near its own maximum a token is renewed for ever less; half of its first life is where we stop.
                if renewed.life is None or token.life is None or renewed.life * 2 > token.life:
                    self._token = replace(renewed, life=token.life)
                    return
        self._log_in(now)

    def _log_in(self, now: datetime) -> None:
        """Log in and keep the token. The lock is held."""
        if isinstance(self._auth, Certificate):
            # The certificate may have been rotated: connections that carry the old one end.
            self._disconnect()
        request = login_request(self._auth)
        try:
            with translated("logging in"):
                client = self._client()
                if request is None:
                    assert isinstance(self._auth, TokenFile)  # noqa: S101 -- only a token needs no login
                    client.token = value = secret(self._auth.token_file)
                    reply = _reply(client.read("auth/token/lookup-self"), "looking at the token")
                    found: Mapping[str, Any] = {
                        **reply.body,
                        "client_token": value,
                        "lease_duration": reply.body.get("ttl"),
                    }
                else:
                    client.token = ""
                    path, body = request
                    found = _reply(client.write_data(path, data=body), "logging in").auth
                self._token = token_of(found, now)
        except Rejected as e:
            # Vault calls a wrong secret a bad request; to us it is a missing right, and a file may be mended.
            raise Denied(str(e)) from e

    # --- connections ------------------------------------------------------------------------------------------------

    def _client(self) -> hvac.Client:
        """Return this thread's client."""
        client: hvac.Client | None = getattr(self._threads, "client", None)
        if client is None or self._threads.epoch != self._epoch:
            self._threads.epoch = self._epoch
            self._threads.client = client = self._new_client()
            self._clients.append(client)
        return client

    def _new_client(self) -> hvac.Client:
        endpoint = self._endpoint
        match self._transport:
            case Transport.POOLED:
                return hvac.Client(
                    endpoint.address,
                    token="",
                    namespace=endpoint.namespace,
                    adapter=PooledAdapter,
                    verify=True,
                    pool=self._open_pool,
                )
            case Transport.REQUESTS:
                http = requests.Session()
                http.trust_env = False
                http.verify = True if endpoint.ca_file is None else str(endpoint.ca_file)
                files = client_certificate(self._auth)
                http.cert = None if files is None else (str(files[0]), str(files[1]))
                return hvac.Client(
                    endpoint.address,
                    token="",
                    namespace=endpoint.namespace,
                    session=http,
                    timeout=max(1, int(endpoint.timeout.total_seconds())),
                    allow_redirects=False,
                )

    def _open_pool(self) -> urllib3.HTTPConnectionPool:
        pool = self._pool
        if pool is None:
            # Two threads may open one each; the loser's has no connection yet.
            self._pool = pool = self._endpoint.open_pool(client_certificate(self._auth))
        return pool

    def _disconnect(self) -> None:
        """Close every idle connection; those in use close as soon as their call is over."""
        self._epoch += 1
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        clients, self._clients = self._clients, []
        for client in clients:
            client.adapter.close()


class _Absent(Exception):
    """Nothing stands at the path."""


def _reply(answer: object, doing: str) -> Reply:
    """Return *answer* as a `Reply`. Raises `Rejected` if it is not what Vault answers."""
    # hvac's own adapter gives a response object where the body is empty (204).
    if answer is None or isinstance(answer, requests.Response):
        return Reply(body={}, request_id=None)
    if not isinstance(answer, Mapping):
        raise Rejected(f"Vault's answer cannot be read, seen while {doing}")
    body, auth = answer.get("data") or {}, answer.get("auth") or {}
    if not isinstance(body, Mapping) or not isinstance(auth, Mapping):
        raise Rejected(f"Vault's answer cannot be read, seen while {doing}")
    return Reply(body=body, request_id=answer.get("request_id") or None, auth=auth)


def names(reply: Reply | None) -> Sequence[str]:
    """Return the keys of a list answer."""
    if reply is None:
        return ()
    keys = reply.body.get("keys", ())
    return [str(key) for key in keys] if isinstance(keys, list | tuple) else ()
