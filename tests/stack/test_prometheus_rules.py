"""
The rules for Prometheus under the real promtool: what fires when, what stays silent, and where each leads.

Rules that must stay true here:

- Every rule has a case in which it fires with exactly these labels and words, and a moment before at which it does not.
- One healthy installation, of leaves of an hour and a CA of a week, over two hours: nothing fires.
- promtool counts time from the epoch, so moments are small numbers of seconds.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from rotator.telemetry import METRICS, Metric
from tests.stack.cluster import BIN

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rotator.rules.yaml"
BASE = "https://rotator.example/runbooks/"

pytestmark = pytest.mark.stack

WHERE = {"job": "rotator", "namespace": "ops"}


def rules() -> dict[str, dict[str, Any]]:
    """Return every alert of the file by its name."""
    document = yaml.safe_load(RULES.read_text())
    return {rule["alert"]: rule for group in document["groups"] for rule in group["rules"]}


def series(name: str, values: str, *, instance: str = "a:8443", **labels: str) -> dict[str, str]:
    """Return one input series, a sample a minute."""
    written = ",".join(f'{key}="{value}"' for key, value in {**WHERE, "instance": instance, **labels}.items())
    return {"series": f"{name}{{{written}}}", "values": values}


def raised(kind: str, *, subject: str = "web", severity: str = "warning") -> dict[str, str]:
    """Return rotator's own word that something is so, from the tenth minute on."""
    return series("rotator_alert", "_x9 1x60", subject=subject, kind=kind, severity=severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One rule, what makes it fire, when, and when not yet."""

    alert: str
    given: Sequence[Mapping[str, str]]
    fires: str
    quiet: str
    labels: Mapping[str, str]
    summary: str
    where: Mapping[str, str] = field(default_factory=lambda: WHERE)


WEB = {"subject": "web"}
WINDOW = (
    series("rotator_renewal_opens_seconds", "1800x120", **WEB),
    series("rotator_safety_line_seconds", "3240x120", **WEB),
    series("rotator_certificate_not_after_seconds", "3600x120", **WEB),
    series("rotator_renewal_overdue_seconds", "0x30 60+60x90", **WEB),
)
KEYS = {"subject": "proxy-keys"}
PROXY = {"subject": "proxy"}
TOKEN_WINDOW = (
    series("rotator_renewal_opens_seconds", "1800x120", **PROXY),
    series("rotator_safety_line_seconds", "3240x120", **PROXY),
    series("rotator_managed_token_not_after_seconds", "3600x120", **PROXY),
    series("rotator_renewal_overdue_seconds", "0x30 60+60x90", **PROXY),
    series("rotator_managed_token_lifetime_used_ratio", "0+0.02x120", **PROXY),
)
OLD_CA = {"trust_domain": "prod", "generation": "7"}
LEADS = series("rotator_leader", "1x120")

CASES = (
    Case(
        alert="RotatorRenewalMissed", given=WINDOW, quiet="40m", fires="45m", labels={**WEB, "severity": "warning"},
        summary="web could have been renewed 15m 0s ago and was not",
    ),
    Case(
        alert="RotatorLifetimeUsed",
        given=(*WINDOW, series("rotator_certificate_lifetime_used_ratio", "0+0.02x120", **WEB)),
        quiet="40m", fires="45m", labels={**WEB, "severity": "warning"},
        summary="web has used 90% of its life and is not renewed",
    ),
    Case(
        alert="RotatorSafetyLineNear", given=WINDOW, quiet="50m", fires="52m", labels={**WEB, "severity": "warning"},
        summary="web has to be renewed within 2m 0s to be in use in time",
    ),
    Case(
        alert="RotatorSafetyLinePassed", given=WINDOW, quiet="54m", fires="55m", labels={**WEB, "severity": "critical"},
        summary="web should have been renewed 1m 0s ago; tries go on",
    ),
    Case(
        alert="RotatorExpired",
        given=(series("rotator_certificate_lifetime_used_ratio", "0+0.025x120", **WEB),),
        quiet="39m", fires="41m", labels={**WEB, "severity": "critical"},
        summary="web, or a certificate above it, has ended: its consumer is refused",
    ),
    Case(
        alert="RotatorRenewalMissed", given=TOKEN_WINDOW, quiet="40m", fires="45m",
        labels={**PROXY, "severity": "warning"}, summary="proxy could have been renewed 15m 0s ago and was not",
    ),
    Case(
        alert="RotatorLifetimeUsed", given=TOKEN_WINDOW, quiet="40m", fires="45m",
        labels={**PROXY, "severity": "warning"}, summary="proxy has used 90% of its life and is not renewed",
    ),
    Case(
        alert="RotatorSafetyLineNear", given=TOKEN_WINDOW, quiet="50m", fires="52m",
        labels={**PROXY, "severity": "warning"}, summary="proxy has to be renewed within 2m 0s to be in use in time",
    ),
    Case(
        alert="RotatorSafetyLinePassed", given=TOKEN_WINDOW, quiet="54m", fires="55m",
        labels={**PROXY, "severity": "critical"},
        summary="proxy should have been renewed 1m 0s ago; tries go on",
    ),
    Case(
        alert="RotatorTokenExpired", given=TOKEN_WINDOW, quiet="49m", fires="50m",
        labels={**PROXY, "severity": "critical"},
        summary="the token proxy has ended: who connects anew with it is refused",
    ),
    Case(
        alert="RotatorSigningKeyOverdue",
        given=(
            series("rotator_renewal_opens_seconds", "3600x240", **KEYS),
            series("rotator_signing_key_added_timestamp_seconds", "0x240", **KEYS),
            series("rotator_renewal_overdue_seconds", "0x60 60+60x90", **KEYS),
        ),
        quiet="66m", fires="69m", labels={**KEYS, "severity": "warning"},
        summary="the signing keys proxy-keys could have been rotated 9m 0s ago and were not",
    ),
    Case(
        alert="RotatorSigningKeyHeld", given=(raised("signing_key_held", subject="proxy-keys"),), quiet="5m",
        fires="10m", labels={**KEYS, "severity": "warning"},
        summary="the rotation of the signing keys proxy-keys waits longer than it should",
    ),
    Case(
        alert="RotatorSubjectFailing",
        given=(series("rotator_failures_in_a_row", "_x9 1 2 3x30", **WEB),),
        quiet="11m", fires="15m", labels={**WEB, "severity": "warning"},
        summary="web could not be looked at or moved 3 times in a row",
    ),
    Case(
        alert="RotatorConsumerUnproven", given=(raised("unproven"),), quiet="5m", fires="10m",
        labels={**WEB, "kind": "unproven", "severity": "warning"},
        summary="web is not seen in use as it is published (unproven)",
    ),
    Case(
        alert="RotatorIssuedTooOften", given=(raised("breaker_tripped", severity="critical"),), quiet="5m", fires="10m",
        labels={**WEB, "severity": "critical"},
        summary="nothing is issued for web any more: it was issued too often in a row",
    ),
    Case(
        alert="RotatorAuthorityLifetimeUsed",
        given=(
            series("rotator_issuer_lifetime_used_ratio", "0.79x9 0.85x30", **OLD_CA),
            series("rotator_issuer_signing", "1x60", **OLD_CA),
            # The one before has used its life up, as it should: it signs no more.
            series("rotator_issuer_lifetime_used_ratio", "0.99x60", trust_domain="prod", generation="6"),
            series("rotator_issuer_signing", "0x60", trust_domain="prod", generation="6"),
        ),
        quiet="9m", fires="12m", labels={**OLD_CA, "severity": "warning"},
        summary="the CA of prod has used 85% of its life and still signs",
    ),
    Case(
        alert="RotatorAuthorityNearlyEnded",
        given=(
            series("rotator_issuer_lifetime_used_ratio", "0.9x9 0.96x30", **OLD_CA),
            series("rotator_issuer_signing", "1x60", **OLD_CA),
        ),
        quiet="9m", fires="11m", labels={**OLD_CA, "severity": "critical"},
        summary="the CA of prod has used 96% of its life and still signs",
    ),
    Case(
        alert="RotatorAuthorityStopsSigning",
        given=(*WINDOW, series("rotator_safety_line_seconds", "600x120", subject="prod")),
        quiet="10m", fires="11m", labels={"subject": "prod", "severity": "critical"},
        summary="the CA of prod has too little life left to sign the longest leaf",
    ),
    Case(
        alert="RotatorAuthorityMissing", given=(raised("no_authority", subject="prod", severity="critical"),),
        quiet="5m", fires="10m", labels={"subject": "prod", "severity": "critical"}, summary="nobody may sign for prod",
    ),
    Case(
        alert="RotatorRotationStuck", given=(raised("trust_deadline", subject="prod"),), quiet="5m", fires="10m",
        labels={"subject": "prod", "kind": "trust_deadline", "severity": "warning"},
        summary="the CA rotation of prod does not go on (trust_deadline)",
    ),
    Case(
        alert="RotatorRotationsFail",
        given=(series("rotator_rotations_total", "0x10 1+1x60", kind="certificate", result="failed"),),
        quiet="10m", fires="20m", labels={"kind": "certificate", "severity": "warning"},
        summary="rotations of kind certificate fail again and again",
    ),
    Case(
        alert="RotatorIssuerChainEnding", given=(raised("issuer_ending", subject="corporate"),), quiet="5m",
        fires="10m", labels={"subject": "corporate", "severity": "warning"},
        summary="the corporate issuer corporate, or a certificate above it, comes near its end",
    ),
    Case(
        alert="RotatorRollHeld", given=(raised("roll_held", subject="workers"),), quiet="5m", fires="10m",
        labels={"subject": "workers", "kind": "roll_held", "severity": "warning"},
        summary="the roll of workers does not go on (roll_held)",
    ),
    Case(
        alert="RotatorWatchedEnding", given=(raised("watched_ending", subject="shop"),), quiet="5m", fires="10m",
        labels={"subject": "shop", "kind": "watched_ending", "severity": "warning"},
        summary="shop, which rotator does not manage, ends soon or has ended",
    ),
    Case(
        alert="RotatorWatchedUnreachable", given=(raised("watched_unreachable", subject="shop"),), quiet="5m",
        fires="10m", labels={"subject": "shop", "severity": "warning"},
        summary="shop, which is watched, was not seen for a while",
    ),
    Case(
        alert="RotatorPlatformDrifted", given=(raised("platform_drifted", subject="platform"),), quiet="5m",
        fires="10m", labels={"severity": "warning"}, summary="somebody else changed who may call what",
    ),
    Case(
        alert="RotatorPlatformHeld", given=(raised("platform_held", subject="platform"),), quiet="5m",
        fires="10m", labels={"severity": "warning"}, summary="a change of the platform has begun and does not end",
    ),
    Case(
        alert="RotatorLoginEnding",
        given=(
            series("rotator_token_not_after_seconds", "3600x120", issuer="corporate"),
            series("rotator_token_lifetime_seconds", "3600x120", issuer="corporate"),
        ),
        quiet="48m", fires="50m", labels={"issuer": "corporate", "severity": "warning"},
        summary="the login at corporate ends in 10m 0s and could not be renewed",
    ),
    Case(
        alert="RotatorLoginLost",
        given=(series("rotator_token_not_after_seconds", "3600x120", issuer="corporate"),),
        quiet="60m", fires="61m", labels={"issuer": "corporate", "severity": "critical"},
        summary="there is no login at corporate",
    ),
    Case(
        alert="RotatorLoginLost", given=(raised("login_lost", subject="corporate", severity="critical"),),
        quiet="5m", fires="10m", labels={"issuer": "corporate", "severity": "critical"},
        summary="there is no login at corporate",
    ),
    Case(
        alert="RotatorLedgerNotSigned",
        given=(
            series("rotator_ledger_checkpoint_timestamp_seconds", "0+60x10 600x60"),
            series("rotator_ledger_checkpoint_interval_seconds", "60x120"),
        ),
        quiet="14m", fires="16m", labels={"severity": "warning"},
        summary="the evidence log was not signed for 6m 0s",
    ),
    Case(
        alert="RotatorLedgerLongNotSigned",
        given=(
            series("rotator_ledger_checkpoint_timestamp_seconds", "0+60x10 600x60"),
            series("rotator_ledger_checkpoint_interval_seconds", "60x120"),
        ),
        quiet="21m", fires="28m", labels={"severity": "critical"},
        summary="the evidence log is not signed any more, or never was by this leader",
    ),
    Case(
        alert="RotatorLedgerLongNotSigned", given=(LEADS,), quiet="4m", fires="6m", labels={"severity": "critical"},
        summary="the evidence log is not signed any more, or never was by this leader",
    ),
    Case(
        alert="RotatorLedgerSpooled", given=(series("rotator_ledger_spooled_records", "0x9 3x30"),), quiet="9m",
        fires="10m", labels={"severity": "critical"}, summary="3 evidence records wait outside the ledger",
    ),
    Case(
        alert="RotatorSweepSilent",
        given=(
            LEADS,
            series("rotator_sweep_timestamp_seconds", "0+60x10 600x60"),
            series("rotator_sweep_interval_seconds", "10x120"),
            # The standby is well, and does not hide it.
            series("rotator_leader", "0x120", instance="b:8443"),
            series("rotator_sweep_timestamp_seconds", "0+60x120", instance="b:8443"),
            series("rotator_sweep_interval_seconds", "10x120", instance="b:8443"),
        ),
        quiet="12m", fires="13m", labels={"severity": "critical"},
        summary="nothing was looked at for 3m 0s, so nothing is renewed",
    ),
    Case(
        alert="RotatorLeaderMissing",
        given=(series("rotator_leader", "1x9 0x30"), series("rotator_leader", "0x60", instance="b:8443")),
        quiet="11m", fires="13m", labels={"severity": "critical"}, summary="no replica leads, so nothing is renewed",
    ),
    Case(
        alert="RotatorTwoLeaders",
        given=(LEADS, series("rotator_leader", "0x9 1x30", instance="b:8443")),
        quiet="11m", fires="13m", labels={"severity": "critical"}, summary="2 replicas say that they lead",
    ),
    Case(
        alert="RotatorMetricsAbsent", given=(series("up", "1x60"), series("rotator_leader", "1x5 stale")), quiet="7m",
        fires="10m", labels={"severity": "critical"}, where={},
        summary="Prometheus sees no rotator: every other alert is blind",
    ),
    Case(
        alert="RotatorReceiverFailing",
        given=(
            series("rotator_notices_waiting", "0x9 2x60", receiver="pager"),
            series("rotator_notices_total", "0x9 1+1x60", receiver="pager", result="failed"),
        ),
        quiet="9m", fires="20m", labels={"receiver": "pager", "severity": "warning"},
        summary="the receiver pager does not take 2 alerts",
    ),
    Case(
        alert="RotatorTelemetryLost",
        given=(
            series("rotator_otlp_items_total", "0x9 5+5x60", signal="logs", result="dropped"),
            series("rotator_otlp_items_total", "0+9x60", signal="logs", result="sent"),
        ),
        quiet="23m", fires="28m", labels={"instance": "a:8443", "signal": "logs", "severity": "warning"},
        summary="logs of a:8443 do not reach the telemetry collector",
    ),
    Case(
        alert="RotatorServiceCertificate",
        given=(series("rotator_http_certificate_not_after_seconds", "0x60"),),
        quiet="4m", fires="6m", labels={"instance": "a:8443", "severity": "warning"},
        summary="a:8443 shows no certificate that anybody trusts",
    ),
    Case(
        alert="RotatorServiceCertificate",
        given=(series("rotator_http_certificate_not_after_seconds", "600x60"),),
        quiet="14m", fires="17m", labels={"instance": "a:8443", "severity": "warning"},
        summary="a:8443 shows no certificate that anybody trusts",
    ),
)  # fmt: skip

WELL = (
    LEADS,
    series("rotator_leader", "0x120", instance="b:8443"),
    series("rotator_sweep_timestamp_seconds", "0+60x120"),
    series("rotator_sweep_interval_seconds", "10x120"),
    series("rotator_ledger_checkpoint_timestamp_seconds", "0+60x120"),
    series("rotator_ledger_checkpoint_interval_seconds", "60x120"),
    series("rotator_ledger_spooled_records", "0x120"),
    series("rotator_http_certificate_not_after_seconds", "3600x60 7200x60"),
    series("rotator_http_certificate_not_after_seconds", "3600x60 7200x60", instance="b:8443"),
    # Renewed at half an hour, and again: opening, line and end move on, nothing is ever overdue by more than a sweep.
    series("rotator_certificate_lifetime_used_ratio", "0+0.0166x29 0+0.0166x29 0+0.0166x29 0+0.0166x29", **WEB),
    series("rotator_certificate_not_after_seconds", "3600x29 5400x29 7200x29 9000x29", **WEB),
    series("rotator_renewal_opens_seconds", "1800x29 3600x29 5400x29 7200x29", **WEB),
    series("rotator_safety_line_seconds", "3240x29 5040x29 6840x29 8640x29", **WEB),
    series("rotator_renewal_overdue_seconds", "0x28 20 0x28 20 0x28 20 0x28 20", **WEB),
    series("rotator_managed_token_lifetime_used_ratio", "0+0.0166x29 0+0.0166x29 0+0.0166x29 0+0.0166x29", **PROXY),
    series("rotator_managed_token_not_after_seconds", "3600x29 5400x29 7200x29 9000x29", **PROXY),
    series("rotator_renewal_opens_seconds", "1800x29 3600x29 5400x29 7200x29", **PROXY),
    series("rotator_safety_line_seconds", "3240x29 5040x29 6840x29 8640x29", **PROXY),
    series("rotator_renewal_overdue_seconds", "0x28 20 0x28 20 0x28 20 0x28 20", **PROXY),
    series("rotator_issuer_lifetime_used_ratio", "0.3x120", trust_domain="prod", generation="7"),
    series("rotator_issuer_signing", "1x120", trust_domain="prod", generation="7"),
    series("rotator_issuer_lifetime_used_ratio", "0.97x120", trust_domain="prod", generation="6"),
    series("rotator_issuer_signing", "0x120", trust_domain="prod", generation="6"),
    series("rotator_safety_line_seconds", "500000x120", subject="prod"),
    series("rotator_renewal_opens_seconds", "300000x120", subject="prod"),
    series("rotator_renewal_overdue_seconds", "0x120", subject="prod"),
    series("rotator_token_not_after_seconds", "3600x29 5400x29 7200x29 9000x29", issuer="corporate"),
    series("rotator_token_lifetime_seconds", "3600x120", issuer="corporate"),
    # Keys of an hour: a rotation begins at once and ends; a collector that was started anew cost one reading.
    series("rotator_renewal_opens_seconds", "3600x60 7200x60", **KEYS),
    series("rotator_signing_key_added_timestamp_seconds", "0x60 3600x60", **KEYS),
    series("rotator_renewal_overdue_seconds", "0x59 20 0x60", **KEYS),
    series("rotator_otlp_items_total", "0x30 70x90", signal="metrics", result="dropped"),
    series("rotator_otlp_items_total", "0+70x120", signal="metrics", result="sent"),
    series("rotator_notices_waiting", "0x120", receiver="pager"),
    series("rotator_notices_total", "0+1x120", receiver="pager", result="sent"),
    series("rotator_notices_total", "0x120", receiver="pager", result="failed"),
    series("rotator_rotations_total", "0+1x120", kind="certificate", result="done"),
    series("rotator_rotations_total", "0x60 1x60", kind="certificate", result="failed"),
)


def under_promtool(tmp_path: Path, tests: Sequence[Mapping[str, Any]]) -> None:
    """Run *tests*, as promtool writes them, over the rules."""
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": list(tests)}))
    ran = subprocess.run(
        [BIN / "promtool", "test", "rules", file], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"


def as_test(case: Case) -> dict[str, Any]:
    """Return *case* as promtool writes it."""
    labels = {**case.where, **case.labels}
    annotations = {"summary": case.summary, "runbook_url": rules()[case.alert]["annotations"]["runbook_url"]}
    expected = {"exp_labels": labels, "exp_annotations": annotations}
    return {
        "name": case.alert,
        "interval": "1m",
        "input_series": [dict(each) for each in case.given],
        "alert_rule_test": [
            {"alertname": case.alert, "eval_time": case.quiet, "exp_alerts": []},
            {"alertname": case.alert, "eval_time": case.fires, "exp_alerts": [expected]},
        ],
    }


def test_each_rule_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    """Labels, words and moments of every alert."""
    under_promtool(tmp_path, [as_test(case) for case in CASES])


def test_a_token_past_its_line_is_no_ca_that_stops_signing(tmp_path: Path) -> None:
    """Of what has a safety line only a trust domain has a CA; a token has an end of its own and its own alerts."""
    quiet: list[dict[str, Any]] = [
        {"alertname": alert, "eval_time": "57m", "exp_alerts": []}
        for alert in ("RotatorAuthorityStopsSigning", "RotatorExpired")
    ]
    under_promtool(
        tmp_path, [{"interval": "1m", "input_series": [dict(each) for each in TOKEN_WINDOW], "alert_rule_test": quiet}]
    )


def test_every_rule_has_a_case() -> None:
    """No alert of the file is without one."""
    assert set(rules()) == {case.alert for case in CASES}


def test_a_healthy_installation_is_silent(tmp_path: Path) -> None:
    """Leaves and tokens of an hour, renewed at half of it, a CA in mid-life, one failure: silence for two hours."""
    moments = [f"{minute}m" for minute in (1, 15, 29, 30, 31, 45, 59, 75, 90, 105, 118)]
    checks = [{"alertname": alert, "eval_time": at, "exp_alerts": []} for at in moments for alert in rules()]
    test = {"interval": "1m", "input_series": [dict(each) for each in WELL], "alert_rule_test": checks}
    under_promtool(tmp_path, [test])


def test_every_rule_leads_to_a_page_and_says_how_grave_it_is() -> None:
    """A runbook that exists, a severity (its own or the one that rotator says), a sentence."""
    found = []
    for name, rule in rules().items():
        url = rule["annotations"]["runbook_url"]
        page = ROOT / "docs" / "runbooks" / url.removeprefix(BASE)
        severity = rule.get("labels", {}).get("severity") or ("severity" in rule["expr"] and "warning")
        if not (url.startswith(BASE) and page.is_file() and severity in {"warning", "critical"}):
            found.append(name)
    assert [] == found


def test_rules_know_no_other_metrics_than_the_catalogue_has() -> None:
    """A metric that is renamed breaks this, not an alert in production."""
    named = {each for rule in rules().values() for each in re.findall(r"\brotator_[a-z_]+", rule["expr"])}
    assert set() == named - {metric.value for metric in Metric}
    assert set(METRICS) == set(Metric)
