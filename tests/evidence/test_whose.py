"""From a certificate that was met in a call to its subject and the last rotation, by the ledger alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rotator.core.event import CertificateFacts, Event, EventType
from rotator.core.model import TrustDomainName
from rotator.evidence.record import Record
from rotator.evidence.whose import Clue, Whose, whose
from rotator.pki.authority_name import common_name

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
MADE, LATER, CA = "5f2b6c3d" + "0" * 24, "77aa77aa" + "0" * 24, "ab12cd34" + "0" * 24
DOMAIN = TrustDomainName("mesh.prod")
LEAF = "spiffe://mesh.prod/worker"


def facts(serial: str) -> CertificateFacts:
    """Return a certificate's facts."""
    return CertificateFacts(serial=serial, sha256="0" * 64, issuer="aa", not_before=NOON, not_after=NOON)


def records() -> Iterator[Record]:
    """Yield a CA's rotation and two of a leaf, in order."""
    leaf = Event(type=EventType.ISSUED, time=NOON, subject="worker", result="ok", rotation_id=MADE, spiffe_id=LEAF)
    events = [
        Event(
            type=EventType.ISSUED, time=NOON, subject=DOMAIN, result="ok", rotation_id=CA, new=facts("ca"),
            spiffe_id=f"spiffe://{DOMAIN}", detail={"generation": 2},
        ),
        Event(type=EventType.COMPLETED, time=NOON, subject=DOMAIN, result="ok", rotation_id=CA),
        replace(leaf, new=facts("1f")),
        replace(leaf, type=EventType.COMPLETED, new=facts("1f")),
        replace(leaf, time=NOON + timedelta(hours=1), new=facts("2e"), old=facts("1f"), rotation_id=LATER),
        replace(leaf, time=NOON + timedelta(hours=1), type=EventType.COMPLETED, rotation_id=LATER),
    ]  # fmt: skip
    for seq, event in enumerate(events):
        yield Record(seq=seq, id=str(seq), environment="test", policy_sha256=None, event=event)


def test_a_serial_leads_to_its_subject_and_to_what_came_after() -> None:
    """An old certificate is known too: in which rotation it was made, and which one was the last."""
    assert whose(records(), Clue(serial="1f", spiffe_id=LEAF)) == Whose(
        subject="worker", by="serial", made_in=MADE, made_at=NOON, last=LATER, last_at=NOON + timedelta(hours=1)
    )


@pytest.mark.parametrize(
    "issuer",
    [common_name(DOMAIN, 2, CA), f"CN={common_name(DOMAIN, 2, CA)}", f"O=Corp,CN={common_name(DOMAIN, 2, CA)}"],
)
def test_a_leaf_of_a_mesh_is_known_by_who_signed_it(issuer: str) -> None:
    """Its serial has no record: the name of its CA leads to the CA's rotation."""
    found = whose(records(), Clue(serial="99", issuer=issuer, spiffe_id="spiffe://mesh.prod/ns/airflow/sa/worker"))
    assert found is not None
    assert (DOMAIN, "issuer", CA, CA) == (found.subject, found.by, found.made_in, found.last)


def test_a_spiffe_id_alone_leads_to_its_certificate_or_its_mesh() -> None:
    """A certificate of that name, else the trust domain of a proxy whose leaf nobody recorded."""
    one, other = whose(records(), Clue(spiffe_id=LEAF)), whose(records(), Clue(spiffe_id="spiffe://mesh.prod/x"))
    assert one is not None
    assert other is not None
    assert [("worker", "spiffe_id"), (DOMAIN, "trust_domain")] == [(each.subject, each.by) for each in (one, other)]


@pytest.mark.parametrize(
    "clue", [Clue(serial="99"), Clue(issuer="CN=Corporate CA 2"), Clue(spiffe_id="spiffe://other/x")]
)
def test_what_nobody_recorded_leads_nowhere(clue: Clue) -> None:
    """Nothing is guessed."""
    assert whose(records(), clue) is None


def test_it_is_told_in_sentences() -> None:
    """Subject, the rotation that made it, and the last one, each with its trace."""
    found = whose(records(), Clue(serial="1f"))
    assert found is not None
    assert [
        "this certificate is worker's",
        f"it was made in rotation {MADE}, 2030-01-01T12:00:00Z (trace {MADE})",
        f"the last rotation of worker is {LATER}, ended 2030-01-01T13:00:00Z (trace {LATER})",
    ] == found.sentences()
