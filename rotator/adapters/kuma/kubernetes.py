"""
A mesh's documents and secrets where Kuma keeps them on Kubernetes: in the API server.

Rules that must stay true here:

- Every write carries the resourceVersion that was read: a change by somebody else in between is a `Conflict` (law 14).
- A field that a tool of somebody else's keeps applying is never taken by force: rotator would switch a CA, and the
  tool's next run would switch it back. The owner is reported, and the write refused.
- Secrets are read and written by name alone, never listed: rotator needs no right to see anybody else's.
- Everything of an object that rotator does not write stays as it was read, status included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from rotator.adapters.kuma import slots
from rotator.adapters.kuma.control_plane import About, ControlPlane, Document, Kind, Proxies, StoredSecret
from rotator.adapters.kuma.slots import MESH_LABEL, SECRET_TYPE, Slot, State
from rotator.cluster.objects import FIELD_MANAGER, JSON, ClusterAccess, ObjectAPI
from rotator.errors import Conflict, Denied, Rejected
from rotator.ports import Clock

API_VERSION: Final = "kuma.io/v1alpha1"

_DEFAULT_MESH: Final = "default"
"""The mesh of an object that carries no label."""

_PLURALS: Final = {Kind.MESH: "meshes", Kind.IDENTITY: "meshidentities", Kind.TRUST: "meshtrusts"}

_WRITTEN: Final = {
    Kind.MESH: ("spec", "mtls", "backends"),
    Kind.IDENTITY: ("spec",),
    Kind.TRUST: ("spec",),
}
"""What rotator writes of each kind."""

_HANDS: Final = frozenset(
    {"kuma-cp", "kubectl-create", "kubectl-edit", "kubectl-patch", "kubectl-replace", "kubectl-label"}
)
"""Field managers that write once and do not come back by themselves: the control plane, and a person's hands."""

_CLIENT_SIDE_APPLY: Final = "kubectl-client-side-apply"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def connect(
    access: ClusterAccess,
    mesh: str,
    *,
    about: About,
    proxies: Proxies,
    clock: Clock,
    cooling: timedelta = slots.COOLING,
) -> ControlPlane:
    """
    Return *mesh* with its documents and secrets in the cluster; its *proxies* are seen by another way.

    Raises:
        ConfigError: If there is neither a usable kubeconfig nor a pod's ServiceAccount.
    """
    api = ObjectAPI(access)
    return ControlPlane(
        mesh=mesh,
        about=about,
        documents=KubernetesDocuments(api, mesh=mesh, namespace=access.namespace),
        secrets=KubernetesSecrets(api, mesh=mesh, namespace=access.namespace, clock=clock, cooling=cooling),
        proxies=proxies,
    )


class KubernetesDocuments:
    """Meshes, which belong to the cluster, and the MeshIdentities and MeshTrusts in the control plane's namespace."""

    def __init__(self, api: ObjectAPI, *, mesh: str, namespace: str) -> None:
        self._api = api
        self._mesh = mesh
        self._namespace = namespace

    def read(self, kind: Kind, name: str) -> Document | None:
        """Return one document of the mesh, None if it is absent or another mesh's."""
        found = self._api.get(self._path(kind, name))
        return self._document(kind, found) if found is not None and self._is_of_mesh(kind, found) else None

    def listed(self, kind: Kind) -> tuple[Document, ...]:
        """Return every document of *kind* in the mesh, by name."""
        if kind is Kind.MESH:
            mesh = self.read(kind, self._mesh)
            return () if mesh is None else (mesh,)
        # No label selector: an object without the label belongs to the mesh called default.
        found = (each for each in self._api.listed(self._path(kind)) if self._is_of_mesh(kind, each))
        return tuple(sorted((self._document(kind, each) for each in found), key=lambda document: document.name))

    def write(self, document: Document) -> Document:
        """
        Create *document* or replace the one that was read, and return it as it reads back.

        Raises:
            Conflict: If it is there already, gone, or another revision.
            Denied: If somebody else's tool keeps applying a field that would change.
            Rejected: If the API server or the control plane's admission refuses it.
        """
        written = self._create(document) if not document.revision else self._replace(document)
        read_back = self.read(document.kind, document.name)
        if read_back is None:
            raise Conflict(f"{_named(document)} was gone right after it was written")
        if read_back.spec != written.get("spec"):
            raise Conflict(f"{_named(document)} was changed by somebody else right after it was written")
        return read_back

    def remove(self, document: Document) -> None:
        """Delete *document* as it was read; absent is no error, another revision is a `Conflict`."""
        if document.kind is Kind.MESH:
            raise Rejected(f"rotator never deletes a mesh: {document.name}")
        self._api.delete(self._path(document.kind, document.name), revision=document.revision)

    def _create(self, document: Document) -> JSON:
        metadata: JSON = {"name": document.name, "labels": dict(document.labels)}
        if document.kind is not Kind.MESH:
            metadata["namespace"] = self._namespace
            metadata["labels"][MESH_LABEL] = self._mesh
        body = {"apiVersion": API_VERSION, "kind": str(document.kind), "metadata": metadata, "spec": document.spec}
        return self._api.create(self._path(document.kind), body)

    def _replace(self, document: Document) -> JSON:
        path = self._path(document.kind, document.name)
        found = self._api.get(path)
        if found is None or not self._is_of_mesh(document.kind, found):
            raise Conflict(f"{_named(document)} is gone")
        if found["metadata"]["resourceVersion"] != document.revision:
            raise Conflict(f"{_named(document)} was changed since it was read")
        written = _WRITTEN[document.kind]
        if _part(found, written) != _part({"spec": document.spec}, written):
            owners = ", ".join(sorted(managers_of(document.kind, found)))
            if owners:
                raise Denied(
                    f"{'.'.join(written)} of {_named(document)} is kept by {owners}: hand it to field manager "
                    f"{FIELD_MANAGER} first (kubectl apply --server-side), then take it out there"
                )
        labels = dict(document.labels) | ({} if document.kind is Kind.MESH else {MESH_LABEL: self._mesh})
        body = found | {"spec": document.spec, "metadata": found["metadata"] | {"labels": labels}}
        return self._api.replace(path, body)

    def _is_of_mesh(self, kind: Kind, found: JSON) -> bool:
        if kind is Kind.MESH:
            return bool(found["metadata"]["name"] == self._mesh)
        return _mesh_of(found) == self._mesh

    def _document(self, kind: Kind, found: JSON) -> Document:
        metadata = found["metadata"]
        return Document(
            kind=kind,
            name=metadata["name"],
            spec=found.get("spec") or {},
            labels=metadata.get("labels") or {},
            status=found.get("status") or {},
            revision=metadata["resourceVersion"],
            managers=managers_of(kind, found),
        )

    def _path(self, kind: Kind, name: str | None = None) -> str:
        where = "" if kind is Kind.MESH else f"/namespaces/{quote(self._namespace)}"
        return f"/apis/{API_VERSION}{where}/{_PLURALS[kind]}" + (f"/{quote(name)}" if name else "")


class KubernetesSecrets:
    """The mesh's ring of slots in the control plane's namespace, and any other secret of the mesh by its name."""

    def __init__(
        self, api: ObjectAPI, *, mesh: str, namespace: str, clock: Clock, cooling: timedelta = slots.COOLING
    ) -> None:
        self._api = api
        self._mesh = mesh
        self._namespace = namespace
        self._clock = clock
        self._cooling = cooling

    def held(self) -> tuple[StoredSecret, ...]:
        """Return every secret that rotator has made for this mesh, by purpose."""
        held = (slot.as_stored() for slot in self._slots() if slot.state is State.USED)
        return tuple(sorted(held, key=lambda secret: (secret.purpose, secret.name)))

    def read(self, name: str) -> bytes | None:
        """Return the content of any secret of the mesh by its name, None if it is absent, freed or another mesh's."""
        found = self._api.get(self._path(name), secret=True)
        if found is None or found.get("type") != SECRET_TYPE or _mesh_of(found) != self._mesh:
            return None
        if name in slots.slot_names(self._mesh):
            slot = slots.slot_in(name, self._mesh, found)
            return slot.value if slot.state is State.USED else None
        return slots.value_of(found)

    def create(self, purpose: str, value: bytes) -> str:
        """
        Keep *value* in a free slot and return its name once it reads back.

        Raises:
            Conflict: If another value is kept for *purpose*, or somebody took the slot first.
            Unavailable: If no slot has been free long enough yet.
            Rejected: If none is free at all, or *value* is empty.
        """
        if not value:
            raise Rejected(f"nothing cannot be kept for {purpose} of mesh {self._mesh}")
        found = self._slots()
        kept = [slot for slot in found if slot.state is State.USED and slot.purpose == purpose]
        if kept:
            if any(slot.value != value for slot in kept):
                raise Conflict(f"{kept[0].name} holds another {purpose} of mesh {self._mesh}")
            return kept[0].name
        now = self._clock.now()
        slot = slots.slot_for(purpose, self._mesh, found, now=now, cooling=self._cooling)
        body = slots.used(slot, self._mesh, self._namespace, purpose=purpose, value=value, now=now)
        if slot.state is State.MISSING:
            self._api.create(self._path(), body, secret=True)
        else:
            self._api.replace(self._path(slot.name), body, secret=True)
        if self.read(slot.name) != value:
            raise Conflict(f"{slot.name} was changed by somebody else right after it was written")
        return slot.name

    def remove(self, name: str) -> None:
        """
        Free one of rotator's own slots; absent or free already is no error.

        Raises:
            Rejected: If it is not rotator's, or the control plane says that the mesh refers to it.
            Conflict: If it was changed meanwhile.
        """
        if name not in slots.slot_names(self._mesh):
            raise Rejected(f"secret {name} is not one of rotator's for mesh {self._mesh}")
        slot = slots.slot_in(name, self._mesh, self._api.get(self._path(name), secret=True))
        if slot.state in {State.MISSING, State.FREE}:
            return
        if slot.state is State.FOREIGN:
            raise Rejected(f"secret {name} has a name of rotator's, but rotator did not write it")
        # The control plane refuses to have a referenced secret deleted, not to have it overwritten: so it is asked
        # by a deletion that is only rehearsed.
        self._api.delete(self._path(name), revision=slot.revision, secret=True, rehearse=True)
        body = slots.freed(slot, self._mesh, self._namespace, now=self._clock.now())
        self._api.replace(self._path(name), body, secret=True)

    def _slots(self) -> tuple[Slot, ...]:
        return tuple(
            slots.slot_in(name, self._mesh, self._api.get(self._path(name), secret=True))
            for name in slots.slot_names(self._mesh)
        )

    def _path(self, name: str = "") -> str:
        return f"/api/v1/namespaces/{quote(self._namespace)}/secrets" + (f"/{quote(name)}" if name else "")


# --- whose fields they are ------------------------------------------------------------------------------------------


def managers_of(kind: Kind, found: Mapping[str, Any]) -> frozenset[str]:
    """
    Return whose tools keep applying what rotator writes of *found*, an object as the API server gives it.

    Hands that wrote it once do not count. What ``kubectl apply`` wrote counts as long as the manifest that was applied
    last still names it: the next run would write it again.
    """
    return keepers_of(found, _WRITTEN[kind])


def keepers_of(found: Mapping[str, Any], written: tuple[str, ...]) -> frozenset[str]:
    """Return whose tools keep applying what stands at the path *written* of *found*, or something in it."""
    metadata = found.get("metadata") or {}
    owners = set()
    for entry in metadata.get("managedFields") or ():
        manager = str(entry.get("manager") or "")
        if manager == FIELD_MANAGER or manager in _HANDS or entry.get("subresource"):
            continue
        if not _owns(entry.get("fieldsV1") or {}, written):
            continue
        if manager != _CLIENT_SIDE_APPLY or _part(_last_applied(metadata), written) is not None:
            owners.add(manager)
    return frozenset(owners)


def _owns(fields: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    """Return whether the set *fields* holds the field at *path*, something above it as a whole, or something in it."""
    node = fields
    for name in path:
        if f"f:{name}" not in node:
            return False
        node = node[f"f:{name}"]
        if not node:
            return True
    return set(node) != {"."}


def _last_applied(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the manifest that was applied last on the client's side, empty if there is none."""
    try:
        found = json.loads((metadata.get("annotations") or {}).get(_LAST_APPLIED) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


def _part(found: object, path: tuple[str, ...]) -> object:
    """Return what stands at *path*, None if nothing does."""
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def _mesh_of(found: JSON) -> str:
    return str((found["metadata"].get("labels") or {}).get(MESH_LABEL) or _DEFAULT_MESH)


def _named(document: Document) -> str:
    return f"{document.kind} {document.name}"
