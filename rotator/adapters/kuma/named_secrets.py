"""
Which secrets a document refers to, wherever in it they are named.

Rules that must stay true here:

- Pure, and blind to the model: a reference that is not known yet is found all the same, by its shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rotator.adapters.kuma.control_plane import Document


def named_in(document: Document) -> frozenset[str]:
    """Return the names of the secrets that *document* refers to (``secret: NAME``, ``secretRef: {name: NAME}``)."""
    return frozenset(_named(document.spec))


def _named(found: Any) -> Iterator[str]:  # noqa: ANN401 -- a piece of somebody else's JSON
    if isinstance(found, Mapping):
        for key, value in found.items():
            if key == "secret" and isinstance(value, str):
                yield value
            elif key == "secretRef" and isinstance(value, Mapping) and isinstance(value.get("name"), str):
                yield value["name"]
            else:
                yield from _named(value)
    elif isinstance(found, list | tuple):
        for each in found:
            yield from _named(each)
