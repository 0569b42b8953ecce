"""
What rotator's account in a cluster may not do, although it will have to.

Rules that must stay true here:

- Nothing is changed: the API server is asked what the account may do, a question that everybody may ask.
- What is asked for is what `rotator.adapters.kuma.rights` gives, name by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from rotator.adapters.kuma.rights import Rule, rbac_rules
from rotator.cluster.objects import ClusterAccess, ObjectAPI

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def missing_rights(access: ClusterAccess, mesh: str) -> tuple[str, ...]:
    """
    Return what the account lacks for *mesh*, each as people say it: ``update secrets rotator-default-cert-0``.

    Raises:
        ConfigError: If there is neither a usable kubeconfig nor a pod's ServiceAccount.
    """
    rights = rbac_rules(mesh, access.namespace)
    api = ObjectAPI(access)
    try:
        return tuple(
            " ".join(filter(None, (asked["verb"], asked["resource"], asked.get("name", ""))))
            for namespace, rules in (("", rights.cluster), (access.namespace, rights.namespaced))
            for asked in _questions(rules, namespace)
            if not _allowed(api, asked)
        )
    finally:
        api.close()


def _questions(rules: tuple[Rule, ...], namespace: str) -> Iterator[dict[str, str]]:
    """Yield the attributes of every single thing that *rules* allow."""
    for rule in rules:
        for resource in rule["resources"]:
            for name in rule.get("resourceNames", [""]):
                for verb in rule["verbs"]:
                    asked = {"group": rule["apiGroups"][0], "resource": resource, "verb": verb}
                    yield asked | ({"name": name} if name else {}) | ({"namespace": namespace} if namespace else {})


def _allowed(api: ObjectAPI, asked: dict[str, str]) -> bool:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return api.create(_REVIEWS, review).get("status", {}).get("allowed") is True
