"""
The layout of a C2SP tlog-tiles directory, and reading it without trusting it.

Rules that must stay true here:

- Paths follow from level, index and width alone; a tile is 256 wide unless it is the last of its level.
- What lies there may be hostile: no link is followed, nothing but a regular file is opened, no file is read beyond the
  size that it can have.

Source: C2SP tlog-tiles v0.1.0.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rotator.errors import ConfigError, JournalError, LedgerTampered
from rotator.evidence.merkle import HASH_BYTES, root_of, split
from rotator.evidence.note import MAX_NOTE_BYTES

WIDTH = 256
"""Hashes or entries in a full tile."""

_LENGTH_BYTES = 2
MAX_ENTRY_BYTES = 0xFFFF
MAX_BUNDLE_BYTES = WIDTH * (_LENGTH_BYTES + MAX_ENTRY_BYTES)

ENTRIES = "entries"
"""Stands in a path where the level of a hash tile stands."""

CHECKPOINT = "checkpoint"
CHECKPOINTS = "checkpoints"


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """Return where tile *index* of *level* lies: ``tile/0/x001/x234/067.p/5``."""
    rest, last = divmod(index, 1000)
    parts = [f"{last:03d}"]
    while rest:
        rest, part = divmod(rest, 1000)
        parts.insert(0, f"x{part:03d}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(parts)}{partial}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One tile that a log of a given size has."""

    level: int
    index: int
    width: int

    @property
    def path(self) -> str:
        """Return where its hashes lie."""
        return tile_path(self.level, self.index, self.width)

    @property
    def entries_path(self) -> str:
        """Return where its entries lie (level 0 alone has any)."""
        return tile_path(ENTRIES, self.index, self.width)


def levels(size: int) -> int:
    """Return how many levels of tiles a log of *size* entries has."""
    count = 0
    while size:
        size //= WIDTH
        count += 1
    return count


def last_tile(size: int, level: int) -> Tile | None:
    """Return the partial tile at the end of *level* in a log of *size* entries; None if the level ends full."""
    index, width = divmod(size // WIDTH**level, WIDTH)
    return Tile(level=level, index=index, width=width) if width else None


def bundle_of(entries: list[bytes]) -> bytes:
    """Return *entries* as an entry bundle."""
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def entries_of(bundle: bytes) -> list[bytes]:
    """Return the entries in *bundle*. Raises `LedgerTampered` if it is cut off or holds more than a tile can."""
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(bundle[at:start], "big")
        if at > len(bundle) or start > len(bundle) or len(entries) == WIDTH:
            raise LedgerTampered("an entry bundle is cut off or too long")
        entries.append(bundle[start:at])
    return entries


def hashes_of(tile: bytes) -> list[bytes]:
    """Return the hashes in *tile*. Raises `LedgerTampered` if it cannot be a tile."""
    if len(tile) % HASH_BYTES or len(tile) > WIDTH * HASH_BYTES:
        raise LedgerTampered("a hash tile has a length that no tile has")
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]


class LogReader:
    """Reads one log directory that may be hostile. Close it, or use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        """Open *directory*. Raises `ConfigError` if it is not there or no directory."""
        try:
            self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise ConfigError(f"cannot open the log in {directory}: {e.strerror}") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._root)

    def read(self, path: str, limit: int) -> bytes | None:
        """
        Return the content of *path*; None if there is no such file.

        Raises:
            LedgerTampered: If it is a link, a device or a pipe, lies under a link, or is longer than *limit* bytes.
            JournalError: If the disk does not give it back.
        """
        parent, name = os.path.split(path)
        with self._opened(parent) as directory:
            if directory is None:
                return None
            try:
                # Not to block: opening a pipe that somebody laid here would wait for its writer for ever.
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            except OSError as e:
                _absent(e, path)
                return None
        try:
            seen = os.fstat(file)
            if not stat.S_ISREG(seen.st_mode):
                raise LedgerTampered(f"{path} is no regular file")
            if seen.st_size > limit:
                raise LedgerTampered(f"{path} is longer than it can be")
            return _read(file, limit + 1)
        except OSError as e:
            raise JournalError(f"cannot read {path} of the log: {e.strerror}") from e
        finally:
            os.close(file)

    def names(self, path: str) -> list[str]:
        """Return the names in the directory *path*, sorted; empty if there is none. Raises like `read`."""
        with self._opened(path) as directory:
            try:
                return [] if directory is None else sorted(os.listdir(directory))  # noqa: PTH208 -- a descriptor
            except OSError as e:
                raise JournalError(f"cannot list {path} of the log: {e.strerror}") from e

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int | None]:
        """Open the directory *path* part by part, so that a link on the way is seen; None if it is not there."""
        current = os.dup(self._root)
        try:
            for part in path.split("/") if path else ():
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    inner = os.open(part, flags, dir_fd=current)
                except OSError as e:
                    _absent(e, path)
                    yield None
                    return
                os.close(current)
                current = inner
            yield current
        finally:
            os.close(current)

    def note(self, path: str = CHECKPOINT) -> bytes | None:
        """Return the bytes of a signed note; None if there is none at *path*."""
        return self.read(path, MAX_NOTE_BYTES)

    def tile(self, tile: Tile) -> list[bytes] | None:
        """
        Return the hashes of *tile*; None if neither it nor the full tile in its place is there.

        A partial tile may have been replaced by the full one since the checkpoint was signed.
        """
        limit = WIDTH * HASH_BYTES
        raw = self.read(tile.path, limit)
        if raw is None and tile.width < WIDTH:
            raw = self.read(tile_path(tile.level, tile.index), limit)
            return None if raw is None else hashes_of(raw)[: tile.width]
        return None if raw is None else hashes_of(raw)

    def entries(self, tile: Tile) -> list[bytes] | None:
        """Return the entries of the bundle beside *tile* (level 0); None if it is not there, in full neither."""
        raw = self.read(tile.entries_path, MAX_BUNDLE_BYTES)
        if raw is None and tile.width < WIDTH:
            raw = self.read(tile_path(ENTRIES, tile.index), MAX_BUNDLE_BYTES)
            return None if raw is None else entries_of(raw)[: tile.width]
        return None if raw is None else entries_of(raw)


class TileHashes:
    """Gives the roots of subtrees of a log of *size* entries from its tiles, each read once."""

    def __init__(self, reader: LogReader, size: int) -> None:
        self._reader = reader
        self._size = size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def __call__(self, start: int, stop: int) -> bytes:
        """Return the root over leaves ``start <= n < stop``. Raises `LedgerTampered` if a tile is missing."""
        level, width = 0, 1
        # The highest level whose nodes still fit evenly between start and stop: their roots are all in one tile.
        while stop - start >= width * WIDTH and start % (width * WIDTH) == 0 and stop % (width * WIDTH) == 0:
            level, width = level + 1, width * WIDTH
        first, last = start // width, stop // width
        if first // WIDTH == (last - 1) // WIDTH:
            hashes = self._tile(level, first // WIDTH)
            at = first % WIDTH
            if len(hashes) < at + last - first:
                raise LedgerTampered(f"{tile_path(level, first // WIDTH)} is shorter than the log says")
            return root_of(hashes[at : at + last - first])
        # It spans tiles and is no whole number of them: split it as the tree does.
        middle = start + split(stop - start)
        return root_of((self(start, middle), self(middle, stop)))

    def _tile(self, level: int, index: int) -> list[bytes]:
        known = self._tiles.get((level, index))
        if known is None:
            width = min(WIDTH, self._size // WIDTH**level - index * WIDTH)
            known = self._reader.tile(Tile(level=level, index=index, width=width))
            if known is None:
                raise LedgerTampered(f"{tile_path(level, index, width)} is missing")
            self._tiles[level, index] = known
        return known


def _absent(error: OSError, path: str) -> None:
    """Return None if *error* says that nothing is there; raise what it means otherwise."""
    match error.errno:
        case errno.ENOENT:
            return
        case errno.ELOOP | errno.ENOTDIR | errno.ENXIO | errno.ENODEV:
            raise LedgerTampered(f"{path} is, or lies under, something that is neither file nor directory") from error
        case _:
            raise JournalError(f"cannot read {path} of the log: {error.strerror}") from error


def _read(file: int, limit: int) -> bytes:
    parts: list[bytes] = []
    while limit and (part := os.read(file, limit)):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)
