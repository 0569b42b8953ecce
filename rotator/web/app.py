"""
The routes of the HTTP service.

Rules that must stay true here:

- Read-only: GET and HEAD alone; no body is read, no state is kept of a caller.
- Health and metrics are open and name no person; status and log go through the gate, whose word comes before whether
  something is there.
- Health is answered in the loop itself, from memory: it waits for no worker thread that others may have taken.
- Every answer carries the same hygiene: no sniffing, no framing, no script, no referrer, nothing kept unless said so.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from rotator.errors import RotatorError
from rotator.web.gate import Caller, Gate, Verdict
from rotator.web.listener import CERTIFIED, Application, Scope
from rotator.web.metrics import CONTENT_TYPE, Metrics, Tallies
from rotator.web.page import STYLE_HASH, status_page
from rotator.web.seen import Daemon, health
from rotator.web.tiles import log_file

STATUS: Final = "status"
LOG: Final = "log"

_HYGIENE: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'".encode(),
    ),
)

_REFUSALS: Final[Mapping[Verdict, tuple[HTTPStatus, str]]] = {
    Verdict.UNKNOWN: (
        HTTPStatus.UNAUTHORIZED,
        "show a token for the audience rotator.io: kubectl create token NAME --audience rotator.io\n",
    ),
    Verdict.FORBIDDEN: (
        HTTPStatus.FORBIDDEN,
        "the right get on this (group rotator.io, in rotator's namespace) is missing\n",
    ),
    Verdict.CLOSED: (
        HTTPStatus.FORBIDDEN,
        "nobody may read this over HTTP: ask over the socket, or set http.readers\n",
    ),
    Verdict.UNANSWERED: (HTTPStatus.SERVICE_UNAVAILABLE, "who you are cannot be found out now: ask again\n"),
}

Endpoint = Callable[[Request], Awaitable[Response]]


class Routes:
    """Answers every path."""

    def __init__(
        self, daemon: Daemon, *, gate: Gate, metrics: Metrics, tallies: Tallies, status: Callable[[], Mapping[str, Any]]
    ) -> None:
        """*status* gives the contract's ``rotator --json status``."""
        self._daemon = daemon
        self._gate = gate
        self._metrics = metrics
        self._tallies = tallies
        self._status = status

    def application(self) -> Application:
        """Return them as one ASGI application."""
        routes = [
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/", self.page, methods=["GET"]),
            Route("/api/v1/status", self.status, methods=["GET"]),
            Route("/log/{path:path}", self.log, methods=["GET"]),
        ]
        application = Starlette(routes=routes, exception_handlers={HTTPException: _plain_error})
        # A slash too many is another path, not a redirect to a host that the caller has named.
        application.router.redirect_slashes = False
        return _Hygiene(application, self._tallies)

    # --- open -------------------------------------------------------------------------------------------------------

    async def healthz(self, _request: Request) -> Response:
        """Say whether a restart would help."""
        found = health(self._daemon)
        return JSONResponse(found.document(), HTTPStatus.OK if found.live else HTTPStatus.SERVICE_UNAVAILABLE)

    async def readyz(self, _request: Request) -> Response:
        """Say whether this replica may be counted on."""
        found = health(self._daemon)
        return JSONResponse(found.document(), HTTPStatus.OK if found.ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(self, _request: Request) -> Response:
        """Give everything to Prometheus."""
        text = await run_in_threadpool(self._metrics.exposition)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    # --- behind the gate --------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """Show the status to people."""
        return await self._admitted(request, STATUS, self._page)

    async def status(self, request: Request) -> Response:
        """Give what ``rotator --json status`` gives."""
        return await self._admitted(request, STATUS, self._json)

    async def log(self, request: Request) -> Response:
        """Give one file of the evidence log."""
        path = request.path_params["path"]
        return await self._admitted(request, LOG, lambda: self._log_file(path))

    async def _admitted(self, request: Request, resource: str, answer: Callable[[], Response]) -> Response:
        caller = Caller(token=_token(request), certified=bool(request.scope.get(CERTIFIED)))
        verdict = await run_in_threadpool(self._gate.verdict, caller, resource)
        if verdict is Verdict.ADMITTED:
            try:
                return await run_in_threadpool(answer)
            except RotatorError:
                return PlainTextResponse("store or disk do not answer: ask again\n", HTTPStatus.SERVICE_UNAVAILABLE)
        code, words = _REFUSALS[verdict]
        response = PlainTextResponse(words, code)
        if verdict is Verdict.UNKNOWN and not self._gate.takes_tokens:
            response = PlainTextResponse("show a certificate that http.client_ca_file verifies\n", HTTPStatus.FORBIDDEN)
        elif verdict is Verdict.UNKNOWN:
            # Basic too: a browser asks for it, and its password may be the token.
            response.headers.append("www-authenticate", 'Bearer realm="rotator"')
            response.headers.append("www-authenticate", 'Basic realm="rotator: any name, the token as password"')
        elif verdict is Verdict.UNANSWERED:
            response.headers["retry-after"] = "2"
        return response

    def _page(self) -> Response:
        now = self._daemon.wired.clock.now()
        html = status_page(
            self._status(), now=now, health=health(self._daemon), environment=self._daemon.wired.settings.environment
        )
        return Response(html, media_type="text/html; charset=utf-8")

    def _json(self) -> Response:
        return Response(json.dumps(self._status(), separators=(",", ":")), media_type="application/json")

    def _log_file(self, path: str) -> Response:
        found = log_file(self._daemon.wired.settings.ledger.path, path)
        if found is None:
            return PlainTextResponse("no such file in the log\n", HTTPStatus.NOT_FOUND)
        headers = {"content-type": found.content_type, "cache-control": found.cache, "vary": "authorization"}
        return Response(found.content, headers=headers)


def _token(request: Request) -> str | None:
    """Return the token that *request* shows: as a bearer, or as the password of basic authentication."""
    given = request.headers.getlist("authorization")
    if len(given) != 1:
        return None
    scheme, _, value = given[0].partition(" ")
    value = value.strip()
    match scheme.lower():
        case "bearer":
            return value or None
        case "basic":
            try:
                _, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            return password or None
        case _:
            return None


async def _plain_error(_request: Request, error: Exception) -> Response:
    """Answer what no route answers, without an echo of what was asked."""
    if not isinstance(error, HTTPException):
        raise error
    return PlainTextResponse(f"{HTTPStatus(error.status_code).phrase.lower()}\n", error.status_code, error.headers)


class _Hygiene:
    """Wraps an application: no bodies, the same headers everywhere, every answer counted by its route."""

    def __init__(self, application: Application, tallies: Tallies) -> None:
        self._application = application
        self._tallies = tallies

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return

        async def sending(message: Any) -> None:  # noqa: ANN401 -- ASGI's own
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name, value) for name, value in _HYGIENE if name not in given),
                ]
                self._tallies.answered(_route(scope), message["status"])
            await send(message)

        if _has_body(scope):
            refusal = PlainTextResponse("nothing here takes a body\n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, sending)
            return
        await self._application(scope, receive, sending)


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _route(scope: Scope) -> str:
    """Return the path that answers, out of a list in the code: what strangers ask for makes no series."""
    found = scope.get("route")
    return str(getattr(found, "path", "")) or "none"
