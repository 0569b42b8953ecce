"""
A collector that answers as it is told: the other side of `rotator.adapters.otlp`, by OpenTelemetry's own messages.

Rules that must stay true here:

- It reads requests as a collector does: binary OTLP, perhaps compressed, by path; what it cannot read it answers 400.
- Nothing sleeps: a test waits on what arrives, and lets go what hangs.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE = timedelta(seconds=60)


class Collector:
    """Listens on this machine and keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.lines: list[Any] = []
        self.metrics: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.asked: list[str] = []
        """Path of each request, also of those that were not taken."""
        self.answers: Callable[[str], tuple[int, bytes]] = lambda _path: (200, b"")
        self.let_go = threading.Event()
        """Set: requests that hang are answered."""
        self.hangs = False
        self._changed = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.hangs:
                    outer.note(self.path)
                    outer.let_go.wait(PATIENCE.total_seconds())
                status, answer = outer.answers(self.path)
                if status == 200:
                    packed = self.headers.get("Content-Encoding") == "gzip"
                    outer.take(self.path, gzip.decompress(body) if packed else body, dict(self.headers))
                elif not outer.hangs:
                    outer.note(self.path)
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    # Whoever asked has gone: that is what some tests are about.
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's own name
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """Return its base address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def note(self, path: str) -> None:
        """Count a request."""
        with self._changed:
            self.asked.append(path)
            self._changed.notify_all()

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Read one request."""
        with self._changed:
            match path:
                case "/v1/traces":
                    for told in ExportTraceServiceRequest.FromString(body).resource_spans:
                        self._resource(told)
                        self.spans += [span for scope in told.scope_spans for span in scope.spans]
                case "/v1/logs":
                    for lines in ExportLogsServiceRequest.FromString(body).resource_logs:
                        self._resource(lines)
                        self.lines += [line for scope in lines.scope_logs for line in scope.log_records]
                case _:
                    for read in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                        self._resource(read)
                        self.metrics += [metric for scope in read.scope_metrics for metric in scope.metrics]
            self.headers.append(headers)
            self.asked.append(path)
            self._changed.notify_all()

    def _resource(self, told: Any) -> None:
        self.resources.append({each.key: each.value.string_value for each in told.resource.attributes})

    def wait_for(self, holds: Callable[[], bool]) -> bool:
        """Wait until *holds* after a request; return whether it came true."""
        with self._changed:
            return self._changed.wait_for(holds, PATIENCE.total_seconds())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE.total_seconds())


def attributes(told: Any) -> dict[str, Any]:
    """Return the attributes of a span, line or point as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in told.attributes}
