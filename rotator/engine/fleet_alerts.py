"""
What the fleet gives people to know now: the last look at every target, asked for its alerts.

Rules that must stay true here:

- Read only, from the last look: nothing here makes a call that leaves the process, but for the size of the spool.
- Cheap for ten thousand certificates: what a view foresees is worked out once and holds until the view is replaced; a
  view whose renewal has not opened foresees nothing at all.
- What was never seen raises nothing. From when on a consumer has not shown its certificate is known as far back as
  this process reaches, or since a process before has raised it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.core.alert_kinds import AlertKind
from rotator.core.foreseen import (
    Alert,
    AlertPolicy,
    CertificateStanding,
    DomainStanding,
    WorkloadStanding,
    certificate_alerts,
    domain_alerts,
    next_change,
    spool_alerts,
    true_at,
    workload_alerts,
)
from rotator.core.foreseen_tokens import SigningKeyStanding, signing_key_alerts
from rotator.core.model import SubjectName
from rotator.engine.domains import Domains
from rotator.engine.leaf_reconciler import CertificateView, LeafReconciler
from rotator.engine.limits import Limits
from rotator.engine.observe import newest
from rotator.engine.recorder import Recorder
from rotator.engine.roll_reconciler import RollReconciler
from rotator.engine.signing_keys import SigningKeyReconciler
from rotator.engine.targets import (
    CertificateTarget,
    DomainTarget,
    Fleet,
    SigningKeyTarget,
    TokenTarget,
    WorkloadTarget,
)
from rotator.engine.token_reconciler import TokenReconciler
from rotator.errors import JournalError
from rotator.ports import IssuanceState


@dataclass(slots=True)
class _Known:
    """What one view of one certificate foresees, and which of it is true from `since` to `until`."""

    view: CertificateView
    target: CertificateTarget
    foreseen: tuple[Alert, ...]
    true: tuple[Alert, ...]
    since: datetime
    until: datetime | None
    """None: nothing more comes."""


class FleetAlerts:
    """The alerts of everything that one engine looks after. Called by one thread at a time."""

    def __init__(
        self,
        *,
        policy: AlertPolicy,
        recorder: Recorder,
        leaves: LeafReconciler,
        tokens: TokenReconciler,
        signing_keys: SigningKeyReconciler,
        rolls: RollReconciler,
        domains: Domains,
        limits: Limits,
        begun_before: Callable[[AlertKind, SubjectName], datetime | None] = lambda _kind, _subject: None,
    ) -> None:
        self.policy = policy
        self._begun_before = begun_before
        self._recorder = recorder
        self._memory = recorder.memory
        self._leaves = leaves
        self._tokens = tokens
        self._signing_keys = signing_keys
        self._rolls = rolls
        self._domains = domains
        self._limits = limits
        self._known: dict[SubjectName, _Known] = {}
        self._known_for: tuple[Fleet, AlertPolicy] | None = None
        self._unproven: dict[SubjectName, datetime] = {}
        """When this process first saw a certificate unproven that it has not seen proven since."""
        self._down: dict[SubjectName, dict[str, datetime]] = {}
        """Since when this process has seen a member of a workload not run."""
        self._spooled_since: datetime | None = None

    def true_now(self, fleet: Fleet, now: datetime) -> Iterator[Alert]:
        """Yield every alert of *fleet* and its ledger that is true at *now*."""
        self._forget(fleet)
        for domain in fleet.domains.values():
            yield from self._of_domain(domain, now)
        yield from self._of_certificates(fleet, now)
        for token in fleet.tokens.values():
            yield from self._of_token(token, now)
        for keys in fleet.signing_keys.values():
            yield from self._of_signing_keys(fleet, keys, now)
        for workload in fleet.workloads.values():
            yield from self._of_workload(fleet, workload, now)
        yield from self._of_spool(now)

    def _forget(self, fleet: Fleet) -> None:
        """Forget what was worked out for another fleet or other thresholds."""
        known_for = self._known_for
        if known_for is None or known_for[0] is not fleet or known_for[1] is not self.policy:
            self._known_for = (fleet, self.policy)
            self._known.clear()
            self._unproven = {
                name: at for name, at in self._unproven.items() if name in fleet.certificates or name in fleet.tokens
            }

    # --- certificates -----------------------------------------------------------------------------------------------

    def _of_certificates(self, fleet: Fleet, now: datetime) -> Iterator[Alert]:
        view_of, known_of = self._leaves.view, self._known.get
        for name, target in fleet.certificates.items():
            view = view_of(name)
            if view is None:
                continue
            known = known_of(name)
            if known is None or known.view is not view:
                known = self._known[name] = self._look(target, view, now)
            elif now < known.since or (known.until is not None and now >= known.until):
                # Its moment has come, or the clock was set back (law 20).
                known = self._known[name] = self._work_out(target, view, now)
            if known.true:
                yield from known.true

    def _look(self, target: CertificateTarget, view: CertificateView, now: datetime) -> _Known:
        """Return what a new *view* foresees, without working it out while all is well."""
        if view.proof.proven:
            self._unproven.pop(target.name, None)
            window = view.window
            if window is not None and not view.look.alert and view.at <= now < window.opens:
                return _Known(view, target, (), (), since=view.at, until=window.opens)
        else:
            self._unproven.setdefault(target.name, self._first_unproven(target, view.at))
        return self._work_out(target, view, now)

    def _first_unproven(self, target: CertificateTarget | TokenTarget, now: datetime) -> datetime:
        """Return from when on *target* is unproven: from *now*, unless a process before has told of it."""
        budget = target.policy.budget
        waits = {
            AlertKind.UNPROVEN: budget.publish + budget.drain + budget.proof,
            AlertKind.NOTHING_PUBLISHED: self.policy.overdue_after,
        }
        told = ((self._begun_before(kind, target.name), wait) for kind, wait in waits.items())
        return min((since - wait for since, wait in told if since is not None), default=now)

    def _work_out(self, target: CertificateTarget, view: CertificateView, now: datetime) -> _Known:
        """Return what *view* foresees and what of it is true at *now*."""
        foreseen = certificate_alerts(self._standing(target, view), self.policy)
        return _Known(view, target, foreseen, true_at(foreseen, now), since=now, until=next_change(foreseen, now))

    def _standing(self, target: CertificateTarget, view: CertificateView) -> CertificateStanding:
        """Return what alerts need to know of one certificate."""
        hold = self._memory.hold(target.name)
        tripped = self._limits.tripped_until(target.name) if view.look.alert else None
        first = self._unproven.get(target.name)
        unproven_since = former_ends = None
        if first is not None:
            publication = newest(view.observation)
            published = publication.leaf_published_at if publication is not None else None
            unproven_since = max(first, published or first)
            present = publication.leaf.spki_sha256 if publication is not None and publication.leaf else None
            former_ends = max(
                (
                    order.not_after
                    for order in self._memory.orders(target.name)
                    if order.state is IssuanceState.PUBLISHED
                    and order.spki_sha256 != present
                    and order.not_after is not None
                ),
                default=None,
            )
        return CertificateStanding(
            name=target.name,
            policy=target.policy,
            window=view.window,
            held_until=hold.until if hold is not None else None,
            unproven_since=unproven_since,
            waiting_on=view.proof.waiting_on,
            former_ends=former_ends,
            breaker=(view.at, tripped) if tripped is not None else None,
        )

    def _of_token(self, target: TokenTarget, now: datetime) -> tuple[Alert, ...]:
        """Return what the last look at *target* raises: as a certificate, for it ends as one."""
        view = self._tokens.view(target.name)
        if view is None:
            return ()
        if view.proven:
            self._unproven.pop(target.name, None)
        else:
            self._unproven.setdefault(target.name, self._first_unproven(target, view.at))
        hold = self._memory.hold(target.name)
        tripped = self._limits.tripped_until(target.name) if view.look.alert else None
        standing = CertificateStanding(
            name=target.name,
            policy=target.policy,
            window=view.window,
            held_until=hold.until if hold is not None else None,
            unproven_since=self._unproven.get(target.name),
            waiting_on=view.waiting_on,
            breaker=(view.at, tripped) if tripped is not None else None,
        )
        return true_at(certificate_alerts(standing, self.policy), now)

    def _of_signing_keys(self, fleet: Fleet, target: SigningKeyTarget, now: datetime) -> tuple[Alert, ...]:
        """Return what *target* raises: a rotation that does not begin, or does not end."""
        view = self._signing_keys.view(target.name)
        standing = SigningKeyStanding(
            name=target.name,
            due=self._signing_keys.due(target),
            goes_on_by=self._signing_keys.goes_on_by(fleet, target),
            waiting_on=view.look.waiting_on if view is not None else (),
            why=view.look.why if view is not None else "",
        )
        return true_at(signing_key_alerts(standing, self.policy), now)

    # --- the rest: few ----------------------------------------------------------------------------------------------

    def _of_domain(self, target: DomainTarget, now: datetime) -> tuple[Alert, ...]:
        state = self._domains.get(target.name)
        if state is None:
            return ()
        standing = DomainStanding(
            name=target.subject,
            policy=target.policy,
            seen=state.seen,
            decision=state.decision,
            intent=state.intent,
            at=state.at,
            awaits_adoption=state.mesh is not None and state.mesh.adoption is not None and state.intent is None,
        )
        return true_at(domain_alerts(standing, self.policy), now)

    def _of_workload(self, fleet: Fleet, target: WorkloadTarget, now: datetime) -> tuple[Alert, ...]:
        look, failed = self._rolls.look(target.name), self._rolls.failed(target.name)
        held = look is not None and look.alert
        stopped = self._stopped(target, now)
        long_tasks = self._rolls.ahead.told(target.name)
        if not (held or failed or stopped or long_tasks):
            return ()
        rolling = [self._memory.open_rotation(each.name) for each in fleet.rolled_with(target.name)]
        if target.keep_running or any(rolling):
            failed = failed | stopped
        begun = self._rolls.begun(target.name, [each for each in rolling if each is not None])
        standing = WorkloadStanding(
            name=target.name,
            failed=tuple(sorted(failed)),
            waiting_on=look.waiting_on if look is not None else (),
            why=look.why if look is not None else "",
            held=held,
            deadline=begun + target.policy.drain_deadline if begun is not None else None,
            long_tasks=long_tasks,
            at=now,
        )
        return workload_alerts(standing)

    def _stopped(self, target: WorkloadTarget, now: datetime) -> frozenset[str]:
        """Return the members that have not run for longer than a start may take."""
        members = self._rolls.known_members(target.name)
        down = self._down.get(target.name, {})
        told = self._begun_before(AlertKind.MEMBER_FAILED, target.name)
        first = now if told is None else min(now, told - target.ready_within - timedelta(seconds=1))
        down = {each.name: down.get(each.name, first) for each in members if not each.running}
        self._down[target.name] = down
        return frozenset(name for name, since in down.items() if now - since > target.ready_within)

    def _of_spool(self, now: datetime) -> tuple[Alert, ...]:
        try:
            waiting = self._recorder.waiting_outside()
        except JournalError:
            # The disk does not say: what was known goes on.
            waiting = 1 if self._spooled_since is not None else 0
        if not waiting:
            self._spooled_since = None
            return ()
        self._spooled_since = self._spooled_since or now
        return spool_alerts(waiting, self._spooled_since)
