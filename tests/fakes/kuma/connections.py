"""
Proxies' streams to a control plane, and what the control plane writes down about them.

Rules that must stay true here:

- One configuration is outstanding at a time: what comes after it waits for the answer, as in xDS.
- An acknowledgement is counted only when the data plane has told of it.
- An insight is written when its flush is due, not when something happens; the first one at once.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.fakes.kuma.desired import Desired
from tests.fakes.kuma.store import Json

# Two subscriptions are kept of each proxy, as Kuma's default has it.
KEPT_SUBSCRIPTIONS = 2

# Half of the time after which a stream counts as idle: every so often a subscription's generation grows.
GENERATION_EVERY = timedelta(seconds=150)

_AT_ONCE = datetime.min.replace(tzinfo=UTC)

BEATS = 4
"""Into so many groups proxies fall by the beat of their streams."""

Admin = Callable[[str], bytes]
"""Asks a proxy's own Envoy: ``config_dump`` -> the answer. Raises `ProxySilent`."""


class ProxySilent(Exception):
    """A proxy that did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What the insight says of a proxy's certificate."""

    not_after: datetime
    issued_at: datetime
    backend: str
    supported: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Connection:
    """One proxy's stream."""

    mesh: str
    name: str
    opened_at: datetime
    instance: str
    admin: Admin | None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    owns_dataplane: bool = False
    """The proxy brought its own Dataplane, which goes when it does."""
    heard_at: datetime | None = None
    """When it last asked over HTTP; None for a proxy of this process."""
    next_watchdog: datetime = _AT_ONCE
    next_flush: datetime = _AT_ONCE
    content: str = ""
    """What was last computed, to see a change."""
    outstanding: Desired | None = None
    waiting: Desired | None = None
    accepted: Desired | None = None
    issued: Issued | None = None
    problem: str = ""
    """Why nothing new could be computed for it; empty if all is well."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def proxy(self) -> str:
        """Return what names the proxy over all meshes."""
        return f"{self.mesh}/{self.name}"

    def after_watchdog(self, now: datetime, every: timedelta) -> datetime:
        """
        Return when its configuration is computed next.

        Each stream has its own beat, so proxies follow one after the other: four groups of them, told by the name.
        """
        if self.next_watchdog == _AT_ONCE:
            return now + every * (1 + zlib.crc32(self.name.encode()) % BEATS) / BEATS
        return max(self.next_watchdog + every, now + every / BEATS)

    def offer(self, desired: Desired) -> None:
        """Send *desired*, or let it wait until what is outstanding is answered."""
        if self.outstanding is not None:
            self.waiting = desired
            return
        self.outstanding = desired
        self._count("responsesSent", desired)

    def answer(self, version: str, *, accepted: bool) -> None:
        """Take the data plane's answer to the configuration that is outstanding."""
        if self.outstanding is None or self.outstanding.version != version:
            return
        self._count("responsesAcknowledged" if accepted else "responsesRejected", self.outstanding)
        if accepted:
            self.accepted = self.outstanding
        self.outstanding, waiting, self.waiting = None, self.waiting, None
        if waiting is not None:
            self.offer(waiting)

    def _count(self, what: str, desired: Desired) -> None:
        kinds = ["cds", "lds"] if self.accepted is None or _shape(self.accepted) != _shape(desired) else []
        secrets = 1 if desired.identity is not None else 0
        for kind in kinds:
            self.counts.setdefault(kind, {}).setdefault(what, 0)
            self.counts[kind][what] += 1
        self.counts.setdefault("total", {}).setdefault(what, 0)
        self.counts["total"][what] += len(kinds) + secrets

    def subscription(self, now: datetime, *, closed_at: datetime | None = None) -> Json:
        """Return the stream as an insight shows it."""
        counters = {
            kind: {what: str(count) for what, count in self.counts.get(kind, {}).items()}
            for kind in ("total", "cds", "eds", "lds", "rds")
        }
        subscription: Json = {
            "id": self.id,
            "controlPlaneInstanceId": self.instance,
            "connectTime": rfc3339(self.opened_at),
            "generation": int((now - self.opened_at) / GENERATION_EVERY),
            "status": {"lastUpdateTime": rfc3339(now), **counters},
            "version": {
                "kumaDp": {"version": "2.14.3", "kumaCpCompatible": True},
                "envoy": {"version": "1.40.0", "kumaDpCompatible": True},
            },
        }
        if closed_at is not None:
            subscription["disconnectTime"] = rfc3339(closed_at)
        return subscription


def _shape(desired: Desired) -> Json:
    """Return what clusters and listeners are made of, without the content of secrets."""
    shape = desired.as_json()
    shape.pop("version")
    for secret in ("identity", "trust"):
        shape[secret] = shape[secret] and shape[secret]["name"]
    return shape


def with_subscription(insight: Json, subscription: Json, now: datetime) -> Json:
    """Return *insight* with *subscription* in it; an older one that nobody closed is closed."""
    others = [
        {"disconnectTime": rfc3339(now), **each}
        for each in insight.get("subscriptions") or []
        if each["id"] != subscription["id"]
    ]
    return {**insight, "subscriptions": [*others, subscription][-KEPT_SUBSCRIPTIONS:]}


def with_certificate(insight: Json, issued: Issued | None) -> Json:
    """Return *insight* with what is known of the certificate; without any if there is none."""
    if issued is None:
        return {name: part for name, part in insight.items() if name != "mTLS"}
    before = insight.get("mTLS") or {}
    said = {
        "certificateExpirationTime": rfc3339(issued.not_after),
        "lastCertificateRegeneration": rfc3339(issued.issued_at),
        "issuedBackend": issued.backend,
        "supportedBackends": list(issued.supported),
    }
    if all(before.get(name) == value for name, value in said.items()):
        return insight
    return {**insight, "mTLS": {**said, "certificateRegenerations": before.get("certificateRegenerations", 0) + 1}}


def is_online(insight: Json) -> bool:
    """Return whether any stream of the proxy is open."""
    return any("disconnectTime" not in each for each in insight.get("subscriptions") or [])


def rfc3339(moment: datetime) -> str:
    """Return *moment* as Kuma writes it: UTC, with a fraction only where there is one."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
