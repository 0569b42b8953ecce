"""
Which proxies a policy is for, and which services a reference means.

Rules that must stay true here:

- A policy without ``targetRef`` is for every proxy of its mesh.
- Real resources are meant by name or by labels; among several the one with the smallest name (GUESS: Kuma takes the
  oldest).
- A ``sectionName`` means an inbound or a port by its name, or by its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.fakes.kuma.store import Json, Resource
from tests.fakes.kuma.topology import inbounds, tags_of

_SPECIFICITY = ("Mesh", "MeshSubset", "MeshService", "MeshServiceSubset", "Dataplane")
DISPLAY_NAME = "kuma.io/display-name"
NAMESPACE = "k8s.kuma.io/namespace"
POLICY_ROLE = "kuma.io/policy-role"
WORKLOAD_OWNER = "workload-owner"
"""The role of a policy that stands in another namespace than the control plane's."""


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether *labels* hold everything that is *wanted*."""
    return all(labels.get(key) == value for key, value in wanted.items())


def selects(reference: Json | None, dataplane: Resource, *, section: Json | None = None) -> bool:
    """Return whether a policy's *reference* selects *dataplane*, and its inbound *section* if one is asked about."""
    reference = reference or {"kind": "Mesh"}
    tags = tags_of(dataplane)
    wanted = dict(reference.get("tags") or {})
    match reference["kind"]:
        case "Mesh":
            return True
        case "Dataplane":
            is_it = reference.get("name") in {None, dataplane.name, dataplane.labels.get(DISPLAY_NAME)}
            is_it = is_it and has_labels(dataplane.labels, reference.get("labels") or {})
        case "MeshService" | "MeshServiceSubset":
            wanted["kuma.io/service"] = reference.get("name", "")
            is_it = True
        case _:
            is_it = True
    is_it = is_it and all(value in tags.get(tag, ()) for tag, value in wanted.items())
    name = reference.get("sectionName")
    return is_it and (name is None or section is None or is_section(section, name))


def is_section(section: Json, name: str) -> bool:
    """Return whether an inbound or a service's port is called *name*."""
    return name in {section.get("name"), str(section["port"])}


def by_priority(dataplane: Resource, policies: Iterable[Resource], *, section: Json | None = None) -> list[Resource]:
    """Return the policies that select *dataplane*, the weakest first."""
    found = [
        each
        for each in policies
        if selects(each.spec.get("targetRef"), dataplane, section=section) and _is_in_reach(each, dataplane)
    ]

    def strength(policy: Resource) -> int:
        reference = policy.spec.get("targetRef") or {"kind": "Mesh"}
        return 2 * _SPECIFICITY.index(reference["kind"]) + bool(reference.get("sectionName"))

    # Of two that are equally strong the smaller name wins, so it comes last.
    return sorted(sorted(found, key=lambda policy: policy.name, reverse=True), key=strength)


def _is_in_reach(policy: Resource, dataplane: Resource) -> bool:
    """Return whether a policy reaches *dataplane*: from an application's namespace it reaches that namespace alone."""
    if policy.labels.get(POLICY_ROLE) != WORKLOAD_OWNER:
        return True
    return policy.labels.get(NAMESPACE) == dataplane.labels.get(NAMESPACE)


def meant_service(reference: Json, services: Sequence[Resource]) -> Resource | None:
    """Return the MeshService that a reference means, None if there is none."""
    found = [each for each in services if means(reference, each)]
    return min(found, key=lambda each: each.name) if found else None


def means(reference: Json, service: Resource) -> bool:
    """Return whether a reference to MeshServices means *service*."""
    if reference.get("labels"):
        return has_labels({DISPLAY_NAME: service.name, **service.labels}, reference["labels"])
    if reference.get("namespace") not in {None, service.labels.get(NAMESPACE)}:
        return False
    return reference.get("name") in {service.name, service.labels.get(DISPLAY_NAME)}


def meant_port(reference: Json, service: Resource) -> Json | None:
    """Return the port of *service* that a reference means, None if it has no such port."""
    ports: list[Json] = service.spec.get("ports") or []
    if reference.get("port") is not None:
        return next((each for each in ports if each["port"] == reference["port"]), None)
    name = reference.get("sectionName")
    if name is None:
        return ports[0] if ports else None
    return next((each for each in ports if is_section(each, name)), None)


def standing_behind(service: Resource, port: Json, dataplanes: Iterable[Resource]) -> list[tuple[Resource, Json]]:
    """Return the proxies behind a port of *service*, each with the inbound that takes its connections."""
    found = []
    for dataplane in dataplanes:
        if not _is_member(service, dataplane):
            continue
        target = port.get("targetPort", port["port"])
        inbound = next((each for each in inbounds(dataplane) if target in {each["port"], each.get("name")}), None)
        if inbound is not None:
            found.append((dataplane, inbound))
    return found


def _is_member(service: Resource, dataplane: Resource) -> bool:
    match service.spec.get("selector") or {}:
        case {"dataplaneRef": {"name": name}}:
            return bool(name == dataplane.name)
        case {"dataplaneTags": tags}:
            found = tags_of(dataplane)
            return all(value in found.get(tag, ()) for tag, value in tags.items())
        case {"dataplaneLabels": {"matchLabels": labels}} | {"dataplane": {"matchLabels": labels}}:
            return has_labels(dataplane.labels, labels)
        case _:
            return False
