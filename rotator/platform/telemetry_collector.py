"""
The collector's own configuration: takes what proxies, Airflow and rotator tell, makes it join, and sends it on.

Rules that must stay true here:

- Joined by one name for one fact: trace id, SPIFFE ID, certificate serial, dag, run and task are called the same in
  spans and lines, whoever told them.
- What is unknown is absent, not a dash: a search for a serial finds calls that had one.
- What may hold a secret goes no further: query strings and user names in URLs, cookies, authorizations.
- Memory is bounded; a store that is away is tried again, and what it does not take is the collector's to drop.
"""

from __future__ import annotations

from typing import Any, Final

from rotator.core.trace import SERIAL, SPIFFE_ID
from rotator.platform.model import Telemetry
from rotator.platform.telemetry import DETAILS, FLAGS, ISSUER, OWN_ID, STATUS

_URLS: Final = ("http.url", "url.full", "http.target", "url.path")
_EMPTY: Final = (
    SPIFFE_ID,
    SERIAL,
    ISSUER,
    OWN_ID,
    FLAGS,
    DETAILS,
    "certificate.sha256",
    "envoy.connection_termination",
    "envoy.downstream_failure",
    "envoy.upstream_failure",
    "envoy.upstream_cluster",
    "trace_id",
)
"""What Envoy writes as a dash, or as nothing, where it knows none."""


def collector_configuration(telemetry: Telemetry) -> dict[str, Any]:
    """Return the configuration, for a collector with the components of OpenTelemetry's contributed distribution."""
    exporter: dict[str, Any] = {"endpoint": telemetry.sends_to}
    if telemetry.authorization_from is not None:
        exporter["headers"] = {"Authorization": f"${{env:{telemetry.authorization_from}}}"}
    pipeline = {"receivers": ["otlp"], "exporters": ["otlphttp/store"]}
    return {
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": f"0.0.0.0:{telemetry.grpc_port}"},
                    "http": {"endpoint": f"0.0.0.0:{telemetry.http_port}"},
                }
            }
        },
        "processors": {
            "memory_limiter": {"check_interval": "1s", "limit_percentage": 75, "spike_limit_percentage": 20},
            "transform/join": {"error_mode": "ignore", "log_statements": _lines(), "trace_statements": _spans()},
            "batch": {"timeout": "1s"},
        },
        "exporters": {"otlphttp/store": exporter},
        "extensions": {"health_check": {"endpoint": "0.0.0.0:13133"}},
        "service": {
            "extensions": ["health_check"],
            "pipelines": {
                "traces": {**pipeline, "processors": ["memory_limiter", "transform/join", "batch"]},
                "logs": {**pipeline, "processors": ["memory_limiter", "transform/join", "batch"]},
                "metrics": {**pipeline, "processors": ["memory_limiter", "batch"]},
            },
        },
    }


def _lines() -> list[dict[str, Any]]:
    """Return what makes lines join: a trace where they name one, a serial as rotator writes it, no dashes."""
    trace, details, refused = _line("trace_id"), _line(DETAILS), _line("mesh.refused")
    whole = f'{trace} != nil and IsMatch({trace}, "^[0-9a-fA-F]{{32}}$")'
    statements = [
        *(f'delete_key(log.attributes, "{each}") where {_line(each)} == "-" or {_line(each)} == ""' for each in _EMPTY),
        *_plain_serial("log"),
        f'set(log.trace_id.string, ConvertCase({trace}, "lower")) where {whole}',
        'delete_key(log.attributes, "trace_id")',
        *(f"set({_line(each)}, Int({_line(each)})) where {_line(each)} != nil" for each in (STATUS, "duration_ms")),
        # A refusal is told apart from every other 403 by who gave it.
        f'set({refused}, true) where {details} != nil and IsMatch({details}, "^rbac_access_denied")',
        f"set(log.severity_number, SEVERITY_NUMBER_WARN) where {refused} == true",
        f'set(log.severity_text, "WARN") where {refused} == true',
    ]
    return [{"statements": statements}]


def _spans() -> list[dict[str, Any]]:
    """Return what makes spans join, and what they must not carry on."""
    urls = [f'span.attributes["{each}"]' for each in _URLS]
    own, pods = f'span.attributes["{SPIFFE_ID}"]', f'resource.attributes["{SPIFFE_ID}"]'
    statements = [
        *_plain_serial("span"),
        *(f'replace_pattern({each}, "[?#].*$", "") where {each} != nil' for each in urls),
        *(f'replace_pattern({each}, "//[^/@]*@", "//") where {each} != nil' for each in urls),
        'delete_matching_keys(span.attributes, "(?i)(cookie|authorization)")',
        # Whose pod it is, where Airflow says so of its process: a search for a SPIFFE ID finds its tasks.
        f"set({own}, {pods}) where {own} == nil and {pods} != nil",
    ]
    return [{"statements": statements}]


def _line(key: str) -> str:
    return f'log.attributes["{key}"]'


def _plain_serial(where: str) -> list[str]:
    """Return statements that write a serial as `rotator.pki` does: lower case, no colons, no zeros in front."""
    found = f'{where}.attributes["{SERIAL}"]'
    return [
        f'set({found}, ConvertCase({found}, "lower")) where {found} != nil',
        f'replace_pattern({found}, "[^0-9a-f]", "") where {found} != nil',
        f'replace_pattern({found}, "^0+", "") where {found} != nil',
    ]
