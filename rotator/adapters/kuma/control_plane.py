"""
A control plane as both models see it: documents, secrets and proxies, whichever way it is reached.

Rules that must stay true here:

- A secret is created once under a name of its own and never overwritten (law 9); its value never shows in a ``repr``,
  nor does what a document says, which may hold a key too (law 10).
- `Documents.write` carries what was read: a change by somebody else in between is a `Conflict` (law 14). Where the
  other side knows no precondition, the document is read again right before and right after the write.
- Every call has a timeout and raises only the tree of `rotator.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from rotator.core.model import IssuerId, Serial, TrustDomainName


class Kind(StrEnum):
    """Kinds of documents that rotator reads or writes, by Kuma's own names."""

    MESH = "Mesh"
    IDENTITY = "MeshIdentity"
    TRUST = "MeshTrust"


class Environment(StrEnum):
    """Where the control plane keeps its documents."""

    UNIVERSAL = "universal"
    KUBERNETES = "kubernetes"


class Mode(StrEnum):
    """Whether the control plane serves proxies itself or through zones."""

    ZONE = "zone"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a control plane says of itself."""

    product: str
    version: tuple[int, int, int]
    """As released; a development build counts as its base version."""
    version_text: str
    environment: Environment
    mode: Mode
    federated: bool = False
    """It is a zone's and gets meshes and trust from a Global control plane: those can be changed only there."""
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One Mesh, MeshIdentity or MeshTrust."""

    kind: Kind
    name: str
    spec: Mapping[str, Any] = field(repr=False)
    """
    Everything but type, mesh, name, labels, times and status, as Kuma's HTTP API spells it (camel case). A private key
    may stand in it.
    """
    labels: Mapping[str, str] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    revision: str = ""
    """What changes with every write (resourceVersion; on Universal the modification time); empty for a new one."""
    managers: frozenset[str] = frozenset()
    """Field managers other than rotator's that own a field which rotator writes (Kubernetes); empty elsewhere."""

    def with_spec(self, spec: Mapping[str, Any]) -> Document:
        """Return the same document with another *spec*, still carrying the revision that was read."""
        return replace(self, spec=spec)


class Documents(Protocol):
    """The documents of one mesh."""

    def read(self, kind: Kind, name: str) -> Document | None:
        """Return one document, None if it is absent; a Mesh is read by the mesh's own name."""
        ...

    def listed(self, kind: Kind) -> tuple[Document, ...]:
        """Return every document of *kind* in the mesh, by name."""
        ...

    def write(self, document: Document) -> Document:
        """
        Create *document* (empty revision) or replace the one that was read, and return it as it reads back.

        Raises `Conflict` if it is there already, gone, or another revision; `Rejected` if the control plane refuses it.
        """
        ...

    def remove(self, document: Document) -> None:
        """Delete *document*; absent is no error, another revision is a `Conflict`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """One of rotator's secrets of one mesh, as it is listed."""

    name: str
    """As documents refer to it."""
    purpose: str
    """What rotator keeps in it: ``g3-cert``, ``g3-key``, ``bundle-<12 hex digits>``."""
    value: bytes = field(repr=False)
    """Its content, PEM."""
    created_at: datetime | None = None


class Secrets(Protocol):
    """Where CA generations live: names that are created once, or slots of a ring that are reused when long free."""

    def held(self) -> tuple[StoredSecret, ...]:
        """Return every secret that rotator has made for this mesh, by purpose."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of any secret of the mesh by its name, None if it is absent (adoption, and guards)."""
        ...

    def create(self, purpose: str, value: bytes) -> str:
        """
        Keep *value* under a name of its own and return the name once it reads back.

        The same purpose with the same value is there already: its name is returned. With another value: `Conflict`.
        """
        ...

    def remove(self, name: str) -> None:
        """Delete or free one of rotator's own secrets; absent is no error, anybody else's is `Rejected`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyReport:
    """What the control plane reports of one proxy (its insight)."""

    name: str
    zone: str
    online: bool
    connection: str = ""
    """Changes whenever the proxy connects anew (subscription id and generation); empty if it never connected."""
    certificate_not_after: datetime | None = None
    certificate_issued_at: datetime | None = None
    """``lastCertificateRegeneration``: an identity was issued then, which proves nothing of the bundle."""
    issued_by: str = ""
    """``issuedBackend``: a backend's name, or the KRI of a MeshIdentity."""
    responses_sent: int = 0
    responses_acknowledged: int = 0
    responses_rejected: int = 0
    disconnected_at: datetime | None = None
    """When it was last seen to leave; None while it is online, or if it never connected."""
    version: str = ""
    """Of the proxy: ``kuma-dp 2.14.3, Envoy 1.38.2``."""
    workload: Mapping[str, str] = field(default_factory=dict)
    """Its labels or tags, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyView:
    """What one proxy uses right now, from its own configuration."""

    bundles: Mapping[TrustDomainName, frozenset[str]]
    """For each trust domain that its validators name, the SHA-256 of every CA certificate it trusts for it; under the
    empty name those of a validator that knows no trust domains (``trusted_ca``). A CA counts only if every validator
    of that kind in the proxy holds it."""
    leaf_serial: Serial | None = None
    leaf_issuer: IssuerId | None = None
    """Authority key identifier of the leaf that it serves; None if it serves none or the view does not show it."""
    leaf_not_after: datetime | None = None
    relies: bool = True
    """False: its configuration holds no validator and no leaf of the mesh at all, so nothing there can break."""


class Proxies(Protocol):
    """The proxies of one mesh, in every zone that the control plane knows."""

    def reports(self) -> tuple[ProxyReport, ...]:
        """Return every proxy's report, by name."""
        ...

    def view(self, name: str) -> ProxyView | None:
        """Return what the proxy *name* uses now; None if it cannot be asked. Never raises for one proxy's silence."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """One mesh at one control plane."""

    mesh: str
    about: About
    documents: Documents
    secrets: Secrets
    proxies: Proxies
