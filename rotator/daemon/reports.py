"""
The leader's status, as it lies in the store for standbys to show.

Rules that must stay true here:

- What cannot be read is nothing: another version's report is replaced within seconds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any


def written_report(seen: Mapping[str, Any], at: str) -> bytes:
    """Return *seen*, as it was at the moment *at*, for the store."""
    return zlib.compress(json.dumps({**seen, "as_of": at}, separators=(",", ":")).encode())


def read_report(content: bytes | None) -> Mapping[str, Any] | None:
    """Return what `written_report` wrote; None if there is nothing, or nothing that can be read."""
    if content is None:
        return None
    try:
        found = json.loads(zlib.decompress(content))
    except (ValueError, zlib.error):
        return None
    return found if isinstance(found, dict) else None
