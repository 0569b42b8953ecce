"""
What rotator's account in a cluster may not do, although it will have to.

Rules that must stay true here:

- Nothing is changed: the API server is asked what the account may do, a question that everybody may ask.
- What is asked for is what the features state (`rotator.cluster.rights`), verb by verb and name by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from rotator.cluster.objects import ObjectAPI
from rotator.cluster.rights import Rights, Rule

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def missing_rights(api: ObjectAPI, rights: Rights) -> tuple[str, ...]:
    """
    Return what the account behind *api* lacks of *rights*, as people say it: ``update secrets airflow/worker-tls``.

    A name stands behind its namespace where there is one: ``list pods in airflow``, ``create tokenreviews``.
    """
    return tuple(
        _said(asked)
        for namespace, rules in (("", rights.cluster), *rights.namespaces.items())
        for asked in _questions(rules, namespace)
        if not _allowed(api, asked)
    )


def _said(asked: dict[str, str]) -> str:
    resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
    namespace, name = asked.get("namespace"), asked.get("name")
    where = (f" {namespace}/{name}" if namespace else f" {name}") if name else (f" in {namespace}" if namespace else "")
    return f"{asked['verb']} {resource}{where}"


def _questions(rules: tuple[Rule, ...], namespace: str) -> Iterator[dict[str, str]]:
    """Yield the attributes of every single thing that *rules* allow."""
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource, _, part in (each.partition("/") for each in rule["resources"]):
                for name in rule.get("resourceNames", [""]):
                    for verb in rule["verbs"]:
                        asked = {"group": group, "resource": resource, "verb": verb}
                        further = {"subresource": part, "name": name, "namespace": namespace}
                        yield asked | {key: value for key, value in further.items() if value}


def _allowed(api: ObjectAPI, asked: dict[str, str]) -> bool:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return api.create(_REVIEWS, review).get("status", {}).get("allowed") is True
