"""
How the file names trust domains and certificates.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- A certificate says where it is published and how its use is proven, side by side (law 16).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar, Literal

from pydantic import Field, StrictBool

from rotator.core.model import AtDeadline, KeyType
from rotator.settings.keys import Keys, OneOf
from rotator.settings.meshes import Mesh
from rotator.settings.values import (
    HTTPURL,
    SPIFFEID,
    AbsolutePath,
    ContentKey,
    DNSName,
    Duration,
    Endpoint,
    FileMode,
    GroupName,
    KubernetesKey,
    KubernetesName,
    KubernetesObjectName,
    LabelValue,
    Lifetime,
    Mount,
    Name,
    OpenText,
    PositiveDuration,
    Ratio,
    TrustDomainKey,
)

_SECOND = timedelta(seconds=1)
_HOUR = timedelta(hours=1)


class NameConstraints(Keys):
    """What a mesh CA may sign, written into its certificate."""

    permitted_dns: tuple[DNSName, ...] = ()
    """DNS names (and everything below them)."""


class AuthoritySettings(Keys):
    """The CA that signs the leaves; rotated through its generations."""

    mount: Mount | None = None
    """Standalone only: its own PKI mount, one for each trust domain."""
    role: OpenText | None = None
    """Standalone only: role of that mount that leaves are signed with."""
    lifetime: Lifetime
    """Of one generation; at least six times longest_leaf."""
    renew_at: Ratio = 0.5
    """Share of the lifetime after which the next rotation opens."""
    minimum_overlap: Duration = _HOUR
    """Shortest time in which old and new are both trusted; never delays activation."""
    key: KeyType = KeyType.ECDSA_P256
    """Kind of key; standalone it is made in the signer and never leaves it, for a mesh it is made here."""
    name_constraints: NameConstraints = NameConstraints()
    """Limits written into the CA certificate."""
    crl_interval: PositiveDuration = _HOUR
    """How long a revocation may take to reach relying parties."""


class TrustDeadline(Keys):
    """How long a CA rotation waits for acknowledgements, and what then."""

    after: PositiveDuration
    """Longest wait from publishing old and new."""
    then: AtDeadline = AtDeadline.HOLD
    """hold and alert, or proceed without the laggards."""
    at_most: int = Field(default=0, ge=0, strict=True)
    """With proceed: at most so many named parties are left behind."""


class TrustDomain(Keys):
    """One SPIFFE trust domain and its CA."""

    model: Literal["auto", "standalone", "provided", "identity"] = "auto"
    """How consumers learn whom to trust; auto: standalone without a mesh, else what the control plane shows."""
    issuer: Name
    """Which of the issuers signs its CAs."""
    ca: AuthoritySettings
    """The CA that signs the leaves."""
    longest_leaf: Lifetime
    """No leaf of this trust domain lives longer."""
    trust_deadline: TrustDeadline
    """How long a rotation waits for acknowledgements."""
    wave: int = Field(default=50, ge=1, strict=True)
    """Consumers moved in one step."""
    mesh: Mesh | None = None
    """The Kuma mesh whose control plane signs the leaves, if it has one."""


class DirectoryTarget(Keys):
    """A directory of PEM files, switched by one symlink."""

    shorthand: ClassVar[str] = "path"
    path: AbsolutePath
    """The directory; consumers read CURRENT/tls.crt, CURRENT/tls.key and CURRENT/ca.crt."""
    owner: GroupName | None = None
    """User that owns the files; rotator's own if not given."""
    group: GroupName | None = None
    """Group of the files."""
    key_mode: FileMode = Field(default=0o600, validate_default=False, json_schema_extra={"default": "0600"})
    """Mode of tls.key, octal."""


class KubernetesTarget(Keys):
    """An object of the cluster that rotator works in."""

    namespace: KubernetesName
    """Its namespace, which must exist."""
    name: KubernetesObjectName
    """Its name."""
    labels: Mapping[KubernetesKey, LabelValue] = Field(default_factory=dict)
    """Labels to put on it beside app.kubernetes.io/managed-by."""
    annotations: Mapping[KubernetesKey, str] = Field(default_factory=dict)
    """Annotations to put on it beside rotator's own."""
    adopt: StrictBool = False
    """Overwrite what somebody else has put at this name; without it that is refused."""


class KubernetesSecretTarget(KubernetesTarget):
    """A Secret of type kubernetes.io/tls: tls.crt, tls.key and ca.crt."""


class KubernetesConfigMapTarget(KubernetesTarget):
    """A ConfigMap that is given the trust bundle alone."""

    key: ContentKey = "ca.crt"
    """The key that holds the bundle."""


class PublishTarget(OneOf):
    """One place where the certificate is published."""

    directory: DirectoryTarget | None = None
    """PEM files on this machine."""
    kubernetes_secret: KubernetesSecretTarget | None = None
    """A Secret in the cluster."""
    kubernetes_configmap: KubernetesConfigMapTarget | None = None
    """The trust bundle alone, in a ConfigMap of the cluster."""


class EnvoyAdminProbe(Keys):
    """Envoy's own report of what it has loaded."""

    shorthand: ClassVar[str] = "url"
    url: HTTPURL
    """Address of the admin interface."""
    timeout: PositiveDuration = 5 * _SECOND
    """Of one request."""


class TLSProbe(Keys):
    """A handshake with the consumer's own server side."""

    shorthand: ClassVar[str] = "address"
    address: Endpoint
    """HOST:PORT where it serves."""
    server_name: DNSName | None = None
    """Server name to ask for."""
    presents: SPIFFEID | None = None
    """An identity that it admits; with it a bundle is proven by an answer to an unpublished leaf of the new CA."""
    timeout: PositiveDuration = 5 * _SECOND
    """Of one connection."""


class ReadBackProbe(Keys):
    """For consumers that open the files at every use: what is published is what they use."""


class ReportProbe(Keys):
    """A file in which the consumer says what it has loaded."""

    shorthand: ClassVar[str] = "path"
    path: AbsolutePath
    """JSON: {"serial": hex, "bundle": [hex]}."""


class ProbeSettings(OneOf):
    """One way to see what the consumer uses."""

    envoy_admin: EnvoyAdminProbe | None = None
    """Ask Envoy's admin interface."""
    tls: TLSProbe | None = None
    """Make a handshake with it."""
    read_back: ReadBackProbe | None = None
    """Read the publication back."""
    report: ReportProbe | None = None
    """Read the consumer's own report."""


class CertificateSettings(Keys):
    """One managed certificate."""

    trust_domain: TrustDomainKey
    """Whose CA signs it."""
    identity: SPIFFEID
    """Its SPIFFE ID."""
    dns_names: tuple[DNSName, ...] = ()
    """Further names."""
    lifetime: Lifetime
    """How long each certificate lives; at most the trust domain's longest_leaf."""
    renew_at: Ratio = 0.5
    """Share of the lifetime after which it is renewed; up to a tenth earlier, by the identity's hash."""
    key: KeyType = KeyType.ECDSA_P256
    """Kind of key; a new one for every certificate."""
    also_trust: tuple[TrustDomainKey, ...] = ()
    """Further trust domains whose CAs stand in its bundle."""
    publish: tuple[PublishTarget, ...] = Field(min_length=1)
    """Where key, chain and bundle are put."""
    probes: tuple[ProbeSettings, ...] = ()
    """How its use is proven."""
    rolls: tuple[Name, ...] = ()
    """Workloads that load it at their start and are rolled for it."""
    task_pods: bool = Field(default=False, strict=True)
    """
    Task pods of a Kubernetes executor mount it too. They are left alone: what was replaced is not revoked and counts as
    in use until it ends, and a new CA signs only when nobody can hold a bundle without it any more.
    """
