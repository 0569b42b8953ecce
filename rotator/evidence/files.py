"""
Writing a log directory so that a power cut at any byte leaves what was signed whole.

Rules that must stay true here:

- A file appears complete and synced, or not at all; its directory is synced after it.
- No path is ever written twice with other bytes, but ``checkpoint``.
- One writer at a time: the directory is locked while it is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rotator.errors import Conflict, JournalError, LedgerTampered

INCOMING = ".incoming"
"""Where files grow before they are moved to their place; whatever is left in it after a crash is nothing."""


def _nothing(point: str) -> None:
    """Take note of no fault point."""
    del point


class LogFiles:
    """The writer's half of a log directory."""

    def __init__(self, root: Path, *, at: Callable[[str], None] = _nothing) -> None:
        """Write under *root*; *at* is told each moment at which a crash would leave something behind."""
        self.root = root
        self._at = at

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """
        Hold the directory for one writer.

        Raises:
            Conflict: If another process, or another thread, is writing it.
            JournalError: If it cannot be made or opened.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise JournalError(f"cannot open the log in {self.root}: {e.strerror}") from e
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise Conflict(f"another writer is publishing the log in {self.root}") from e
            yield
        finally:
            os.close(handle)

    def clear_incoming(self) -> None:
        """Remove what a crash left half-written."""
        with _translated(f"clear {INCOMING} of the log"):
            shutil.rmtree(self.root / INCOMING, ignore_errors=True)
            (self.root / INCOMING).mkdir()

    def create(self, path: str, content: bytes) -> None:
        """
        Write a file that never changes; writing the same bytes again is no error.

        Raises:
            LedgerTampered: If other bytes stand there already.
            JournalError: If the disk does not take it.
        """
        target = self.root / path
        with _translated(f"write {path} of the log"):
            try:
                present = target.read_bytes()
            except FileNotFoundError:
                self._place(path, content)
                return
        if present != content:
            raise LedgerTampered(f"{path} of the log holds other bytes than the ledger")

    def replace(self, path: str, content: bytes) -> None:
        """Write a file in place of what stands there, atomically. Raises `JournalError` if the disk refuses."""
        with _translated(f"write {path} of the log"):
            self._place(path, content)

    def remove_partials(self, path: str) -> None:
        """Remove the partial tiles of the full tile at *path*, as the format allows once the full one is there."""
        with _translated(f"remove {path}.p of the log"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.root / f"{path}.p")

    def _place(self, path: str, content: bytes) -> None:
        target = self.root / path
        grown = self.root / INCOMING / target.name
        self._at(f"write {path}")
        _make_directories(self.root, target.parent)
        with grown.open("wb", buffering=0) as file:
            half = len(content) // 2
            _write(file.fileno(), content[:half])
            self._at(f"half {path}")
            _write(file.fileno(), content[half:])
            self._at(f"sync {path}")
            os.fsync(file.fileno())
        self._at(f"move {path}")
        grown.replace(target)
        self._at(f"sync directory of {path}")
        _sync(target.parent)


def _write(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _make_directories(root: Path, directory: Path) -> None:
    """Make *directory* and its parents below *root*, each synced into its parent."""
    missing: list[Path] = []
    while directory != root and not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        _sync(made.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Run calls on the disk; *doing* completes "cannot ..."."""
    try:
        yield
    except OSError as e:
        raise JournalError(f"cannot {doing}: {e.strerror or e}") from e
