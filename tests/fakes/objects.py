"""
An API server in memory, as far as `SecretStore` and `BundleStore` can tell: it passes their contract suite.

Rules that must stay true here:

- Writes pass `Faults.call`; reads have no effect to lose.
- A resourceVersion is never used twice, and a precondition is looked at before anything else.
- Of field ownership only what stores look at is kept: who wrote, and whether by applying.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

from rotator.cluster.objects import FIELD_MANAGER, JSON, ObjectAPI
from rotator.errors import Conflict, Rejected
from tests.fakes.faults import Faults


class FakeObjects(ObjectAPI):
    """Objects by path."""

    def __init__(self, faults: Faults | None = None) -> None:
        """Start empty; *faults* is the point that writes pass."""
        self.faults = faults or Faults()
        self.stored: dict[str, JSON] = {}
        self.reads = 0
        self._revision = 0
        self._lock = threading.RLock()

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def get(self, path: str, *, secret: bool = False, metadata_only: bool = False) -> JSON | None:
        """Return one object."""
        del secret
        with self._lock:
            self.reads += 1
            found = self.stored.get(path)
            if found is None:
                return None
            shown = {"metadata": found["metadata"]} if metadata_only else found
            return copy.deepcopy(shown)

    def create(self, path: str, body: Mapping[str, Any], *, secret: bool = False) -> JSON:
        """Create one object."""
        del secret
        with self.faults.call(f"create {path}"), self._lock:
            place = f"{path}/{body['metadata']['name']}"
            if place in self.stored:
                raise Conflict(f"{place} is there")
            return self._store(place, copy.deepcopy(dict(body)), FIELD_MANAGER, "Update")

    def apply(self, path: str, body: Mapping[str, Any], *, force: bool = False, secret: bool = False) -> JSON:
        """Apply one object."""
        del force, secret
        with self.faults.call(f"apply {path}"), self._lock:
            present = self._expected(path, body)
            if present.get("type") != body.get("type"):
                raise Rejected("a type can never be changed")
            merged = _merged(present, body)
            return self._store(path, merged, FIELD_MANAGER, "Apply")

    def merge(self, path: str, body: Mapping[str, Any], *, secret: bool = False) -> JSON:
        """Merge into one object."""
        del secret
        with self.faults.call(f"merge {path}"), self._lock:
            merged = _merged(self._expected(path, body), body)
            return self._store(path, merged, FIELD_MANAGER, None)

    def delete(self, path: str, *, revision: str, secret: bool = False, rehearse: bool = False) -> None:
        """Delete one object."""
        del secret, rehearse
        with self.faults.call(f"delete {path}"), self._lock:
            if path in self.stored and self.stored[path]["metadata"]["resourceVersion"] != revision:
                raise Conflict(f"{path} was changed")
            self.stored.pop(path, None)

    def edit(self, path: str, change: Mapping[str, Any]) -> None:
        """Merge *change* into one object as somebody else does, past every fault."""
        with self._lock:
            self._store(path, _merged(self.stored[path], change), "kubectl-edit", "Update")

    def _expected(self, path: str, body: Mapping[str, Any]) -> JSON:
        present = self.stored.get(path)
        revision = body["metadata"].get("resourceVersion")
        if present is None or revision not in {None, present["metadata"]["resourceVersion"]}:
            raise Conflict(f"{path} was changed or is gone")
        return present

    def _store(self, path: str, body: JSON, manager: str, operation: str | None) -> JSON:
        self._revision += 1
        metadata = body["metadata"]
        metadata["resourceVersion"] = str(self._revision)
        metadata.setdefault("uid", f"uid-{self._revision}")
        if operation is not None:
            entry = {"manager": manager, "operation": operation, "time": "2030-01-01T00:00:00Z"}
            others = [
                each
                for each in metadata.get("managedFields", ())
                if (each["manager"], each["operation"]) != (manager, operation)
            ]
            metadata["managedFields"] = [*others, entry]
        self.stored[path] = body
        return copy.deepcopy(body)


def _merged(present: Mapping[str, Any], change: Mapping[str, Any]) -> JSON:
    """Return *present* with *change* as a JSON merge patch (RFC 7396)."""
    found = copy.deepcopy(dict(present))
    for name, value in change.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(found.get(name), Mapping):
            found[name] = _merged(found[name], value)
        else:
            found[name] = copy.deepcopy(value)
    return found
