"""
What control planes show of their meshes, completed by what they forget; and the one write that gives a bundle.

Rules that must stay true here:

- Decisions rest on one look (law 13). What is remembered beyond it only holds back: a proxy that has vanished counts
  until its last leaf has ended (law 1). The one exception is an acknowledgement: a proxy that showed a bundle and then
  fell silent still has it, as far as this process has seen; a restart asks again.
- A leaf that a proxy uses or may use keeps its authority in the bundle until it is seen replaced or has ended (law 2).
- A bundle is given to a whole mesh by one fenced write, recorded once (laws 14 and 21).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.core.event import Corroboration, Event, EventType
from rotator.core.model import Authority, AuthoritySeen, IssuerId, RelyingParty, SubjectName, TrustDomainName
from rotator.core.steps import Wait
from rotator.engine.limits import Limits
from rotator.engine.recorder import Recorder, Scribe
from rotator.engine.targets import DomainTarget
from rotator.errors import InvariantBroken
from rotator.ports import Mesh, MeshView, Rotation, Sighting

SHOWS_WITHIN = timedelta(seconds=15)
"""Until a proxy that joined with a leaf of the CA before is seen: control planes cache a CA for 5 s and report new
proxies every 10 s."""
SHARE = 4
"""A look at every proxy costs the control plane; it rests for so many times as long as the last one took."""


class Meshes:
    """Looks at meshes and publishes their bundles; the caller holds the domain's lock."""

    def __init__(self, *, recorder: Recorder, limits: Limits) -> None:
        self._recorder = recorder
        self._memory = recorder.memory
        self._clock = recorder.clock
        self._limits = limits
        self._acknowledged: dict[TrustDomainName, dict[SubjectName, frozenset[IssuerId]]] = {}
        """What each proxy showed to trust when it was last asked."""
        self._took: dict[TrustDomainName, timedelta] = {}
        self._recorded: set[str] = set()
        """Ids of the publications that are known to stand in the ledger."""

    # --- looking ----------------------------------------------------------------------------------------------------

    def look(self, domain: DomainTarget, rotation: Rotation | None) -> MeshView:
        """Return what the control plane shows now, proxies that have vanished with a live leaf included."""
        mesh = _mesh(domain)
        begun = self._clock.monotonic()
        proofs = rotation is not None
        view = mesh.look(proofs=proofs)
        if not proofs and len(view.held.generations) > 1:
            # Whether the others are idle can only be told by what every proxy uses.
            proofs, view = True, mesh.look(proofs=True)
        self._took[domain.name] = timedelta(seconds=self._clock.monotonic() - begun)
        listed = self._remember(domain, view, proofs=proofs)
        return replace(view, parties=(*listed, *self._vanished(domain, view)))

    def rest(self, domain: DomainTarget) -> timedelta:
        """Return how long the control plane is left alone after the last look."""
        return SHARE * self._took.get(domain.name, timedelta())

    def _remember(self, domain: DomainTarget, view: MeshView, *, proofs: bool) -> tuple[RelyingParty, ...]:
        """Return the listed parties, those out of contact with what they had acknowledged before."""
        known = self._acknowledged.setdefault(domain.name, {})
        given = next((each.published for each in view.parties), None) or frozenset()
        if proofs:
            known.update({each.name: each.acknowledged for each in view.parties if each.reachable})
        for name, acknowledged in known.items():
            # What left the bundle has to be acknowledged anew, should it ever come back.
            known[name] = acknowledged & given
        if not proofs:
            return view.parties
        nothing: frozenset[IssuerId] = frozenset()
        return tuple(
            each if each.reachable else replace(each, acknowledged=each.acknowledged | known.get(each.name, nothing))
            for each in view.parties
        )

    def _vanished(self, domain: DomainTarget, view: MeshView) -> tuple[RelyingParty, ...]:
        """Keep the sightings up; return the proxies that are no longer listed and may come back with a live leaf."""
        known = self._memory.sightings(domain.subject)
        listed = {each.name: each for each in view.parties}
        now, skew = self._clock.now(), domain.policy.skew
        sighted: list[Sighting] = []
        if not view.vanished_are_gone:
            found = (self._sighting(domain, party, known.get(party.name), now) for party in view.parties)
            sighted = [sighting for sighting in found if sighting is not None]
        gone = [
            each
            for name, each in known.items()
            if (view.vanished_are_gone and name not in listed) or now >= each.last_leaf_not_after + skew
        ]
        again = {each.party for each in sighted}
        gone = [each for each in gone if each.party not in again]
        if sighted or gone:
            self._recorder.sighted(sighted, gone)
        acknowledged = self._acknowledged[domain.name]
        for each in gone:
            acknowledged.pop(each.party, None)
        ended = {each.party for each in gone}
        return tuple(
            RelyingParty(
                name=name,
                published=None,
                acknowledged=acknowledged.get(name, frozenset()),
                reachable=False,
                served_issuer=each.served_issuer,
                last_leaf_not_after=each.last_leaf_not_after,
            )
            for name, each in sorted(known.items())
            if name not in listed and name not in ended
        )

    def _sighting(
        self, domain: DomainTarget, party: RelyingParty, before: Sighting | None, now: datetime
    ) -> Sighting | None:
        """Return what is to be written of *party*; None if nothing has changed, or nothing of it could come back."""
        ends, issuer = party.last_leaf_not_after, party.served_issuer
        if ends is None or now >= ends + domain.policy.skew:
            return None
        if issuer is None and before is not None and before.last_leaf_not_after == ends:
            # The same leaf as when it was last asked.
            issuer = before.served_issuer
        if before is not None and (before.last_leaf_not_after, before.served_issuer) == (ends, issuer):
            return None
        return Sighting(
            subject=domain.subject, party=party.name, last_leaf_not_after=ends, served_issuer=issuer, seen_at=now
        )

    # --- publishing -------------------------------------------------------------------------------------------------

    def publish(
        self, domain: DomainTarget, rotation: Rotation | None, bundle: tuple[Authority, ...], *, reason: str
    ) -> None:
        """Give *bundle* to every proxy by one write, and record it."""
        self._recorder.fence()
        self._limits.issuer.take()
        revision = _mesh(domain).publish(bundle)
        event = self._distributed(domain, rotation, bundle, reason=reason)
        self._record(replace(event, corroboration=Corroboration(kubernetes=revision)))

    def note_published(self, domain: DomainTarget, rotation: Rotation, view: MeshView, seen: AuthoritySeen) -> None:
        """Record what the mesh was given by a write whose reply, or whose record, was lost."""
        given = next((each.published for each in view.parties), None)
        if given is None or rotation.trust_published_at is None:
            # Before {old, new} stood in the mesh, nothing that stands there was given by this rotation.
            return
        bundle = tuple(each.authority for each in reversed(seen.generations) if each.authority.id in given)
        event = self._distributed(domain, rotation, bundle, reason="")
        if event.id not in self._recorded:
            self._record(replace(event, result="found", reason=None, detail={**event.detail, "recovered": True}))

    def _record(self, event: Event) -> None:
        self._recorder.write((), [event])
        if event.id is not None:
            self._recorded.add(event.id)

    def _distributed(
        self, domain: DomainTarget, rotation: Rotation | None, bundle: Iterable[Authority], *, reason: str
    ) -> Event:
        """Return the record of a publication: within one rotation the same bundle is given once."""
        held = tuple(bundle)
        digest = hashlib.sha256("\n".join(sorted(each.sha256 for each in held)).encode()).hexdigest()
        scribe = Scribe(
            clock=self._clock, subject=domain.subject, rotation=rotation, spiffe_id=f"spiffe://{domain.name}"
        )
        detail = {"bundle": ",".join(each.id for each in held), "bundle_sha256": digest, "target": "mesh"}
        event = scribe.event(EventType.DISTRIBUTED, reason=reason or None, detail=detail)
        if rotation is None:
            return event
        return replace(event, id=uuid.uuid5(uuid.NAMESPACE_URL, f"distributed:{rotation.id}:{digest}").hex)


# --- what a view says -------------------------------------------------------------------------------------------------


def with_mesh(
    seen: AuthoritySeen, view: MeshView, domain: DomainTarget, rotation: Rotation | None, now: datetime
) -> AuthoritySeen:
    """Return *seen* with the mesh and its proxies among the parties, and their leaves among those still out there."""
    strays = dict(seen.stray_until)
    for issuer, until in _strays(view, domain, rotation, now).items():
        strays[issuer] = max(strays.get(issuer, until), until)
    return replace(seen, parties=(*view.parties, *seen.parties), stray_until=strays)


def _strays(
    view: MeshView, domain: DomainTarget, rotation: Rotation | None, now: datetime
) -> Mapping[IssuerId, datetime]:
    """Return for each generation that does not sign until when a leaf of it may be used."""
    found: dict[IssuerId, datetime] = {}
    activated_at = rotation.activated_at if rotation is not None else None
    for each in view.held.generations:
        issuer = each.authority.id
        if issuer == view.held.active:
            continue
        ends = [view.stray_until[issuer]] if issuer in view.stray_until else []
        for party in view.parties:
            if party.served_issuer == issuer:
                # Where nobody knows how long it lives, it may have begun this moment.
                ends.append(party.last_leaf_not_after or now + domain.policy.longest_leaf)
            elif party.served_issuer is None and not party.reachable and party.last_leaf_not_after is not None:
                ends.append(party.last_leaf_not_after)
        if activated_at is not None:
            ends.append(activated_at + domain.policy.propagation + SHOWS_WITHIN)
        if ends:
            found[issuer] = max(ends)
    return found


def holding_back(view: MeshView, rotation: Rotation | None) -> Wait | None:
    """Return why nothing may be done in the mesh now, for which person to do what; None if it may."""
    if view.refusals:
        return Wait(until=None, on=view.refusals, why="to be mended before anything in the mesh is changed", alert=True)
    adoption = view.adoption
    if adoption is None:
        return None
    if rotation is None:
        return Wait(until=None, on=("a person to have it adopted",), why=f"because the mesh runs on {adoption.found}")
    if rotation.from_generation:
        return Wait(
            until=None,
            on=("a person",),
            why=f"because the mesh runs on {adoption.found}, which this rotation did not put there",
            alert=True,
        )
    if adoption.interrupts is not None and not rotation.may_interrupt:
        return Wait(
            until=None,
            on=("a person to accept the interruption",),
            why=f"because going on interrupts: {adoption.interrupts}",
            alert=True,
        )
    return None


def is_untidy(view: MeshView, bundle: tuple[Authority, ...]) -> bool:
    """Return whether the mesh was given another bundle than *bundle*."""
    given = next((each.published for each in view.parties), None)
    return bool(bundle) and given is not None and given != frozenset(each.id for each in bundle)


def _mesh(domain: DomainTarget) -> Mesh:
    """Return the mesh of *domain*."""
    if domain.mesh is None:
        raise InvariantBroken(13, f"{domain.name} has no mesh to look at")
    return domain.mesh
