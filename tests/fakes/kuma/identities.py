"""
Certificates by MeshIdentity, and the conditions that say whether one may issue.

Rules that must stay true here:

- Selection looks at labels and names only: the winner need not be Ready, and then its proxies have no identity.
- A CA pair is kept for five seconds under the identity's *name*; a secret's new content renews nobody.
- On 2.x every write to an identity, its status included, renews its proxies' leaves; on 3.x only what it says and
  whether it is Ready.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.fakes.kuma.admission import go_duration
from tests.fakes.kuma.limiter import Limiter
from tests.fakes.kuma.reading import CachedReading
from tests.fakes.kuma.signing import BadPair, KeyPair, sign_leaf
from tests.fakes.kuma.store import Json, Resource
from tests.fakes.kuma.timings import Timings

_PLACEHOLDER = re.compile(r"\{\{\s*(?:\.(\w+)|label\s+\"([^\"]+)\")\s*\}\}")
_PATHS = {"universal": "/workload/{{ .Workload }}", "kubernetes": "/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}"}

ZONE_LABEL = "kuma.io/zone"
_NAMESPACE_LABEL = "k8s.kuma.io/namespace"
_PLACES = {
    "Zone": ZONE_LABEL,
    "Namespace": _NAMESPACE_LABEL,
    "ServiceAccount": "k8s.kuma.io/service-account",
    "Workload": "kuma.io/workload",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one proxy was given by a MeshIdentity."""

    kri: str
    hash: str
    spiffe_id: str
    pair: KeyPair

    def is_expiring(self, now: datetime) -> bool:
        """Return whether four fifths of the leaf's life are over."""
        return now > self.pair.issued_at + (self.pair.not_after - self.pair.issued_at) * 4 / 5


def kri(short: str, resource: Resource) -> str:
    """Return the resource's identifier as insights and secrets name it."""
    zone, namespace = resource.labels.get(ZONE_LABEL, ""), resource.labels.get(_NAMESPACE_LABEL, "")
    name = resource.labels.get("kuma.io/display-name", resource.name)
    return f"kri_{short}_{resource.mesh}_{zone}_{namespace}_{name}_"


def is_ready(identity: Resource) -> bool:
    """Return whether the identity's own conditions call it Ready."""
    conditions = (identity.status or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def selected(labels: Mapping[str, str], identities: Sequence[Resource]) -> Resource | None:
    """Return the identity that wins for a proxy with *labels*: most labels, then the smallest name."""
    matches = []
    for identity in identities:
        dataplane = (identity.spec.get("selector") or {}).get("dataplane")
        wanted = (dataplane or {}).get("matchLabels") or {}
        if dataplane is not None and all(labels.get(key) == value for key, value in wanted.items()):
            matches.append((-len(wanted), identity.name, identity))
    return min(matches, key=lambda match: match[:2])[2] if matches else None


def trust_domain(identity: Resource, zone: str) -> str:
    """Return the trust domain that *identity* issues in."""
    template = (identity.spec.get("spiffeID") or {}).get("trustDomain") or "{{ .Mesh }}.{{ .Zone }}.mesh.local"
    return _rendered(template, identity.mesh, {ZONE_LABEL: zone, **identity.labels})


def _rendered(template: str, mesh: str, labels: Mapping[str, str]) -> str:
    def place(match: re.Match[str]) -> str:
        if match[1] == "Mesh":
            return mesh
        key = match[2] or _PLACES.get(match[1], "")
        if key not in labels:
            raise BadPair(f"executing template failed: label {key or match[1]} not found")
        return labels[key]

    return _PLACEHOLDER.sub(place, template)


class IdentityPath:
    """Issues by MeshIdentity and remembers for each proxy what it issued."""

    def __init__(
        self,
        reading: CachedReading,
        limiter: Limiter,
        timings: Timings,
        *,
        environment: str,
        zone: str,
        major: int,
    ) -> None:
        self._reading = reading
        self._limiter = limiter
        self._timings = timings
        self._environment = environment
        self._zone = zone
        self._major = major
        self._kept: dict[str, Workload] = {}
        self._pairs: dict[tuple[str, str], tuple[datetime, bytes, bytes]] = {}

    @property
    def default_lifetime(self) -> timedelta:
        """Return how long a leaf lives where the identity does not say."""
        return timedelta(days=5) if self._major >= 3 else timedelta(hours=24)

    def forget(self, proxy: str) -> None:
        """Drop what *proxy* was given: its stream is closed."""
        self._kept.pop(proxy, None)

    def workload(
        self, proxy: str, labels: Mapping[str, str], identities: Sequence[Resource], now: datetime
    ) -> Workload | None:
        """
        Return what *proxy* is given now; None if no identity selects it, or the one that does is not Ready.

        Raises:
            BadPair: If it had to be issued something and could not be; the proxy keeps what it runs.
        """
        identity = selected(labels, identities)
        if identity is None or not is_ready(identity):
            self._kept.pop(proxy, None)
            return None
        fingerprint = self._fingerprint(identity)
        kept = self._kept.get(proxy)
        if kept is not None and kept.hash == fingerprint and not kept.is_expiring(now):
            return kept
        key = kri("mid", identity)
        if not self._limiter.allows(key, proxy, now):
            raise BadPair("certificate generation is backing off")
        try:
            fresh = self._issue(identity, labels, fingerprint, now)
        except BadPair:
            self._limiter.failed(key, proxy, now)
            raise
        self._limiter.succeeded(key, proxy)
        self._kept[proxy] = fresh
        return fresh

    def spiffe_id(self, identity: Resource, labels: Mapping[str, str]) -> str:
        """Return what a proxy with *labels* is called by *identity*. Raises `BadPair` if a label is missing."""
        domain = trust_domain(identity, self._zone)
        path = (identity.spec.get("spiffeID") or {}).get("path") or _PATHS[self._environment]
        return f"spiffe://{domain}{_rendered(path, identity.mesh, {ZONE_LABEL: self._zone, **labels})}"

    def certificate(self, identity: Resource) -> bytes | None:
        """Return the CA blob that the identity names, None if it cannot be read."""
        return self._reading.source(identity.mesh, _ca(identity).get("certificate") or {})

    def _fingerprint(self, identity: Resource) -> str:
        said: Json = {"name": identity.name, "spec": identity.spec, "labels": identity.labels}
        said |= {"ready": is_ready(identity)} if self._major >= 3 else {"version": identity.version}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _issue(self, identity: Resource, labels: Mapping[str, str], fingerprint: str, now: datetime) -> Workload:
        certificate_pem, key_pem = self._pair(identity, now)
        spiffe_id = self.spiffe_id(identity, labels)
        parameters = (identity.spec["provider"].get("bundled") or {}).get("certificateParameters") or {}
        lifetime = go_duration(parameters.get("expiry") or "") or self.default_lifetime
        pair = sign_leaf(certificate_pem, key_pem, uris=[spiffe_id], lifetime=lifetime, now=now, like_ca=True)
        return Workload(kri=kri("mid", identity), hash=fingerprint, spiffe_id=spiffe_id, pair=pair)

    def _pair(self, identity: Resource, now: datetime) -> tuple[bytes, bytes]:
        cached = self._pairs.get((identity.mesh, identity.name))
        if cached is not None and cached[0] <= now < cached[0] + self._timings.ca_cache:
            return cached[1:]
        sources = _ca(identity)
        certificate_pem = self._reading.source(identity.mesh, sources.get("certificate") or {})
        key_pem = self._reading.source(identity.mesh, sources.get("privateKey") or {})
        if certificate_pem is None or key_pem is None:
            raise BadPair(f"failed to load the CA of MeshIdentity {identity.name!r}")
        self._pairs[identity.mesh, identity.name] = (now, certificate_pem, key_pem)
        return certificate_pem, key_pem


def autogenerated_secrets(identity: str) -> tuple[str, str]:
    """Return the names of the secrets in which an autogenerated CA lives: certificate, key."""
    return f"{identity}-root-ca", f"{identity}-private-key"


def _ca(identity: Resource) -> Json:
    bundled = (identity.spec.get("provider") or {}).get("bundled") or {}
    if (bundled.get("autogenerate") or {}).get("enabled"):
        names = autogenerated_secrets(identity.name)
        parts = ("certificate", "privateKey")
        return {
            part: {"type": "Secret", "secretRef": {"kind": "Secret", "name": name}}
            for part, name in zip(parts, names, strict=True)
        }
    return bundled.get("ca") or {}
