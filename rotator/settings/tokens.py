"""
How the file names tokens of a Kuma control plane and the keys that sign them.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- What a token may be used for is said here and compared with what comes back; the token itself never stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt

from rotator.settings.keys import Keys, OneOf
from rotator.settings.trust import KubernetesTarget
from rotator.settings.values import (
    AbsolutePath,
    Duration,
    FileMode,
    GroupName,
    KubernetesName,
    Lifetime,
    OpenText,
    PositiveDuration,
    Ratio,
    TrustDomainKey,
)

_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)


class DataplaneGrant(Keys):
    """What a proxy's token is good for; each key that is given limits it."""

    name: OpenText | None = None
    """The one Dataplane that may use it."""
    mesh: KubernetesName | None = None
    """Its mesh; that of the trust domain if not given."""
    tags: Mapping[OpenText, tuple[OpenText, ...]] = Field(default_factory=dict)
    """Tags that the proxy may carry, each with the values that are allowed."""
    type: Literal["dataplane"] | None = None
    """Kind of proxy; any that such a token is for if not given."""
    workload: OpenText | None = None
    """The workload (label kuma.io/workload) that the proxy belongs to; 2.14.2 and later."""


class ZoneGrant(Keys):
    """What a zone's token is good for."""

    zone: OpenText
    """The zone's name."""
    scope: tuple[Literal["ingress", "egress", "cp"], ...] = ()
    """Which parts of the zone may use it; 2.x asks for at least one."""


class UserGrant(Keys):
    """What a user's token is good for."""

    name: OpenText
    """The user's name."""
    groups: tuple[OpenText, ...] = ()
    """The user's groups, to which the control plane gives rights."""


class TokenDirectoryTarget(Keys):
    """A directory that holds the token, switched by one symlink."""

    shorthand: ClassVar[str] = "path"
    path: AbsolutePath
    """The directory; consumers read CURRENT/token."""
    owner: GroupName | None = None
    """User that owns the file; rotator's own if not given."""
    group: GroupName | None = None
    """Group of the file."""
    mode: FileMode = Field(default=0o600, validate_default=False, json_schema_extra={"default": "0600"})
    """Mode of the token's file, octal."""


class TokenSecretTarget(KubernetesTarget):
    """A Secret of type Opaque with the token under the key token."""


class TokenPublishTarget(OneOf):
    """One place where the token is published."""

    directory: TokenDirectoryTarget | None = None
    """A file on this machine."""
    kubernetes_secret: TokenSecretTarget | None = None
    """A Secret in the cluster."""


class TokenSettings(Keys):
    """One managed token, exactly one of dataplane, zone and user."""

    trust_domain: TrustDomainKey
    """The trust domain whose mesh's control plane issues it."""
    dataplane: DataplaneGrant | None = None
    """A proxy's token."""
    zone: ZoneGrant | None = None
    """A zone's token."""
    user: UserGrant | None = None
    """A user's token."""
    lifetime: Lifetime
    """How long each token lives."""
    renew_at: Ratio = 0.5
    """Share of the lifetime after which it is renewed; up to a tenth earlier, by a hash of its name."""
    revoke: StrictBool = True
    """Put what is replaced and lives on upon the control plane's revocation list; an administrator's right."""
    revoke_after: Duration = 2 * _MINUTE
    """How long after its replacement was published; a Secret takes up to two minutes to reach running pods."""
    publish: tuple[TokenPublishTarget, ...] = Field(min_length=1)
    """Where the token is put."""


class SigningKeySettings(Keys):
    """The keys that sign one kind of tokens, rotated by serial."""

    trust_domain: TrustDomainKey
    """The trust domain whose mesh's control plane holds them."""
    signs: Literal["dataplane", "zone", "user"]
    """Which tokens they sign; dataplane: those of the trust domain's mesh."""
    rotate_every: PositiveDuration
    """Age of the newest key at which a rotation opens; up to a tenth earlier, by a hash of its name."""
    known_after: Duration = 30 * _SECOND
    """How long a new key takes to be known by every control plane that checks tokens, zones included."""
    others_live: Duration
    """Your word: no token that rotator does not manage lives longer than this; 0s: there is none at all."""
    first_serial: StrictInt = Field(default=1, ge=1)
    """Where the control plane is on Kubernetes: the lowest serial that rotator looks after; its rights name 64 keys."""
