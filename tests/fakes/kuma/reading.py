"""
How a control plane reads its own store: through a cache, so that a write is seen a second later.

Rules that must stay true here:

- The documents of a mesh are one snapshot; each secret is cached by itself, so a certificate and its key can be read
  from two different moments.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rotator.ports import Clock
from tests.fakes.kuma.store import (
    ACCESS_LOG,
    DATAPLANE,
    HTTP_ROUTE,
    IDENTITY,
    INSIGHT,
    MESH,
    MESH_TLS,
    PERMISSION,
    SECRET,
    SERVICE,
    TCP_ROUTE,
    TRUST,
    Json,
    Resource,
    Store,
)
from tests.fakes.kuma.timings import Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshContext:
    """What was true of one mesh when it was last read."""

    mesh: Resource
    identities: tuple[Resource, ...]
    trusts: tuple[Resource, ...]
    tls: tuple[Resource, ...]
    dataplanes: tuple[Resource, ...]
    insights: tuple[Resource, ...]
    services: tuple[Resource, ...] = ()
    permissions: tuple[Resource, ...] = ()
    http_routes: tuple[Resource, ...] = ()
    tcp_routes: tuple[Resource, ...] = ()
    access_logs: tuple[Resource, ...] = ()


class CachedReading:
    """The store through the control plane's own cache."""

    def __init__(self, store: Store, clock: Clock, timings: Timings) -> None:
        self._store = store
        self._clock = clock
        self._timings = timings
        self._contexts: dict[str, tuple[datetime, MeshContext | None]] = {}
        self._secrets: dict[tuple[str, str], tuple[datetime, bytes | None]] = {}

    def context(self, mesh: str) -> MeshContext | None:
        """Return the mesh as it was at most one cache time ago, None if there is none."""
        now = self._clock.now()
        cached = self._contexts.get(mesh)
        if cached is None or self._is_old(cached[0], now):
            cached = (now, self._read(mesh))
            self._contexts[mesh] = cached
        return cached[1]

    def secret(self, mesh: str, name: str) -> bytes | None:
        """Return a secret's content as it was at most one cache time ago."""
        now = self._clock.now()
        cached = self._secrets.get((mesh, name))
        if cached is None or self._is_old(cached[0], now):
            cached = (now, secret_content(self._store, mesh, name))
            self._secrets[mesh, name] = cached
        return cached[1]

    def source(self, mesh: str, source: Json) -> bytes | None:
        """Return what a data source holds, in either of Kuma's two shapes; None if it cannot be read."""
        return read_source(source, lambda name: self.secret(mesh, name))

    def _is_old(self, read_at: datetime, now: datetime) -> bool:
        return not read_at <= now < read_at + self._timings.store_cache

    def _read(self, mesh: str) -> MeshContext | None:
        found = self._store.get(MESH, "", mesh)
        if found is None:
            return None
        return MeshContext(
            mesh=found,
            identities=self._store.list(IDENTITY, mesh),
            trusts=self._store.list(TRUST, mesh),
            tls=self._store.list(MESH_TLS, mesh),
            dataplanes=self._store.list(DATAPLANE, mesh),
            insights=self._store.list(INSIGHT, mesh),
            services=self._store.list(SERVICE, mesh),
            permissions=self._store.list(PERMISSION, mesh),
            http_routes=self._store.list(HTTP_ROUTE, mesh),
            tcp_routes=self._store.list(TCP_ROUTE, mesh),
            access_logs=self._store.list(ACCESS_LOG, mesh),
        )


def secret_content(store: Store, mesh: str, name: str) -> bytes | None:
    """Return what a secret holds now, None if it is absent."""
    found = store.get(SECRET, mesh, name)
    return None if found is None else base64.b64decode(found.spec.get("data") or "")


def read_source(source: Json, secret: Callable[[str], bytes | None]) -> bytes | None:
    """Return what a data source holds: ``{secret: …}`` of a Mesh, ``{type: Secret, secretRef: …}`` of an identity."""
    try:
        match source:
            case {"secret": str(name)} | {"secretRef": {"name": str(name)}}:
                return secret(name)
            case {"inline": str(text)}:
                return base64.b64decode(text)
            case {"inlineString": str(text)} | {"insecureInline": {"value": str(text)}}:
                return text.encode()
            case {"file": str(path)} | {"file": {"path": str(path)}}:
                return Path(path).read_bytes()
            case _:
                return None
    except (OSError, ValueError):
        return None
