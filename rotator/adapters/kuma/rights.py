"""
What rotator may do in a cluster for one mesh, as Kubernetes writes it.

Rules that must stay true here:

- Pure. No right to list Secrets, none to read or change one whose name is not rotator's own.
- RBAC cannot limit ``create`` by name, nor names that count on: an admission policy does, for rotator alone.
- The chart and the tests use these; whoever needs another right adds it here, with the test that fails without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rotator.adapters.kuma.naming import trust_name
from rotator.adapters.kuma.slots import MESH_LABEL, SECRET_TYPE, slot_names

Rule = dict[str, Any]
"""A rule of a Role or ClusterRole."""

_KUMA: Final = "kuma.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What rotator needs for one mesh."""

    cluster: tuple[Rule, ...]
    """For a ClusterRole: meshes belong to no namespace."""
    namespace: str
    """The control plane's."""
    namespaced: tuple[Rule, ...]
    """For a Role there."""


def rbac_rules(mesh: str, namespace: str, *, read_secrets: Sequence[str] = (), adopt: Sequence[str] = ()) -> Rights:
    """
    Return the rules that rotator needs for *mesh*, whose control plane lives in *namespace*.

    *read_secrets* names further secrets that it may read: those of a CA that was there before it, until its
    generation is gone. *adopt* names the MeshIdentity and the MeshTrusts of that CA, which it removes in the end.
    """
    read: tuple[Rule, ...] = (_rule("", "secrets", ("get",), names=tuple(read_secrets)),) if read_secrets else ()
    return Rights(
        cluster=(_rule(_KUMA, "meshes", ("get", "update"), names=(mesh,)),),
        namespace=namespace,
        namespaced=(
            _rule("", "secrets", ("create",)),
            _rule("", "secrets", ("get", "update", "delete"), names=slot_names(mesh)),
            *read,
            # Their names count on with the generations: the admission policy holds them to rotator's own.
            _rule(_KUMA, "meshidentities", ("get", "list", "create", "update", "delete")),
            _rule(_KUMA, "meshtrusts", ("get", "list", "create")),
            _rule(_KUMA, "meshtrusts", ("update", "delete"), names=(trust_name(mesh), *adopt)),
        ),
    )


def admission_policy(
    meshes: Sequence[str], namespace: str, *, service_account: str, adopt: Sequence[str] = ()
) -> tuple[dict[str, Any], ...]:
    """
    Return a ValidatingAdmissionPolicy and its binding: what *service_account* writes in *namespace* is rotator's own.

    *service_account* is written ``namespace:name``; *adopt* names the MeshIdentities and MeshTrusts that were there
    before and that it may change and remove too. Anybody else's writes are none of its business.
    """
    name = f"rotator-{namespace}"
    slots = ", ".join(f"'{slot}'" for mesh in meshes for slot in slot_names(mesh))
    named = "(request.operation == 'DELETE' ? oldObject : object)"
    labelled = f"has({named}.metadata.labels) && '{MESH_LABEL}' in {named}.metadata.labels"
    mesh = f"{named}.metadata.labels['{MESH_LABEL}']"
    known = ", ".join(f"'{mesh_name}'" for mesh_name in meshes)
    adopted = f" || request.name in [{', '.join(repr(each) for each in adopt)}]" if adopt else ""
    policy: dict[str, Any] = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [
                    _watched("", "v1", "secrets"),
                    _watched(_KUMA, "v1alpha1", "meshidentities", "meshtrusts"),
                ],
            },
            "matchConditions": [
                {
                    "name": "rotator",
                    "expression": f"request.userInfo.username == 'system:serviceaccount:{service_account}'",
                }
            ],
            "validations": [
                {
                    "expression": f"request.resource.resource != 'secrets' || request.name in [{slots}]",
                    "message": "rotator writes no secret but its own slots",
                },
                {
                    "expression": f"request.resource.resource != 'secrets' || {named}.type == '{SECRET_TYPE}'",
                    "message": "rotator writes no secret but Kuma's",
                },
                {
                    "expression": f"{labelled} && {mesh} in [{known}] && "
                    f"(request.name == 'rotator-' + {mesh} || request.name.startsWith('rotator-' + {mesh} + '-')"
                    f"{adopted})",
                    "message": "rotator writes nothing but its own objects of its own meshes",
                },
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return policy, binding


def _rule(group: str, resource: str, verbs: tuple[str, ...], *, names: tuple[str, ...] = ()) -> Rule:
    rule: Rule = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
    return rule | ({"resourceNames": list(names)} if names else {})


def _watched(group: str, version: str, *resources: str) -> dict[str, Any]:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE", "DELETE"],
        "resources": list(resources),
    }
