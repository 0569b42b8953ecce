"""
What has to be written so that control planes hold what is wanted, in which order, and how it is shown beforehand.

Rules that must stay true here:

- Grow first, shrink last: what callers need is there before anything leads them to it, permissions are widened before
  routes move and narrowed after, and deletions come last.
- A plan's digest covers every document before and after, so what was approved is exactly what is applied.
- Where a change stands is read off the documents, never off a counter (law 13).

Pure.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Any, Final

from rotator.platform.documents import (
    Address,
    Document,
    address_in,
    address_json,
    document_in,
    document_json,
    json_of,
    sha256_of,
)

PERMISSION: Final = "MeshTrafficPermission"
ROUTES: Final = frozenset({"MeshHTTPRoute", "MeshTCPRoute"})

_LETS: Final = ("allow", "allowWithShadowDeny")
_REFUSES: Final = "deny"


class ChangeKind(StrEnum):
    """Why documents are written."""

    APPLY = "apply"
    """Somebody wants what the configuration says."""
    UNDO = "undo"
    """Somebody wants what was there before another change."""
    PUT_BACK = "put_back"
    """Somebody else changed what was applied, and the configuration wants that back."""


class Stage(IntEnum):
    """When in a change a document is written."""

    GROUND = 0
    """What others refer to: services, telemetry back-ends, and whatever moves no traffic."""
    WIDEN = 1
    ROUTE = 2
    NARROW = 3
    REMOVE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One write: what has to be there before it, and what is there after it."""

    address: Address
    before: Document | None
    after: Document | None
    stage: Stage

    @property
    def in_words(self) -> str:
        """Return what it does, as a sentence."""
        if self.before is None:
            return f"create {self.address.in_words}"
        if self.after is None:
            return f"remove {self.address.in_words}"
        how = {Stage.WIDEN: "widen", Stage.NARROW: "narrow"}.get(self.stage, "change")
        return f"{how} {self.address.in_words}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that one change writes, in order."""

    steps: tuple[Step, ...] = ()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of everything that it expects and does."""
        return sha256_of(json.loads(steps_text(self.steps)))

    def ends(self) -> dict[Address, tuple[Document | None, Document | None]]:
        """Return, for each document, what is there before the whole change and after it, in order of address."""
        found: dict[Address, tuple[Document | None, Document | None]] = {}
        for step in self.steps:
            first = found[step.address][0] if step.address in found else step.before
            found[step.address] = (first, step.after)
        return {address: found[address] for address in sorted(found)}

    def turned(self, present: Mapping[Address, Document]) -> Plan:
        """Return the plan by which *present* becomes again what was there before this one."""
        before = {address: first for address, (first, _) in self.ends().items()}
        return plan_of(
            {address: document for address, document in before.items() if document is not None},
            {address: present[address] for address in before if address in present},
        )

    def done(self, present: Mapping[Address, Document]) -> list[tuple[int, Step]]:
        """Return the steps that are done by what is *present*, each with its place in the plan."""
        at = reached(self.steps, present)
        turn: Counter[Address] = Counter()
        found = []
        for number, step in enumerate(self.steps):
            turn[step.address] += 1
            if turn[step.address] <= (at[step.address] or 0):
                found.append((number, step))
        return found

    def differing(self, present: Mapping[Address, Document]) -> tuple[Address, ...]:
        """Return the documents that are as no step of this plan leaves them: undoing it would lose what is there."""
        return tuple(address for address, at in reached(self.steps, present).items() if at is None)


def plan_of(wanted: Mapping[Address, Document], present: Mapping[Address, Document]) -> Plan:
    """Return the plan by which *present*, rotator's own documents, becomes *wanted*."""
    steps = [
        step
        for address in sorted({*wanted, *present})
        for step in _steps(address, present.get(address), wanted.get(address))
    ]
    return Plan(steps=tuple(sorted(steps, key=lambda each: (each.stage, _turn(each), each.address))))


def reached(steps: Iterable[Step], present: Mapping[Address, Document]) -> dict[Address, int | None]:
    """
    Return how many of the *steps* of each document are done by what is *present*; None where it is as none leaves it.

    Several steps may be about one document: whichever it has come to last counts.
    """
    states: dict[Address, list[Document | None]] = {}
    for step in steps:
        states.setdefault(step.address, [step.before]).append(step.after)
    found: dict[Address, int | None] = {}
    for address, known in states.items():
        now = present.get(address)
        found[address] = next((at for at in reversed(range(len(known))) if known[at] == now), None)
    return found


def widens(before: Document | None, after: Document | None) -> bool:
    """Return whether a permission that was *before* and is *after* lets in somebody who was not let in."""
    lets_old, refuses_old = _grants({} if before is None else before.spec)
    lets_new, refuses_new = _grants({} if after is None else after.spec)
    moved = before is not None and after is not None and before.spec.get("targetRef") != after.spec.get("targetRef")
    return not (lets_new <= lets_old and refuses_old <= refuses_new) or (moved and bool(lets_new))


# --- showing --------------------------------------------------------------------------------------------------------


def difference(before: Document | None, after: Document | None) -> str:
    """Return the unified diff of two versions of one document as canonical YAML; empty if they say the same."""
    old, new = ("" if each is None else each.text for each in (before, after))
    lines = difflib.unified_diff(
        old.splitlines(),
        new.splitlines(),
        fromfile=_named(before, "as it is"),
        tofile=_named(after, "as it will be"),
        lineterm="",
    )
    return "\n".join(lines)


def shown(plan: Plan) -> list[dict[str, Any]]:
    """Return every step for people: ``mesh``, ``kind``, ``name``, ``what`` and ``diff``, in the order of writing."""
    return [
        {
            "trust_domain": step.address.trust_domain,
            "mesh": step.address.mesh,
            "kind": step.address.kind,
            "name": step.address.name,
            "stage": step.stage.name.lower(),
            "what": step.in_words,
            "diff": difference(step.before, step.after),
        }
        for step in plan.steps
    ]


def _named(document: Document | None, when: str) -> str:
    return "nothing" if document is None else f"{document.address.kind}/{document.address.name} ({when})"


# --- keeping --------------------------------------------------------------------------------------------------------


def steps_text(steps: Sequence[Step]) -> str:
    """Return *steps* as they are kept: canonical JSON."""
    return json_of(
        [
            {
                "address": address_json(each.address),
                "before": document_json(each.before),
                "after": document_json(each.after),
                "stage": each.stage.name,
            }
            for each in steps
        ]
    )


def steps_in(text: str) -> tuple[Step, ...]:
    """Return the steps that `steps_text` wrote. Raises `ValueError` for what this version cannot read."""
    try:
        rows = json.loads(text)
        return tuple(
            Step(
                address=(address := address_in(row["address"])),
                before=document_in(address, row["before"]),
                after=document_in(address, row["after"]),
                stage=Stage[row["stage"]],
            )
            for row in rows
        )
    except (KeyError, TypeError) as e:
        raise ValueError("a change's steps are not readable") from e


# --- order ----------------------------------------------------------------------------------------------------------


def _steps(address: Address, before: Document | None, after: Document | None) -> Iterator[Step]:
    if before == after:
        return
    if after is None:
        yield Step(address=address, before=before, after=None, stage=Stage.REMOVE)
    elif address.kind in ROUTES:
        yield Step(address=address, before=before, after=after, stage=Stage.ROUTE)
    elif address.kind != PERMISSION:
        yield Step(address=address, before=before, after=after, stage=Stage.GROUND)
    else:
        wide = _widened(before, after)
        if wide != before and wide is not None:
            yield Step(address=address, before=before, after=wide, stage=Stage.WIDEN)
        if wide != after:
            yield Step(address=address, before=wide, after=after, stage=Stage.NARROW)


def _turn(step: Step) -> int:
    """Return the place of a removal among removals: what leads somewhere goes before what lets in."""
    if step.stage is not Stage.REMOVE:
        return 0
    return 0 if step.address.kind in ROUTES else 1 if step.address.kind == PERMISSION else 2


def _widened(before: Document | None, after: Document) -> Document | None:
    """
    Return a permission that lets in everybody whom *before* or *after* lets in; *before* itself if that is enough.

    What another target is given cannot be given beside the old one under one name: such a change is made as it is.
    """
    old: Mapping[str, Any] = {} if before is None else before.spec
    new = after.spec
    if before is not None and old.get("targetRef") != new.get("targetRef"):
        return after
    lets_old, refuses_old = _grants(old)
    lets_new, refuses_new = _grants(new)
    if lets_new <= lets_old and refuses_old <= refuses_new:
        return before
    if lets_old <= lets_new and refuses_new <= refuses_old:
        return after
    kept = refuses_old & refuses_new
    spec: dict[str, Any] = {key: value for key, value in new.items() if key not in {"rules", "from"}}
    if rules := _both(_rules(old), _rules(new), kept):
        spec["rules"] = rules
    if sources := [each for each in _joined(old.get("from"), new.get("from")) if _stays(each, kept)]:
        spec["from"] = sources
    return replace(after, spec=spec)


def _grants(spec: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Return whom *spec* lets in and whom it refuses, each as canonical JSON."""
    lets = {json_of(each) for rule in _rules(spec) for key in _LETS for each in _default(rule).get(key) or ()}
    refuses = {json_of(each) for rule in _rules(spec) for each in _default(rule).get(_REFUSES) or ()}
    for source in spec.get("from") or ():
        found = refuses if str(_default(source).get("action", "")).lower() == _REFUSES else lets
        found.add(json_of(source.get("targetRef")))
    return frozenset(lets), frozenset(refuses)


def _rules(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(spec.get("rules") or ())


def _default(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    found = rule.get("default")
    return found if isinstance(found, Mapping) else {}


def _both(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]], kept: frozenset[str]) -> list[Mapping[str, Any]]:
    """Return rules that let in whom either lets in, and refuse whom both refuse (*kept*)."""
    if len(old) == len(new) == 1:
        merged = {
            key: _joined(_default(new[0]).get(key), _default(old[0]).get(key))
            for key in (*_LETS, _REFUSES)
            if _default(new[0]).get(key) or _default(old[0]).get(key)
        }
        old, new = [], [{**new[0], "default": {**_default(new[0]), **merged}}]
    return [slim for each in _joined(new, old) if (slim := _without(each, kept)) is not None]


def _without(rule: Mapping[str, Any], kept: frozenset[str]) -> Mapping[str, Any] | None:
    """Return *rule* without the refusals that are not *kept*; None if nothing of it is left."""
    default = dict(_default(rule))
    if _REFUSES in default:
        default[_REFUSES] = [each for each in default[_REFUSES] if json_of(each) in kept]
    default = {key: value for key, value in default.items() if value}
    return {**rule, "default": default} if default else None


def _stays(source: Mapping[str, Any], kept: frozenset[str]) -> bool:
    refuses = str(_default(source).get("action", "")).lower() == _REFUSES
    return not refuses or json_of(source.get("targetRef")) in kept


def _joined(first: Iterable[Any] | None, second: Iterable[Any] | None) -> list[Any]:
    """Return everything of *first*, and of *second* what is not in it."""
    found = list(first or ())
    known = {json_of(each) for each in found}
    return [*found, *(each for each in second or () if json_of(each) not in known)]
