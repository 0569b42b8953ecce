"""
The evidence log over HTTP, as C2SP tlog-tiles have it.

Rules that must stay true here:

- What a path names is decided by its form alone: the checkpoint, a tile, an entry bundle. Nothing else of the disk has
  a path, and the reader follows no link.
- A full tile never changes and may be kept for ever; a partial one goes away once the full one is there; a checkpoint
  is always asked for anew.

Source: C2SP tlog-tiles v0.1.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rotator.errors import ConfigError, LedgerTampered
from rotator.evidence.merkle import HASH_BYTES
from rotator.evidence.note import MAX_NOTE_BYTES
from rotator.evidence.tiles import CHECKPOINT, MAX_BUNDLE_BYTES, WIDTH, LogReader

_TILE: Final = re.compile(
    r"tile/(?P<level>entries|[0-9]|[1-5][0-9]|6[0-3])/(?:x[0-9]{3}/){0,6}[0-9]{3}(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
FOREVER: Final = "private, max-age=31536000, immutable"
FOR_A_WHILE: Final = "private, max-age=60"
NEVER: Final = "no-store"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One file of the log as it is answered."""

    content: bytes
    content_type: str
    cache: str


def log_file(directory: Path, path: str) -> LogFile | None:
    """
    Return what *path* names of the log in *directory*; None if it names nothing, or nothing is there yet.

    Raises:
        JournalError: If the disk does not give it back.
    """
    tile = _TILE.fullmatch(path)
    if path == CHECKPOINT:
        limit, content_type, cache = MAX_NOTE_BYTES, "text/plain; charset=utf-8", NEVER
    elif tile is None or int(tile["width"] or 1) >= WIDTH:
        return None
    else:
        limit = MAX_BUNDLE_BYTES if tile["level"] == "entries" else WIDTH * HASH_BYTES
        content_type = "application/octet-stream"
        cache = FOREVER if tile["width"] is None else FOR_A_WHILE
    try:
        with LogReader(directory) as reader:
            content = reader.read(path, limit)
    except (ConfigError, LedgerTampered):
        # Not there yet; or something lies there that no log has, which verifying says and serving would hide.
        return None
    return None if content is None else LogFile(content=content, content_type=content_type, cache=cache)
