"""
A mesh whose proxies get their identity from MeshIdentity and their trust from MeshTrust (Kuma 2.13 and later).

Every generation has a MeshIdentity of its own, made without selecting anybody; who signs is moved by letting it select
everybody, which wins by its name. What is trusted stands in one MeshTrust of rotator's own.

Rules that must stay true here:

- A MeshIdentity selects nobody until the control plane calls it ready: proxies that one selects which is not ready
  lose their identity. Its secrets never change while it is there (law 9).
- Its CA is trusted before it selects anybody (law 1), with every certificate above it up to the mesh's own root: leaves
  are sent without a chain (law 6).
- ``meshTrustCreation`` is disabled, so that nothing that is pruned is appended again.
- Who signs moves by one write; where it takes two, the first changes nothing for the proxies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

from cryptography import x509

from rotator.adapters.kuma import guards
from rotator.adapters.kuma.adoption import of_identity, of_plaintext_identity
from rotator.adapters.kuma.control_plane import ControlPlane, Document, Environment, Kind
from rotator.adapters.kuma.generations import (
    ADOPTED,
    Kept,
    anchors_above,
    by_sha256,
    forget,
    ids_in,
    make_generation,
    note_adopted,
)
from rotator.adapters.kuma.identities import Sight, certificates_in, sight_of, winner_of
from rotator.adapters.kuma.mesh import (
    bundled_of,
    identity_spec,
    path_of,
    readiness_of,
    selected_by,
    selecting,
    trusting,
    without_trust,
)
from rotator.adapters.kuma.naming import identity_name, trust_name
from rotator.adapters.kuma.proofs import Proofs
from rotator.adapters.kuma.revocations import Revocations
from rotator.adapters.kuma.sync import parties
from rotator.core.model import Authority, Generation, Serial, TrustDomainName
from rotator.errors import Conflict, InvariantBroken, Rejected, Unavailable
from rotator.pki.bundle import encode
from rotator.pki.certificates import sha256_of
from rotator.ports import (
    Adoption,
    AuthorityOrder,
    AuthoritySigner,
    Clock,
    HeldAuthorities,
    IssuedCertificate,
    MeshView,
    PreparedAuthority,
)


class IdentityMesh:
    """One mesh of the identity model (`Authorities`, `ParentRevocation` and `Mesh`)."""

    def __init__(
        self,
        plane: Callable[[], ControlPlane],
        signer: AuthoritySigner,
        clock: Clock,
        trust_domain: TrustDomainName,
        longest_leaf: timedelta,
        skew: timedelta,
        accept_shared_root: str | None = None,
        identity_path: str | None = None,
    ) -> None:
        """
        Lead the mesh of *plane*.

        *accept_shared_root* says in a person's words why a root that is not the mesh's own may stand in its bundle;
        *identity_path* is the template of SPIFFE paths, None for that of the identity before, or Kuma's default.
        """
        self._plane = plane
        self._signer = signer
        self._clock = clock
        self._trust_domain = trust_domain
        self._longest_leaf = longest_leaf
        self._skew = skew
        self._accept_shared_root = accept_shared_root
        self._path = identity_path
        self._revocations = Revocations(signer, clock)
        self._proofs = Proofs()

    # --- seeing -----------------------------------------------------------------------------------------------------

    def observe(self) -> HeldAuthorities:
        """Return the generations that the mesh's secrets hold, and which of them signs."""
        return self._held(self._sight())

    def look(self, *, proofs: bool) -> MeshView:
        """Return what the control plane shows now; with *proofs* what every proxy in contact trusts and serves."""
        sight = self._sight()
        held = self._held(sight)
        reports = sight.plane.proxies.reports()
        views = None
        if proofs:
            trusts = (each for each in (sight.trust, *sight.other_trusts) if each is not None)
            identities = sight.plane.mesh, tuple(sorted(each.name for each in sight.identities.values()))
            views = self._proofs.views(
                sight.plane.proxies,
                reports,
                token=(tuple((each.name, each.revision) for each in trusts), identities, held.active),
                wanted=frozenset(map(sha256_of, sight.bundle)),
                signer=held.active,
                domain=self._trust_domain,
            )
        seen = parties(
            mesh=sight.plane.mesh,
            domain=self._trust_domain,
            reports=reports,
            views=views,
            held=held.generations,
            active=held.active,
            given=ids_in(sight.bundle, sight.kept) if sight.has_trust and sight.winner is not None else None,
            longest_leaf=self._longest_leaf,
            now=self._clock.now(),
        )
        return MeshView(
            held=held,
            parties=seen.parties,
            stray_until=seen.stray_until,
            vanished_are_gone=sight.plane.about.environment is Environment.KUBERNETES,
            refusals=sight.problems,
            warnings=self._warnings(sight),
            adoption=self._adoption(sight),
        )

    def _sight(self) -> Sight:
        return sight_of(self._plane(), self._trust_domain, self._longest_leaf)

    def _held(self, sight: Sight) -> HeldAuthorities:
        return HeldAuthorities(
            generations=tuple(self._generation(each, sight.identities[each.number].name) for each in sight.kept),
            active=None if sight.active is None else sight.active.authority.id,
            certificates_pem={each.authority.id: each.pem for each in sight.kept},
        )

    def _generation(self, kept: Kept, identity: str) -> Generation:
        revoked = kept.number != ADOPTED and self._revocations.has(kept.authority.serial)
        return kept.generation(reference=identity, revoked=revoked)

    def _warnings(self, sight: Sight) -> tuple[str, ...]:
        shared = guards.shared_roots(sight.bundle, self._trust_domain)
        found = [
            f"the root {name} in the bundle is not the mesh's own, accepted because: {self._accept_shared_root}"
            for name in shared
            if self._accept_shared_root
        ]
        active = None if sight.active is None else sight.active.number
        for each in sight.kept:
            readiness = readiness_of(sight.identities[each.number].status)
            if each.number != active and readiness.ready is False:
                found.append(
                    f"MeshIdentity {sight.identities[each.number].name} is not ready and cannot be activated: "
                    f"{readiness.why_not}"
                )
        return tuple(found)

    def _adoption(self, sight: Sight) -> Adoption | None:
        if sight.winner is None:
            return of_plaintext_identity(sight.plane.about, self._longest_leaf, has_mtls=sight.has_mtls)
        if sight.winner not in sight.others:
            return None
        first = identity_name(sight.plane.mesh, 1)
        return of_identity(
            sight.winner.name,
            moves_selector=sight.winner.name < first,
            trusts=tuple(each.name for each in sight.other_trusts),
        )

    # --- making and removing ----------------------------------------------------------------------------------------

    def prepare(self, order: AuthorityOrder) -> PreparedAuthority:
        """
        Make generation ``order.number`` and its MeshIdentity, which selects nobody; return it if it is there already.

        Raises:
            Conflict: If the number is there and cannot sign, or the mesh may not be touched now.
            InvariantBroken: If the corporate issuer may not sign it, or its root is not the mesh's own (laws 4 and 6).
            Rejected: If it came back wrong; a certificate that was signed shows in `strays`.
        """
        sight = self._untroubled()
        name = identity_name(sight.plane.mesh, order.number)
        found = next((each for each in sight.kept if each.number == order.number), None)
        if found is not None:
            generation = self._generation(found, name)
            if not generation.can_sign or generation.authority.not_after <= self._clock.now():
                raise Conflict(f"generation {order.number} of {self._trust_domain} is there already and cannot sign")
            return PreparedAuthority(generation=generation, request_id=None)
        secrets = sight.plane.secrets
        self._tidy(sight)
        if sight.ancestor is not None and sight.shelf.numbered(ADOPTED) is None:
            note_adopted(secrets, sight.ancestor, inline_key=None)
        kept, request_id = make_generation(order, secrets, self._signer, guards.live(sight.kept), chain=True)
        self._check_anchors([kept])
        sight.plane.documents.write(
            Document(
                kind=Kind.IDENTITY,
                name=name,
                spec=identity_spec(
                    certificate=kept.certificate_secret,
                    key=kept.key_secret,
                    trust_domain=self._trust_domain,
                    path=self._path_for(sight),
                    longest_leaf=self._longest_leaf,
                    self_signed=kept.authority.self_signed,
                ),
                labels=_labels(sight.plane),
            )
        )
        return PreparedAuthority(generation=self._generation(kept, name), request_id=request_id)

    def _path_for(self, sight: Sight) -> str | None:
        """Return the path template of the next identity: configured, else as it is now, so that no name changes."""
        if self._path is not None or sight.winner is None:
            return self._path
        return path_of(sight.winner.spec)

    def _tidy(self, sight: Sight) -> None:
        """Remove what earlier tries left behind: keys without certificate, secrets without MeshIdentity."""
        for name in sight.shelf.unfinished:
            sight.plane.secrets.remove(name)
        for each in sight.unfinished:
            forget(sight.plane.secrets, sight.shelf, each)
        noted = sight.shelf.numbered(ADOPTED)
        if noted is not None and sight.ancestor is None:
            for left in (each for each in sight.others if each.name == noted.identity):
                sight.plane.documents.remove(left)
            forget(sight.plane.secrets, sight.shelf, noted)

    def retire(self, generation: Generation, *, revoke: bool) -> str | None:
        """
        Take *generation* out of the bundle, have it revoked if asked, remove its MeshIdentity, then its secrets.

        A CA that rotator did not make keeps the secrets that its people made, and cannot be revoked.
        """
        sight = self._untroubled()
        kept = by_sha256(sight.kept).get(generation.authority.sha256)
        if kept is not None and sight.winner is not None and sight.identities[kept.number].name == sight.winner.name:
            raise Conflict(f"generation {generation.number} of {self._trust_domain} is the active one")
        if kept is not None and sight.trusted(kept):
            self._trust(sight, [each for each in sight.kept if each is not kept and sight.trusted(each)])
        request_id = None
        if revoke and generation.number != ADOPTED:
            request_id = self._revocations.revoke(generation.authority.serial)
        if kept is not None:
            sight.plane.documents.remove(sight.identities[kept.number])
            forget(sight.plane.secrets, sight.shelf, kept)
        return request_id

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        return self._signer.strays(known)

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial* at the corporate PKI; return the request id."""
        return self._revocations.revoke(serial)

    # --- moving -----------------------------------------------------------------------------------------------------

    def publish(self, bundle: tuple[Authority, ...]) -> str | None:
        """
        Let the mesh trust *bundle*, without moving who signs; return the MeshTrust's revision.

        A bundle without generation 0 is the end of it: its MeshIdentity and its MeshTrusts, which would go on adding
        it, are removed.
        """
        sight = self._untroubled()
        known = by_sha256(sight.kept)
        strangers = [each.subject for each in bundle if each.sha256 not in known]
        if strangers:
            raise Rejected(f"{strangers[0]} is no generation of this mesh and does not belong into its bundle")
        wanted = [known[each.sha256] for each in bundle]
        if sight.active is not None and sight.active not in wanted:
            raise Rejected(f"a bundle without generation {sight.active.number}, which signs, would break every call")
        return self._trust(sight, wanted)

    def activate(self, generation: Generation) -> str | None:
        """
        Let *generation* sign for every proxy; return the revision of the MeshIdentity that was written last.

        Raises:
            Unavailable: If the control plane has not called its MeshIdentity ready yet: look again.
            Rejected: If it is not held or cannot sign.
        """
        sight = self._untroubled()
        target = by_sha256(sight.kept).get(generation.authority.sha256)
        if target is None or not self._generation(target, "").can_sign:
            raise Rejected(f"generation {generation.number} of {self._trust_domain} cannot sign")
        document = sight.identities[target.number]
        readiness = readiness_of(document.status)
        if readiness.ready is not True:
            why = readiness.why_not or "the control plane has not looked at it yet"
            raise Unavailable(f"MeshIdentity {document.name} is not ready: {why}")
        if not sight.trusted(target):
            self._trust(sight, [each for each in sight.kept if each is target or sight.trusted(each)])
        revision = document.revision
        documents = sight.plane.documents
        if selected_by(document.spec) != {}:
            revision = documents.write(document.with_spec(selecting(document.spec, everybody=True))).revision
        for other in sight.identities.values():
            # Of those that select everybody the first name wins: whoever stands before steps aside.
            if other.name < document.name and selected_by(other.spec) == {}:
                revision = documents.write(other.with_spec(selecting(other.spec, everybody=False))).revision
        winner = winner_of(documents.listed(Kind.IDENTITY))
        if winner is None or winner.name != document.name:
            raise Conflict(f"MeshIdentity {document.name} selects every proxy and another one wins")
        if target.number != ADOPTED and sight.ancestor is not None:
            # Long before its MeshTrust goes: a control plane that still looks at it would make that anew.
            ancestor = documents.read(Kind.IDENTITY, sight.identities[ADOPTED].name)
            bundled = None if ancestor is None else bundled_of(ancestor)
            if ancestor is not None and bundled is not None and bundled.makes_trust:
                documents.write(ancestor.with_spec(without_trust(ancestor.spec)))
        return revision

    def _trust(self, sight: Sight, wanted: Iterable[Kept]) -> str:
        """Let rotator's own MeshTrust hold *wanted*, newest first, and what stands above them; return its revision."""
        kept = sorted(wanted, key=lambda each: each.number, reverse=True)
        self._check_anchors(kept)
        certificates = (*(each.certificate for each in kept), *anchors_above(kept))
        pems = list(dict.fromkeys(encode([each]) for each in certificates))
        documents, trust = sight.plane.documents, sight.trust
        if trust is None:
            trust = documents.write(
                Document(
                    kind=Kind.TRUST,
                    name=trust_name(sight.plane.mesh),
                    spec=trusting(self._trust_domain, pems),
                    labels=_labels(sight.plane),
                )
            )
        elif _digests(certificates_in(trust)) != _digests(certificates):
            trust = documents.write(trust.with_spec(trusting(self._trust_domain, pems)))
        if _digests(certificates_in(trust)) != _digests(certificates):
            raise Conflict(f"MeshTrust {trust.name} does not hold what was written")
        if sight.ancestor is not None and sight.ancestor not in kept:
            # The identity last: as long as it is there, a crash leaves nothing that nobody knows.
            for each in sight.other_trusts:
                documents.remove(each)
            documents.remove(sight.identities[ADOPTED])
        return trust.revision

    def _check_anchors(self, kept: Iterable[Kept]) -> None:
        """Raise `InvariantBroken` if proxies could not verify leaves of *kept*, or would trust more than the mesh."""
        for each in kept:
            if each.number == ADOPTED:
                # As its people have it: it leaves the bundle soon.
                continue
            top = each.above[-1] if each.above else each.certificate
            if top.subject != top.issuer:
                raise InvariantBroken(
                    6,
                    f"nothing self-signed stands above generation {each.number}: proxies verify up to a root, so the "
                    "corporate PKI has to name the whole chain",
                )
            guards.check_root(top, self._trust_domain, self._accept_shared_root)

    def _untroubled(self) -> Sight:
        """Return what is there now. Raises `Conflict` if it may not be touched."""
        sight = self._sight()
        if sight.problems:
            raise Conflict(f"mesh {sight.plane.mesh} may not be changed now: {sight.problems[0]}")
        return sight


def _labels(plane: ControlPlane) -> dict[str, str]:
    """Return the labels of a new document: a federated zone's have to say that they are the zone's own."""
    return {"kuma.io/origin": "zone"} if plane.about.federated else {}


def _digests(certificates: Iterable[x509.Certificate]) -> frozenset[str]:
    return frozenset(map(sha256_of, certificates))
