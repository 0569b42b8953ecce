"""
Certificates by ``Mesh.mtls``: the path of Kuma 2.x.

Rules that must stay true here:

- What each proxy was given is kept, and given again, until its own reason to renew comes: a secret's new content is
  none.
- A change of ``Mesh.mtls`` renews leaf and bundle; four fifths of a leaf's life and changed tags renew the leaf alone,
  signed by whatever the secrets hold then, beside the old bundle.
- A proxy that connects anew gets both afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.fakes.kuma.admission import BUILTIN, builtin_secrets, duration, enabled_backend
from tests.fakes.kuma.limiter import Limiter
from tests.fakes.kuma.reading import CachedReading
from tests.fakes.kuma.signing import BadPair, KeyPair, sign_leaf
from tests.fakes.kuma.store import Json, Resource

DEFAULT_LIFETIME = timedelta(hours=24)

Tags = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyCertificates:
    """What one proxy was given."""

    mtls: Json
    """The settings under which the bundle was made."""
    tags: Tags
    backend: str
    pair: KeyPair
    bundle: str

    def is_expiring(self, now: datetime) -> bool:
        """Return whether four fifths of the leaf's life are over."""
        return now > self.pair.issued_at + (self.pair.not_after - self.pair.issued_at) * 4 / 5


class LegacyPath:
    """Issues by ``Mesh.mtls`` and remembers for each proxy what it issued."""

    def __init__(self, reading: CachedReading, limiter: Limiter) -> None:
        self._reading = reading
        self._limiter = limiter
        self._kept: dict[str, LegacyCertificates] = {}

    def forget(self, proxy: str) -> None:
        """Drop what *proxy* was given: its stream is closed."""
        self._kept.pop(proxy, None)

    def certificates(self, proxy: str, mesh: Resource, tags: Tags, now: datetime) -> LegacyCertificates | None:
        """
        Return what *proxy* is given now, None if mTLS is off.

        Raises:
            BadPair: If it had to be issued something and could not be; the proxy keeps what it runs.
        """
        backend = enabled_backend(mesh.spec)
        if backend is None:
            return None
        kept = self._kept.get(proxy)
        everything = kept is None or kept.mtls != mesh.spec["mtls"]
        if kept is not None and not everything and tags == kept.tags and not kept.is_expiring(now):
            return kept
        key = f"{mesh.name}/{backend['name']}"
        if not self._limiter.allows(key, proxy, now):
            raise BadPair("certificate generation is backing off")
        try:
            certificate_pem, key_pem = self._pair(mesh.name, backend)
            pair = self._leaf(mesh.name, backend, certificate_pem, key_pem, tags, now)
        except BadPair:
            self._limiter.failed(key, proxy, now)
            raise
        self._limiter.succeeded(key, proxy)
        if kept is None or everything:
            fresh = LegacyCertificates(
                mtls=mesh.spec["mtls"],
                tags=tags,
                backend=backend["name"],
                pair=pair,
                bundle=certificate_pem.decode(errors="replace"),
            )
        else:
            fresh = LegacyCertificates(
                mtls=kept.mtls, tags=tags, backend=backend["name"], pair=pair, bundle=kept.bundle
            )
        self._kept[proxy] = fresh
        return fresh

    def bundle(self, mesh: Resource) -> str | None:
        """Return what the secrets hold as bundle now, None if mTLS is off or nothing can be read."""
        backend = enabled_backend(mesh.spec)
        try:
            return None if backend is None else self._pair(mesh.name, backend)[0].decode(errors="replace")
        except BadPair:
            return None

    def _pair(self, mesh: str, backend: Json) -> tuple[bytes, bytes]:
        if backend.get("type") == BUILTIN:
            names = builtin_secrets(mesh, backend["name"])
            certificate_pem, key_pem = (self._reading.secret(mesh, name) for name in names)
        else:
            conf = backend.get("conf") or {}
            certificate_pem, key_pem = (self._reading.source(mesh, conf.get(part) or {}) for part in ("cert", "key"))
        if certificate_pem is None or key_pem is None:
            raise BadPair(f"failed to load CA key pair for Mesh {mesh!r} and backend {backend['name']!r}")
        return certificate_pem, key_pem

    def _leaf(
        self, mesh: str, backend: Json, certificate_pem: bytes, key_pem: bytes, tags: Tags, now: datetime
    ) -> KeyPair:
        text = ((backend.get("dpCert") or {}).get("rotation") or {}).get("expiration", "")
        uris = [f"spiffe://{mesh}/{service}" for service in tags.get("kuma.io/service", ())]
        uris += [f"kuma://{tag}/{value}" for tag, values in sorted(tags.items()) for value in values]
        lifetime = duration(text) or DEFAULT_LIFETIME
        return sign_leaf(certificate_pem, key_pem, uris=uris, lifetime=lifetime, now=now, like_ca=False)
