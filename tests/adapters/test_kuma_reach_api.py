"""The HTTP API of a control plane: what travels, what is refused, and what an answer becomes."""

from __future__ import annotations

import base64
import itertools
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from rotator.adapters.kuma.about import ask_about
from rotator.adapters.kuma.api import PAGE, ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.control_plane import Document, Environment, Kind
from rotator.adapters.kuma.proxies import HTTPProxies
from rotator.adapters.kuma.universal import HTTPDocuments, HTTPSecrets, connect
from rotator.embedded.loopback_tls import listener_certificate
from rotator.errors import AdapterError, ConfigError, Conflict, Denied, Rejected, Unavailable
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn

Json = dict[str, Any]
DOING = "testing"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    target: str
    token: str
    body: Json


@dataclass
class Scripted:
    """A server that answers each request as *script* says and remembers what it was asked."""

    script: Callable[[Request], tuple[int, bytes]]
    headers: Mapping[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def setup(self) -> None:
                scripted.connections += 1
                super().setup()

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                token = str(self.headers.get("Authorization") or "")
                request = Request(self.command, self.path, token, body)
                scripted.requests.append(request)
                status, content = scripted.script(request)
                self.send_response(status)
                for name, value in scripted.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_PUT(self) -> None:
                self.do_GET()

            def do_DELETE(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the server's own name
                """Log nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self._apis: list[ControlPlaneAPI] = []
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._apis:
            each.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def api(self, **settings: Any) -> ControlPlaneAPI:
        """Return a client of it."""
        made = ControlPlaneAPI(Endpoint(url=self.url, **settings))
        self._apis.append(made)
        return made


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is no news."""


def saying(status: int, body: object = None) -> Callable[[Request], tuple[int, bytes]]:
    content = b"" if body is None else json.dumps(body).encode()
    return lambda _request: (status, content)


def in_turn(*bodies: object) -> Callable[[Request], tuple[int, bytes]]:
    left = [json.dumps(body).encode() for body in bodies]
    return lambda _request: (200, left.pop(0))


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Give a control plane without a mesh."""
    with StandIn(clock=ManualClock(datetime.now(UTC))) as one:
        one.edit_mesh("default", meshServices={"mode": "Exclusive"})
        yield one


def endpoint(standin: StandIn, directory: Path, *, written: str | None = None) -> Endpoint:
    file = directory / "token"
    file.write_text(f"{standin.admin_token if written is None else written}\n")
    return Endpoint(url=standin.url, token_file=file)


# --- the address ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "kuma.example:5682"}, "is no address"),
        ({"url": "ftp://kuma.example"}, "is no address"),
        ({"url": "https://admin:secret@kuma.example"}, "neither user nor query"),
        ({"url": "https://kuma.example?token=secret"}, "neither user nor query"),
        ({"url": "http://kuma.example:5681", "token_file": Path("token")}, "would send the token readably"),
        (
            {
                "url": "http://127.0.0.1:5681",
                "client_certificate_file": Path("c"),
                "client_key_file": Path("k"),
            },
            "takes no client certificate",
        ),
        ({"url": "https://kuma.example", "client_key_file": Path("k")}, "needs its key"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused(settings: Mapping[str, Any], words: str) -> None:
    """Before anything is sent, and without quoting what may be a secret."""
    with pytest.raises(ConfigError, match=words) as refused:
        Endpoint(**settings)
    assert "secret" not in str(refused.value)


def test_plain_http_is_for_whoever_sends_no_token() -> None:
    """In a cluster a control plane may be asked without a token over plain HTTP."""
    assert Endpoint(url="http://kuma-control-plane.kuma-system.svc:5681").token_file is None


# --- what answers become --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (401, Denied),
        (403, Denied),
        (405, Rejected),
        (409, Conflict),
        (412, Conflict),
        (422, Rejected),
        (429, Unavailable),
        (302, Rejected),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_a_status_is_an_error_of_ours(status: int, error: type[AdapterError]) -> None:
    """The class says what comes next, the message what was being done and what the control plane gave as reasons."""
    said = {
        "title": "Could not process",
        "detail": "Resource is not valid",
        "invalid_parameters": [
            {"field": "spec.x", "reason": f"token=hunter2 {base64.b64encode(b'hunter' * 9).decode()}"}
        ],
    }
    with Scripted(saying(status, said)) as server, pytest.raises(error, match="testing") as raised:
        server.api().put("/x", {}, doing=DOING)
    assert "hunter2" not in str(raised.value)
    assert base64.b64encode(b"hunter" * 3).decode() not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_reasons_are_quoted_and_those_about_secrets_are_not() -> None:
    """What was wrong is told, unless the request held a secret: a server may echo it."""
    said = {
        "title": "Could not process a resource",
        "invalid_parameters": [{"field": "mtls", "reason": "echo-content"}],
    }
    with Scripted(saying(400, said)) as server:
        api = server.api()
        with pytest.raises(Rejected, match="mtls: echo-content"):
            api.put("/meshes/m", {}, doing=DOING)
        with pytest.raises(Rejected) as refused:
            api.put("/meshes/m/secrets/s", {}, doing=DOING, secret=True)
    assert "echo-content" not in str(refused.value)


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """The token goes nowhere else."""
    token = tmp_path / "token"
    token.write_text("secret")
    with Scripted(saying(200, {})) as elsewhere:
        with (
            Scripted(saying(307), headers={"Location": f"{elsewhere.url}/"}) as server,
            pytest.raises(Rejected),
        ):
            server.api(token_file=token).get("/", doing=DOING)
        assert [] == elsewhere.requests


@pytest.mark.parametrize("content", [b"<html>", b'["a list"]', b"7", b""])
def test_an_answer_that_is_no_object_is_rejected(content: bytes) -> None:
    """A proxy's welcome page is no document."""
    with Scripted(lambda _request: (200, content)) as server, pytest.raises(Rejected):
        server.api().get("/", doing=DOING)


def test_absent_is_none_whatever_stands_in_the_answer() -> None:
    """404 comes with JSON, with text, or with nothing."""
    contents = itertools.cycle((b"404: Page Not Found", b"{}", b""))
    with Scripted(lambda _request: (404, next(contents))) as server:
        api = server.api()
        for _ in range(3):
            assert api.get("/x", doing=DOING) is None
        for _ in range(3):
            assert api.listed("/x", doing=DOING) is None
        for _ in range(3):
            assert not api.delete("/x", doing=DOING)


def test_an_answer_has_a_largest_size() -> None:
    """An endless one takes no memory."""
    with Scripted(saying(200, {"filler": "x" * 4000})) as server:
        api = ControlPlaneAPI(Endpoint(url=server.url), largest_answer=1000)
        with pytest.raises(Rejected, match="too large"):
            api.get("/", doing=DOING)
        api.close()


def test_silence_has_an_end() -> None:
    """A server that does not answer is unavailable after the timeout."""
    over = threading.Event()

    def silent(_request: Request) -> tuple[int, bytes]:
        over.wait(60)
        return 200, b"{}"

    with Scripted(silent) as server:
        api = server.api(timeout=timedelta(milliseconds=100))
        with pytest.raises(Unavailable, match="did not answer while testing"):
            api.get("/", doing=DOING)
        over.set()


def test_nobody_there_is_unavailable() -> None:
    """A closed port is no answer."""
    with Scripted(saying(200, {})) as server:
        url = server.url
    with pytest.raises(Unavailable):
        ControlPlaneAPI(Endpoint(url=url)).get("/", doing=DOING)


def test_connections_are_kept() -> None:
    """Many requests, one connection."""
    with Scripted(saying(200, {})) as server:
        api = server.api()
        for _ in range(5):
            api.get("/", doing=DOING)
        assert (5, 1) == (len(server.requests), server.connections)


def test_a_path_in_front_is_kept_and_names_are_one_segment() -> None:
    """A gateway's path stays, and no name reaches another resource."""
    with Scripted(saying(404)) as server:
        api = ControlPlaneAPI(Endpoint(url=f"{server.url}/kuma/"))
        HTTPDocuments(api, "a/b").read(Kind.TRUST, "../secrets?x")
        api.close()
        assert "/kuma/meshes/a%2Fb/meshtrusts/..%2Fsecrets%3Fx" == server.requests[0].target


# --- lists ----------------------------------------------------------------------------------------------------------


def test_a_list_is_read_to_its_end() -> None:
    """Page by page, at our address, whatever host the control plane thinks it has."""
    pages = (
        {"items": [{"name": "a"}], "next": f"http://elsewhere.example/x?offset=1&size={PAGE}"},
        {"items": [{"name": "b"}], "next": None},
    )
    with Scripted(in_turn(*pages)) as server:
        items = server.api().listed("/x", doing=DOING, query={"name": "n"})
        assert items is not None
        assert [{"name": "a"}, {"name": "b"}] == list(items)
        assert [f"/x?name=n&size={PAGE}", f"/x?name=n&size={PAGE}&offset=1"] == [
            each.target for each in server.requests
        ]


def test_a_list_that_does_not_end_is_rejected() -> None:
    """A page that leads back to one that was read ends it."""
    with Scripted(saying(200, {"items": [], "next": "/x?offset=1"})) as server:
        items = server.api().listed("/x", doing=DOING)
        assert items is not None
        with pytest.raises(Rejected, match="does not end"):
            list(items)


def test_more_proxies_than_a_page_holds_are_all_reported(standin: StandIn, tmp_path: Path) -> None:
    """The page size is one that the control plane takes, and no proxy is left out."""
    for number in range(PAGE + 1):
        inbound = {"port": 1000 + number, "tags": {"kuma.io/service": "web"}}
        spec = {"networking": {"address": "10.0.0.1", "inbound": [inbound]}}
        standin.apply({"type": "Dataplane", "mesh": "default", "name": f"web-{number:04}", **spec})
    plane = connect(endpoint(standin, tmp_path), "default")
    assert [f"web-{number:04}" for number in range(PAGE + 1)] == [each.name for each in plane.proxies.reports()]


# --- who asks -------------------------------------------------------------------------------------------------------


def test_a_token_is_read_anew_when_its_file_changes(standin: StandIn, tmp_path: Path) -> None:
    """An old token is denied, the next call after the file was replaced is not."""
    one = endpoint(standin, tmp_path, written="old")
    with pytest.raises(Denied):
        connect(one, "default")
    plane = connect(endpoint(standin, tmp_path), "default")
    plane.secrets.create("g1-cert", b"x")
    (tmp_path / "token").write_text("revoked meanwhile")
    with pytest.raises(Denied) as denied:
        plane.secrets.held()
    assert "revoked" not in str(denied.value)
    endpoint(standin, tmp_path)
    assert 1 == len(plane.secrets.held())


def test_a_token_that_cannot_be_read_is_denied(tmp_path: Path) -> None:
    """A file that is not there says which one it is."""
    one = ControlPlaneAPI(Endpoint(url="http://127.0.0.1:1", token_file=tmp_path / "token"))
    with pytest.raises(Denied, match="token"):
        one.get("/", doing=DOING)


@pytest.mark.parametrize("content", [b"", b" \n", b"hunter2\nhunter3", b"hunter2 hunter3", b"hunter\xc3\xa9"])
def test_what_is_no_token_is_denied_and_not_quoted(content: bytes, tmp_path: Path) -> None:
    """Nothing is sent, neither without a token nor with noise in its place."""
    (tmp_path / "token").write_bytes(content)
    with Scripted(saying(200, {})) as server:
        with pytest.raises(Denied) as denied:
            server.api(token_file=tmp_path / "token").get("/", doing=DOING)
        assert [] == server.requests
    assert "hunter" not in str(denied.value)


def test_secrets_are_for_administrators(standin: StandIn, tmp_path: Path) -> None:
    """Another user's token reads documents and is denied secrets."""
    plane = connect(endpoint(standin, tmp_path, written=standin.viewer_token), "default")
    assert plane.documents.read(Kind.MESH, "default") is not None
    with pytest.raises(Denied):
        plane.secrets.held()


def test_tls_is_verified_with_the_given_ca(tmp_path: Path) -> None:
    """The server's own CA is needed; another's is refused."""
    pair = listener_certificate(tmp_path / "ca.pem")
    listener_certificate(tmp_path / "other.pem")
    with StandIn(tls=_server_context(tmp_path, *pair), local_is_admin=True) as standin:
        assert standin.url.startswith("https://")
        about = connect(Endpoint(url=standin.url, ca_file=tmp_path / "ca.pem"), "default").about
        assert (2, 14, 3) == about.version
        with pytest.raises(Unavailable):
            connect(Endpoint(url=standin.url, ca_file=tmp_path / "other.pem"), "default")
        with pytest.raises(Denied, match=r"gone\.pem"):
            connect(Endpoint(url=standin.url, ca_file=tmp_path / "gone.pem"), "default")


def test_a_client_certificate_is_shown_and_read_anew(tmp_path: Path) -> None:
    """Who has none is turned away; when the files change, the next call shows the new one."""
    pair = listener_certificate(tmp_path / "ca.pem")
    context = _server_context(tmp_path, *pair)
    certificate, key = listener_certificate(tmp_path / "clients.pem")
    stranger, strangers_key = listener_certificate(tmp_path / "strangers.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tmp_path / "clients.pem")
    files = (tmp_path / "client.crt", tmp_path / "client.key")
    files[0].write_bytes(stranger)
    files[1].write_bytes(strangers_key)
    with StandIn(tls=context, local_is_admin=True) as standin:
        trusted = tmp_path / "ca.pem"
        with pytest.raises(Unavailable):
            connect(Endpoint(url=standin.url, ca_file=trusted), "default")
        api = ControlPlaneAPI(
            Endpoint(url=standin.url, ca_file=trusted, client_certificate_file=files[0], client_key_file=files[1])
        )
        with pytest.raises(Unavailable):
            api.get("/", doing=DOING)
        files[0].write_bytes(certificate)
        with pytest.raises(Denied, match=r"client\.crt"):
            api.get("/", doing=DOING)
        files[1].write_bytes(key)
        assert api.get("/", doing=DOING) is not None
        api.close()


def _server_context(directory: Path, certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (directory / "server.pem").write_bytes(certificate + key)
    context.load_cert_chain(directory / "server.pem")
    return context


# --- what a control plane is ----------------------------------------------------------------------------------------


def test_without_the_right_to_its_configuration_a_control_plane_is_what_we_are_told() -> None:
    """The word of the settings stands in, and only there."""

    def script(request: Request) -> tuple[int, bytes]:
        return (200, b'{"version": "2.14.3"}') if request.target == "/" else (403, b"{}")

    with Scripted(script) as server:
        with pytest.raises(Denied):
            ask_about(server.api())
        about = ask_about(server.api(), environment=Environment.KUBERNETES)
        assert (Environment.KUBERNETES, (2, 14, 3)) == (about.environment, about.version)


@pytest.mark.parametrize("body", [{}, {"hello": "world"}, {"version": 7}])
def test_what_is_no_control_plane_is_rejected(body: Json) -> None:
    """Something else answers there."""
    with Scripted(saying(200, body)) as server, pytest.raises(Rejected, match="no control plane"):
        ask_about(server.api())


# --- documents and secrets ------------------------------------------------------------------------------------------

IDENTITY: Json = {
    "type": "MeshIdentity",
    "mesh": "default",
    "name": "g1",
    "creationTime": "2026-06-01T12:00:00Z",
    "modificationTime": "2026-06-01T12:00:00Z",
    "spec": {"selector": {}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


def test_the_control_planes_own_notes_are_nobodys_edit() -> None:
    """Status and modification time change by themselves; the document may be written nevertheless."""
    noted = {**IDENTITY, "modificationTime": "2026-06-01T13:00:00Z", "status": {"conditions": []}}
    written = {**noted, "spec": {"selector": {"dataplane": {"matchLabels": {}}}}}
    with Scripted(in_turn(IDENTITY, noted, {}, written)) as server:
        documents = HTTPDocuments(server.api(), "default")
        read = documents.read(Kind.IDENTITY, "g1")
        assert read is not None
        done = documents.write(read.with_spec(written["spec"]))
        assert written["spec"] == done.spec


def test_a_status_goes_back_as_it_stands_right_before_the_write() -> None:
    """A version that keeps what it is sent must not forget that a MeshIdentity is ready."""
    noted = {**IDENTITY, "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Later"}]}}
    with Scripted(in_turn(IDENTITY, noted, {}, noted)) as server:
        documents = HTTPDocuments(server.api(), "default")
        read = documents.read(Kind.IDENTITY, "g1")
        assert read is not None
        documents.write(read)
        (put,) = [each for each in server.requests if each.method == "PUT"]
        assert noted["status"] == put.body["status"]


def test_who_writes_at_the_same_time_is_noticed() -> None:
    """The other write came between ours and reading it back."""
    theirs = {**IDENTITY, "spec": {"selector": {"dataplane": {"matchLabels": {"app": "web"}}}}}
    with Scripted(in_turn(IDENTITY, IDENTITY, {}, theirs)) as server:
        documents = HTTPDocuments(server.api(), "default")
        read = documents.read(Kind.IDENTITY, "g1")
        assert read is not None
        with pytest.raises(Conflict, match="at the same time"):
            documents.write(read.with_spec({"selector": {"dataplane": {"matchLabels": {}}}}))


def test_a_lost_reply_is_unavailable_and_the_effect_is_there(standin: StandIn, tmp_path: Path) -> None:
    """Whoever observes finds it; whoever creates it again has a conflict for a document and the name of a secret."""
    plane = connect(endpoint(standin, tmp_path), "default")
    ca = FakeCA("one", "td.example").pem.decode()
    spec: Json = {"trustDomain": "td.example", "caBundles": [{"type": "Pem", "pem": {"value": ca}}]}
    made = Document(kind=Kind.TRUST, name="ours", spec=spec)
    standin.faults.lost_replies = 1
    with pytest.raises(Unavailable):
        plane.documents.write(made)
    assert plane.documents.read(Kind.TRUST, "ours") is not None
    with pytest.raises(Conflict):
        plane.documents.write(made)
    standin.faults.lost_replies = 1
    with pytest.raises(Unavailable):
        plane.secrets.create("g1-cert", b"x")
    assert "rotator-g1-cert" == plane.secrets.create("g1-cert", b"x")


def test_mtls_that_a_newer_kuma_drops_does_not_pass_for_written(tmp_path: Path) -> None:
    """What was accepted and not kept is no success."""
    with StandIn(version="3.0.1") as standin:
        standin.edit_mesh("default")
        plane = connect(endpoint(standin, tmp_path), "default")
        mesh = plane.documents.read(Kind.MESH, "default")
        assert mesh is not None
        mtls: Json = {"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "builtin"}]}
        with pytest.raises(Conflict, match="does not read back"):
            plane.documents.write(mesh.with_spec({**mesh.spec, "mtls": mtls}))


def test_a_kubernetes_control_plane_takes_no_documents_over_http(tmp_path: Path) -> None:
    """There they go through the Kubernetes API."""
    with StandIn(environment="kubernetes") as standin:
        standin.edit_mesh("default")
        plane = connect(endpoint(standin, tmp_path), "default")
        assert Environment.KUBERNETES is plane.about.environment
        with pytest.raises(Rejected, match="takes no changes here"):
            plane.secrets.create("g1-cert", b"x")


def test_a_secret_in_use_is_not_removed(standin: StandIn, tmp_path: Path) -> None:
    """The control plane refuses, and says where it is used."""
    ca = FakeCA("one", "default").pem
    plane = connect(endpoint(standin, tmp_path), "default")
    standin.edit_mesh("default", meshServices={"mode": "Exclusive"})
    certificate, key = plane.secrets.create("g1-cert", ca), plane.secrets.create("g1-key", b"none")
    backend = {"name": "ca-1", "type": "provided", "conf": {"cert": {"secret": certificate}, "key": {"secret": key}}}
    standin.edit_mesh("default", mtls={"enabledBackend": "ca-1", "backends": [backend], "skipValidation": True})
    with pytest.raises(Rejected, match="in use"):
        plane.secrets.remove(certificate)
    assert ca == plane.secrets.read(certificate)


@pytest.mark.parametrize("purpose", ["", "g1/cert", "../x", "G1", "-", "x" * 80])
def test_a_purpose_is_part_of_a_name(purpose: str, standin: StandIn, tmp_path: Path) -> None:
    """What cannot be one is rejected before anything is sent."""
    with pytest.raises(Rejected):
        connect(endpoint(standin, tmp_path), "default").secrets.create(purpose, b"x")


def test_only_names_that_begin_with_ours_are_held() -> None:
    """The control plane filters by what a name contains, and some versions not at all, not even by mesh."""
    items = [
        {"name": name, "mesh": mesh, "data": "eA=="}
        for name, mesh in (("rotator-g1-cert", "default"), ("my-rotator-g1-key", "default"), ("rotator-g2-cert", "b"))
    ]
    with Scripted(saying(200, {"items": items, "next": None})) as server:
        held = HTTPSecrets(server.api(), "default").held()
        assert [("rotator-g1-cert", "g1-cert", b"x")] == [(each.name, each.purpose, each.value) for each in held]


def test_a_secret_that_does_not_read_back_is_a_conflict() -> None:
    """Somebody else wrote it at the same time, or it was not kept."""
    kept = {"name": "rotator-g1-cert", "data": "dGhlaXJz"}
    replies = [(404, b""), (201, b"{}"), (200, json.dumps(kept).encode())]
    with Scripted(lambda _request: replies.pop(0)) as server, pytest.raises(Conflict, match="does not read back"):
        HTTPSecrets(server.api(), "default").create("g1-cert", b"ours")


def test_a_document_that_comes_back_is_a_conflict() -> None:
    """Whoever fights over it has put it there again."""
    with Scripted(in_turn(IDENTITY, IDENTITY, {}, IDENTITY)) as server:
        documents = HTTPDocuments(server.api(), "default")
        read = documents.read(Kind.IDENTITY, "g1")
        assert read is not None
        with pytest.raises(Conflict, match="there again"):
            documents.remove(read)


def test_a_document_that_is_not_kept_is_a_conflict() -> None:
    """It was accepted and is gone."""
    replies = [(404, b""), (201, b"{}"), (404, b"")]
    with Scripted(lambda _request: replies.pop(0)) as server, pytest.raises(Conflict, match="is gone"):
        HTTPDocuments(server.api(), "default").write(Document(kind=Kind.TRUST, name="x", spec={}))


def test_a_secret_that_cannot_be_read_is_rejected() -> None:
    """What is no base64 is not quoted."""
    with Scripted(saying(200, {"name": "x", "data": "%%hunter2%%"})) as server, pytest.raises(Rejected) as refused:
        HTTPSecrets(server.api(), "default").read("x")
    assert "hunter2" not in str(refused.value)


# --- proxies --------------------------------------------------------------------------------------------------------


def test_one_proxys_silence_is_none_and_a_missing_right_is_told() -> None:
    """A proxy that does not answer its control plane is no error; not being allowed to ask is."""
    for status in (400, 404, 409, 500, 503):
        with Scripted(saying(status, {})) as server:
            assert HTTPProxies(server.api(), "default").view("web") is None
    with Scripted(saying(403, {})) as server, pytest.raises(Denied):
        HTTPProxies(server.api(), "default").view("web")


def test_a_zone_egress_is_reported_and_asked() -> None:
    """It ends the mesh's TLS: listed beside the Dataplanes under a name of its own, and asked at its own path."""
    overviews = {
        "/meshes/default/dataplanes/_overview": {"items": [{"name": "web", "dataplane": {}}], "next": None},
        "/zoneegresses/_overview": {"items": [{"name": "egress-1", "zoneEgress": {"zone": "east"}}], "next": None},
    }

    def script(request: Request) -> tuple[int, bytes]:
        path = request.target.partition("?")[0]
        return 200, json.dumps(overviews.get(path, {"configs": []})).encode()

    with Scripted(script) as server:
        proxies = HTTPProxies(server.api(), "default")
        names = [each.name for each in proxies.reports()]
        assert ["web", "zoneegress:egress-1"] == names
        assert proxies.view(names[1]) is not None
        assert "/zoneegresses/egress-1/xds" == server.requests[-1].target


def test_a_global_control_plane_reports_every_zones_proxies(tmp_path: Path) -> None:
    """Each under the name that the Global one lists, with its zone, and each can be asked under that name."""
    with ExitStack() as cleanup:
        clock = ManualClock(datetime.now(UTC))
        standin = cleanup.enter_context(StandIn(mode="global", zones=("east", "west"), clock=clock))
        backend = {"name": "ca-1", "type": "builtin"}
        standin.edit_mesh("default", mtls={"enabledBackend": "ca-1", "backends": [backend]})
        plane = connect(endpoint(standin, tmp_path), "default")
        for zone in ("east", "west"):
            standin.add_proxy(f"web-{zone}", service="web", zone=zone)
        standin.run(60)
        reports = plane.proxies.reports()
        assert {"east", "west"} == {each.zone for each in reports}
        assert all(each.online for each in reports)
        views = [plane.proxies.view(each.name) for each in reports]
        assert all(view is not None and view.relies and view.leaf_issuer for view in views)
