"""
Who is meant by a caller and a called service of the configuration, when documents of a control plane are judged.

Rules that must stay true here:

- Kuma's own rules are in `rotator.platform.permission_documents`; here are only the names and labels of ours.
- In a mesh with SPIFFE IDs a caller is known by that alone, in one with a provided CA by its tags, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rotator.platform.call import Decision
from rotator.platform.model import Identity, MeshModel, OnMachines, Service
from rotator.platform.permission_documents import Destination, permitted
from rotator.platform.resources import (
    ENVIRONMENT,
    MESH_TRAFFIC_PERMISSION,
    SERVICE,
    WORKLOAD,
    Resource,
    universal,
)

SERVICE_TAG: Final = "kuma.io/service"
_CERTAIN: Final = ("k8s.kuma.io/namespace", "k8s.kuma.io/service-account", WORKLOAD, "rotator.io/")
"""Labels that a Dataplane has as the configuration says, or not at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Somebody who calls: by SPIFFE ID, and by tags in a mesh with a provided CA."""

    spiffe_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, identity: Identity) -> Caller:
        """Return the caller that *identity* is."""
        return cls(spiffe_id=identity.spiffe_id, tags={SERVICE_TAG: identity.kuma_service})

    def names(self, model: MeshModel) -> tuple[str, ...]:
        """Return the names that its certificate has in a mesh of *model*."""
        if model is MeshModel.IDENTITY:
            return (self.spiffe_id,)
        return (self.spiffe_id, *(f"kuma://{tag}/{value}" for tag, value in self.tags.items()))


def called(service: Service) -> Destination:
    """Return *service*'s Dataplanes, as far as the configuration knows them."""
    place, marks = service.place, dict(service.place.labels())
    if isinstance(place, OnMachines):
        marks |= {ENVIRONMENT: service.environment.name, SERVICE: service.name}
    else:
        # What Kuma makes of it where nothing else names the workload.
        marks |= {WORKLOAD: place.service_account}
    marks[SERVICE_TAG] = service.kuma_service
    return Destination(name="", marks=marks, certain=lambda key: key.startswith(_CERTAIN))


def seen(service: Service, dataplane: Resource) -> Destination:
    """Return the *dataplane* of *service* that was seen."""
    return Destination(name=dataplane.name, marks={SERVICE_TAG: service.kuma_service, **dataplane.labels})


def documents(policies: Iterable[Resource]) -> tuple[Mapping[str, Any], ...]:
    """Return the MeshTrafficPermissions among *policies* as they are judged."""
    return tuple(universal(each) for each in policies if each.kind == MESH_TRAFFIC_PERMISSION)


def verdict(
    judged: tuple[Mapping[str, Any], ...], caller: Caller, destination: Destination, model: MeshModel
) -> Decision:
    """Return what the *judged* documents decide about a call of *caller* to *destination* in a mesh of *model*."""
    return permitted(judged, destination, caller.names(model))


def entries(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return what *document* lets in: each ``from`` target, and each match of ``rules``, that it allows."""
    spec = document.get("spec") or {}
    allowed: list[Mapping[str, Any]] = [
        each.get("targetRef") or {"kind": "Mesh"}
        for each in spec.get("from") or ()
        if (each.get("default") or {}).get("action") in {"Allow", "AllowWithShadowDeny"}
    ]
    for rule in spec.get("rules") or ():
        default = rule.get("default") or {}
        for key in ("allow", "allowWithShadowDeny"):
            allowed += default.get(key) or ()
    return tuple(allowed)
