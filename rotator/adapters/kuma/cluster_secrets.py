"""
The secrets that tokens depend on where Kuma keeps them on Kubernetes: in the control plane's namespace.

Rules that must stay true here:

- Read and written by name alone, never listed: keys count on, so the names that may be keys are a bounded row.
- A write carries the resourceVersion that was read, a new one is created and never applied over another (law 14).
- Secrets of a mesh and GlobalSecrets share their names there, so a list of revoked tokens is kept once, as the
  GlobalSecret that Kuma's code reads (2.12 to 3.0); one of the other type under its name is refused, not overwritten.
- What a tool of somebody else's keeps applying is not taken from it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final

from rotator.adapters.kuma.kubernetes import keepers_of
from rotator.adapters.kuma.slots import MANAGED_BY, MESH_LABEL, OWNER, SECRET_TYPE, value_of
from rotator.adapters.kuma.token_secrets import NamedSecret, Shelf
from rotator.cluster.objects import FIELD_MANAGER, JSON, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.errors import Conflict, Denied, Rejected
from rotator.ports import Clock

GLOBAL_SECRET_TYPE: Final = "system.kuma.io/global-secret"  # noqa: S105 -- the type of a Kubernetes Secret

WHOLE_ROW_EVERY: Final = timedelta(minutes=1)
"""A rotation that waits looks every few seconds: in between only known keys are read, and the two that may follow."""

KEYS_AT_ONCE: Final = 64
"""Serials that rotator may read, add and remove, from the first on; RBAC names each."""

_DEFAULT_MESH: Final = "default"
_KEY: Final = re.compile(r"((?:dataplane|zone|user)-token-signing-key(?:-.+)?)-([0-9]+)")


def serials(first: int) -> range:
    """Return the serials of keys that rotator looks after, if *first* is the lowest."""
    return range(first, first + KEYS_AT_ONCE)


class ClusterShelves:
    """Implements `token_secrets.Shelves` through the API server of the control plane's cluster."""

    def __init__(self, api: Callable[[], ObjectAPI], *, namespace: str, clock: Clock, first_serial: int = 1) -> None:
        """Keep secrets in *namespace*; keys are looked for from *first_serial* on. *api* is asked for when needed."""
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._serials = serials(first_serial)

    def of_mesh(self, mesh: str) -> Shelf:
        """Return the secrets of *mesh*."""
        return self._shelf(mesh)

    def everywhere(self) -> Shelf:
        """Return the GlobalSecrets."""
        return self._shelf("")

    def lists_of(self, mesh: str) -> tuple[Shelf, ...]:
        """Return the one kind that Kuma's code reads."""
        del mesh
        return (self.everywhere(),)

    def _shelf(self, mesh: str) -> Shelf:
        return ClusterShelf(self._api, namespace=self._namespace, mesh=mesh, serials=self._serials, clock=self._clock)


class ClusterShelf:
    """Implements `token_secrets.Shelf`; without a mesh the GlobalSecrets."""

    def __init__(
        self, api: Callable[[], ObjectAPI], *, namespace: str, mesh: str, serials: range, clock: Clock
    ) -> None:
        self._api = api
        self._clock = clock
        self._rows: dict[str, tuple[float, frozenset[int]]] = {}
        """By the beginning of their names: when the whole row was looked at, and which keys are known since."""
        self._namespace = namespace
        self._mesh = mesh
        self._serials = serials
        self._type = SECRET_TYPE if mesh else GLOBAL_SECRET_TYPE
        self.title = f"Secret of mesh {mesh}" if mesh else "GlobalSecret"

    def read(self, name: str) -> NamedSecret | None:
        """Return one secret, None if it is absent; `Rejected` if a Secret of another type or mesh has its name."""
        self._check_serial(name)
        found = self._found(name)
        return None if found is None else self._named(name, found)

    def numbered(self, beginning: str) -> Iterator[NamedSecret]:
        """Yield those of the row of serials that are there; what somebody adds far from the others a minute late."""
        now = self._clock.monotonic()
        whole_at, known = self._rows.get(beginning, (now, frozenset()))
        wanted = known | {max(known) + 1, max(known) + 2} if known else frozenset(self._serials)
        if now - whole_at >= WHOLE_ROW_EVERY.total_seconds():
            whole_at, wanted = now, frozenset(self._serials)
        found = {
            serial: each
            for serial in sorted(wanted & frozenset(self._serials))
            if (each := self.read(f"{beginning}{serial}")) is not None
        }
        self._rows[beginning] = whole_at, frozenset(found)
        yield from found.values()

    def write(self, name: str, value: bytes, *, seen: NamedSecret | None) -> None:
        """Create one secret, or replace what was *seen*, and read it back."""
        body: JSON = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": self._type,
            "metadata": {"name": name, "namespace": self._namespace, "labels": self._labels()},
            "data": {"value": base64.b64encode(value).decode("ascii")},
        }
        if seen is None:
            self._check_serial(name)
            self._api().create(self._path(), body, secret=True)
        else:
            found = self._found(name)
            if found is None:
                raise Conflict(f"{self.title} {name} is gone")
            keepers = keepers_of(found, ("data",))
            if keepers:
                raise Denied(
                    f"{self.title} {name} is kept by {', '.join(sorted(keepers))}: hand it to field manager "
                    f"{FIELD_MANAGER} first (kubectl apply --server-side), then take it out there"
                )
            metadata = {**found["metadata"], "resourceVersion": seen.revision}
            self._api().replace(self._path(name), {**found, "metadata": metadata, "data": body["data"]}, secret=True)
        back = self.read(name)
        if back is None or back.value != value:
            raise Conflict(f"{self.title} {name} was changed by somebody else right after it was written")

    def remove(self, name: str, *, seen: NamedSecret | None = None) -> None:
        """Delete one secret as it was *seen*, or as it is read now; absent is no error, changed since a `Conflict`."""
        found = seen if seen is not None else self.read(name)
        if found is not None:
            self._api().delete(self._path(name), revision=found.revision, secret=True)

    def _found(self, name: str) -> JSON | None:
        found = self._api().get(self._path(name), secret=True)
        if found is None:
            return None
        mesh = (found["metadata"].get("labels") or {}).get(MESH_LABEL) or _DEFAULT_MESH
        if found.get("type") != self._type or (self._mesh and mesh != self._mesh):
            raise Rejected(
                f"Secret {self._namespace}/{name} is no {self.title} of Kuma's (it has another type or mesh): "
                "nothing reads it there; delete it, and rotator keeps its own"
            )
        return found

    def _named(self, name: str, found: JSON) -> NamedSecret:
        value = value_of(found)
        if value is None:
            raise Rejected(f"secret {name} holds no base64")
        metadata = found["metadata"]
        return NamedSecret(
            name=name,
            value=value,
            created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
            revision=metadata["resourceVersion"],
        )

    def _check_serial(self, name: str) -> None:
        """Raise `Rejected` if *name* is that of a key beyond the row: RBAC would refuse it without a reason."""
        match = _KEY.fullmatch(name)
        if match is not None and int(match[2]) not in self._serials:
            raise Rejected(
                f"{match[1]} has come to serial {match[2]}, and rotator's rights name {self._serials.start} to "
                f"{self._serials.stop - 1}: raise signing_keys.*.first_serial, and apply what config rbac prints"
            )

    def _labels(self) -> dict[str, str]:
        return {MANAGED_BY: OWNER} | ({MESH_LABEL: self._mesh} if self._mesh else {})

    def _path(self, name: str | None = None) -> str:
        return path_of("v1", "secrets", namespace=self._namespace, name=name)
