"""
The evidence log, read as a timeline: which certificate stood when, which CA moved, which worker was replaced.

Rules that must stay true here:

- Pure: records go in, what a `Recording` holds comes out; nothing but the log says what rotator did.
- What the server saw of a worker comes from the worker's own lines, never from the log of the one that rolled it.
- Moments in records are whole seconds, so an order within one second is the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from rotator.core.event import CertificateFacts, Event, EventType, Trigger
from rotator.demo.recording import CARotation, Lifetime, Roll, Sighting
from rotator.evidence.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the log tells of one run."""

    lifetimes: tuple[Lifetime, ...] = ()
    authorities: tuple[Lifetime, ...] = ()
    ca_rotations: tuple[CARotation, ...] = ()
    rolls: tuple[Roll, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Teller:
    """Reads records one after the other."""

    start: datetime
    domains: Mapping[str, str]
    """Certificate -> its trust domain; what is not in it is a trust domain itself."""
    leaves: list[Lifetime] = field(default_factory=list)
    authorities: dict[tuple[str, str], Lifetime] = field(default_factory=dict)
    rotations: dict[str, CARotation] = field(default_factory=dict)
    active: dict[str, int] = field(default_factory=dict)
    """Trust domain -> the generation that signs."""
    signers: dict[str, int] = field(default_factory=dict)
    """Authority key id -> generation: learnt from the first leaf after an activation."""
    drains: dict[str, list[float]] = field(default_factory=dict)
    """Member -> when it was drained and when it was idle."""
    rolls: list[Roll] = field(default_factory=list)

    def read(self, event: Event) -> None:
        at = self._seconds(event.time)
        if event.detail.get("probe"):
            # An unpublished leaf that asked one question: nobody ever used it.
            return
        match event.type:
            case EventType.ISSUED if event.subject in self.domains and event.new is not None:
                self._leaf(event, event.new, at)
            case EventType.ISSUED if event.new is not None:
                self._authority(event, event.new, at)
            case EventType.ACTIVATED if event.new is not None:
                self._activated(event, event.new, at)
            case EventType.RETIRED if event.old is not None:
                key = (event.subject, event.old.serial)
                if key in self.authorities:
                    self.authorities[key] = replace(self.authorities[key], left_at=at)
            case EventType.COMPLETED if event.rotation_id in self.rotations:
                self.rotations[event.rotation_id] = replace(self.rotations[event.rotation_id], completed_at=at)
            case EventType.DRAINED | EventType.ROLLED:
                self._member(event, str(event.detail.get("member", "")), at)
            case _:
                pass

    def _leaf(self, event: Event, facts: CertificateFacts, at: float) -> None:
        domain = self.domains[event.subject]
        generation = self.signers.setdefault(facts.issuer, self.active.get(domain, 0))
        for index, before in enumerate(self.leaves):
            if before.subject == event.subject and before.left_at is None:
                self.leaves[index] = replace(before, left_at=at)
        self.leaves.append(
            Lifetime(
                subject=event.subject,
                domain=domain,
                serial=facts.serial,
                issued_at=at,
                not_after=self._seconds(facts.not_after),
                generation=generation,
                rotation_id=event.rotation_id,
            )
        )

    def _authority(self, event: Event, facts: CertificateFacts, at: float) -> None:
        self.authorities[event.subject, facts.serial] = Lifetime(
            subject=event.subject,
            domain=event.subject,
            serial=facts.serial,
            issued_at=at,
            not_after=self._seconds(facts.not_after),
            generation=int(event.detail.get("generation", 0)),
            rotation_id=event.rotation_id,
        )

    def _activated(self, event: Event, facts: CertificateFacts, at: float) -> None:
        key, number = (event.subject, facts.serial), int(event.detail.get("generation", 0))
        self.active[event.subject] = number
        if key in self.authorities:
            self.authorities[key] = replace(self.authorities[key], activated_at=at)
        if event.rotation_id is not None:
            self.rotations[event.rotation_id] = CARotation(
                id=event.rotation_id,
                domain=event.subject,
                trigger=(event.trigger or Trigger.SCHEDULE).value,
                generation=number,
                activated_at=at,
                completed_at=None,
            )

    def _member(self, event: Event, member: str, at: float) -> None:
        match event.type, event.result:
            case EventType.DRAINED, "started":
                self.drains[member] = [at]
            case EventType.DRAINED, "ok" if member in self.drains:
                self.drains[member][1:] = [at]
            case EventType.DRAINED, _:
                # Deferred, or started for the first time: neither is a drain that ended in a replacement.
                self.drains.pop(member, None)
            case EventType.ROLLED, _ if len(self.drains.get(member, ())) > 1:
                began, idle = self.drains.pop(member)
                self.rolls.append(Roll(worker=member, drain_at=began, drained_at=idle, rolled_at=at))
            case _:
                pass

    def _seconds(self, moment: datetime) -> float:
        return (moment - self.start).total_seconds()


def told(records: Iterable[Record], *, start: datetime, domains: Mapping[str, str]) -> Told:
    """
    Return what *records* tell, in seconds since *start*.

    *domains* maps each certificate to its trust domain. A certificate's `left_at` is the moment its successor was
    issued, and leaves that were still in place at the end have none.
    """
    teller = _Teller(start=start, domains=domains)
    for record in records:
        teller.read(record.event)
    return Told(
        lifetimes=tuple(teller.leaves),
        authorities=tuple(teller.authorities.values()),
        ca_rotations=tuple(teller.rotations.values()),
        rolls=tuple(teller.rolls),
    )


def proven(rolls: Sequence[Roll], sightings: Sequence[Sighting], lifetimes: Sequence[Lifetime]) -> tuple[Roll, ...]:
    """
    Return *rolls* with the new serial that the server saw of each replaced worker.

    It counts only if the log knows it as issued and the server saw another one of this worker before the roll.
    """
    issued = {each.serial for each in lifetimes}
    found = []
    for roll in rolls:
        own = sorted((each for each in sightings if each.worker == roll.worker), key=lambda each: each.at)
        before = {each.serial for each in own if each.at < roll.drained_at}
        new = [each for each in own if each.at >= roll.drained_at and each.serial in issued - before]
        found.append(replace(roll, serial=new[0].serial, serial_seen_at=new[0].at) if before and new else roll)
    return tuple(found)
