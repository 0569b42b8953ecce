"""
Shapes that a resource's ``spec`` must have, and what is said of one that has not.

Rules that must stay true here:

- A violation names its field as Kuma does: ``spec.rules[0].default.allow[0].spiffeID.type``.
- What no shape knows is refused as ``unknown field``: 3.0 does so on Universal (GUESS: 2.x drops it in silence, which
  would let a wrong document look right).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from tests.fakes.kuma.admission import Violation

Shape = Callable[[Any, str], list[Violation]]
"""(what is said, its field) -> what is wrong with it."""

DEFINED = "must be defined"
NOT_EMPTY = "must not be empty"


def anything(said: Any, at: str) -> list[Violation]:
    """Take whatever is said: text with placeholders, a log's body."""
    del said, at
    return []


def text(said: Any, at: str) -> list[Violation]:
    """Take a text that is not empty."""
    if not isinstance(said, str):
        return [Violation(at, "must be of type string")]
    return [] if said else [Violation(at, NOT_EMPTY)]


def flag(said: Any, at: str) -> list[Violation]:
    """Take true or false."""
    return [] if isinstance(said, bool) else [Violation(at, "must be of type boolean")]


def number(lowest: int, highest: int) -> Shape:
    """Return the shape of a whole number."""

    def check(said: Any, at: str) -> list[Violation]:
        if not isinstance(said, int) or isinstance(said, bool):
            return [Violation(at, "must be of type integer")]
        return [] if lowest <= said <= highest else [Violation(at, f"must be in inclusive range [{lowest}, {highest}]")]

    return check


def one_of(*allowed: str) -> Shape:
    """Return the shape of a word out of *allowed*."""

    def check(said: Any, at: str) -> list[Violation]:
        if said in allowed:
            return []
        return [Violation(at, f"has incorrect value: {said!r}. Allowed values: {', '.join(allowed)}")]

    return check


def texts(said: Any, at: str) -> list[Violation]:
    """Take labels or tags: texts by names."""
    if not isinstance(said, dict):
        return [Violation(at, "must be of type object")]
    return [Violation(f'{at}["{key}"]', "must be of type string") for key, one in said.items() if type(one) is not str]


def listed(item: Shape, *, at_least: int = 0, at_most: int | None = None) -> Shape:
    """Return the shape of a list of *item*."""

    def check(said: Any, at: str) -> list[Violation]:
        if not isinstance(said, list):
            return [Violation(at, "must be of type array")]
        if len(said) < at_least:
            return [Violation(at, f"must have at least {at_least} items")]
        if at_most is not None and len(said) > at_most:
            return [Violation(at, f"must have at most {at_most} items")]
        return [wrong for index, each in enumerate(said) for wrong in item(each, f"{at}[{index}]")]

    return check


def fields(required: Collection[str] = (), /, **known: Shape) -> Shape:
    """Return the shape of an object with the *known* fields, of which *required* must be there."""

    def check(said: Any, at: str) -> list[Violation]:
        if not isinstance(said, dict):
            return [Violation(at, "must be of type object")]
        found = [Violation(f"{at}.{name}", "unknown field") for name in said if name not in known]
        found += [Violation(f"{at}.{name}", DEFINED) for name in required if said.get(name) is None]
        for name, shape in known.items():
            if said.get(name) is not None:
                found += shape(said[name], f"{at}.{name}")
        return found

    return check


def both(*shapes: Shape) -> Shape:
    """Return the shape of what has all *shapes*; the later ones look only at what the earlier ones took."""

    def check(said: Any, at: str) -> list[Violation]:
        for shape in shapes:
            found = shape(said, at)
            if found:
                return found
        return []

    return check
