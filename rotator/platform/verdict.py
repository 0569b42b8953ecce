"""
What a control plane's MeshTrafficPermissions decide, evaluated as Kuma does, in both of their forms.

Rules that must stay true here:

- Reads documents, whoever wrote them, and knows nothing of how rotator renders its own.
- With SPIFFE IDs (``rules``): a refusal that matches outweighs everything, then what allows, else it is refused.
- The older form (``from``): the last entry that matches decides, those of a narrower policy after those of a wider
  one; among equals the policy whose name sorts first outweighs the others. Nothing that matches: refused.
- Where it cannot be known whether a policy selects a Dataplane, it counts as selecting it: an opening is rather told
  of than missed.

Source: Kuma's documentation of policies and of MeshTrafficPermission, 2.14 and 3.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rotator.platform.model import Identity, MeshModel, OnMachines, Service
from rotator.platform.resources import ENVIRONMENT, MESH_TRAFFIC_PERMISSION, SERVICE, WORKLOAD, Resource

_SERVICE_TAG: Final = "kuma.io/service"
_WIDER: Final = ("Mesh", "MeshSubset", "MeshService", "MeshServiceSubset", "Dataplane")
"""Kinds of a target from the widest to the narrowest."""
_KNOWN: Final = ("k8s.kuma.io/namespace", "k8s.kuma.io/service-account", WORKLOAD, "rotator.io/")
"""Labels that a Dataplane has as the configuration says, or not at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Somebody who calls: by SPIFFE ID, and by tags in a mesh with a provided CA."""

    spiffe_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, identity: Identity) -> Caller:
        """Return the caller that *identity* is."""
        return cls(spiffe_id=identity.spiffe_id, tags={_SERVICE_TAG: identity.kuma_service})


@dataclass(frozen=True, kw_only=True, slots=True)
class Called:
    """The Dataplane of a service, as far as it is known."""

    labels: Mapping[str, str]
    tags: Mapping[str, str]
    complete: bool = False
    """Whether *labels* are all that it has, because it was seen."""

    @classmethod
    def of(cls, service: Service) -> Called:
        """Return what is known of *service*'s Dataplanes by the configuration."""
        place, labels = service.place, dict(service.place.labels())
        if isinstance(place, OnMachines):
            labels |= {ENVIRONMENT: service.environment.name, SERVICE: service.name}
        else:
            # What Kuma makes of it where nothing else names the workload.
            labels |= {WORKLOAD: place.service_account}
        return cls(labels=labels, tags={_SERVICE_TAG: service.kuma_service})


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a call is let through, and by which policy, if one decided."""

    allowed: bool
    by: str | None


REFUSED: Final = Verdict(allowed=False, by=None)


def verdict(policies: Iterable[Resource], caller: Caller, called: Called, model: MeshModel) -> Verdict:
    """Return what *policies* decide about a call of *caller* to *called* in a mesh of *model*."""
    selecting = [each for each in policies if each.kind == MESH_TRAFFIC_PERMISSION and selects(each, called)]
    if model is MeshModel.IDENTITY:
        return _by_rules(selecting, caller)
    return _by_from(selecting, caller)


def selects(policy: Resource, called: Called) -> bool:
    """Return whether *policy* is for *called*; so far as nothing that is known speaks against it."""
    target = policy.spec.get("targetRef") or {}
    kind = target.get("kind", "Mesh")
    if kind == "Mesh":
        return True
    if kind == "MeshService":
        return target.get("name") in {None, called.tags.get(_SERVICE_TAG)}
    if kind == "MeshServiceSubset":
        if target.get("name") not in {None, called.tags.get(_SERVICE_TAG)}:
            return False
        return _holds(target.get("tags") or {}, called.tags, complete=False)
    if kind == "MeshSubset":
        return _holds(target.get("tags") or {}, called.tags, complete=False)
    return _holds(target.get("labels") or {}, called.labels, complete=called.complete)


def entries(policy: Resource) -> tuple[Mapping[str, Any], ...]:
    """Return what *policy* lets in: each ``from`` target, and each match of ``rules``, that it allows."""
    allowed: list[Mapping[str, Any]] = [
        each.get("targetRef") or {"kind": "Mesh"}
        for each in policy.spec.get("from") or ()
        if (each.get("default") or {}).get("action") in {"Allow", "AllowWithShadowDeny"}
    ]
    for rule in policy.spec.get("rules") or ():
        default = rule.get("default") or {}
        for key in ("allow", "allowWithShadowDeny"):
            allowed += default.get(key) or ()
    return tuple(allowed)


def _holds(wanted: Mapping[str, str], given: Mapping[str, str], *, complete: bool) -> bool:
    """Return whether *given* has what is *wanted*; what it lacks, and might have, counts as had."""
    return all(
        given.get(key, None if complete or key.startswith(_KNOWN) else value) == value for key, value in wanted.items()
    )


def _by_rules(policies: list[Resource], caller: Caller) -> Verdict:
    allowing: str | None = None
    for policy in policies:
        for rule in policy.spec.get("rules") or ():
            default = rule.get("default") or {}
            if any(_matches(each, caller) for each in default.get("deny") or ()):
                return Verdict(allowed=False, by=policy.name)
            for key in ("allow", "allowWithShadowDeny"):
                if allowing is None and any(_matches(each, caller) for each in default.get(key) or ()):
                    allowing = policy.name
    return REFUSED if allowing is None else Verdict(allowed=True, by=allowing)


def _matches(match: Mapping[str, Any], caller: Caller) -> bool:
    spiffe_id = match.get("spiffeID")
    if not spiffe_id:
        return True
    value = str(spiffe_id.get("value", ""))
    if spiffe_id.get("type") == "Prefix":
        return caller.spiffe_id.startswith(value if value.endswith("/") else value + "/")
    return caller.spiffe_id == value


def _by_from(policies: list[Resource], caller: Caller) -> Verdict:
    found = REFUSED
    for policy in sorted(sorted(policies, key=lambda each: each.name, reverse=True), key=_width):
        for each in policy.spec.get("from") or ():
            if _is_from(each.get("targetRef") or {}, caller):
                action = (each.get("default") or {}).get("action")
                found = Verdict(allowed=action in {"Allow", "AllowWithShadowDeny"}, by=policy.name)
    return found


def _width(policy: Resource) -> int:
    kind = (policy.spec.get("targetRef") or {}).get("kind", "Mesh")
    return _WIDER.index(kind) if kind in _WIDER else len(_WIDER)


def _is_from(target: Mapping[str, Any], caller: Caller) -> bool:
    kind = target.get("kind", "Mesh")
    if kind == "Mesh":
        return True
    named = kind in {"MeshService", "MeshServiceSubset"}
    if named and target.get("name") != caller.tags.get(_SERVICE_TAG):
        return False
    tags = target.get("tags") or {}
    return all(caller.tags.get(key) == value for key, value in tags.items())
