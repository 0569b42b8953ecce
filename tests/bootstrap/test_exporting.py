"""The collector as it is wired: what is lost on its way to it is told to people."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

from rotator.bootstrap import Wired, wire
from rotator.core.alert_kinds import AlertKind
from rotator.core.foreseen_telemetry import TELEMETRY
from rotator.core.trace import SpanId, TraceId
from rotator.evidence.signer import LocalSigner
from rotator.ports import Span
from tests.core.worlds import NOW
from tests.fakes.clock import ManualClock
from tests.web.house import settings_of

QUEUE = 64
SPAN = Span(
    trace_id=TraceId("5f2b6c3d9e7a4b1c8d0e1f2a3b4c5d6e"),
    span_id=SpanId("00f067aa0ba902b7"),
    parent_id=None,
    name="rotation",
    began=NOW,
    ended=NOW,
)


def raised(wired: Wired) -> set[AlertKind]:
    """Return what is raised of telemetry: the daemon has no login either, for nobody is there to log in at."""
    return {each.kind for each in wired.engine.alerting.raised() if each.subject == TELEMETRY}


def test_what_a_full_queue_drops_is_told_to_people(tmp_path: Path) -> None:
    """Nothing while there is room; an alert at the first span that is dropped, which ends when no more is lost."""
    settings = settings_of(tmp_path, telemetry={"otlp": {"endpoint": "http://127.0.0.1:9", "queue": QUEUE}})
    LocalSigner.generate(settings.ledger.signing_key_file, settings.ledger.origin)
    clock = ManualClock(NOW)
    with contextlib.closing(wire(settings, clock=clock)) as wired:
        told = []
        for _ in range(QUEUE + 1):
            wired.engine.alerting.look()
            told.append(raised(wired))
            wired.outlet.span(SPAN)
        for after in (timedelta(), timedelta(minutes=11), timedelta(minutes=1)):
            clock.advance(after)
            wired.engine.alerting.look()
            told.append(raised(wired))
    lost = {AlertKind.TELEMETRY_LOST}
    assert [*[set()] * (QUEUE + 1), lost, lost, set()] == told
