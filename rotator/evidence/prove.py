"""
A proof that one record is in the log, small enough to mail, checkable offline by tools that are not ours.

Rules that must stay true here:

- The format is C2SP tlog-proof, nothing added; the checkpoint in it is the log's own note, byte for byte.
- A proof is handed out only after it has been checked against that checkpoint's root.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from rotator.errors import ConfigError, LedgerTampered
from rotator.evidence.merkle import inclusion_path, leaf_hash, root_by_path
from rotator.evidence.note import Checkpoint, Note
from rotator.evidence.record import parse
from rotator.evidence.tiles import WIDTH, LogReader, Tile, TileHashes

HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One record and the way from it to the signed root."""

    seq: int
    record: bytes
    text: bytes
    """The ``.tlog-proof`` file."""


def prove(directory: Path, wanted: str) -> Proof:
    """
    Return the proof of the record whose id, or whose number in decimal, is *wanted*.

    Raises:
        ConfigError: If there is no log, or no such record in it.
        LedgerTampered: If the log's own tiles do not lead from the record to its root.
    """
    with LogReader(directory) as reader:
        raw = reader.note()
        if raw is None:
            raise ConfigError(f"there is no log in {directory}")
        checkpoint = Checkpoint.parse(Note.parse(raw).text)
        seq, record = _find(reader, checkpoint.size, wanted)
        path = inclusion_path(seq, checkpoint.size, TileHashes(reader, checkpoint.size))
    if root_by_path(leaf_hash(record), seq, checkpoint.size, path) != checkpoint.root:
        raise LedgerTampered(f"the tiles do not lead from record {seq} to the root that was signed")
    hashes = "".join(f"{base64.b64encode(node).decode()}\n" for node in path)
    return Proof(seq=seq, record=record, text=f"{HEADER}\nindex {seq}\n{hashes}\n".encode() + raw)


def _find(reader: LogReader, size: int, wanted: str) -> tuple[int, bytes]:
    """Return number and bytes of the record *wanted*. By id this reads from the start: ids have no index on disk."""
    if wanted.isascii() and wanted.isdigit() and len(wanted) < len(str(2**63)):
        seq = int(wanted)
        if seq < size:
            return seq, _bundle(reader, size, seq // WIDTH)[seq % WIDTH]
    mark = wanted.encode(errors="surrogateescape")
    for index in range(-(-size // WIDTH)):
        for at, entry in enumerate(_bundle(reader, size, index)):
            if mark in entry and parse(entry)["id"] == wanted:
                return index * WIDTH + at, entry
    raise ConfigError(f"the log of {size} records has none with the id or number {wanted!r}")


def _bundle(reader: LogReader, size: int, index: int) -> list[bytes]:
    tile = Tile(level=0, index=index, width=min(WIDTH, size - index * WIDTH))
    entries = reader.entries(tile)
    if entries is None or len(entries) != tile.width:
        raise LedgerTampered(f"{tile.entries_path} is missing or cut off")
    return entries
