"""What people are told, from when on: one row for each kind and threshold."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.core.alert_kinds import MEANINGS, AlertKind
from rotator.core.authority import decide
from rotator.core.foreseen import (
    NAMES_SHOWN,
    Alert,
    AlertPolicy,
    CertificateStanding,
    DomainStanding,
    WatchedStanding,
    WorkloadStanding,
    certificate_alerts,
    changes,
    checkpoint_alerts,
    domain_alerts,
    login_alerts,
    next_change,
    receiver_alerts,
    shown_certificate_alerts,
    spool_alerts,
    sweep_alerts,
    true_at,
    watched_alerts,
    workload_alerts,
)
from rotator.core.foreseen_platform import change_alerts, drift_alerts
from rotator.core.foreseen_telemetry import SignalStanding, telemetry_alerts
from rotator.core.foreseen_tokens import SigningKeyStanding, goes_on_by, signing_key_alerts
from rotator.core.model import AuthorityIntent, AuthoritySeen, Generation, Severity, SubjectName
from rotator.core.tokens import KeyRotation, SigningKeyPolicy
from rotator.core.window import Budget, Calendar, MaintenanceWindow, Window
from tests.core.test_authority import BOTH, NEW, OLD, POLICY, intent
from tests.core.worlds import HOUR, LIFETIME, MINUTE, NAME, NOW, SECOND, domain, leaf_policy, party

WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
TELL = AlertPolicy()
MESH, ISSUER = SubjectName("mesh.example"), SubjectName("corporate")
WINDOW = Window(issued_at=NOW, opens=NOW + 6 * HOUR, safety_line=NOW + LIFETIME - 72 * MINUTE, closes=NOW + LIFETIME)
LEAF = CertificateStanding(name=NAME, policy=leaf_policy(), window=WINDOW)
PROOF = replace(
    leaf_policy(),
    budget=Budget(issue=MINUTE, publish=MINUTE, drain=2 * MINUTE, proof=2 * MINUTE, retry=HOUR),
)
UNPROVEN = replace(LEAF, policy=PROOF, unproven_since=NOW, waiting_on=("probe:a",))
ENDS, STOPS = OLD.authority.not_after, POLICY.stops_signing(OLD.authority)
LAST = POLICY.last_safe_moment(OLD.authority)
DEADLINE = NOW - MINUTE + POLICY.trust_deadline
LAGGING = domain(OLD, NEW, parties=(party("a", published=BOTH, acknowledged=("ca-1",), leaf_until=NOW + 99 * HOUR),))


def standing(now: datetime, seen: AuthoritySeen | None = None, wanted: AuthorityIntent | None = None) -> DomainStanding:
    """Return the trust domain as decided at *now*; settled on its first generation unless told otherwise."""
    there = seen or domain(OLD, parties=(party("a"),))
    decision = decide(wanted, there, POLICY, now)
    return DomainStanding(name=MESH, policy=POLICY, seen=there, decision=decision, intent=wanted, at=now)


def without_key(generation: Generation) -> Generation:
    """Return *generation* when its key is gone."""
    return replace(generation, can_sign=False)


def login(not_after: datetime | None, *, missing_since: datetime | None = None) -> tuple[Alert, ...]:
    """Return what a token of an hour raises."""
    life = HOUR if not_after is not None else None
    return login_alerts(ISSUER, TELL, not_after=not_after, life=life, missing_since=missing_since)


LATE_ROLL = WorkloadStanding(name=NAME, waiting_on=("w1",), why="to finish their work", held=True, deadline=NOW, at=NOW)
FOREIGN = WatchedStanding(name=NAME, not_before=NOW, not_after=NOW + 100 * HOUR)
SIGNER = replace(FOREIGN, signs_for=HOUR)
HELD = standing(DEADLINE, LAGGING, intent())

ROWS: list[tuple[str, tuple[Alert, ...], AlertKind, Severity, datetime]] = [
    ("overdue", certificate_alerts(LEAF, TELL), AlertKind.RENEWAL_OVERDUE, WARNING, NOW + 6 * HOUR + 10 * MINUTE),
    ("used", certificate_alerts(LEAF, TELL), AlertKind.LIFETIME_USED, WARNING, NOW + 0.8 * LIFETIME),
    ("mostly used", certificate_alerts(LEAF, TELL), AlertKind.LIFETIME_USED, CRITICAL, NOW + 0.95 * LIFETIME),
    (
        "little left",
        certificate_alerts(LEAF, replace(TELL, expires_within_critical=4 * HOUR)),
        AlertKind.LIFETIME_USED,
        CRITICAL,
        NOW + 8 * HOUR,
    ),
    ("near its line", certificate_alerts(LEAF, TELL), AlertKind.SAFETY_LINE, WARNING, NOW + 0.8 * LIFETIME),
    ("past its line", certificate_alerts(LEAF, TELL), AlertKind.SAFETY_LINE, CRITICAL, WINDOW.safety_line),
    ("expired", certificate_alerts(LEAF, TELL), AlertKind.EXPIRED, CRITICAL, NOW + LIFETIME),
    ("unproven", certificate_alerts(UNPROVEN, TELL), AlertKind.UNPROVEN, WARNING, NOW + 5 * MINUTE),
    (
        "unproven, the former ends",
        certificate_alerts(replace(UNPROVEN, former_ends=NOW + HOUR), TELL),
        AlertKind.UNPROVEN,
        CRITICAL,
        NOW + 55 * MINUTE,
    ),
    (
        "nothing published",
        certificate_alerts(replace(UNPROVEN, window=None), TELL),
        AlertKind.NOTHING_PUBLISHED,
        CRITICAL,
        NOW + 10 * MINUTE,
    ),
    (
        "breaker",
        certificate_alerts(replace(LEAF, breaker=(NOW, NOW + HOUR)), TELL),
        AlertKind.BREAKER_TRIPPED,
        CRITICAL,
        NOW,
    ),
    (
        "CA used",
        domain_alerts(standing(NOW), TELL),
        AlertKind.AUTHORITY_USED,
        WARNING,
        OLD.authority.not_before + 0.8 * POLICY.lifetime,
    ),
    (
        "CA mostly used",
        domain_alerts(standing(NOW), TELL),
        AlertKind.AUTHORITY_USED,
        CRITICAL,
        OLD.authority.not_before + 0.95 * POLICY.lifetime,
    ),
    (
        "CA with little left",
        domain_alerts(standing(NOW), replace(TELL, expires_within_critical=48 * HOUR)),
        AlertKind.AUTHORITY_USED,
        CRITICAL,
        ENDS - 48 * HOUR,
    ),
    ("CA stops soon", domain_alerts(standing(NOW), TELL), AlertKind.AUTHORITY_STOPS_SIGNING, WARNING, LAST),
    ("CA has stopped", domain_alerts(standing(NOW), TELL), AlertKind.AUTHORITY_STOPS_SIGNING, CRITICAL, STOPS),
    ("stopped: nobody signs", domain_alerts(standing(STOPS), TELL), AlertKind.NO_AUTHORITY, CRITICAL, STOPS),
    (
        "no key: nobody signs",
        domain_alerts(standing(NOW, domain(without_key(OLD))), TELL),
        AlertKind.NO_AUTHORITY,
        CRITICAL,
        NOW,
    ),
    (
        "never had a CA",
        domain_alerts(standing(NOW, domain(active=None), replace(intent(of=None, to=None), since=NOW)), TELL),
        AlertKind.NO_AUTHORITY,
        CRITICAL,
        NOW + 10 * MINUTE,
    ),
    ("laggard past the deadline", domain_alerts(HELD, TELL), AlertKind.TRUST_DEADLINE, WARNING, DEADLINE),
    ("laggard, CA soon stops", domain_alerts(HELD, TELL), AlertKind.TRUST_DEADLINE, CRITICAL, LAST),
    ("drain past its deadline", workload_alerts(LATE_ROLL), AlertKind.ROLL_HELD, WARNING, NOW),
    (
        "no member may be drained",
        workload_alerts(replace(LATE_ROLL, deadline=NOW + HOUR)),
        AlertKind.ROLL_HELD,
        WARNING,
        NOW,
    ),
    (
        "member failed",
        workload_alerts(WorkloadStanding(name=NAME, failed=("w1",), at=NOW)),
        AlertKind.MEMBER_FAILED,
        CRITICAL,
        NOW,
    ),
    (
        "tasks longer than the next roll",
        workload_alerts(WorkloadStanding(name=NAME, long_tasks=("etl/load took 5h",), at=NOW)),
        AlertKind.TASKS_TOO_LONG,
        WARNING,
        NOW,
    ),
    ("log not signed", checkpoint_alerts(NOW, MINUTE, ""), AlertKind.CHECKPOINT_OLD, WARNING, NOW + 3 * MINUTE),
    ("log long not signed", checkpoint_alerts(NOW, MINUTE, ""), AlertKind.CHECKPOINT_OLD, CRITICAL, NOW + 10 * MINUTE),
    ("spooled", spool_alerts(2, NOW), AlertKind.RECORDS_SPOOLED, CRITICAL, NOW),
    ("login near its end", login(NOW + HOUR), AlertKind.LOGIN_ENDING, WARNING, NOW + 48 * MINUTE),
    ("login at its end", login(NOW + HOUR), AlertKind.LOGIN_ENDING, CRITICAL, NOW + 57 * MINUTE),
    ("login ended", login(NOW + HOUR), AlertKind.LOGIN_LOST, CRITICAL, NOW + HOUR),
    ("receiver away", receiver_alerts(ISSUER, NOW), AlertKind.RECEIVER_FAILING, WARNING, NOW + 2 * MINUTE),
    ("receiver long away", receiver_alerts(ISSUER, NOW), AlertKind.RECEIVER_FAILING, CRITICAL, NOW + 15 * MINUTE),
    ("no sweep", sweep_alerts(NOW, MINUTE), AlertKind.SWEEP_SILENT, CRITICAL, NOW + 10 * MINUTE),
    ("no sweep, often swept", sweep_alerts(NOW, SECOND), AlertKind.SWEEP_SILENT, CRITICAL, NOW + 2 * MINUTE),
    (
        "own page",
        shown_certificate_alerts(NAME, TELL, problem="the key is another's", since=NOW),
        AlertKind.HTTP_CERTIFICATE,
        WARNING,
        NOW + 10 * MINUTE,
    ),
    ("watched used", watched_alerts(FOREIGN, TELL), AlertKind.WATCHED_ENDING, WARNING, NOW + 80 * HOUR),
    ("watched mostly used", watched_alerts(FOREIGN, TELL), AlertKind.WATCHED_ENDING, CRITICAL, NOW + 95 * HOUR),
    ("watched ended", watched_alerts(FOREIGN, TELL), AlertKind.WATCHED_EXPIRED, CRITICAL, NOW + 100 * HOUR),
    (
        "watched, not seen",
        watched_alerts(replace(FOREIGN, missing_since=NOW), TELL),
        AlertKind.WATCHED_UNREACHABLE,
        WARNING,
        NOW + 15 * MINUTE,
    ),
    ("issuer used", watched_alerts(SIGNER, TELL), AlertKind.ISSUER_ENDING, WARNING, NOW + 80 * HOUR),
    (
        "issuer soon too short for a CA",
        watched_alerts(replace(SIGNER, signs_for=20 * HOUR), TELL),
        AlertKind.ISSUER_ENDING,
        WARNING,
        NOW + 60 * HOUR,
    ),
    (
        "issuer too short for a CA",
        watched_alerts(replace(SIGNER, signs_for=20 * HOUR), TELL),
        AlertKind.ISSUER_ENDING,
        CRITICAL,
        NOW + 80 * HOUR,
    ),
    (
        "changed by somebody else",
        drift_alerts(NAME, [(f"{NAME}: a permission was removed", NOW)], grave=False),
        AlertKind.PLATFORM_DRIFTED,
        WARNING,
        NOW,
    ),
    (
        "opened by somebody else",
        drift_alerts(NAME, [(f"{NAME}: a service is open to everybody", NOW)], grave=True),
        AlertKind.PLATFORM_DRIFTED,
        CRITICAL,
        NOW,
    ),
    ("change not ended", change_alerts(NAME, "c1", NOW), AlertKind.PLATFORM_HELD, WARNING, NOW + 15 * MINUTE),
    (
        "signing key overdue",
        signing_key_alerts(SigningKeyStanding(name=NAME, due=NOW), TELL),
        AlertKind.RENEWAL_OVERDUE,
        WARNING,
        NOW + 10 * MINUTE,
    ),
    (
        "signing key held",
        signing_key_alerts(SigningKeyStanding(name=NAME, goes_on_by=NOW), TELL),
        AlertKind.SIGNING_KEY_HELD,
        WARNING,
        NOW + 10 * MINUTE,
    ),
    (
        "collector away",
        telemetry_alerts({"traces": SignalStanding(untaken_since=NOW)}),
        AlertKind.TELEMETRY_LOST,
        WARNING,
        NOW + 5 * MINUTE,
    ),
    (
        "lines lost",
        telemetry_alerts({"logs": SignalStanding(untaken_since=NOW, losing_since=NOW)}),
        AlertKind.TELEMETRY_LOST,
        WARNING,
        NOW,
    ),
    ("no first login", login(None, missing_since=NOW), AlertKind.LOGIN_LOST, CRITICAL, NOW + 10 * MINUTE),
]


@pytest.mark.parametrize(("foreseen", "kind", "severity", "since"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_each_threshold_is_kept_to_the_second(
    foreseen: tuple[Alert, ...], kind: AlertKind, severity: Severity, since: datetime
) -> None:
    """Not true a second before its moment, true from it on, and the summary names the subject."""

    def severities(now: datetime) -> list[Severity]:
        return [each.severity for each in true_at(foreseen, now) if each.kind is kind]

    assert severity not in severities(since - SECOND)
    assert [severity] == severities(since)
    named = next(each for each in true_at(foreseen, since) if each.kind is kind)
    assert str(named.subject) in named.summary or named.subject in {"ledger", "rotator"}
    assert f"{named.subject}/{kind.value}" == named.key


def test_every_kind_has_its_row_and_its_meaning() -> None:
    """Nothing can be added to the enumeration without a threshold, a sentence and a test."""
    tested = {row[2] for row in ROWS} | {AlertKind.ROTATION_STUCK}
    assert (set(AlertKind), set(AlertKind)) == (tested, set(MEANINGS))


def test_a_rotation_that_cannot_go_on_is_stuck_at_once() -> None:
    """A successor whose whole life is too short is not waited for as if it were a consumer."""
    short = replace(NEW, authority=replace(NEW.authority, not_after=NEW.authority.not_before + HOUR))
    found = domain_alerts(standing(NOW, domain(OLD, short), intent(to=None)), TELL)
    stuck = [each for each in found if each.kind is AlertKind.ROTATION_STUCK]
    assert [(CRITICAL, NOW)] == [(each.severity, each.since) for each in stuck]
    assert "generation 2" in stuck[0].summary


def test_a_held_rotation_says_whom_it_waits_for_and_when_the_mesh_goes_dark() -> None:
    """Names and moments a person can act on."""
    summary = next(each.summary for each in domain_alerts(HELD, TELL) if each.kind is AlertKind.TRUST_DEADLINE)
    assert "waits for a to acknowledge generation 2" in summary
    assert f"goes dark by {ENDS:%Y-%m-%dT%H:%M:%SZ}" in summary


def test_a_held_rotation_stays_held_when_its_old_ca_stops_signing() -> None:
    """What got worse is not told of as having ended."""
    lagging = party("a", published=BOTH, acknowledged=("ca-1",), leaf_until=ENDS)
    stopped = standing(STOPS, domain(OLD, NEW, parties=(lagging,)), intent())
    kinds = {each.kind for each in true_at(domain_alerts(stopped, TELL), STOPS)}
    assert {AlertKind.TRUST_DEADLINE, AlertKind.NO_AUTHORITY, AlertKind.AUTHORITY_STOPS_SIGNING} <= kinds


def test_a_rotation_in_time_raises_nothing() -> None:
    """Waiting before the trust deadline is how it should be."""
    assert () == true_at(domain_alerts(standing(NOW, LAGGING, intent()), TELL), NOW)


def test_a_short_leaf_is_overdue_half_way_to_its_safety_line() -> None:
    """Ten minutes are all the life that a leaf of minutes has."""
    window = Window(issued_at=NOW, opens=NOW + 40 * SECOND, safety_line=NOW + 60 * SECOND, closes=NOW + 90 * SECOND)
    found = certificate_alerts(replace(LEAF, window=window), TELL)
    assert NOW + 50 * SECOND == next_change(found, NOW)


def test_what_a_calendar_or_a_person_puts_off_is_not_overdue() -> None:
    """Counted from when it may start, but never past the safety line."""
    nightly = MaintenanceWindow(days=frozenset(range(7)), start=time(20, 0), length=HOUR)
    windowed = replace(LEAF, policy=leaf_policy(calendar=Calendar(windows=(nightly,))))
    assert NOW + 8 * HOUR + 10 * MINUTE == next_change(certificate_alerts(windowed, TELL), NOW)
    paused = replace(LEAF, held_until=NOW + 7 * HOUR)
    assert NOW + 7 * HOUR + 10 * MINUTE == next_change(certificate_alerts(paused, TELL), NOW)
    forgotten = replace(LEAF, held_until=NOW + 99 * HOUR)
    assert WINDOW.safety_line == next_change(certificate_alerts(forgotten, TELL), NOW)


@given(
    opens=st.floats(0, 1),
    line=st.floats(0, 1),
    warning=st.floats(0.01, 0.5),
    within=st.timedeltas(timedelta(), 99 * HOUR),
    overdue=st.timedeltas(timedelta(), 99 * HOUR),
)
def test_a_healthy_renewal_raises_nothing_whatever_is_configured(
    opens: float, line: float, warning: float, within: timedelta, overdue: timedelta
) -> None:
    """No threshold lies before the opening of the renewal window, and an overdue renewal is told of by its line."""
    first, last = sorted((opens, line))
    window = replace(WINDOW, opens=NOW + first * LIFETIME, safety_line=NOW + last * LIFETIME)
    policy = AlertPolicy(
        used_ratio_warning=warning,
        used_ratio_critical=warning + 0.1,
        overdue_after=overdue,
        expires_within_critical=within,
    )
    found = certificate_alerts(replace(LEAF, window=window), policy)
    assert all(each.since >= window.opens for each in found)
    assert min(each.since for each in found) <= window.safety_line


def test_a_thousand_names_are_not_all_told() -> None:
    """The first few and how many more: a notice and a record stay small."""
    many = replace(UNPROVEN, waiting_on=tuple(f"probe:{number}" for number in range(1000)))
    summary = next(each.summary for each in certificate_alerts(many, TELL) if each.kind is AlertKind.UNPROVEN)
    assert f"and {1000 - NAMES_SHOWN} more" in summary
    assert len(summary) < 500


def test_a_signing_key_goes_on_when_its_longest_wait_is_over() -> None:
    """Before it is known everywhere that counts; then whatever takes longest: others' tokens, or a managed one."""
    policy = SigningKeyPolicy(
        rotate_every=99 * HOUR, known_after=MINUTE, others_live=2 * HOUR, skew=SECOND, calendar=Calendar()
    )
    begun = KeyRotation(old=1, new=2)
    added, trusted = replace(begun, added_at=NOW + HOUR), replace(begun, added_at=NOW, trusted_at=NOW + MINUTE)
    none = replace(policy, others_live=timedelta())
    assert [
        NOW + MINUTE,
        NOW + HOUR + MINUTE,
        NOW + MINUTE + 2 * HOUR + SECOND,
        NOW + 9 * HOUR,
        NOW + MINUTE,
    ] == [
        goes_on_by(begun, NOW, policy, ()),
        goes_on_by(added, NOW, policy, ()),
        goes_on_by(trusted, NOW, policy, (NOW + HOUR,)),
        goes_on_by(trusted, NOW, policy, (NOW + HOUR, NOW + 9 * HOUR)),
        goes_on_by(trusted, NOW, none, ()),
    ]


def test_a_held_signing_key_says_for_whom_it_waits() -> None:
    """Names and the reason, as status has them."""
    held = SigningKeyStanding(name=NAME, goes_on_by=NOW, waiting_on=("a", "b"), why="which still need signing key 1")
    (alert,) = signing_key_alerts(held, TELL)
    assert "waits for a, b which still need signing key 1" in alert.summary


def test_signals_are_told_of_together() -> None:
    """One collector, one alert: it names every signal, from the first on."""
    both = {"traces": SignalStanding(untaken_since=NOW + MINUTE), "logs": SignalStanding(untaken_since=NOW)}
    (alert,) = true_at(telemetry_alerts(both), NOW + HOUR)
    assert "takes no logs, traces since" in alert.summary
    assert NOW + 5 * MINUTE == alert.since
    assert () == telemetry_alerts({"traces": SignalStanding()})


def test_an_endless_token_raises_nothing() -> None:
    """There is nothing to wait for."""
    assert () == login(None)


def test_only_what_is_new_or_graver_is_raised() -> None:
    """Known, milder and gone alerts are told apart by key."""
    mild = Alert(kind=AlertKind.SAFETY_LINE, subject=NAME, severity=WARNING, since=NOW, summary="")
    grave = replace(mild, severity=CRITICAL)
    other = replace(mild, kind=AlertKind.EXPIRED)
    assert ((mild,), ()) == changes({}, [mild])
    assert ((), ()) == changes({mild.key: mild}, [mild])
    assert ((grave,), ()) == changes({mild.key: mild}, [grave])
    assert ((), ()) == changes({mild.key: grave}, [mild])
    assert ((other,), (mild,)) == changes({mild.key: mild}, [other])


def test_the_page_shows_every_kind() -> None:
    """docs/alerts.md has the table of `MEANINGS`, row for row, and every page that it leads to."""
    docs = Path(__file__).parents[2] / "docs"
    rows = [line for line in (docs / "alerts.md").read_text().splitlines() if line.startswith("| `")]
    wanted = [
        f"| `{kind.value}` | {means.sentence} | {means.threshold} | [{means.runbook}](runbooks/{means.runbook}.md) |"
        for kind, means in MEANINGS.items()
    ]
    assert wanted == rows
    assert [] == [each.runbook for each in MEANINGS.values() if not (docs / f"runbooks/{each.runbook}.md").exists()]
