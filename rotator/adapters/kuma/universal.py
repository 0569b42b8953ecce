"""
A control plane reached through its own HTTP API: Universal, and a Global control plane on Universal.

Rules that must stay true here:

- The API knows no precondition, so a document is read right before and right after the write (law 14): what is not
  there any more as it was read, or does not read back as it was written, is a `Conflict`.
- A document's revision follows what people write in it, spec and labels. The control plane's own notes (status,
  modification time) change by themselves and are nobody's edit.
- A status that was read goes back with the write: some versions keep what they are sent, and a MeshIdentity that has
  lost its status counts as not ready, which takes the identity from its proxies.
- A secret is created under a name of its own, ``rotator-<purpose>``, read back, and never overwritten (law 9). Of other
  secrets only the one that is asked for by name is read.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from rotator.adapters.kuma.about import ask_about
from rotator.adapters.kuma.alike import covers, digest
from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint, Json
from rotator.adapters.kuma.control_plane import ControlPlane, Document, Kind, StoredSecret
from rotator.adapters.kuma.overview import moment
from rotator.adapters.kuma.proxies import HTTPProxies
from rotator.errors import Conflict, Rejected
from rotator.http_exchange import segment

PREFIX = "rotator-"
"""What the names of rotator's own secrets begin with."""

_FOLDERS = {Kind.IDENTITY: "meshidentities", Kind.TRUST: "meshtrusts"}
_META = frozenset({"type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri", "status"})
_PURPOSE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,60}[a-z0-9])?")


def connect(endpoint: Endpoint, mesh: str) -> ControlPlane:
    """
    Return *mesh* at the control plane behind *endpoint*, after asking it what it is.

    Raises:
        Denied: If the token or certificate may not read the control plane's configuration.
        Unavailable: If nothing answers.
        Rejected: If what answers is no control plane.
    """
    api = ControlPlaneAPI(endpoint)
    return ControlPlane(
        mesh=mesh,
        about=ask_about(api),
        documents=HTTPDocuments(api, mesh),
        secrets=HTTPSecrets(api, mesh),
        proxies=HTTPProxies(api, mesh),
    )


class HTTPDocuments:
    """The documents of one mesh, through the HTTP API (`Documents`)."""

    def __init__(self, api: ControlPlaneAPI, mesh: str) -> None:
        """Keep the documents of *mesh*."""
        self._api = api
        self._mesh = mesh

    def read(self, kind: Kind, name: str) -> Document | None:
        """Return one document, None if it is absent."""
        found = self._api.get(self._path(kind, name), doing=f"reading {kind} {name}")
        return None if found is None else document_of(kind, found)

    def listed(self, kind: Kind) -> tuple[Document, ...]:
        """Return every document of *kind* in the mesh, by name; none from a version that does not know the kind."""
        if kind is Kind.MESH:
            mesh = self.read(kind, self._mesh)
            return () if mesh is None else (mesh,)
        path = f"/meshes/{segment(self._mesh)}/{_FOLDERS[kind]}"
        items = self._api.listed(path, doing=f"listing every {kind} of mesh {self._mesh}")
        return tuple(sorted((document_of(kind, each) for each in items or ()), key=lambda each: each.name))

    def write(self, document: Document) -> Document:
        """Create *document*, or replace the one that was read, and return it as it reads back."""
        what = f"{document.kind} {document.name}"
        present = self._as_read(document)
        body: Json = {"type": str(document.kind), "name": document.name}
        if document.labels:
            body["labels"] = dict(document.labels)
        if document.kind is Kind.MESH:
            body |= document.spec
        else:
            body |= {"mesh": self._mesh, "spec": document.spec}
        if present is not None and present.status:
            body["status"] = present.status
        self._api.put(self._path(document.kind, document.name), body, doing=f"writing {what}")
        written = self.read(document.kind, document.name)
        if written is None:
            raise Conflict(f"{what} was written and is gone")
        if not covers(document.kind, written.spec, document.spec):
            raise Conflict(f"{what} does not read back as it was written: somebody else wrote it at the same time")
        return written

    def remove(self, document: Document) -> None:
        """Delete *document*; absent is no error, another revision is a `Conflict`."""
        what = f"{document.kind} {document.name}"
        present = self.read(document.kind, document.name)
        if present is None:
            return
        if not _same_revision(present, document):
            raise Conflict(f"{what} was changed by somebody else")
        self._api.delete(self._path(document.kind, document.name), doing=f"removing {what}")
        if self.read(document.kind, document.name) is not None:
            raise Conflict(f"{what} was removed and is there again")

    def _as_read(self, document: Document) -> Document | None:
        """Return what is there now, which *document* may replace; None if it may be created."""
        what = f"{document.kind} {document.name}"
        present = self.read(document.kind, document.name)
        if not document.revision:
            if present is not None:
                raise Conflict(f"{what} is there already")
            return None
        if present is None:
            raise Conflict(f"{what} is gone")
        if not _same_revision(present, document):
            raise Conflict(f"{what} was changed by somebody else")
        return present

    def _path(self, kind: Kind, name: str) -> str:
        if kind is Kind.MESH:
            return f"/meshes/{segment(name)}"
        return f"/meshes/{segment(self._mesh)}/{_FOLDERS[kind]}/{segment(name)}"


class HTTPSecrets:
    """rotator's secrets of one mesh, through the HTTP API (`Secrets`); needs the rights of an administrator."""

    def __init__(self, api: ControlPlaneAPI, mesh: str) -> None:
        """Keep secrets in *mesh*."""
        self._api = api
        self._mesh = mesh

    def held(self) -> tuple[StoredSecret, ...]:
        """Return every secret that rotator has made for this mesh, by purpose."""
        items = self._api.listed(
            f"/meshes/{segment(self._mesh)}/secrets",
            doing=f"listing rotator's secrets of mesh {self._mesh}",
            query={"name": PREFIX},
        )
        found = []
        for item in items or ():
            name = str(item.get("name", ""))
            # The filter is "contains", and an old version has none.
            if not name.startswith(PREFIX) or item.get("mesh", self._mesh) != self._mesh:
                continue
            found.append(
                StoredSecret(
                    name=name,
                    purpose=name.removeprefix(PREFIX),
                    value=_decoded(item, name),
                    created_at=moment(item.get("creationTime")),
                )
            )
        return tuple(sorted(found, key=lambda each: each.purpose))

    def read(self, name: str) -> bytes | None:
        """Return the content of any secret of the mesh by its name, None if it is absent."""
        found = self._api.get(self._path(name), doing=f"reading secret {name} of mesh {self._mesh}")
        return None if found is None else _decoded(found, name)

    def create(self, purpose: str, value: bytes) -> str:
        """Keep *value* under a name of its own and return the name once it reads back."""
        if _PURPOSE.fullmatch(purpose) is None or not value:
            raise Rejected(f"no secret can be kept under {purpose!r}")
        name = f"{PREFIX}{purpose}"
        present = self.read(name)
        if present == value:
            return name
        if present is not None:
            raise Conflict(f"secret {name} of mesh {self._mesh} is there already with another content")
        body: Json = {
            "type": "Secret",
            "mesh": self._mesh,
            "name": name,
            "data": base64.b64encode(value).decode("ascii"),
        }
        self._api.put(self._path(name), body, doing=f"creating secret {name} of mesh {self._mesh}", secret=True)
        if self.read(name) != value:
            raise Conflict(f"secret {name} of mesh {self._mesh} does not read back as it was written")
        return name

    def remove(self, name: str) -> None:
        """Delete one of rotator's own secrets; absent is no error, anybody else's is `Rejected`."""
        if not name.startswith(PREFIX):
            raise Rejected(f"secret {name} of mesh {self._mesh} is not rotator's to delete")
        self._api.delete(self._path(name), doing=f"removing secret {name} of mesh {self._mesh}")

    def _path(self, name: str) -> str:
        return f"/meshes/{segment(self._mesh)}/secrets/{segment(name)}"


def document_of(kind: Kind, item: Mapping[str, Any]) -> Document:
    """Return *item* of the HTTP API as a document: a Mesh's fields stand beside its name, the others' under spec."""
    spec = {key: value for key, value in item.items() if key not in _META} if kind is Kind.MESH else item.get("spec")
    labels = _mapping(item.get("labels"))
    said = spec if isinstance(spec, Mapping) else {}
    return Document(
        kind=kind,
        name=str(item.get("name", "")),
        spec=said,
        labels={str(key): str(value) for key, value in labels.items()},
        status=_mapping(item.get("status")),
        revision=f"{item.get('modificationTime') or ''} {digest(item.get('creationTime'), said, labels)}",
    )


def _same_revision(present: Document, read: Document) -> bool:
    """Return whether nobody has edited the document since it was *read*: the time is for people, the digest counts."""
    return present.revision.rpartition(" ")[2] == read.revision.rpartition(" ")[2]


def _decoded(item: Mapping[str, Any], name: str) -> bytes:
    """Return the content of a secret."""
    try:
        return base64.b64decode(str(item.get("data") or ""), validate=True)
    except (binascii.Error, ValueError) as e:
        raise Rejected(f"secret {name} holds no base64") from e


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
