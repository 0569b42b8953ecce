"""
The load: requests to the client Envoy at a fixed rate, each of which becomes a new mutual TLS connection upstream.

Rules that must stay true here:

- Runs as a process of its own (``python -m rotator.demo.traffic``): nothing else of the demonstration delays it.
- Every request has one outcome and is counted once; a failure is never retried and never swallowed,
  also one on this side of the Envoy (it is named so, and still counts as failed).
- Requests are paced by the clock, not by the answers, so that slow answers do not hide in a lower rate;
  whoever falls more than a second behind skips forward instead of bursting.
- Every call has a timeout.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TextIO

from rotator.clock import SystemClock

BUCKET_SECONDS = 0.1
"""Width of the intervals in which requests are counted."""

_TIMEOUT_SECONDS = 5.0
# Longer than the Envoys' own connect timeout, so that a refused handshake arrives as their answer and not as ours.

_CATCH_UP_SECONDS = 1.0
_REASON_CHARACTERS = 300
_OK = 200


class FailureKind(StrEnum):
    """Where a request failed."""

    UPSTREAM = "upstream"
    """The client Envoy could not reach the server Envoy: a refused handshake looks like this."""
    STATUS = "status"
    """Somebody answered with something else than 200."""
    CONNECTION = "connection"
    """Between the load generator and the client Envoy: plain loopback, no certificate is involved."""
    TIMEOUT = "timeout"
    """No answer in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed request."""

    at: float
    """Unix time in seconds at which it was sent."""
    kind: FailureKind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What was answered within one interval of `BUCKET_SECONDS`."""

    at: float
    """Unix time in seconds at which the interval opens."""
    ok: int
    failed: int
    slowest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSeen:
    """The first answer in which the server named a new serial of the client's leaf."""

    at: float
    serial: str


Line = Bucket | Failure | PeerSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request's outcome: a failure, or the peer serial that the server echoed (None if it names none)."""

    at: float
    seconds: float
    failure: Failure | None
    peer_serial: str | None


class Tally:
    """Counts answers per interval and writes one line for each interval, failure and new peer serial."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._opened: float | None = None
        self._ok = self._failed = 0
        self._slowest = 0.0
        self._serials: set[str] = set()

    def add(self, answer: Answer) -> None:
        """Count *answer* at the moment it ended."""
        with self._lock:
            self._roll(answer.at + answer.seconds)
            self._slowest = max(self._slowest, answer.seconds)
            if answer.failure is None:
                self._ok += 1
            else:
                self._failed += 1
                self._write(answer.failure)
            if answer.peer_serial is not None and answer.peer_serial not in self._serials:
                self._serials.add(answer.peer_serial)
                self._write(PeerSeen(at=answer.at, serial=answer.peer_serial))

    def close(self) -> None:
        """Write the last interval."""
        with self._lock:
            self._flush()

    def _roll(self, now: float) -> None:
        bucket = now // BUCKET_SECONDS * BUCKET_SECONDS
        if self._opened is None:
            self._opened = bucket
        elif bucket > self._opened:
            self._flush()
            self._opened = bucket

    def _flush(self) -> None:
        if self._opened is not None and self._ok + self._failed:
            at = round(self._opened, 3)
            slowest = round(self._slowest, 4)
            self._write(Bucket(at=at, ok=self._ok, failed=self._failed, slowest_seconds=slowest))
        self._ok = self._failed = 0
        self._slowest = 0.0

    def _write(self, line: Line) -> None:
        self._out.write(json.dumps({"line": type(line).__name__, **asdict(line)}) + "\n")
        self._out.flush()


class Lane:
    """One keep-alive connection to the client Envoy, used by one thread."""

    def __init__(self, host: str, port: int, *, clock: SystemClock, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
        self._clock = clock

    def request(self) -> Answer:
        """Send one request and return its outcome; never raises for what the other side does."""
        at, began = self._clock.now().timestamp(), self._clock.monotonic()
        serial: str | None = None
        problem: tuple[FailureKind, str] | None = None
        try:
            self._connection.request("GET", "/")
            response = self._connection.getresponse()
            body = response.read(_REASON_CHARACTERS * 4)
            serial = response.getheader("x-peer-serial")
            if response.status != _OK:
                problem = (_kind_of(response.status), f"{response.status} {body.decode('utf-8', 'replace')}")
        except TimeoutError:
            self._connection.close()
            problem = (FailureKind.TIMEOUT, "no answer in time")
        except (OSError, http.client.HTTPException) as e:
            self._connection.close()
            problem = (FailureKind.CONNECTION, f"{type(e).__name__}: {e}")
        failure = Failure(at=at, kind=problem[0], reason=problem[1][:_REASON_CHARACTERS]) if problem else None
        return Answer(
            at=at,
            seconds=self._clock.monotonic() - began,
            failure=failure,
            peer_serial=serial.lower().lstrip("0") if serial else None,
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _kind_of(status: int) -> FailureKind:
    """Return where a request failed that was answered with *status*; 502 to 504 are a proxy's words."""
    match status:
        case 502 | 503 | 504:
            return FailureKind.UPSTREAM
        case _:
            return FailureKind.STATUS


class Requests(Protocol):
    """What one thread sends its requests with."""

    def request(self) -> Answer | None:
        """Send one request and return its outcome; None if there is nobody to send it to now."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def send(*, host: str, port: int, rate: float, lanes: int, stop: threading.Event, out: TextIO) -> None:
    """
    Send *rate* requests a second over *lanes* connections until *stop* is set, and write what became of them to *out*.

    Returns when every request that was sent has ended.
    """
    clock = SystemClock()
    drive(lambda: Lane(host, port, clock=clock), rate=rate, lanes=lanes, stop=stop, out=out)


def drive(lane: Callable[[], Requests], *, rate: float, lanes: int, stop: threading.Event, out: TextIO) -> None:
    """Do as `send` does, with what *lane* makes for each of *lanes* threads."""
    clock = SystemClock()
    tally = Tally(out)
    began = clock.monotonic()

    def run(number: int) -> None:
        with contextlib.closing(lane()) as sender:
            turn = 0
            while not stop.is_set():
                due = began + (turn * lanes + number) / rate
                ahead = due - clock.monotonic()
                if ahead > 0 and clock.wait(stop, timedelta(seconds=ahead)):
                    break
                answer = sender.request()
                if answer is not None:
                    tally.add(answer)
                turn += 1
                if (behind := -ahead) > _CATCH_UP_SECONDS:
                    turn += int(behind * rate / lanes)

    threads = [threading.Thread(target=run, args=(number,), name=f"lane-{number}") for number in range(lanes)]
    for thread in threads:
        thread.start()
    while not clock.wait(stop, timedelta(minutes=1)):
        """A load lasts as long as its caller wants."""
    for thread in threads:
        # Its last request ends within its own timeout.
        thread.join(timeout=60)
    tally.close()


class TrafficLog:
    """What a load generator has written so far, read piece by piece by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def news(self) -> Iterator[Line]:
        """Yield the lines written since the last call; a line that is only half written waits for the next call."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset)
                written = log.read()
        except FileNotFoundError:
            return
        whole, newline, _ = written.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for text in whole.splitlines():
            yield line_of(json.loads(text))


def line_of(fields: Mapping[str, object]) -> Line:
    """Return the typed line that `Tally` wrote as *fields*."""
    values = {name: value for name, value in fields.items() if name != "line"}
    match fields["line"]:
        case "Bucket":
            return Bucket(
                at=float(str(values["at"])),
                ok=int(str(values["ok"])),
                failed=int(str(values["failed"])),
                slowest_seconds=float(str(values["slowest_seconds"])),
            )
        case "Failure":
            return Failure(
                at=float(str(values["at"])), kind=FailureKind(str(values["kind"])), reason=str(values["reason"])
            )
        case "PeerSeen":
            return PeerSeen(at=float(str(values["at"])), serial=str(values["serial"]))
        case other:
            raise ValueError(f"unknown line of the load generator: {other}")


def main(arguments: list[str] | None = None) -> int:
    """Run the load generator until TERM; return 0."""
    parser = argparse.ArgumentParser(prog="rotator.demo.traffic", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where the client Envoy listens on 127.0.0.1")
    parser.add_argument("--rate", type=float, default=250.0, help="requests a second")
    parser.add_argument("--lanes", type=int, default=12, help="connections to the client Envoy")
    parser.add_argument("--out", type=Path, required=True, help="file that gets one JSON line per 100 ms and failure")
    chosen = parser.parse_args(arguments)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    with chosen.out.open("a", encoding="utf-8") as out:
        send(host="127.0.0.1", port=chosen.port, rate=chosen.rate, lanes=chosen.lanes, stop=stop, out=out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
