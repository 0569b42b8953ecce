"""
A Global control plane and its zones telling each other what each owns.

Rules that must stay true here:

- Meshes, secrets, identities, trust and policies made on the Global one go down, under their own names; statuses do
  not travel.
- Proxies and their insights come up, with the zone in their labels and a suffix on their names.
- What did not change is not written again: a write would look like a change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from tests.fakes.kuma.plane import ServingPlane
from tests.fakes.kuma.store import (
    DATAPLANE,
    HOSTNAMES,
    IDENTITY,
    INSIGHT,
    MESH,
    MESH_TLS,
    POLICIES,
    SECRET,
    TRUST,
    Resource,
    Store,
)

_DOWN = (MESH, SECRET, IDENTITY, TRUST, MESH_TLS, HOSTNAMES, *POLICIES)
_UP = (DATAPLANE, INSIGHT, IDENTITY, TRUST)
_ORIGIN = "kuma.io/origin"


def name_on_global(resource: Resource, zone: str) -> str:
    """Return the name under which the Global control plane shows what a zone owns (GUESS for the suffix's digits)."""
    digest = hashlib.sha256(f"{resource.mesh}/{resource.name}/{zone}".encode()).hexdigest()
    return f"{resource.name}-{digest[:16]}"


def synchronize(top: Store, zones: Mapping[str, ServingPlane]) -> None:
    """Let every zone hold what the Global control plane owns, and the other way about."""
    for zone, plane in zones.items():
        for kind in _DOWN:
            _down(kind, top, plane)
        for kind in _UP:
            _up(kind, top, plane, zone)


def _down(kind: str, top: Store, plane: ServingPlane) -> None:
    wanted = {r.key: r for r in top.list(kind) if r.labels.get(_ORIGIN) != "zone"}
    for resource in plane.store.list(kind):
        if resource.key not in wanted and resource.labels.get(_ORIGIN) != "zone":
            plane.store.delete(*resource.key)
    for key, resource in wanted.items():
        there = plane.store.get(*key)
        if there is None or (there.spec, there.labels) != (resource.spec, resource.labels):
            plane.store.put(replace(resource, status=there.status if there is not None else None))


def _up(kind: str, top: Store, plane: ServingPlane, zone: str) -> None:
    wanted = {}
    for resource in plane.store.list(kind):
        if kind != INSIGHT and resource.labels.get(_ORIGIN) != "zone":
            continue
        labels = {**resource.labels, "kuma.io/zone": zone, "kuma.io/display-name": resource.name}
        moved = replace(resource, name=name_on_global(resource, zone), labels=labels)
        wanted[moved.key] = moved
    for there in top.list(kind):
        if there.labels.get("kuma.io/zone") == zone and there.key not in wanted:
            top.delete(*there.key)
    for key, moved in wanted.items():
        kept = top.get(*key)
        if kept is None or (kept.spec, kept.labels, kept.status) != (moved.spec, moved.labels, moved.status):
            top.put(moved)
