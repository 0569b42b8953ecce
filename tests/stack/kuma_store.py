"""
A stand-in control plane's store in a real Kubernetes API, as a control plane on Kubernetes keeps its resources.

Rules that must stay true here:

- Meshes, identities, trust and secrets are objects of the API server: what rotator writes there is what proxies get.
- Proxies' own resources stay in memory: they are seen through the control plane's HTTP API alone.
- What the control plane writes of its own carries what it had read: a change in between wins, and it looks again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import requests

from rotator.adapters.kuma.cluster_secrets import GLOBAL_SECRET_TYPE
from rotator.adapters.kuma.rights import admission_policy, rbac_rules
from rotator.adapters.kuma.slots import MESH_LABEL, SECRET_TYPE
from rotator.cluster.rbac import Account, role_objects
from tests.fakes.kuma.http_api import COLLECTIONS
from tests.fakes.kuma.selecting import POLICY_ROLE, WORKLOAD_OWNER
from tests.fakes.kuma.store import (
    GLOBAL_SECRET,
    HOSTNAMES,
    IDENTITY,
    MESH,
    PERMISSION,
    POLICIES,
    SECRET,
    SERVICE,
    TELEMETRY_BACKEND,
    TRUST,
    Json,
    MemoryStore,
    Resource,
)
from tests.stack.cluster import Cluster, Refused

API_VERSION = "kuma.io/v1alpha1"

_PLURALS = {MESH: "meshes", IDENTITY: "meshidentities", TRUST: "meshtrusts"}
_OF_PLATFORM = {SERVICE, TELEMETRY_BACKEND, HOSTNAMES, *POLICIES}
POLICY_PLURALS = {kind: plural for plural, kind in COLLECTIONS.items() if kind in _OF_PLATFORM} | {
    HOSTNAMES: "hostnamegenerators"
}
"""The platform's kinds, and how the API names them."""
_ELSEWHERE = frozenset({SERVICE, PERMISSION})
"""Kinds that are read in every namespace: services stand beside Kubernetes Services, permissions beside workloads."""

_SECRET_TYPES = {SECRET: SECRET_TYPE, GLOBAL_SECRET: GLOBAL_SECRET_TYPE}
"""Both are Secrets of the cluster, and share their names."""

# Neither comes back to write the same again: a person's editor, and the control plane itself.
_BY_HAND, _BY_CONTROL_PLANE = "kubectl-edit", "kuma-cp"


def grant(
    cluster: Cluster, mesh: str, namespace: str, *, read_secrets: tuple[str, ...] = (), confined: bool = True
) -> str:
    """
    Give a ServiceAccount `rotator` of *namespace* exactly what rotator asks for on *mesh*; return a token for it.

    *confined*: the admission policy holds it to its own objects.
    """
    token = cluster.service_account(namespace, "rotator")
    rights = rbac_rules(mesh, namespace, read_secrets=read_secrets)
    name = f"rotator-{namespace}-{mesh}"
    for each in role_objects(rights, Account(namespace=namespace), name=name, cluster_name=name):
        cluster.apply(each)
    if confined:
        for document in admission_policy((mesh,), namespace, service_account=f"{namespace}:rotator"):
            cluster.apply(document)
    return token


class KubernetesStore:
    """The resources of one control plane in *namespace*; as a context manager it closes its connections."""

    def __init__(self, cluster: Cluster, namespace: str, *, zone: str = "default", policies: bool = False) -> None:
        """
        Keep resources in *namespace* as *zone*'s own.

        *policies*: policies and services are objects of the API server, too; without, they are in memory: every look
        at a mesh would ask for each of those kinds.
        """
        self._plurals = _PLURALS | (POLICY_PLURALS if policies else {})
        self._cluster = cluster
        self._namespace = namespace
        self._labels = {
            "kuma.io/origin": "zone",
            "kuma.io/env": "kubernetes",
            "kuma.io/zone": zone,
            "k8s.kuma.io/namespace": namespace,
        }
        self._memory = MemoryStore()
        self._session = requests.Session()
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def get(self, kind: str, mesh: str, name: str) -> Resource | None:
        """Return one resource, None if it is absent or another mesh's."""
        if not self._is_in_cluster(kind):
            return self._memory.get(kind, mesh, name)
        if kind in _ELSEWHERE:
            return next((each for each in self.list(kind, mesh) if each.name == name), None)
        found = self._read(kind, name)
        resource = None if found is None else self.resource(kind, found)
        return resource if resource is not None and resource.mesh == mesh else None

    def list(self, kind: str, mesh: str | None = None) -> tuple[Resource, ...]:
        """Return every resource of *kind* (of one *mesh*), by mesh and name."""
        if not self._is_in_cluster(kind):
            return self._memory.list(kind, mesh)
        query = {"fieldSelector": f"type={_SECRET_TYPES[kind]}"} if kind in _SECRET_TYPES else {}
        with self._lock:
            path = f"/apis/{API_VERSION}/{self._plurals[kind]}" if kind in _ELSEWHERE else self._path(kind)
            items = self._cluster.call("GET", path, query=query, session=self._session)["items"]
        found = (self.resource(kind, item) for item in items)
        return tuple(sorted((each for each in found if mesh in {None, each.mesh}), key=lambda each: each.key))

    def put(self, resource: Resource) -> Resource:
        """Create or replace *resource*; one that was read before gives way to a change in between."""
        if not self._is_in_cluster(resource.type):
            return self._memory.put(resource)
        with self._lock:
            there = self._read(resource.type, resource.name)
            body = self._object(resource, there)
            query = {"fieldManager": _BY_CONTROL_PLANE if resource.version else _BY_HAND}
            if there is None:
                made = self._cluster.call("POST", self._path(resource.type), body, query=query, session=self._session)
                return self.resource(resource.type, made)
            if resource.version:
                body["metadata"]["resourceVersion"] = str(resource.version)
            path = self._path(resource.type, resource.name)
            try:
                made = self._cluster.call("PUT", path, body, query=query, session=self._session)
            except Refused as e:
                if e.status != 409 or not resource.version:
                    raise
                made = there
            return self.resource(resource.type, made)

    def delete(self, kind: str, mesh: str, name: str) -> bool:
        """Remove one resource; return whether it was there."""
        if not self._is_in_cluster(kind):
            return self._memory.delete(kind, mesh, name)
        with self._lock:
            if self.get(kind, mesh, name) is None:
                return False
            self._cluster.call("DELETE", self._path(kind, name), session=self._session)
            return True

    def _is_in_cluster(self, kind: str) -> bool:
        return kind in _SECRET_TYPES or kind in self._plurals

    def _read(self, kind: str, name: str) -> Json | None:
        try:
            with self._lock:
                found = self._cluster.call("GET", self._path(kind, name), session=self._session)
        except Refused as e:
            if e.status == 404:
                return None
            raise
        return found if kind not in _SECRET_TYPES or found["type"] == _SECRET_TYPES[kind] else None

    def _path(self, kind: str, name: str = "") -> str:
        below = f"/{name}" if name else ""
        if kind in _SECRET_TYPES:
            return f"/api/v1/namespaces/{self._namespace}/secrets{below}"
        where = "" if kind == MESH else f"/namespaces/{self._namespace}"
        return f"/apis/{API_VERSION}{where}/{self._plurals[kind]}{below}"

    def resource(self, kind: str, found: Json) -> Resource:
        """Return an object as the control plane knows it: the labels that it computes are there."""
        metadata = found["metadata"]
        labels = dict(metadata.get("labels") or {})
        mesh = "" if kind in {MESH, HOSTNAMES, GLOBAL_SECRET} else labels.get(MESH_LABEL, "default")
        name = metadata["name"]
        if kind not in {MESH, *_SECRET_TYPES}:
            labels = {**self._labels, "kuma.io/display-name": name, **labels}
            if metadata["namespace"] != self._namespace:
                name = f"{name}.{metadata['namespace']}"
                labels |= {"k8s.kuma.io/namespace": metadata["namespace"], POLICY_ROLE: WORKLOAD_OWNER}
        held = {"data": (found.get("data") or {}).get("value", "")}
        spec = held if kind in _SECRET_TYPES else found.get("spec") or {}
        created_at = datetime.fromisoformat(metadata["creationTimestamp"])
        return Resource(
            type=kind,
            mesh=mesh,
            name=name,
            spec=spec,
            labels=labels,
            status=found.get("status"),
            created_at=created_at,
            modified_at=created_at,
            version=int(metadata["resourceVersion"]),
        )

    def _object(self, resource: Resource, there: Json | None) -> Json:
        """Return *resource* as an object, over the one that is *there*."""
        labels = dict(resource.labels)
        metadata: Json = {"name": resource.name}
        if resource.type != MESH:
            metadata["namespace"] = self._namespace
        if resource.mesh:
            labels[MESH_LABEL] = resource.mesh
        said: Mapping[str, Any]
        if resource.type in _SECRET_TYPES:
            said = {"apiVersion": "v1", "type": _SECRET_TYPES[resource.type], "data": {"value": resource.spec["data"]}}
        else:
            said = {"apiVersion": API_VERSION, "spec": resource.spec}
            said |= {} if resource.status is None else {"status": resource.status}
        kept = there or {}
        whole = {**kept.get("metadata", {}), **metadata, "labels": labels}
        kind = SECRET if resource.type in _SECRET_TYPES else resource.type
        return {**kept, "kind": kind, **said, "metadata": whole}
