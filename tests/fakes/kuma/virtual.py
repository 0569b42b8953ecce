"""
Proxies without Envoys: what they were given, and whether two of them could speak.

Rules that must stay true here:

- A connection is judged as Envoy would: with ``trusted_ca`` an intermediate is an anchor by itself; a trust domain's
  validator wants a path to a self-signed root; of two CAs that a leaf cannot tell apart only the first is tried.
- The dump has the shape of a real one, so whoever reads it needs no second way.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography import x509

from rotator.core.model import IssuerId
from rotator.errors import Rejected
from rotator.pki.certificates import authority_key_id, subject_key_id, uri_names
from rotator.pki.chain import verify
from tests.fakes.kuma.connections import ProxySilent
from tests.fakes.kuma.desired import Desired, Inbound, Trust
from tests.fakes.kuma.envoy_config import LOOPBACK, TYPE, Ports, clusters_of, listeners_of, secrets_of
from tests.fakes.kuma.store import Json

_ADMIN = "type.googleapis.com/envoy.admin.v3"


class Meeting(StrEnum):
    """What becomes of a new connection."""

    MTLS = "mtls"
    PLAINTEXT = "plaintext"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Encounter:
    """A new connection's fate, and why it is refused."""

    meeting: Meeting
    reason: str = ""


class VirtualProxy:
    """One proxy of this process: it runs what it was given last."""

    def __init__(
        self, mesh: str, name: str, service: str, ports: Ports, *, zone: str, labels: Mapping[str, str]
    ) -> None:
        self.mesh = mesh
        self.name = name
        self.service = service
        self.ports = ports
        self.zone = zone
        self.labels = dict(labels)
        self.runs: Desired | None = None
        self.connection: str | None = None
        self.is_stopped = False
        self.is_frozen = False
        """Takes no configuration and answers none; the control plane still reads what it runs."""
        self.is_mute = False
        """Takes configuration, but its admin interface does not answer."""

    @property
    def leaf(self) -> x509.Certificate | None:
        """Return the leaf that it serves, None if it serves none."""
        if self.runs is None or self.runs.identity is None:
            return None
        return _certificates(self.runs.identity.certificate_pem)[0]

    @property
    def leaf_issuer(self) -> IssuerId | None:
        """Return the authority key identifier of the leaf that it serves."""
        leaf = self.leaf
        return authority_key_id(leaf) if leaf is not None else None

    def admin(self, what: str) -> bytes:
        """Answer as Envoy's admin interface does. Raises `ProxySilent` if it does not."""
        if self.is_mute or self.connection is None:
            raise ProxySilent(f"{self.name} did not answer")
        if what != "config_dump":
            return b""
        return json.dumps(self.config_dump()).encode()

    def config_dump(self) -> Json:
        """Return its whole configuration as Envoy dumps it."""
        runs = self.runs or Desired(version="")

        def source(_name: str) -> Json:
            return {"ads": {}}

        listeners = listeners_of(runs, self.ports, source, service=self.service) if self.runs else []
        clusters = clusters_of(runs, self.ports, source) if self.runs else []
        stamp: Json = {"version_info": runs.version, "last_updated": "2030-01-01T00:00:00Z"}
        return {
            "configs": [
                {
                    TYPE: f"{_ADMIN}.ClustersConfigDump",
                    "dynamic_active_clusters": [{**stamp, "cluster": cluster} for cluster in clusters],
                },
                {
                    TYPE: f"{_ADMIN}.ListenersConfigDump",
                    "dynamic_listeners": [
                        {"name": listener["name"], "active_state": {**stamp, "listener": listener}}
                        for listener in listeners
                    ],
                },
                {
                    TYPE: f"{_ADMIN}.SecretsConfigDump",
                    "dynamic_active_secrets": [
                        {"name": name, **stamp, "secret": secret}
                        for name, secret in secrets_of(runs, redacted=True).items()
                    ],
                },
            ]
        }


def meet(client: VirtualProxy, server: VirtualProxy, now: datetime) -> Encounter:
    """Return what becomes of a new connection from *client*'s workload to *server*."""
    if client.runs is None or server.runs is None:
        return Encounter(Meeting.REFUSED, "one of them has no configuration")
    upstream = client.runs.upstreams.get(server.service)
    if upstream is None or (LOOPBACK, server.ports.inbound) not in upstream.addresses:
        return Encounter(Meeting.REFUSED, f"{client.name} knows no way to {server.name}")
    speaks_tls = upstream.tls and client.runs.identity is not None and client.runs.trust is not None
    if not speaks_tls:
        if server.runs.inbound is Inbound.STRICT:
            return Encounter(Meeting.REFUSED, f"{server.name} takes no plaintext")
        return Encounter(Meeting.PLAINTEXT)
    if server.runs.inbound is Inbound.PLAINTEXT:
        return Encounter(Meeting.REFUSED, f"{server.name} speaks no TLS")
    problem = _problem(server, client.runs.trust, lambda uri: uri in upstream.identities, now)
    if problem is None:
        peers = server.runs.peers
        problem = _problem(client, server.runs.trust, lambda uri: uri.startswith(peers), now)
    return Encounter(Meeting.REFUSED, problem) if problem is not None else Encounter(Meeting.MTLS)


def _problem(shown_by: VirtualProxy, trust: Trust | None, expects: Callable[[str], bool], now: datetime) -> str | None:
    leaf = shown_by.leaf
    if leaf is None or trust is None:
        return f"{shown_by.name} shows no leaf"
    names = uri_names(leaf)
    if not any(expects(uri) for uri in names):
        return f"{shown_by.name} is not who was expected: {', '.join(names)}"
    if trust.trusted_ca is not None:
        return _chain_problem(leaf, trust.trusted_ca, now, to_root=False)
    domain = names[0].removeprefix("spiffe://").partition("/")[0]
    blob = trust.by_trust_domain.get(domain)
    return f"nobody is trusted for {domain}" if blob is None else _chain_problem(leaf, blob, now, to_root=True)


@functools.lru_cache(maxsize=1024)
def _chain_problem(leaf: x509.Certificate, blob: str, now: datetime, *, to_root: bool) -> str | None:
    """Return why *leaf* does not verify under *blob*; one answer serves all pairs of one moment."""
    try:
        bundle = _told_apart(blob)
        roots = [each for each in bundle if each.subject == each.issuer] if to_root else bundle
        verify([leaf, *(each for each in bundle if each not in roots)], roots, now)
    except (Rejected, ValueError) as e:
        return str(e)
    return None


@functools.lru_cache(maxsize=4096)
def _certificates(pem: str) -> tuple[x509.Certificate, ...]:
    """Return every certificate of *pem*; parsed once, for every pair is judged again and again."""
    return tuple(x509.load_pem_x509_certificates(pem.encode()))


def _told_apart(pem: str) -> list[x509.Certificate]:
    """Return the first of all that share subject and key id: the library stops at it, however wrong."""
    first: dict[tuple[bytes, IssuerId | None], x509.Certificate] = {}
    for certificate in _certificates(pem):
        first.setdefault((certificate.subject.public_bytes(), subject_key_id(certificate)), certificate)
    return list(first.values())
