"""
Walking Envoy's own configuration: JSON of either spelling, resources by kind, content that stands inline.

Rules that must stay true here:

- Pure, and forgiving: what is missing or of another shape is empty.
- Envoy writes snake case, an older control plane passes it on in camel case: both are read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

TYPE = "@type"


def value(found: Mapping[str, Any], key: str) -> object:
    """Return what stands under *key* (snake case), in either spelling."""
    return found[key] if key in found else found.get(_camel(key))


def get(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object under *key*, in either spelling; an empty one if there is none."""
    said = value(found, key)
    return said if isinstance(said, Mapping) else {}


def items(found: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the objects of the list under *key*, in either spelling."""
    said = value(found, key)
    return [each for each in said if isinstance(each, Mapping)] if isinstance(said, list) else []


def is_there(found: Mapping[str, Any], key: str) -> bool:
    """Return whether *key* stands there at all, in either spelling."""
    return key in found or _camel(key) in found


def inline(source: Mapping[str, Any]) -> bytes:
    """Return what a data source holds inline, empty if it names a file or cannot be read."""
    text = value(source, "inline_string")
    if isinstance(text, str) and text:
        return text.encode()
    encoded = value(source, "inline_bytes")
    if not isinstance(encoded, str):
        return b""
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)
