"""
Whether a document reads back as it was written, although the server adds and respells.

Rules that must stay true here:

- What the server adds is no edit by somebody; what is missing or different is.
- ``selector: {}`` and ``selector: {dataplane: {matchLabels: {}}}`` are opposites in Kuma (nobody, everybody): an empty
  object is equal to an empty one only. What is empty may be left out in a Mesh, whose fields are protobuf, and in a
  selector's ``matchLabels``, without which everybody is matched just as well.
- ``24h`` and ``24h0m0s`` are one duration.

Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from rotator.adapters.kuma.control_plane import Kind

_LABELS = "matchLabels"
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def covers(kind: Kind, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether *found*, a spec of *kind* as the server gives it, says all that *wanted* says, and only adds."""
    return _covers(found, wanted, drops_empty=kind is Kind.MESH)


def says(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether *found*, a policy's spec as the server gives it, says all that *wanted* says, and only adds."""
    return _covers(found, wanted, drops_empty=False)


def digest(*parts: object) -> str:
    """Return a short digest of JSON values; the order of keys makes no difference."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _covers(found: object, wanted: object, *, drops_empty: bool) -> bool:
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            return drops_empty and not wanted and found is None
        if not wanted:
            return drops_empty or not found
        return all(_has(found, key, value, drops_empty=drops_empty) for key, value in wanted.items())
    if isinstance(wanted, Sequence) and not isinstance(wanted, str | bytes):
        if not isinstance(found, Sequence) or isinstance(found, str | bytes) or len(found) != len(wanted):
            return False
        return all(_covers(*pair, drops_empty=drops_empty) for pair in zip(found, wanted, strict=True))
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    return found == wanted or _same_duration(found, wanted)


def _has(found: Mapping[str, Any], key: str, wanted: object, *, drops_empty: bool) -> bool:
    """Return whether *found* says *wanted* under *key*."""
    if found.get(key) is not None:
        return _covers(found[key], wanted, drops_empty=drops_empty)
    # Nothing said and nothing kept are the same; in protobuf so are zero and nothing, in a selector no labels.
    return wanted is None or ((drops_empty or key == _LABELS) and wanted in ("", 0, False, {}, []))


def _same_duration(found: object, wanted: object) -> bool:
    if not isinstance(found, str) or not isinstance(wanted, str):
        return False
    mine, theirs = _nanoseconds(wanted), _nanoseconds(found)
    return mine is not None and mine == theirs


def _nanoseconds(text: str) -> Decimal | None:
    """Return a duration as Go writes it, in nanoseconds; None if *text* is none."""
    if _DURATION.fullmatch(text) is None:
        return None
    return sum((Decimal(count) * _NANOSECONDS[unit] for count, unit in _PART.findall(text)), Decimal(0))
