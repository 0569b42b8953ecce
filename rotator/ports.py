"""
What the engine needs of the world, as Protocols; adapters and store give it.

Rules that must stay true here:

- At most five methods a port; optional powers are separate Protocols.
- Every call that leaves the process has a timeout, and raises only the tree of `rotator.errors`:
  `Unavailable` (no answer; the effect may be there), `Conflict`, `Denied`, `Rejected`.
- Every call may be made twice (law 13).
- No port returns a private key, but for `LeafStore.material`, which gives back what rotator itself wrote there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from rotator.core.event import Commitment, Event, Trigger
from rotator.core.model import (
    Authority,
    Generation,
    IntentKind,
    IssuerId,
    KeyType,
    Leaf,
    Member,
    Publication,
    RelyingParty,
    Serial,
    Served,
    SubjectKind,
    SubjectName,
    TrustDomainName,
)
from rotator.core.model import (
    Severity as Severity,  # noqa: PLC0414 -- core owns the word, whoever speaks to the notifier takes it from here
)
from rotator.pki.certificates import Material


class Clock(Protocol):
    """Time, as a visitor (law 20): the wall clock for moments, the monotonic one for durations only."""

    def now(self) -> datetime:
        """Return the wall clock, aware UTC, re-read at each call."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
        ...

    def wait(self, event: threading.Event, timeout: timedelta) -> bool:
        """Wait until *event* is set or *timeout* has passed; return whether it is set."""
        ...


# --- issuing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafOrder:
    """A leaf that is asked for. The key stays here; only the request travels (law 10)."""

    csr_pem: bytes
    spki_sha256: str
    """The client-chosen id of this order: it stands in the intent before the call, and finds the orphan."""
    identity: str
    dns_names: tuple[str, ...]
    lifetime: timedelta
    signer: Generation
    key: KeyType


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedLeaf:
    """A leaf that came back and was compared with the order (law 11)."""

    chain_pem: bytes
    """Leaf first, then whatever the relying parties need between it and the bundle (may be nothing)."""
    leaf: Leaf
    request_id: str | None
    """The issuer's own id of the call (at Vault: ``request_id``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """One line of the CA's own list."""

    serial: Serial
    sha256: str
    spki_sha256: str
    subject: str
    issuer: IssuerId | None
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None
    is_authority: bool = False


class Issuer(Protocol):
    """Signs and revokes the leaves of one trust domain, always by a pinned generation (law 6)."""

    def sign(self, order: LeafOrder) -> IssuedLeaf:
        """Have *order* signed by its own generation. Raises `Rejected` if what came back is not what was asked."""
        ...

    def revoke(self, serial: Serial) -> str | None:
        """Revoke one leaf that this issuer signed; return the issuer's request id. Revoking twice is no error."""
        ...

    def revoked(self, signer: Generation) -> frozenset[Serial]:
        """Return the serials on *signer*'s current CRL."""
        ...

    def issued(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return the CA's own list of what it issued, without reading those whose serial is *known*."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityOrder:
    """A CA generation that is asked for."""

    trust_domain: TrustDomainName
    number: int
    lifetime: timedelta
    key: KeyType
    rotation_id: str
    announce: Callable[[str], None]
    """Called with the new key's SPKI SHA-256 before the corporate PKI is asked to sign it (intent before effect)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedAuthority:
    """A CA generation that came back and was compared with the order."""

    generation: Generation
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAuthorities:
    """What the signer holds for one trust domain."""

    generations: tuple[Generation, ...]
    """Ascending by number."""
    active: IssuerId | None
    """The generation that the signer's own pointer names."""
    certificates_pem: dict[IssuerId, bytes]
    """One PEM per generation."""


class Authorities(Protocol):
    """The CA generations of one trust domain and the one pointer that says which signs."""

    def observe(self) -> HeldAuthorities:
        """Return what the signer holds, expired ones included; never cached."""
        ...

    def prepare(self, order: AuthorityOrder) -> PreparedAuthority:
        """
        Make a key inside the signer, have it signed by the corporate PKI's pinned issuer, and install the result.

        Left-overs of an earlier try with the same number (a key without issuer, a signed CA that was never installed)
        are removed first; the corporate PKI's certificates among them are revoked or reported by `strays`.
        """
        ...

    def activate(self, generation: Generation) -> str | None:
        """Move the pointer to *generation* and read it back; return the request id."""
        ...

    def retire(self, generation: Generation, *, revoke: bool) -> str | None:
        """Remove *generation* and its key from the signer, after revoking its certificate at its parent if asked."""
        ...

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        ...


class ParentRevocation(Protocol):
    """The power to revoke a CA certificate at its parent without touching the signer (compromise, and orphans)."""

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial* at the corporate PKI; return the request id. Revoking twice is no error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityRequest:
    """A CA certificate that is asked for; its key was made here and goes only where it must (law 10)."""

    csr_pem: bytes
    spki_sha256: str
    common_name: str
    """Distinct for every generation (law 6)."""
    trust_domain: TrustDomainName
    lifetime: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedAuthority:
    """A CA certificate that came back and was compared with the request (law 11)."""

    certificate_pem: bytes
    above_pem: tuple[bytes, ...]
    """The certificates above it, its issuer first, the self-signed root last as far as the signer knows them."""
    request_id: str | None


class AuthoritySigner(Protocol):
    """Signs CAs whose keys were made here, by the one pinned issuer of the corporate PKI (law 6)."""

    def sign_authority(self, request: AuthorityRequest) -> SignedAuthority:
        """Have *request* signed. Raises `InvariantBroken` if the issuer may not sign, `Rejected` if it came wrong."""
        ...

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        ...

    def is_revoked(self, serial: Serial) -> bool:
        """Return whether the corporate PKI has revoked *serial*; what it no longer stores has ended."""
        ...

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial*; return the request id. Revoking twice is no error."""
        ...


# --- a mesh ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What it would take to lead a mesh that does not run on a generation of rotator's yet."""

    found: str
    """What it runs on now, in words: ``the builtin CA of backend ca-1``."""
    plan: tuple[str, ...]
    """What rotator would do, one sentence a step, in order."""
    interrupts: str | None = None
    """What will be interrupted for want of a seamless way; None if nothing will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshView:
    """What a control plane shows of one mesh, taken at one moment."""

    held: HeldAuthorities
    """
    The generations whose secrets the control plane holds, and which of them signs.

    A CA that rotator did not make is generation 0. It is held only while it signs, is in the bundle, or is seen in
    use: its secrets are not rotator's to remove, so it must not stay for their sake.
    """
    parties: tuple[RelyingParty, ...]
    """The mesh itself (what joiners are given), then its proxies by name; all were given one publication."""
    stray_until: Mapping[IssuerId, datetime] = field(default_factory=dict)
    """For each authority, when the last leaf ends that a proxy whose leaf cannot be seen may still hold."""
    vanished_are_gone: bool = True
    """Whether a proxy that is no longer listed has ended (Kubernetes), or may come back with its leaf (Universal)."""
    refusals: tuple[str, ...] = ()
    """Why nothing may be changed now, each with the mend; empty if all is well."""
    warnings: tuple[str, ...] = ()
    """What people should know although nothing is refused."""
    adoption: Adoption | None = None
    """Set while the mesh does not run on a generation of rotator's: a person has to say go."""


class Mesh(Protocol):
    """A mesh whose control plane signs the leaves and gives every proxy one bundle."""

    def look(self, *, proofs: bool) -> MeshView:
        """
        Return what the control plane shows now; never cached.

        Without *proofs* no proxy is asked what it trusts, and no proxy's ``acknowledged`` is filled in.
        """
        ...

    def publish(self, bundle: tuple[Authority, ...]) -> str | None:
        """
        Give every proxy *bundle* by one write, without moving who signs; return the control plane's revision.

        Raises `Conflict` if somebody else changed the mesh since it was looked at, `Rejected` if the control plane
        refused, `InvariantBroken` if a bundle may not hold what it would hold (law 6).
        """
        ...


# --- publishing and proving -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What a publication says of itself, beside the material."""

    subject: SubjectName
    rotation_id: str
    leaf_published_at: datetime
    bundle_published_at: datetime


class LeafStore(Protocol):
    """One place where one certificate is published, switched by one reference (law 9)."""

    @property
    def target(self) -> str:
        """Return the place as people name it: ``directory:/etc/airflow/tls``."""
        ...

    def read(self) -> Publication | None:
        """Return what is published now; None if nothing ever was. Unreadable material is a `Publication.problem`."""
        ...

    def material(self) -> Material:
        """Return what is published now, key included, to publish it again with another bundle."""
        ...

    def put(self, material: Material, *, expected: int, stamp: Stamp) -> Publication:
        """
        Publish *material* as publication ``expected + 1`` (or a later free number) and read it back.

        *expected* is the number that was read, 0 for none. Raises `Conflict` if another one is current (law 14).
        The publication before stays beside it until `forget`.
        """
        ...

    def forget(self, *, keep: frozenset[int]) -> None:
        """Remove publications that are neither current nor in *keep* (cut-over is proven)."""
        ...


class Probe(Protocol):
    """Sees what one consumer uses, without changing anything."""

    @property
    def name(self) -> str:
        """Return the probe as people name it: ``envoy_admin:http://127.0.0.1:9901``."""
        ...

    def look(self) -> Served:
        """Return what the consumer uses now. No answer is ``reachable=False``, never an exception."""
        ...


class BundleProbe(Protocol):
    """The optional power to prove a bundle by an answer to an unpublished leaf of the new CA."""

    @property
    def presents(self) -> str:
        """Return the SPIFFE ID that the consumer admits and the unpublished leaf must carry."""
        ...

    def admits(self, material: Material) -> bool:
        """Return whether the consumer gives an HTTP answer to *material*'s leaf (a handshake alone proves nothing)."""
        ...


# --- workloads ------------------------------------------------------------------------------------------------------


class Workloads(Protocol):
    """The members of one workload: processes, units or pods."""

    def members(self) -> tuple[Member, ...]:
        """Return every configured member, also one that does not run; ``draining``, ``busy`` and ``queues`` unset."""
        ...

    def replace(self, member: str, *, forced: bool) -> None:
        """
        Stop the main process of *member* gently (never its group), wait until it is gone, start it anew.

        With *forced* it is killed at the end of its own grace period. Not gone in time: `Unavailable`; call again.
        """
        ...


class Drainer(Protocol):
    """Takes work away from members and sees what they still do."""

    def inspect(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return *members* with ``draining``, ``busy``, ``queues`` and ``ready`` filled in; arguments redacted."""
        ...

    def drain(self, member: Member) -> None:
        """Let *member* take no new work; it keeps answering."""
        ...

    def undrain(self, member: Member) -> None:
        """Let *member* take work again from the queues it had."""
        ...


# --- remembering ----------------------------------------------------------------------------------------------------


class RotationState(StrEnum):
    """Where a rotation stands in the journal."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One rotation's intent and what cannot be read off the world. Progress is observed, not stored (law 13)."""

    id: str
    subject: SubjectName
    kind: SubjectKind
    intent: IntentKind
    trigger: Trigger
    state: RotationState
    opened_at: datetime
    finished_at: datetime | None = None
    emergency: bool = False
    reason_commitment: Commitment | None = None
    requested_by: Commitment | None = None
    ticket: str | None = None
    from_generation: int | None = None
    to_generation: int | None = None
    trust_published_at: datetime | None = None
    activated_at: datetime | None = None
    roll_started_at: datetime | None = None
    outcome: str = ""
    may_interrupt: bool = False
    """A person has accepted in words that this adoption interrupts connections."""


class IssuanceState(StrEnum):
    """Where one ordered certificate stands; every order ends in ``superseded``, ``revoked`` or ``lapsed``."""

    ASKED = "asked"
    ISSUED = "issued"
    PUBLISHED = "published"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    LAPSED = "lapsed"
    NEVER = "never"
    """Asked for, and the CA's own list shows that it was never issued."""


class IssuanceKind(StrEnum):
    """What was ordered."""

    LEAF = "leaf"
    AUTHORITY = "authority"
    PROBE = "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """One certificate order, keyed by the public key that was chosen here before the call."""

    spki_sha256: str
    kind: IssuanceKind
    subject: SubjectName
    trust_domain: TrustDomainName
    rotation_id: str
    state: IssuanceState
    asked_at: datetime
    signer: IssuerId | None
    serial: Serial | None = None
    not_after: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A person's pause of one subject."""

    subject: SubjectName
    until: datetime
    past_safety_line: bool = False
    """The operator has said in words that this pause may let the subject expire (law 12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A mesh's proxy as last listed: one that vanishes may still hold a leaf, and may come back with it."""

    subject: SubjectName
    """The trust domain."""
    party: SubjectName
    last_leaf_not_after: datetime
    served_issuer: IssuerId | None
    """Who signed the leaf that it was last seen to use; None if nobody saw it."""
    seen_at: datetime


class Transaction(Protocol):
    """Journal rows and ledger entries that become true together, or not at all."""

    def save(self, row: Rotation | Issuance | Hold | Sighting) -> None:
        """Insert or replace one row by its key (id, spki_sha256, subject, subject with party)."""
        ...

    def release(self, subject: SubjectName) -> None:
        """Remove the hold on *subject*."""
        ...

    def forget(self, sighting: Sighting) -> None:
        """Remove the sighting of one party."""
        ...

    def append(self, event: Event) -> int:
        """
        Append one evidence record; return its sequence number (gap-free, from 0).

        An event whose ``id`` is already committed is not appended again: its number is returned.
        """
        ...

    def commit_to(self, text: str) -> Commitment:
        """Return a salted commitment to a person's name or words; the salt goes to the erasable side store."""
        ...


class Sightings(Protocol):
    """The memory of proxies."""

    def sightings(self) -> tuple[Sighting, ...]:
        """Return every sighting, by subject and party."""
        ...


class Journal(Sightings, Protocol):
    """The memory of intents. Raises `JournalError` when it cannot be read or written."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open one transaction: committed when the block ends, nothing kept when it raises."""
        ...

    def rotations(
        self, *, state: RotationState | None = None, subject: SubjectName | None = None, last_ended: bool = False
    ) -> tuple[Rotation, ...]:
        """Return rotations, oldest first; with *last_ended* only the newest of each subject that has ended."""
        ...

    def issuances(
        self, *, states: frozenset[IssuanceState], subject: SubjectName | None = None
    ) -> tuple[Issuance, ...]:
        """Return certificate orders in the given states, oldest first."""
        ...

    def holds(self) -> tuple[Hold, ...]:
        """Return every pause, also those whose time is over."""
        ...

    def last_generation(self, trust_domain: TrustDomainName) -> int:
        """Return the highest generation number ever used for *trust_domain*, 0 for none."""
        ...


class Ledger(Protocol):
    """The committed evidence records, in order."""

    def size(self) -> int:
        """Return how many records are committed."""
        ...

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """Return the canonical bytes of records ``start <= seq < stop``."""
        ...


class CheckpointSigner(Protocol):
    """Signs checkpoints of the log; a local Ed25519 key file now, Vault Transit later."""

    @property
    def verifier_key(self) -> str:
        """Return the signed-note verifier key (``name+hash+base64``) to give to auditors out of band."""
        ...

    def sign(self, note_text: bytes) -> bytes:
        """Return the raw Ed25519 signature over *note_text*."""
        ...


class Lease(Protocol):
    """The right to change the world; one holder at a time (law 14)."""

    def acquire(self) -> None:
        """Take the lease or raise `Conflict` naming who holds it."""
        ...

    def held(self) -> bool:
        """Return whether it is still held; asked before every write."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One alert as it is sent: raised or cleared."""

    key: str
    """Stable identity for deduplication: ``subject/kind``."""
    subject: SubjectName
    severity: Severity
    summary: str
    raised: bool
    at: datetime


class Notifier(Protocol):
    """Tells people. Never raises into the engine."""

    def notify(self, notices: Sequence[Notice]) -> None:
        """Send *notices*; a failure is counted and logged, never raised."""
        ...
