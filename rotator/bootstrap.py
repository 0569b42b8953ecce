"""
The composition root: settings become wired objects, here and nowhere else.

Rules that must stay true here:

- Nothing is called over the network while wiring; only files that must be readable at start are opened.
- One session for each Vault, shared by everything that talks to it; one store, one ledger, one lease.
- What is opened here is closed by `Wired.close`, in reverse order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rotator.adapters.airflow.celery import CeleryDrainer, CeleryNode, queues_of_command
from rotator.adapters.airflow.remote_control import RemoteControl, broker_from_file
from rotator.adapters.directory import Access, DirectoryStore
from rotator.adapters.notify import LogNotifier
from rotator.adapters.probes import EnvoyAdminProbe, ReadBackProbe, ReportProbe, TLSProbe
from rotator.adapters.processes import CommandMember, Processes, UnitMember
from rotator.adapters.vault.auth import JWT, AppRole, Auth, Certificate, Kubernetes, TokenFile
from rotator.adapters.vault.authorities import CorporateIssuer, NameConstraints, VaultAuthorities
from rotator.adapters.vault.issuer import VaultIssuer
from rotator.adapters.vault.session import VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.clock import SystemClock
from rotator.core.event import Event
from rotator.core.foreseen import Alert, AlertPolicy, login_alerts, true_at
from rotator.core.model import SubjectName, TrustDomainName
from rotator.engine.engine import Engine
from rotator.engine.limits import IssuanceLimit, Limits
from rotator.engine.targets import CertificateTarget, DomainTarget, Fleet, WorkloadTarget
from rotator.errors import ConfigError
from rotator.evidence.ledger import records
from rotator.evidence.record import Record
from rotator.evidence.signer import LocalSigner
from rotator.evidence.tlog import TileLog
from rotator.ports import Clock, Drainer, IssuedCertificate, LeafStore, Lease, Probe
from rotator.settings import (
    Settings,
    alert_policy,
    authority_policy,
    leaf_policy,
    managed_certificate,
    policy_sha256,
    rollout_policy,
)
from rotator.settings.issuers import Login
from rotator.settings.issuers import VaultIssuer as VaultSettings
from rotator.settings.trust import CertificateSettings, ProbeSettings, PublishTarget
from rotator.settings.workloads import Workload
from rotator.store.lease import lease_for
from rotator.store.spool import Spool
from rotator.store.sql import SQLStore


@dataclass(slots=True)
class Sessions:
    """Vault sessions by issuer name, kept over a reload of the configuration."""

    clock: Clock
    threads: int
    _open: dict[str, tuple[VaultSettings, VaultSession]]
    _missing: dict[str, datetime] = field(default_factory=dict)
    """Since when an issuer's session was seen without a login."""

    def of(self, name: str, settings: VaultSettings) -> VaultSession:
        """Return the session of issuer *name*, a new one if its settings have changed."""
        known = self._open.get(name)
        if known is not None and known[0] == settings:
            return known[1]
        if known is not None:
            known[1].close()
        endpoint = Endpoint(
            address=str(settings.address),
            ca_file=settings.ca_file,
            namespace=settings.namespace,
            timeout=settings.timeout,
            connections=max(4, 2 * self.threads),
        )
        session = VaultSession(endpoint, _auth(settings.auth), clock=self.clock)
        self._open[name] = (settings, session)
        return session

    def all(self) -> tuple[VaultSession, ...]:
        """Return every open session."""
        return tuple(session for _, session in self._open.values())

    def alerts(self, policy: AlertPolicy, now: datetime) -> Iterator[Alert]:
        """Yield what the logins raise at *now*, by issuer."""
        for name, (_, session) in tuple(self._open.items()):
            if session.is_logged_in:
                self._missing.pop(name, None)
            else:
                self._missing.setdefault(name, now)
            foreseen = login_alerts(
                SubjectName(name),
                policy,
                not_after=session.token_not_after,
                life=session.token_life,
                missing_since=self._missing.get(name),
            )
            yield from true_at(foreseen, now)

    def close(self) -> None:
        """Close every session."""
        for session in self.all():
            session.close()
        self._open.clear()


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
    policy: list[str]
    """The hash of the policy in force, in a cell that the store reads at each transaction."""

    def reload(self, settings: Settings) -> None:
        """Look after what *settings* say from now on. What needs a restart is refused as a whole."""
        for key in ("environment", "store", "socket"):
            if getattr(settings, key) != getattr(self.settings, key):
                raise ConfigError(f"{key} cannot change while the daemon runs: restart it")
        if settings.ledger.path != self.settings.ledger.path or settings.ledger.origin != self.settings.ledger.origin:
            raise ConfigError("ledger.path and ledger.origin cannot change while the daemon runs: restart it")
        fleet = build_fleet(settings, self.sessions, self.clock)
        self.policy[0] = fleet.policy_sha256
        self.engine.use(fleet)
        self.engine.fleet_alerts.policy = alert_policy(settings)
        self.settings = settings

    def close(self) -> None:
        """Close everything, in reverse order."""
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


def audit_sources(settings: Settings) -> Audit:
    """Return what the auditor's commands need of the installation that *settings* describe."""
    return Audit(settings, SystemClock())


def spool_path(settings: Settings) -> Path:
    """Return where records wait while the database cannot be written: beside the log, away from the database."""
    return settings.ledger.path.parent / f"{settings.ledger.path.name}-spool.jsonl"


def wire(settings: Settings, *, clock: Clock) -> Wired:
    """Build every object of one daemon from *settings*; the lease is not taken yet."""
    with contextlib.ExitStack() as undo:
        policy = [policy_sha256(settings)]
        store = open_store(settings, policy)
        undo.callback(store.close)
        lease = lease_for(str(settings.store))
        signer = LocalSigner(settings.ledger.signing_key_file, settings.ledger.origin)
        sessions = Sessions(clock, settings.limits.threads, {})
        undo.callback(sessions.close)
        limits = Limits(
            clock,
            issuer_per_second=settings.limits.vault_requests_per_second,
            per_subject=IssuanceLimit(
                count=settings.limits.issuances_per_subject.count,
                within=settings.limits.issuances_per_subject.within,
            ),
        )
        longest = max(each.vault.timeout for each in settings.issuers.values() if each.vault is not None)
        engine = Engine(
            fleet=build_fleet(settings, sessions, clock),
            journal=store,
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
        engine.alerting.watch(lambda now: sessions.alerts(engine.fleet_alerts.policy, now))
        log = TileLog(settings.ledger.path, settings.ledger.origin, signer)
        undo.pop_all()
    return Wired(settings, clock, store, lease, sessions, engine, log, signer, policy)


def build_fleet(settings: Settings, sessions: Sessions, clock: Clock) -> Fleet:
    """Return everything that *settings* ask rotator to look after."""
    return Fleet(
        environment=settings.environment,
        policy_sha256=policy_sha256(settings),
        domains={TrustDomainName(name): _domain(settings, name, sessions, clock) for name in settings.trust_domains},
        certificates={SubjectName(name): _certificate(settings, name, clock) for name in settings.certificates},
        workloads={
            SubjectName(name): _workload(name, workload, clock) for name, workload in settings.workloads.items()
        },
    )


def _domain(settings: Settings, name: str, sessions: Sessions, clock: Clock) -> DomainTarget:
    """Return one trust domain with its signer at Vault."""
    domain = settings.trust_domains[name]
    vault = settings.issuers[domain.issuer].vault
    if vault is None:
        raise ConfigError(f"issuers.{domain.issuer} names no Vault")
    session = sessions.of(domain.issuer, vault)
    trust_domain = TrustDomainName(name)
    skew = settings.timing.skew
    authorities = VaultAuthorities(
        session,
        clock=clock,
        trust_domain=trust_domain,
        mount=domain.ca.mount,
        corporate=CorporateIssuer(mount=vault.mount, issuer=vault.issuer),
        skew=skew,
        name_constraints=NameConstraints(permitted_dns_domains=domain.ca.name_constraints.permitted_dns),
    )
    return DomainTarget(
        name=trust_domain,
        policy=authority_policy(settings, name),
        issuer=VaultIssuer(
            session,
            clock=clock,
            trust_domain=trust_domain,
            mount=domain.ca.mount,
            role=domain.ca.role,
            skew=skew,
        ),
        authorities=authorities,
        parent=authorities,
        key=domain.ca.key,
        crl_interval=domain.ca.crl_interval,
        issuer_label=domain.issuer,
    )


def _certificate(settings: Settings, name: str, clock: Clock) -> CertificateTarget:
    """Return one certificate with its places and its proofs."""
    wanted = settings.certificates[name]
    stores = tuple(_store(each) for each in wanted.publish)
    return CertificateTarget(
        certificate=managed_certificate(settings, name),
        policy=leaf_policy(settings, name),
        stores=stores,
        probes=tuple(_probe(each, wanted, stores, clock) for each in wanted.probes),
    )


def _store(target: PublishTarget) -> LeafStore:
    """Return one place to publish at."""
    directory = target.directory
    if directory is None:
        raise ConfigError("kubernetes_secret comes with the cluster deployment: publish to a directory")
    access = Access(owner=directory.owner, group=directory.group, key_mode=directory.key_mode)
    return DirectoryStore(directory.path, access=access)


def _probe(probe: ProbeSettings, wanted: CertificateSettings, stores: tuple[LeafStore, ...], clock: Clock) -> Probe:
    """Return one way to see what the consumer uses."""
    if probe.envoy_admin is not None:
        return EnvoyAdminProbe(
            str(probe.envoy_admin.url), clock=clock, identity=wanted.identity, timeout=probe.envoy_admin.timeout
        )
    if probe.tls is not None:
        return TLSProbe(
            probe.tls.address,
            clock=clock,
            server_name=probe.tls.server_name,
            presents=probe.tls.presents,
            expects=wanted.identity,
            timeout=probe.tls.timeout,
        )
    if probe.report is not None:
        return ReportProbe(probe.report.path, clock=clock)
    return ReadBackProbe(stores[0], clock=clock)


def _workload(name: str, workload: Workload, clock: Clock) -> WorkloadTarget:
    """Return one workload with its members and how they are drained."""
    members: list[CommandMember | UnitMember] = []
    for each in workload.processes or ():
        if each.unit is not None:
            members.append(UnitMember(name=each.name, unit=each.unit))
        elif each.command is not None and each.pid_file is not None and each.log_file is not None:
            members.append(
                CommandMember(
                    name=each.name,
                    command=each.command,
                    pid_file=each.pid_file,
                    log_file=each.log_file,
                    directory=each.directory,
                    environment=each.environment,
                    environment_file=each.environment_file,
                )
            )
        else:
            raise ConfigError(f"workloads.{name}: {each.name} needs a unit, or a command with pid_file and log_file")
    return WorkloadTarget(
        name=SubjectName(name),
        policy=rollout_policy(workload),
        workloads=Processes(
            SubjectName(name),
            members,
            clock=clock,
            stop_timeout=workload.stop_timeout,
            start_timeout=workload.start_timeout,
            drained=workload.drain is not None,
        ),
        drainer=_drainer(workload, clock),
        ready_within=workload.start_timeout,
        keep_running=all(isinstance(each, CommandMember) for each in members),
    )


def _drainer(workload: Workload, clock: Clock) -> Drainer | None:
    """Return how work is taken away from the members of *workload*, if it is."""
    celery = workload.drain.celery if workload.drain is not None else None
    if celery is None:
        return None
    control = RemoteControl(broker_from_file(celery.broker_file), clock=clock, timeout=celery.timeout)
    nodes = {}
    for each in workload.processes or ():
        queues = frozenset(each.queues or celery.queues) or queues_of_command(each.command or ())
        nodes[each.name] = CeleryNode(node=each.node or f"celery@{each.name}", queues=queues)
    return CeleryDrainer(control, nodes)


def _auth(login: Login) -> Auth:
    """Return how to log in, as the adapter wants it."""
    if login.approle is not None:
        chosen = login.approle
        return AppRole(role_id_file=chosen.role_id_file, secret_id_file=chosen.secret_id_file, mount=chosen.mount)
    if login.kubernetes is not None:
        return Kubernetes(
            role=login.kubernetes.role, token_file=login.kubernetes.token_file, mount=login.kubernetes.mount
        )
    if login.jwt is not None:
        return JWT(role=login.jwt.role, token_file=login.jwt.token_file, mount=login.jwt.mount)
    if login.cert is not None:
        return Certificate(
            role=login.cert.role or "",
            cert_file=login.cert.cert_file,
            key_file=login.cert.key_file,
            mount=login.cert.mount,
        )
    if login.token is not None:
        return TokenFile(token_file=login.token.token_file)
    raise ConfigError("auth names no way to log in")
