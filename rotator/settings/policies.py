"""
What the settings mean to the core: policies, calendars and wanted certificates.

Rules that must stay true here:

- The one place where keys of the file become the core's arguments, so that what `rotator.settings.checks` has judged is
  what the engine will do.
- Pure: settings in, frozen core objects out.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta

import rfc8785

from rotator.core.approval import ApprovalPolicy, ApprovalRule, Operation
from rotator.core.authority_policy import AuthorityPolicy
from rotator.core.foreseen import AlertPolicy
from rotator.core.model import (
    ManagedCertificate,
    ManagedToken,
    SubjectKind,
    SubjectName,
    TokenGrant,
    TokenKind,
    TrustDomainName,
)
from rotator.core.rollout import AtDrainDeadline, RolloutPolicy
from rotator.core.tokens import SigningKeyPolicy
from rotator.core.window import Budget, Calendar, Freeze, LeafPolicy, MaintenanceWindow
from rotator.settings.model import MaintenanceWindowSettings, Settings
from rotator.settings.tokens import TokenSettings
from rotator.settings.workloads import Workload

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def policy_sha256(settings: Settings) -> str:
    """Return the SHA-256, lower-case hex, of the effective settings as canonical JSON; it stands in every record."""
    return hashlib.sha256(rfc8785.dumps(settings.model_dump(mode="json"))).hexdigest()


def managed_certificate(settings: Settings, name: str) -> ManagedCertificate:
    """Return the certificate *name* as it is wanted."""
    want = settings.certificates[name]
    return ManagedCertificate(
        name=SubjectName(name),
        trust_domain=TrustDomainName(want.trust_domain),
        identity=want.identity,
        dns_names=want.dns_names,
        lifetime=want.lifetime,
        key=want.key,
        also_trust=tuple(map(TrustDomainName, want.also_trust)),
        rolls=tuple(map(SubjectName, want.rolls)),
        task_pods=want.task_pods,
    )


def leaf_policy(settings: Settings, name: str) -> LeafPolicy:
    """Return how the certificate *name* is kept fresh."""
    timing, want = settings.timing, settings.certificates[name]
    rolls = (settings.workloads[each] for each in want.rolls if each in settings.workloads)
    return LeafPolicy(
        renew_at=want.renew_at,
        skew=timing.skew,
        budget=Budget(
            issue=timing.issue,
            publish=timing.publish,
            # One after the other: that is the longest it can take.
            drain=sum(map(roll_budget, rolls), timedelta()),
            proof=timing.proof,
            retry=timing.retry_budget,
        ),
        backdate=timing.backdate,
        calendar=calendar(settings, name),
    )


def managed_token(settings: Settings, name: str) -> ManagedToken:
    """Return the token *name* as it is wanted."""
    want = settings.tokens[name]
    return ManagedToken(
        name=SubjectName(name),
        trust_domain=TrustDomainName(want.trust_domain),
        grant=_grant(settings, want),
        lifetime=want.lifetime,
        revoke=want.revoke,
        revoke_after=want.revoke_after,
    )


def _grant(settings: Settings, want: TokenSettings) -> TokenGrant:
    """Return for whom the token *want* speaks."""
    if want.dataplane is not None:
        domain = settings.trust_domains.get(want.trust_domain)
        own = domain.mesh.name if domain is not None and domain.mesh is not None else ""
        proxy = want.dataplane
        return TokenGrant(
            kind=TokenKind.DATAPLANE,
            name=proxy.name or "",
            mesh=proxy.mesh or own,
            tags=tuple(sorted((tag, tuple(sorted(set(values)))) for tag, values in proxy.tags.items())),
            proxy_type=proxy.type or "",
            workload=proxy.workload or "",
        )
    if want.zone is not None:
        return TokenGrant(kind=TokenKind.ZONE, zone=want.zone.zone, scope=tuple(sorted(set(want.zone.scope))))
    user = want.user
    return TokenGrant(
        kind=TokenKind.USER,
        name=user.name if user is not None else "",
        groups=tuple(sorted(set(user.groups))) if user is not None else (),
    )


def token_policy(settings: Settings, name: str) -> LeafPolicy:
    """Return how the token *name* is kept fresh: as a leaf whose publication, read back, is its proof."""
    timing, want = settings.timing, settings.tokens[name]
    return LeafPolicy(
        renew_at=want.renew_at,
        skew=timing.skew,
        budget=Budget(
            issue=timing.issue,
            publish=timing.publish,
            drain=timedelta(),
            proof=timedelta(),
            retry=timing.retry_budget,
        ),
        backdate=timing.backdate,
        calendar=calendar(settings, name),
    )


def signing_key_policy(settings: Settings, name: str) -> SigningKeyPolicy:
    """Return how the signing keys *name* are kept fresh."""
    want = settings.signing_keys[name]
    return SigningKeyPolicy(
        rotate_every=want.rotate_every,
        known_after=want.known_after,
        others_live=want.others_live,
        skew=settings.timing.skew,
        calendar=calendar(settings, name),
    )


def roll_budget(workload: Workload) -> timedelta:
    """
    Return how long rolling all members of *workload* may take.

    With a drain that is its deadline, which covers all waves, and so it is with pods, whose number changes; for
    processes without one, every wave stops and starts in its own time.
    """
    if workload.drain is not None:
        return workload.drain.deadline
    if workload.in_cluster is not None:
        return workload.in_cluster.deadline
    waves = math.ceil(len(workload.processes or ()) / max(1, workload.max_unavailable))
    return waves * (workload.stop_timeout + workload.start_timeout)


def rollout_policy(workload: Workload) -> RolloutPolicy:
    """Return how *workload* is rolled."""
    drain, part = workload.drain, workload.airflow
    consumers = (drain.celery or drain.edge) if drain is not None else None
    return RolloutPolicy(
        max_unavailable=workload.max_unavailable,
        surge=workload.surge,
        drain_deadline=roll_budget(workload),
        at_drain_deadline=drain.then if drain is not None else AtDrainDeadline.WAIT,
        drained=drain is not None,
        starts_members=workload.in_cluster is None,
        keep_available=1 if part is not None and part.component == "api_server" and part.only_one == "refuse" else 0,
        queue_single_consumer=consumers is not None and consumers.single_consumer == "allow",
    )


def authority_policy(settings: Settings, name: str) -> AuthorityPolicy:
    """Return how the CA of the trust domain *name* is kept."""
    timing, domain = settings.timing, settings.trust_domains[name]
    return AuthorityPolicy(
        trust_domain=TrustDomainName(name),
        longest_leaf=domain.longest_leaf,
        lifetime=domain.ca.lifetime,
        renew_at=domain.ca.renew_at,
        trust_deadline=domain.trust_deadline.after,
        at_deadline=domain.trust_deadline.then,
        at_most_left_behind=domain.trust_deadline.at_most,
        skew=timing.skew,
        propagation=timing.propagation,
        retry_budget=timing.retry_budget,
        minimum_overlap=domain.ca.minimum_overlap,
        wave=domain.wave,
        calendar=calendar(settings, name),
    )


def alert_policy(settings: Settings) -> AlertPolicy:
    """Return from when on people are told."""
    alerts = settings.alerts
    return AlertPolicy(
        used_ratio_warning=alerts.expiry_ratio_warning,
        used_ratio_critical=alerts.expiry_ratio_critical,
        overdue_after=alerts.overdue_after,
        expires_within_critical=alerts.expires_within_critical,
    )


def approval_policy(settings: Settings) -> ApprovalPolicy:
    """Return where a second person's word is needed."""
    return ApprovalPolicy(
        rules=tuple(
            ApprovalRule(
                name=rule.name,
                subjects=None if rule.subjects == "all" else rule.subjects,
                kinds=frozenset(map(SubjectKind, rule.kinds)),
                operations=frozenset(map(Operation, rule.operations)),
                approvals=rule.approvals,
                expires_after=rule.expires_after,
                emergency_skips=rule.emergency_skips,
            )
            for rule in settings.approval.rules
        ),
        allow_unattributed=settings.approval.allow_unattributed,
    )


def calendar(settings: Settings, subject: str) -> Calendar:
    """Return when planned work on *subject* may start."""
    return Calendar(
        windows=tuple(_in_utc(each) for each in settings.windows if each.subjects == "all" or subject in each.subjects),
        freezes=tuple(
            Freeze(since=each.from_, until=each.until, why=each.name)
            for each in settings.freezes
            if each.subjects == "all" or subject in each.subjects
        ),
    )


def _in_utc(window: MaintenanceWindowSettings) -> MaintenanceWindow:
    # A window that starts on Monday at 00:30 in +02:00 starts on Sunday at 22:30 UTC.
    monday = datetime(2024, 1, 1, window.from_.hour, window.from_.minute, tzinfo=UTC)
    start = monday - window.zone
    shift = (start.date() - monday.date()).days
    return MaintenanceWindow(
        days=frozenset((_DAYS.index(day) + shift) % len(_DAYS) for day in window.days),
        start=start.time(),
        length=window.for_,
    )
