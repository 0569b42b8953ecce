"""
What a control plane wants one proxy to run: an identity, a trust, and how to speak to whom.

Rules that must stay true here:

- Pure data, and its JSON: it travels to a data plane in the same process or in another one.
- The private key never shows in a ``repr``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
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
class URIMatch:
    """What one URI of a certificate must be, or begin with."""

    value: str
    is_prefix: bool = False

    def holds(self, uris: Iterable[str]) -> bool:
        """Return whether one of *uris* matches."""
        return any(uri.startswith(self.value) if self.is_prefix else uri == self.value for uri in uris)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Clients: those whose certificate has *every* match, unless it has all of one of the others. Without any: all."""

    every: tuple[URIMatch, ...] = ()
    unless: tuple[tuple[URIMatch, ...], ...] = ()

    def holds(self, uris: tuple[str, ...]) -> bool:
        """Return whether a client with *uris* in its certificate is meant."""
        excepted = any(all(match.holds(uris) for match in each) for each in self.unless)
        return all(match.holds(uris) for match in self.every) and not excepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may call: whoever is allowed and not denied."""

    deny: tuple[Principal, ...] = ()
    allow: tuple[Principal, ...] = ()
    shadow: tuple[Principal, ...] = ()
    """Allowed, and counted as if it were denied."""

    def admits(self, uris: tuple[str, ...]) -> bool:
        """Return whether a client with *uris* in its certificate may call."""
        if any(each.holds(uris) for each in self.deny):
            return False
        return any(each.holds(uris) for each in (*self.allow, *self.shadow))

    @classmethod
    def from_json(cls, raw: Json) -> Access:
        """Return what ``asdict`` made."""

        def matches(said: Iterable[Json]) -> tuple[URIMatch, ...]:
            return tuple(URIMatch(**each) for each in said)

        def principals(said: Iterable[Json]) -> tuple[Principal, ...]:
            return tuple(
                Principal(every=matches(each["every"]), unless=tuple(matches(one) for one in each["unless"]))
                for each in said
            )

        return cls(**{name: principals(raw[name]) for name in ("deny", "allow", "shadow")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Requests that a match takes (a connection has none), and the clusters that share them by weight; none: 500."""

    match: Json
    clusters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """Where a proxy's own workload reaches one service, and how what it sends is routed."""

    address: str
    port: int
    name: str
    is_http: bool
    routes: tuple[Route, ...]

    @classmethod
    def from_json(cls, raw: Json) -> Outbound:
        """Return what ``asdict`` made."""
        routes = tuple(
            Route(match=each["match"], clusters=tuple((name, weight) for name, weight in each["clusters"]))
            for each in raw["routes"]
        )
        return cls(**{**raw, "routes": routes})


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
    access: Access | None = None
    """Who may call its inbound; None where there are no identities to tell callers apart by."""
    outbounds: tuple[Outbound, ...] = ()
    """Those that its Dataplane leads to a MeshService; those by tags are known to the data plane itself."""
    access_logs: tuple[Json, ...] = ()
    """What the mesh's policies want written of each request, as Envoy takes it."""

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
            "access": self.access and asdict(self.access),
            "outbounds": [asdict(each) for each in self.outbounds],
            "access_logs": list(self.access_logs),
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
            access=Access.from_json(raw["access"]) if raw["access"] else None,
            outbounds=tuple(Outbound.from_json(each) for each in raw["outbounds"]),
            access_logs=tuple(raw["access_logs"]),
        )
