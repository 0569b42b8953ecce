"""
Rights as the objects that an administrator applies: roles, their bindings, and the policy that confines the account.

Rules that must stay true here:

- Pure, and the same objects in the same order for the same rights: what is printed can be kept and compared.
- Nothing is added to what the features state but names and bindings.
- The policy judges rotator's account and nobody else, and fails closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rotator.cluster.rights import Confined, Rights

JSON = dict[str, Any]

RBAC: Final = "rbac.authorization.k8s.io"
_ADMISSION: Final = "admissionregistration.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The ServiceAccount that rotator is."""

    namespace: str
    name: str = "rotator"

    @property
    def username(self) -> str:
        """Return what the API server calls it."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def as_subject(self) -> JSON:
        """Return it as a binding names it."""
        return {"kind": "ServiceAccount", "name": self.name, "namespace": self.namespace}


def role_objects(rights: Rights, account: Account, *, name: str, cluster_name: str) -> tuple[JSON, ...]:
    """Return roles and bindings of *rights*: *cluster_name* for those of the cluster, *name* in each namespace."""
    found: list[JSON] = []
    if rights.cluster:
        found += _bound("ClusterRole", {"name": cluster_name}, rights.cluster, account)
    for namespace, rules in rights.namespaces.items():
        found += _bound("Role", {"name": name, "namespace": namespace}, rules, account)
    return tuple(found)


def _bound(kind: str, metadata: Mapping[str, str], rules: Sequence[JSON], account: Account) -> tuple[JSON, JSON]:
    role = {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": dict(metadata), "rules": list(rules)}
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": dict(metadata),
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": metadata["name"]},
        "subjects": [account.as_subject()],
    }
    return role, binding


def confinement(confined: Iterable[Confined], account: Account, *, name: str) -> tuple[JSON, ...]:
    """Return the policy *name* that holds *account* to what is *confined*, and its binding; none if nothing is."""
    by_resource: dict[tuple[str, str, str], list[Confined]] = defaultdict(list)
    for each in confined:
        by_resource[each.group, each.version, each.resource].append(each)
    if not by_resource:
        return ()
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [group],
                    "apiVersions": [version],
                    "operations": sorted({operation for each in those for operation in each.operations}),
                    "resources": [resource],
                }
                for (group, version, resource), those in by_resource.items()
            ]
        },
        "matchConditions": [own_requests(account)],
        "validations": [
            {
                "expression": f"!({_is(group, resource)}) || {' || '.join(_allowed(those))}",
                "message": f"rotator's configuration names no such {resource.replace('pods/eviction', 'pod to evict')}",
            }
            for (group, _, resource), those in by_resource.items()
        ],
    }
    return bound_policy(name, spec)


def own_requests(account: Account) -> JSON:
    """Return the condition under which a policy looks at a request: *account* makes it."""
    return {"name": "rotator", "expression": f"request.userInfo.username == {quoted(account.username)}"}


def bound_policy(name: str, spec: JSON) -> tuple[JSON, JSON]:
    """Return the ValidatingAdmissionPolicy *name* and the binding that puts it in force everywhere."""
    policy = {
        "apiVersion": f"{_ADMISSION}/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    binding = {
        "apiVersion": f"{_ADMISSION}/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return policy, binding


def quoted(word: str) -> str:
    r"""Return *word* as a literal of CEL: ``it's`` becomes ``'it\'s'``."""
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _is(group: str, resource: str) -> str:
    """Return the expression that is true for a request on *resource* of *group*."""
    plural, _, part = resource.partition("/")
    return (
        f"request.resource.group == {quoted(group)} && request.resource.resource == {quoted(plural)} && "
        f"request.subResource == {quoted(part)}"
    )


def _allowed(those: Sequence[Confined]) -> Iterable[str]:
    """Yield expressions of which one is true for what is allowed; one for each type, and for each beginning."""
    named: dict[str | None, list[str]] = defaultdict(list)
    for each in those:
        named[each.type] += [f"{each.namespace}/{name}" for name in each.names]
    for kind, places in named.items():
        if places:
            listed = ", ".join(quoted(place) for place in sorted(set(places)))
            among = f"(request.namespace + '/' + request.name) in [{listed}]"
            yield f"({among}{_of_type(kind)})"
    for each in those:
        for beginning in each.beginnings:
            start = quoted(f"{each.namespace}/{beginning}")
            yield f"((request.namespace + '/' + request.name).startsWith({start}){_of_type(each.type)})"


def _of_type(kind: str | None) -> str:
    return "" if kind is None else f" && object.type == {quoted(kind)}"
