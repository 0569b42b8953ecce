"""
The ledger against the CA's list: each kind of difference, each way.

Rules that must stay true here:

- Each test differs from the agreeing case in one thing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from rotator.core.event import CertificateFacts, Event, EventType
from rotator.core.model import IssuerId, Serial
from rotator.evidence.ledger import records, story
from rotator.evidence.reconcile import Report, reconcile, summary_event
from rotator.ports import IssuedCertificate
from tests.evidence.examples import NOON, ListLedger, event, facts

LATER = NOON + timedelta(minutes=30)
"""After what is in flight, before the end of the certificates."""


def listed(certificate: CertificateFacts, *, revoked_at: datetime | None = None) -> IssuedCertificate:
    return IssuedCertificate(
        serial=Serial(certificate.serial),
        sha256=certificate.sha256,
        spki_sha256=f"spki-{certificate.serial}",
        subject="CN=worker",
        issuer=IssuerId(certificate.issuer),
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        revoked_at=revoked_at,
    )


def issued(number: int, **changes: object) -> Event:
    fields = {"detail": {"spki_sha256": f"spki-{number:x}"}, "old": None, "new": facts(number)} | changes
    return event(0, **fields)


def published(number: int) -> Event:
    return event(1, type=EventType.DISTRIBUTED, old=None, new=facts(number))


def report(told: list[Event], ca: list[IssuedCertificate], *, now: datetime = LATER) -> Report:
    ledger = ListLedger()
    for happened in told:
        ledger.append(happened)
    return reconcile(records(ledger), ca, now)


GOOD = [issued(1), published(1)]


def test_law_23_two_sides_that_tell_the_same_agree() -> None:
    """Everything issued is listed, published or ended: no difference, and the record of it says ok."""
    found = report(GOOD, [listed(facts(1))])
    assert found.agrees
    assert (1, 1) == (found.in_ca, found.in_ledger)
    summary = summary_event(found)
    assert (EventType.RECONCILED, "ok", LATER) == (summary.type, summary.result, summary.time)
    assert found.as_json()["agrees"] is True


def test_law_23_what_the_ca_issued_and_nobody_recorded_is_found() -> None:
    """A certificate on the CA's list alone is named; so is the intent, if one asked for it and lost the answer."""
    asked = event(0, type=EventType.INTENT, old=None, new=None, detail={"spki_sha256": "spki-3"})
    found = report([*GOOD, asked], [listed(facts(1)), listed(facts(2)), listed(facts(3))])
    assert not found.agrees
    assert [("2", None), ("3", 2)] == [(each.certificate.serial, each.intended) for each in found.not_in_ledger]
    assert "differences" == summary_event(found).result


def test_law_23_what_the_ledger_claims_and_the_ca_never_issued_is_found() -> None:
    """A certificate in the ledger alone is named, unless it has run out: a CA may tidy those away."""
    found = report(GOOD, [])
    assert ["1"] == [claim.serial for claim in found.not_in_ca]
    assert report([*GOOD], [], now=NOON + timedelta(hours=2)).agrees


def test_serials_that_were_read_before_count_as_listed() -> None:
    """A list that leaves out known serials is not taken for an empty one."""
    ledger = ListLedger()
    for happened in GOOD:
        ledger.append(happened)
    assert reconcile(records(ledger), [], LATER, known=frozenset({Serial("1")})).agrees


def test_a_serial_alone_is_no_match() -> None:
    """The same serial under another issuer is another certificate: both sides say so."""
    other = replace(facts(1), sha256="ff" * 32)
    found = report(GOOD, [listed(other)])
    assert (1, 1) == (len(found.not_in_ledger), len(found.not_in_ca))


@pytest.mark.parametrize(
    "ended",
    [
        published(2),
        event(1, type=EventType.REVOKED, old=facts(2), new=None),
        event(1, type=EventType.LAPSED, old=None, new=None, detail={"spki_sha256": "spki-2"}),
        event(1, type=EventType.LAPSED, old=None, new=None, detail={"serial": "2"}),
        event(1, type=EventType.ACTIVATED, old=facts(1), new=facts(2)),
    ],
)
def test_law_13_what_was_issued_is_published_or_ended(ended: Event) -> None:
    """Issued and forgotten is found; published, put to use, revoked or lapsed is not forgotten."""
    revoked = NOON if ended.type is EventType.REVOKED else None
    ca = [listed(facts(1)), listed(facts(2), revoked_at=revoked)]
    forgotten = report([*GOOD, issued(2)], ca)
    assert ["2"] == [claim.serial for claim in forgotten.unpublished]
    assert () == report([*GOOD, issued(2), ended], ca).unpublished


def test_a_probe_is_never_published() -> None:
    """A leaf that was issued to prove something is not missed among the publications."""
    probe = issued(2, detail={"probe": True, "spki_sha256": "spki-2"})
    assert report([*GOOD, probe], [listed(facts(1)), listed(facts(2))]).agrees


def test_what_is_on_its_way_is_not_missed() -> None:
    """Within five minutes of its issuance a certificate may stand on one side alone."""
    soon = NOON + timedelta(minutes=2)
    assert report([issued(1)], [listed(facts(2))], now=soon).agrees


def test_revocations_are_compared_both_ways() -> None:
    """Revoked in one book and not in the other is a difference, whichever it is."""
    revoked = event(2, type=EventType.REVOKED, old=facts(1), new=None)
    assert report([*GOOD, revoked], [listed(facts(1), revoked_at=NOON)]).agrees
    assert ["1"] == [claim.serial for claim in report([*GOOD, revoked], [listed(facts(1))]).not_revoked]
    found = report(GOOD, [listed(facts(1), revoked_at=NOON)])
    assert ["1"] == [claim.serial for claim in found.revoked_elsewhere]


def test_law_12_late_and_missed_are_reported_and_are_no_difference() -> None:
    """What was spooled is listed as late, what was missed is counted."""
    missed = event(2, type=EventType.MISSED, old=None, new=None)
    found = report([issued(1, late=True), published(1), missed], [listed(facts(1))])
    assert found.agrees
    assert (["1"], 1) == ([claim.serial for claim in found.late], found.missed)
    assert (1, 1) == (summary_event(found).detail["late"], summary_event(found).detail["missed"])


def test_a_story_tells_each_record_of_its_subject_in_order() -> None:
    """Every record of the subject becomes one sentence with its moment and number; others are left out."""
    ledger = ListLedger()
    for number, kind in enumerate(EventType):
        ledger.append(event(number, type=kind))
        ledger.append(event(number, subject="another"))
    told = story(records(ledger), "airflow-worker")
    assert len(EventType) == len(told)
    assert [f"[record {2 * number}]" for number in range(len(EventType))] == [line.split(") ")[-1] for line in told]
    assert "2030-01-01T12:00:00Z issue airflow-worker anew was intended because expiring" in told[0]
    assert "asked for by sha256:cdcdcdcdcdcd" in told[0]
    line = told[list(EventType).index(EventType.ISSUED)]
    assert "was issued to replace" in line
    assert "valid until 2030-01-01T13:00:03Z" in line
    assert [] == story(records(ledger), "never heard of")
