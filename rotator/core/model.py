"""
The nouns of rotator: what is wanted and what is seen.

Rules that must stay true here:

- Frozen data only, no behaviour beyond properties that restate the data.
- No bytes of certificates or keys: the edge parses a PEM once, everything inside sees `Leaf` and `Authority`.
- An authority is named by its key id (`IssuerId`), never by its common name; a certificate by serial *and* issuer.
- Every moment is an aware UTC ``datetime`` in whole seconds, every duration a ``timedelta``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType

SubjectName = NewType("SubjectName", str)
"""A certificate's, trust domain's, token's or token signing key's name in the configuration."""

TrustDomainName = NewType("TrustDomainName", str)
"""A SPIFFE trust domain, without ``spiffe://``."""

IssuerId = NewType("IssuerId", str)
"""The subject key identifier of a signing authority, lower-case hex without separators."""

Serial = NewType("Serial", str)
"""A certificate's serial number, lower-case hex, no separators, no leading zeros."""


class SubjectKind(StrEnum):
    """What a subject is; the word stands in ``status`` and in the ledger."""

    CERTIFICATE = "certificate"
    TRUST_DOMAIN = "trust_domain"
    TOKEN = "token"  # noqa: S105 -- a kind of subject, not a secret
    PLATFORM = "platform"
    """The documents that say who may call what, as one subject."""


class Severity(StrEnum):
    """How much attention an alert asks for."""

    WARNING = "warning"
    CRITICAL = "critical"


class KeyType(StrEnum):
    """Key algorithms that may be configured. EC P-256 is the default: thousands of times cheaper to make than RSA."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """One CA certificate."""

    id: IssuerId
    serial: Serial
    sha256: str
    """SHA-256 of the DER, lower-case hex."""
    subject: str
    """RFC 4514 string."""
    parent: IssuerId | None
    """Authority key identifier; None or equal to ``id`` for a self-signed one."""
    not_before: datetime
    not_after: datetime
    spki_sha256: str
    path_length: int | None = None
    self_signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One end-entity certificate."""

    serial: Serial
    sha256: str
    subject: str
    spiffe_id: str | None
    dns_names: tuple[str, ...] = ()
    issuer: IssuerId
    """Authority key identifier of the certificate that signed it."""
    not_before: datetime
    not_after: datetime
    chain_not_after: datetime
    """Earliest notAfter of the leaf and of every certificate sent above it."""
    spki_sha256: str
    key_type: KeyType | None = None


class TokenKind(StrEnum):
    """Whose token it is, by Kuma's own words."""

    DATAPLANE = "dataplane"
    ZONE = "zone"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """For whom a token speaks and for what; what is empty limits nothing."""

    kind: TokenKind
    name: str = ""
    """A proxy's or a user's."""
    mesh: str = ""
    tags: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Tags that a proxy may carry, each with its values, sorted."""
    proxy_type: str = ""
    workload: str = ""
    zone: str = ""
    scope: tuple[str, ...] = ()
    """Parts of a zone, sorted."""
    groups: tuple[str, ...] = ()
    """Of a user, sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token, by what it says of itself; the token is a secret and never stands here."""

    id: Serial
    """``jti``, as it stands on a revocation list."""
    key: int
    """``kid``: the serial of the signing key."""
    sha256: str
    """Of the whole token, lower-case hex."""
    grant: TokenGrant
    issuer: IssuerId
    """The name of the signing key, as the control plane keeps it."""
    not_before: datetime
    """When it was issued, as it says itself."""
    not_after: datetime

    @property
    def serial(self) -> Serial:
        """Return the name by which records tell it from others."""
        return self.id

    @property
    def chain_not_after(self) -> datetime:
        """Return its own end: nothing stands above a token."""
        return self.not_after


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One key that signs tokens, as a control plane keeps it; the key itself never stands here."""

    serial: int
    """The highest one signs, each that is there verifies."""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One CA generation of a trust domain: the n-th signing authority that rotator prepared for it."""

    number: int
    """Counts from 1 and never falls, also after a rollback."""
    authority: Authority
    reference: str
    """The signer's own name for it (at Vault: the issuer's UUID)."""
    can_sign: bool = True
    """Its key is there and it is neither revoked nor disabled."""
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What one directory or Secret holds now; parsed, without the key."""

    target: str
    """Where, as people name it: ``directory:/etc/airflow/tls``."""
    number: int
    """Counts the publications of this target; the precondition of the next write."""
    leaf: Leaf | None
    bundle: tuple[Authority, ...] = ()
    key_matches: bool = False
    """The private key beside the leaf belongs to it."""
    leaf_published_at: datetime | None = None
    """When this leaf first stood here, carried over when only the bundle changed."""
    bundle_published_at: datetime | None = None
    problem: str | None = None
    """Why it cannot be used, in words, or None."""
    drift: str | None = None
    """What somebody else changed beside material that is whole (bundle, notes, labels), in words, or None."""
    outdated: bool = False
    """Rotator itself would write it otherwise today: its configuration has changed."""
    revision: str | None = None
    """The place's own mark of this very content (a resourceVersion), for the record."""
    writers: tuple[str, ...] = ()
    """Which programs besides rotator wrote there, as the place itself says."""
    holds_leaf: bool = True
    """False for a place that is given the bundle alone."""
    subject: SubjectName | None = None
    rotation_id: str | None = None
    token: Token | None = None
    """What a place of a token holds, in the stead of a leaf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one probe saw a consumer use, by the consumer's own report or by a handshake."""

    probe: str
    """Which probe, as people name it: ``envoy_admin:http://127.0.0.1:9901``."""
    seen_at: datetime
    reachable: bool
    serial: Serial | None = None
    """Serial of the leaf in use; None if this probe cannot see it."""
    bundle: frozenset[str] | None = None
    """SHA-256 or serials of every CA certificate the consumer trusts; None if this probe cannot see it."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedCertificate:
    """A certificate that is wanted (a ``certificates:`` entry of the configuration)."""

    name: SubjectName
    trust_domain: TrustDomainName
    identity: str
    """The SPIFFE ID."""
    dns_names: tuple[str, ...] = ()
    lifetime: timedelta
    key: KeyType = KeyType.ECDSA_P256
    also_trust: tuple[TrustDomainName, ...] = ()
    rolls: tuple[SubjectName, ...] = ()
    """Workloads that load this certificate at their start."""
    task_pods: bool = False
    """Pods that nobody rolls or sees mount it too, and keep what they mounted until they end."""

    @property
    def trusts(self) -> tuple[TrustDomainName, ...]:
        """Every trust domain whose authorities belong into this certificate's bundle, its own first."""
        return (self.trust_domain, *self.also_trust)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedToken:
    """A token that is wanted (a ``tokens:`` entry of the configuration)."""

    name: SubjectName
    trust_domain: TrustDomainName
    """The one whose mesh's control plane issues it."""
    grant: TokenGrant
    lifetime: timedelta
    revoke: bool = True
    """What is replaced and lives on is put on the revocation list."""
    revoke_after: timedelta = timedelta()
    """How long after its replacement was published a token stays valid: consumers have to read the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWant:
    """A token as it should be now."""

    token: ManagedToken
    key_at_least: int = 0
    """Signed by this key or a later one: a rotation of the signing key is under way."""
    keys: frozenset[int] | None = None
    """The signing keys that are there; None if nobody looked."""
    asked: AskedFor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateWant:
    """What one certificate should be right now, given the phase its trust domains are in."""

    certificate: ManagedCertificate
    signer: Authority | None
    """Who signs now; None while the trust domain has no active authority."""
    accepted: frozenset[IssuerId]
    """Authorities under which the present leaf may stay (more than one in the middle of a CA rotation)."""
    bundle: tuple[Authority, ...]
    """The trust bundle that should be published, newest first."""
    asked: AskedFor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFor:
    """A person's or a rule's request to reissue."""

    rotation_id: str
    emergency: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the world shows of one certificate."""

    publications: tuple[Publication | None, ...]
    """One per configured target, in order; None where nothing has ever been published."""
    served: tuple[Served, ...] = ()
    revoked: bool = False
    members: tuple[Member, ...] = ()
    """Every member of every workload that this certificate rolls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One process, unit or pod of a workload."""

    workload: SubjectName
    name: str
    running: bool
    ready: bool
    """It is running and proven to take work (consumes its queues, passes its readiness probe)."""
    started_at: datetime | None
    draining: bool = False
    """It takes no new work."""
    busy: int | None = None
    """Units of work still running or reserved; None if that cannot be seen."""
    idle_seen: int = 0
    """How many observations in a row, the latest included, saw ``busy == 0`` while draining."""
    queues: frozenset[str] = frozenset()
    """Queues it consumes, or consumed before it was drained."""
    work: tuple[str, ...] = ()
    """What it works on, by name (``dag/run/task#try``), as far as that was looked for; never arguments."""
    undrainable: bool = False
    """It cannot be drained, but stopped gently it takes nothing new and finishes what it has: the slow way."""
    identity: str = ""
    """What tells this run of the member from the next (pid and start time, pod UID)."""
    ending: bool = False
    """It was told to end and is not gone yet."""
    spare: bool = False
    """The wanted number is reached without it: it may end, and another already stands in for it."""
    extra: bool = False
    """It is there only for the time of the roll: the first to go when the wanted number is set back."""
    uncertainty: timedelta = timedelta()
    """By how much what it loaded may be older than ``started_at`` says: clocks of other machines."""
    host: str = ""
    """Its host name as it knows it itself; empty where that is this machine's."""
    address: str = ""
    """Where it can be reached by itself (a pod's IP); empty if that is not known."""
    shows: Serial | None = None
    """Serial of the leaf that it was seen to serve by itself, empty if it did not answer; None where nobody looks."""
    detail: str = ""
    """Why it is not ready, or why its work cannot be seen, in words for people; empty if all is well."""

    @property
    def loaded_until(self) -> datetime | None:
        """Return the moment up to which published material has surely been loaded by it; None if that is not known."""
        return None if self.started_at is None else self.started_at - self.uncertainty


@dataclass(frozen=True, slots=True, kw_only=True)
class Surge:
    """How many members of a workload are wanted, and what of that is rotator's own doing."""

    wanted: int
    """Now."""
    before: int | None = None
    """The number that rotator raised; None: it has raised none."""
    raised_to: int | None = None
    """To which number it did."""
    scaled_by: str = ""
    """Which autoscaler sets the number, in words; empty if none does, or nobody looked."""

    @property
    def more(self) -> int:
        """Return how many members are there for the time of the roll."""
        return self.wanted - self.before if self.before is not None and self.wanted == self.raised_to else 0

    @property
    def is_overruled(self) -> bool:
        """Return whether somebody else has set the number since rotator raised it: then it is theirs."""
        return self.before is not None and self.wanted != self.raised_to


class IntentKind(StrEnum):
    """What somebody wants to happen to a trust domain's authority. Only the journal knows; the world does not."""

    ROTATE = "rotate"
    ROLL_BACK = "roll_back"
    COMPROMISE = "compromise"
    """Its own phases, its own typed confirmation; no setting turns an ordinary rotation into it (law 8)."""


class Phase(StrEnum):
    """Where a trust domain stands. Facts, computed from what is seen."""

    ABSENT = "absent"
    STEADY = "steady"
    PREPARED = "prepared"
    TRUSTED = "trusted"
    ACTIVATED = "activated"
    REISSUED = "reissued"
    RETIRED = "retired"


class AtDeadline(StrEnum):
    """The operator's written choice for the trust deadline (law 1)."""

    HOLD = "hold"
    PROCEED = "proceed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityIntent:
    """What is under way for a trust domain's authority; opened by the schedule or by a person."""

    rotation_id: str
    kind: IntentKind
    since: datetime
    from_generation: int | None
    """The generation that signed when the intent was opened."""
    to_generation: int | None = None
    """The successor, once it has been prepared."""
    trust_published_at: datetime | None = None
    """When {old, new} was first published everywhere: minimum overlap and trust deadline count from here."""
    activated_at: datetime | None = None
    emergency: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RelyingParty:
    """One certificate's consumer, as the trust domain's authority sees it."""

    name: SubjectName
    published: frozenset[IssuerId] | None
    """This trust domain's authorities in the bundle it was given; None if nothing was published yet."""
    acknowledged: frozenset[IssuerId]
    """Those that it has been proven to trust now. Never includes one that is not in a live bundle."""
    reachable: bool = True
    """False: no probe reached it; it counts as live until ``last_leaf_not_after`` (law 1)."""
    leaf_issuer: IssuerId | None = None
    """Who signed the leaf published for it, if that leaf is of this trust domain."""
    leaf_not_after: datetime | None = None
    served_issuer: IssuerId | None = None
    """Who signed the leaf that it has been proven to use; None if unknown or of another trust domain."""
    last_leaf_not_after: datetime | None = None
    """
    When the last leaf that it may still use together with an older bundle ends: the latest notAfter among the
    leaves that were published for it beside any bundle but the one published now (whoever loads the present
    publication has the present bundle). Whoever cannot tell gives the latest notAfter of all.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoritySeen:
    """What the world shows of one trust domain."""

    generations: tuple[Generation, ...]
    """All that the signer knows, expired ones included, ascending by number."""
    active: IssuerId | None
    """Who signs now, as the signer itself says (for a standalone domain: the mount's pointer)."""
    parties: tuple[RelyingParty, ...] = ()
    highest_number: int = 0
    """The highest generation number ever used, deleted ones included."""
    stray_until: Mapping[IssuerId, datetime] = field(default_factory=dict)
    """For each authority, when the last leaf that it ever signed ends, published or not, as far as the ledger knows."""
