"""
The engine: one fleet, one sweep, six kinds of targets.

Rules that must stay true here:

- A visit reads the world before it decides (law 13); what is kept between visits is only when to look again.
- A fleet is replaced as a whole; a visit works on the fleet that it started with.
- Nothing here knows a server: ports in, records out.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from rotator.core.alert_kinds import AlertKind
from rotator.core.event import EventType, Trigger
from rotator.core.foreseen import AlertPolicy
from rotator.core.model import SubjectName, TrustDomainName
from rotator.engine.alerting import Alerting
from rotator.engine.authority_reconciler import AuthorityReconciler
from rotator.engine.authority_steps import AuthoritySteps
from rotator.engine.domains import Domains
from rotator.engine.fleet_alerts import FleetAlerts
from rotator.engine.leaf_reconciler import LeafReconciler, Look
from rotator.engine.leaf_steps import LeafSteps
from rotator.engine.limits import Limits
from rotator.engine.locks import Locks
from rotator.engine.memory import Memory
from rotator.engine.meshes import Meshes
from rotator.engine.observe import Confirmations
from rotator.engine.platform import PlatformReconciler
from rotator.engine.recorder import EventSpool, Recorder, Scribe
from rotator.engine.recovery import Recovery
from rotator.engine.roll_reconciler import RollReconciler
from rotator.engine.roll_steps import RollSteps
from rotator.engine.signing_keys import SigningKeyReconciler
from rotator.engine.targets import Fleet, TargetId
from rotator.engine.token_reconciler import TokenReconciler
from rotator.engine.token_steps import TokenSteps
from rotator.engine.watcher import AT_ONCE, Watcher
from rotator.engine.workers import Pool
from rotator.errors import InvariantBroken, JournalError, RotatorError
from rotator.ports import Clock, Journal, Lease, Ledger, Notifier
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)


class Engine:
    """Keeps one fleet as it is wanted."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        journal: Journal,
        ledger: Ledger,
        lease: Lease,
        spool: EventSpool,
        clock: Clock,
        limits: Limits,
        notifiers: Sequence[Notifier] = (),
        alert_policy: AlertPolicy | None = None,
        threads: int = 0,
        settle_after: timedelta = timedelta(seconds=30),
        crl_every: timedelta = timedelta(minutes=1),
    ) -> None:
        """*threads* 0 does everything in the caller's thread, one target after the other."""
        self.clock = clock
        self.fleet = fleet
        self.memory = Memory()
        self.domains = Domains()
        self.confirmations = Confirmations()
        self.recorder = Recorder(journal=journal, memory=self.memory, clock=clock, lease=lease, spool=spool)
        self._locks = Locks()
        recovery = Recovery(
            recorder=self.recorder, domains=self.domains, settle_after=settle_after, crl_every=crl_every
        )
        leaf_steps = LeafSteps(
            recorder=self.recorder, domains=self.domains, limits=limits, confirmations=self.confirmations
        )
        self.rolls = RollReconciler(
            recorder=self.recorder, locks=self._locks, steps=RollSteps(recorder=self.recorder, ledger=ledger)
        )
        self.leaves = LeafReconciler(
            recorder=self.recorder,
            domains=self.domains,
            limits=limits,
            locks=self._locks,
            steps=leaf_steps,
            recovery=recovery,
            members=self.rolls.members,
        )
        self._wave: Executor | None = ThreadPoolExecutor(threads, thread_name_prefix="wave") if threads else None
        self.authorities = AuthorityReconciler(
            recorder=self.recorder,
            domains=self.domains,
            locks=self._locks,
            steps=AuthoritySteps(recorder=self.recorder, limits=limits, confirmations=self.confirmations),
            meshes=Meshes(recorder=self.recorder, limits=limits),
            leaf_steps=leaf_steps,
            leaves=self.leaves,
            recovery=recovery,
            confirmations=self.confirmations,
            wave=self._wave,
        )
        self.platform = PlatformReconciler(recorder=self.recorder, locks=self._locks)
        self.signing_keys = SigningKeyReconciler(recorder=self.recorder, locks=self._locks, kick=self._kick_tokens)
        self.tokens = TokenReconciler(
            recorder=self.recorder,
            limits=limits,
            locks=self._locks,
            steps=TokenSteps(recorder=self.recorder, limits=limits),
            key_want=self.signing_keys.want,
        )
        self.pool = Pool(clock=clock, threads=threads, visit=self.visit, failed=self._failed)
        self.fleet_alerts = FleetAlerts(
            policy=alert_policy or AlertPolicy(),
            recorder=self.recorder,
            leaves=self.leaves,
            tokens=self.tokens,
            signing_keys=self.signing_keys,
            rolls=self.rolls,
            domains=self.domains,
            limits=limits,
            begun_before=self._begun_before,
        )
        self.alerting = Alerting(
            recorder=self.recorder,
            notifiers=notifiers,
            sources=[lambda now: self.fleet_alerts.true_now(self.fleet, now)],
            has_seen=self._has_seen,
        )
        self.watcher = Watcher(
            clock=clock,
            policy=lambda: self.fleet_alerts.policy,
            begun_before=self._begun_before,
            threads=AT_ONCE if threads else 0,
        )
        self.alerting.watch(self.watcher.alerts, self.watcher.has_seen)
        self.alerting.watch(self.platform.alerts, self._has_seen_platform)
        self._loading = threading.Lock()
        self._started = False

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load what the journal remembers and know every target."""
        with self._loading:
            self._started = True
            self.memory.load(self.recorder.journal)
        self.use(self.fleet)

    def refresh(self) -> None:
        """
        Read what the journal holds now, which is what a standby's views are made of; nothing once the engine works.

        Raises:
            JournalError: If it cannot be read.
        """
        with self._loading:
            if not self._started:
                self.memory.load(self.recorder.journal)

    def use(self, fleet: Fleet) -> None:
        """Look after *fleet* from the next visit on."""
        self.fleet = fleet
        self.pool.keep(target_ids(fleet))

    def stop(self, timeout: timedelta) -> bool:
        """Finish the steps under way and start no more; return whether they ended in time."""
        ended = self.pool.stop(timeout)
        self.watcher.stop()
        self.alerting.stop()
        if self._wave is not None:
            self._wave.shutdown(wait=ended, cancel_futures=True)
        return ended

    def sweep(self) -> int:
        """Enter what waited outside, visit what is due, and look at every alert; return how many visits began."""
        try:
            self.recorder.enter_spooled()
        except JournalError as error:
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))
        started = self.pool.run_due()
        self.watcher.sweep()
        # Also without a ledger: then people need to know most.
        self.alerting.look()
        return started

    def heartbeat(self, every: timedelta) -> None:
        """Record that rotator is alive and will say so again within *every*, so that silence is visible (law 21)."""
        beat = Scribe(clock=self.clock, subject="rotator", rotation=None).event(
            EventType.HEARTBEAT,
            detail={"targets": len(target_ids(self.fleet)), "every_seconds": max(1, round(every.total_seconds()))},
        )
        try:
            self.recorder.write((), [beat])
        except RotatorError as error:
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(error))

    def _begun_before(self, kind: AlertKind, subject: SubjectName) -> datetime | None:
        return self.alerting.begun_before(kind, subject)

    def _has_seen_platform(self, subject: SubjectName) -> bool:
        """Return whether the platform was looked at since the start, if *subject* is it and it is looked after."""
        return self.fleet.platform is None or subject != self.fleet.platform.name or self.platform.has_seen()

    def _has_seen(self, subject: SubjectName) -> bool:
        """Return whether *subject* has been looked at since the start, or is none of this fleet's."""
        fleet = self.fleet
        if subject in fleet.certificates:
            return self.leaves.view(subject) is not None
        if subject in fleet.tokens:
            return self.tokens.view(subject) is not None
        if subject in fleet.signing_keys:
            return self.signing_keys.view(subject) is not None
        if subject in fleet.workloads:
            return self.pool.look(fleet.workloads[subject].id)[0] is not None
        domain = TrustDomainName(subject)
        return domain not in fleet.domains or self.domains.get(domain) is not None

    # --- visits -----------------------------------------------------------------------------------------------------

    def visit(self, target: TargetId) -> Look:
        """Bring one target one step closer to what is wanted."""
        fleet = self.fleet
        self._settle_doubt(target)
        kind, _, name = target.partition(":")
        match kind:
            case "trust_domain":
                look = self.authorities.reconcile(fleet, fleet.domains[TrustDomainName(name)])
                self._kick_followers(fleet, TrustDomainName(name))
                return look
            case "platform" if fleet.platform is not None:
                return self.platform.reconcile(fleet.platform)
            case "certificate":
                certificate = fleet.certificates[SubjectName(name)]
                before = self.memory.open_rotation(certificate.name)
                look = self.leaves.reconcile(fleet, certificate)
                if before is None and self.memory.open_rotation(certificate.name) is not None:
                    for rolled in certificate.certificate.rolls:
                        self.pool.kick(fleet.workloads[rolled].id)
                return look
            case "token":
                token = fleet.tokens[SubjectName(name)]
                look = self.tokens.reconcile(fleet, token)
                if token.keys is not None and self.memory.open_rotation(token.keys) is not None:
                    self.pool.kick(fleet.signing_keys[token.keys].id)
                return look
            case "signing_key":
                return self.signing_keys.reconcile(fleet, fleet.signing_keys[SubjectName(name)], self.tokens)
            case _:
                workload = fleet.workloads[SubjectName(name)]
                return self.rolls.reconcile(fleet, workload, self.leaves)

    def _settle_doubt(self, target: TargetId) -> None:
        """Trust the working set again after a lost reply; past the safety line it is used as it is (law 12)."""
        look, _, _ = self.pool.look(target)
        is_past = look is not None and look.deadline is not None and self.clock.now() >= look.deadline
        if is_past and self.recorder.is_away():
            return
        try:
            self.recorder.settle_doubt()
        except JournalError:
            if not is_past:
                raise

    def _kick_followers(self, fleet: Fleet, domain: TrustDomainName) -> None:
        """Let certificates that wait for *domain*'s first bundle be looked at."""
        state = self.domains.get(domain)
        if state is None or not state.decision.bundle:
            return
        for target in fleet.relying_on(domain):
            view = self.leaves.view(target.name)
            if view is None or view.window is None:
                self.pool.kick(target.id)

    def _kick_tokens(self, fleet: Fleet, keys: SubjectName) -> None:
        """Let the tokens that *keys* sign be looked at now."""
        for target in fleet.signed_by(keys):
            self.pool.kick(target.id)

    def _failed(self, target: TargetId, error: RotatorError, failures: int) -> None:
        """Log a failed visit, and record the first failure of a streak."""
        log.warning(LogEvent.TARGET_FAILED, target=target, error=str(error), failures=failures)
        if failures != 1 or isinstance(error, JournalError):
            return
        if isinstance(error, InvariantBroken):
            log.error(LogEvent.LAW_KEPT, target=target, law=error.law, error=str(error))
        name = SubjectName(target.partition(":")[2])
        rotation = self.memory.open_rotation(name)
        scribe = Scribe(clock=self.clock, subject=name, rotation=rotation)
        event = scribe.event(EventType.FAILED, result=type(error).__name__.lower(), reason=str(error))
        trigger = rotation.trigger if rotation is not None else Trigger.SCHEDULE
        try:
            self.recorder.write((), [replace(event, trigger=trigger)])
        except RotatorError as second:
            log.warning(LogEvent.LEDGER_UNWRITABLE, error=str(second))


def target_ids(fleet: Fleet) -> tuple[TargetId, ...]:
    """Return every target of *fleet*: trust domains first, so that leaves find their authorities."""
    return (
        *(each.id for each in fleet.domains.values()),
        *(each.id for each in fleet.certificates.values()),
        *(each.id for each in fleet.workloads.values()),
        *([fleet.platform.id] if fleet.platform is not None else []),
        *(each.id for each in fleet.signing_keys.values()),
        *(each.id for each in fleet.tokens.values()),
    )
