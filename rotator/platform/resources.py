"""
Documents of Kuma, in both forms in which a control plane takes them.

Rules that must stay true here:

- One resource, two forms: Universal (`universal`) and Kubernetes (`kubernetes_object`) say the same.
- What rotator renders begins with ``rotator-`` and is labelled as managed by it: nothing else is taken for its own.
- A name is a label of DNS, and different parts never give one name.
- The same resources give the same bytes, in whatever order they come.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

API_VERSION: Final = "kuma.io/v1alpha1"
PREFIX: Final = "rotator-"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
ROTATOR: Final = "rotator"
MESH: Final = "kuma.io/mesh"
ORIGIN: Final = "kuma.io/origin"
WORKLOAD: Final = "kuma.io/workload"
ZONE: Final = "kuma.io/zone"
DISPLAY_NAME: Final = "kuma.io/display-name"
ENVIRONMENT: Final = "rotator.io/environment"
DATA_DOMAIN: Final = "rotator.io/data-domain"
IDENTITY: Final = "rotator.io/identity"
SERVICE: Final = "rotator.io/service"
HOSTNAME: Final = "rotator.io/hostname"
MESH_OF: Final = "rotator.io/mesh"
"""Which mesh it is for, where a kind belongs to none."""

DATAPLANE: Final = "Dataplane"
HOSTNAME_GENERATOR: Final = "HostnameGenerator"
MESH_ACCESS_LOG: Final = "MeshAccessLog"
MESH_HTTP_ROUTE: Final = "MeshHTTPRoute"
MESH_METRIC: Final = "MeshMetric"
MESH_OPENTELEMETRY_BACKEND: Final = "MeshOpenTelemetryBackend"
MESH_SERVICE: Final = "MeshService"
MESH_TCP_ROUTE: Final = "MeshTCPRoute"
MESH_TRACE: Final = "MeshTrace"
MESH_TRAFFIC_PERMISSION: Final = "MeshTrafficPermission"

_FLAT: Final = frozenset({DATAPLANE, "Mesh"})
"""Kinds whose fields stand beside the name on Universal, not in a ``spec``."""
_OF_NO_MESH: Final = frozenset({HOSTNAME_GENERATOR, "Mesh"})
_LONGEST_NAME: Final = 63
"""Of a MeshService; every name is held to it."""
_DIGITS: Final = 8
_NEVER_FOLDED: Final = 1 << 20
_PLAIN: Final = re.compile(r"[a-z0-9]+")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One document of Kuma, in no form yet."""

    kind: str
    mesh: str
    """Empty for a kind that belongs to no mesh."""
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str, str]:
        """Return kind, mesh and name, which name it on one control plane."""
        return self.kind, self.mesh, self.name

    @property
    def is_rotators(self) -> bool:
        """Return whether rotator rendered it."""
        return self.name.startswith(PREFIX) and self.labels.get(MANAGED_BY) == ROTATOR

    @property
    def environment(self) -> str | None:
        """Return the name of the environment that it is for; None: for its whole mesh."""
        return self.labels.get(ENVIRONMENT)


def own(
    kind: str, mesh: str, name: str, spec: Mapping[str, Any], *, labels: Mapping[str, str] | None = None
) -> Resource:
    """Return a resource of rotator's own; *name* is one that `named` made."""
    return Resource(
        kind=kind,
        mesh="" if kind in _OF_NO_MESH else mesh,
        name=name,
        labels={MANAGED_BY: ROTATOR, **(labels or {})},
        spec=spec,
    )


def named(*parts: str) -> str:
    """
    Return the name of rotator's own that stands for *parts*, and for no others of as many parts.

    A name says its parts; where that would be ambiguous, too long or no label of DNS, a digest of them is added.
    """
    name = PREFIX + "-".join(parts)
    *first, last = parts
    if all(_PLAIN.fullmatch(each) for each in first) and _LABEL.fullmatch(last) and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_DIGITS]
    kept = re.sub(r"[^a-z0-9-]", "-", name.lower())[: _LONGEST_NAME - _DIGITS - 1].rstrip("-")
    return f"{kept}-{digest}"


def universal(resource: Resource, *, origin: str | None = None) -> dict[str, Any]:
    """
    Return *resource* as a Universal control plane takes it.

    *origin* is ``zone`` on a zone of a Global control plane, which takes policies with it alone.
    """
    labels = dict(resource.labels) | ({ORIGIN: origin} if origin is not None else {})
    head: dict[str, Any] = {"type": resource.kind}
    if resource.mesh:
        head["mesh"] = resource.mesh
    head["name"] = resource.name
    if labels:
        head["labels"] = dict(sorted(labels.items()))
    rest: dict[str, Any] = _plain(resource.spec if resource.kind in _FLAT else {"spec": resource.spec})
    return head | rest


def kubernetes_object(resource: Resource, *, namespace: str, origin: str | None = "zone") -> dict[str, Any]:
    """
    Return *resource* as an object of Kubernetes in *namespace*, the control plane's own.

    *origin*: a zone's control plane takes objects of its own namespace with the label ``kuma.io/origin: zone`` alone;
    None on a Global one.
    """
    labels = dict(resource.labels)
    if origin is not None:
        labels[ORIGIN] = origin
    if resource.mesh:
        labels[MESH] = resource.mesh
    return {
        "apiVersion": API_VERSION,
        "kind": resource.kind,
        "metadata": {"name": resource.name, "namespace": namespace, "labels": dict(sorted(labels.items()))},
        "spec": _plain(resource.spec),
    }


def from_universal(document: Mapping[str, Any]) -> Resource:
    """Return what a control plane's HTTP API shows as *document*."""
    head = {"type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri", "status"}
    kind = str(document["type"])
    spec = {key: each for key, each in document.items() if key not in head} if kind in _FLAT else document.get("spec")
    return Resource(
        kind=kind,
        mesh=str(document.get("mesh") or ""),
        name=str(document["name"]),
        labels=dict(document.get("labels") or {}),
        spec=dict(spec or {}),
    )


def from_kubernetes(found: Mapping[str, Any]) -> Resource:
    """Return what the Kubernetes API shows as *found*; without the label of its mesh it is of the mesh ``default``."""
    metadata, kind = found["metadata"], str(found["kind"])
    labels = dict(metadata.get("labels") or {})
    return Resource(
        kind=kind,
        mesh="" if kind in _OF_NO_MESH else labels.get(MESH, "default"),
        name=str(metadata["name"]),
        labels=labels,
        spec=dict(found.get("spec") or {}),
    )


def in_order(resources: Iterable[Resource]) -> tuple[Resource, ...]:
    """Return *resources* in the one order in which they are written and applied: a kind after those it names."""
    return tuple(sorted(resources, key=lambda each: (_rank(each.kind), each.key)))


def canonical_yaml(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return *documents* as a YAML stream: the same documents, the same bytes."""
    return "".join("---\n" + _written(document) for document in documents)


# A route that names a service of which its control plane has not heard refuses requests: services come first.
_FIRST: Final = (MESH_OPENTELEMETRY_BACKEND, MESH_SERVICE, HOSTNAME_GENERATOR, MESH_TRAFFIC_PERMISSION)


def _rank(kind: str) -> int:
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


class _Dumper(yaml.SafeDumper):
    """Writes every value where it stands: readers need not know anchors."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # What is itself a document stands there line by line, for people to read.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _written(document: Mapping[str, Any]) -> str:
    written = yaml.dump(_plain(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_NEVER_FOLDED)
    return str(written)


def _plain(value: Any) -> Any:  # noqa: ANN401 -- what YAML and JSON can say has no narrower name
    """Return *value* of the types that YAML and JSON have."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
