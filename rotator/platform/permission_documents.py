"""
What MeshTrafficPermissions say of one call, whoever wrote them.

Rules that must stay true here:

- Absence is refusal, and a denial wins over every permission.
- Whom a MeshIdentity has named knows ``rules`` alone; ``from`` is for callers that are told by their tags.
- Where it cannot be known whether a policy selects the proxy, it counts as selecting it: rather told of than missed.
- Pure: documents as Kuma's HTTP API spells them in, one decision out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rotator.platform.call import Decision

JSON = Mapping[str, Any]

_SERVICE = "kuma.io/service"
_DISPLAY_NAME = "kuma.io/display-name"
_SPECIFICITY = ("Mesh", "MeshSubset", "MeshService", "MeshServiceSubset", "Dataplane")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The proxy that is called."""

    name: str
    marks: Mapping[str, str]
    """Its labels, and its tags where labels say nothing."""
    sections: frozenset[str] = frozenset()
    """Names and ports of the inbound that is called."""
    certain: Callable[[str], bool] = field(default=lambda _: True)
    """Whether a mark is known to be absent where `marks` has none: a policy that might select the proxy counts."""


def permitted(documents: Sequence[JSON], destination: Destination, names: Sequence[str]) -> Decision:
    """Return what *documents* say of a caller with *names* (URIs) in its certificate who calls *destination*."""
    chosen = _by_priority([each for each in documents if selects(each, destination)])
    denied = [_name(each) for each in chosen if any(_holds(match, names) for match in _matches(each, "deny"))]
    if denied:
        return Decision(admitted=False, by=tuple(dict.fromkeys(denied)), denied=True)
    allowed = [
        _name(each)
        for each in chosen
        for key in ("allow", "allowWithShadowDeny")
        if any(_holds(match, names) for match in _matches(each, key))
    ]
    if allowed:
        return Decision(admitted=True, by=tuple(dict.fromkeys(allowed)))
    return _by_tags(chosen, names)


def _by_tags(chosen: Sequence[JSON], names: Sequence[str]) -> Decision:
    """Return what the older form says: of all entries that mean the caller the last one counts."""
    mesh, tags = _tags(names)
    said = Decision(admitted=False)
    for each in chosen:
        for entry in _items(_spec(each), "from"):
            reference = _get(entry, "targetRef")
            wanted = dict(_get(reference, "tags"))
            if reference.get("kind") in {"MeshService", "MeshServiceSubset"}:
                wanted[_SERVICE] = reference.get("name", "")
            if not tags and not (mesh and not wanted):
                continue
            if all(tags.get(tag) == value for tag, value in wanted.items()):
                admitted = str(_get(entry, "default").get("action", "Deny")) != "Deny"
                said = Decision(admitted=admitted, by=(_name(each),), denied=not admitted)
    return said


def _tags(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return mesh and tags of a leaf of the older kind, both empty for one of a MeshIdentity."""
    found = {}
    for each in names:
        if each.startswith("kuma://"):
            tag, _, value = each.removeprefix("kuma://").rpartition("/")
            found[tag] = value
    if not found:
        return "", {}
    named = next((each for each in names if each.startswith("spiffe://")), "")
    mesh, _, service = named.removeprefix("spiffe://").partition("/")
    return mesh, {_SERVICE: service, **found}


def _by_priority(documents: Sequence[JSON]) -> list[JSON]:
    """Return the weakest first: what selects fewer is stronger, and of two alike the smaller name."""

    def strength(document: JSON) -> int:
        reference = _get(_spec(document), "targetRef")
        kind = str(reference.get("kind", "Mesh"))
        rank = _SPECIFICITY.index(kind) if kind in _SPECIFICITY else 0
        return 2 * rank + bool(reference.get("sectionName"))

    return sorted(sorted(documents, key=_name, reverse=True), key=strength)


def selects(document: JSON, destination: Destination) -> bool:
    """Return whether *document* is for *destination*, so far as nothing that is known speaks against it."""
    reference = _get(_spec(document), "targetRef")
    kind = str(reference.get("kind", "Mesh"))
    wanted = {str(key): str(value) for key, value in _get(reference, "tags").items()}
    if kind == "Dataplane":
        wanted |= {str(key): str(value) for key, value in _get(reference, "labels").items()}
        known = {destination.name, destination.name.partition(".")[0], destination.marks.get(_DISPLAY_NAME)}
        if destination.name and reference.get("name") is not None and reference["name"] not in known:
            return False
        section = reference.get("sectionName")
        if section is not None and destination.sections and str(section) not in destination.sections:
            return False
    elif kind in {"MeshService", "MeshServiceSubset"}:
        wanted[_SERVICE] = str(reference.get("name", ""))
    elif kind not in {"Mesh", "MeshSubset"}:
        return False
    return all(
        destination.marks[key] == value if key in destination.marks else not destination.certain(key)
        for key, value in wanted.items()
    )


def _matches(document: JSON, key: str) -> Iterator[JSON]:
    for rule in _items(_spec(document), "rules"):
        yield from _items(_get(rule, "default"), key)


def _holds(match: JSON, names: Sequence[str]) -> bool:
    wanted = _get(match, "spiffeID")
    if not wanted:
        return "sni" not in match
    text = str(wanted.get("value", ""))
    if wanted.get("type") == "Prefix":
        return any(name.startswith(f"{text.rstrip('/')}/") for name in names)
    return text in names


def _spec(document: JSON) -> JSON:
    return _get(document, "spec")


def _name(document: JSON) -> str:
    return str(document.get("name", ""))


def _get(found: JSON, key: str) -> JSON:
    said = found.get(key)
    return said if isinstance(said, Mapping) else {}


def _items(found: JSON, key: str) -> list[JSON]:
    said = found.get(key)
    return [each for each in said if isinstance(each, Mapping)] if isinstance(said, list) else []
