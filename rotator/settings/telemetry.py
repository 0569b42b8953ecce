"""
How the file says where traces, metrics and logs are sent over OTLP.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- A secret is named by its file and never stands here.
- Credentials never go over plain HTTP, but on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints

from rotator.settings.document import Document, Place
from rotator.settings.keys import Keys
from rotator.settings.values import (
    AbsolutePath,
    OpenText,
    PositiveDuration,
    SecretFile,
    WebURL,
    is_this_machine,
)

_SECOND = timedelta(seconds=1)

Signal = Literal["traces", "metrics", "logs"]
AttributeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$", max_length=100)]
SET_BY_ROTATOR: Final = frozenset(
    {"service.name", "service.version", "service.instance.id", "deployment.environment.name"}
)
"""Resource attributes that rotator itself knows best."""


class OTLP(Keys):
    """One collector, by OTLP over HTTP."""

    endpoint: WebURL
    """The collector's base address, as https://collector:4318; /v1/traces, /v1/metrics and /v1/logs follow it."""
    protocol: Literal["http/protobuf"] = "http/protobuf"
    """OTLP's binary form over HTTP; gRPC is not spoken."""
    signals: tuple[Signal, ...] = Field(default=("traces", "metrics", "logs"), min_length=1)
    """What is sent."""
    headers_file: SecretFile | None = None
    """File of headers that are sent along, one a line (Authorization: Bearer ...); read again at each request."""
    ca_file: AbsolutePath | None = None
    """CA certificates that sign the collector's own; the system's if not given."""
    client_certificate_file: AbsolutePath | None = None
    """Client certificate, where the collector asks for one; read again when it changes."""
    client_key_file: SecretFile | None = None
    """Its key; both or neither."""
    compression: Literal["gzip", "none"] = "gzip"
    """How bodies are sent."""
    timeout: PositiveDuration = 10 * _SECOND
    """Of one request."""
    export_every: PositiveDuration = 5 * _SECOND
    """How long spans and lines are gathered before they are sent."""
    metrics_every: PositiveDuration = 60 * _SECOND
    """How often the metrics are read and sent."""
    queue: int = Field(default=4096, ge=64, le=1_000_000, strict=True)
    """Most spans, and most lines, that wait for the collector; beyond it the oldest are dropped and counted."""
    resource: Mapping[AttributeName, OpenText] = Field(default_factory=dict)
    """Resource attributes beside the ones that rotator sets itself."""


class Telemetry(Keys):
    """What rotator tells of itself beyond its log and its HTTP service."""

    otlp: OTLP | None = None
    """A collector for traces, metrics and logs; none if not given."""


def check_telemetry(telemetry: Telemetry, document: Document) -> None:
    """Note in *document* what cannot work in ``telemetry``."""
    otlp = telemetry.otlp
    if otlp is None:
        return
    place: Place = ("telemetry", "otlp")
    if (otlp.client_certificate_file is None) != (otlp.client_key_file is None):
        document.refuse(
            place, "found one of client_certificate_file and client_key_file; allowed both or neither; do name both"
        )
    parts = urlsplit(otlp.endpoint)
    if parts.scheme == "http" and otlp.headers_file is not None and not is_this_machine(parts.hostname or ""):
        document.refuse(
            (*place, "headers_file"),
            f"found credentials and {otlp.endpoint}; allowed https://, or http:// on this machine; do use https",
        )
    for signal in ("traces", "metrics", "logs"):
        if parts.path.rstrip("/").endswith(f"/v1/{signal}"):
            document.refuse(
                (*place, "endpoint"),
                f"found {otlp.endpoint}; allowed the address before /v1/{signal}; do leave that out: it is added",
            )
    if len(set(otlp.signals)) != len(otlp.signals):
        document.refuse((*place, "signals"), "found one twice; allowed each once; do remove it")
    for name in otlp.resource:
        if name in SET_BY_ROTATOR:
            document.refuse(
                (*place, "resource", name),
                f"found {name}; allowed what rotator does not set itself ({', '.join(sorted(SET_BY_ROTATOR))}); "
                "do remove it",
            )
