"""
What pydantic finds wrong, in the words of a person: ``found X; allowed Y; do Z``.

Rules that must stay true here:

- What was found is shown short and redacted: somebody may have written a secret where none belongs (law 10).
- Every error becomes a line; none is swallowed because its kind is unknown.
- A place that pydantic names is one that stands in the file: what it adds for unions and shorthands is taken out.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rotator.redaction import names_secret, redacted_text
from rotator.settings.document import Document, Place
from rotator.settings.keys import Keys
from rotator.settings.model import Settings

_SHOWN: Final = 60
_BOUNDS: Final[Mapping[str, str]] = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
}
_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "model_type": ("a mapping", "indent its keys below it"),
    "model_attributes_type": ("a mapping", "indent its keys below it"),
    "dict_type": ("a mapping", "indent its keys below it"),
    "mapping_type": ("a mapping", "indent its keys below it"),
    "tuple_type": ("a list", "write it in brackets, as [one, two]"),
    "list_type": ("a list", "write it in brackets, as [one, two]"),
    "string_type": ("text", "put it in quotes"),
    "int_type": ("a whole number", "write digits alone"),
    "int_parsing": ("a whole number", "write digits alone"),
    "int_from_float": ("a whole number", "write digits alone"),
    "float_type": ("a number", "write digits alone"),
    "float_parsing": ("a number", "write digits alone"),
    "finite_number": ("a number", "write digits alone"),
}


def refuse_all(document: Document, error: ValidationError) -> None:
    """Note every finding of *error* in *document*, once for each place."""
    seen: set[tuple[Place, str]] = set()
    for finding in error.errors(include_url=False, include_input=False):
        place, inside = _standing(document.root, tuple(finding["loc"]))
        says = _says(document.root, place, inside, finding)
        # A list whose entries are wrong is reported as too short as well.
        if finding["type"] == "too_short" and finding["ctx"]["actual_length"] < len(_list_at(document.root, place)):
            continue
        # A union reports every branch that failed; the person wrote one value.
        if (place, "") in seen and finding["type"] in {"literal_error", "tuple_type"}:
            continue
        if (place, says) not in seen:
            seen |= {(place, says), (place, "")}
            document.refuse(place, says)


def _standing(root: object, found: tuple[str | int, ...]) -> tuple[Place, bool]:
    """Return the part of pydantic's place that stands in the file, plus a missing key; and whether all of it stands."""
    place: list[str | int] = []
    value = root
    for position, part in enumerate(found):
        if _has(value, part):
            value = _get(value, part)
        elif isinstance(value, Mapping) and position == len(found) - 1 and part != "[key]":
            return (*place, part), False
        else:
            # the name of a union's branch, "[key]", or the long form of a shorthand
            continue
        place.append(part)
    return tuple(place), True


def _list_at(root: object, place: Place) -> Sequence[object]:
    value = root
    for part in place:
        value = _get(value, part)
    return value if isinstance(value, list) else ()


def _has(value: object, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _get(value: object, part: str | int) -> object:
    if isinstance(value, Mapping):
        return value[part]
    return value[part] if isinstance(value, list) and isinstance(part, int) else None


def _says(root: object, place: Place, stands: bool, finding: ErrorDetails) -> str:  # noqa: FBT001 -- private, named
    kind = finding["type"]
    context: Mapping[str, object] = finding.get("ctx", {})
    found = _shown(root, place) if stands else "nothing"
    match kind:
        case "missing":
            return f"found nothing; allowed {_wanted(place)}; do add it"
        case "extra_forbidden":
            return _unknown_key(place)
        case "rotator":
            return f"found {found}; allowed {context['allowed']}; do {context['do']}"
        case "enum" | "literal_error":
            choices = str(context.get("expected", "")).replace("'", "").replace(" or ", ", ")
            return f"found {found}; allowed {choices}; do choose one"
        case _ if kind in _SHAPES:
            allowed, do = _SHAPES[kind]
            return f"found {found}; allowed {allowed}; do {do}"
        case _ if kind in _BOUNDS:
            return f"found {found}; allowed {_BOUNDS[kind].format(**context)}; do change it"
        case _:
            said = finding["msg"]
            return f"found {found}; allowed what fits ({said[:1].lower()}{said[1:]}); do mend it"


def _wanted(place: Place) -> str:
    model = model_at(place[:-1])
    field = _field(model, place[-1]) if model is not None and place else None
    sentence = (field.description or "") if field is not None else ""
    return f"{place[-1]} ({sentence.rstrip('.')})" if sentence else str(place[-1])


def _unknown_key(place: Place) -> str:
    key = str(place[-1])
    model = model_at(place[:-1])
    known = [] if model is None else [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(key, known, n=1)
    do = f"write {near[0]}" if near else "remove it"
    if names_secret(key) and f"{key}_file" in known:
        do = f"put the secret into a file and name it as {key}_file"
    return f"found an unknown key; allowed {', '.join(known) or 'no key'}; do {do}"


def _field(model: type[Keys], key: str | int) -> FieldInfo | None:
    return next((field for name, field in model.model_fields.items() if key in {name, field.alias}), None)


def model_at(place: Place) -> type[Keys] | None:
    """Return the class of the mapping at *place*, or None if that is no mapping with known keys."""
    kind: object = Settings
    for part in place:
        if isinstance(kind, type) and issubclass(kind, Keys):
            field = _field(kind, part)
            kind = None if field is None else _unwrapped(field.annotation)
        else:
            origin, arguments = typing.get_origin(kind), typing.get_args(kind)
            if origin is tuple and isinstance(part, int) and arguments:
                kind = _unwrapped(arguments[0])
            elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
                kind = _unwrapped(arguments[1])
            else:
                return None
    return kind if isinstance(kind, type) and issubclass(kind, Keys) else None


def _unwrapped(kind: object) -> object:
    """Return *kind* without ``| None`` and without its annotations."""
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        rest = [each for each in typing.get_args(kind) if each is not types.NoneType]
        return _unwrapped(rest[0])
    if typing.get_origin(kind) is typing.Annotated:
        return _unwrapped(typing.get_args(kind)[0])
    return kind


def _shown(root: object, place: Place) -> str:
    """Return what stands at *place*, short and without secrets."""
    value = root
    for part in place:
        value = _get(value, part)
    return shown(value, secret=any(names_secret(str(part)) for part in place[-1:]))


def shown(value: object, *, secret: bool = False) -> str:
    """Return *value* as a message shows it: short, on one line, without secrets."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case Mapping():
            return f"a mapping of {', '.join(map(str, list(value)[:5]))}" if value else "an empty mapping"
        case list() | tuple():
            return f"a list of {len(value)}" if value else "an empty list"
        case str() if secret:
            return "a value that is not shown"
        case _:
            text = redacted_text(str(value)).replace("\n", " ")
            return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
