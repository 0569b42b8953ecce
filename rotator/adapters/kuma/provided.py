"""
A mesh whose CA is provided to ``Mesh.mtls`` (Kuma 2.x).

The enabled backend refers to one secret with certificates and one with a key. The first certificate signs, all of them
are trusted. So the bundle and who signs are both moved by one write of the Mesh, and proxies get new leaves and the new
bundle whenever that part of the Mesh changes, never when the content of a secret does.

Rules that must stay true here:

- No secret that the Mesh refers to ever changes its content: every bundle has a secret of its own (law 9), which is
  there for longer than the control plane's caches last before the Mesh refers to it.
- Certificate and key move in one write; everything else in the Mesh stays as it was read.
- Only held generations stand in a bundle, the active one first (law 6). A generation that is still in the bundle is
  taken out of it before it is removed (law 2).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509

from rotator.adapters.kuma import guards
from rotator.adapters.kuma.adoption import of_backend, of_plaintext_mtls
from rotator.adapters.kuma.control_plane import ControlPlane, Document, Environment, Kind, Mode
from rotator.adapters.kuma.generations import (
    ADOPTED,
    Kept,
    Shelf,
    by_sha256,
    forget,
    ids_in,
    make_generation,
    note_adopted,
    shelf_of,
)
from rotator.adapters.kuma.mesh import Mtls, mtls_of, pointing_at, switched_on
from rotator.adapters.kuma.naming import bundle_purpose
from rotator.adapters.kuma.proofs import Proofs
from rotator.adapters.kuma.references import ancestor_of, certificates_at, references_problems, sources_of
from rotator.adapters.kuma.revocations import Revocations
from rotator.adapters.kuma.sync import PLAIN_TRUST, parties
from rotator.core.model import Authority, Generation, Serial, TrustDomainName
from rotator.errors import Conflict, Rejected
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

_BACKEND = "rotator"
"""The backend that is made where there is none."""

_SETTLES: Final = {Mode.ZONE: timedelta(seconds=2), Mode.GLOBAL: timedelta(seconds=5)}
"""
How long a new secret is left alone before the Mesh refers to it, and one that it let go of before it is removed: a
control plane's caches (1 s), and its zones, which get secrets and meshes each by itself (1 s either way). One that
finds a Mesh without its secrets backs off, for minutes at worst.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """The mesh as it was read."""

    plane: ControlPlane
    mesh: Document
    mtls: Mtls | None
    shelf: Shelf
    bundle: tuple[x509.Certificate, ...]
    """What the mesh trusts now, the signer first."""
    ancestor: Kept | None
    """Generation 0, while it signs or is trusted."""
    inline_key: bytes | None
    active: Kept | None
    refusals: tuple[str, ...]

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Return every generation that is held, ascending by number."""
        return (*(() if self.ancestor is None else (self.ancestor,)), *self.shelf.own)

    def trusted(self, kept: Kept) -> bool:
        """Return whether *kept* stands in the bundle."""
        return any(sha256_of(each) == kept.authority.sha256 for each in self.bundle)


class ProvidedMesh:
    """One mesh of the provided model (`Authorities`, `ParentRevocation` and `Mesh`)."""

    def __init__(
        self,
        plane: Callable[[], ControlPlane],
        signer: AuthoritySigner,
        clock: Clock,
        trust_domain: TrustDomainName,
        longest_leaf: timedelta,
        skew: timedelta,
        accept_shared_root: str | None = None,  # noqa: ARG002 -- both models are made alike; no root stands in this one
        identity_path: str | None = None,  # noqa: ARG002 -- both models are made alike; Kuma names these identities
    ) -> None:
        """Lead the mesh of *plane*."""
        self._plane = plane
        self._signer = signer
        self._clock = clock
        self._trust_domain = trust_domain
        self._longest_leaf = longest_leaf
        self._skew = skew
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
            views = self._proofs.views(
                sight.plane.proxies,
                reports,
                token=(sight.mesh.revision, tuple(map(sha256_of, sight.bundle)), held.active),
                wanted=frozenset(map(sha256_of, sight.bundle)),
                signer=held.active,
                domain=PLAIN_TRUST,
            )
        seen = parties(
            mesh=sight.plane.mesh,
            domain=PLAIN_TRUST,
            reports=reports,
            views=views,
            held=held.generations,
            active=held.active,
            given=None if sight.mtls is None else ids_in(sight.bundle, sight.kept),
            longest_leaf=self._longest_leaf,
            now=self._clock.now(),
        )
        return MeshView(
            held=held,
            parties=seen.parties,
            stray_until=seen.stray_until,
            vanished_are_gone=sight.plane.about.environment is Environment.KUBERNETES,
            refusals=sight.refusals,
            warnings=self._warnings(sight),
            adoption=self._adoption(sight),
        )

    def _held(self, sight: _Sight) -> HeldAuthorities:
        generations = tuple(self._generation(each) for each in sight.kept)
        return HeldAuthorities(
            generations=generations,
            active=None if sight.active is None else sight.active.authority.id,
            certificates_pem={each.authority.id: each.pem for each in sight.kept},
        )

    def _generation(self, kept: Kept) -> Generation:
        revoked = kept.number != ADOPTED and self._revocations.has(kept.authority.serial)
        return kept.generation(reference=kept.certificate_secret or _BACKEND, revoked=revoked)

    def _warnings(self, sight: _Sight) -> tuple[str, ...]:
        found = []
        if sight.mtls is not None and sight.mtls.enabled.mode == "PERMISSIVE":
            found.append("the mesh admits plaintext: mode PERMISSIVE")
        if sight.plane.mesh != self._trust_domain:
            found.append(
                f"leaves of this model are called spiffe://{sight.plane.mesh}/…, the trust domain is configured as "
                f"{self._trust_domain}"
            )
        return tuple(found)

    def _adoption(self, sight: _Sight) -> Adoption | None:
        if sight.mtls is None:
            return of_plaintext_mtls(self._longest_leaf)
        if sight.active is None or sight.active.number != ADOPTED:
            return None
        return of_backend(sight.plane.mesh, sight.mtls.enabled)

    # --- reading ----------------------------------------------------------------------------------------------------

    def _sight(self) -> _Sight:
        """Return what is there now. Raises `Rejected` if there is no such mesh."""
        plane = self._plane()
        mesh = plane.documents.read(Kind.MESH, plane.mesh)
        if mesh is None:
            raise Rejected(f"the control plane has no mesh {plane.mesh}")
        shelf = shelf_of(plane.secrets.held(), self._trust_domain)
        said = [
            guards.mtls_is_inert(plane.about),
            guards.zone_cannot_write(plane.about),
            guards.somebody_else_manages(mesh),
            *shelf.problems,
        ]
        mtls = mtls_of(mesh.spec)
        bundle: tuple[x509.Certificate, ...] = ()
        ancestor = active = inline_key = None
        if mtls is not None:
            said += [
                guards.validation_is_off(mtls),
                guards.more_than_one_backend(mtls),
                guards.backend_of_another_type(mtls),
                guards.mtls_leaf_lives_too_long(mtls, self._longest_leaf),
            ]
            certificate, key = sources_of(plane.mesh, mtls)
            try:
                bundle = certificates_at(plane, shelf, certificate)
                before = ancestor_of(plane, shelf, bundle, certificate, key)
                ancestor, inline_key = before.kept, before.inline_key
                known = (*(() if ancestor is None else (ancestor,)), *shelf.own)
                active = by_sha256(known).get(sha256_of(bundle[0]))
                said.append(before.problem)
                if active is not None:
                    said += references_problems(shelf, active, known, bundle, mtls)
            except Rejected as e:
                said.append(f"the CA of backend {mtls.enabled.name} cannot be read: {e}")
        kept = (*(() if ancestor is None else (ancestor,)), *shelf.own)
        said.append(guards.cas_share_a_name(guards.live(kept)))
        return _Sight(
            plane=plane,
            mesh=mesh,
            mtls=mtls,
            shelf=shelf,
            bundle=bundle,
            ancestor=ancestor,
            inline_key=inline_key,
            active=active,
            refusals=tuple(dict.fromkeys(each for each in said if each is not None)),
        )

    # --- making and removing ----------------------------------------------------------------------------------------

    def prepare(self, order: AuthorityOrder) -> PreparedAuthority:
        """
        Make generation ``order.number``; return it as it is if it is there already.

        Raises:
            Conflict: If the number is there and cannot sign, or the mesh may not be touched now.
            InvariantBroken: If the corporate issuer may not sign it (laws 4 and 6); nothing was changed.
            Rejected: If it came back wrong; a certificate that was signed shows in `strays`.
        """
        sight = self._untroubled()
        found = sight.shelf.numbered(order.number)
        if found is not None:
            generation = self._generation(found)
            if not generation.can_sign or generation.authority.not_after <= self._clock.now():
                raise Conflict(f"generation {order.number} of {self._trust_domain} is there already and cannot sign")
            return PreparedAuthority(generation=generation, request_id=None)
        secrets = sight.plane.secrets
        self._tidy(sight)
        if sight.ancestor is not None and sight.shelf.numbered(ADOPTED) is None:
            note_adopted(secrets, sight.ancestor, inline_key=sight.inline_key)
        kept, request_id = make_generation(order, secrets, self._signer, guards.live(sight.kept), chain=False)
        return PreparedAuthority(generation=self._generation(kept), request_id=request_id)

    def _tidy(self, sight: _Sight) -> None:
        """Remove what earlier tries left behind: keys without certificate, bundles and notes that nobody needs."""
        secrets, used = sight.plane.secrets, self._referred_to(sight)
        for name in (*sight.shelf.unfinished, *sight.shelf.bundles):
            if name not in used:
                secrets.remove(name)
        noted = sight.shelf.numbered(ADOPTED)
        if noted is not None and sight.ancestor is None:
            forget(secrets, sight.shelf, noted)

    def retire(self, generation: Generation, *, revoke: bool) -> str | None:
        """
        Take *generation* out of the bundle, have it revoked if asked, and remove its secrets.

        A CA that rotator did not make keeps its own secrets, and cannot be revoked.
        """
        sight = self._untroubled()
        kept = _same(sight.kept, generation)
        if kept is not None and sight.active is kept:
            raise Conflict(f"generation {generation.number} of {self._trust_domain} is the active one")
        if kept is not None and sight.trusted(kept):
            rest = [each for each in sight.kept if each is not kept and sight.trusted(each)]
            self._point(sight, sight.active, rest)
        revoked = revoke and generation.number != ADOPTED
        request_id = self._revocations.revoke(generation.authority.serial) if revoked else None
        # The Mesh may have let go of its secrets a moment ago.
        self._settle(sight.plane)
        sight = self._untroubled()
        kept = _same(sight.kept, generation)
        if kept is not None and sight.trusted(kept):
            raise Conflict(f"generation {generation.number} of {self._trust_domain} was put back meanwhile")
        if kept is not None:
            forget(sight.plane.secrets, sight.shelf, kept)
        self._tidy(sight)
        return request_id

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        return self._signer.strays(known)

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial* at the corporate PKI; return the request id."""
        return self._revocations.revoke(serial)

    # --- moving -----------------------------------------------------------------------------------------------------

    def publish(self, bundle: tuple[Authority, ...]) -> str | None:
        """Let the mesh trust *bundle*, without moving who signs; return the Mesh's revision."""
        sight = self._untroubled()
        active = sight.active
        if active is None:
            raise Rejected(f"mesh {sight.plane.mesh} has no CA yet: there is no bundle to change")
        wanted = [_held_as(sight.kept, each) for each in bundle]
        if active not in wanted:
            raise Rejected(f"a bundle without generation {active.number}, which signs, would break every connection")
        return self._point(sight, active, wanted)

    def activate(self, generation: Generation) -> str | None:
        """
        Let *generation* sign, with everything trusted that was; return the Mesh's revision.

        Raises:
            Rejected: If it is not held or cannot sign.
        """
        sight = self._untroubled()
        kept = _same(sight.kept, generation)
        if kept is None or not self._generation(kept).can_sign:
            raise Rejected(f"generation {generation.number} of {self._trust_domain} cannot sign")
        return self._point(sight, kept, [each for each in sight.kept if sight.trusted(each)])

    def _point(self, sight: _Sight, signer: Kept | None, trusted: Iterable[Kept]) -> str:
        """Point the Mesh at *signer* and, behind it, *trusted*, newest first; one write, read back."""
        if signer is None:
            raise Rejected(f"nobody signs in mesh {sight.plane.mesh}")
        secrets = sight.plane.secrets
        others = sorted((each for each in trusted if each is not signer), key=lambda each: each.number, reverse=True)
        certificate = signer.certificate_secret
        pem = encode([each.certificate for each in (signer, *others)])
        if others or signer.number == ADOPTED:
            # What rotator did not make may change under it: a bundle of its own holds generation 0 too.
            certificate = secrets.create(bundle_purpose(pem), pem)
            if certificate not in sight.shelf.values:
                self._settle(sight.plane)
        key = signer.key_secret
        if sight.mtls is None:
            spec = switched_on(
                sight.mesh.spec, name=_BACKEND, certificate=certificate, key=key, longest_leaf=self._longest_leaf
            )
        else:
            enabled = sight.mtls.enabled
            if (enabled.type, enabled.certificate.secret, enabled.key.secret) == ("provided", certificate, key):
                return sight.mesh.revision
            spec = pointing_at(sight.mesh.spec, certificate=certificate, key=key)
        written = sight.plane.documents.write(sight.mesh.with_spec(spec))
        now = mtls_of(written.spec)
        if now is None or (now.enabled.certificate.secret, now.enabled.key.secret) != (certificate, key):
            raise Conflict(f"mesh {sight.plane.mesh} does not refer to the secrets that were written")
        return written.revision

    def _settle(self, plane: ControlPlane) -> None:
        """Return once every cache has let go of what was there before."""
        self._clock.wait(threading.Event(), _SETTLES[plane.about.mode])

    @staticmethod
    def _referred_to(sight: _Sight) -> frozenset[str]:
        """Return the names of the secrets that the Mesh refers to."""
        if sight.mtls is None:
            return frozenset()
        return frozenset(each.secret for each in sources_of(sight.plane.mesh, sight.mtls))

    def _untroubled(self) -> _Sight:
        """Return what is there now. Raises `Conflict` if it may not be touched."""
        sight = self._sight()
        if sight.refusals:
            raise Conflict(f"mesh {sight.plane.mesh} may not be changed now: {sight.refusals[0]}")
        return sight


def _same(kept: Iterable[Kept], generation: Generation) -> Kept | None:
    """Return *generation* as it is kept, None if it is not."""
    return by_sha256(kept).get(generation.authority.sha256)


def _held_as(kept: Iterable[Kept], authority: Authority) -> Kept:
    """Return *authority* as it is kept. Raises `Rejected` if it is not: nothing else belongs into a bundle."""
    found = by_sha256(kept).get(authority.sha256)
    if found is None:
        raise Rejected(f"{authority.subject} is no generation of this mesh and does not belong into its bundle")
    return found
