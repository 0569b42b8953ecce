"""Traces, metrics and logs reach a collector, and one that does not take them delays nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from rotator.adapters.otlp.exporter import BATCH, LOSING_FOR, Destination, Exporter
from rotator.clock import SystemClock
from rotator.core.foreseen_telemetry import SignalStanding
from rotator.core.trace import root_span_id, trace_id
from rotator.embedded.process import wait_until
from rotator.ports import Line, Reading, Span
from rotator.telemetry import LogEvent
from tests.adapters.collector import PATIENCE, Collector, attributes

ROTATION = "5f2b6c3d9e7a4b1c8d0e1f2a3b4c5d6e"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
SOON = timedelta(milliseconds=20)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as listening:
        yield listening


def destination(endpoint: str) -> Destination:
    """Return a destination that is asked often."""
    return Destination(
        endpoint=endpoint,
        signals=frozenset({"traces", "metrics", "logs"}),
        resource={"service.name": "rotator"},
        timeout=timedelta(seconds=30),
        export_every=SOON,
        metrics_every=timedelta(hours=1),
    )


@pytest.fixture
def started() -> Iterator[Callable[..., Exporter]]:
    running: list[Exporter] = []

    def start(to: Destination, *readings: Reading) -> Exporter:
        exporter = Exporter(to, clock=SystemClock())
        exporter.start(lambda: readings)
        running.append(exporter)
        return exporter

    yield start
    for each in running:
        each.stop()


def span(number: int = 0, *, error: str = "") -> Span:
    """Return the span of a step of `ROTATION`."""
    return Span(
        trace_id=trace_id(ROTATION),
        span_id=root_span_id(f"step {number}"),
        parent_id=root_span_id(ROTATION),
        name="issue_leaf",
        began=NOON,
        ended=NOON + timedelta(seconds=2),
        attributes={"rotator.subject": "service-0", "rotator.generation": 3},
        error=error,
    )


LINE = Line(
    at=NOON,
    level="warning",
    event="step_failed",
    fields={"subject": "service-0", "duration_ms": 12, "waiting_on": ["a", "b"]},
    trace_id=trace_id(ROTATION),
    span_id=root_span_id("step 0"),
)


def test_what_is_told_arrives_as_opentelemetry_says_it(collector: Collector, started: Callable[..., Exporter]) -> None:
    """Span, line and readings arrive whole: ids, moments, attributes, severity, buckets, and who says so."""
    readings = (
        Reading(name="rotator_leader", kind="gauge", sentence="1 while leading.", labels={}, value=1.0),
        Reading(
            name="rotator_rotation_seconds",
            kind="histogram",
            sentence="How long.",
            labels={"kind": "certificate"},
            value=7.5,
            buckets=((1.0, 1), (5.0, 1), (float("inf"), 3)),
        ),
    )
    exporter = started(destination(collector.endpoint), *readings)
    exporter.span(span(error="the issuer did not answer"))
    exporter.line(LINE)
    assert collector.wait_for(lambda: bool(collector.spans and collector.lines and collector.metrics))
    (told,), (line,) = collector.spans, collector.lines
    assert (ROTATION, root_span_id(ROTATION), "issue_leaf", 2_000_000_000, 2, "the issuer did not answer") == (
        told.trace_id.hex(),
        told.parent_span_id.hex(),
        told.name,
        told.end_time_unix_nano - told.start_time_unix_nano,
        told.status.code,
        told.status.message,
    )
    assert {"rotator.subject": "service-0", "rotator.generation": 3} == attributes(told)
    assert (ROTATION, "step_failed", 13, round(NOON.timestamp())) == (
        line.trace_id.hex(),
        line.body.string_value,
        line.severity_number,
        line.time_unix_nano // 1_000_000_000,
    )
    assert {"subject": "service-0", "duration_ms": 12, "waiting_on": '["a", "b"]'} == attributes(line)
    gauge, histogram = collector.metrics
    assert ("rotator_leader", 1.0) == (gauge.name, gauge.gauge.data_points[0].as_double)
    (point,) = histogram.histogram.data_points
    assert ([1.0, 5.0], [1, 0, 2], 3, 7.5) == (
        list(point.explicit_bounds),
        list(point.bucket_counts),
        point.count,
        point.sum,
    )
    assert [{"service.name": "rotator"}] * 3 == collector.resources[:3]


def test_headers_come_from_their_file_at_each_request(
    collector: Collector, started: Callable[..., Exporter], tmp_path: Path
) -> None:
    """A token that is replaced in its file is used from the next request on."""
    file = tmp_path / "headers"
    file.write_text("# who we are\nAuthorization: Bearer first\n")
    exporter = started(replace(destination(collector.endpoint), headers_file=file, signals=frozenset({"traces"})))
    exporter.span(span(1))
    assert collector.wait_for(lambda: len(collector.spans) == 1)
    file.write_text("Authorization: Bearer second\n")
    exporter.span(span(2))
    assert collector.wait_for(lambda: len(collector.spans) == 2)
    assert ["Bearer first", "Bearer second"] == [each["Authorization"] for each in collector.headers]


@pytest.mark.parametrize("text", ["Bearer hunter22", "Authorization: a\x00b", ": x"])
def test_law_10_a_broken_header_file_is_told_of_without_its_text(
    collector: Collector, started: Callable[..., Exporter], tmp_path: Path, text: str
) -> None:
    """What is no header is refused by file and line; nothing is sent, nothing is quoted, nothing is lost."""
    file = tmp_path / "headers"
    file.write_text(text)
    said: list[dict[str, object]] = []
    failed = threading.Event()

    def hear(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        said.append(dict(event))
        failed.set()
        raise structlog.DropEvent

    structlog.configure(processors=[hear])
    try:
        exporter = started(replace(destination(collector.endpoint), headers_file=file, signals=frozenset({"traces"})))
        exporter.span(span())
        assert failed.wait(PATIENCE.total_seconds())
    finally:
        structlog.reset_defaults()
    assert (LogEvent.EXPORT_FAILED, True, []) == (said[0]["event"], str(file) in str(said[0]), collector.asked)
    assert "hunter22" not in str(said)
    assert {"traces": 1} == exporter.waiting()


def test_what_may_be_taken_later_is_sent_again(collector: Collector, started: Callable[..., Exporter]) -> None:
    """A collector that says not now gets the same spans afterwards, each once."""
    busy = iter([429, 503])
    collector.answers = lambda _path: (next(busy, 200), b"")
    exporter = started(replace(destination(collector.endpoint), signals=frozenset({"traces"})))
    for number in range(3):
        exporter.span(span(number))
    assert collector.wait_for(lambda: len(collector.spans) == 3)
    assert 3 == len({each.span_id for each in collector.spans})
    assert {("traces", "sent"): 3, ("traces", "refused"): 0, ("traces", "dropped"): 0} == settled(exporter, 3)
    assert {"traces": SignalStanding()} == exporter.standing(SystemClock().now())


def test_what_is_refused_is_counted_and_not_sent_again(collector: Collector, started: Callable[..., Exporter]) -> None:
    """Answers that no later try would change, whole and in part, are counted; what comes after them is sent."""
    partly = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=1))
    answers = iter([(400, b""), (200, partly.SerializeToString())])
    collector.answers = lambda _path: next(answers, (200, b""))
    exporter = started(replace(destination(collector.endpoint), signals=frozenset({"traces"})))
    exporter.span(span(1))
    assert collector.wait_for(lambda: len(collector.asked) == 1)
    exporter.span(span(2))
    assert collector.wait_for(lambda: len(collector.asked) == 2)
    exporter.span(span(3))
    assert collector.wait_for(lambda: len(collector.asked) == 3)
    assert {("traces", "sent"): 1, ("traces", "refused"): 2, ("traces", "dropped"): 0} == settled(exporter, 3)
    assert exporter.standing(SystemClock().now())["traces"].losing_since is not None


def test_a_collector_that_is_away_costs_nobody_anything(started: Callable[..., Exporter]) -> None:
    """With nobody listening the queue keeps its newest, counts the rest, and the end comes in time."""
    exporter = started(replace(destination("http://127.0.0.1:9"), signals=frozenset({"traces"}), queue=64))
    for number in range(200):
        exporter.span(span(number))
    waits = exporter.waiting()["traces"]

    def standing() -> SignalStanding:
        return exporter.standing(SystemClock().now())["traces"]

    wait_until(lambda: standing().untaken_since is not None, within=PATIENCE, what="a try that failed")
    assert standing().losing_since is not None
    exporter.stop()
    assert exporter.standing(SystemClock().now() + LOSING_FOR)["traces"].losing_since is None
    counted = exporter.counts()
    assert (True, 0) == (waits <= 64, counted["traces", "sent"])
    assert 200 == counted["traces", "dropped"] + exporter.waiting()["traces"]


def test_a_collector_that_hangs_delays_neither_telling_nor_the_end(collector: Collector) -> None:
    """While a request is not answered everything else can be told, and the end does not wait for it."""
    collector.hangs = True
    exporter = Exporter(replace(destination(collector.endpoint), queue=64), clock=SystemClock())
    exporter.start(tuple)
    exporter.span(span())
    assert collector.wait_for(lambda: bool(collector.asked))
    ended = threading.Event()

    def tell_and_end() -> None:
        for number in range(BATCH):
            exporter.span(span(number))
            exporter.line(LINE)
        exporter.stop(timedelta(milliseconds=100))
        ended.set()

    threading.Thread(target=tell_and_end, daemon=True).start()
    assert ended.wait(20.0), "somebody waited for the collector"
    # One request is under way with the first span; of the rest the newest 64 wait.
    assert BATCH - 64 <= exporter.counts()["traces", "dropped"] <= BATCH - 63


def test_what_waits_is_sent_at_the_end(collector: Collector) -> None:
    """Ending sends what was told last, without waiting for its turn."""
    exporter = Exporter(replace(destination(collector.endpoint), export_every=timedelta(hours=1)), clock=SystemClock())
    exporter.start(tuple)
    exporter.span(span())
    exporter.line(LINE)
    exporter.stop(PATIENCE)
    assert (1, 1) == (len(collector.spans), len(collector.lines))


def settled(exporter: Exporter, items: int) -> dict[tuple[str, str], int]:
    """Return the counts once all *items* are accounted for: an answer is counted just after it was given."""
    done = threading.Event()
    for _ in range(3000):
        counted = exporter.counts()
        if sum(counted.values()) >= items:
            return counted
        done.wait(0.02)
    return exporter.counts()
