"""Where traces, metrics and logs are sent: what is refused, and that nothing is sent unless it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotator.settings import load
from tests.settings.test_load import BASE, complaints


def written(tmp_path: Path, telemetry: str) -> Path:
    """Write a good file with *telemetry*, a flow mapping."""
    path = tmp_path / "rotator.yaml"
    path.write_text(f"{BASE}telemetry: {telemetry}\n")
    return path


def test_nothing_is_sent_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Without the key there is no collector."""
    path = tmp_path / "rotator.yaml"
    path.write_text(BASE)
    assert load(path).telemetry.otlp is None


def test_an_address_is_enough(tmp_path: Path) -> None:
    """Everything else has a default: all three signals, compressed."""
    otlp = load(written(tmp_path, "{otlp: {endpoint: 'https://collector.example:4318'}}")).telemetry.otlp
    assert otlp is not None
    assert (("traces", "metrics", "logs"), "gzip", 4096) == (otlp.signals, otlp.compression, otlp.queue)


REFUSED = {
    "a secret over plain HTTP": (
        "endpoint: 'http://collector.example:4318', headers_file: /etc/headers",
        "telemetry.otlp.headers_file: found credentials and http://collector.example:4318",
    ),
    "half a client certificate": (
        "endpoint: 'https://collector.example:4318', client_key_file: /etc/key",
        "telemetry.otlp: found one of client_certificate_file and client_key_file",
    ),
    "the whole path": (
        "endpoint: 'https://collector.example:4318/v1/traces'",
        "telemetry.otlp.endpoint: found https://collector.example:4318/v1/traces; allowed the address before",
    ),
    "gRPC": ("endpoint: 'https://collector.example:4317', protocol: grpc", "telemetry.otlp.protocol: found grpc"),
    "what rotator says itself": (
        "endpoint: 'https://collector.example:4318', resource: {service.name: other}",
        "telemetry.otlp.resource.service.name: found service.name",
    ),
    "a signal twice": (
        "endpoint: 'https://collector.example:4318', signals: [logs, logs]",
        "telemetry.otlp.signals: found one twice",
    ),
}


@pytest.mark.parametrize(("otlp", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused(tmp_path: Path, otlp: str, says: str) -> None:
    """The refusal names the key, what was found, what is allowed and what to do."""
    found = complaints(written(tmp_path, f"{{otlp: {{{otlp}}}}}"))
    assert any(says in each for each in found), found
