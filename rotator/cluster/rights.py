"""
What rotator's account may do in a cluster: the shape in which each feature states its own rights.

Rules that must stay true here:

- Pure. Whoever calls the API server states what it needs in a function beside it; nobody else adds a right.
- Names wherever Kubernetes knows them; what RBAC cannot name (``create`` by POST, subresources of pods, names that
  count on) is `Confined`, which an admission policy keeps for rotator's account alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Rule = dict[str, Any]
"""A rule of a Role or ClusterRole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confined:
    """What rotator's account is held to at admission, whatever its roles say: these objects, and no other."""

    namespace: str
    resource: str
    """Plural, with its subresource if it is one: ``secrets``, ``pods/eviction``."""
    group: str = ""
    version: str = "v1"
    """Of the group, as the policy's rule names it."""
    names: tuple[str, ...] = ()
    """Names that it may create."""
    patterns: tuple[str, ...] = ()
    """Further names that it may create, as regular expressions (RE2) of whole names."""
    type: str | None = None
    """Of a Secret, where it must be one type."""
    kept: tuple[str, ...] = ()
    """Of what it may update, the fields that must stay as they are (``spec.template``)."""
    operations: tuple[str, ...] = ("CREATE",)
    """``CREATE``, ``UPDATE``, ``DELETE``; what roles name needs no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What one feature needs of one API server."""

    cluster: tuple[Rule, ...] = ()
    """For a ClusterRole: what belongs to no namespace."""
    namespaces: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    """For a Role in each of these namespaces."""
    confined: tuple[Confined, ...] = ()


def rule(resource: str, *verbs: str, group: str = "", names: Iterable[str] = ()) -> Rule:
    """Return the rule that allows *verbs* on *resource* of *group*; only those of *names* if there are any."""
    found: Rule = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
    named = sorted(set(names))
    return found | ({"resourceNames": named} if named else {})


def joined(rights: Iterable[Rights]) -> Rights:
    """Return all of *rights* as one: each rule once, namespaces in order of their names."""
    found = tuple(rights)
    namespaces = sorted({namespace for each in found for namespace in each.namespaces})
    return Rights(
        cluster=_once(rule for each in found for rule in each.cluster),
        namespaces={
            namespace: _once(rule for each in found for rule in each.namespaces.get(namespace, ()))
            for namespace in namespaces
        },
        confined=tuple(dict.fromkeys(confined for each in found for confined in each.confined)),
    )


def _once(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return *rules* without repetitions, those that differ in their names alone as one, in the order they came in."""
    # A rule without names allows every name, so it stays apart from those with some.
    names: dict[tuple[Any, ...], tuple[Rule, dict[str, None] | None]] = {}
    for each in rules:
        named = "resourceNames" in each
        key = (*(tuple(each[part]) for part in ("apiGroups", "resources", "verbs")), named)
        _, known = names.setdefault(key, (each, {} if named else None))
        if known is not None:
            known.update(dict.fromkeys(each["resourceNames"]))
    return tuple(first if known is None else {**first, "resourceNames": list(known)} for first, known in names.values())
