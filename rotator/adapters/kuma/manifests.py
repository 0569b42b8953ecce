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
from rotator.cluster.rbac import Account, role_objects
from rotator.cluster.rights import joined


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
    rights = joined(rbac_rules(mesh, namespace, read_secrets=read_secrets, adopt=adopt) for mesh in meshes)
    home, _, account = service_account.partition(":")
    owner = Account(namespace=home, name=account)
    return (
        *role_objects(rights, owner, name="rotator", cluster_name=f"rotator-{namespace}"),
        *admission_policy(meshes, namespace, service_account=service_account, adopt=adopt),
    )
