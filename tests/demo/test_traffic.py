"""The load generator counts every request once and hides no failure."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.clock import SystemClock
from rotator.demo.traffic import (
    Answer,
    Bucket,
    Failure,
    FailureKind,
    Lane,
    PeerSeen,
    Tally,
    TrafficLog,
    line_of,
    send,
)
from rotator.embedded.process import free_port, wait_until


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers with the server's ``statuses`` in turn, and always names the same peer serial."""

    protocol_version = "HTTP/1.1"
    answered = 0

    def do_GET(self) -> None:
        statuses: list[int] = getattr(self.server, "statuses", [200])
        status = statuses[type(self).answered % len(statuses)]
        type(self).answered += 1
        body = b"upstream connect error" if status == 503 else b"ok"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-peer-serial", "00AB12")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
        """Say nothing."""


@contextlib.contextmanager
def serving(*statuses: int) -> Iterator[int]:
    """Serve on a free port of 127.0.0.1 until the block ends."""

    class Fresh(Answering):
        answered = 0

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    server.statuses = list(statuses)  # type: ignore[attr-defined]  # the test's own
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def lines(text: str) -> list[Bucket | Failure | PeerSeen]:
    return [line_of(json.loads(line)) for line in text.splitlines()]


def sent_for(port: int, *, seconds: float, rate: float) -> list[Bucket | Failure | PeerSeen]:
    """Send for *seconds* at *rate* and return what was written."""
    stop, out = threading.Event(), io.StringIO()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    try:
        send(host="127.0.0.1", port=port, rate=rate, lanes=4, stop=stop, out=out)
    finally:
        timer.join()
    return lines(out.getvalue())


def test_every_request_is_counted_and_the_rate_is_kept() -> None:
    """At 100 requests a second for one second, about 100 are sent, and all of them are counted as answered."""
    with serving(200) as port:
        written = sent_for(port, seconds=1.0, rate=100)
    buckets = [line for line in written if isinstance(line, Bucket)]
    ok = sum(bucket.ok for bucket in buckets)
    assert 80 <= ok <= 104
    assert 0 == sum(bucket.failed for bucket in buckets)
    assert [] == [line for line in written if isinstance(line, Failure)]


def test_a_refused_handshake_upstream_is_a_failure_with_its_reason() -> None:
    """Every fourth answer is a 503: each is counted as failed, and its reason is kept."""
    with serving(200, 200, 200, 503) as port:
        written = sent_for(port, seconds=0.5, rate=80)
    failures = [line for line in written if isinstance(line, Failure)]
    counted = sum(line.failed for line in written if isinstance(line, Bucket))
    assert failures
    assert len(failures) == counted
    assert {(FailureKind.UPSTREAM, "503 upstream connect error")} == {(line.kind, line.reason) for line in failures}


def test_a_failure_on_this_side_counts_too_and_is_named_so() -> None:
    """When nobody listens, every request failed at the connection."""
    port = free_port()
    written = sent_for(port, seconds=0.2, rate=40)
    failures = [line for line in written if isinstance(line, Failure)]
    assert failures
    assert {FailureKind.CONNECTION} == {line.kind for line in failures}


def test_silence_is_a_failure_within_bounded_time() -> None:
    """A server that accepts and never answers makes a timeout, not a hang."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        lane = Lane("127.0.0.1", mute.getsockname()[1], clock=SystemClock(), timeout_seconds=0.2)
        with contextlib.closing(lane):
            answer = lane.request()
    assert answer.failure is not None
    assert FailureKind.TIMEOUT == answer.failure.kind
    assert answer.seconds < 3


def test_a_lane_goes_on_after_a_failure() -> None:
    """A connection that broke is opened anew for the next request."""
    with serving(200) as port:
        lane = Lane("127.0.0.1", port, clock=SystemClock())
        with contextlib.closing(lane):
            lane.close()
            assert lane.request().failure is None


def test_the_peer_serial_is_reported_once_in_canonical_form() -> None:
    """Serials are lower-case hex without leading zeros, and only news is written."""
    with serving(200) as port:
        written = sent_for(port, seconds=0.2, rate=50)
    assert ["ab12"] == [line.serial for line in written if isinstance(line, PeerSeen)]


def test_answers_fall_into_the_interval_in_which_they_ended() -> None:
    """Three answers in two intervals make two lines."""
    out = io.StringIO()
    tally = Tally(out)
    for at in (1000.01, 1000.02, 1000.12):
        tally.add(Answer(at=at, seconds=0.005, failure=None, peer_serial=None))
    tally.close()
    assert [
        Bucket(at=1000.0, ok=2, failed=0, slowest_seconds=0.005),
        Bucket(at=1000.1, ok=1, failed=0, slowest_seconds=0.005),
    ] == lines(out.getvalue())


def test_a_half_written_line_waits(tmp_path: Path) -> None:
    """The reader yields a line only when it is whole, and every line once."""
    path = tmp_path / "traffic.jsonl"
    log = TrafficLog(path)
    assert [] == list(log.news())
    whole = '{"line": "PeerSeen", "at": 1.0, "serial": "a"}\n'
    path.write_text(whole + whole[:10])
    assert [PeerSeen(at=1.0, serial="a")] == list(log.news())
    assert [] == list(log.news())
    with path.open("a") as file:
        file.write(whole[10:])
    assert [PeerSeen(at=1.0, serial="a")] == list(log.news())


def test_an_unknown_line_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown line"):
        line_of({"line": "Other"})


def test_the_process_ends_by_term_with_every_request_counted(tmp_path: Path) -> None:
    """TERM ends the generator with status 0 after its last request."""
    out = tmp_path / "traffic.jsonl"
    with serving(200) as port:
        command = [sys.executable, "-m", "rotator.demo.traffic", "--port", str(port), "--rate", "50", "--lanes", "2"]
        process = subprocess.Popen([*command, "--out", str(out)])
        try:
            wait_until(
                lambda: out.exists() and out.stat().st_size > 0, within=timedelta(seconds=60), what="the first line"
            )
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(timeout=60)
        finally:
            process.kill()
            process.wait(timeout=60)
    assert any(isinstance(line, Bucket) for line in TrafficLog(out).news())
