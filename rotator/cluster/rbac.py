"""
Rights as the objects that an administrator applies: roles, their bindings, and the policy that confines the account.

Rules that must stay true here:

- Pure, and the same objects in the same order for the same rights: what is printed can be kept and compared.
- Nothing is added to what the features state but names and bindings.
- The policy judges rotator's account and nobody else, and fails closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
            validation
            for (group, _, resource), those in by_resource.items()
            for validation in _validations(group, resource, those)
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
    # A request on the resource itself carries no such key, or an empty one: that is the API server's choice.
    on_part = f"request.subResource == {quoted(part)}"
    wanted = f"has(request.subResource) && {on_part}" if part else f"(!has(request.subResource) || {on_part})"
    return f"request.resource.group == {quoted(group)} && request.resource.resource == {quoted(plural)} && {wanted}"


def _validations(group: str, resource: str, those: Sequence[Confined]) -> Iterator[JSON]:
    """Yield what is asked of a request on *resource*: one of the namespaces, and there one of the names."""
    by_namespace: dict[str, list[Confined]] = defaultdict(list)
    for each in those:
        by_namespace[each.namespace].append(each)
    message = f"rotator's configuration names no such object of {resource}"
    here = ", ".join(quoted(namespace) for namespace in by_namespace)
    other = f"!({_is(group, resource)})"
    yield {"expression": f"{other} || request.namespace in [{here}]", "message": message}
    # One expression for each namespace: the API server bounds what one may cost, and with it how many names it lists.
    for namespace, found in by_namespace.items():
        allowed = " || ".join(_allowed(found))
        expression = f"{other} || request.namespace != {quoted(namespace)} || {allowed}"
        yield {"expression": expression, "message": message}


def _allowed(those: Sequence[Confined]) -> Iterator[str]:
    """Yield expressions of which one is true for what is allowed; one for each type, and for each pattern."""
    named: dict[str, set[str]] = defaultdict(set)
    for each in those:
        named[_of_type(each.type) + _keeping(each.kept)].update(each.names)
    for conditions, names in named.items():
        if names:
            listed = ", ".join(quoted(name) for name in sorted(names))
            yield f"(request.name in [{listed}]{conditions})"
    for each in those:
        for pattern in each.patterns:
            yield f"(request.name.matches({quoted(f'^({pattern})$')}){_of_type(each.type)}{_keeping(each.kept)})"


def _keeping(fields: Sequence[str]) -> str:
    """Return that each of *fields* is what it was, or absent as it was."""
    optional = [".?".join(("", *each.split("."))) for each in fields]
    return "".join(f" && object{each} == oldObject{each}" for each in optional)


def _of_type(kind: str | None) -> str:
    return "" if kind is None else f" && object.type == {quoted(kind)}"
