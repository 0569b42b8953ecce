"""
What a control plane keeps: resources by type, mesh and name.

Rules that must stay true here:

- What is handed out is a copy: nobody changes the store by changing what was read.
- A write is whole: a file store is replaced at once, so a killed control plane comes back with all of it or the one
  before.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

Json = dict[str, Any]

MESH = "Mesh"
SECRET = "Secret"  # noqa: S105 -- the name of a kind of resource
GLOBAL_SECRET = "GlobalSecret"  # noqa: S105 -- the name of a kind of resource
IDENTITY = "MeshIdentity"
TRUST = "MeshTrust"
MESH_TLS = "MeshTLS"
DATAPLANE = "Dataplane"
INSIGHT = "DataplaneInsight"
ZONE = "Zone"
READINESS = "ServiceReadiness"
"""What the control plane remembers of a service: whether it may be spoken to by TLS. Kuma shows it in a status."""
SERVICE = "MeshService"
PERMISSION = "MeshTrafficPermission"
HTTP_ROUTE = "MeshHTTPRoute"
TCP_ROUTE = "MeshTCPRoute"
ACCESS_LOG = "MeshAccessLog"
TRACE = "MeshTrace"
METRIC = "MeshMetric"
TELEMETRY_BACKEND = "MeshOpenTelemetryBackend"
HOSTNAMES = "HostnameGenerator"
"""Of a whole control plane, of no mesh. The stand-in resolves no names: it is kept, checked and shown."""

POLICIES = (PERMISSION, HTTP_ROUTE, TCP_ROUTE, ACCESS_LOG, TRACE, METRIC)
"""Every kind that says something of proxies that it selects."""


@dataclass(slots=True, kw_only=True)
class Resource:
    """One resource as it is kept; a mesh of its own stands under the empty mesh name."""

    type: str
    mesh: str
    name: str
    spec: Json = field(repr=False)
    created_at: datetime
    modified_at: datetime
    labels: dict[str, str] = field(default_factory=dict)
    status: Json | None = None
    version: int = 0
    """Grows with every write, status included."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what names it."""
        return self.type, self.mesh, self.name


class Store(Protocol):
    """Where resources live: in memory, in a file, or behind somebody's API."""

    def get(self, kind: str, mesh: str, name: str) -> Resource | None:
        """Return one resource, None if it is absent."""
        ...

    def list(self, kind: str, mesh: str | None = None) -> tuple[Resource, ...]:
        """Return every resource of *kind* (of one *mesh*), by mesh and name."""
        ...

    def put(self, resource: Resource) -> Resource:
        """Create or replace *resource*; return it as kept, with the next version."""
        ...

    def delete(self, kind: str, mesh: str, name: str) -> bool:
        """Remove one resource; return whether it was there."""
        ...


class MemoryStore:
    """Resources in memory, and in *path* if one is given, so that they outlive the process."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._resources: dict[tuple[str, str, str], Resource] = {}
        self._version = 0
        if path is not None and path.exists():
            for entry in json.loads(path.read_text(encoding="utf-8")):
                for name in ("created_at", "modified_at"):
                    entry[name] = datetime.fromisoformat(entry[name])
                resource = Resource(**entry)
                self._resources[resource.key] = resource
                self._version = max(self._version, resource.version)

    def get(self, kind: str, mesh: str, name: str) -> Resource | None:
        """Return one resource, None if it is absent."""
        with self._lock:
            found = self._resources.get((kind, mesh, name))
            return None if found is None else _copied(found)

    def list(self, kind: str, mesh: str | None = None) -> tuple[Resource, ...]:
        """Return every resource of *kind* (of one *mesh*), by mesh and name."""
        with self._lock:
            found = [r for key, r in self._resources.items() if key[0] == kind and mesh in {None, key[1]}]
            return tuple(_copied(each) for each in sorted(found, key=lambda resource: resource.key))

    def put(self, resource: Resource) -> Resource:
        """Create or replace *resource*; return it as kept, with the next version."""
        with self._lock:
            self._version += 1
            kept = _copied(resource)
            kept.version = self._version
            self._resources[kept.key] = kept
            self._save()
            return _copied(kept)

    def delete(self, kind: str, mesh: str, name: str) -> bool:
        """Remove one resource; return whether it was there."""
        with self._lock:
            there = self._resources.pop((kind, mesh, name), None) is not None
            if there:
                self._save()
            return there

    def _save(self) -> None:
        if self._path is None:
            return
        entries = [asdict(resource) for resource in self._resources.values()]
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(entries, default=lambda moment: moment.isoformat()), encoding="utf-8")
        fresh.replace(self._path)


def _copied(resource: Resource) -> Resource:
    """Return a copy that shares nothing that can be changed; plain JSON needs no more than this."""
    status = None if resource.status is None else _copied_json(resource.status)
    return replace(resource, spec=_copied_json(resource.spec), labels=dict(resource.labels), status=status)


def _copied_json(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copied_json(each) for name, each in value.items()}
    return [_copied_json(each) for each in value] if type(value) is list else value
