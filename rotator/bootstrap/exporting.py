"""
Where traces, metrics and logs go, as settings name it.

Rules that must stay true here:

- Nothing is opened while wiring, and OpenTelemetry's messages are imported only where a collector is named.
- Spans and lines may be told in any state: before the start, after the end, and where no collector is named.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from rotator import __version__
from rotator.adapters.otlp.exporter import Destination, Exporter
from rotator.core.foreseen import Alert, true_at
from rotator.core.foreseen_telemetry import telemetry_alerts
from rotator.core.trace import SpanId, TraceId
from rotator.errors import AdapterError
from rotator.ports import Clock, Line, Reading, Span
from rotator.settings import Settings
from rotator.settings.telemetry import OTLP

Readings = Callable[[], Iterable[Reading]]


class Outlet:
    """What is told goes to the collector that the settings name, if they name one."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Send as *settings* say, once started. Raises `ConfigError` if OpenTelemetry's messages are not installed."""
        self._clock = clock
        self._wanted = settings.telemetry.otlp
        self._exporter = _exporter(settings, clock)
        self._readings: Readings | None = None
        self._changing = threading.Lock()

    def span(self, span: Span) -> None:
        """Tell of *span*; returns at once."""
        exporter = self._exporter
        if exporter is not None:
            exporter.span(span)

    def line(self, event: Mapping[str, Any]) -> None:
        """Tell of one line of the log, as it is written; returns at once."""
        exporter = self._exporter
        if exporter is not None:
            exporter.line(line_of(event))

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Return how many items of each signal were sent, refused and dropped; empty without a collector."""
        exporter = self._exporter
        return exporter.counts() if exporter is not None else {}

    def waiting(self) -> Mapping[str, int]:
        """Return how many items of each signal wait; empty without a collector."""
        exporter = self._exporter
        return exporter.waiting() if exporter is not None else {}

    def alerts(self, now: datetime) -> tuple[Alert, ...]:
        """Return what is true at *now* of a collector that takes nothing, or not all; nothing without one."""
        exporter = self._exporter
        return true_at(telemetry_alerts(exporter.standing(now)), now) if exporter is not None else ()

    def start(self, readings: Readings) -> None:
        """Begin to send; *readings* gives every metric of the moment."""
        with self._changing:
            self._readings = readings
            if self._exporter is not None:
                self._exporter.start(readings)

    def stop(self) -> None:
        """Send what waits, within two seconds, and end."""
        with self._changing:
            self._readings = None
            if self._exporter is not None:
                self._exporter.stop()

    def use(self, settings: Settings) -> None:
        """Send as *settings* say from now on. Raises `ConfigError` if OpenTelemetry's messages are not installed."""
        with self._changing:
            if settings.telemetry.otlp == self._wanted:
                return
            exporter, before = _exporter(settings, self._clock), self._exporter
            self._wanted, self._exporter = settings.telemetry.otlp, exporter
            if before is not None:
                before.stop()
            if exporter is not None and self._readings is not None:
                exporter.start(self._readings)


def untaken(settings: Settings, clock: Clock) -> Mapping[str, AdapterError]:
    """
    Return why the collector would not take each signal, asked now with nothing to take; empty if all is well.

    Raises:
        ConfigError: If OpenTelemetry's messages are not installed.
    """
    exporter, wanted = _exporter(settings, clock), settings.telemetry.otlp
    if exporter is None or wanted is None:
        return {}
    found: dict[str, AdapterError] = {}
    with contextlib.closing(exporter):
        for signal in wanted.signals:
            try:
                exporter.ask(signal)
            except AdapterError as error:
                found[signal] = error
    return found


def line_of(event: Mapping[str, Any]) -> Line:
    """Return one line of the log as *event* holds it after redaction."""
    fields = dict(event)
    trace, span = fields.pop("trace_id", None), fields.pop("span_id", None)
    return Line(
        at=datetime.fromisoformat(str(fields.pop("time"))),
        level=str(fields.pop("level", "info")),
        event=str(fields.pop("event", "")),
        fields=fields,
        trace_id=TraceId(str(trace)) if trace and span else None,
        span_id=SpanId(str(span)) if trace and span else None,
    )


def _exporter(settings: Settings, clock: Clock) -> Exporter | None:
    wanted = settings.telemetry.otlp
    return Exporter(_destination(wanted, settings.environment), clock=clock) if wanted is not None else None


def _destination(wanted: OTLP, environment: str) -> Destination:
    return Destination(
        endpoint=wanted.endpoint,
        signals=frozenset(wanted.signals),
        resource={
            "service.name": "rotator",
            "service.version": __version__,
            "service.instance.id": socket.gethostname(),
            "deployment.environment.name": environment,
            **wanted.resource,
        },
        headers_file=wanted.headers_file,
        ca_file=wanted.ca_file,
        client_certificate_file=wanted.client_certificate_file,
        client_key_file=wanted.client_key_file,
        compressed=wanted.compression == "gzip",
        timeout=wanted.timeout,
        export_every=wanted.export_every,
        metrics_every=wanted.metrics_every,
        queue=wanted.queue,
    )
