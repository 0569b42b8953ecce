"""
What rotator may do in a cluster for the Secrets and ConfigMaps that it publishes.

Rules that must stay true here:

- Pure. No right to list or watch, and none to read or change anything whose name is not configured.
- A published Secret is never deleted; the copy of the publication before it is.
- RBAC cannot limit ``create`` by name: `Confined` does, at admission, for rotator's account alone.
"""

from __future__ import annotations

from rotator.adapters.kubernetes import tokens
from rotator.adapters.kubernetes.secrets import PREVIOUS, PREVIOUS_TYPE, TYPE
from rotator.cluster.rights import Confined, Rights, rule


def secret_rights(namespace: str, name: str) -> Rights:
    """Return what `SecretStore` needs for one Secret and the copy beside it."""
    copy = name + PREVIOUS
    return Rights(
        namespaces={
            namespace: (
                rule("secrets", "create"),
                rule("secrets", "get", "patch", names=(name, copy)),
                rule("secrets", "delete", names=(copy,)),
            )
        },
        confined=(
            Confined(namespace=namespace, resource="secrets", names=(name,), type=TYPE),
            Confined(namespace=namespace, resource="secrets", names=(copy,), type=PREVIOUS_TYPE),
        ),
    )


def token_rights(namespace: str, name: str) -> Rights:
    """Return what `TokenSecret` needs for one Secret."""
    return Rights(
        namespaces={
            namespace: (rule("secrets", "create"), rule("secrets", "get", "patch", names=(name,))),
        },
        confined=(Confined(namespace=namespace, resource="secrets", names=(name,), type=tokens.TYPE),),
    )


def configmap_rights(namespace: str, name: str) -> Rights:
    """Return what `BundleStore` needs for one ConfigMap."""
    return Rights(
        namespaces={
            namespace: (rule("configmaps", "create"), rule("configmaps", "get", "patch", names=(name,))),
        },
        confined=(Confined(namespace=namespace, resource="configmaps", names=(name,)),),
    )
