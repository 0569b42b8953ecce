"""
Who may call what, as Kuma's MeshTrafficPermission: one document for each service.

Rules that must stay true here:

- Exact names alone, never a prefix or a pattern: whom nobody named is let in by nothing here.
- A service is opened to the callers of the permissions that name it, and to nobody else.
- The older form begins with a refusal for everybody, so that a wider permission of the mesh opens no service of ours;
  with SPIFFE IDs Kuma refuses whom nothing allows, and a written refusal would outweigh every permission.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rotator.core.model import TrustDomainName
from rotator.platform.model import Identity, MeshModel, Permission, Platform, Service
from rotator.platform.resources import ENVIRONMENT, MESH_TRAFFIC_PERMISSION, SERVICE, Resource, named, own


def callers(platform: Platform) -> Mapping[str, Mapping[str, tuple[Permission, ...]]]:
    """Return for each service, by ``ENVIRONMENT/NAME``, who may call it and by which permissions, in order."""
    found: dict[str, dict[str, tuple[Permission, ...]]] = {each.qualified: {} for each in platform.services}
    for permission in platform.permissions:
        for caller, service in permission.pairs():
            those = found[service.qualified]
            those[caller.qualified] = (*those.get(caller.qualified, ()), permission)
    return found


def permissions(platform: Platform, at: TrustDomainName) -> tuple[Resource, ...]:
    """Return the permission of each service in the mesh of the trust domain *at*."""
    everybody = {each.qualified: each for each in platform.identities}
    found: list[Resource] = []
    for name, allowed in callers(platform).items():
        service = platform.service(name)
        if service is None or service.environment.trust_domain != at:
            continue
        spec = _spec(service, tuple(everybody[each] for each in sorted(allowed)))
        if spec is not None:
            found.append(
                own(
                    MESH_TRAFFIC_PERMISSION,
                    service.environment.mesh,
                    named(service.environment.name, service.name),
                    spec,
                    labels={ENVIRONMENT: service.environment.name, SERVICE: service.name},
                )
            )
    return tuple(found)


def _spec(service: Service, allowed: tuple[Identity, ...]) -> dict[str, Any] | None:
    """Return what the permission says; None: nobody may call, which is so without one."""
    target = {"targetRef": {"kind": "Dataplane", "labels": dict(sorted(service.place.labels().items()))}}
    if service.environment.model is MeshModel.PROVIDED:
        tags = sorted({each.kuma_service for each in allowed})
        return target | {
            # A later entry outweighs an earlier one.
            "from": [
                {"targetRef": {"kind": "Mesh"}, "default": {"action": "Deny"}},
                *(
                    {
                        "targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": tag}},
                        "default": {"action": "Allow"},
                    }
                    for tag in tags
                ),
            ]
        }
    if not allowed:
        return None
    ids = sorted({each.spiffe_id for each in allowed})
    return target | {
        "rules": [{"default": {"allow": [{"spiffeID": {"type": "Exact", "value": each}} for each in ids]}}]
    }
