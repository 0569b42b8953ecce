"""
What the API does with resources: read, list, write and delete, with admission.

Rules that must stay true here:

- A write replaces what a resource says and its labels; its status only by the API itself, which keeps the one that it
  is sent, or none.
- There is no precondition: the last writer wins.
- Reads here go to the store itself; only the control plane's own work goes through its cache.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from rotator.ports import Clock
from tests.fakes.kuma import admission
from tests.fakes.kuma.admission import Invalid, Violation, builtin_secrets, check, check_name, used_secrets
from tests.fakes.kuma.connections import is_online, rfc3339
from tests.fakes.kuma.identities import kri
from tests.fakes.kuma.policy_admission import policy_violations
from tests.fakes.kuma.reading import read_source, secret_content
from tests.fakes.kuma.signing import new_builtin_root
from tests.fakes.kuma.store import (
    DATAPLANE,
    GLOBAL_SECRET,
    HOSTNAMES,
    IDENTITY,
    INSIGHT,
    MESH,
    MESH_TLS,
    POLICIES,
    SECRET,
    SERVICE,
    TELEMETRY_BACKEND,
    TRUST,
    ZONE,
    Json,
    Resource,
    Store,
)

SHORT = {
    MESH: "m",
    IDENTITY: "mid",
    TRUST: "mtrust",
    DATAPLANE: "dp",
    MESH_TLS: "mtls",
    ZONE: "z",
    SERVICE: "msvc",
    "MeshTrafficPermission": "mtp",
    "MeshHTTPRoute": "mhttpr",
    "MeshTCPRoute": "mtcpr",
    "MeshAccessLog": "mal",
    "MeshTrace": "mtr",
    "MeshMetric": "mm",
    TELEMETRY_BACKEND: "motb",
    HOSTNAMES: "hg",
}
"""How a resource's identifier calls each kind (GUESS for MeshOpenTelemetryBackend's)."""
NESTED = frozenset({IDENTITY, TRUST, MESH_TLS, SERVICE, TELEMETRY_BACKEND, HOSTNAMES, *POLICIES})
"""What it says stands under ``spec``; everything else says it beside type and name."""
_META = frozenset({"type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri", "status", "spec"})


class Desk:
    """The API's hands on one store."""

    def __init__(self, store: Store, clock: Clock, *, major: int, labels: Mapping[str, str]) -> None:
        self.store = store
        self._clock = clock
        self._major = major
        self._labels = dict(labels)

    def shown(self, resource: Resource) -> Json:
        """Return a resource as the API answers it."""
        said: Json = {"type": resource.type}
        if resource.mesh:
            said["mesh"] = resource.mesh
        said |= {
            "name": resource.name,
            "creationTime": rfc3339(resource.created_at),
            "modificationTime": rfc3339(resource.modified_at),
        }
        if resource.labels:
            said["labels"] = resource.labels
        if resource.type in SHORT:
            said["kri"] = kri(SHORT[resource.type], resource)
        if resource.type not in NESTED:
            return said | resource.spec
        said["spec"] = resource.spec
        return said if resource.status is None else said | {"status": resource.status}

    def write(self, kind: str, mesh: str, name: str, body: Json, *, with_status: bool = False) -> bool:
        """
        Create or replace a resource, *with_status* its status too; return whether it is new.

        Raises:
            Invalid: If it is refused.
        """
        wrong = [
            Violation(part, f"{part} from the URL has to be the same as in body")
            for part, wanted in (("type", kind), ("mesh", mesh), ("name", name))
            if wanted and body.get(part, "") != wanted
        ]
        if wrong:
            raise Invalid(*wrong)
        if mesh and self.store.get(MESH, "", mesh) is None:
            raise Invalid(Violation("mesh", f"mesh of name {mesh} is not found"))
        before, now = self.store.get(kind, mesh, name), self._clock.now()
        if before is None:
            check_name(name)
        spec = body.get("spec") or {} if kind in NESTED else {k: v for k, v in body.items() if k not in _META}
        if kind == MESH and self._major >= 3:
            spec = {part: value for part, value in spec.items() if part != "mtls"}
        resource = Resource(
            type=kind,
            mesh=mesh,
            name=name,
            spec=spec,
            labels=self._labels_of(kind, mesh, name, body.get("labels") or {}),
            created_at=before.created_at if before is not None else now,
            modified_at=now,
            status=body.get("status") if with_status else None if before is None else before.status,
        )
        check(resource, before, self._read)
        refused = policy_violations(kind, name, spec, major=self._major)
        if refused:
            raise Invalid(*refused)
        if kind == MESH:
            self._ensure_builtin(resource)
        self.store.put(resource)
        return before is None

    def delete(self, kind: str, mesh: str, name: str) -> bool:
        """Delete a resource; return whether it was there. Raises `Invalid` if it is in use."""
        if kind == SECRET and (found := self.store.get(MESH, "", mesh)) is not None:
            backend = used_secrets(mesh, found.spec).get(name)
            if backend is not None:
                text = (
                    f"The secret {name!r} that you are trying to remove is currently in use in Mesh {mesh!r}"
                    f" in mTLS backend {backend!r}."
                )
                raise Invalid(Violation("name", text))
        if kind == MESH and self.store.list(DATAPLANE, name):
            raise Invalid(Violation("mesh", "unable to delete mesh, there are still some dataplanes attached"))
        if kind == DATAPLANE:
            self.store.delete(INSIGHT, mesh, name)
        return self.store.delete(kind, mesh, name)

    def overview(self, dataplane: Resource) -> Json:
        """Return a proxy with its insight."""
        said = self.shown(dataplane)
        for part in dataplane.spec:
            said.pop(part)
        said |= {"type": "DataplaneOverview", "dataplane": dataplane.spec}
        insight = self.store.get(INSIGHT, dataplane.mesh, dataplane.name)
        return said if insight is None else said | {"dataplaneInsight": insight.spec}

    def mesh_insight(self, mesh: Resource) -> Json:
        """Return what is counted over a mesh's proxies."""
        insights = {each.name: each.spec for each in self.store.list(INSIGHT, mesh.name)}
        proxies = [insights.get(each.name, {}) for each in self.store.list(DATAPLANE, mesh.name)]
        issued: dict[str, dict[str, int]] = {}
        supported: dict[str, dict[str, int]] = {}
        for insight in proxies:
            mtls = insight.get("mTLS") or {}
            for counts, names in (
                (issued, [mtls.get("issuedBackend")]),
                (supported, mtls.get("supportedBackends", [])),
            ):
                for name in filter(None, names):
                    _count(counts.setdefault(name, {}), online=is_online(insight))
        total: dict[str, int] = {}
        for insight in proxies:
            _count(total, online=is_online(insight))
        return {
            "type": "MeshInsight",
            "name": mesh.name,
            "creationTime": rfc3339(mesh.created_at),
            "modificationTime": rfc3339(self._clock.now()),
            "dataplanes": total,
            "mTLS": {"issuedBackends": issued, "supportedBackends": supported},
        }

    def _labels_of(self, kind: str, mesh: str, name: str, given: Json) -> dict[str, str]:
        if kind in {MESH, SECRET, GLOBAL_SECRET, ZONE}:
            return dict(given)
        of_mesh = {"kuma.io/mesh": mesh} if mesh else {}
        return {**self._labels, **of_mesh, "kuma.io/display-name": name, **given}

    def _read(self, mesh: str, source: Json) -> bytes | None:
        return read_source(source, lambda name: secret_content(self.store, mesh, name))

    def _ensure_builtin(self, mesh: Resource) -> None:
        for backend in (mesh.spec.get("mtls") or {}).get("backends") or []:
            names = builtin_secrets(mesh.name, backend["name"])
            if backend.get("type") != admission.BUILTIN or self.store.get(SECRET, mesh.name, names[0]) is not None:
                continue
            now = self._clock.now()
            root = new_builtin_root(mesh.name, now)
            for name, content in zip(names, (root.certificate_pem, root.key_pem), strict=True):
                spec = {"data": base64.b64encode(content).decode()}
                self.store.put(
                    Resource(type=SECRET, mesh=mesh.name, name=name, spec=spec, created_at=now, modified_at=now)
                )


def _count(counts: dict[str, int], *, online: bool) -> None:
    for name in ("total", "online" if online else "offline"):
        counts[name] = counts.get(name, 0) + 1
