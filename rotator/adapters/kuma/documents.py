"""
The platform's documents on a control plane: policies, routes, services of the mesh, through either API.

Rules that must stay true here:

- What is not rotator's own by name and label is listed, and never written or removed.
- A write carries what was seen (law 14). Kubernetes holds it to the resourceVersion; Kuma's HTTP API knows no
  precondition, so there the document is read right before the write and read back right after it.
- A document is replaced as a whole: what somebody else has added to it is gone, which applying fields would leave.
- What a tool of somebody else's keeps applying is not taken from it: it would come back, and so would we.
- A kind that the control plane does not know has no documents there; writing one is refused in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from rotator.adapters.kuma.alike import digest, says
from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.control_plane import ControlPlane, Mode
from rotator.adapters.kuma.kubernetes import keepers_of
from rotator.adapters.kuma.slots import MESH_LABEL
from rotator.adapters.kuma.sync import Lag, out_of_sync
from rotator.cluster.objects import FIELD_MANAGER, JSON, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.core.model import TrustDomainName
from rotator.errors import Conflict, Denied, Rejected
from rotator.http_exchange import segment
from rotator.platform.documents import Address, Document, document_of, document_with
from rotator.platform.resources import API_VERSION, MESH_OF, Resource, kubernetes_object, universal
from rotator.ports import SeenDocument

PLURALS: Final[Mapping[str, str]] = {
    "HostnameGenerator": "hostnamegenerators",
    "MeshAccessLog": "meshaccesslogs",
    "MeshHTTPRoute": "meshhttproutes",
    "MeshMetric": "meshmetrics",
    "MeshOpenTelemetryBackend": "meshopentelemetrybackends",
    "MeshService": "meshservices",
    "MeshTCPRoute": "meshtcproutes",
    "MeshTrace": "meshtraces",
    "MeshTrafficPermission": "meshtrafficpermissions",
}
"""Every kind that is written for the platform, and how paths name it."""

OF_NO_MESH: Final = frozenset({"HostnameGenerator"})
"""Kinds whose documents belong to a whole control plane; rotator's own say by a label which mesh they are for."""

SEEN_EVERYWHERE: Final = frozenset({"MeshTrafficPermission"})
"""Kinds that count from other namespaces too: somebody's permission there may open a service of ours."""

_DEFAULT_MESH: Final = "default"
_ZONE: Final = "zone"


class HTTPPlatformDocuments:
    """Through Kuma's HTTP API. Implements `rotator.ports.MeshDocuments`."""

    def __init__(
        self, api: ControlPlaneAPI, plane: Callable[[], ControlPlane], *, trust_domain: TrustDomainName, mesh: str
    ) -> None:
        """Keep the documents of *mesh*; *plane* tells what the control plane is, and of its proxies."""
        self._api = api
        self._plane = plane
        self._trust_domain = trust_domain
        self._mesh = mesh

    def listed(self) -> Mapping[Address, SeenDocument]:
        """Return every document of the platform's kinds, rotator's and others'."""
        return {each.document.address: each for kind in PLURALS for each in self._of_kind(kind)}

    def write(self, wanted: Document, seen: SeenDocument | None) -> SeenDocument:
        """Create *wanted*, or replace what was *seen*, and return it as it reads back."""
        what = _checked(wanted)
        self._expect(wanted.address, seen)
        origin = _ZONE if self._plane().about.federated else None
        body = universal(wanted.resource, origin=origin)
        self._api.put(self._path(wanted.address.kind, wanted.address.name), body, doing=f"writing {what}")
        written = self._read(wanted.address)
        if written is None:
            raise Conflict(f"{what} was written and is gone")
        if not self.says(written, wanted):
            raise Conflict(f"{what} does not read back as it was written: somebody else wrote it at the same time")
        return written

    def remove(self, seen: SeenDocument) -> None:
        """Remove one of rotator's own as it was *seen*."""
        what, address = _checked(seen.document), seen.document.address
        if self._read(address) is None:
            return
        self._expect(address, seen)
        self._api.delete(self._path(address.kind, address.name), doing=f"removing {what}")
        if self._read(address) is not None:
            raise Conflict(f"{what} was removed and is there again")

    def says(self, seen: SeenDocument, wanted: Document) -> bool:
        """Return whether *seen* says all that *wanted* says."""
        return _says(seen, wanted)

    def lagging(self) -> tuple[str, ...]:
        """Return the proxies in contact that have not acknowledged everything that they were sent."""
        return _lagging(self._plane())

    def _expect(self, address: Address, seen: SeenDocument | None) -> None:
        """Raise `Conflict` unless what is there now is what was *seen*."""
        present = self._read(address)
        if seen is None:
            if present is not None:
                raise Conflict(f"{address.in_words} is there already")
        elif present is None:
            raise Conflict(f"{address.in_words} is gone")
        elif present.revision != seen.revision:
            raise Conflict(f"{address.in_words} was changed by somebody else")

    def _of_kind(self, kind: str) -> Iterator[SeenDocument]:
        for item in self._api.listed(self._path(kind), doing=f"listing every {kind}") or ():
            found = self._seen(kind, item)
            if kind not in OF_NO_MESH or found.document.labels.get(MESH_OF) == self._mesh:
                yield found

    def _read(self, address: Address) -> SeenDocument | None:
        found = self._api.get(self._path(address.kind, address.name), doing=f"reading {address.in_words}")
        return None if found is None else self._seen(address.kind, found)

    def _seen(self, kind: str, item: Mapping[str, Any]) -> SeenDocument:
        labels, spec = _mapping(item.get("labels")), _mapping(item.get("spec"))
        resource = Resource(
            kind=kind,
            mesh="" if kind in OF_NO_MESH else self._mesh,
            name=str(item.get("name", "")),
            labels={str(key): str(value) for key, value in labels.items()},
            spec=spec,
        )
        return SeenDocument(
            document=document_of(self._trust_domain, resource), revision=digest(item.get("creationTime"), spec, labels)
        )

    def _path(self, kind: str, name: str | None = None) -> str:
        return collection_path(self._mesh, kind) + (f"/{segment(name)}" if name is not None else "")


class KubernetesPlatformDocuments:
    """Through the API server of the control plane's cluster. Implements `rotator.ports.MeshDocuments`."""

    def __init__(
        self,
        api: Callable[[], ObjectAPI],
        plane: Callable[[], ControlPlane],
        *,
        trust_domain: TrustDomainName,
        mesh: str,
        namespace: str,
    ) -> None:
        """Keep the documents of *mesh* in the control plane's own *namespace*; *api* is asked for at its first use."""
        self._api = api
        self._plane = plane
        self._trust_domain = trust_domain
        self._mesh = mesh
        self._namespace = namespace

    def listed(self) -> Mapping[Address, SeenDocument]:
        """Return every document of the platform's kinds in the mesh, rotator's and others'."""
        return {each.document.address: each for kind in PLURALS for each in self._of_kind(kind)}

    def write(self, wanted: Document, seen: SeenDocument | None) -> SeenDocument:
        """Create *wanted*, or replace what was *seen*, and return it as it reads back."""
        what, address = _checked(wanted), wanted.address
        origin = None if self._plane().about.mode is Mode.GLOBAL else _ZONE
        body = kubernetes_object(wanted.resource, namespace=self._namespace, origin=origin)
        if seen is None:
            self._api().create(self._path(address.kind), body)
        else:
            self._replace(wanted, seen, body)
        written = self._read(address)
        if written is None:
            raise Conflict(f"{what} was gone right after it was written")
        if not self.says(written, wanted):
            raise Conflict(f"{what} was changed by somebody else right after it was written")
        return written

    def remove(self, seen: SeenDocument) -> None:
        """Remove one of rotator's own as it was *seen*."""
        _checked(seen.document)
        address = seen.document.address
        self._api().delete(self._path(address.kind, address.name), revision=seen.revision)

    def says(self, seen: SeenDocument, wanted: Document) -> bool:
        """Return whether *seen* says all that *wanted* says."""
        return _says(seen, wanted)

    def lagging(self) -> tuple[str, ...]:
        """Return the proxies in contact that have not acknowledged everything that they were sent."""
        return _lagging(self._plane())

    def _replace(self, wanted: Document, seen: SeenDocument, body: JSON) -> None:
        address = wanted.address
        path = self._path(address.kind, address.name)
        found = self._api().get(path)
        if found is None:
            raise Conflict(f"{address.in_words} is gone")
        if found["metadata"]["resourceVersion"] != seen.revision:
            raise Conflict(f"{address.in_words} was changed since it was read")
        if seen.keepers and plain_spec(found) != body["spec"]:
            raise Denied(
                f"spec of {address.in_words} is kept by {', '.join(sorted(seen.keepers))}: hand it to field manager "
                f"{FIELD_MANAGER} first (kubectl apply --server-side), then take it out there"
            )
        labels = {**wanted.marks, **_kumas(found), **body["metadata"]["labels"]}
        self._api().replace(path, {**found, **body, "metadata": {**found["metadata"], "labels": labels}})

    def _of_kind(self, kind: str) -> Iterator[SeenDocument]:
        path = f"/apis/{API_VERSION}/{PLURALS[kind]}" if kind in SEEN_EVERYWHERE else self._path(kind)
        for item in self._api().listed(path):
            labels = item["metadata"].get("labels") or {}
            mesh = labels.get(MESH_OF) if kind in OF_NO_MESH else labels.get(MESH_LABEL) or _DEFAULT_MESH
            if mesh == self._mesh:
                yield self._seen(kind, item)

    def _read(self, address: Address) -> SeenDocument | None:
        found = self._api().get(self._path(address.kind, address.name))
        return None if found is None else self._seen(address.kind, found)

    def _seen(self, kind: str, item: JSON) -> SeenDocument:
        metadata = item["metadata"]
        mesh = "" if kind in OF_NO_MESH else self._mesh
        name, namespace = metadata["name"], metadata.get("namespace")
        if namespace != self._namespace:
            # No name of rotator's own begins like this, so it is never written.
            name = f"namespace {namespace}: {name}"
        address = Address(trust_domain=self._trust_domain, mesh=mesh, kind=kind, name=name)
        return SeenDocument(
            document=document_with(address, metadata.get("labels") or {}, plain_spec(item)),
            revision=metadata["resourceVersion"],
            keepers=keepers_of(item, ("spec",)),
        )

    def _path(self, kind: str, name: str | None = None) -> str:
        return path_of(API_VERSION, PLURALS[kind], namespace=self._namespace, name=name)


def collection_path(mesh: str, kind: str) -> str:
    """Return where Kuma's HTTP API keeps the documents of *kind* of *mesh*."""
    where = "" if kind in OF_NO_MESH else f"/meshes/{segment(mesh)}"
    return f"{where}/{PLURALS[kind]}"


def plain_spec(item: JSON) -> Mapping[str, Any]:
    """Return what an object of the API server says."""
    return _mapping(item.get("spec"))


def _kumas(found: JSON) -> dict[str, str]:
    """Return the labels that the control plane has put on *found*."""
    labels = found["metadata"].get("labels") or {}
    return {key: value for key, value in labels.items() if key.startswith(("kuma.io/", "k8s.kuma.io/"))}


def _checked(document: Document) -> str:
    """Return *document* in words. Raises `Rejected` if it is not rotator's to write."""
    address = document.address
    if not document.is_rotators:
        raise Rejected(f"{address.in_words} is not rotator's to write or to remove")
    if address.kind not in PLURALS:
        raise Rejected(f"{address.in_words} is of a kind that rotator does not write")
    return address.in_words


def _says(seen: SeenDocument, wanted: Document) -> bool:
    return seen.document.labels == wanted.labels and says(seen.document.spec, wanted.spec)


def _lagging(plane: ControlPlane) -> tuple[str, ...]:
    return tuple(each.proxy for each in out_of_sync(plane.proxies.reports()) if each.lag is Lag.BEHIND)


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
