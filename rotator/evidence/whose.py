"""
Whose a certificate is that somebody met in a call, by the ledger alone, and what was last done to it.

Rules that must stay true here:

- Pure: records are given, read once, in order; what is kept is bounded by the subjects in them.
- A leaf that a control plane signed has no record: then its CA's name or its SPIFFE ID leads to the trust domain, and
  the answer says so.
- Rotations are named by their ids, which are the ids of their traces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from rotator.core.event import Event, EventType
from rotator.core.trace import trace_id
from rotator.evidence.record import Record, rfc3339

_ENDS = frozenset({EventType.COMPLETED, EventType.ROLLED_BACK})
_ID = re.compile(r"spiffe://([^/]+)(?:/.*)?")
_OF_ROTATION = re.compile(r" CA g[1-9][0-9]* ([0-9a-f]{8})(?![0-9A-Za-z])")
"""How the common name of a CA that rotator made ends: with the beginning of its rotation's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clue:
    """What a line of a call says of the other side's certificate; empty: nothing."""

    serial: str = ""
    """Lower-case hex."""
    issuer: str = ""
    """Common name, or whole name, of whoever signed it."""
    spiffe_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """One subject, and what led to it."""

    subject: str
    by: str
    """``serial``, ``issuer``, ``spiffe_id`` or ``trust_domain``: the strongest clue that led there."""
    made_in: str | None
    """The rotation in which the certificate, or the CA that signed it, was made; None if unknown."""
    made_at: datetime | None
    last: str | None = None
    """The rotation of the subject that ended last."""
    last_at: datetime | None = None

    def sentences(self) -> list[str]:
        """Return it for people."""
        what = {
            "serial": "this certificate is",
            "issuer": "whoever signed this certificate is a CA of",
            "spiffe_id": "this SPIFFE ID is",
            "trust_domain": "this SPIFFE ID is one of a proxy in",
        }[self.by]
        told = [f"{what} {self.subject}" + ("'s" if self.by in {"serial", "spiffe_id"} else "")]
        if self.made_in is not None:
            at = f", {rfc3339(self.made_at)}" if self.made_at else ""
            told.append(f"it was made in rotation {self.made_in}{at} (trace {trace_id(self.made_in)})")
        if self.last is not None:
            at = f", ended {rfc3339(self.last_at)}" if self.last_at else ""
            told.append(f"the last rotation of {self.subject} is {self.last}{at} (trace {trace_id(self.last)})")
        return told


def whose(told: Iterable[Record], clue: Clue) -> Whose | None:
    """Return the subject to which *clue* leads, by its strongest part that leads anywhere; None if none does."""
    found: dict[str, Whose] = {}
    last: dict[str, Event] = {}
    domain = _ID.fullmatch(clue.spiffe_id)
    mark = _OF_ROTATION.search(clue.issuer)
    for record in told:
        event = record.event
        if event.type in _ENDS and event.rotation_id:
            last[str(event.subject)] = event
        by = _leads(event, clue, domain=domain[1] if domain else "", mark=mark[1] if mark else "")
        if by and by not in found:
            known = by in {"serial", "issuer"}
            found[by] = Whose(
                subject=str(event.subject),
                by=by,
                made_in=event.rotation_id if known else None,
                made_at=event.time if known else None,
            )
    for by in ("serial", "issuer", "spiffe_id", "trust_domain"):
        if by in found:
            ended = last.get(found[by].subject)
            if ended is None:
                return found[by]
            return replace(found[by], last=ended.rotation_id, last_at=ended.time)
    return None


def _leads(event: Event, clue: Clue, *, domain: str, mark: str) -> str:
    """Return by what *clue* leads to the subject of *event*; empty if it does not."""
    if clue.serial and event.type is EventType.ISSUED and event.new is not None and event.new.serial == clue.serial:
        return "serial"
    is_authority = event.type is EventType.ISSUED and "generation" in event.detail
    if mark and is_authority and (event.rotation_id or "").startswith(mark):
        return "issuer"
    if clue.spiffe_id and event.spiffe_id == clue.spiffe_id:
        return "spiffe_id"
    if domain and str(event.subject) == domain:
        return "trust_domain"
    return ""
