"""
Metrics: what the engine holds in memory, as Prometheus reads it.

Rules that must stay true here:

- Names, types and labels are the catalogue's (`rotator.telemetry.METRICS`); every label is bounded by the
  configuration or by a list in the code.
- Gauges are read at each scrape, from memory alone: nothing is kept up to date while nobody looks, and a scrape never
  waits for a server.
- Counters count committed effects, once: a replay, a restart and a standby count nothing.
- A standby shows no subject: two replicas would otherwise tell of each twice, one of them from an old look.
"""

from __future__ import annotations

import collections
import platform
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from rotator import __version__
from rotator.core.authority_policy import active_generation
from rotator.core.event import Event, EventType
from rotator.core.model import Generation
from rotator.engine.engine import Engine
from rotator.engine.targets import CertificateTarget, DomainTarget, TokenTarget
from rotator.platform.drift import DriftKind
from rotator.ports import Clock, Reading, Rotation
from rotator.telemetry import METRICS, Metric
from rotator.web.seen import LEADER, Daemon, checkpoint_at, spooled_records
from rotator.web.tls import ServedCertificate

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

KEPT_FOR: Final = timedelta(seconds=1)
"""How long one scrape's answer is given to others: many at once cost one."""

_ROTATION_BUCKETS: Final = (1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600)
_DRAIN_BUCKETS: Final = (1, 10, 60, 300, 900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600, 12 * 3600)


class Tallies:
    """Counts what was committed. Safe from several threads; never raises."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.rotations = Counter(*_told(Metric.ROTATIONS), registry=None)
        self.rotation_seconds = Histogram(*_told(Metric.ROTATION_SECONDS), buckets=_ROTATION_BUCKETS, registry=None)
        self.drain_seconds = Histogram(*_told(Metric.DRAIN_SECONDS), buckets=_DRAIN_BUCKETS, registry=None)
        self.requests = Counter(*_told(Metric.HTTP_REQUESTS), registry=None)
        self._draining: dict[tuple[str, str], datetime] = {}

    @classmethod
    def of(cls, daemon: Daemon) -> Tallies:
        """Return what counts whatever *daemon* commits from now on."""
        tallies = cls(daemon.wired.clock)

        def ended(rotation: Rotation) -> None:
            # A standby reads the journal: what it sees end there the leader has counted.
            if daemon.role == LEADER:
                tallies.rotation_ended(rotation)

        daemon.wired.engine.memory.tell(ended)
        daemon.wired.engine.recorder.tell(tallies.committed)
        return tallies

    def rotation_ended(self, rotation: Rotation) -> None:
        """Count *rotation*, which has just ended."""
        self.rotations.labels(rotation.kind.value, rotation.state.value).inc()
        ended = rotation.finished_at or self._clock.now()
        self.rotation_seconds.labels(rotation.kind.value).observe(
            max(0.0, (ended - rotation.opened_at).total_seconds())
        )

    def committed(self, events: Sequence[Event]) -> None:
        """Note from *events* how long members were drained."""
        for event in events:
            workload, member = event.detail.get("workload"), event.detail.get("member")
            if not isinstance(workload, str) or not isinstance(member, str):
                continue
            if event.type is EventType.DRAINED and event.result == "started":
                self._draining.setdefault((workload, member), event.time)
            elif event.type in {EventType.DRAINED, EventType.EXCEPTION_OPENED}:
                began = self._draining.pop((workload, member), None)
                if began is not None and event.result in {"ok", "forced"}:
                    self.drain_seconds.labels(workload).observe(max(0.0, (event.time - began).total_seconds()))

    def answered(self, route: str, code: int) -> None:
        """Count one answer of the HTTP service."""
        self.requests.labels(route, str(code)).inc()

    def families(self) -> Iterator[Family]:
        """Yield what was counted."""
        for metric in (self.rotations, self.rotation_seconds, self.drain_seconds, self.requests):
            for family in metric.collect():
                # When a series began is no business of an alert; and half as many series are cheaper.
                family.samples = [each for each in family.samples if not each.name.endswith("_created")]
                yield family


class Metrics(Collector):
    """Reads one daemon at each scrape."""

    def __init__(self, daemon: Daemon, tallies: Tallies, *, served: ServedCertificate | None = None) -> None:
        """Read *daemon*; *served* is the HTTP service's own certificate, if it has one."""
        self._daemon = daemon
        self._tallies = tallies
        self._served = served
        self._clock = daemon.wired.clock
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._scraping = threading.Lock()
        self._last: tuple[float, bytes] | None = None

    def exposition(self) -> bytes:
        """Return everything as Prometheus' text format."""
        with self._scraping:
            now = self._clock.monotonic()
            if self._last is not None and 0 <= now - self._last[0] < KEPT_FOR.total_seconds():
                return self._last[1]
            text = generate_latest(self._registry)
            self._last = (now, text)
            return text

    def readings(self) -> Iterator[Reading]:
        """Yield every metric of this moment, in the words of `rotator.ports`, for a collector."""
        for family in self.collect():
            yield from _readings(family)

    def collect(self) -> Iterable[Family]:
        """Yield every family of this moment."""
        daemon = self._daemon
        engine, settings, now = daemon.wired.engine, daemon.wired.settings, self._clock.now()
        leads = daemon.role == LEADER
        yield _one(Metric.BUILD, 1.0, __version__, platform.python_version())
        yield _one(Metric.LEADER, float(leads))
        yield _one(Metric.SWEEP_TIMESTAMP, (now - daemon.silent_for()).timestamp())
        yield _one(Metric.SWEEP_INTERVAL, settings.timing.sweep_every.total_seconds())
        yield _one(Metric.LEDGER_CHECKPOINT_INTERVAL, settings.ledger.checkpoint_every.total_seconds())
        if self._served is not None:
            shown = self._served.shown
            yield _one(Metric.HTTP_CERTIFICATE_NOT_AFTER, 0.0 if shown.is_stand_in else shown.not_after.timestamp())
        yield from self._tallies.families()
        yield from _exported(daemon)
        if not leads:
            return
        yield from self._ledger()
        yield from subject_families(engine, now)
        yield from _domains(engine, now)
        yield from _subjects(engine)
        yield from _notices(engine)
        yield from _watched(engine)
        yield from platform_families(engine)
        yield from _tasks(engine)
        yield from self._issuers()

    def _ledger(self) -> Iterator[Family]:
        status, signed = self._daemon.ledger_status(), checkpoint_at(self._daemon)
        yield _one(Metric.LEDGER_SIZE, float(status.get("size", 0)))
        yield _one(Metric.LEDGER_SPOOLED, float(spooled_records(self._daemon)))
        if signed is not None:
            yield _one(Metric.LEDGER_CHECKPOINT_TIMESTAMP, signed.timestamp())

    def _issuers(self) -> Iterator[Family]:
        sessions = self._daemon.wired.sessions
        not_after, life = _family(Metric.TOKEN_NOT_AFTER), _family(Metric.TOKEN_LIFETIME)
        for issuer, session in sessions.named():
            if session.token_not_after is not None:
                not_after.add_metric([issuer], session.token_not_after.timestamp())
            if session.token_life is not None:
                life.add_metric([issuer], session.token_life.total_seconds())
        for trust_domain, token in self._daemon.wired.logins.tokens() if self._daemon.wired.logins is not None else ():
            not_after.add_metric([trust_domain], token.not_after.timestamp())
            life.add_metric([trust_domain], (token.not_after - token.not_before).total_seconds())
        yield not_after
        yield life
        name, sentence, labels = _told(Metric.ISSUER_REQUESTS)
        requests = CounterMetricFamily(name, sentence, labels=labels)
        for result, count in sorted(sessions.answers().items()):
            requests.add_metric([result], count)
        yield requests


def subject_families(engine: Engine, now: datetime) -> Iterator[Family]:
    """Yield what is known of every certificate, token and signing key that was seen, and of CAs' renewals."""
    not_after, used = _family(Metric.CERTIFICATE_NOT_AFTER), _family(Metric.CERTIFICATE_LIFETIME_USED)
    overdue, line = _family(Metric.RENEWAL_OVERDUE), _family(Metric.SAFETY_LINE)
    opens = _family(Metric.RENEWAL_OPENS)
    tokens, tokens_used = _family(Metric.MANAGED_TOKEN_NOT_AFTER), _family(Metric.MANAGED_TOKEN_LIFETIME_USED)
    for name, target in engine.fleet.certificates.items():
        view = engine.leaves.view(name)
        if view is None or view.window is None:
            continue
        window, labels = view.window, [name]
        not_after.add_metric(labels, window.closes.timestamp())
        used.add_metric(labels, window.used(now))
        opens.add_metric(labels, window.opens.timestamp())
        line.add_metric(labels, window.safety_line.timestamp())
        overdue.add_metric(labels, _overdue(engine, target, window.opens, window.safety_line, now))
    for name, token in engine.fleet.tokens.items():
        seen = engine.tokens.view(name)
        if seen is None or seen.window is None:
            continue
        window, labels = seen.window, [name]
        tokens.add_metric(labels, window.closes.timestamp())
        tokens_used.add_metric(labels, window.used(now))
        opens.add_metric(labels, window.opens.timestamp())
        line.add_metric(labels, window.safety_line.timestamp())
        overdue.add_metric(labels, _overdue(engine, token, window.opens, window.safety_line, now))
    added = _family(Metric.SIGNING_KEY_ADDED)
    for name, keys in engine.fleet.signing_keys.items():
        known = engine.signing_keys.view(name)
        newest = known.keys[-1] if known is not None and known.keys else None
        if known is None or known.opens is None or newest is None or newest.created_at is None:
            continue
        begins = engine.signing_keys.due(keys)
        added.add_metric([name], newest.created_at.timestamp())
        opens.add_metric([name], known.opens.timestamp())
        overdue.add_metric([name], max(0.0, (now - begins).total_seconds()) if begins is not None else 0.0)
    for domain in engine.fleet.domains.values():
        signing = _signing(engine, domain)
        if signing is None:
            continue
        label = [str(domain.name)]
        stops = domain.policy.stops_signing(signing.authority)
        line.add_metric(label, stops.timestamp())
        due = domain.policy.renewal_opens(signing.authority, str(domain.name))
        opens.add_metric(label, due.timestamp())
        overdue.add_metric(label, max(0.0, (now - due).total_seconds()) if _idle(engine, domain) else 0.0)
    yield from (not_after, used, overdue, line, opens, tokens, tokens_used, added)


def _overdue(
    engine: Engine, target: CertificateTarget | TokenTarget, opens: datetime, line: datetime, now: datetime
) -> float:
    """Return for how many seconds a renewal could have begun and has not: windows, freezes and pauses count."""
    if now <= opens:
        return 0.0
    hold = engine.memory.hold(target.name)
    due = target.policy.calendar.next_allowed(opens) or line
    if hold is not None:
        due = max(due, hold.until)
    return max(0.0, (now - min(due, line)).total_seconds())


def _idle(engine: Engine, domain: DomainTarget) -> bool:
    """Return whether no rotation of *domain* is under way: one that waits for consumers is not overdue, it waits."""
    return engine.memory.open_rotation(domain.subject) is None


def _signing(engine: Engine, domain: DomainTarget) -> Generation | None:
    """Return the generation of *domain* that signs, as last seen."""
    state = engine.domains.get(domain.name)
    return active_generation(state.seen) if state is not None else None


def _domains(engine: Engine, now: datetime) -> Iterator[Family]:
    """Yield the phase of every trust domain, and its CA generations."""
    phases, not_after = _family(Metric.TRUST_DOMAIN_PHASE), _family(Metric.ISSUER_NOT_AFTER)
    used, signing = _family(Metric.ISSUER_LIFETIME_USED), _family(Metric.ISSUER_SIGNING)
    for domain in engine.fleet.domains.values():
        state = engine.domains.get(domain.name)
        if state is None:
            continue
        phases.add_metric([domain.name, state.decision.phase.value], 1)
        active = active_generation(state.seen)
        # Those that still count: what has long ended would add a series with every rotation.
        for each in state.seen.generations:
            authority = each.authority
            if authority.not_after < now and each is not active:
                continue
            labels = [domain.name, str(each.number)]
            life = (authority.not_after - authority.not_before).total_seconds()
            not_after.add_metric(labels, authority.not_after.timestamp())
            used.add_metric(labels, (now - authority.not_before).total_seconds() / max(life, 1))
            signing.add_metric(labels, float(each is active))
    yield from (phases, not_after, used, signing)


def _subjects(engine: Engine) -> Iterator[Family]:
    """Yield who waits, what fails, and what rotator itself has raised."""
    waiting, failures = _family(Metric.WAITING_ON), _family(Metric.FAILURES)
    fleet = engine.fleet
    counts = _family(Metric.SUBJECTS)
    for kind, count in (
        ("certificate", len(fleet.certificates)),
        ("trust_domain", len(fleet.domains)),
        ("workload", len(fleet.workloads)),
        ("token", len(fleet.tokens) + len(fleet.signing_keys)),
    ):
        counts.add_metric([kind], count)
    for target in engine.pool.known():
        look, failed, _ = engine.pool.look(target)
        kind, _, name = target.partition(":")
        if look is not None and (look.waiting_on or kind == "trust_domain"):
            waiting.add_metric([name], len(look.waiting_on))
        if failed:
            failures.add_metric([name], failed)
    alerts = _family(Metric.ALERT)
    for alert in engine.alerting.raised():
        alerts.add_metric([alert.subject, alert.kind.value, alert.severity.value], 1)
    yield from (counts, waiting, failures, alerts)


def _notices(engine: Engine) -> Iterator[Family]:
    """Yield what became of what people should be told."""
    name, sentence, labels = _told(Metric.NOTICES)
    notices, waiting = CounterMetricFamily(name, sentence, labels=labels), _family(Metric.NOTICES_WAITING)
    for teller in engine.alerting.tellers():
        counts = teller.counts()
        notices.add_metric([teller.name, "sent"], counts.sent)
        notices.add_metric([teller.name, "failed"], counts.failed)
        notices.add_metric([teller.name, "left_out"], counts.left_out)
        waiting.add_metric([teller.name], teller.waiting())
    yield from (notices, waiting)


def _watched(engine: Engine) -> Iterator[Family]:
    """Yield what is watched without being managed."""
    not_after, used = _family(Metric.WATCHED_NOT_AFTER), _family(Metric.WATCHED_LIFETIME_USED)
    seen_at = _family(Metric.WATCHED_SEEN_TIMESTAMP)
    for reading in engine.watcher.readings():
        labels = [reading.name, reading.kind]
        not_after.add_metric(labels, reading.not_after.timestamp())
        used.add_metric(labels, reading.used_ratio)
        seen_at.add_metric(labels, reading.seen_at.timestamp())
    yield from (not_after, used, seen_at)


def platform_families(engine: Engine) -> Iterator[Family]:
    """Yield what stands of the platform on each control plane; nothing where there is none."""
    if engine.fleet.platform is None:
        return
    documents, to_apply = _family(Metric.PLATFORM_DOCUMENTS), _family(Metric.PLATFORM_TO_APPLY)
    drifted, seen_at = _family(Metric.PLATFORM_DRIFTED), _family(Metric.PLATFORM_SEEN_TIMESTAMP)
    found = collections.Counter((each.address.trust_domain, each.kind) for each, _ in engine.platform.drift())
    for view in engine.platform.views():
        documents.add_metric([view.trust_domain], view.own)
        to_apply.add_metric([view.trust_domain], view.to_apply)
        for kind in DriftKind:
            drifted.add_metric([view.trust_domain, kind.value], found[view.trust_domain, kind])
        if view.seen_at is not None:
            seen_at.add_metric([view.trust_domain], view.seen_at.timestamp())
    yield from (documents, to_apply, drifted, seen_at)


def _exported(daemon: Daemon) -> Iterator[Family]:
    """Yield what became of what a collector should be sent; nothing where none is named."""
    outlet = daemon.wired.outlet
    name, sentence, labels = _told(Metric.OTLP_ITEMS)
    items, waiting = CounterMetricFamily(name, sentence, labels=labels), _family(Metric.OTLP_WAITING)
    for (signal, result), count in sorted(outlet.counts().items()):
        items.add_metric([signal, result], count)
    for signal, count in sorted(outlet.waiting().items()):
        waiting.add_metric([signal], count)
    yield from (items, waiting)


def _readings(family: Family) -> Iterator[Reading]:
    """Yield what *family* holds: a reading for each set of labels."""
    kind = family.type if family.type in {"counter", "histogram"} else "gauge"
    if kind != "histogram":
        for each in family.samples:
            yield Reading(
                name=each.name, kind=kind, sentence=family.documentation, labels=dict(each.labels), value=each.value
            )
        return
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, int]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for each in family.samples:
        labels = {name: value for name, value in each.labels.items() if name != "le"}
        key = tuple(sorted(labels.items()))
        if each.name.endswith("_bucket"):
            buckets.setdefault(key, []).append((float(each.labels["le"]), int(each.value)))
        elif each.name.endswith("_sum"):
            sums[key] = each.value
    for key, bounds in buckets.items():
        yield Reading(
            name=family.name,
            kind=kind,
            sentence=family.documentation,
            labels=dict(key),
            value=sums.get(key, 0.0),
            buckets=tuple(sorted(bounds)),
        )


def _tasks(engine: Engine) -> Iterator[Family]:
    """Yield how much work members under drain still do."""
    running = _family(Metric.TASKS_RUNNING)
    for name in engine.fleet.workloads:
        members = engine.rolls.known_members(name)
        running.add_metric([name], sum(each.busy or 0 for each in members if each.draining))
    yield running


def _told(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    """Return a metric's name, sentence and labels, as the catalogue has them."""
    _, labels, sentence = METRICS[metric]
    return metric.value, sentence, labels


def _family(metric: Metric) -> GaugeMetricFamily:
    name, sentence, labels = _told(metric)
    return GaugeMetricFamily(name, sentence, labels=labels)


def _one(metric: Metric, value: float, *labels: str) -> GaugeMetricFamily:
    family = _family(metric)
    family.add_metric(labels, value)
    return family
