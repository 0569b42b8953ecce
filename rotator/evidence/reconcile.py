"""
The ledger against the CA's own list, both ways (law 23).

Rules that must stay true here:

- Pure: both sides are given, nothing is asked, and the same sides always give the same report.
- Certificates are matched by the SHA-256 of their DER: a serial alone is not unique across issuers.
- What has run out is not missed: a CA may tidy it away. Nor is what was issued a moment ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from rotator.core.event import CertificateFacts, Event, EventType
from rotator.core.model import Serial
from rotator.evidence.record import Record, rfc3339
from rotator.ports import IssuedCertificate

IN_FLIGHT = timedelta(minutes=5)
"""How long after it was issued a certificate may stand on one side alone, or wait to be published."""

SUBJECT = "ledger"
"""The subject of the record that a reconciliation leaves."""

_SPKI = "spki_sha256"

_ENDS = frozenset({EventType.REVOKED, EventType.LAPSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the ledger says of one certificate."""

    sha256: str
    serial: str
    subject: str
    seq: int
    """The record that says it was issued."""
    issued_at: datetime
    not_after: datetime
    late: bool = False
    published: bool = False
    revoked: bool = False
    lapsed: bool = False
    probe: bool = False
    """Issued to prove something, never meant to be published."""

    @property
    def ended(self) -> bool:
        """Return whether the ledger has recorded its end."""
        return self.revoked or self.lapsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A certificate of the CA that the ledger does not know as issued."""

    certificate: IssuedCertificate
    intended: int | None
    """The record that intended it (its answer was lost); None if nobody here ever asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the two sides say of each other."""

    at: datetime
    in_ca: int
    """Certificates on the CA's lists, leaves and CAs."""
    in_ledger: int
    """Certificates that the ledger says were issued."""
    not_in_ledger: tuple[Orphan, ...]
    not_in_ca: tuple[Claim, ...]
    not_revoked: tuple[Claim, ...]
    """The ledger says revoked, the CA does not."""
    revoked_elsewhere: tuple[Claim, ...]
    """The CA says revoked, the ledger does not."""
    unpublished: tuple[Claim, ...]
    """Issued, never published, and neither revoked nor recorded as lapsed."""
    late: tuple[Claim, ...]
    """Entered late, from a spool. Reported, not a difference."""
    missed: int
    """Rotations that the ledger itself records as missed."""

    @property
    def agrees(self) -> bool:
        """Return whether there is no difference."""
        return not (
            self.not_in_ledger or self.not_in_ca or self.not_revoked or self.revoked_elsewhere or self.unpublished
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report for ``--json``."""
        return {
            "at": rfc3339(self.at),
            "agrees": self.agrees,
            "in_ca": self.in_ca,
            "in_ledger": self.in_ledger,
            "in_ca_not_in_ledger": [
                {
                    "serial": orphan.certificate.serial,
                    "sha256": orphan.certificate.sha256,
                    "subject": orphan.certificate.subject,
                    "not_after": rfc3339(orphan.certificate.not_after),
                    "intended_in_record": orphan.intended,
                }
                for orphan in self.not_in_ledger
            ],
            "in_ledger_not_in_ca": [_claim_json(claim) for claim in self.not_in_ca],
            "revoked_in_ledger_only": [_claim_json(claim) for claim in self.not_revoked],
            "revoked_in_ca_only": [_claim_json(claim) for claim in self.revoked_elsewhere],
            "unpublished": [_claim_json(claim) for claim in self.unpublished],
            "late": [_claim_json(claim) for claim in self.late],
            "missed": self.missed,
        }


def reconcile(
    records: Iterable[Record],
    issued: Iterable[IssuedCertificate],
    now: datetime,
    *,
    known: frozenset[Serial] = frozenset(),
) -> Report:
    """
    Return what *records* and *issued* say of each other at *now*.

    Args:
        records: The whole ledger, in order.
        issued: The CA's own lists: the leaf mount's and, for CAs, the corporate PKI's, both in one.
        now: Aware UTC.
        known: Serials that the lists left out because their certificates were read before; they count as listed.
    """
    told = _Told()
    for record in records:
        told.read(record)
    listed = {certificate.sha256: certificate for certificate in issued}
    claims = told.claims
    mature = {name: claim for name, claim in claims.items() if now - claim.issued_at > IN_FLIGHT}
    return Report(
        at=now,
        in_ca=len(listed),
        in_ledger=len(claims),
        not_in_ledger=tuple(_orphans(listed, told, now)),
        not_in_ca=tuple(
            claim
            for name, claim in mature.items()
            if name not in listed and claim.not_after > now and claim.serial not in known
        ),
        not_revoked=tuple(
            claim
            for name, claim in mature.items()
            if claim.revoked and name in listed and listed[name].revoked_at is None and claim.not_after > now
        ),
        revoked_elsewhere=tuple(
            claim
            for name, claim in mature.items()
            if not claim.revoked and name in listed and listed[name].revoked_at is not None
        ),
        unpublished=tuple(claim for claim in mature.values() if not (claim.published or claim.ended or claim.probe)),
        late=tuple(claim for claim in claims.values() if claim.late),
        missed=told.missed,
    )


def summary_event(report: Report) -> Event:
    """Return the event that records *report* in the ledger itself: counts only, the report is kept beside it."""
    return Event(
        type=EventType.RECONCILED,
        time=report.at,
        subject=SUBJECT,
        result="ok" if report.agrees else "differences",
        detail={
            "in_ca": report.in_ca,
            "in_ledger": report.in_ledger,
            "in_ca_not_in_ledger": len(report.not_in_ledger),
            "in_ledger_not_in_ca": len(report.not_in_ca),
            "revoked_in_ledger_only": len(report.not_revoked),
            "revoked_in_ca_only": len(report.revoked_elsewhere),
            "unpublished": len(report.unpublished),
            "late": len(report.late),
            "missed": report.missed,
        },
    )


class _Told:
    """Gathers what the records say, one after the other."""

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}
        self.intents: dict[str, int] = {}
        """Record that intended an order, by the order's public key."""
        self.missed = 0
        self._by_key: dict[str, str] = {}
        self._by_serial: dict[str, str] = {}

    def read(self, record: Record) -> None:
        """Take one record."""
        event = record.event
        match event.type:
            case EventType.INTENT:
                spki = event.detail.get(_SPKI)
                if isinstance(spki, str):
                    self.intents[spki] = record.seq
            case EventType.ISSUED if event.new is not None:
                self._issued(record, event.new)
            case EventType.DISTRIBUTED | EventType.ACTIVATED if event.new is not None:
                # A CA is not published as a leaf is: it is put to use by being activated.
                self._mark(event, published=True)
            case EventType.REVOKED:
                self._mark(event, revoked=True)
            case EventType.LAPSED:
                self._mark(event, lapsed=True)
            case EventType.MISSED:
                self.missed += 1
            case _:
                return

    def _issued(self, record: Record, facts: CertificateFacts) -> None:
        event = record.event
        if "token_kind" in event.detail:
            # Nobody keeps a list of tokens: there is no other side.
            return
        spki = event.detail.get(_SPKI)
        if isinstance(spki, str):
            self._by_key[spki] = facts.sha256
        self._by_serial[facts.serial] = facts.sha256
        self.claims[facts.sha256] = Claim(
            sha256=facts.sha256,
            serial=facts.serial,
            subject=event.subject,
            seq=record.seq,
            issued_at=event.time,
            not_after=facts.not_after,
            late=event.late,
            probe=bool(event.detail.get("probe")) or event.detail.get("kind") == "probe",
        )

    def _mark(self, event: Event, *, published: bool = False, revoked: bool = False, lapsed: bool = False) -> None:
        name = self._named(event)
        claim = self.claims.get(name) if name else None
        if claim is not None:
            self.claims[claim.sha256] = replace(
                claim,
                published=claim.published or published,
                revoked=claim.revoked or revoked,
                lapsed=claim.lapsed or lapsed,
            )

    def _named(self, event: Event) -> str | None:
        """Return the SHA-256 of the certificate that *event* ends or publishes, by its facts, order or serial."""
        facts = event.old if event.type in _ENDS and event.old else event.new
        if facts is not None:
            return facts.sha256
        # The end of an order names its public key, or at least the serial, in its detail.
        by_key = self._by_key.get(str(event.detail.get(_SPKI)))
        return by_key or self._by_serial.get(str(event.detail.get("serial")))


def _orphans(listed: Mapping[str, IssuedCertificate], told: _Told, now: datetime) -> Iterator[Orphan]:
    for name, certificate in listed.items():
        if name not in told.claims and now - certificate.not_before > IN_FLIGHT:
            yield Orphan(certificate=certificate, intended=told.intents.get(certificate.spki_sha256))


def _claim_json(claim: Claim) -> dict[str, Any]:
    return {
        "serial": claim.serial,
        "sha256": claim.sha256,
        "subject": claim.subject,
        "issued_in_record": claim.seq,
        "not_after": rfc3339(claim.not_after),
    }
