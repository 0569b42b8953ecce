"""
Gather what the world shows, and say what is proven by it.

Rules that must stay true here:

- Absent is None, wrong is an error or a `Publication.problem`; nothing is guessed and nothing is remembered but what a
  bundle probe has confirmed (a restart asks again).
- A party that no probe reaches is not acknowledged, it is unreachable (law 1).
- A member that started before the material was published has not loaded it (law 16).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeGuard

from rotator.core.model import (
    Authority,
    AuthoritySeen,
    IssuerId,
    Member,
    Observation,
    Publication,
    RelyingParty,
    Serial,
    SubjectName,
    TrustDomainName,
)
from rotator.engine.targets import CertificateTarget, WorkloadTarget
from rotator.ports import BundleProbe, HeldAuthorities, Issuance, IssuanceKind, IssuanceState, Probe

LIVE_ORDERS = frozenset({IssuanceState.ASKED, IssuanceState.ISSUED, IssuanceState.PUBLISHED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Whether the published leaf is the one in use, and who has not shown it yet."""

    proven: bool
    by: tuple[str, ...] = ()
    """What showed it, for the record's corroboration."""
    waiting_on: tuple[str, ...] = ()


def observe_certificate(target: CertificateTarget, members: tuple[Member, ...] = ()) -> Observation:
    """Read every target and every probe of one certificate; *members* are those of the workloads it rolls."""
    publications = tuple(store.read() for store in target.stores)
    return Observation(
        publications=publications, served=tuple(probe.look() for probe in target.probes), members=members
    )


def observe_workload(target: WorkloadTarget) -> tuple[Member, ...]:
    """Return every member with its work; without a drainer a running member counts as ready and its work as unknown."""
    members = target.workloads.members()
    return target.drainer.inspect(members) if target.drainer is not None else members


def newest(seen: Observation) -> Publication | None:
    """Return the newest publication that holds usable material, or None."""
    usable = [each for each in seen.publications if each is not None and is_usable(each)]
    return max(usable, key=_leaf_ends, default=None)


def _leaf_ends(publication: Publication) -> datetime:
    """Return when the leaf of a usable *publication* ends."""
    if publication.leaf is None:
        raise ValueError("a publication without a leaf is not usable")
    return publication.leaf.not_after


def is_usable(publication: Publication) -> bool:
    """Return whether *publication* holds a leaf with its own key, readable."""
    return publication.leaf is not None and publication.key_matches and publication.problem is None


def bundle_needs_roll(seen: Observation) -> bool:
    """Return whether only a restart can make the consumer read its bundle: members, and no probe that sees a bundle."""
    return bool(seen.members) and all(each.reachable and each.bundle is None for each in seen.served)


def stale_before(seen: Observation) -> datetime | None:
    """Return the moment before which a member must not have started to have loaded what is published now."""
    publication = newest(seen)
    if publication is None:
        return None
    moments = [publication.leaf_published_at]
    if bundle_needs_roll(seen):
        moments.append(publication.bundle_published_at)
    known = [moment for moment in moments if moment is not None]
    return max(known, default=None)


def leaf_proof(seen: Observation) -> Proof:
    """
    Return whether the newest published leaf is in use at every consumer.

    Every probe that can see a serial must show it, and every member must be ready and have started after it was
    published, and serve it where it is asked by itself. Where neither exists, reading the publication back is all
    there is.
    """
    publication = newest(seen)
    if publication is None or publication.leaf is None:
        return Proof(proven=False, waiting_on=("a first publication",))
    serial = publication.leaf.serial
    waiting: list[str] = []
    by: list[str] = []
    for served in seen.served:
        if not served.reachable:
            waiting.append(f"{served.probe} (no answer)")
        elif served.serial is not None and served.serial != serial:
            waiting.append(f"{served.probe} (serves {served.serial[:12]})")
        elif served.serial is not None:
            by.append(served.probe)
    since = stale_before(seen)
    for member in seen.members:
        if member.shows is not None and member.shows != serial:
            shown = f"serves {member.shows[:12]}" if member.shows else "no answer"
            waiting.append(f"{member.workload}/{member.name} ({shown})")
        elif _is_fresh(member, since):
            by.append(f"{member.workload}/{member.name} {member.identity}".strip())
        else:
            waiting.append(f"{member.workload}/{member.name}")
    return Proof(proven=not waiting, by=tuple(by) or (publication.target,), waiting_on=tuple(waiting))


def _is_fresh(member: Member, since: datetime | None) -> bool:
    """Return whether *member* runs, is ready, and surely started at or after *since*."""
    loaded = member.loaded_until
    if not (member.running and member.ready) or loaded is None:
        return False
    return since is None or loaded >= since


class Confirmations:
    """What bundle probes have confirmed since this process started: (certificate, probe) -> authorities."""

    def __init__(self) -> None:
        self._confirmed: dict[tuple[SubjectName, str], set[IssuerId]] = {}

    def confirm(self, certificate: SubjectName, probe: str, issuer: IssuerId) -> None:
        """Remember that *probe* got an answer to a leaf of *issuer*."""
        self._confirmed.setdefault((certificate, probe), set()).add(issuer)

    def has(self, certificate: SubjectName, probe: str, issuer: IssuerId) -> bool:
        """Return whether *probe* has confirmed *issuer*."""
        return issuer in self._confirmed.get((certificate, probe), ())

    def forget(self, issuer: IssuerId) -> None:
        """Drop what was confirmed for an authority that is gone."""
        for confirmed in self._confirmed.values():
            confirmed.discard(issuer)


def bundle_probes(target: CertificateTarget) -> tuple[tuple[Probe, BundleProbe], ...]:
    """Return the probes of *target* that can prove a bundle by an answer, twice typed."""
    found: list[tuple[Probe, BundleProbe]] = []
    for probe in target.probes:
        power: object = probe
        if _is_bundle_probe(power):
            found.append((probe, power))
    return tuple(found)


def _is_bundle_probe(probe: object) -> TypeGuard[BundleProbe]:
    """Return whether *probe* has the optional power, and knows whom to present itself as."""
    return callable(getattr(probe, "admits", None)) and bool(getattr(probe, "presents", None))


def authority_seen(
    *,
    held: HeldAuthorities,
    domain: TrustDomainName,
    observations: Mapping[SubjectName, tuple[CertificateTarget, Observation]],
    issuances: Iterable[Issuance],
    confirmations: Confirmations,
    highest_number: int,
    mounted: AbstractSet[SubjectName] = frozenset(),
) -> AuthoritySeen:
    """
    Put together what the signer holds, what is published, what is in use, and what may still be out there.

    Of certificates that are *mounted*, somebody whom nobody sees may still hold a bundle without the newest authority.
    """
    by_id = {generation.authority.id: generation.authority for generation in held.generations}
    live = [each for each in issuances if each.trust_domain == domain and each.kind is IssuanceKind.LEAF]
    signer_of = {each.serial: each.signer for each in live if each.serial is not None}
    active_number = max((each.number for each in held.generations if each.authority.id == held.active), default=0)
    newer = frozenset(each.authority.id for each in held.generations if each.number > active_number)
    of_subject: dict[SubjectName, list[Issuance]] = {}
    for order in live:
        of_subject.setdefault(order.subject, []).append(order)
    parties = tuple(
        _party(target, seen, domain, by_id, of_subject.get(target.name, ()), signer_of, newer, confirmations)
        for target, seen in observations.values()
    )
    parties = tuple(
        replace(each, acknowledged=each.acknowledged - newer) if each.name in mounted else each for each in parties
    )
    stray_until: dict[IssuerId, datetime] = {}
    for order in live:
        if order.signer is not None and order.not_after is not None:
            stray_until[order.signer] = max(stray_until.get(order.signer, order.not_after), order.not_after)
    return AuthoritySeen(
        generations=held.generations,
        active=held.active,
        parties=parties,
        highest_number=max(highest_number, *(each.number for each in held.generations), 0),
        stray_until=stray_until,
    )


def _party(
    target: CertificateTarget,
    seen: Observation,
    domain: TrustDomainName,
    by_id: Mapping[IssuerId, Authority],
    orders: Iterable[Issuance],
    signer_of: Mapping[Serial, IssuerId | None],
    newer: frozenset[IssuerId],
    confirmations: Confirmations,
) -> RelyingParty:
    """Return one consumer as *domain* sees it; *orders* are its own live ones there."""
    publications = [each for each in seen.publications if each is not None]
    published: frozenset[IssuerId] | None = None
    if publications and len(publications) == len(seen.publications):
        sets = [frozenset(authority.id for authority in each.bundle) for each in publications]
        published = frozenset.intersection(*sets) & frozenset(by_id)
    publication = newest(seen)
    own = target.certificate.trust_domain == domain
    leaf = publication.leaf if publication is not None else None
    reachable = all(each.reachable for each in seen.served) and all(each.running for each in seen.members)
    acknowledged = _acknowledged(target, seen, published or frozenset(), by_id)
    for probe, _ in bundle_probes(target):
        acknowledged -= {each for each in newer if not confirmations.has(target.name, probe.name, each)}
    return RelyingParty(
        name=target.name,
        published=published,
        acknowledged=acknowledged,
        reachable=reachable,
        leaf_issuer=leaf.issuer if own and leaf is not None else None,
        leaf_not_after=leaf.not_after if own and leaf is not None else None,
        served_issuer=_served_issuer(seen, signer_of) if own else None,
        last_leaf_not_after=_last_leaf_not_after(publication, orders, reachable=reachable),
    )


def older_bundle_until(seen: Observation, orders: Iterable[Issuance]) -> datetime | None:
    """
    Return when the last leaf ends that was published beside an older bundle than the present one; None if none was.

    Whoever mounted it and keeps it has no use for its bundle after that: it is of no use itself any more.
    """
    return _last_leaf_not_after(newest(seen), orders, reachable=False)


def _last_leaf_not_after(
    publication: Publication | None, orders: Iterable[Issuance], *, reachable: bool
) -> datetime | None:
    """
    Return when the last leaf ends that the consumer may hold.

    For one that no probe reaches only the leaves count that were published beside an older bundle: whoever loads the
    present publication has the present bundle with it, so a renewal must not keep a dead consumer alive for ever.
    """
    since = publication.bundle_published_at if publication is not None and not reachable else None
    ends = [
        order.not_after
        for order in orders
        if order.state is IssuanceState.PUBLISHED
        and order.not_after is not None
        and (since is None or order.asked_at < since)
    ]
    if publication is not None and publication.leaf is not None:
        first = publication.leaf_published_at
        if since is None or first is None or first < since:
            ends.append(publication.leaf.not_after)
    return max(ends, default=None)


def _acknowledged(
    target: CertificateTarget,
    seen: Observation,
    published: frozenset[IssuerId],
    by_id: Mapping[IssuerId, Authority],
) -> frozenset[IssuerId]:
    """Return the authorities that the consumer has been seen to trust."""
    views = [each.bundle for each in seen.served if each.reachable and each.bundle is not None]
    if views:
        return frozenset(
            issuer for issuer, authority in by_id.items() if all(authority.serial in view for view in views)
        )
    if any(not each.reachable for each in seen.served):
        return frozenset()
    if seen.members:
        since = stale_before(seen)
        return published if all(_is_fresh(member, since) for member in seen.members) else frozenset()
    # The publication's own read-back is all that this consumer offers.
    return published if target.stores else frozenset()


def _served_issuer(seen: Observation, signer_of: Mapping[Serial, IssuerId | None]) -> IssuerId | None:
    """Return who signed the leaf in use: the published one's signer once proven, else the one a probe still sees."""
    publication = newest(seen)
    if publication is not None and publication.leaf is not None and leaf_proof(seen).proven:
        return publication.leaf.issuer
    for served in seen.served:
        if served.serial is not None and publication is not None and publication.leaf is not None:
            if served.serial == publication.leaf.serial:
                continue
            return signer_of.get(served.serial)
    return None
