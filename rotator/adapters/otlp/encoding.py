"""
Spans, lines and readings as OTLP's binary messages.

Rules that must stay true here:

- The only module that names OpenTelemetry's messages; imported when something is sent, never at the start of a command.
- Pure: the same facts give the same bytes. Texts are bounded, so that one line cannot fill a request.
- Metric names and labels are the catalogue's, so that Prometheus and a collector show the same series.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from rotator import __version__
from rotator.ports import Line, Reading, Span

LONGEST_TEXT = 8_192
"""Characters of one attribute."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEVERITIES = {
    "debug": SeverityNumber.SEVERITY_NUMBER_DEBUG,
    "info": SeverityNumber.SEVERITY_NUMBER_INFO,
    "warning": SeverityNumber.SEVERITY_NUMBER_WARN,
    "error": SeverityNumber.SEVERITY_NUMBER_ERROR,
    "critical": SeverityNumber.SEVERITY_NUMBER_FATAL,
}
_SAMPLED = 1


def traces(spans: Iterable[Span], resource: Mapping[str, str]) -> bytes:
    """Return *spans* as one request's body."""
    told = trace_pb2.ResourceSpans(
        resource=_resource(resource),
        scope_spans=[trace_pb2.ScopeSpans(scope=_scope(), spans=[_span(each) for each in spans])],
    )
    return bytes(ExportTraceServiceRequest(resource_spans=[told]).SerializeToString())


def logs(lines: Iterable[Line], resource: Mapping[str, str]) -> bytes:
    """Return *lines* as one request's body."""
    told = ResourceLogs(
        resource=_resource(resource),
        scope_logs=[ScopeLogs(scope=_scope(), log_records=[_record(each) for each in lines])],
    )
    return bytes(ExportLogsServiceRequest(resource_logs=[told]).SerializeToString())


def metrics(readings: Iterable[Reading], resource: Mapping[str, str], *, since: datetime, at: datetime) -> bytes:
    """Return *readings* of the moment *at* as one request's body; counters have counted since *since*."""
    by_name: dict[str, list[Reading]] = {}
    for each in readings:
        by_name.setdefault(each.name, []).append(each)
    told = pb.ResourceMetrics(
        resource=_resource(resource),
        scope_metrics=[
            pb.ScopeMetrics(scope=_scope(), metrics=[_metric(each, since, at) for each in by_name.values()])
        ],
    )
    return bytes(ExportMetricsServiceRequest(resource_metrics=[told]).SerializeToString())


def refused(signal: str, answer: bytes) -> int:
    """Return how many of a request's items the collector refused, by its *answer*; 0 if it says nothing of it."""
    try:
        match signal:
            case "traces":
                return int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans)
            case "logs":
                return int(ExportLogsServiceResponse.FromString(answer).partial_success.rejected_log_records)
            case _:
                return int(ExportMetricsServiceResponse.FromString(answer).partial_success.rejected_data_points)
    except ValueError:
        # Not every collector answers in OTLP's words; the status has said that it took them.
        return 0


def _span(span: Span) -> trace_pb2.Span:
    failed = bool(span.error)
    code = trace_pb2.Status.StatusCode.STATUS_CODE_ERROR if failed else trace_pb2.Status.StatusCode.STATUS_CODE_UNSET
    return trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id or ""),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.SPAN_KIND_INTERNAL,
        start_time_unix_nano=_nanoseconds(span.began),
        end_time_unix_nano=_nanoseconds(max(span.ended, span.began)),
        attributes=_attributes(span.attributes),
        status=trace_pb2.Status(code=code, message=_text(span.error)),
        links=[
            trace_pb2.Span.Link(trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(each), flags=_SAMPLED)
            for trace, each in span.links
        ],
        flags=_SAMPLED,
    )


def _record(line: Line) -> LogRecord:
    at = _nanoseconds(line.at)
    return LogRecord(
        time_unix_nano=at,
        observed_time_unix_nano=at,
        severity_number=_SEVERITIES.get(line.level, SeverityNumber.SEVERITY_NUMBER_UNSPECIFIED),
        severity_text=line.level.upper(),
        body=AnyValue(string_value=_text(line.event)),
        event_name=_text(line.event),
        attributes=_attributes(line.fields),
        trace_id=bytes.fromhex(line.trace_id or ""),
        span_id=bytes.fromhex(line.span_id or ""),
        flags=_SAMPLED if line.trace_id else 0,
    )


def _metric(readings: Sequence[Reading], since: datetime, at: datetime) -> pb.Metric:
    first = readings[0]
    begun, now = _nanoseconds(since), _nanoseconds(at)
    metric = pb.Metric(name=first.name, description=first.sentence)
    cumulative = pb.AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    if first.kind == "histogram":
        metric.histogram.CopyFrom(
            pb.Histogram(
                aggregation_temporality=cumulative, data_points=[_histogram(each, begun, now) for each in readings]
            )
        )
        return metric
    points = [
        pb.NumberDataPoint(
            attributes=_attributes(each.labels),
            start_time_unix_nano=begun if first.kind == "counter" else 0,
            time_unix_nano=now,
            as_double=each.value,
        )
        for each in readings
    ]
    if first.kind == "counter":
        metric.sum.CopyFrom(pb.Sum(data_points=points, aggregation_temporality=cumulative, is_monotonic=True))
    else:
        metric.gauge.CopyFrom(pb.Gauge(data_points=points))
    return metric


def _histogram(reading: Reading, begun: int, now: int) -> pb.HistogramDataPoint:
    up_to = [count for _, count in reading.buckets]
    return pb.HistogramDataPoint(
        attributes=_attributes(reading.labels),
        start_time_unix_nano=begun,
        time_unix_nano=now,
        count=up_to[-1] if up_to else 0,
        sum=reading.value,
        # Prometheus counts up to a bound, OTLP between two of them.
        bucket_counts=[count - before for count, before in zip(up_to, [0, *up_to], strict=False)],
        explicit_bounds=[bound for bound, _ in reading.buckets if not math.isinf(bound)],
    )


def _resource(attributes: Mapping[str, str]) -> Resource:
    return Resource(attributes=_attributes(attributes))


def _scope() -> InstrumentationScope:
    return InstrumentationScope(name="rotator", version=__version__)


def _attributes(given: Mapping[str, object]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in given.items() if value is not None]


def _value(value: object) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int() if abs(value) < 1 << 63:
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=_text(value))
        case datetime() | timedelta():
            return AnyValue(string_value=str(value))
        case _:
            return AnyValue(string_value=_text(json.dumps(value, default=str, sort_keys=True)))


def _text(text: str) -> str:
    # A lone surrogate, as a file name may hold, has no UTF-8.
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8")


def _nanoseconds(moment: datetime) -> int:
    return max(0, (moment - _EPOCH) // timedelta(microseconds=1) * 1_000)
