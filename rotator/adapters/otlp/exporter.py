"""
Sends what is told to one collector, from a thread of its own.

Rules that must stay true here:

- Whoever tells something never waits: a full queue drops its oldest, and every drop is counted.
- A collector that is down, slow or refuses costs this thread its time and nobody else theirs; ending is bounded.
- What may be taken later is kept and tried again, at a bounded rate; what is refused is counted and not tried again.
- Trouble is said once when it begins and once when it ends: its own lines must not fill the queue that is stuck.
"""

from __future__ import annotations

import gzip
import importlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Final

import structlog

from rotator.core.foreseen_telemetry import SignalStanding
from rotator.errors import AdapterError, ConfigError, Denied, Rejected, Unavailable
from rotator.http_exchange import Exchange, Server
from rotator.ports import Clock, Line, Reading, Span
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

BATCH: Final = 512
"""Most spans or lines in one request; so many that wait are sent at once."""
ENDS_WITHIN: Final = timedelta(seconds=2)
"""How long the end waits for what is still in the queue to be sent."""
LONGEST_REST: Final = timedelta(seconds=60)
"""Between two tries at a collector that does not take anything."""
LOSING_FOR: Final = timedelta(minutes=10)
"""So long after the last span or line that was lost, the next one is a new beginning."""
_LARGEST_ANSWER: Final = 64 * 1024
_LATER: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""What OTLP says may be tried again."""

TRACES: Final = "traces"
METRICS: Final = "metrics"
LOGS: Final = "logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One collector, and what it is sent."""

    endpoint: str
    """Without ``/v1/traces``."""
    signals: frozenset[str]
    resource: Mapping[str, str]
    """What every span, line and metric says of this process."""
    headers_file: Path | None = None
    """``Name: value``, one a line; blank lines and ``#`` are passed over."""
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    compressed: bool = True
    timeout: timedelta = timedelta(seconds=10)
    export_every: timedelta = timedelta(seconds=5)
    metrics_every: timedelta = timedelta(seconds=60)
    queue: int = 4096
    """Most spans, and most lines, that wait."""


@dataclass(slots=True)
class _Queue:
    """What waits of one signal."""

    most: int
    waiting: deque[Span | Line] = field(default_factory=deque)
    dropped: int = 0

    def add(self, item: Span | Line) -> bool:
        """Let *item* wait; return whether a whole batch does. The caller holds the lock."""
        if len(self.waiting) >= self.most:
            self.waiting.popleft()
            self.dropped += 1
        self.waiting.append(item)
        return len(self.waiting) >= BATCH

    def take(self) -> list[Span | Line]:
        """Return the oldest batch, which waits no more. The caller holds the lock."""
        return [self.waiting.popleft() for _ in range(min(BATCH, len(self.waiting)))]

    def put_back(self, batch: list[Span | Line]) -> None:
        """Let *batch* wait again, as far as there is room. The caller holds the lock."""
        room = max(0, self.most - len(self.waiting))
        self.dropped += max(0, len(batch) - room)
        self.waiting.extendleft(reversed(batch[len(batch) - room :] if room else []))


class Exporter:
    """Spans, lines and readings on their way to one collector."""

    def __init__(self, destination: Destination, *, clock: Clock) -> None:
        """
        Open nothing yet.

        Raises:
            ConfigError: If OpenTelemetry's messages are not installed.
        """
        self._to = destination
        self._clock = clock
        self._encoding = _encoding()
        self._exchange = Exchange(
            Server(
                name="the telemetry collector",
                url=destination.endpoint,
                ca_file=destination.ca_file,
                client_certificate_file=destination.client_certificate_file,
                client_key_file=destination.client_key_file,
                timeout=destination.timeout,
                connections=1,
                largest_answer=_LARGEST_ANSWER,
            )
        )
        self._lock = threading.Lock()
        kept = destination.signals & {TRACES, LOGS}
        self._queues = {signal: _Queue(destination.queue) for signal in kept}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._readings: Callable[[], Iterable[Reading]] = tuple
        self._since = clock.now()
        self._metrics_due = clock.monotonic()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._failures: Counter[str] = Counter()
        """Tries in a row that failed, by signal."""
        self._untaken_since: dict[str, datetime] = {}
        """When the first of them failed, by signal."""
        self._losing: dict[str, tuple[datetime, datetime]] = {}
        """When the first and the last span or line of those in a row was lost, by signal."""
        self._rests_until: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def ask(self, signal: str) -> None:
        """
        Send nothing of *signal*, to learn whether it would be taken.

        Raises:
            Unavailable: If the collector does not answer, or not now.
            Denied: If a file that is needed cannot be used.
            Rejected: If it would refuse.
        """
        self._post(signal, b"", 0)

    def close(self) -> None:
        """Close every connection of one that was never started."""
        self._exchange.close()

    # --- telling ----------------------------------------------------------------------------------------------------

    def span(self, span: Span) -> None:
        """Send *span* some time; returns at once."""
        self._add(TRACES, span)

    def line(self, line: Line) -> None:
        """Send *line* some time; returns at once."""
        self._add(LOGS, line)

    def _add(self, signal: str, item: Span | Line) -> None:
        queue = self._queues.get(signal)
        if queue is None:
            return
        with self._lock:
            before = queue.dropped
            is_full = queue.add(item)
            if queue.dropped > before:
                self._lost(signal)
        if is_full:
            self._wake.set()

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many items of each signal were ``sent``, ``refused`` by the collector, or ``dropped`` here."""
        with self._lock:
            found = {
                (signal, result): 0 for signal in sorted(self._to.signals) for result in ("sent", "refused", "dropped")
            }
            found |= self._counts
            for signal, queue in self._queues.items():
                found[signal, "dropped"] += queue.dropped
        return found

    def standing(self, now: datetime) -> dict[str, SignalStanding]:
        """Return how each signal stands at *now*."""
        with self._lock:
            losing = {signal: first for signal, (first, last) in self._losing.items() if now - last < LOSING_FOR}
            return {
                signal: SignalStanding(untaken_since=self._untaken_since.get(signal), losing_since=losing.get(signal))
                for signal in sorted(self._to.signals)
            }

    def waiting(self) -> dict[str, int]:
        """Return how many items of each signal wait."""
        with self._lock:
            return {signal: len(queue.waiting) for signal, queue in self._queues.items()}

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self, readings: Callable[[], Iterable[Reading]]) -> None:
        """Begin to send; *readings* gives every metric of the moment."""
        self._readings = readings
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def stop(self, within: timedelta = ENDS_WITHIN) -> None:
        """Try once more to send what waits, and end; what has not ended *within* that time is left behind."""
        self._ending.set()
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(within.total_seconds())
        self._exchange.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._clock.wait(self._wake, self._to.export_every)
            self._wake.clear()
            if not self._ending.is_set():
                self._turn()
        # The end is news too: once, whatever became of the last try.
        self._rests_until.clear()
        self._metrics_due = self._clock.monotonic()
        self._turn()

    def _turn(self) -> None:
        """Send what waits; trouble with one signal ends its turn alone."""
        for signal in (TRACES, LOGS, METRICS):
            if signal not in self._to.signals or self._clock.monotonic() < self._rests_until.get(signal, 0.0):
                continue
            try:
                if signal == METRICS:
                    self._send_metrics()
                else:
                    self._send_waiting(signal)
            except AdapterError as error:
                self._failed(signal, error)
            except Exception:
                # A defect in telling must not end the telling; the batch at hand is gone.
                log.exception(LogEvent.THREAD_FAILED, thread="telemetry")

    def _send_waiting(self, signal: str) -> None:
        queue = self._queues[signal]
        for _ in range(max(1, self._to.queue // BATCH)):
            with self._lock:
                batch = queue.take()
            if not batch:
                return
            encode = self._encoding.traces if signal == TRACES else self._encoding.logs
            try:
                self._post(signal, encode(batch, self._to.resource), len(batch))
            except (Unavailable, Denied):
                with self._lock:
                    before = queue.dropped
                    queue.put_back(batch)
                    if queue.dropped > before:
                        self._lost(signal)
                raise

    def _send_metrics(self) -> None:
        now = self._clock.monotonic()
        if now < self._metrics_due:
            return
        self._metrics_due = now + self._to.metrics_every.total_seconds()
        readings = list(self._readings())
        body = self._encoding.metrics(readings, self._to.resource, since=self._since, at=self._clock.now())
        try:
            self._post(METRICS, body, len(readings))
        except (Unavailable, Denied):
            # The next reading says it better than this one, late.
            self._count(METRICS, "dropped", len(readings))
            raise

    def _post(self, signal: str, body: bytes, items: int) -> None:
        headers = {"Content-Type": "application/x-protobuf", "User-Agent": "rotator", **self._headers()}
        if self._to.compressed:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        try:
            status, answer = self._exchange.send(
                "POST", f"/v1/{signal}", doing=f"taking {signal}", headers=headers, content=body
            )
        except Rejected:
            self._count(signal, "refused", items)
            raise
        said = f"the telemetry collector answered {status} to {signal}"
        if status in _LATER:
            raise Unavailable(said)
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            self._count(signal, "refused", items)
            raise Rejected(said)
        refused = min(items, self._encoding.refused(signal, answer))
        self._count(signal, "refused", refused)
        self._count(signal, "sent", items - refused)
        with self._lock:
            self._untaken_since.pop(signal, None)
        if self._failures.pop(signal, 0):
            log.info(LogEvent.EXPORT_RESUMED, signal=signal, dropped=self.counts()[signal, "dropped"])

    def _failed(self, signal: str, error: AdapterError) -> None:
        """Say it once, and rest before the next try."""
        self._failures[signal] += 1
        if self._failures[signal] == 1:
            with self._lock:
                self._untaken_since[signal] = self._clock.now()
            log.warning(LogEvent.EXPORT_FAILED, signal=signal, error=str(error))
        rest = min(LONGEST_REST, self._to.export_every * 2 ** min(self._failures[signal] - 1, 10))
        self._rests_until[signal] = self._clock.monotonic() + rest.total_seconds()

    def _headers(self) -> dict[str, str]:
        """Return the headers of ``headers_file``, read now. Raises `Denied` if it cannot be read, quoting none."""
        file = self._to.headers_file
        if file is None:
            return {}
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise Denied(f"cannot read {file}, which holds the headers for the telemetry collector") from e
        found = {}
        for number, text in enumerate(lines, start=1):
            if not text.strip() or text.lstrip().startswith("#"):
                continue
            name, colon, value = text.partition(":")
            if not colon or not name.strip().replace("-", "").isalnum() or not value.strip().isprintable():
                raise Denied(f"{file}:{number} is no header: write Name: value")
            found[name.strip()] = value.strip()
        return found

    def _count(self, signal: str, result: str, items: int) -> None:
        if items:
            with self._lock:
                self._counts[signal, result] += items
                if result == "refused":
                    self._lost(signal)

    def _lost(self, signal: str) -> None:
        """Note that something of *signal* is lost now. The caller holds the lock."""
        now = self._clock.now()
        first, last = self._losing.get(signal, (now, now))
        self._losing[signal] = (first if now - last < LOSING_FOR else now, now)


def _encoding() -> ModuleType:
    """Return the module that knows OTLP's messages. Raises `ConfigError` if they are not installed."""
    try:
        return importlib.import_module("rotator.adapters.otlp.encoding")
    except ModuleNotFoundError as e:
        raise ConfigError(
            "telemetry.otlp: OpenTelemetry's messages are not installed: pip install 'rotator[otlp]', or remove it"
        ) from e
