"""
The journal's working set in memory: what is open, what is paused, what may still be out there.

Rules that must stay true here:

- A copy, never the truth: loaded from the journal at the start, and every row goes to the journal first (but for what
  law 12 lets wait outside; those rows are kept here until they can be saved).
- Small by construction: only open rotations, pauses, orders that have not ended, and proxies whose leaf lives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from rotator.core.model import SubjectName, TrustDomainName
from rotator.ports import Hold, Issuance, IssuanceState, Journal, Rotation, RotationState, Sighting

LIVE = frozenset({IssuanceState.ASKED, IssuanceState.ISSUED, IssuanceState.PUBLISHED})
Row = Rotation | Issuance | Hold | Sighting


class Memory:
    """Open rotations by subject, holds by subject, live orders by subject."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rotations: dict[SubjectName, Rotation] = {}
        self._finished: dict[SubjectName, Rotation] = {}
        self._holds: dict[SubjectName, Hold] = {}
        self._orders: dict[str, Issuance] = {}
        self._by_subject: dict[SubjectName, set[str]] = {}
        self._sightings: dict[SubjectName, dict[SubjectName, Sighting]] = {}
        self._unsaved: list[Row] = []
        self._listeners: list[Callable[[Rotation], None]] = []

    def tell(self, ended: Callable[[Rotation], None]) -> None:
        """Call *ended* once for each rotation that ends while this process knows it open; it must not raise."""
        self._listeners.append(ended)

    def load(self, journal: Journal) -> None:
        """Replace everything by what *journal* holds."""
        # Whatever ended long ago stays on disk: a fleet of short-lived leaves leaves millions of rotations behind.
        rotations = journal.rotations(state=RotationState.OPEN)
        ended = journal.rotations(last_ended=True)
        holds = journal.holds()
        orders = journal.issuances(states=LIVE)
        sightings = journal.sightings()
        with self._lock:
            open_before = {each.id for each in self._rotations.values()}
            self._rotations = {each.subject: each for each in rotations}
            self._finished = {each.subject: each for each in ended}
            self._holds = {each.subject: each for each in holds}
            self._orders = {}
            self._by_subject = {}
            self._sightings = {}
            for sighting in sightings:
                self._sightings.setdefault(sighting.subject, {})[sighting.party] = sighting
            for order in orders:
                self._remember(order)
        # The reply to the commit that ended it was lost, so nobody has applied it.
        self._tell([each for each in ended if each.id in open_before])

    def apply(self, rows: Iterable[Row]) -> None:
        """Take over *rows*, in order."""
        ended: list[Rotation] = []
        with self._lock:
            for row in rows:
                match row:
                    case Rotation() if row.state is RotationState.OPEN:
                        self._rotations[row.subject] = row
                    case Rotation():
                        current = self._rotations.get(row.subject)
                        if current is not None and current.id == row.id:
                            del self._rotations[row.subject]
                            ended.append(row)
                        self._finished[row.subject] = row
                    case Hold():
                        self._holds[row.subject] = row
                    case Issuance():
                        self._remember(row)
                    case Sighting():
                        self._sightings.setdefault(row.subject, {})[row.party] = row
        self._tell(ended)

    def _tell(self, ended: Iterable[Rotation]) -> None:
        for rotation in ended:
            for tell in self._listeners:
                tell(rotation)

    def _remember(self, order: Issuance) -> None:
        """Keep *order* while it is live, drop it when it has ended."""
        if order.state in LIVE:
            self._orders[order.spki_sha256] = order
            self._by_subject.setdefault(order.subject, set()).add(order.spki_sha256)
        elif self._orders.pop(order.spki_sha256, None) is not None:
            self._by_subject[order.subject].discard(order.spki_sha256)

    def keep_unsaved(self, rows: Iterable[Row]) -> None:
        """Remember *rows* that the journal could not take; `take_unsaved` gives them back once it can."""
        with self._lock:
            self._unsaved.extend(rows)

    def unsaved(self) -> tuple[Row, ...]:
        """Return the rows that the journal has not taken yet, oldest first."""
        with self._lock:
            return tuple(self._unsaved)

    def saved(self, count: int) -> None:
        """Forget the oldest *count* unsaved rows."""
        with self._lock:
            del self._unsaved[:count]

    def release(self, subject: SubjectName) -> None:
        """Forget the hold on *subject*."""
        with self._lock:
            self._holds.pop(subject, None)

    def forget(self, sighting: Sighting) -> None:
        """Forget one party."""
        with self._lock:
            self._sightings.get(sighting.subject, {}).pop(sighting.party, None)

    def sightings(self, subject: SubjectName) -> dict[SubjectName, Sighting]:
        """Return every sighting of *subject*'s proxies, by party."""
        with self._lock:
            return dict(self._sightings.get(subject, {}))

    def open_rotation(self, subject: SubjectName) -> Rotation | None:
        """Return the open rotation of *subject*."""
        return self._rotations.get(subject)

    def last_rotation(self, subject: SubjectName) -> Rotation | None:
        """Return the rotation of *subject* that ended last."""
        return self._finished.get(subject)

    def hold(self, subject: SubjectName) -> Hold | None:
        """Return the pause of *subject*, also one whose time is over."""
        return self._holds.get(subject)

    def orders(self, subject: SubjectName) -> tuple[Issuance, ...]:
        """Return the live orders of *subject*, oldest first."""
        with self._lock:
            found = [self._orders[each] for each in self._by_subject.get(subject, ())]
        return tuple(sorted(found, key=lambda each: each.asked_at))

    def orders_of_domain(self, domain: TrustDomainName) -> tuple[Issuance, ...]:
        """Return the live orders of *domain*, oldest first."""
        with self._lock:
            found = [each for each in self._orders.values() if each.trust_domain == domain]
        return tuple(sorted(found, key=lambda each: each.asked_at))
