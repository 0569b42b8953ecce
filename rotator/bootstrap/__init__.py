"""
The composition root: settings become wired objects, here and nowhere else.

Rules that must stay true here:

- Nothing is called over the network while wiring; only files that must be readable at start are opened.
- One session for each Vault, shared by everything that talks to it; one store, one ledger, one lease.
- What is opened here is closed by `Wired.close`, in reverse order.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from rotator.adapters.kubernetes.lease import KubernetesLease, LeaseTiming
from rotator.adapters.notify.log import LogNotifier
from rotator.bootstrap.cluster import access
from rotator.bootstrap.exporting import Outlet
from rotator.bootstrap.fleet import build_fleet
from rotator.bootstrap.logins import PlaneLogins
from rotator.bootstrap.sessions import Sessions
from rotator.bootstrap.telling import build_tellers
from rotator.bootstrap.watching import build_watched
from rotator.clock import SystemClock
from rotator.cluster.objects import ObjectAPI
from rotator.core.event import Commitment, Event
from rotator.engine.engine import Engine
from rotator.engine.limits import IssuanceLimit, Limits
from rotator.engine.pauses import LedgerPauses
from rotator.errors import ConfigError
from rotator.evidence.ledger import records
from rotator.evidence.record import Record
from rotator.evidence.signer import LocalSigner
from rotator.evidence.tlog import TileLog
from rotator.ports import Clock, IssuedCertificate, Lease
from rotator.settings import Settings, alert_policy, policy_sha256
from rotator.store.lease import lease_for
from rotator.store.spool import Spool
from rotator.store.sql import SQLStore

__all__ = ["Audit", "Sessions", "Wired", "audit_sources", "build_fleet", "open_store", "spool_path", "wire"]


@dataclass(slots=True)
class Wired:
    """One daemon's objects."""

    settings: Settings
    clock: Clock
    store: SQLStore
    lease: Lease
    sessions: Sessions
    engine: Engine
    log: TileLog
    signer: LocalSigner
    outlet: Outlet
    """Where traces, metrics and logs go."""
    policy: list[str]
    """The hash of the policy in force, in a cell that the store reads at each transaction."""
    logins: PlaneLogins | None = None
    """At control planes."""
    stands_by: timedelta | None = None
    """How often a standby tries to take the lease; None: a daemon that does not get it ends."""
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What else is closed with it."""

    def reload(self, settings: Settings) -> None:
        """Look after what *settings* say from now on. What needs a restart is refused as a whole."""
        for key in ("environment", "store", "socket", "stand_by", "http"):
            if getattr(settings, key) != getattr(self.settings, key):
                raise ConfigError(f"{key} cannot change while the daemon runs: restart it")
        before, after = (each.cluster and each.cluster.lease for each in (self.settings, settings))
        if before != after:
            raise ConfigError("cluster.lease cannot change while the daemon runs: restart it")
        if settings.ledger.path != self.settings.ledger.path or settings.ledger.origin != self.settings.ledger.origin:
            raise ConfigError("ledger.path and ledger.origin cannot change while the daemon runs: restart it")
        fleet = build_fleet(settings, self.sessions, self.clock)
        cluster = functools.partial(self.sessions.cluster, settings)
        watched = build_watched(settings, self.sessions, cluster)
        tellers = None
        if _told(settings) != _told(self.settings):
            tellers = build_tellers(settings, self.clock, cluster, may_tell=self.lease.held)
        self.policy[0] = fleet.policy_sha256
        self.engine.use(fleet)
        self.engine.fleet_alerts.policy = alert_policy(settings)
        self.engine.watcher.use(watched)
        if tellers is not None:
            self.engine.alerting.use(tellers)
        self.outlet.use(settings)
        self.settings = settings

    def close(self) -> None:
        """Close everything, in reverse order."""
        self.closing.close()
        self.sessions.close()
        self.store.close()


def open_store(settings: Settings, policy: list[str] | None = None) -> SQLStore:
    """Open journal and ledger."""
    cell = policy if policy is not None else [policy_sha256(settings)]
    return SQLStore(str(settings.store), environment=settings.environment, policy_sha256=lambda: cell[0])


@dataclass(slots=True)
class Audit:
    """What the auditor's commands read of one installation; see `rotator.cli.audit.AuditSources`."""

    settings: Settings
    clock: Clock

    @property
    def log_directory(self) -> Path:
        """Return where the evidence log lies."""
        return self.settings.ledger.path

    def records(self) -> Iterable[Record]:
        """Return the whole ledger, in order."""
        with contextlib.closing(open_store(self.settings)) as store:
            yield from records(store)

    def issued(self) -> Iterable[IssuedCertificate]:
        """Return the CA's own lists: every trust domain's leaves, and the CAs that the corporate PKI signed for it."""
        with contextlib.closing(Sessions(self.clock, 1, {})) as sessions:
            for domain in build_fleet(self.settings, sessions, self.clock).domains.values():
                if domain.issuer is not None:
                    yield from domain.issuer.issued()
                yield from domain.authorities.strays()

    def now(self) -> datetime:
        """Return the wall clock."""
        return self.clock.now()

    def note(self, event: Event) -> None:
        """Append *event* to the ledger."""
        with contextlib.closing(open_store(self.settings)) as store, store.transaction() as transaction:
            transaction.append(event)

    def reveal(self, commitment: Commitment) -> str | None:
        """Return the name or words behind *commitment*; None if they were erased."""
        with contextlib.closing(open_store(self.settings)) as store:
            return store.reveal(commitment)


def audit_sources(settings: Settings) -> Audit:
    """Return what the auditor's commands need of the installation that *settings* describe."""
    return Audit(settings, SystemClock())


def _timeouts(settings: Settings) -> Iterator[timedelta]:
    """Yield how long each system that changes the world on rotator's word may take to answer."""
    yield from (each.vault.timeout for each in settings.issuers.values() if each.vault is not None)
    yield from (each.mesh.control_plane.timeout for each in settings.trust_domains.values() if each.mesh is not None)


def _told(settings: Settings) -> object:
    """Return everything of *settings* that says who is told and how."""
    return settings.alerts.notify, settings.alerts.links, settings.cluster, settings.environment


def spool_path(settings: Settings) -> Path:
    """Return where records wait while the database cannot be written: beside the log, away from the database."""
    return settings.ledger.path.parent / f"{settings.ledger.path.name}-spool.jsonl"


def wire(settings: Settings, *, clock: Clock) -> Wired:
    """Build every object of one daemon from *settings*; the lease is not taken yet."""
    with contextlib.ExitStack() as undo:
        policy = [policy_sha256(settings)]
        store = open_store(settings, policy)
        undo.callback(store.close)
        closing = contextlib.ExitStack()
        undo.callback(closing.close)
        lease, stands_by = _lease(settings, clock, closing)
        signer = LocalSigner(settings.ledger.signing_key_file, settings.ledger.origin)
        sessions = Sessions(clock, settings.limits.threads, {})
        undo.callback(sessions.close)
        sessions.pauses = LedgerPauses(journal=store, ledger=store, clock=clock, lease=lease)
        limits = Limits(
            clock,
            issuer_per_second=settings.limits.vault_requests_per_second,
            per_subject=IssuanceLimit(
                count=settings.limits.issuances_per_subject.count,
                within=settings.limits.issuances_per_subject.within,
            ),
        )
        longest = max(_timeouts(settings))
        engine = Engine(
            fleet=build_fleet(settings, sessions, clock),
            journal=store,
            ledger=store,
            lease=lease,
            spool=Spool(spool_path(settings), clock=clock),
            clock=clock,
            limits=limits,
            notifiers=[LogNotifier()],
            alert_policy=alert_policy(settings),
            threads=settings.limits.threads,
            # After twice the time-out no reply and no late arrival of the request is to be expected.
            settle_after=2 * longest,
        )
        engine.alerting.watch(
            lambda now: sessions.alerts(engine.fleet_alerts.policy, now, engine.alerting.begun_before)
        )
        logins = PlaneLogins(lambda: wired.settings)
        engine.alerting.watch(lambda now: logins.alerts(engine.fleet_alerts.policy, now, engine.alerting.begun_before))
        cluster = functools.partial(sessions.cluster, settings)
        engine.alerting.use(build_tellers(settings, clock, cluster, may_tell=lease.held))
        engine.watcher.use(build_watched(settings, sessions, cluster))
        outlet = Outlet(settings, clock)
        engine.recorder.tracing.tell(outlet.span)
        engine.alerting.watch(outlet.alerts)
        log = TileLog(settings.ledger.path, settings.ledger.origin, signer)
        wired = Wired(
            settings, clock, store, lease, sessions, engine, log, signer, outlet, policy, logins, stands_by, closing
        )
        undo.pop_all()
    return wired


def _lease(settings: Settings, clock: Clock, closing: contextlib.ExitStack) -> tuple[Lease, timedelta | None]:
    """Return who may lead, and how often a standby looks; what has to be closed with it goes to *closing*."""
    wanted = settings.cluster.lease if settings.cluster is not None else None
    if wanted is None:
        return lease_for(str(settings.store)), settings.stand_by
    # Its own way to the API server: a renewal must not queue behind anything, nor outlast its use.
    reach = access(settings)
    api = ObjectAPI(replace(reach, timeout=min(reach.timeout, wanted.renew_deadline / 2), connections=2))
    closing.callback(api.close)
    timing = LeaseTiming(duration=wanted.duration, renew_deadline=wanted.renew_deadline, retry=wanted.retry)
    lease = KubernetesLease(
        api,
        namespace=reach.namespace,
        name=wanted.name,
        identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        timing=timing,
        clock=clock,
    )
    return lease, wanted.retry
