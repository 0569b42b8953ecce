"""
The HTTP API of a control plane, on loopback.

Rules that must stay true here:

- Secrets are for administrators, also to read; a token that is wrong is refused everywhere.
- A page holds 100 items unless told otherwise and never more than 1,000; ``next`` leads to the one after it.
- An answer's body ends where its length says; a server thread never outlives the server.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tests.fakes.kuma.admission import Invalid, Violation
from tests.fakes.kuma.connections import ProxySilent
from tests.fakes.kuma.desk import Desk
from tests.fakes.kuma.store import (
    ACCESS_LOG,
    DATAPLANE,
    GLOBAL_SECRET,
    HOSTNAMES,
    HTTP_ROUTE,
    IDENTITY,
    MESH,
    MESH_TLS,
    METRIC,
    PERMISSION,
    SECRET,
    SERVICE,
    TCP_ROUTE,
    TELEMETRY_BACKEND,
    TRACE,
    TRUST,
    ZONE,
    Json,
    Resource,
)
from tests.fakes.kuma.tokens import ADMINS, TokenKind, TokenRefused, TokenServer

COLLECTIONS = {
    "secrets": SECRET,
    "meshidentities": IDENTITY,
    "meshtrusts": TRUST,
    "meshtlses": MESH_TLS,
    "dataplanes": DATAPLANE,
    "meshservices": SERVICE,
    "meshtrafficpermissions": PERMISSION,
    "meshhttproutes": HTTP_ROUTE,
    "meshtcproutes": TCP_ROUTE,
    "meshaccesslogs": ACCESS_LOG,
    "meshtraces": TRACE,
    "meshmetrics": METRIC,
    "meshopentelemetrybackends": TELEMETRY_BACKEND,
}
_LEGACY = {"dataplanes+insights": "dataplanes"}
_ADMIN_ONLY = frozenset({SECRET, GLOBAL_SECRET})
_PAGE = 100
_LARGEST_PAGE = 1000


@dataclass(slots=True)
class Faults:
    """What is wrong with the API now."""

    delay: timedelta = timedelta(0)
    """How late every answer is."""
    statuses: list[int] = field(default_factory=list)
    """The next answers, instead of doing anything: ``[503, 503]``."""
    lost_replies: int = 0
    """How many of the next writes take effect and are never answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API says."""

    status: int
    body: bytes = b""
    media: str = "application/json"


class Refused(Exception):
    """A request that ends with *status*."""

    def __init__(self, status: int, title: str, detail: str, *violations: Violation) -> None:
        super().__init__(title)
        said: Json = {"type": "/std-errors", "status": status, "title": title, "detail": detail, "details": detail}
        if violations:
            said["invalid_parameters"] = [{"field": each.field, "reason": each.message} for each in violations]
            said["causes"] = [{"field": each.field, "message": each.message} for each in violations]
        self.answer = Answer(status, _encoded(said))


class API:
    """Routes of one control plane over its desk."""

    def __init__(
        self,
        desk: Desk,
        *,
        index: Callable[[], Json],
        configuration: Callable[[], Json],
        ask: Callable[[str, str, str], bytes],
        intended: Callable[[str, str], Json],
        admin_token: str,
        viewer_token: str,
        local_is_admin: bool,
        read_only: frozenset[str],
        lock: threading.RLock,
        tokens: TokenServer,
    ) -> None:
        """*read_only* kinds cannot be written here: a Global control plane's proxies, everything on Kubernetes."""
        self.tokens = tokens
        self.desk = desk
        self.faults = Faults()
        self._index = index
        self._configuration = configuration
        self._ask = ask
        self._intended = intended
        self._tokens = {admin_token: True, viewer_token: False}
        self._local_is_admin = local_is_admin
        self._read_only = read_only
        self._lock = lock

    def answer(self, method: str, target: str, token: str, body: bytes) -> Answer:
        """Return the answer to one request."""
        try:
            admin = self._is_admin(token)
            url = urlsplit(target)
            parts = [unquote(part) for part in url.path.strip("/").split("/") if part]
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            return self._routed(method, parts, query, body, admin=admin)
        except Refused as e:
            return e.answer
        except Invalid as e:
            return Refused(400, "Could not process a resource", "Resource is not valid", *e.violations).answer

    def _is_admin(self, token: str) -> bool:
        if not token:
            return self._local_is_admin
        if token in self._tokens:
            return self._tokens[token]
        try:
            return ADMINS in self.tokens.groups_of(token)
        except TokenRefused as e:
            raise Refused(401, "Could not authenticate the user", "Invalid Credentials") from e

    def _routed(self, method: str, parts: list[str], query: dict[str, str], body: bytes, *, admin: bool) -> Answer:
        if parts and parts[-1] in _LEGACY:
            parts = [*parts[:-1], _LEGACY[parts[-1]], "_overview"]
        elif len(parts) > 1 and parts[-2] in _LEGACY:
            parts = [*parts[:-2], _LEGACY[parts[-2]], parts[-1], "_overview"]
        match parts:
            case []:
                return _ok(self._index())
            case ["config"]:
                return _ok(self._configuration())
            case ["tokens", "dataplane" | "zone" | "user" as kind] if method == "POST":
                return self._token(kind, body, admin=admin)
            case ["meshes"]:
                return self._page(self.desk.store.list(MESH), query, self.desk.shown, "/meshes")
            case ["meshes", name]:
                return self._one(method, MESH, "", name, body, admin=admin)
            case ["mesh-insights"]:
                return self._page(self.desk.store.list(MESH), query, self.desk.mesh_insight, "/mesh-insights")
            case ["mesh-insights", name]:
                return _ok(self.desk.mesh_insight(self._found(MESH, "", name)))
            case ["global-secrets" | "globalsecrets", *rest]:
                return self._collection(method, GLOBAL_SECRET, "", rest, query, body, "/global-secrets", admin=admin)
            case ["hostnamegenerators", *rest]:
                return self._collection(method, HOSTNAMES, "", rest, query, body, "/hostnamegenerators", admin=admin)
            case ["zones", *rest]:
                return self._collection(method, ZONE, "", rest, query, body, "/zones", admin=admin)
            case ["dataplanes", "_overview"]:
                found = self.desk.store.list(DATAPLANE)
                return self._page(found, query, self.desk.overview, "/dataplanes/_overview")
            case ["meshes", mesh, "dataplanes", "_overview"]:
                self._found(MESH, "", mesh)
                found = self.desk.store.list(DATAPLANE, mesh)
                return self._page(found, query, self.desk.overview, f"/meshes/{mesh}/dataplanes/_overview")
            case ["meshes", mesh, "dataplanes", name, "_overview"]:
                return _ok(self.desk.overview(self._found(DATAPLANE, mesh, name)))
            case ["meshes", mesh, "dataplanes", name, "_config"]:
                return self._intended_config(mesh, name)
            case ["meshes", mesh, "dataplanes", name, "xds" | "stats" | "clusters" as what]:
                return self._asked(mesh, name, what)
            case ["meshes", mesh, collection, *rest] if collection in COLLECTIONS:
                path = f"/meshes/{mesh}/{collection}"
                return self._collection(method, COLLECTIONS[collection], mesh, rest, query, body, path, admin=admin)
            case _:
                return Answer(404, b"404: Page Not Found")

    def _token(self, kind: str, body: bytes, *, admin: bool) -> Answer:
        """Return a new token, as plain text."""
        if not admin:
            raise Refused(403, "Access Denied", f"user has no right to generate {TokenKind(kind)} token")
        with self._lock:
            return Answer(200, self.tokens.issue(kind, json.loads(body)).encode(), "text/plain")

    def _asked(self, mesh: str, name: str, what: str) -> Answer:
        """Return what the proxy itself says; nothing is locked meanwhile."""
        self._found(DATAPLANE, mesh, name)
        try:
            return Answer(200, self._ask(mesh, name, {"xds": "config_dump"}.get(what, what)))
        except ProxySilent as e:
            raise Refused(500, f"Could not execute inspect operation: {what}", "Internal Server Error") from e

    def _intended_config(self, mesh: str, name: str) -> Answer:
        """Return what a connected proxy should run: its listeners and clusters by type and name."""
        self._found(DATAPLANE, mesh, name)
        try:
            return _ok({"xds": self._intended(mesh, name)})
        except ProxySilent as e:
            raise Refused(500, "Failed to inspect config for a proxy", "Internal Server Error") from e

    def _collection(
        self,
        method: str,
        kind: str,
        mesh: str,
        rest: list[str],
        query: dict[str, str],
        body: bytes,
        path: str,
        *,
        admin: bool,
    ) -> Answer:
        match rest:
            case []:
                _allowed(kind, admin=admin)
                return self._page(self.desk.store.list(kind, mesh), query, self.desk.shown, path)
            case [name]:
                return self._one(method, kind, mesh, name, body, admin=admin)
            case _:
                return Answer(404, b"404: Page Not Found")

    def _one(self, method: str, kind: str, mesh: str, name: str, body: bytes, *, admin: bool) -> Answer:
        _allowed(kind, admin=admin)
        with self._lock:
            match method:
                case "GET":
                    return _ok(self.desk.shown(self._found(kind, mesh, name)))
                case "PUT":
                    self._writable(kind)
                    try:
                        said = json.loads(body)
                    except ValueError as e:
                        raise Refused(400, "Could not process a resource", "Invalid JSON") from e
                    is_new = self.desk.write(kind, mesh, name, said, with_status=True)
                    return Answer(201 if is_new else 200, b"{}")
                case "DELETE":
                    self._writable(kind)
                    if not self.desk.delete(kind, mesh, name):
                        raise Refused(404, "Could not delete a resource", "Not found")
                    return Answer(200)
                case _:
                    return Answer(405, b"405: Method Not Allowed")

    def _writable(self, kind: str) -> None:
        if kind in self._read_only:
            raise Refused(405, "Could not process a resource", "Method not allowed")

    def _found(self, kind: str, mesh: str, name: str) -> Resource:
        found = self.desk.store.get(kind, mesh, name)
        if found is None:
            raise Refused(404, "Could not retrieve a resource", "Not found")
        return found

    def _page(
        self, items: Sequence[Resource], query: dict[str, str], shown: Callable[[Resource], Json], path: str
    ) -> Answer:
        size, offset = _number(query, "size", _PAGE), _number(query, "offset", 0)
        if size > _LARGEST_PAGE:
            text = f"invalid page size of {size}. Maximum page size is {_LARGEST_PAGE}"
            raise Refused(400, "Could not retrieve resources", "Invalid page size", Violation("size", text))
        named = [item for item in items if query.get("name", "") in item.name]
        following = None
        if offset + size < len(named):
            following = f"http://localhost:5681{path}?{urlencode({**query, 'offset': offset + size, 'size': size})}"
        shown_items = [shown(item) for item in named[offset : offset + size]]
        return _ok({"total": len(named), "items": shown_items, "next": following})


def _allowed(kind: str, *, admin: bool) -> None:
    if kind in _ADMIN_ONLY and not admin:
        raise Refused(403, "Access Denied", 'user "mesh-system:anonymous/mesh-system:unauthenticated" cannot access')


def _number(query: dict[str, str], name: str, otherwise: int) -> int:
    text = query.get(name, "")
    if not text:
        return otherwise
    if not text.isdecimal():
        raise Refused(400, "Could not retrieve resources", f"Invalid {name}", Violation(name, "Invalid format"))
    return int(text)


def _ok(body: Json) -> Answer:
    return Answer(200, _encoded(body))


def _encoded(body: Json) -> bytes:
    return json.dumps(body, indent=1).encode()


def token_of(authorization: str) -> str:
    """Return the token of an ``Authorization`` header, empty if it holds none."""
    scheme, _, token = authorization.partition(" ")
    if scheme == "Basic":
        return base64.b64decode(token).decode(errors="replace")
    return token.strip() if scheme == "Bearer" else ""


Streams = Callable[[str, Json], Answer | None]
"""(path below /stand-in/, body) -> an answer to a data plane of another process; None if there is no such path."""


class HTTPServer:
    """Serves one `API` on a loopback port, from its own threads."""

    def __init__(
        self, api: API, *, port: int = 0, tls: ssl.SSLContext | None = None, streams: Streams | None = None
    ) -> None:
        handler = type("Handler", (_Handler,), {"api": api, "streams": staticmethod(streams) if streams else None})
        self._server = _Server(("127.0.0.1", port), handler)
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="stand-in-api")

    @property
    def port(self) -> int:
        """Return where it listens."""
        port: int = self._server.server_address[1]
        return port

    @property
    def url(self) -> str:
        """Return the API's address."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Take requests."""
        self._thread.start()

    def stop(self) -> None:
        """Take none any more; open connections are cut."""
        self._server.shutdown()
        self._thread.join()
        self._server.cut()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._open: set[Any] = set()
        self._opening = threading.Lock()
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._opening:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._opening:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Cut connections that clients keep open, so that their threads end."""
        with self._opening:
            for each in self._open:
                try:
                    each.shutdown(2)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    # A head and a body are two packets: without this each answer waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    api: API
    streams: Streams | None

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the server's own name
        """Log nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.streams is not None and self.path.startswith("/stand-in/"):
            answer = self.streams(self.path.removeprefix("/stand-in/"), json.loads(body or b"{}"))
            self._write(answer or Answer(404))
            return
        faults = self.api.faults
        if faults.delay:
            threading.Event().wait(faults.delay.total_seconds())
        if faults.statuses:
            status = faults.statuses.pop(0)
            self._write(Answer(status, _encoded({"title": "out of order", "status": status})))
            return
        answer = self.api.answer(self.command, self.path, token_of(self.headers.get("Authorization") or ""), body)
        if faults.lost_replies and self.command != "GET":
            faults.lost_replies -= 1
            self.close_connection = True
            return
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
