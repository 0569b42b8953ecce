"""
What the engine works on: one target for each certificate, trust domain and workload, with the ports that reach it.

Rules that must stay true here:

- Composition only: `bootstrap` builds these from the settings; nothing here reads a file or a clock.
- A port appears once: what a target needs is an attribute of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NewType

from rotator.core.authority import AuthorityPolicy
from rotator.core.model import KeyType, ManagedCertificate, ManagedToken, SubjectName, TrustDomainName
from rotator.core.order import Part
from rotator.core.rollout import RolloutPolicy
from rotator.core.tokens import SigningKeyPolicy
from rotator.core.window import LeafPolicy
from rotator.platform.documents import PLATFORM, Address, Document
from rotator.platform.drift import Drift
from rotator.platform.model import OnDrift
from rotator.ports import (
    Authorities,
    Drainer,
    Issuer,
    LeafStore,
    LongTasks,
    Mesh,
    MeshDocuments,
    ParentRevocation,
    Probe,
    SigningKeys,
    Surging,
    TokenIssuer,
    TokenStore,
    Workloads,
)

TargetId = NewType("TargetId", str)
"""
``certificate:NAME``, ``trust_domain:NAME``, ``workload:NAME``, ``token:NAME``, ``signing_key:NAME`` or
``platform:platform``: the key of a lock and of a place in the queue.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateTarget:
    """One managed certificate and where it goes."""

    certificate: ManagedCertificate
    policy: LeafPolicy
    stores: tuple[LeafStore, ...]
    probes: tuple[Probe, ...] = ()

    @property
    def id(self) -> TargetId:
        """Return the lock and queue key."""
        return TargetId(f"certificate:{self.certificate.name}")

    @property
    def name(self) -> SubjectName:
        """Return the certificate's name in the configuration."""
        return self.certificate.name


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainTarget:
    """One trust domain, its signer and the corporate PKI behind it."""

    name: TrustDomainName
    policy: AuthorityPolicy
    issuer: Issuer | None
    """Who signs leaves for rotator; None where a control plane signs them itself."""
    authorities: Authorities
    parent: ParentRevocation
    mesh: Mesh | None = None
    """The mesh whose control plane signs the leaves and whose proxies are relying parties too."""
    key: KeyType = KeyType.ECDSA_P256
    crl_interval: timedelta = timedelta(hours=1)
    """How long a revocation may take to reach relying parties: what ends sooner is left to lapse (law 18)."""
    issuer_label: str = ""
    """The configured corporate issuer's name, for status."""

    @property
    def id(self) -> TargetId:
        """Return the lock and queue key."""
        return TargetId(f"trust_domain:{self.name}")

    @property
    def subject(self) -> SubjectName:
        """Return the trust domain's name as a subject of rotations."""
        return SubjectName(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadTarget:
    """One workload whose members load certificates at their start."""

    name: SubjectName
    policy: RolloutPolicy
    workloads: Workloads
    drainer: Drainer | None = None
    surging: Surging | None = None
    """Where the wanted number can be raised for the time of a roll."""
    ready_within: timedelta = timedelta(minutes=1)
    """A member that runs longer than this without being ready has failed: the roll stops there."""
    history: LongTasks | None = None
    """Whoever knows how long its tasks take."""
    part: Part | None = None
    """Which part of which Airflow it is: parts of one are rolled one after the other."""
    keep_running: bool = False
    """Rotator starts a member that does not run (commands); units are their service manager's."""

    @property
    def id(self) -> TargetId:
        """Return the lock and queue key."""
        return TargetId(f"workload:{self.name}")


def _nothing_foreign(
    _domain: TrustDomainName, _own: Sequence[Document], _others: Sequence[Document]
) -> tuple[Drift, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformTarget:
    """Every document that says who may call what, on every control plane."""

    wanted: Mapping[Address, Document]
    """As the configuration says; written only when somebody asks."""
    places: Mapping[TrustDomainName, MeshDocuments]
    meshes: Mapping[TrustDomainName, str]
    on_drift: OnDrift = OnDrift.TELL
    look_every: timedelta = timedelta(minutes=1)
    settle: timedelta = timedelta(seconds=15)
    """How long a write may take to be sent to every proxy, and their acknowledgements to be seen."""
    foreign: Callable[[TrustDomainName, Sequence[Document], Sequence[Document]], Sequence[Drift]] = _nothing_foreign
    """Tells which documents of others (the last) open a service of the configuration beside rotator's own."""

    @property
    def id(self) -> TargetId:
        """Return the lock and queue key."""
        return TargetId(f"platform:{PLATFORM}")

    @property
    def name(self) -> SubjectName:
        """Return the subject of its changes."""
        return PLATFORM


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTarget:
    """One managed token, who issues it and where it goes."""

    token: ManagedToken
    policy: LeafPolicy
    issuer: TokenIssuer
    stores: tuple[TokenStore, ...]
    keys: SubjectName | None = None
    """The signing keys of the configuration that sign it; None if rotator does not rotate them."""

    @property
    def id(self) -> TargetId:
        """Return the lock and queue key."""
        return TargetId(f"token:{self.token.name}")

    @property
    def name(self) -> SubjectName:
        """Return the token's name in the configuration."""
        return self.token.name


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyTarget:
    """The keys that sign one kind of tokens of one control plane."""

    name: SubjectName
    policy: SigningKeyPolicy
    keys: SigningKeys

    @property
    def id(self) -> TargetId:
        """Return the lock and queue key."""
        return TargetId(f"signing_key:{self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything one daemon looks after; replaced as a whole when the configuration is loaded again."""

    environment: str
    policy_sha256: str
    certificates: Mapping[SubjectName, CertificateTarget] = field(default_factory=dict)
    domains: Mapping[TrustDomainName, DomainTarget] = field(default_factory=dict)
    workloads: Mapping[SubjectName, WorkloadTarget] = field(default_factory=dict)
    platform: PlatformTarget | None = None
    tokens: Mapping[SubjectName, TokenTarget] = field(default_factory=dict)
    signing_keys: Mapping[SubjectName, SigningKeyTarget] = field(default_factory=dict)

    def signed_by(self, keys: SubjectName) -> tuple[TokenTarget, ...]:
        """Return the managed tokens that the signing keys *keys* sign."""
        return tuple(each for each in self.tokens.values() if each.keys == keys)

    def relying_on(self, domain: TrustDomainName) -> tuple[CertificateTarget, ...]:
        """Return the certificates whose bundle holds *domain*, its own leaves' owners included."""
        return tuple(each for each in self.certificates.values() if domain in each.certificate.trusts)

    def beside(self, target: WorkloadTarget) -> tuple[WorkloadTarget, ...]:
        """Return the other parts of the Airflow that *target* is a part of; none if it is of none."""
        part = target.part
        if part is None:
            return ()
        return tuple(
            each
            for each in self.workloads.values()
            if each.name != target.name and each.part is not None and each.part.installation == part.installation
        )

    def rolled_with(self, workload: SubjectName) -> tuple[CertificateTarget, ...]:
        """Return the certificates that *workload* loads at its start."""
        return tuple(each for each in self.certificates.values() if workload in each.certificate.rolls)
