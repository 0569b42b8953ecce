"""
The ring of Secrets in which a mesh's CA generations live on Kubernetes: named slots, reused only when long free.

Rules that must stay true here:

- Pure: what was read of the cluster goes in, a slot or the next content of one comes out.
- RBAC can allow names only if they are known beforehand: every name that is ever used is one of twelve for each mesh.
- A slot in use is never given away; a freed one only after it has been free for longer than every cache that could
  still connect its name with what it held (law 9).
- A Secret under a slot's name that rotator did not write belongs to somebody else and is neither used nor freed.
- A freed slot keeps no key: its value is a word, because Kuma refuses an empty one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from rotator.adapters.kuma.control_plane import StoredSecret
from rotator.adapters.kuma.naming import Part, purpose_in
from rotator.errors import Rejected, Unavailable

CERTIFICATE_SLOTS: Final = 8
"""Enough for the certificate and the bundles of a rotation, of the one before it and of a rollback."""

KEY_SLOTS: Final = 4
"""One for each generation that may stand beside the others, and one to spare."""

COOLING: Final = timedelta(minutes=1)
"""How long a slot rests before it is used again: Kuma's longest cache of CA material lives 5 s, others 1 s a hop."""

SECRET_TYPE: Final = "system.kuma.io/secret"  # noqa: S105 -- the type of a Kubernetes Secret
MESH_LABEL: Final = "kuma.io/mesh"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OWNER: Final = "rotator"
PURPOSE: Final = "rotator.io/purpose"
USED_SINCE: Final = "rotator.io/used-since"
FREED_AT: Final = "rotator.io/freed-at"

_FREE_VALUE: Final = b"free"


class State(StrEnum):
    """What a slot is to rotator."""

    MISSING = "missing"
    USED = "used"
    FREE = "free"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One slot as it is in the cluster."""

    name: str
    state: State
    revision: str = ""
    """Its resourceVersion; empty if it is missing."""
    purpose: str = ""
    value: bytes = field(default=b"", repr=False)
    since: datetime | None = None
    """When it was put to use, or freed."""

    def as_stored(self) -> StoredSecret:
        """Return it as what documents refer to."""
        return StoredSecret(name=self.name, purpose=self.purpose, value=self.value, created_at=self.since)


def slot_names(mesh: str) -> tuple[str, ...]:
    """Return the name of every slot of *mesh*, certificates first."""
    return _certificate_names(mesh) + _key_names(mesh)


def slot_in(name: str, mesh: str, found: Mapping[str, Any] | None) -> Slot:
    """Return what the slot *name* is, by the Secret that was *found* there."""
    if found is None:
        return Slot(name=name, state=State.MISSING)
    metadata = found.get("metadata") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    revision = str(metadata.get("resourceVersion") or "")
    ours = labels.get(MANAGED_BY) == OWNER and labels.get(MESH_LABEL) == mesh and found.get("type") == SECRET_TYPE
    purpose, value = annotations.get(PURPOSE), value_of(found)
    if not ours or value is None:
        return Slot(name=name, state=State.FOREIGN, revision=revision)
    if purpose:
        since = _moment(annotations.get(USED_SINCE))
        return Slot(name=name, state=State.USED, revision=revision, purpose=purpose, value=value, since=since)
    return Slot(name=name, state=State.FREE, revision=revision, since=_moment(annotations.get(FREED_AT)))


def value_of(secret: Mapping[str, Any]) -> bytes | None:
    """Return what a Secret of Kuma holds, None if it holds nothing that can be read."""
    encoded = (secret.get("data") or {}).get("value")
    try:
        return base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
    except binascii.Error:
        return None


def slot_for(purpose: str, mesh: str, slots: Sequence[Slot], *, now: datetime, cooling: timedelta = COOLING) -> Slot:
    """
    Return the slot that takes *purpose*: one that never was used, else the one that has been free longest.

    Raises:
        Unavailable: If every free slot was freed less than *cooling* ago.
        Rejected: If none is free at all: somebody must look at what holds them.
    """
    wanted = purpose_in(purpose)
    names = _key_names(mesh) if wanted is not None and wanted.part is Part.KEY else _certificate_names(mesh)
    candidates = [slot for slot in slots if slot.name in names]
    missing = [slot for slot in candidates if slot.state is State.MISSING]
    if missing:
        return missing[0]
    # A slot whose moment cannot be read was touched by somebody: it counts as freed right now.
    free = [(slot.since or now, slot.name, slot) for slot in candidates if slot.state is State.FREE]
    if not free:
        held = ", ".join(f"{slot.name} ({slot.purpose or slot.state})" for slot in candidates)
        raise Rejected(f"no slot is free for {purpose} of mesh {mesh}: {held}")
    freed_at, _, slot = min(free, key=lambda each: each[:2])
    if now - freed_at < cooling:
        raise Unavailable(
            f"no slot has been free long enough for {purpose} of mesh {mesh}: the next in "
            f"{(freed_at + cooling - now).total_seconds():.0f} s"
        )
    return slot


def used(slot: Slot, mesh: str, namespace: str, *, purpose: str, value: bytes, now: datetime) -> dict[str, Any]:
    """Return the Secret that puts *slot* to use for *purpose*, under the revision that was read."""
    return _secret(slot, mesh, namespace, value=value, annotations={PURPOSE: purpose, USED_SINCE: _written(now)})


def freed(slot: Slot, mesh: str, namespace: str, *, now: datetime) -> dict[str, Any]:
    """Return the Secret that frees *slot*, under the revision that was read; its content is gone with it."""
    return _secret(slot, mesh, namespace, value=_FREE_VALUE, annotations={FREED_AT: _written(now)})


def _certificate_names(mesh: str) -> tuple[str, ...]:
    return tuple(f"rotator-{mesh}-{Part.CERTIFICATE}-{number}" for number in range(CERTIFICATE_SLOTS))


def _key_names(mesh: str) -> tuple[str, ...]:
    return tuple(f"rotator-{mesh}-{Part.KEY}-{number}" for number in range(KEY_SLOTS))


def _secret(slot: Slot, mesh: str, namespace: str, *, value: bytes, annotations: Mapping[str, str]) -> dict[str, Any]:
    revision = {"resourceVersion": slot.revision} if slot.revision else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": SECRET_TYPE,
        "metadata": {
            "name": slot.name,
            "namespace": namespace,
            "labels": {MESH_LABEL: mesh, MANAGED_BY: OWNER},
            "annotations": dict(annotations),
            **revision,
        },
        "data": {"value": base64.b64encode(value).decode("ascii")},
    }


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _moment(text: object) -> datetime | None:
    """Return a moment as this module writes it, None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
