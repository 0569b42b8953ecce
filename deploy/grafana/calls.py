"""
The Grafana dashboard of calls as code: run it to write ``calls.json`` beside it.

Latency between Airflow's components and the services they call, refusals, lost handshakes, and from there to lines,
traces and rotations.

Rules that must stay true here:

- Pure: the same code, the same JSON. A test compares the two, and asks a real Prometheus that has scraped real Envoys
  every query of them.
- Metrics are Envoy's own, as MeshMetric sends them; what tells proxies apart is chosen at the top, because that label
  is the collector's and Prometheus' and not Envoy's.
- Nothing needs a plugin.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("calls.json")

JSON = dict[str, Any]

_PROMETHEUS: Final = {"type": "prometheus", "uid": "${datasource}"}
_LOKI: Final = {"type": "loki", "uid": "${logs}"}
_TO: Final = 'envoy_cluster_name=~"$destination"'
_LATE: Final = {"mode": "absolute", "steps": [{"value": None, "color": "green"}, {"value": 1000, "color": "red"}]}
REFUSED_LINES: Final = '{service_name=~".+"} | mesh_refused="true"'
_NOT_ACCEPTED: Final = (
    ("cluster", "error", "did not accept the called one"),
    ("cluster", "san", "met somebody else"),
    ("listener", "error", "did not accept the caller"),
    ("listener", "san", "does not know the caller"),
)
BROKEN_LINES: Final = '{service_name=~".+"} | envoy_response_flags=~".*(UF|UAEX|URX|UC|NR).*"'


def _target(expression: str, legend: str) -> JSON:
    return {
        "datasource": _PROMETHEUS,
        "expr": expression,
        "legendFormat": legend,
        "instant": False,
        "range": True,
        "format": "time_series",
    }


def _graph(
    title: str,
    targets: list[JSON],
    *,
    at: tuple[int, int, int, int],
    unit: str,
    description: str,
    thresholds: JSON | None = None,
) -> JSON:
    x, y, width, height = at
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": _PROMETHEUS,
        "targets": [{**each, "refId": chr(ord("A") + number)} for number, each in enumerate(targets)],
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                "custom": {"lineWidth": 1},
                **({"thresholds": thresholds} if thresholds is not None else {}),
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _lines(title: str, expression: str, *, at: tuple[int, int, int, int], description: str) -> JSON:
    """Return a panel of lines; each opens its trace, where the logs' data source knows the field (datasources.yaml)."""
    x, y, width, height = at
    return {
        "type": "logs",
        "title": title,
        "description": description,
        "datasource": _LOKI,
        "targets": [{"datasource": _LOKI, "expr": expression, "queryType": "range", "refId": "A"}],
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "options": {"showTime": True, "enableLogDetails": True, "sortOrder": "Descending", "wrapLogMessage": True},
    }


def _quantiles(metric: str, where: str, by: str, legend: str) -> list[JSON]:
    rates = f"sum by (le, {by}) (rate({metric}_bucket{where}[$__rate_interval]))"
    return [_target(f"histogram_quantile(0.{share}, {rates})", f"{legend} p{share}") for share in (50, 95, 99)]


def panels() -> list[JSON]:
    """Return every panel, top to bottom."""
    to = f"{{{_TO}}}"
    return [
        _graph(
            "How long services take, by who is called",
            _quantiles("envoy_cluster_upstream_rq_time", to, "envoy_cluster_name", "{{envoy_cluster_name}}"),
            at=(0, 0, 12, 9), unit="ms", thresholds=_LATE,
            description="Seen by the callers' proxies: from the request's end to the answer's. Milliseconds.",
        ),
        _graph(
            "How long services take, by who calls",
            _quantiles("envoy_cluster_upstream_rq_time", to, "$by", "{{$by}}"),
            at=(12, 0, 12, 9), unit="ms", thresholds=_LATE,
            description="The same, by the label that is chosen at the top. Milliseconds.",
        ),
        _graph(
            "How long calls take where they arrive",
            _quantiles("envoy_http_downstream_rq_time", "", "$by", "{{$by}}"),
            at=(0, 9, 8, 8), unit="ms",
            description="Seen by the called proxies. Much less than the callers see: the way between is slow.",
        ),
        _graph(
            "Answers by code",
            [
                _target(
                    f"sum by (envoy_cluster_name, envoy_response_code_class) "
                    f"(rate(envoy_cluster_upstream_rq_xx{to}[$__rate_interval]))",
                    "{{envoy_cluster_name}} {{envoy_response_code_class}}xx",
                )
            ],
            at=(8, 9, 8, 8), unit="reqps", description="4xx holds the refusals too.",
        ),
        _graph(
            "Refused by permission",
            [
                _target("sum by ($by) (rate(envoy_http_rbac_denied[$__rate_interval]))", "{{$by}} refused"),
                _target("sum by ($by) (rate(envoy_http_rbac_allowed[$__rate_interval]))", "{{$by}} let in"),
            ],
            at=(16, 9, 8, 8), unit="reqps", description="By MeshTrafficPermission, where the calls arrive.",
        ),
        _graph(
            "Handshakes that failed",
            [
                *(
                    _target(
                        f"sum by ($by) (rate(envoy_{side}_ssl_fail_verify_{why}[$__rate_interval]))",
                        f"{{{{$by}}}} {says}",
                    )
                    for side, why, says in _NOT_ACCEPTED
                ),
                _target(
                    f"sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_cx_connect_fail{to}[$__rate_interval]))",
                    "{{envoy_cluster_name}} connections lost",
                ),
            ],
            at=(0, 17, 12, 8), unit="cps",
            description="A certificate that was not accepted: expired, of another CA or name. See the last rotation.",
        ),
        _graph(
            "Rotations ended",
            [
                _target(
                    "sum by (kind, result) (increase(rotator_rotations_total[$__rate_interval]))",
                    "{{kind}} {{result}}",
                )
            ],
            at=(12, 17, 12, 8), unit="none", description="Whatever changes with these lines up is rotator's doing.",
        ),
        _lines(
            "Refused calls", REFUSED_LINES, at=(0, 25, 12, 10),
            description="Who (spiffe_id), with which certificate (certificate_serial): rotator explain --serial. "
            "The trace id opens the task.",
        ),
        _lines(
            "Calls that broke", BROKEN_LINES, at=(12, 25, 12, 10),
            description="Flags: UF no connection or handshake, UC connection lost, NR no route.",
        ),
    ]  # fmt: skip


def _query(name: str, label: str, query: str) -> JSON:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _PROMETHEUS,
        "query": query,
        "definition": query,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def dashboard() -> JSON:
    """Return the whole dashboard as Grafana imports it."""
    found = [{**panel, "id": number} for number, panel in enumerate(panels(), start=1)]
    labels = ("instance", "service_name", "kuma_io_service", "dataplane", "job")
    return {
        "uid": "rotator-calls",
        "title": "rotator: calls",
        "description": "Latency between Airflow's components and the services they call; refusals and the way on.",
        "tags": ["rotator", "mesh", "airflow"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "editable": False,
        "annotations": {
            "list": [
                {
                    "name": "Rotations",
                    "datasource": _PROMETHEUS,
                    "enable": True,
                    "iconColor": "purple",
                    "expr": "sum by (kind, result) (increase(rotator_rotations_total[1m])) > 0",
                    "titleFormat": "rotation of a {{kind}}: {{result}}",
                    "step": "60s",
                }
            ]
        },
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"},
                {"type": "datasource", "name": "logs", "label": "Loki", "query": "loki"},
                _query(
                    "destination", "Called", "label_values(envoy_cluster_upstream_rq_time_count, envoy_cluster_name)"
                ),
                {
                    "type": "custom",
                    "name": "by",
                    "label": "Proxies by",
                    "query": ",".join(labels),
                    "options": [
                        {"text": each, "value": each, "selected": not number} for number, each in enumerate(labels)
                    ],
                    "current": {"text": labels[0], "value": labels[0]},
                },
            ]
        },
        "panels": found,
    }


def text() -> str:
    """Return what stands in `FILE`."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
