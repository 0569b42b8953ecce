"""Probes against real servers: an Envoy, a plain TLS server that lies, files that are half there."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import urllib3

from rotator.adapters.directory import DirectoryStore
from rotator.adapters.probes import EnvoyAdminProbe, ReadBackProbe, ReportProbe, TLSProbe
from rotator.clock import SystemClock
from rotator.core.model import Served, SubjectName
from rotator.embedded.envoy import EnvoyClient, EnvoyServer
from rotator.embedded.process import free_port, wait_until
from rotator.errors import ConfigError
from rotator.pki.certificates import Material
from rotator.ports import BundleProbe, Probe, Stamp
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.leaf_store import MemoryLeafStore

DOMAIN = "td.example"
SERVER, CLIENT = f"spiffe://{DOMAIN}/server", f"spiffe://{DOMAIN}/client"
HOUR = timedelta(hours=1)
SOON = timedelta(seconds=20)
CLOCK = SystemClock()


def now() -> datetime:
    return datetime.now(UTC)


def authority(name: str) -> FakeCA:
    return FakeCA(name, DOMAIN, now() - timedelta(minutes=5), now() + timedelta(days=1))


def publish(store: DirectoryStore, material: Material) -> None:
    seen, moment = store.read(), now()
    stamp = Stamp(subject=SubjectName("test"), rotation_id="r", leaf_published_at=moment, bundle_published_at=moment)
    store.put(material, expected=0 if seen is None else seen.number, stamp=stamp)


@dataclass
class Pair:
    """Two Envoys in front of each other, with what each of them reads."""

    old: FakeCA
    new: FakeCA
    server: EnvoyServer
    client: EnvoyClient
    server_store: DirectoryStore
    client_store: DirectoryStore

    def status(self) -> int:
        """Send one request all the way through; return its status."""
        return urllib3.request("GET", self.client.url, retries=False, timeout=10).status


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    old, new = authority("old"), authority("new")
    server_store, client_store = DirectoryStore(tmp_path / "server"), DirectoryStore(tmp_path / "client")
    publish(server_store, old.material(SERVER, HOUR, now()))
    publish(client_store, old.material(CLIENT, HOUR, now()))
    with (
        EnvoyServer(tmp_path / "run", certificates=server_store.path, admits=[CLIENT]) as server,
        EnvoyClient(
            tmp_path / "run", certificates=client_store.path, upstream_port=server.port, expects=SERVER
        ) as client,
    ):
        yield Pair(old, new, server, client, server_store, client_store)


def eventually(probe: Probe, serial: str) -> Served:
    """Wait until *probe* shows *serial*; return what it showed then."""
    seen: list[Served] = []

    def shown() -> bool:
        seen.append(probe.look())
        return seen[-1].serial == serial

    wait_until(shown, within=SOON, what=f"{probe.name} to show {serial}")
    return seen[-1]


# --- against a real Envoy --------------------------------------------------------------------------------------------


@pytest.mark.external
def test_envoy_shows_leaf_and_bundle_of_both_sides(pair: Pair) -> None:
    """Both Envoys report what was published for them, also the one that only calls others."""
    for envoy, store, identity in (
        (pair.server, pair.server_store, SERVER),
        (pair.client, pair.client_store, CLIENT),
    ):
        seen = EnvoyAdminProbe(envoy.admin_url, clock=CLOCK, identity=identity).look()
        published = store.read()
        assert published is not None
        assert published.leaf is not None
        assert (True, published.leaf.serial, frozenset({pair.old.authority.serial})) == (
            seen.reachable,
            seen.serial,
            seen.bundle,
        )
        assert f"envoy_admin:{envoy.admin_url}" == seen.probe


@pytest.mark.external
def test_a_switch_is_seen_with_its_bundle(pair: Pair) -> None:
    """After a switch Envoy shows the new serial and the grown bundle."""
    made = pair.new.material(CLIENT, HOUR, now(), bundle=[pair.new, pair.old])
    publish(pair.client_store, made)
    seen = eventually(EnvoyAdminProbe(pair.client.admin_url, clock=CLOCK, identity=CLIENT), made.leaf.serial)
    assert frozenset({pair.old.authority.serial, pair.new.authority.serial}) == seen.bundle


@pytest.mark.external
def test_an_envoy_without_our_certificate_has_acknowledged_nothing(pair: Pair) -> None:
    """An Envoy that shows only other identities counts as not reached."""
    seen = EnvoyAdminProbe(pair.server.admin_url, clock=CLOCK, identity=f"{SERVER}/other").look()
    assert (False, None, None) == (seen.reachable, seen.serial, seen.bundle)


@pytest.mark.external
def test_a_handshake_shows_the_served_serial(pair: Pair) -> None:
    """A handshake without client certificate reads the serial, before and after a switch."""
    probe = TLSProbe(pair.server.address, clock=CLOCK, server_name="localhost")
    published = pair.server_store.read()
    assert published is not None
    assert published.leaf is not None
    first = probe.look()
    assert (True, published.leaf.serial, None) == (first.reachable, first.serial, first.bundle)
    made = pair.old.material(SERVER, HOUR, now())
    publish(pair.server_store, made)
    assert eventually(probe, made.leaf.serial).reachable


@pytest.mark.external
def test_law_01_a_bundle_is_acknowledged_by_an_answer_to_an_unpublished_leaf(pair: Pair) -> None:
    """The server refuses a leaf of the new CA until its bundle holds that CA; with an unadmitted name always."""
    probe = TLSProbe(pair.server.address, clock=CLOCK, presents=CLIENT, expects=SERVER)
    both = [pair.new, pair.old]
    known = pair.old.material(CLIENT, HOUR, now(), bundle=both)
    unknown = pair.new.material(CLIENT, HOUR, now(), bundle=both)
    stranger = pair.new.material(f"spiffe://{DOMAIN}/rotator-probe", HOUR, now(), bundle=both)
    assert [True, False, False] == [probe.admits(each) for each in (known, unknown, stranger)]
    serving = pair.old.material(SERVER, HOUR, now(), bundle=both)
    publish(pair.server_store, serving)
    eventually(EnvoyAdminProbe(pair.server.admin_url, clock=CLOCK, identity=SERVER), serving.leaf.serial)
    assert [True, True, False] == [probe.admits(each) for each in (known, unknown, stranger)]


@pytest.mark.external
def test_an_answer_counts_only_from_the_consumer_itself(pair: Pair) -> None:
    """A server outside the bundle, or with another identity than expected, acknowledges nothing by answering."""
    leaf = pair.old.material(CLIENT, HOUR, now())
    other = TLSProbe(pair.server.address, clock=CLOCK, presents=CLIENT, expects=f"spiffe://{DOMAIN}/somebody-else")
    assert not other.admits(leaf)
    foreign = pair.old.material(CLIENT, HOUR, now(), bundle=[pair.new])
    assert not TLSProbe(pair.server.address, clock=CLOCK, presents=CLIENT).admits(foreign)


@pytest.mark.external
def test_law_02_fifty_switches_under_traffic_lose_nothing(pair: Pair) -> None:
    """Fifty publications on each side while requests go through: every switch is seen, no request fails."""
    admin = EnvoyAdminProbe(pair.client.admin_url, clock=CLOCK, identity=CLIENT)
    stop, statuses = threading.Event(), list[int]()

    def call() -> None:
        while not stop.is_set():
            statuses.append(pair.status())

    traffic = threading.Thread(target=call)
    traffic.start()
    try:
        for _ in range(50):
            made = pair.old.material(CLIENT, HOUR, now())
            publish(pair.client_store, made)
            publish(pair.server_store, pair.old.material(SERVER, HOUR, now()))
            eventually(admin, made.leaf.serial)
    finally:
        stop.set()
        traffic.join(30)
    assert {200} == set(statuses)
    counts = pair.server.tls_counts()
    assert (0, 0, 0) == (counts.sessions_reused, counts.refused, counts.connection_errors)
    assert len(statuses) == counts.requests == counts.handshakes


@pytest.mark.external
def test_the_server_says_who_called(pair: Pair) -> None:
    """Header and access log of the server name the serial and the SPIFFE ID that the caller showed."""
    answer = urllib3.request("GET", f"{pair.client.url}/hello", retries=False, timeout=10)
    published = pair.client_store.read()
    assert published is not None
    assert published.leaf is not None
    assert (200, published.leaf.serial, CLIENT) == (
        answer.status,
        answer.headers["x-peer-serial"].lstrip("0"),
        answer.headers["x-peer-uri"],
    )
    wait_until(lambda: bool(pair.server.accesses()), within=SOON, what="the access log")
    line = pair.server.accesses()[0]
    assert ("/hello", 200, CLIENT) == (line["path"], line["status"], line["peer_uri"])


@pytest.mark.external
def test_a_wrong_chain_fails_and_is_counted(pair: Pair) -> None:
    """Control: a leaf of a CA that the server does not trust is refused, seen as 503 and counted."""
    made = pair.new.material(CLIENT, HOUR, now(), bundle=[pair.old, pair.new])
    publish(pair.client_store, made)
    eventually(EnvoyAdminProbe(pair.client.admin_url, clock=CLOCK, identity=CLIENT), made.leaf.serial)
    assert 503 == pair.status()
    assert pair.server.tls_counts().refused > 0


@pytest.mark.external
def test_a_killed_envoy_is_not_reachable_and_comes_back(pair: Pair) -> None:
    """Without an answer a probe says so in words and raises nothing; a restarted Envoy is seen again."""
    admin = EnvoyAdminProbe(pair.server.admin_url, clock=CLOCK, identity=SERVER)
    tls = TLSProbe(pair.server.address, clock=CLOCK, presents=CLIENT)
    assert (True, True) == (admin.look().reachable, tls.look().reachable)
    pair.server.kill()
    assert ["no answer", "no handshake: connection refused"] == [admin.look().detail, tls.look().detail]
    assert not tls.admits(pair.old.material(CLIENT, HOUR, now()))
    pair.server.start()
    assert (True, True) == (admin.look().reachable, tls.look().reachable)


# --- reports that are wrong ------------------------------------------------------------------------------------------


@contextmanager
def admin_answering(content: bytes, status: int = 200) -> Iterator[str]:
    """Serve *content* as whatever is asked for; yield the URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(60)


def tls_context(serial: str, ends: str, *, trusts: tuple[str, ...] = (), uri: str = CLIENT) -> dict[str, object]:
    """Return one TLS context as ``/certs`` lists it."""
    names = [{"uri": uri}]
    return {
        "ca_cert": [{"serial_number": each} for each in trusts],
        "cert_chain": [{"serial_number": serial, "expiration_time": ends, "subject_alt_names": names}],
    }


OLD_END, NEW_END = "2030-01-01T00:00:00Z", "2030-01-01T00:10:00Z"


def test_half_a_switch_shows_the_old_leaf() -> None:
    """While one context still shows the old leaf, that one is reported; the bundle is what all of them trust."""
    report = {
        "certificates": [
            tls_context("0b", NEW_END, trusts=("01", "02")),
            tls_context("0a", OLD_END, trusts=("01",)),
            tls_context("0b", NEW_END),
            tls_context("0c", "2029-01-01T00:00:00Z", trusts=("03",), uri=SERVER),
        ]
    }
    with admin_answering(json.dumps(report).encode()) as url:
        seen = EnvoyAdminProbe(url, clock=CLOCK, identity=CLIENT).look()
    assert ("a", frozenset({"1"}), "other contexts show b") == (seen.serial, seen.bundle, seen.detail)


def test_a_bundle_is_unknown_without_ca_entries() -> None:
    """No CA entry anywhere: the bundle is unknown, not empty."""
    with admin_answering(json.dumps({"certificates": [tls_context("0a", OLD_END)]}).encode()) as url:
        seen = EnvoyAdminProbe(url, clock=CLOCK).look()
    assert (True, "a", None) == (seen.reachable, seen.serial, seen.bundle)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 200),
        (b"[]", 200),
        (b"{}", 200),
        (b'{"certificates": null}', 200),
        (b'{"certificates": [[]]}', 200),
        (b'{"certificates": [{"cert_chain": [{"serial_number": "0a"}]}]}', 200),
        (b'{"certificates": []}', 200),
        (b"\xff\xfe", 200),
        (b"denied", 403),
        (b"", 302),
    ],
)
def test_an_answer_that_is_no_report_is_not_reachable(content: bytes, status: int) -> None:
    """Whatever answers on the admin port, a probe never raises and believes nothing."""
    with admin_answering(content, status) as url:
        seen = EnvoyAdminProbe(url, clock=CLOCK).look()
    assert (False, None, None) == (seen.reachable, seen.serial, seen.bundle)


@contextmanager
def silent_server() -> Iterator[str]:
    """Accept connections (in the kernel) and never say a word; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_silence_is_bounded() -> None:
    """A server that accepts and says nothing costs one timeout, then counts as not reached."""
    short = timedelta(seconds=0.3)
    with silent_server() as address:
        tls = TLSProbe(address, clock=CLOCK, presents=CLIENT, timeout=short)
        began = CLOCK.monotonic()
        assert "no handshake: no answer in time" == tls.look().detail
        assert not tls.admits(authority("any").material(CLIENT, HOUR, now()))
        assert not EnvoyAdminProbe(f"http://{address}", clock=CLOCK, timeout=short).look().reachable
        assert CLOCK.monotonic() - began < 10


def test_a_plain_server_is_no_tls_server() -> None:
    """Plain HTTP on the port: no handshake, no exception, no acknowledgement."""
    with admin_answering(b"{}") as url:
        probe = TLSProbe(url.removeprefix("http://"), clock=CLOCK, presents=CLIENT)
        assert probe.look().detail.startswith("no handshake: ")
        assert not probe.admits(authority("any").material(CLIENT, HOUR, now()))


@contextmanager
def tls_server(served: Material, answer: bytes) -> Iterator[str]:
    """Let anybody shake hands, take one request, say *answer* and close; yield the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    memory = os.memfd_create("served")
    os.write(memory, served.chain_pem + served.key_pem)
    context.load_cert_chain(f"/proc/self/fd/{memory}")
    os.close(memory)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(20)
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1000)
            tls.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join(30)


@pytest.mark.parametrize(
    ("answer", "admitted"),
    [
        (b"", False),
        (b"HTTP/1.", False),
        (b"220 mail.example ESMTP ready", False),
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", True),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", True),
    ],
)
def test_law_01_a_handshake_alone_acknowledges_nothing(answer: bytes, admitted: bool) -> None:  # noqa: FBT001 -- the row's verdict
    """The same good handshake each time: only an HTTP answer, of any status, means that the server let us in."""
    ca = authority("one")
    with tls_server(ca.material(SERVER, HOUR, now()), answer) as address:
        probe = TLSProbe(address, clock=CLOCK, presents=CLIENT, expects=SERVER)
        assert admitted == probe.admits(ca.material(CLIENT, HOUR, now()))


def test_law_10_the_unpublished_key_leaves_no_file_and_no_descriptor() -> None:
    """After a question no descriptor is open that was not before: the key lived in memory only."""
    material = authority("any").material(CLIENT, HOUR, now())
    probe = TLSProbe(f"127.0.0.1:{free_port()}", clock=CLOCK, presents=CLIENT)
    with silent_server() as address:
        silent = TLSProbe(address, clock=CLOCK, presents=CLIENT, timeout=timedelta(seconds=0.1))
        before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- Path.iterdir holds a descriptor of its own -- numbers, not paths
        assert [False, False] == [probe.admits(material), silent.admits(material)]
        assert before == set(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- Path.iterdir holds a descriptor of its own


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", ":1", "localhost:0", "localhost:65536", "a:b"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """A probe's address is checked when it is configured."""
    with pytest.raises(ConfigError, match="no address"):
        TLSProbe(address, clock=CLOCK)


def test_a_path_cannot_smuggle_a_request() -> None:
    """A path with a line break is refused."""
    with pytest.raises(ConfigError, match="no path"):
        TLSProbe("localhost:1", clock=CLOCK, path="/ HTTP/1.1\r\nX: y")


def test_only_a_probe_that_knows_whom_to_present_proves_a_bundle() -> None:
    """Without a SPIFFE ID to present the power to prove a bundle is empty."""
    plain, able = TLSProbe("localhost:1", clock=CLOCK), TLSProbe("localhost:1", clock=CLOCK, presents=CLIENT)
    powers: tuple[BundleProbe, ...] = (plain, able)
    assert ["", CLIENT] == [each.presents for each in powers]


# --- files -----------------------------------------------------------------------------------------------------------


def test_reading_back_shows_what_is_published() -> None:
    """A read-back shows leaf and bundle; nothing published, or damage, is not reachable."""
    store = MemoryLeafStore()
    probe = ReadBackProbe(store, clock=CLOCK)
    assert (False, "nothing is published") == (probe.look().reachable, probe.look().detail)
    ca = authority("one")
    made = ca.material(CLIENT, HOUR, now())
    moment = now()
    stamp = Stamp(subject=SubjectName("x"), rotation_id="r", leaf_published_at=moment, bundle_published_at=moment)
    store.put(made, expected=0, stamp=stamp)
    seen = probe.look()
    assert (True, made.leaf.serial, frozenset({ca.authority.serial})) == (seen.reachable, seen.serial, seen.bundle)
    store.spoil("tls.key is missing")
    assert (False, "tls.key is missing") == (probe.look().reachable, probe.look().detail)


def test_a_report_is_read_and_normalised(tmp_path: Path) -> None:
    """A consumer's own report shows serials as rotator writes them; the bundle may be left out."""
    path = tmp_path / "report.json"
    probe = ReportProbe(path, clock=CLOCK)
    assert "its report cannot be read: No such file or directory" == probe.look().detail
    path.write_text('{"serial": "0A:BC", "bundle": ["00ff", "FF", "0x01"]}', encoding="utf-8")
    seen = probe.look()
    assert (True, "abc", frozenset({"ff", "1"})) == (seen.reachable, seen.serial, seen.bundle)
    path.write_text('{"serial": "1"}', encoding="utf-8")
    assert ("1", None) == (probe.look().serial, probe.look().bundle)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"serial": 5}', '{"serial": "xyz"}', '{"serial": "1", "bundle": "2"}', "\x00"]
)
def test_a_report_that_makes_no_sense_is_not_reachable(tmp_path: Path, content: str) -> None:
    """A half-written or senseless report is no acknowledgement."""
    path = tmp_path / "report.json"
    path.write_text(content, encoding="utf-8")
    seen = ReportProbe(path, clock=CLOCK).look()
    assert (False, "its report cannot be understood") == (seen.reachable, seen.detail)


def test_a_pipe_in_place_of_a_report_does_not_block(tmp_path: Path) -> None:
    """A named pipe without a writer is no report, and holds nobody."""
    os.mkfifo(tmp_path / "report.json")
    assert not ReportProbe(tmp_path / "report.json", clock=CLOCK).look().reachable
