"""
What a crash left behind: every order ends in the record, published or not.

Rules that must stay true here:

- A certificate that was issued and never published is found by the public key that was chosen before the call, and is
  revoked, or recorded as lapsing when it ends before a revocation would reach anybody (laws 13 and 18).
- An order that may still be on its way is left alone until the issuer's time-out is over.
- Only what this issuer signed is revoked (law 18).
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.core.event import CertificateFacts, Corroboration, Event, EventType
from rotator.core.model import Leaf, Serial, SubjectName
from rotator.engine.domains import Domains
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import DomainTarget
from rotator.errors import AdapterError, Rejected
from rotator.ports import HeldAuthorities, Issuance, IssuanceKind, IssuanceState, IssuedCertificate, Rotation

EVERY_STATE = frozenset(IssuanceState)


class Recovery:
    """Finds, revokes and records what was ordered and is not in use."""

    def __init__(self, *, recorder: Recorder, domains: Domains, settle_after: timedelta, crl_every: timedelta) -> None:
        """*settle_after*: how long an untraced order may still be on its way; *crl_every*: how often CRLs are read."""
        self._recorder = recorder
        self._clock = recorder.clock
        self._domains = domains
        self._settle_after = settle_after
        self._crl_every = crl_every
        self._revoked: dict[str, tuple[datetime, frozenset[Serial]]] = {}
        self._lock = threading.Lock()

    def is_revoked(self, domain: DomainTarget, leaf: Leaf) -> bool:
        """Return whether *leaf* is on its signer's CRL, read at most every *crl_every*; False if it cannot be read."""
        state = self._domains.get(domain.name)
        signer = (
            next((each for each in state.held.generations if each.authority.id == leaf.issuer), None) if state else None
        )
        if signer is None or domain.issuer is None:
            return False
        now = self._clock.now()
        with self._lock:
            known = self._revoked.get(signer.authority.id)
            if known is not None and timedelta(0) <= now - known[0] < self._crl_every:
                return leaf.serial in known[1]
            # Taken before the call: the others of this signer use the old answer meanwhile.
            self._revoked[signer.authority.id] = (now, known[1] if known is not None else frozenset())
        try:
            serials = domain.issuer.revoked(signer)
        except AdapterError:
            return known is not None and leaf.serial in known[1]
        with self._lock:
            self._revoked[signer.authority.id] = (now, serials)
        return leaf.serial in serials

    def next_settling(self, subject: SubjectName) -> datetime | None:
        """Return when the next order of *subject* that left no trace can be settled; None if there is none."""
        open_orders = (each for each in self._recorder.memory.orders(subject) if each.state is IssuanceState.ASKED)
        return min((each.asked_at + self._settle_after for each in open_orders), default=None)

    def resolve_orphan(self, domain: DomainTarget, order: Issuance, rotation: Rotation | None) -> None:
        """Account for an order that was asked for or issued, and is not what is published."""
        if order.state is IssuanceState.ASKED:
            found = self._find(domain, order)
            if found is None:
                if self._clock.now() - order.asked_at >= self._settle_after:
                    scribe = self._scribe(order, rotation)
                    nothing = scribe.event(
                        EventType.FAILED,
                        result="never issued",
                        reason="the issuer's own list does not hold it",
                        detail={"spki_sha256": order.spki_sha256},
                    )
                    self._recorder.write([replace(order, state=IssuanceState.NEVER)], [nothing])
                return
            order = replace(order, state=IssuanceState.ISSUED, serial=found.serial, not_after=found.not_after)
            issued = self._scribe(order, rotation).event(
                EventType.ISSUED, result="found", detail={"recovered": True, "spki_sha256": order.spki_sha256}
            )
            self._recorder.write([order], [replace(issued, new=_facts(found))])
        self.end(domain, order, rotation, published=False)

    def lives_on(self, domain: DomainTarget, order: Issuance) -> bool:
        """Return whether *order*'s leaf is to be revoked: it outlives the next CRL (law 18)."""
        if domain.issuer is None or order.kind is IssuanceKind.AUTHORITY:
            return False
        outlives = order.not_after is not None and order.not_after > self._clock.now() + domain.crl_interval
        return outlives and order.serial is not None

    def lapse(self, order: Issuance, rotation: Rotation | None, *, published: bool) -> tuple[Issuance, Event]:
        """Return the row and the record by which *order* ends without being revoked."""
        event = self._scribe(order, rotation).event(EventType.LAPSED, detail=_end_detail(order, published=published))
        return replace(order, state=IssuanceState.LAPSED), event

    def end(self, domain: DomainTarget, order: Issuance, rotation: Rotation | None, *, published: bool) -> None:
        """Revoke what lives on past the next CRL, record the rest as lapsed."""
        if domain.issuer is not None and order.serial is not None and self.lives_on(domain, order):
            # The signer may not know it (any more): then nothing is left to revoke.
            with contextlib.suppress(Rejected):
                request_id = domain.issuer.revoke(order.serial)
                event = self._scribe(order, rotation).event(
                    EventType.REVOKED,
                    detail=_end_detail(order, published=published),
                    corroboration=Corroboration(vault_request_id=request_id),
                )
                self._recorder.write([replace(order, state=IssuanceState.REVOKED)], [event])
                return
        row, event = self.lapse(order, rotation, published=published)
        self._recorder.write([row], [event])

    def resolve_authorities(self, domain: DomainTarget, rotation: Rotation | None) -> None:
        """Account for CA certificates that the corporate PKI signed and the signer never installed."""
        orders = [
            each
            for each in self._recorder.memory.orders_of_domain(domain.name)
            if each.kind is IssuanceKind.AUTHORITY and each.state is IssuanceState.ASKED
        ]
        if not orders:
            return
        known = self._known(domain)
        held = {each.authority.spki_sha256: each for each in domain.authorities.observe().generations}
        strays = {each.spki_sha256: each for each in domain.authorities.strays(known)}
        for order in orders:
            installed = held.get(order.spki_sha256)
            if installed is not None:
                authority = installed.authority
                found_there = self._scribe(order, rotation).event(
                    EventType.ISSUED,
                    result="found",
                    new=authority,
                    detail={
                        "recovered": True,
                        "spki_sha256": order.spki_sha256,
                        "generation": installed.number,
                    },
                )
                row = replace(
                    order,
                    state=IssuanceState.PUBLISHED,
                    serial=authority.serial,
                    not_after=authority.not_after,
                    signer=authority.parent,
                )
                self._recorder.write([row], [found_there])
                continue
            found = strays.get(order.spki_sha256)
            if found is None:
                if self._clock.now() - order.asked_at >= self._settle_after:
                    nothing = self._scribe(order, rotation).event(
                        EventType.FAILED,
                        result="never issued",
                        reason="the corporate PKI's own list does not hold it",
                        detail={"spki_sha256": order.spki_sha256},
                    )
                    self._recorder.write([replace(order, state=IssuanceState.NEVER)], [nothing])
                continue
            self._end_stray(domain, order, found, rotation)

    def resolve_retired(self, domain: DomainTarget, held: HeldAuthorities) -> None:
        """Record the end of a generation that the signer no longer holds: a crash swallowed it after the effect."""
        serials = {each.authority.serial for each in held.generations}
        gone = [
            each
            for each in self._recorder.memory.orders_of_domain(domain.name)
            if each.kind is IssuanceKind.AUTHORITY
            and each.state is IssuanceState.PUBLISHED
            and each.serial not in serials
        ]
        if not gone:
            return
        known = self._known(domain) - {each.serial for each in gone}
        listed = {each.serial: each for each in domain.authorities.strays(known)}
        for order in gone:
            found = listed.get(order.serial) if order.serial is not None else None
            retired = self._scribe(order, None).event(
                EventType.RETIRED, result="found", detail={"recovered": True, "serial": order.serial or ""}
            )
            self._recorder.write((), [replace(retired, old=_facts(found) if found is not None else None)])
            self._end_authority(domain, order, found)

    def _end_authority(self, domain: DomainTarget, order: Issuance, found: IssuedCertificate | None) -> None:
        """Revoke a CA certificate that is out of service and would live on, if nobody has; record how it ends."""
        scribe = self._scribe(order, None)
        detail: dict[str, str | int | bool] = {"recovered": True, "serial": order.serial or ""}
        request_id: str | None = None
        revoked = found is not None and found.revoked_at is not None
        lives_on = order.not_after is not None and order.not_after > self._clock.now() + domain.crl_interval
        if not revoked and lives_on and order.serial is not None:
            request_id = domain.parent.revoke_authority(order.serial)
            revoked = True
        type_ = EventType.REVOKED if revoked else EventType.LAPSED
        event = scribe.event(type_, detail=detail, corroboration=Corroboration(vault_request_id=request_id))
        state = IssuanceState.REVOKED if revoked else IssuanceState.LAPSED
        self._recorder.write([replace(order, state=state)], [event])

    def _end_stray(
        self, domain: DomainTarget, order: Issuance, found: IssuedCertificate, rotation: Rotation | None
    ) -> None:
        """Record a CA certificate that was never installed, and revoke it if it would live on."""
        scribe = self._scribe(order, rotation)
        order = replace(order, serial=found.serial, not_after=found.not_after)
        issued = scribe.event(
            EventType.ISSUED, result="found", detail={"recovered": True, "spki_sha256": order.spki_sha256}
        )
        self._recorder.write([replace(order, state=IssuanceState.ISSUED)], [replace(issued, new=_facts(found))])
        self._end_authority(domain, order, found)

    def _find(self, domain: DomainTarget, order: Issuance) -> IssuedCertificate | None:
        """Return the certificate that the issuer's own list holds for *order*'s public key."""
        if domain.issuer is None:
            # A control plane signs there: no order of ours can be under way.
            return None
        listed = domain.issuer.issued(self._known(domain))
        return next((each for each in listed if each.spki_sha256 == order.spki_sha256), None)

    def _known(self, domain: DomainTarget) -> frozenset[Serial]:
        """Return every serial of *domain* that the journal has heard of."""
        orders = self._recorder.journal.issuances(states=EVERY_STATE)
        return frozenset(each.serial for each in orders if each.serial is not None and each.trust_domain == domain.name)

    def _scribe(self, order: Issuance, rotation: Rotation | None) -> Scribe:
        """Return the writer of events about *order*, tied to its own rotation where that is still open."""
        own = rotation if rotation is not None and rotation.id == order.rotation_id else None
        return Scribe(clock=self._clock, subject=order.subject, rotation=own, rotation_id=order.rotation_id or None)


def _end_detail(order: Issuance, *, published: bool) -> dict[str, str | int | bool]:
    """Return what the record of *order*'s end says of it."""
    detail: dict[str, str | int | bool] = {
        "serial": order.serial or "",
        "spki_sha256": order.spki_sha256,
        "published": published,
    }
    if order.kind is IssuanceKind.PROBE:
        detail["probe"] = True
    return detail


def _facts(found: IssuedCertificate) -> CertificateFacts:
    """Return what a record says of a line of the CA's own list."""
    return CertificateFacts(
        serial=found.serial,
        sha256=found.sha256,
        issuer=found.issuer or "",
        not_before=found.not_before,
        not_after=found.not_after,
    )
