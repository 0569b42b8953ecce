"""The log is read as a timeline without adding anything to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from rotator.core.event import CertificateFacts, Event, EventType, Trigger
from rotator.demo.counted import reported_serial, sighted
from rotator.demo.recording import CARotation, Lifetime, Roll, Sighting, TaskRun
from rotator.demo.told import proven, told
from rotator.evidence.record import Record

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
DOMAINS = {"web": "mesh.demo", "workers": "workers.demo"}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def facts(serial: str, *, issuer: str, until: float) -> CertificateFacts:
    return CertificateFacts(serial=serial, sha256="0" * 64, issuer=issuer, not_before=START, not_after=at(until))


def event(type_: EventType, second: float, subject: str, **fields: object) -> Event:
    return Event(type=type_, time=at(second), subject=subject, **{"result": "ok", **fields})  # type: ignore[arg-type]  # a table of fields


def records(*events: Event) -> list[Record]:
    return [
        Record(seq=seq, id=f"{seq}", environment="demo", policy_sha256=None, event=each)
        for seq, each in enumerate(events)
    ]


def test_a_leaf_is_coloured_by_the_generation_that_signed_it() -> None:
    """Leaves before and after an activation belong to the old and the new generation."""
    g1, g2 = facts("a1", issuer="corp", until=120), facts("a2", issuer="corp", until=135)
    tale = told(
        records(
            event(EventType.ISSUED, 0, "mesh.demo", new=g1, detail={"generation": 1}, rotation_id="r1"),
            event(EventType.ACTIVATED, 1, "mesh.demo", new=g1, detail={"generation": 1}, rotation_id="r1"),
            event(EventType.ISSUED, 2, "web", new=facts("b1", issuer="k1", until=17), rotation_id="l1"),
            event(EventType.ISSUED, 15, "mesh.demo", new=g2, detail={"generation": 2}, rotation_id="r2"),
            event(
                EventType.ACTIVATED,
                18,
                "mesh.demo",
                old=g1,
                new=g2,
                detail={"generation": 2},
                rotation_id="r2",
                trigger=Trigger.REQUEST,
            ),
            # Ordered before the pointer moved, signed after: still the old generation's.
            event(EventType.ISSUED, 18, "web", new=facts("b2", issuer="k1", until=33)),
            event(EventType.ISSUED, 19, "web", new=facts("b3", issuer="k2", until=34)),
            event(EventType.RETIRED, 38, "mesh.demo", old=g1),
            event(EventType.COMPLETED, 38, "mesh.demo", new=g2, rotation_id="r2"),
        ),
        start=START,
        domains=DOMAINS,
    )
    assert [("b1", 1, 18.0), ("b2", 1, 19.0), ("b3", 2, None)] == [
        (each.serial, each.generation, each.left_at) for each in tale.lifetimes
    ]
    assert [(1, 1.0, 38.0), (2, 18.0, None)] == [
        (each.generation, each.activated_at, each.left_at) for each in tale.authorities
    ]
    assert (
        CARotation(id="r2", domain="mesh.demo", trigger="request", generation=2, activated_at=18.0, completed_at=38.0)
        == tale.ca_rotations[1]
    )
    assert tale.ca_rotations[0].completed_at is None


def test_a_probe_leaf_is_nobodys_certificate() -> None:
    """An unpublished leaf that was presented once is in no lifetime."""
    probe = event(EventType.ISSUED, 3, "web", new=facts("c1", issuer="k1", until=18), detail={"probe": True})
    assert () == told(records(probe), start=START, domains=DOMAINS).lifetimes


def member(type_: EventType, second: float, name: str, result: str) -> Event:
    return event(type_, second, "workers", result=result, detail={"member": name})


def test_a_roll_is_a_drain_that_ended_in_a_replacement() -> None:
    """A first start, a deferred drain and a drain without its end are no rolls."""
    tale = told(
        records(
            member(EventType.DRAINED, 1, "worker-1", "not running"),
            member(EventType.ROLLED, 3, "worker-1", "ok"),
            member(EventType.DRAINED, 40, "worker-1", "started"),
            member(EventType.DRAINED, 41, "worker-2", "started"),
            member(EventType.DRAINED, 42, "worker-2", "deferred"),
            member(EventType.DRAINED, 49, "worker-1", "ok"),
            member(EventType.ROLLED, 52, "worker-1", "ok"),
            member(EventType.ROLLED, 53, "worker-2", "ok"),
            member(EventType.DRAINED, 54, "worker-2", "started"),
        ),
        start=START,
        domains=DOMAINS,
    )
    assert (Roll(worker="worker-1", drain_at=40.0, drained_at=49.0, rolled_at=52.0),) == tale.rolls


def leaf(serial: str) -> Lifetime:
    return Lifetime(subject="workers", domain="workers.demo", serial=serial, issued_at=0, not_after=90, generation=1)


def seen(at: float, serial: str) -> Sighting:
    return Sighting(worker="worker-1", serial=serial, at=at)


ROLL = Roll(worker="worker-1", drain_at=40.0, drained_at=49.0, rolled_at=52.0)
ISSUED = [leaf("s1"), leaf("s2")]


def test_a_roll_is_proven_by_a_new_serial_that_the_log_knows() -> None:
    """The first sighting of another, issued serial after the drain proves the roll."""
    sightings = [seen(30, "s1"), seen(53, "s2"), seen(52.5, "s2")]
    assert [("s2", 52.5)] == [(each.serial, each.serial_seen_at) for each in proven([ROLL], sightings, ISSUED)]


def test_a_roll_with_the_old_serial_or_an_unknown_one_is_not_proven() -> None:
    """The serial must be new for the worker and issued according to the log."""
    for serial in ("s1", "s9"):
        assert [None] == [each.serial for each in proven([ROLL], [seen(30, "s1"), seen(53, serial)], ISSUED)]


def test_a_worker_that_was_never_seen_before_proves_nothing() -> None:
    """Without a serial from before the roll nobody can say that it changed."""
    assert [None] == [each.serial for each in proven([ROLL], [seen(53, "s2")], ISSUED)]


def test_sightings_come_from_tasks_and_from_the_workers_own_reports(tmp_path: Path) -> None:
    """A task counts from its start, a report from when it first named the serial; a missing report is no error."""
    tasks = [
        TaskRun(worker="worker-1", start=3.0, stop=9.0, serial="s1", ok=True),
        TaskRun(worker="worker-1", start=4.0, stop=9.0, serial=None, ok=False),
    ]
    assert (seen(3.0, "s1"), seen(8.0, "s2")) == sighted(tasks, {("worker-1", "s2"): 8.0})
    report = tmp_path / "report.json"
    assert reported_serial(report) is None
    report.write_text('{"serial": "s2", "bundle": []}')
    assert "s2" == reported_serial(report)
