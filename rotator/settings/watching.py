"""
How the file names certificates that rotator does not manage and should keep an eye on.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- What takes a wide right says so in a word of its own (``allow_list``).
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from rotator.settings.keys import Keys
from rotator.settings.values import (
    AbsolutePath,
    DNSName,
    Endpoint,
    KubernetesName,
    KubernetesObjectName,
    Mount,
    Name,
    OpenText,
    PositiveDuration,
    Ratio,
    refused,
)

_KINDS: Final = ("kubernetes_secret", "kubernetes_secrets", "vault_issuer", "tls", "file")


class WatchedSecret(Keys):
    """One Secret by name."""

    namespace: KubernetesName
    """Its namespace."""
    name: KubernetesObjectName
    """Its name; what stands under tls.crt is looked at."""


class WatchedSecrets(Keys):
    """Every Secret of type kubernetes.io/tls with some labels."""

    namespaces: tuple[KubernetesName, ...] = Field(min_length=1)
    """Where to look."""
    selector: OpenText
    """Labels as kubectl takes them, as app=web,tier!=test."""
    allow_list: Literal[True]
    """Must be true: to find Secrets by label, rotator may list, and so read, every Secret of these namespaces."""


class WatchedIssuer(Keys):
    """An issuer at Vault, with everything above it."""

    issuer: Name
    """Which of the issuers says how to reach that Vault."""
    mount: Mount
    """Its mount."""
    name: OpenText
    """Its name or id there."""


class WatchedEndpoint(Keys):
    """What a TLS server presents, the whole chain."""

    shorthand: ClassVar[str] = "address"
    address: Endpoint
    """HOST:PORT where it serves, with TLS from the first byte on."""
    server_name: DNSName | None = None
    """Server name to ask for; the host of its address if not given."""
    timeout: PositiveDuration = timedelta(seconds=5)
    """Of one connection."""


class WatchedFile(Keys):
    """A PEM file on this machine."""

    shorthand: ClassVar[str] = "path"
    path: AbsolutePath
    """The file; a private key in it is passed over."""


class WatchSettings(Keys):
    """One entry, exactly one of the kinds."""

    kubernetes_secret: WatchedSecret | None = None
    """A Secret by name."""
    kubernetes_secrets: WatchedSecrets | None = None
    """Secrets by label."""
    vault_issuer: WatchedIssuer | None = None
    """An issuer at Vault."""
    tls: WatchedEndpoint | None = None
    """A TLS server."""
    file: WatchedFile | None = None
    """A PEM file."""
    every: PositiveDuration = timedelta(hours=1)
    """How often it is looked at while all is well; twelve times as often while it alerts."""
    unreachable_after: PositiveDuration = timedelta(minutes=15)
    """How long it may not be seen before people are told."""
    expiry_ratio_warning: Ratio | None = None
    """Share of its lifetime that is used up: warning; as under alerts if not given."""
    expiry_ratio_critical: Ratio | None = None
    """The same: critical."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise refused(f"exactly one of {' | '.join(_KINDS)}", "choose one" if given else "name one")
        return self

    @property
    def kind(self) -> str:
        """Return the one kind that is given."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)
