"""
One mesh, by whichever of Kuma's two models it is led.

Rules that must stay true here:

- Nothing is called before the first look. Once the model is known it stays for the life of this object: a mesh that
  changes its model under a rotation meets the guards of the one it was in.
- A configured model is never second-guessed; what the control plane cannot do of it is a guard's refusal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from rotator.adapters.kuma.about import FIRST_WITHOUT_MTLS, Model, model_used
from rotator.adapters.kuma.control_plane import ControlPlane, Kind
from rotator.adapters.kuma.identity import IdentityMesh
from rotator.adapters.kuma.provided import ProvidedMesh
from rotator.core.model import Authority, Generation, Serial, TrustDomainName
from rotator.ports import (
    AuthorityOrder,
    AuthoritySigner,
    Clock,
    HeldAuthorities,
    IssuedCertificate,
    MeshView,
    PreparedAuthority,
)


class KumaMesh:
    """One mesh of either model (`Authorities`, `ParentRevocation` and `Mesh`)."""

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
        model: Model | None = None,
    ) -> None:
        """Lead the mesh of *plane* by *model*; None: by the one that it uses at the first look."""
        self._plane = plane
        self._signer = signer
        self._clock = clock
        self._trust_domain = trust_domain
        self._longest_leaf = longest_leaf
        self._skew = skew
        self._accept_shared_root = accept_shared_root
        self._identity_path = identity_path
        self._wanted = model
        self._lock = threading.Lock()
        self._mesh: ProvidedMesh | IdentityMesh | None = None

    @property
    def model(self) -> Model:
        """Return the model, asking the control plane if nobody said it and nobody has asked yet."""
        return Model.PROVIDED if isinstance(self._led(), ProvidedMesh) else Model.IDENTITY

    def observe(self) -> HeldAuthorities:
        """Return the generations that the mesh's secrets hold, and which of them signs."""
        return self._led().observe()

    def look(self, *, proofs: bool) -> MeshView:
        """Return what the control plane shows now."""
        return self._led().look(proofs=proofs)

    def prepare(self, order: AuthorityOrder) -> PreparedAuthority:
        """Make one generation."""
        return self._led().prepare(order)

    def publish(self, bundle: tuple[Authority, ...]) -> str | None:
        """Let the mesh trust *bundle*; return the control plane's revision."""
        return self._led().publish(bundle)

    def activate(self, generation: Generation) -> str | None:
        """Let *generation* sign; return the control plane's revision."""
        return self._led().activate(generation)

    def retire(self, generation: Generation, *, revoke: bool) -> str | None:
        """Remove *generation* and its key, after revoking it if asked."""
        return self._led().retire(generation, revoke=revoke)

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        # Of the corporate PKI, which can be asked while no control plane answers.
        return self._signer.strays(known)

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial* at the corporate PKI; return the request id."""
        with self._lock:
            mesh = self._mesh
        return self._signer.revoke_authority(serial) if mesh is None else mesh.revoke_authority(serial)

    def _led(self) -> ProvidedMesh | IdentityMesh:
        """Return the mesh by its model, chosen once."""
        with self._lock:
            if self._mesh is None:
                kind = IdentityMesh if self._chosen() is Model.IDENTITY else ProvidedMesh
                self._mesh = kind(
                    self._plane,
                    self._signer,
                    self._clock,
                    self._trust_domain,
                    self._longest_leaf,
                    self._skew,
                    self._accept_shared_root,
                    self._identity_path,
                )
            return self._mesh

    def _chosen(self) -> Model:
        """Return the model to lead the mesh by."""
        if self._wanted is not None:
            return self._wanted
        plane = self._plane()
        used = model_used(
            plane.about,
            plane.documents.read(Kind.MESH, plane.mesh),
            plane.documents.listed(Kind.IDENTITY),
        )
        if used is not Model.NONE:
            return used
        # Nothing to go by: what the version is made for.
        return Model.IDENTITY if plane.about.version >= FIRST_WITHOUT_MTLS else Model.PROVIDED
