"""
One run of the demonstration as it was seen: what the claims are judged by and the report is drawn from.

Rules that must stay true here:

- Frozen data only; every moment is in seconds since the daemon was first started, every other number says its unit.
- What happened under rotator and what happened the naive way never share a list.
- No secret, no key, no whole certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class MarkerKind(StrEnum):
    """Moments worth a line through the whole picture."""

    LOAD = "load"
    ROTATE_NOW = "rotate_now"
    PINNED = "pinned"
    KILLED = "killed"
    RESTARTED = "restarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """One such moment."""

    kind: MarkerKind
    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """One certificate from issuance to the moment nobody used it any more, or its end."""

    subject: str
    domain: str
    """The trust domain it belongs to."""
    serial: str
    issued_at: float
    not_after: float
    generation: int
    """Of a CA its own number; of a leaf the number of the CA that signed it."""
    left_at: float | None = None
    """When its successor was published (a leaf) or it was retired (a CA); None if it still stood at the end."""
    activated_at: float | None = None
    """When it began to sign; None for a leaf."""
    rotation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpan:
    """How long one trust domain was seen in one phase."""

    domain: str
    phase: str
    start: float
    stop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """One worker replaced: no new work, last task done, gone, started anew, taking work again."""

    worker: str
    drain_at: float
    drained_at: float
    rolled_at: float
    serial: str | None = None
    """What the server saw of the new process; None if it has not called yet."""
    serial_seen_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """The server saw this serial of this worker's leaf, as it answered the worker itself."""

    worker: str
    serial: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One task that ended, as the worker that ran it wrote it down."""

    worker: str
    start: float
    stop: float
    serial: str | None
    """The serial of the worker's leaf as the server saw it."""
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Requests answered within one interval (the width is `traffic.BUCKET_SECONDS`)."""

    at: float
    ok: int
    failed: int
    slowest_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRequest:
    """One failed request."""

    at: float
    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one load generator counted."""

    ticks: tuple[Tick, ...] = ()
    failures: tuple[FailedRequest, ...] = ()
    peer_serials: Mapping[str, float] = field(default_factory=dict)
    """Serial of the client's leaf as the server saw it -> when it was first seen."""
    sessions_resumed: int = 0
    """Envoy's own count, both sides together."""
    handshakes: int = 0
    """The server Envoy's own count."""

    @property
    def requests(self) -> int:
        """Return how many requests ended."""
        return sum(tick.ok + tick.failed for tick in self.ticks)

    @property
    def failed(self) -> int:
        """Return how many of them failed."""
        return sum(tick.failed for tick in self.ticks)

    @property
    def seconds(self) -> float:
        """Return how long the load lasted."""
        return self.ticks[-1].at - self.ticks[0].at if self.ticks else 0.0

    @property
    def rate(self) -> float:
        """Return requests a second over the whole load."""
        return self.requests / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CARotation:
    """One rotation of a trust domain's CA."""

    id: str
    domain: str
    trigger: str
    """``schedule``, ``request``, ``bootstrap`` ..."""
    generation: int
    """The one it brought in."""
    activated_at: float
    completed_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What ``rotator evidence verify`` said of the log."""

    entries: int
    exit_code: int
    """0 only if the log is whole and consistent with the checkpoint that was pinned outside before the kill."""
    pinned_size: int
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence of the demonstration, and whether it held."""

    text: str
    held: bool
    figure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The whole run."""

    started_at: str
    """RFC 3339 UTC: second 0."""
    seconds: float
    """Wall-clock time of the whole command, preparation and comparison included."""
    ended_at: float
    """When the daemon was stopped, in seconds since it was started."""
    load: Load
    control: Load
    control_switch_at: float | None
    """When the naive change began, in seconds since the control's own load began."""
    lifetimes: tuple[Lifetime, ...]
    authorities: tuple[Lifetime, ...]
    ca_rotations: tuple[CARotation, ...]
    phases: tuple[PhaseSpan, ...]
    rolls: tuple[Roll, ...]
    tasks: tuple[TaskRun, ...]
    tasks_submitted: int
    tasks_lost: int
    markers: tuple[Marker, ...]
    killed_rotation: str | None
    """The id of the CA rotation during which the daemon was killed."""
    requested_rotation: str | None
    """The id of the CA rotation that a person asked for."""
    evidence: Evidence | None
    trouble: str | None = None
    """Why the run did not come to its end, in words; None if it did."""
    versions: Mapping[str, str] = field(default_factory=dict)
    mesh: str = "mesh.demo"
    workers: tuple[str, ...] = ("worker-1", "worker-2")
    subjects: tuple[str, ...] = ("envoy-client", "envoy-server", "workers")
    """Certificates, in the order in which they are drawn."""

    def ca_rotation(self, rotation_id: str | None) -> CARotation | None:
        """Return the CA rotation *rotation_id*, or None."""
        return next((each for each in self.ca_rotations if each.id == rotation_id), None)

    @property
    def ca_moves(self) -> tuple[CARotation, ...]:
        """Return the mesh's CA rotations that replaced a CA and completed (not the first CA's arrival)."""
        return tuple(
            each
            for each in self.ca_rotations
            if each.domain == self.mesh and each.trigger != "bootstrap" and each.completed_at is not None
        )

    @property
    def leaf_rotations(self) -> int:
        """Return how many leaves were replaced by a successor."""
        return sum(1 for each in self.lifetimes if each.left_at is not None)
