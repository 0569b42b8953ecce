"""
When people should know: what is seen of one subject in, the alerts that it will raise and from when on out.

Rules that must stay true here:

- An alert says from which moment on it is true (`Alert.since`); `true_at` picks those whose moment has come. So one
  look at a subject holds until the subject changes, however often it is asked.
- Shares of a lifetime and spans both count, and no threshold lies before the moment at which a renewal is overdue:
  a healthy renewal raises nothing, whatever is configured.
- A summary names the subject, what is so, since or until when, and what to do next. No secret, no person's name.
- One alert a key; a higher severity is a new raise, a lower one is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.core.alert_kinds import AlertKind
from rotator.core.authority_policy import AuthorityPolicy, active_generation
from rotator.core.model import AuthorityIntent, AuthoritySeen, Generation, IntentKind, Severity, SubjectName
from rotator.core.movement import AuthorityDecision
from rotator.core.steps import Wait
from rotator.core.window import LeafPolicy, Window

CHECKPOINTS_MISSED_WARNING = 3
"""One may be late because the disk was, two because the machine was; three in a row are no accident."""
CHECKPOINTS_MISSED_CRITICAL = 10
RECEIVER_FAILS_WARNING = timedelta(minutes=2)
"""A restart of what is told takes less."""
RECEIVER_FAILS_CRITICAL = timedelta(minutes=15)
SWEEPS_MISSED = 10
SWEEP_SILENT_AT_LEAST = timedelta(minutes=2)
"""Shorter than that is a slow machine or an issuer that does not answer."""
NEAR_PART = 10
"""The safety line is near within this part (1/n) of the whole life before it; it leaves as much behind it."""
NAMES_SHOWN = 10

_RANK = {Severity.WARNING: 0, Severity.CRITICAL: 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPolicy:
    """From when on people are told."""

    used_ratio_warning: float = 0.8
    used_ratio_critical: float = 0.95
    overdue_after: timedelta = timedelta(minutes=10)
    expires_within_critical: timedelta = timedelta()
    """Zero: only the shares count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that a person should know from `since` on."""

    kind: AlertKind
    subject: SubjectName
    severity: Severity
    since: datetime
    summary: str

    @property
    def key(self) -> str:
        """Return what tells this alert from others: ``subject/kind``."""
        return f"{self.subject}/{self.kind}"


def true_at(alerts: Iterable[Alert], now: datetime) -> tuple[Alert, ...]:
    """Return those of *alerts* whose moment has come, for each key the most severe."""
    found: dict[str, Alert] = {}
    for each in alerts:
        if each.since <= now:
            known = found.get(each.key)
            if known is None or _RANK[known.severity] < _RANK[each.severity]:
                found[each.key] = each
    return tuple(found.values())


def next_change(alerts: Iterable[Alert], now: datetime) -> datetime | None:
    """Return when the next of *alerts* becomes true; None if none lies ahead."""
    return min((each.since for each in alerts if each.since > now), default=None)


def changes(raised: Mapping[str, Alert], true_now: Iterable[Alert]) -> tuple[tuple[Alert, ...], tuple[Alert, ...]]:
    """Return what is to be raised (new, or more severe than *raised* by key) and what is to be cleared."""
    current = {each.key: each for each in true_now}
    to_raise = tuple(
        each for key, each in current.items() if key not in raised or _RANK[raised[key].severity] < _RANK[each.severity]
    )
    return to_raise, tuple(each for key, each in raised.items() if key not in current)


# --- certificates -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStanding:
    """What alerts need to know of one certificate as last seen."""

    name: SubjectName
    policy: LeafPolicy
    window: Window | None
    """The life of what is published; None if nothing usable is."""
    held_until: datetime | None = None
    """End of a person's pause."""
    unproven_since: datetime | None = None
    """From when on its consumers were to be seen using it and were not; None once they all were."""
    waiting_on: tuple[str, ...] = ()
    """Who has not shown it yet."""
    former_ends: datetime | None = None
    """When the leaf before it ends, which those may still use."""
    breaker: tuple[datetime, datetime] | None = None
    """Since when and until when nothing is issued because it was issued too often."""


def certificate_alerts(seen: CertificateStanding, policy: AlertPolicy) -> tuple[Alert, ...]:
    """Return what *seen* raises, now and later, if nothing changes; nothing before ``window.opens`` if all is well."""
    found = [*_window_alerts(seen, seen.window, policy)] if seen.window is not None else []
    since = seen.unproven_since
    if since is not None and seen.window is None:
        says = f"{seen.name} has nothing usable published since {utc(since)}: {_why(seen.name)}"
        found.append(_critical(AlertKind.NOTHING_PUBLISHED, seen.name, since + policy.overdue_after, says))
    elif since is not None:
        found += _proof_alerts(seen, since)
    if seen.breaker is not None:
        tripped, until = seen.breaker
        says = (
            f"{seen.name} was issued too often in a row, so nothing is issued for it before {utc(until)}: "
            "find out who undoes what is published"
        )
        found.append(_critical(AlertKind.BREAKER_TRIPPED, seen.name, tripped, says))
    return tuple(found)


def _window_alerts(seen: CertificateStanding, window: Window, policy: AlertPolicy) -> tuple[Alert, ...]:
    """Return what the life of a leaf raises, each no earlier than its renewal is overdue."""
    name, line, ends = seen.name, window.safety_line, window.closes
    life = ends - window.issued_at
    due = min(max(seen.policy.calendar.next_allowed(window.opens) or line, seen.held_until or window.opens), line)
    # Half-way to the safety line at the latest: ten minutes are nothing to a leaf of a year and all to one of an hour.
    overdue = due + min(policy.overdue_after, (line - due) / 2)
    lasting = f"{name} ends at {utc(ends)} and is not renewed"
    return (
        _warning(
            AlertKind.RENEWAL_OVERDUE,
            name,
            overdue,
            f"{name} could be renewed since {utc(due)} and is not; it has to be by {utc(line)}: {_why(name)}",
        ),
        _warning(
            AlertKind.LIFETIME_USED,
            name,
            max(overdue, window.issued_at + life * policy.used_ratio_warning),
            f"{lasting}, with {policy.used_ratio_warning:.0%} of its life used: {_why(name)}",
        ),
        _critical(
            AlertKind.LIFETIME_USED,
            name,
            max(overdue, _critical_from(window.issued_at, ends, policy)),
            f"{lasting}, with little of its life left: {_why(name)}",
        ),
        _warning(
            AlertKind.SAFETY_LINE,
            name,
            max(overdue, line - life / NEAR_PART),
            f"{name} has to be renewed by {utc(line)} to be in use before it ends: {_why(name)}",
        ),
        _critical(
            AlertKind.SAFETY_LINE,
            name,
            line,
            f"{name} should have been renewed by {utc(line)} and ends at {utc(ends)}: {_why(name)}; tries go on",
        ),
        _critical(
            AlertKind.EXPIRED,
            name,
            ends,
            f"{name} ended at {utc(ends)}, so its consumer is refused: {_why(name)}; tries go on",
        ),
    )


def _proof_alerts(seen: CertificateStanding, since: datetime) -> tuple[Alert, ...]:
    """Return what consumers raise that do not show what is published for them."""
    budget = seen.policy.budget
    allowed = budget.publish + budget.drain + budget.proof
    says = f"{some_names(seen.waiting_on)} should use what is published for {seen.name} and has not shown it"
    says = f"{says} since {utc(since)}: see that it runs and loads new certificates"
    late = _warning(AlertKind.UNPROVEN, seen.name, since + allowed, says)
    if seen.former_ends is None:
        return (late,)
    urgent = max(since + allowed, seen.former_ends - allowed)
    says = f"{says} before the one it may still use ends at {utc(seen.former_ends)}"
    return late, _critical(AlertKind.UNPROVEN, seen.name, urgent, says)


# --- trust domains ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainStanding:
    """What alerts need to know of one trust domain as last seen."""

    name: SubjectName
    policy: AuthorityPolicy
    seen: AuthoritySeen
    decision: AuthorityDecision
    intent: AuthorityIntent | None
    at: datetime
    """When it was seen."""
    awaits_adoption: bool = False
    """A mesh that a person has not given to rotator yet: nobody has to sign for it."""


def domain_alerts(domain: DomainStanding, policy: AlertPolicy) -> tuple[Alert, ...]:
    """Return what *domain* raises, now and later, if nothing changes."""
    active = active_generation(domain.seen)
    found = [*_age_alerts(domain, active, policy)] if active is not None else []
    if domain.decision.signer is None and not (active is None and domain.awaits_adoption):
        found += _nobody_signs(domain, active, policy)
    decided = domain.decision.next
    if isinstance(decided, Wait) and decided.alert:
        found += _held(domain, decided, active)
    return tuple(found)


def _age_alerts(domain: DomainStanding, active: Generation, policy: AlertPolicy) -> tuple[Alert, ...]:
    """Return what the age of the signing CA raises; a CA's life counts from its notBefore."""
    name, authority = domain.name, active.authority
    begins, ends = authority.not_before, authority.not_after
    due = domain.policy.renewal_opens(authority, name)
    stops, last = domain.policy.stops_signing(authority), domain.policy.last_safe_moment(authority)
    who = f"generation {active.number} of {name}"
    act = f"see what its rotation waits for, or ask for one: rotator rotate-now {name}"
    return (
        _warning(
            AlertKind.AUTHORITY_USED,
            name,
            max(due, begins + (ends - begins) * policy.used_ratio_warning),
            f"{who} ends at {utc(ends)} with {policy.used_ratio_warning:.0%} of its life used: {act}",
        ),
        _critical(
            AlertKind.AUTHORITY_USED,
            name,
            max(due, _critical_from(begins, ends, policy)),
            f"{who} ends at {utc(ends)} with little of its life left: {act}",
        ),
        _warning(
            AlertKind.AUTHORITY_STOPS_SIGNING,
            name,
            max(due, last),
            f"{who} stops signing at {utc(stops)}, and a rotation may take longer than that: {act}",
        ),
        _critical(
            AlertKind.AUTHORITY_STOPS_SIGNING,
            name,
            stops,
            f"{who} stopped signing at {utc(stops)} and the mesh goes dark by {utc(ends)}: {act}",
        ),
    )


def _nobody_signs(domain: DomainStanding, active: Generation | None, policy: AlertPolicy) -> tuple[Alert, ...]:
    """Return that nobody signs: at once where somebody did, after a while where nobody ever has."""
    name, kind = domain.name, AlertKind.NO_AUTHORITY
    if active is None:
        begun = domain.intent.since if domain.intent is not None else domain.at
        says = f"{name} has no CA since {utc(begun)}: see what stops its rotation (rotator explain {name})"
        return (_critical(kind, name, begun + policy.overdue_after, says),)
    stopped = domain.policy.stops_signing(active.authority)
    since = min(stopped, domain.at)
    says = (
        f"generation {active.number} of {name} may not sign since {utc(since)}, so no leaf can be renewed and the "
        f"mesh goes dark by {utc(active.authority.not_after)}: see what stops its rotation (rotator explain {name})"
    )
    return (_critical(kind, name, since, says),)


def _held(domain: DomainStanding, decided: Wait, active: Generation | None) -> tuple[Alert, ...]:
    """Return that a rotation waits for somebody named past its deadline, or for something that will not come."""
    name, intent = domain.name, domain.intent
    on = frozenset(decided.on)
    if intent is None or not _gains_trust(intent, active) or not any(each.name in on for each in domain.seen.parties):
        what = f"the rotation of {name}" if intent is not None else name
        says = f"{what} waits for {some_names(decided.on)} {decided.why}: it does not go on by itself"
        return (_critical(AlertKind.ROTATION_STUCK, name, domain.at, says),)
    published = intent.trust_published_at
    deadline = published + domain.policy.trust_deadline if published is not None else domain.at
    since = min(deadline, domain.at)
    says = (
        f"the rotation of {name} waits for {some_names(decided.on)} {decided.why}: "
        "mend these consumers, take out those that are gone for good, or roll back"
    )
    kind = AlertKind.TRUST_DEADLINE
    late = _warning(kind, name, since, says)
    if active is None:
        return (late,)
    urgent = max(since, domain.policy.last_safe_moment(active.authority))
    return late, _critical(kind, name, urgent, says)


def _gains_trust(intent: AuthorityIntent, active: Generation | None) -> bool:
    """Return whether the generation that *intent* leads to has not been activated yet."""
    if active is None:
        return True
    at_first = active.number == intent.from_generation
    return not at_first if intent.kind is IntentKind.ROLL_BACK else at_first


# --- workloads, ledger, login -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadStanding:
    """What alerts need to know of one workload as last seen."""

    name: SubjectName
    failed: tuple[str, ...] = ()
    """Members that do not get ready."""
    waiting_on: tuple[str, ...] = ()
    why: str = ""
    held: bool = False
    """Its roll waits for what does not come by itself."""
    deadline: datetime | None = None
    """Of the drain that is under way."""
    long_tasks: tuple[str, ...] = ()
    """What the next roll has no time for, in sentences."""
    at: datetime
    """When it was seen."""


def workload_alerts(seen: WorkloadStanding) -> tuple[Alert, ...]:
    """Return what *seen* raises: how its roll stands, and what its next one will meet."""
    says = f"before the next roll of {seen.name}: {'; '.join(seen.long_tasks)}"
    ahead = (_warning(AlertKind.TASKS_TOO_LONG, seen.name, seen.at, says),) if seen.long_tasks else ()
    return (*_roll_alerts(seen), *ahead)


def _roll_alerts(seen: WorkloadStanding) -> tuple[Alert, ...]:
    if seen.failed:
        what = "could not be replaced or does not get ready"
        says = f"{some_names(seen.failed)} of {seen.name} {what}, so its roll waits: see the member's log"
        return (_critical(AlertKind.MEMBER_FAILED, seen.name, seen.at, says),)
    if not seen.held:
        return ()
    is_late = seen.deadline is not None and seen.deadline <= seen.at
    late = f", past the drain deadline at {utc(seen.deadline)}" if seen.deadline is not None and is_late else ""
    since = seen.deadline if seen.deadline is not None and is_late else seen.at
    says = f"the roll of {seen.name} waits for {some_names(seen.waiting_on)} {seen.why}{late}: see what they still do"
    return (_warning(AlertKind.ROLL_HELD, seen.name, since, says),)


LEDGER = SubjectName("ledger")


def checkpoint_alerts(signed_at: datetime, every: timedelta, problem: str) -> tuple[Alert, ...]:
    """Return what the log raises that was last signed at *signed_at* (or began to be) and should be signed *every*."""
    because = f" ({problem})" if problem else ""
    says = (
        f"the evidence log is not signed since {utc(signed_at)}{because}: see that its disk and the store take writes"
    )
    kind = AlertKind.CHECKPOINT_OLD
    return (
        _warning(kind, LEDGER, signed_at + CHECKPOINTS_MISSED_WARNING * every, says),
        _critical(kind, LEDGER, signed_at + CHECKPOINTS_MISSED_CRITICAL * every, says),
    )


def spool_alerts(waiting: int, since: datetime) -> tuple[Alert, ...]:
    """Return what *waiting* records outside the ledger raise, seen since *since*."""
    if not waiting:
        return ()
    says = f"evidence records wait outside the ledger since {utc(since)}: bring the store back, and do not delete them"
    return (_critical(AlertKind.RECORDS_SPOOLED, LEDGER, since, says),)


def login_alerts(
    issuer: SubjectName,
    policy: AlertPolicy,
    *,
    not_after: datetime | None,
    life: timedelta | None,
    missing_since: datetime | None,
) -> tuple[Alert, ...]:
    """
    Return what the login at *issuer* raises.

    Args:
        issuer: The issuer's name in the configuration.
        policy: The thresholds.
        not_after: End of the token; None if there is none, or it does not end.
        life: Of the token when it was given.
        missing_since: From when on there is no token; None if there is one.

    """
    act = "see whether the issuer answers and the login is still allowed"
    if missing_since is not None:
        says = f"there is no login at {issuer} since {utc(missing_since)}: {act}"
        return (_critical(AlertKind.LOGIN_LOST, issuer, missing_since + policy.overdue_after, says),)
    if not_after is None or life is None:
        return ()
    says = f"the login at {issuer} ends at {utc(not_after)} and could not be renewed: {act}"
    gone = f"the login at {issuer} ended at {utc(not_after)}: {act}"
    return (
        _warning(AlertKind.LOGIN_ENDING, issuer, not_after - life * (1 - policy.used_ratio_warning), says),
        _critical(AlertKind.LOGIN_ENDING, issuer, not_after - life * (1 - policy.used_ratio_critical), says),
        _critical(AlertKind.LOGIN_LOST, issuer, not_after, gone),
    )


def receiver_alerts(receiver: SubjectName, failing_since: datetime) -> tuple[Alert, ...]:
    """Return what the receiver of alerts *receiver* raises that takes nothing since *failing_since*."""
    says = f"{receiver} takes no alerts since {utc(failing_since)}: see that it answers and still lets rotator in"
    kind = AlertKind.RECEIVER_FAILING
    return (
        _warning(kind, receiver, failing_since + RECEIVER_FAILS_WARNING, says),
        _critical(kind, receiver, failing_since + RECEIVER_FAILS_CRITICAL, says),
    )


SWEEP = SubjectName("rotator")


def sweep_alerts(swept_at: datetime, every: timedelta) -> tuple[Alert, ...]:
    """Return what a daemon raises that swept last at *swept_at* (or began to run) and should *every*."""
    says = f"nothing was looked at since {utc(swept_at)}: see what the daemon's log says, and restart it if it hangs"
    return (
        _critical(AlertKind.SWEEP_SILENT, SWEEP, swept_at + max(SWEEPS_MISSED * every, SWEEP_SILENT_AT_LEAST), says),
    )


# --- what rotator does not manage -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedStanding:
    """What alerts need to know of one watched certificate as last seen."""

    name: SubjectName
    not_before: datetime | None = None
    not_after: datetime | None = None
    """Of the chain: its earliest end. None if it was never seen."""
    ends_first: str = ""
    """Which certificate of the chain that is, if it is not the first."""
    missing_since: datetime | None = None
    """Since when it was not seen; None if the last look saw it."""
    problem: str = ""
    """Why it was not seen."""
    unreachable_after: timedelta = timedelta(minutes=15)
    signs_for: timedelta | None = None
    """For an issuer of rotator's CAs: the longest life of a CA that it has to sign."""


def watched_alerts(seen: WatchedStanding, policy: AlertPolicy) -> tuple[Alert, ...]:
    """Return what *seen* raises, now and later, if nothing changes."""
    name, found = seen.name, list[Alert]()
    if seen.missing_since is not None:
        why = f" ({seen.problem})" if seen.problem else ""
        says = f"{name} was not seen since {utc(seen.missing_since)}{why}: see that it is there and rotator may read it"
        found.append(_warning(AlertKind.WATCHED_UNREACHABLE, name, seen.missing_since + seen.unreachable_after, says))
    if seen.not_before is None or seen.not_after is None:
        return tuple(found)
    begins, ends = seen.not_before, seen.not_after
    by = f" (its chain's {seen.ends_first})" if seen.ends_first else ""
    used = begins + (ends - begins) * policy.used_ratio_warning
    if seen.signs_for is not None:
        return (*found, *_issuer_alerts(seen, f"{name}{by}", used, ends, policy))
    act = "see that whoever manages it renews it"
    kind = AlertKind.WATCHED_ENDING
    says = f"{name}{by} ends at {utc(ends)}, with {policy.used_ratio_warning:.0%} of its life used: {act}"
    found += [
        _warning(kind, name, used, says),
        _critical(
            kind,
            name,
            _critical_from(begins, ends, policy),
            f"{name}{by} ends at {utc(ends)}, with little of its life left: {act}",
        ),
        _critical(AlertKind.WATCHED_EXPIRED, name, ends, f"{name}{by} ended at {utc(ends)}: {act}"),
    ]
    return tuple(found)


def shown_certificate_alerts(
    certificate: SubjectName, policy: AlertPolicy, *, problem: str, since: datetime
) -> tuple[Alert, ...]:
    """Return what it raises that rotator's own HTTP service cannot show what is published as *certificate*."""
    says = (
        f"the HTTP service cannot show what is published as {certificate} ({problem}) and shows the one before: "
        "see what is published there"
    )
    return (_warning(AlertKind.HTTP_CERTIFICATE, certificate, since + policy.overdue_after, says),)


def _issuer_alerts(
    seen: WatchedStanding, who: str, used: datetime, ends: datetime, policy: AlertPolicy
) -> tuple[Alert, ...]:
    """Return what the end of an issuer raises: it is over for rotator a CA's lifetime before its own end (law 4)."""
    kind, name, life = AlertKind.ISSUER_ENDING, seen.name, seen.signs_for or timedelta()
    begins, last = seen.not_before or ends, ends - life
    act = "have the corporate PKI renew it, and name the new issuer in the configuration"
    says = f"{who} ends at {utc(ends)} and can sign rotator's CAs until {utc(last)}: {act}"
    over = f"{who} ends at {utc(ends)}, so it cannot sign a whole CA since {utc(last)}: {act}"
    return (
        _warning(kind, name, min(used, last - life), says),
        _critical(kind, name, min(last, _critical_from(begins, ends, policy)), over if last < ends else says),
    )


# --- words and moments ------------------------------------------------------------------------------------------------


def _critical_from(begins: datetime, ends: datetime, policy: AlertPolicy) -> datetime:
    """Return from when on the age of what lives from *begins* to *ends* is critical: by share, or by what is left."""
    by_share = begins + (ends - begins) * policy.used_ratio_critical
    return min(by_share, ends - policy.expires_within_critical)


def _warning(kind: AlertKind, subject: SubjectName, since: datetime, summary: str) -> Alert:
    return Alert(kind=kind, subject=subject, severity=Severity.WARNING, since=since, summary=summary)


def _critical(kind: AlertKind, subject: SubjectName, since: datetime, summary: str) -> Alert:
    return Alert(kind=kind, subject=subject, severity=Severity.CRITICAL, since=since, summary=summary)


def _why(name: SubjectName) -> str:
    return f"see what stops it (rotator explain {name})"


def utc(moment: datetime) -> str:
    """Return *moment* as a summary has it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def some_names(names: tuple[str, ...]) -> str:
    """Return *names* as people read them, the first few of many."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
