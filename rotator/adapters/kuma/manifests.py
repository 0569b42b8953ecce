"""
Everything that rotator's account needs in a cluster, as objects to apply.

Rules that must stay true here:

- Pure. The rules are those of `rotator.adapters.kuma.rights`, which tests run with on a real API server; nothing is
  added here but names and bindings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rotator.adapters.kuma.rights import admission_policy, rbac_rules

_RBAC = "rbac.authorization.k8s.io"


def manifests(
    meshes: Sequence[str],
    namespace: str,
    *,
    service_account: str,
    read_secrets: Sequence[str] = (),
    adopt: Sequence[str] = (),
) -> tuple[dict[str, Any], ...]:
    """
    Return roles, bindings and admission policy for *meshes*, whose control plane lives in *namespace*.

    *service_account* is written ``namespace:name``; *read_secrets* are those of a CA that was there before rotator,
    *adopt* its MeshIdentity and MeshTrusts.
    """
    rights = [rbac_rules(mesh, namespace, read_secrets=read_secrets, adopt=adopt) for mesh in meshes]
    home, _, account = service_account.partition(":")
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": home}]
    name = f"rotator-{namespace}"
    return (
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [rule for each in rights for rule in each.cluster],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
            "subjects": subjects,
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "Role",
            "metadata": {"name": "rotator", "namespace": namespace},
            "rules": _once([rule for each in rights for rule in each.namespaced]),
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "rotator", "namespace": namespace},
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": "rotator"},
            "subjects": subjects,
        },
        *admission_policy(meshes, namespace, service_account=service_account, adopt=adopt),
    )


def _once(rules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return *rules* without repetitions: several meshes share what names none of them."""
    return [rule for at, rule in enumerate(rules) if rule not in rules[:at]]
