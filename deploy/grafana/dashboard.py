"""
The Grafana dashboard as code: run it to write ``rotator.json`` beside it.

Rules that must stay true here:

- Pure: the same code, the same JSON. A test compares the two, and asks a real Prometheus every query.
- What is wrong stands at the top; every panel says its unit; nothing needs a plugin.
- Queries drop what differs between replicas, so that a fail-over is no gap with another colour.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("rotator.json")

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WHERE: Final = 'job=~"$job",namespace=~"$namespace"'
_ENDS: Final = "rotator_certificate_not_after_seconds{WHERE} or rotator_managed_token_not_after_seconds{WHERE}"
_USED: Final = "rotator_certificate_lifetime_used_ratio{WHERE} or rotator_managed_token_lifetime_used_ratio{WHERE}"
_GREEN, _YELLOW, _RED = "green", "yellow", "red"

JSON = dict[str, Any]


def _target(expression: str, legend: str = "", *, table: bool = False) -> JSON:
    return {
        "datasource": _SOURCE,
        "expr": expression.replace("WHERE", _WHERE),
        "legendFormat": legend or "__auto",
        "instant": table,
        "range": not table,
        "format": "table" if table else "time_series",
        "refId": "A",
    }


def _steps(*steps: tuple[float | None, str]) -> JSON:
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]}


def _panel(kind: str, title: str, targets: list[JSON], *, at: tuple[int, int, int, int], **more: Any) -> JSON:  # noqa: ANN401 -- Grafana's own fields
    """Return one panel *at* (x, y, width, height) of the 24 columns."""
    x, y, width, height = at
    for number, target in enumerate(targets):
        target["refId"] = chr(ord("A") + number)
    return {
        "type": kind,
        "title": title,
        "datasource": _SOURCE,
        "targets": targets,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        **more,
    }


def _figure(
    title: str, expression: str, *, at: tuple[int, int, int, int], unit: str, steps: JSON, description: str
) -> JSON:
    return _panel(
        "stat",
        title,
        [_target(expression)],
        at=at,
        description=description,
        fieldConfig={"defaults": {"unit": unit, "thresholds": steps, "noValue": "none"}, "overrides": []},
        options={"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
    )


def _graph(
    title: str,
    targets: list[JSON],
    *,
    at: tuple[int, int, int, int],
    unit: str,
    description: str,
    **custom: Any,  # noqa: ANN401 -- Grafana's own fields
) -> JSON:
    return _panel(
        "timeseries",
        title,
        targets,
        at=at,
        description=description,
        fieldConfig={"defaults": {"unit": unit, "min": 0, "custom": {"lineWidth": 1, **custom}}, "overrides": []},
        options={
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def _table(title: str, expression: str, *, at: tuple[int, int, int, int], unit: str, description: str) -> JSON:
    return _panel(
        "table",
        title,
        [_target(expression, table=True)],
        at=at,
        description=description,
        fieldConfig={"defaults": {"unit": unit}, "overrides": []},
        transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True, "job": True}}}],
        options={"sortBy": [{"displayName": "Value", "desc": False}]},
    )


def _variable(name: str, label: str, query: str) -> JSON:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _SOURCE,
        "query": query,
        "definition": query,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def panels() -> list[JSON]:
    """Return every panel, top to bottom."""
    good_is_none = _steps((None, _GREEN), (1, _RED))
    return [
        _figure(
            "Leaders", "sum(rotator_leader{WHERE})", at=(0, 0, 3, 4), unit="none",
            steps=_steps((None, _RED), (1, _GREEN), (2, _RED)), description="One is right, whatever the replicas.",
        ),
        _figure(
            "Alerts raised", "count(rotator_alert{WHERE}) or vector(0)", at=(3, 0, 3, 4), unit="none",
            steps=_steps((None, _GREEN), (1, _YELLOW)), description="What rotator itself tells people of.",
        ),
        _figure(
            "Past safety line",
            "count((time() > max by (subject) (rotator_safety_line_seconds{WHERE})) "
            f"and max by (subject) ({_ENDS})) or vector(0)",
            at=(6, 0, 3, 4), unit="none", steps=good_is_none,
            description="Certificates and tokens that should have been renewed already.",
        ),
        _figure(
            "Next end of life", f"min({_ENDS}) - time()", at=(9, 0, 3, 4), unit="s",
            steps=_steps((None, _RED), (0, _YELLOW), (300, _GREEN)), description="Of what ends first.",
        ),
        _figure(
            "Last sweep",
            "time() - max(rotator_sweep_timestamp_seconds{WHERE} and on (instance) rotator_leader{WHERE} == 1)",
            at=(12, 0, 3, 4), unit="s", steps=_steps((None, _GREEN), (60, _YELLOW), (120, _RED)),
            description="How long ago everything was looked at.",
        ),
        _figure(
            "Log signed", "time() - max(rotator_ledger_checkpoint_timestamp_seconds{WHERE})",
            at=(15, 0, 3, 4), unit="s",
            steps=_steps((None, _GREEN), (240, _YELLOW), (660, _RED)),
            description="How long ago the evidence log was signed.",
        ),
        _figure(
            "Records outside", "max(rotator_ledger_spooled_records{WHERE})", at=(18, 0, 3, 4), unit="none",
            steps=good_is_none, description="Evidence records that wait outside the ledger.",
        ),
        _figure(
            "Certificates", 'max(rotator_subjects{WHERE,kind="certificate"})', at=(21, 0, 3, 4), unit="none",
            steps=_steps((None, "blue")), description="In the configuration.",
        ),
        _graph(
            "Used life, the most used",
            [_target(f"topk(10, max by (subject) ({_USED}))", "{{subject}}")],
            at=(0, 4, 12, 8), unit="percentunit",
            description="A saw tooth that turns at the renewal. What climbs on is not renewed.",
        ),
        _graph(
            "Overdue renewals",
            [_target("topk(10, max by (subject) (rotator_renewal_overdue_seconds{WHERE}) > 0)", "{{subject}}")],
            at=(12, 4, 12, 8), unit="s", description="Since when a renewal could have begun and has not.",
        ),
        _graph(
            "Rotations ended, an hour",
            [_target("sum by (kind, result) (increase(rotator_rotations_total{WHERE}[1h]))", "{{kind}} {{result}}")],
            at=(0, 12, 8, 7), unit="none", description="By kind and result.",
        ),
        _graph(
            "How long rotations take",
            [
                _target(
                    f"histogram_quantile(0.{share}, "
                    "sum by (le, kind) (rate(rotator_rotation_seconds_bucket{WHERE}[1h])))",
                    f"{{{{kind}}}} p{share}",
                )
                for share in (50, 95)
            ],
            at=(8, 12, 8, 7), unit="s", description="From the intent to the last proof.",
        ),
        _graph(
            "Waiting for", [_target("max by (subject) (rotator_waiting_on{WHERE}) > 0", "{{subject}}")],
            at=(16, 12, 8, 7), unit="none", description="How many parties a rotation waits for.",
        ),
        _graph(
            "CA generations",
            [
                _target(
                    "max by (trust_domain, generation) (rotator_issuer_not_after_seconds{WHERE}) - time()",
                    "{{trust_domain}} {{generation}}",
                )
            ],
            at=(0, 19, 8, 7), unit="s", description="What is left of each.",
        ),
        _panel(
            "state-timeline", "Phases of trust domains",
            [_target("max by (trust_domain, phase) (rotator_trust_domain_phase{WHERE})", "{{trust_domain}} {{phase}}")],
            at=(8, 19, 8, 7), description="Where each rotation of a CA stood when.",
            fieldConfig={"defaults": {"custom": {"fillOpacity": 70}}, "overrides": []},
        ),
        _graph(
            "Drains and tasks",
            [
                _target("max by (workload) (rotator_tasks_running{WHERE})", "{{workload}} tasks"),
                _target(
                    "histogram_quantile(0.95, sum by (le, workload) (rate(rotator_drain_seconds_bucket{WHERE}[6h])))",
                    "{{workload}} drain p95",
                ),
            ],
            at=(16, 19, 8, 7), unit="none", description="Tasks on members under drain, and how long drains take (s).",
        ),
        _graph(
            "Requests to issuers",
            [_target("sum by (result) (rate(rotator_issuer_requests_total{WHERE}[5m]))", "{{result}}")],
            at=(0, 26, 8, 7), unit="reqps", description="By how they went.",
        ),
        _graph(
            "Logins",
            [_target("max by (issuer) (rotator_token_not_after_seconds{WHERE}) - time()", "{{issuer}}")],
            at=(8, 26, 8, 7), unit="s", description="What is left of each token.",
        ),
        _graph(
            "Notices",
            [
                _target(
                    "sum by (receiver, result) (increase(rotator_notices_total{WHERE}[1h]))", "{{receiver}} {{result}}"
                ),
                _target("sum by (receiver) (rotator_notices_waiting{WHERE})", "{{receiver}} waiting"),
            ],
            at=(16, 26, 8, 7), unit="none", description="What became of what people should know.",
        ),
        _table(
            "Ends first", f"bottomk(25, max by (subject) ({_ENDS}) - time())",
            at=(0, 33, 8, 9), unit="s", description="Managed certificates and tokens.",
        ),
        _table(
            "Watched, ends first",
            "bottomk(25, max by (watched, kind) (rotator_watched_not_after_seconds{WHERE}) - time())",
            at=(8, 33, 8, 9), unit="s", description="Certificates that rotator does not manage.",
        ),
        _table(
            "Failing", "max by (subject) (rotator_failures_in_a_row{WHERE})", at=(16, 33, 8, 9), unit="none",
            description="Looks that failed in a row.",
        ),
        _graph(
            "Process",
            [
                _target("sum by (instance) (process_resident_memory_bytes{WHERE})", "{{instance}} memory"),
            ],
            at=(0, 42, 8, 7), unit="bytes", description="Resident memory of each replica.",
        ),
        _graph(
            "CPU", [_target("sum by (instance) (rate(process_cpu_seconds_total{WHERE}[5m]))", "{{instance}}")],
            at=(8, 42, 8, 7), unit="percentunit", description="Of one core.",
        ),
        _graph(
            "Ledger", [_target("max(rotator_ledger_size{WHERE})", "records")], at=(16, 42, 8, 7), unit="none",
            description="Records that are signed.",
        ),
    ]  # fmt: skip


def dashboard() -> JSON:
    """Return the whole dashboard as Grafana imports it."""
    found = panels()
    for number, panel in enumerate(found, start=1):
        panel["id"] = number
    return {
        "uid": "rotator",
        "title": "rotator",
        "description": "Certificates, CAs, rotations and the evidence log of rotator.",
        "tags": ["rotator", "certificates"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "editable": False,
        "annotations": {"list": []},
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"},
                _variable("job", "Job", "label_values(rotator_leader, job)"),
                _variable("namespace", "Namespace", "label_values(rotator_leader, namespace)"),
            ]
        },
        "panels": found,
    }


def text() -> str:
    """Return what stands in `FILE`."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
