"""
What a control plane wants one proxy to run: an identity, a trust, and how to speak to whom.

Rules that must stay true here:

- Pure data, and its JSON: it travels to a data plane in the same process or in another one.
- The private key never shows in a ``repr``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tests.fakes.kuma.store import Json


class Inbound(StrEnum):
    """What an inbound takes."""

    PLAINTEXT = "plaintext"
    STRICT = "strict"
    PERMISSIVE = "permissive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The leaf, alone, and its key, under the name that the proxy knows the secret by."""

    name: str
    certificate_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What peers are verified with: one blob without trust domains, or one blob for each trust domain."""

    name: str
    trusted_ca: str | None = None
    by_trust_domain: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One other service as this proxy reaches it."""

    addresses: tuple[tuple[str, int], ...]
    tls: bool
    identities: tuple[str, ...] = ()
    """The SPIFFE IDs of which the other side must show one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """One proxy's whole configuration, with its version."""

    version: str
    identity: Identity | None = None
    trust: Trust | None = None
    inbound: Inbound = Inbound.PLAINTEXT
    peers: tuple[str, ...] = ()
    """Prefixes of the SPIFFE IDs that the inbound takes."""
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)

    def as_json(self) -> Json:
        """Return it as it travels."""
        return {
            "version": self.version,
            "identity": self.identity
            and {
                "name": self.identity.name,
                "certificate_pem": self.identity.certificate_pem,
                "key_pem": self.identity.key_pem,
            },
            "trust": self.trust
            and {
                "name": self.trust.name,
                "trusted_ca": self.trust.trusted_ca,
                "by_trust_domain": dict(self.trust.by_trust_domain),
            },
            "inbound": self.inbound.value,
            "peers": list(self.peers),
            "upstreams": {
                service: {"addresses": list(up.addresses), "tls": up.tls, "identities": list(up.identities)}
                for service, up in self.upstreams.items()
            },
        }

    @classmethod
    def from_json(cls, raw: Json) -> Desired:
        """Return what `as_json` made."""
        return cls(
            version=raw["version"],
            identity=Identity(**raw["identity"]) if raw["identity"] else None,
            trust=Trust(**raw["trust"]) if raw["trust"] else None,
            inbound=Inbound(raw["inbound"]),
            peers=tuple(raw["peers"]),
            upstreams={
                service: Upstream(
                    addresses=tuple((host, port) for host, port in up["addresses"]),
                    tls=up["tls"],
                    identities=tuple(up["identities"]),
                )
                for service, up in raw["upstreams"].items()
            },
        )
