"""
What people should know now, and what of it is news.

Rules that must stay true here:

- Thresholds are relative to the lifetime first (90 seconds and 90 days alike), absolute where somebody says so.
- One key, one alert, its gravest severity; a key is ``subject/kind`` and stays the same while the trouble lasts.
- An alert is raised once, raised again when it grows graver, and cleared only after it has been gone for a while.
- An alert that somebody is waited for names them, and says when the mesh would go dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from rotator.core.authority_policy import AuthorityPolicy
from rotator.core.model import Authority, AuthorityIntent, Phase, Severity, SubjectName
from rotator.core.movement import AuthorityDecision
from rotator.core.renewal import Decision
from rotator.core.rollout import RollDecision
from rotator.core.steps import Refused, Wait
from rotator.core.window import Window, written

QUIET = timedelta(seconds=30)
"""Long enough for a consumer that reloads, short enough for a person who watches the alert go away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPolicy:
    """When people are told."""

    used_warning: float = 0.8
    """Part of a leaf's lifetime that has passed without a renewal."""
    used_critical: float = 0.95
    overdue_after: timedelta = timedelta(minutes=10)
    """After the window opened; for short leaves half of the way to the safety line, if that is sooner."""
    remaining_critical: timedelta = timedelta()
    """Remaining life that is critical whatever part of the lifetime it is."""
    quiet: timedelta = QUIET
    """How long an alert must have been gone before it is cleared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that a person should know."""

    key: str
    """``subject/kind``."""
    subject: SubjectName
    severity: Severity
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStanding:
    """One certificate as it was last looked at."""

    subject: SubjectName
    window: Window | None
    """None while there is no leaf."""
    next: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityStanding:
    """One trust domain as it was last looked at."""

    subject: SubjectName
    policy: AuthorityPolicy
    active: Authority | None
    intent: AuthorityIntent | None
    decision: AuthorityDecision


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldStanding:
    """One person's pause."""

    subject: SubjectName
    until: datetime
    past_safety_line: bool
    safety_line: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RollStanding:
    """One workload's roll."""

    subject: SubjectName
    next: RollDecision
    safety_line: datetime | None = None
    """Of the certificate that the roll brings into use: the earliest, if there are several."""


Standing = CertificateStanding | AuthorityStanding | HoldStanding | RollStanding


def alerts_for(policy: AlertPolicy, standings: Iterable[Standing], now: datetime) -> frozenset[Alert]:
    """Return every alert that is true at *now*, one for each key."""
    worst: dict[str, Alert] = {}
    for standing in standings:
        for alert in _alerts(policy, standing, now):
            known = worst.get(alert.key)
            if known is None or (known.severity is Severity.WARNING and alert.severity is Severity.CRITICAL):
                worst[alert.key] = alert
    return frozenset(worst.values())


def _alerts(policy: AlertPolicy, standing: Standing, now: datetime) -> Iterator[Alert]:
    match standing:
        case CertificateStanding():
            yield from _certificate(policy, standing, now)
        case AuthorityStanding():
            yield from _authority(standing, now)
        case HoldStanding():
            yield from _hold(standing, now)
        case RollStanding():
            yield from _roll(standing, now)
        case other:
            assert_never(other)


def _alert(subject: SubjectName, kind: str, severity: Severity, summary: str) -> Alert:
    return Alert(key=f"{subject}/{kind}", subject=subject, severity=severity, summary=summary)


def _certificate(policy: AlertPolicy, standing: CertificateStanding, now: datetime) -> Iterator[Alert]:
    subject, window = standing.subject, standing.window
    if isinstance(standing.next, Wait) and standing.next.alert:
        yield _alert(subject, "waiting", Severity.CRITICAL, _waits(subject, standing.next))
    if window is None:
        return
    left, used = window.closes - now, window.used(now)
    overdue = window.opens + min(policy.overdue_after, (window.safety_line - window.opens) / 2)
    if left <= timedelta():
        yield _alert(subject, "expiry", Severity.CRITICAL, f"{subject} has expired at {_moment(window.closes)}")
    elif now >= window.safety_line or used >= policy.used_critical or left <= policy.remaining_critical:
        summary = f"{subject} ends in {_whole(left)}, past its safety line {_moment(window.safety_line)}"
        yield _alert(subject, "expiry", Severity.CRITICAL, summary)
    elif used >= policy.used_warning or now >= overdue > window.opens:
        summary = f"{subject} should have been renewed since {_moment(window.opens)} and ends in {_whole(left)}"
        yield _alert(subject, "expiry", Severity.WARNING, summary)


def _authority(standing: AuthorityStanding, now: datetime) -> Iterator[Alert]:
    subject, policy, intent, following = standing.subject, standing.policy, standing.intent, standing.decision.next
    if isinstance(following, Wait):
        if following.alert:
            yield _alert(subject, "waiting", Severity.CRITICAL, _waits(subject, following))
        elif (
            standing.decision.phase is Phase.PREPARED
            and following.on
            and intent is not None
            and now >= (intent.trust_published_at or intent.since) + policy.trust_deadline / 2
        ):
            yield _alert(subject, "waiting", Severity.WARNING, _waits(subject, following))
    if isinstance(following, Refused):
        yield _alert(subject, "refused", Severity.WARNING, f"{subject}: {following.reason}")
    if standing.active is None:
        if intent is None or standing.decision.phase is not Phase.ABSENT:
            yield _alert(subject, "authority", Severity.CRITICAL, f"{subject} has no authority that signs")
        return
    stops, ends = policy.stops_signing(standing.active), standing.active.not_after
    if now >= ends:
        yield _alert(subject, "authority", Severity.CRITICAL, f"the authority of {subject} expired at {_moment(ends)}")
    elif now >= stops:
        summary = f"the authority of {subject} has stopped signing, the mesh goes dark by {_moment(ends)}"
        yield _alert(subject, "authority", Severity.CRITICAL, summary)
    elif now >= policy.last_safe_moment(standing.active):
        summary = f"the authority of {subject} stops signing at {_moment(stops)} and has no successor yet"
        yield _alert(subject, "authority", Severity.WARNING, summary)


def _hold(standing: HoldStanding, now: datetime) -> Iterator[Alert]:
    subject, line = standing.subject, standing.safety_line
    if now >= standing.until or line is None or standing.until <= line:
        return
    until = _moment(standing.until)
    if standing.past_safety_line:
        severity = Severity.CRITICAL if now >= line else Severity.WARNING
        summary = f"{subject} is paused until {until}, past its safety line {_moment(line)}, as a person asked in words"
        yield _alert(subject, "pause", severity, summary)
    elif now < line:
        summary = f"the pause of {subject} until {until} ends at its safety line {_moment(line)}"
        yield _alert(subject, "pause", Severity.WARNING, summary)


def _roll(standing: RollStanding, now: datetime) -> Iterator[Alert]:
    if isinstance(standing.next, Wait) and standing.next.alert:
        is_past = standing.safety_line is not None and now >= standing.safety_line
        severity = Severity.CRITICAL if is_past else Severity.WARNING
        yield _alert(standing.subject, "roll", severity, _waits(standing.subject, standing.next))


def _waits(subject: SubjectName, wait: Wait) -> str:
    return f"{subject} waits for {', '.join(wait.on) or 'the next try'} {wait.why}".rstrip()


def _whole(duration: timedelta) -> str:
    return written(duration - timedelta(microseconds=duration.microseconds))


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- what is news -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """An alert that people have been told of."""

    alert: Alert
    last_true: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to tell people, and what they will know afterwards."""

    to_raise: tuple[Alert, ...]
    to_clear: tuple[Alert, ...]
    raised: Mapping[str, Raised]


def changes(
    raised: Mapping[str, Raised], now_true: frozenset[Alert], now: datetime, *, quiet: timedelta = QUIET
) -> Changes:
    """
    Return what is news between *raised* (by key) and *now_true*.

    An alert is news when its key is new or it has grown graver; it is cleared once it has not been true for *quiet*.
    One that grows milder keeps its severity until it is cleared, so that it does not flap.
    """
    after = {key: each for key, each in raised.items() if now - each.last_true < quiet}
    to_clear = [each.alert for key, each in raised.items() if key not in after]
    to_raise = []
    for alert in sorted(now_true, key=lambda each: each.key):
        known = raised.get(alert.key)
        is_graver = known is not None and known.alert.severity is Severity.WARNING is not alert.severity
        if known is None or is_graver:
            to_raise.append(alert)
            after[alert.key] = Raised(alert=alert, last_true=now)
        else:
            after[alert.key] = Raised(alert=known.alert, last_true=now)
    kept = frozenset(each.key for each in now_true)
    return Changes(
        to_raise=tuple(to_raise),
        to_clear=tuple(each for each in to_clear if each.key not in kept),
        raised=after,
    )
