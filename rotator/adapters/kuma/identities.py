"""
The MeshIdentities and MeshTrusts of one mesh, read as generations.

Rules that must stay true here:

- Read only, and pure but for the secrets of a MeshIdentity that rotator did not make.
- Kuma takes, of the identities that select a proxy, the one with most labels, then the one whose name sorts first,
  ready or not.
- A generation is whole once its MeshIdentity is there: secrets without one are left over from a crash.
- Somebody's MeshIdentity counts as generation 0 only while none of rotator's has taken its place: later it is
  somebody else's hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509

from rotator.adapters.kuma import guards
from rotator.adapters.kuma.about import FIRST_WITHOUT_MTLS
from rotator.adapters.kuma.control_plane import ControlPlane, Document, Kind
from rotator.adapters.kuma.generations import (
    ADOPTED,
    Kept,
    Shelf,
    anchors_above,
    by_sha256,
    chain_of,
    shelf_of,
)
from rotator.adapters.kuma.mesh import (
    Source,
    bundled_of,
    has_exclusive_services,
    mtls_of,
    readiness_of,
    selected_by,
    trust_domain_of,
    trusted_by,
)
from rotator.adapters.kuma.naming import identity_number, trust_name
from rotator.core.model import TrustDomainName
from rotator.errors import Rejected
from rotator.pki.certificates import parse_certificates, sha256_of, subject_key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The mesh as it was read."""

    plane: ControlPlane
    has_mtls: bool
    """``Mesh.mtls`` is on beside whatever MeshIdentities there are, and means something."""
    shelf: Shelf
    identities: Mapping[int, Document]
    """Rotator's own, by generation; generation 0's under 0."""
    others: tuple[Document, ...]
    """MeshIdentities that rotator did not make, generation 0's among them."""
    trust: Document | None
    """Rotator's own MeshTrust."""
    other_trusts: tuple[Document, ...]
    """Further ones of the same trust domain."""
    bundle: tuple[x509.Certificate, ...]
    """What proxies are told to trust for the domain, over all MeshTrusts."""
    ancestor: Kept | None
    winner: Document | None
    """Who signs for every proxy, ready or not."""
    active: Kept | None
    problems: tuple[str, ...]

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Return every generation that is held, ascending by number."""
        whole = (each for each in self.shelf.own if each.number in self.identities)
        return (*(() if self.ancestor is None else (self.ancestor,)), *whole)

    @property
    def unfinished(self) -> tuple[Kept, ...]:
        """Return generations whose MeshIdentity was never made, or is gone."""
        return tuple(each for each in self.shelf.own if each.number not in self.identities)

    def trusted(self, kept: Kept) -> bool:
        """Return whether *kept* stands in the bundle."""
        return any(sha256_of(each) == kept.authority.sha256 for each in self.bundle)

    @property
    def has_trust(self) -> bool:
        """Return whether any MeshTrust of the domain is there."""
        return self.trust is not None or bool(self.other_trusts)


def sight_of(plane: ControlPlane, trust_domain: TrustDomainName, longest_leaf: timedelta) -> Sight:
    """Return what is there now, with everything that speaks against touching it."""
    mesh = plane.documents.read(Kind.MESH, plane.mesh)
    if mesh is None:
        raise Rejected(f"the control plane has no mesh {plane.mesh}")
    shelf = shelf_of(plane.secrets.held(), trust_domain)
    said: list[str | None] = [
        guards.identity_is_too_young(plane.about),
        guards.services_are_not_exclusive(plane.about, exclusive=has_exclusive_services(mesh.spec)),
        guards.global_shows_no_readiness(plane.about),
        *shelf.problems,
    ]
    every = plane.documents.listed(Kind.IDENTITY)
    identities: dict[int, Document] = {}
    for each in every:
        number = identity_number(plane.mesh, each.name)
        if number is not None:
            identities[number] = each
    others = tuple(each for each in every if identity_number(plane.mesh, each.name) is None)
    trusts = [each for each in plane.documents.listed(Kind.TRUST) if trust_domain_of(each.spec) == trust_domain]
    trust = next((each for each in trusts if each.name == trust_name(plane.mesh)), None)
    other_trusts = tuple(each for each in trusts if each is not trust)
    bundle: tuple[x509.Certificate, ...] = ()
    try:
        bundle = tuple(each for document in trusts for each in certificates_in(document))
    except Rejected as e:
        said.append(f"{e}: mend that MeshTrust")
    winner = winner_of(every)
    said.append(guards.another_identity_wins(others))
    ancestor, problem = _ancestor(plane, shelf, identities, others, winner, bundle, other_trusts)
    said.append(problem)
    if ancestor is not None:
        identities[ADOPTED] = next(each for each in others if each.name == ancestor.identity)
    kept = (
        *(() if ancestor is None else (ancestor,)),
        *(each for each in shelf.own if each.number in identities),
    )
    active: Kept | None = None
    if winner is not None:
        active = next((each for each in kept if identities[each.number].name == winner.name), None)
        said += _winner_problems(plane, winner, active, longest_leaf)
        if readiness_of(winner.status).ready is False:
            active = None
    said += _trust_problems(trust, other_trusts, kept, ancestor)
    said += [guards.somebody_else_manages(each) for each in (trust, *identities.values())]
    said.append(guards.cas_share_a_name(guards.live(kept)))
    return Sight(
        plane=plane,
        has_mtls=plane.about.version < FIRST_WITHOUT_MTLS and mtls_of(mesh.spec) is not None,
        shelf=shelf,
        identities=identities,
        others=others,
        trust=trust,
        other_trusts=other_trusts,
        bundle=bundle,
        ancestor=ancestor,
        winner=winner,
        active=active,
        problems=tuple(dict.fromkeys(each for each in said if each is not None)),
    )


def winner_of(identities: Iterable[Document]) -> Document | None:
    """Return the MeshIdentity that signs for a proxy without any label, None if none selects everybody."""
    everybody = (each for each in identities if selected_by(each.spec) == {})
    return min(everybody, key=lambda each: each.name, default=None)


def certificates_in(trust: Document) -> tuple[x509.Certificate, ...]:
    """Return every certificate of a MeshTrust. Raises `Rejected` if one cannot be read."""
    source = f"MeshTrust {trust.name}"
    return tuple(each for pem in trusted_by(trust.spec) for each in parse_certificates(pem, source=source))


def _winner_problems(
    plane: ControlPlane, winner: Document, active: Kept | None, longest_leaf: timedelta
) -> list[str | None]:
    bundled = bundled_of(winner)
    if active is None or bundled is None:
        return []
    return [
        guards.identity_is_not_ready(winner, readiness_of(winner.status)),
        guards.identity_leaf_lives_too_long(winner, bundled, plane.about, longest_leaf),
    ]


def _trust_problems(
    trust: Document | None, others: Iterable[Document], kept: Iterable[Kept], ancestor: Kept | None
) -> list[str | None]:
    """Return what stands in the MeshTrusts of the domain that rotator does not know."""
    own = tuple(kept)
    known = [*by_sha256(own), *map(sha256_of, anchors_above(own))]
    said: list[str | None] = []
    if trust is not None:
        said.append(_strangers(trust, known))
    theirs = [] if ancestor is None else [ancestor.authority.sha256, *map(sha256_of, ancestor.above)]
    said += [_strangers(each, theirs) for each in others]
    return said


def _strangers(trust: Document, known: Iterable[str]) -> str | None:
    try:
        return guards.strangers_in_bundle(certificates_in(trust), known, f"MeshTrust {trust.name}")
    except Rejected:
        return None  # said already


def _ancestor(
    plane: ControlPlane,
    shelf: Shelf,
    identities: Mapping[int, Document],
    others: tuple[Document, ...],
    winner: Document | None,
    bundle: tuple[x509.Certificate, ...],
    other_trusts: tuple[Document, ...],
) -> tuple[Kept | None, str | None]:
    """Return generation 0 while the mesh runs on it or trusts it, and what speaks against touching it."""
    noted = shelf.numbered(ADOPTED)
    if noted is not None and any(each.name == noted.identity for each in others):
        signs = winner is not None and winner.name == noted.identity
        is_trusted = any(sha256_of(each) == noted.authority.sha256 for each in bundle)
        return (noted if signs or is_trusted else None), None
    if winner is None or winner not in others:
        return None, None
    if identities or noted is not None:
        return None, guards.unknown_identity_signs(winner)
    bundled = bundled_of(winner)
    if bundled is None:
        return (
            None,
            f"MeshIdentity {winner.name} does not sign by a bundled CA, which rotator cannot take over: remove it",
        )
    where = f"MeshIdentity {winner.name}"
    try:
        certificates = _certificates(plane, bundled.certificate, where)
    except Rejected as e:
        return None, f"the CA of {where} cannot be read: {e}"
    first = certificates[0]
    if not subject_key_id(first):
        return None, guards.ca_without_key_id(first, where)
    above = chain_of(certificates)
    if above is None:
        return None, guards.strangers_in_bundle(certificates, [sha256_of(first)], where)
    if not any(sha256_of(each) == sha256_of(first) for each in bundle):
        return None, (
            f"no MeshTrust of the configured trust domain holds the CA of {where}: configure the trust domain that it "
            "uses; changing CA and trust domain at once is not seamless"
        )
    extra = [each for document in other_trusts for each in certificates_in(document)]
    kept = Kept(
        number=ADOPTED,
        certificate=first,
        above=above,
        certificate_secret=bundled.certificate.secret or where,
        key_secret=bundled.key.secret or where,
        identity=winner.name,
    )
    accepted = [sha256_of(first), *map(sha256_of, above)]
    return kept, guards.strangers_in_bundle(extra, accepted, "a MeshTrust of the trust domain")


def _certificates(plane: ControlPlane, source: Source, where: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates that *source* holds."""
    value = source.inline
    if value is None and source.secret:
        value = plane.secrets.read(source.secret)
    if value is None:
        raise Rejected(f"it is {source.elsewhere or f'secret {source.secret}, which is not there'}")
    return parse_certificates(value, source=where)
