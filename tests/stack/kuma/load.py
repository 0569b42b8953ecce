"""
The load on a mesh: one new connection for each request, over every pair of proxies in turn.

    python -m tests.stack.kuma.load --rate 120 --out FILE      (orders on standard input, one JSON object a line)

Rules that must stay true here:

- A process of its own: nothing that a scenario does delays it.
- Every request is a connection of its own to the client's outbound listener, so that it is one new handshake upstream;
  each has one outcome, names its pair, and is never tried again.
- A pair leaves the load before its proxy is stopped on purpose: an order is answered only once no request of a pair
  that it took away is under way. Whatever fails apart from that is a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rotator.clock import SystemClock
from rotator.demo.traffic import Answer, Bucket, Failure, Lane, TrafficLog, drive
from rotator.embedded.process import LOOPBACK, wait_until

ANSWERS_WITHIN = timedelta(seconds=30)
"""How long an order may take: the longest request, and some patience for two busy cores."""

AT_REST = 300
"""So many requests in a row without a failure, over every pair several times, say that a mesh is at rest."""


class Pairs:
    """The pairs under load, each taken in its turn; knows which of them a request is under way for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ports: dict[str, int] = {}
        self._order: list[str] = []
        self._next = 0
        self._under_way: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def put(self, ports: Mapping[str, int]) -> None:
        """Let *ports* (pair to port) be under load from now on; return once nothing else is."""
        with self._changed:
            self._ports = dict(ports)
            self._order = sorted(ports)
            gone = [pair for pair in self._under_way if pair not in self._ports]
            self._changed.wait_for(
                lambda: not any(self._under_way[pair] for pair in gone), ANSWERS_WITHIN.total_seconds()
            )

    @contextlib.contextmanager
    def turn(self) -> Iterator[tuple[str, int] | None]:
        """Give the next pair and its port for one request; None while there is no pair."""
        with self._changed:
            if not self._order:
                chosen = None
            else:
                pair = self._order[self._next % len(self._order)]
                self._next += 1
                self._under_way[pair] += 1
                chosen = (pair, self._ports[pair])
        try:
            yield chosen
        finally:
            if chosen is not None:
                with self._changed:
                    self._under_way[chosen[0]] -= 1
                    self.sent[chosen[0]] += 1
                    self._changed.notify_all()


class PairRequests:
    """Sends each request to the next pair, over a connection of its own."""

    def __init__(self, pairs: Pairs, clock: SystemClock) -> None:
        self._pairs = pairs
        self._clock = clock

    def request(self) -> Answer | None:
        """Send one request and return its outcome, its failure with the pair's name; None while there is no pair."""
        with self._pairs.turn() as chosen:
            if chosen is None:
                return None
            pair, port = chosen
            with contextlib.closing(Lane(LOOPBACK, port, clock=self._clock)) as lane:
                answer = lane.request()
        if answer.failure is None:
            return answer
        return replace(answer, failure=replace(answer.failure, reason=f"{pair}: {answer.failure.reason}"))

    def close(self) -> None:
        """Hold nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Run until standard input ends; return 0."""
    parser = argparse.ArgumentParser(prog="tests.stack.kuma.load")
    parser.add_argument("--rate", type=float, default=120.0, help="requests a second over all pairs")
    parser.add_argument("--lanes", type=int, default=8, help="threads")
    parser.add_argument("--out", type=Path, required=True, help="file that gets one JSON line per 100 ms and failure")
    chosen = parser.parse_args(arguments)
    pairs, stop, clock = Pairs(), threading.Event(), SystemClock()
    with chosen.out.open("a", encoding="utf-8") as out:
        sender = threading.Thread(
            target=lambda: drive(
                lambda: PairRequests(pairs, clock), rate=chosen.rate, lanes=chosen.lanes, stop=stop, out=out
            ),
            name="load",
        )
        sender.start()
        try:
            for line in sys.stdin:
                pairs.put(json.loads(line))
                sys.stdout.write("done\n")
                sys.stdout.flush()
        finally:
            stop.set()
            sender.join(timeout=60)
    sys.stdout.write(json.dumps(pairs.sent) + "\n")
    sys.stdout.flush()
    return 0


def answered(port: int) -> bool:
    """Return whether one request to *port*, outside of every count, is answered as it should be."""
    with contextlib.closing(Lane(LOOPBACK, port, clock=SystemClock())) as lane:
        return lane.request().failure is None


# --- the other side ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What became of the requests of some span of time."""

    requests: int
    failures: tuple[Failure, ...]

    def __sub__(self, earlier: Count) -> Count:
        return Count(requests=self.requests - earlier.requests, failures=self.failures[len(earlier.failures) :])

    def told(self) -> str:
        """Return it in one line, with the first failures in words."""
        first = "; ".join(f"{each.kind.value} {each.reason}" for each in self.failures[:3])
        return f"{self.requests} requests, {len(self.failures)} failed" + (f": {first}" if first else "")


class Load:
    """The load as a scenario drives it: a child process; `under` says which pairs, `count` what became of them."""

    def __init__(self, out: Path, *, rate: float = 120.0) -> None:
        self._log = TrafficLog(out)
        self._requests = 0
        self._failures: list[Failure] = []
        self._ended = False
        self.sent: Mapping[str, int] = {}
        """Requests of each pair; known after the end."""
        out.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stack.kuma.load", "--rate", str(rate), "--out", str(out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def under(self, ports: Mapping[str, int]) -> None:
        """Put exactly *ports* (``client>server`` to port) under load; what is taken away has ended on return."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(dict(ports)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer == "done\n", f"the load said {answer!r}"

    def count(self) -> Count:
        """Return what has been counted since the beginning."""
        for line in self._log.news():
            match line:
                case Bucket():
                    self._requests += line.ok + line.failed
                case Failure():
                    self._failures.append(line)
                case _:
                    pass
        return Count(requests=self._requests, failures=tuple(self._failures))

    def more(self, requests: int, *, within: timedelta = timedelta(minutes=5)) -> None:
        """Wait until *requests* more have been counted."""
        aim = self.count().requests + requests
        wait_until(
            lambda: self.count().requests >= aim,
            within=within,
            what=f"{requests} requests",
            every=timedelta(milliseconds=100),
        )

    def passes(self, requests: int) -> bool:
        """Return whether the next *requests* all succeed."""
        before = self.count()
        self.more(requests)
        return not (self.count() - before).failures

    def close(self) -> Count:
        """End the load and return the whole count."""
        if not self._ended:
            self._ended = True
            rest, _ = self._process.communicate(timeout=60)
            self.sent = json.loads(rest.splitlines()[-1]) if rest else {}
        return self.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


if __name__ == "__main__":
    sys.exit(main())
