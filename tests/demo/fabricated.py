"""A run that never was, for tests of the report: 110 s, two CA moves, one kill, two rolls, no failure."""

from __future__ import annotations

import random
from dataclasses import replace

from rotator.demo.recording import (
    CARotation,
    Evidence,
    FailedRequest,
    Lifetime,
    Load,
    Marker,
    MarkerKind,
    PhaseSpan,
    Recording,
    Roll,
    TaskRun,
    Tick,
)

END = 112.0


def run() -> Recording:
    """Return a run in which every claim held."""
    chance = random.Random(7)  # noqa: S311 -- a picture's jitter, not a secret
    ticks = tuple(
        Tick(at=4 + index / 10, ok=25 + chance.randint(-2, 2), failed=0, slowest_seconds=0.01) for index in range(1070)
    )
    sent = sum(tick.ok for tick in ticks)
    mesh = (
        _authority(1, issued_at=0.6, active=0.8, left_at=38.0),
        _authority(2, issued_at=15.4, active=18.2, left_at=101.0),
        _authority(3, issued_at=75.6, active=78.4, left_at=None),
    )
    tasks = tuple(_tasks(chance))
    return Recording(
        started_at="2026-03-01T10:00:00Z",
        seconds=139.4,
        ended_at=END,
        load=Load(ticks=ticks, handshakes=sent + 12, peer_serials={"ab12": 4.0}),
        control=Load(
            ticks=tuple(
                Tick(at=index / 10, ok=25 - (13 if index in {20, 21} else 0), failed=13 if index in {20, 21} else 0)
                for index in range(50)
            ),
            failures=(FailedRequest(at=2.05, kind="upstream", reason="503 upstream connect error"),),
        ),
        control_switch_at=2.0,
        lifetimes=(
            *_leaves("envoy-client", lifetime=15, step=5.2, offset=1.0),
            *_leaves("envoy-server", lifetime=15, step=5.7, offset=1.2),
            *_leaves("workers", lifetime=90, step=37.0, offset=1.4, fixed=1),
        ),
        authorities=mesh,
        ca_rotations=(
            CARotation(
                id="r1", domain="mesh.demo", trigger="bootstrap", generation=1, activated_at=0.8, completed_at=1.0
            ),
            CARotation(
                id="r2", domain="mesh.demo", trigger="request", generation=2, activated_at=18.2, completed_at=38.0
            ),
            CARotation(
                id="r3", domain="mesh.demo", trigger="schedule", generation=3, activated_at=78.4, completed_at=101.0
            ),
        ),
        phases=_phases(),
        rolls=(
            _roll("worker-1", 38.6),
            _roll("worker-2", 52.0),
            _roll("worker-1", 75.4),
            _roll("worker-2", 89.0),
        ),
        tasks=tasks,
        tasks_submitted=len(tasks),
        tasks_lost=0,
        markers=(
            Marker(kind=MarkerKind.LOAD, at=4.0, text="load begins"),
            Marker(kind=MarkerKind.ROTATE_NOW, at=15.0, text="rotate-now"),
            Marker(kind=MarkerKind.PINNED, at=79.0, text="checkpoint pinned"),
            Marker(kind=MarkerKind.KILLED, at=79.2, text="SIGKILL"),
            Marker(kind=MarkerKind.RESTARTED, at=82.6, text="daemon restarted"),
        ),
        killed_rotation="r3",
        requested_rotation="r2",
        evidence=Evidence(entries=412, exit_code=0, pinned_size=288, verdict="whole, and consistent with the pin"),
        versions={"rotator": "0.1.0", "OpenBao": "2.7.2", "Envoy": "1.40.0"},
    )


def failed_run() -> Recording:
    """Return a run with failed requests and a rotation that never completed."""
    good = run()
    ticks = tuple(
        replace(tick, ok=tick.ok - 3, failed=3) if tick.at in {50.0, 50.1} else tick for tick in good.load.ticks
    )
    failures = (FailedRequest(at=50.0, kind="upstream", reason="503 <TLS error> & more"),)
    rotations = (*good.ca_rotations[:2], replace(good.ca_rotations[2], completed_at=None))
    return replace(good, load=replace(good.load, ticks=ticks, failures=failures), ca_rotations=rotations, tasks_lost=1)


def _authority(number: int, *, issued_at: float, active: float, left_at: float | None) -> Lifetime:
    return Lifetime(
        subject="mesh.demo",
        domain="mesh.demo",
        serial=f"{number}" * 20,
        issued_at=issued_at,
        not_after=issued_at + 120,
        generation=number,
        left_at=left_at,
        activated_at=active,
    )


def _leaves(subject: str, *, lifetime: float, step: float, offset: float, fixed: int = 0) -> list[Lifetime]:
    found: list[Lifetime] = []
    at = offset
    while at < END:
        follows = at + step
        signer = fixed or (1 if at < 18.2 else 2 if at < 78.4 else 3)
        found.append(
            Lifetime(
                subject=subject,
                domain="workers.demo" if fixed else "mesh.demo",
                serial=f"{len(found):x}{subject.encode().hex()}",
                issued_at=at,
                not_after=at + lifetime,
                generation=signer,
                left_at=follows if follows < END else None,
            )
        )
        at = follows
    return found


def _phases() -> tuple[PhaseSpan, ...]:
    spans = [("absent", 0.0, 0.8), ("steady", 0.8, 15.4)]
    for start in (15.4, 75.6):
        spans += [
            ("prepared", start, start + 0.6),
            ("trusted", start + 0.6, start + 2.8),
            ("activated", start + 2.8, start + 8.0),
            ("reissued", start + 8.0, start + 22.6),
            ("steady", start + 22.6, 75.6 if start < 20 else END),
        ]
    return tuple(PhaseSpan(domain="mesh.demo", phase=phase, start=start, stop=stop) for phase, start, stop in spans)


def _roll(worker: str, at: float) -> Roll:
    return Roll(
        worker=worker,
        drain_at=at,
        drained_at=at + 9,
        rolled_at=at + 11.4,
        serial=f"{int(at):x}beef",
        serial_seen_at=at + 12.2,
    )


def _tasks(chance: random.Random) -> list[TaskRun]:
    found: list[TaskRun] = []
    for worker in ("worker-1", "worker-2"):
        for slot in range(2):
            at = 6.0 + slot * 3
            while at < END - 18:
                length = chance.uniform(5, 15)
                found.append(TaskRun(worker=worker, start=at, stop=at + length, serial="beef", ok=True))
                at += length + chance.uniform(0.2, 5)
    return found
