"""The view says what was seen, in plain lines where there is no terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

from rich.console import Console

from rotator.demo.live import LiveView, plain_line
from rotator.demo.watch import Row, Snapshot


def subject(name: str, kind: str, **fields: object) -> Row:
    now = datetime.now(tz=UTC)
    return {
        "name": name,
        "kind": kind,
        "phase": "steady",
        "generation": 2,
        "serial": "ab12cd34ef56",
        "not_before": (now - timedelta(seconds=5)).isoformat(),
        "not_after": (now + timedelta(seconds=10)).isoformat(),
        "waiting_on": [],
        "open_rotation": None,
        **fields,
    }


def member(name: str, **fields: object) -> Row:
    return {"name": name, "running": True, "ready": True, "draining": False, "busy": 1, **fields}


def snapshot(at: float = 12.0) -> Snapshot:
    return Snapshot(
        at=at,
        answers=True,
        subjects=(subject("mesh.demo", "trust_domain"), subject("envoy-client", "certificate", not_after=None)),
        workloads=({"name": "workers", "members": [member("worker-1"), member("worker-2", running=False)]},),
        requests=3000,
        rate=250.0,
        tasks_submitted=7,
        tasks_finished=5,
        entries=40,
    )


def test_a_log_file_gets_plain_lines_and_no_control_sequence() -> None:
    """Without a terminal there is one line for each announcement, and one every five seconds."""
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=False, width=200)) as view:
        view.announce("load begins", at=3.0)
        for at in (5.0, 6.0, 9.9, 10.0):
            view.show(snapshot(at))
    lines = out.getvalue().splitlines()
    assert ["    3s  load begins", plain_line(snapshot(5.0)), plain_line(snapshot(10.0))] == lines
    assert "\x1b" not in out.getvalue()


def test_a_plain_line_says_phase_rate_failures_and_tasks() -> None:
    assert (
        "   12s  mesh.demo g2 steady; 250 connections/s, 3000 requests, 0 failed; tasks 5 of 7; log 40"
    ) == plain_line(snapshot())


def test_silence_of_the_daemon_is_said() -> None:
    """A killed daemon is named as such."""
    assert "the daemon does not answer" in plain_line(Snapshot(at=80.0))


def test_a_terminal_shows_subjects_workers_and_announcements() -> None:
    """The live view holds every subject, every worker's state and what was announced."""
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=160, height=40)) as view:
        view.show(snapshot())
        view.announce("SIGKILL to the daemon", at=80.0)
    text = out.getvalue()
    for word in ("mesh.demo", "envoy-client", "worker-1", "working", "down", "SIGKILL to the daemon"):
        assert word in text


def test_quiet_is_no_open_rotation_and_no_worker_in_motion() -> None:
    """A rotation that may be open does not count, a draining worker does."""
    still = Snapshot(
        answers=True,
        subjects=(subject("web", "certificate", open_rotation={"id": "1"}), subject("mesh.demo", "trust_domain")),
        workloads=({"name": "workers", "members": [member("worker-1")]},),
    )
    assert still.is_quiet_but_for(("web",))
    assert not still.is_quiet_but_for(())
    moving = Snapshot(
        answers=True,
        subjects=still.subjects,
        workloads=({"name": "workers", "members": [member("worker-1", draining=True)]},),
    )
    assert not moving.is_quiet_but_for(("web",))
    assert not Snapshot().is_quiet_but_for(())
