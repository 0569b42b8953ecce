"""What the doctor says of the collector: taken, away, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotator.doctor.findings import Grade
from rotator.doctor.telemetry import telemetry_findings
from rotator.settings import Settings, load
from tests.adapters.collector import Collector
from tests.fakes.clock import ManualClock
from tests.settings.test_load import BASE


def settings(tmp_path: Path, endpoint: str = "", more: str = "") -> Settings:
    """Return good settings with a collector at *endpoint*, if one is named."""
    path = tmp_path / "rotator.yaml"
    path.write_text(BASE + (f"telemetry: {{otlp: {{endpoint: '{endpoint}'{more}}}}}\n" if endpoint else ""))
    return load(path)


def test_no_collector_is_no_finding(tmp_path: Path) -> None:
    """What is not asked for is not looked at."""
    assert [] == list(telemetry_findings(settings(tmp_path), ManualClock()))


def test_a_collector_that_takes_everything_is_fine_and_was_told_nothing(tmp_path: Path) -> None:
    """Each signal is asked for once, and nothing arrives."""
    with Collector() as collector:
        (found,) = telemetry_findings(settings(tmp_path, collector.endpoint), ManualClock())
        asked = sorted(collector.asked)
    assert (Grade.FINE, ["/v1/logs", "/v1/metrics", "/v1/traces"]) == (found.grade, asked)
    assert [] == [*collector.spans, *collector.lines, *collector.metrics]


@pytest.mark.parametrize(("status", "grade"), [(503, Grade.WARNING), (401, Grade.BROKEN), (404, Grade.BROKEN)])
def test_what_is_not_taken_is_named_with_its_mend(tmp_path: Path, status: int, grade: Grade) -> None:
    """Not now is a warning, no rotation waits for it; a refusal is broken: it will not mend itself."""
    with Collector() as collector:
        collector.answers = lambda path: (status if path == "/v1/logs" else 200, b"")
        (found,) = telemetry_findings(settings(tmp_path, collector.endpoint), ManualClock())
    assert (grade, True, True) == (found.grade, found.what.startswith("logs: "), bool(found.mend))


def test_a_collector_that_is_away_is_a_warning(tmp_path: Path) -> None:
    """Nobody listens: one warning for what would be sent."""
    (found,) = telemetry_findings(settings(tmp_path, "http://127.0.0.1:9", ", signals: [traces]"), ManualClock())
    assert Grade.WARNING == found.grade
