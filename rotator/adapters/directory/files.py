"""
Files below an open directory, by descriptor.

Rules that must stay true here:

- No symlink is followed, no pipe waited for, nothing endless read.
- A file appears whole and on disk, or not at all for whoever may not read it: the mode is opened up last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from rotator.errors import Rejected

# A chain or bundle is a few kilobytes; whoever put more there did not mean a certificate.
_LONGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file as it lies there."""

    content: bytes
    mode: int


def read_file(folder: int, name: str) -> File:
    """Return a plain file. Raises `Rejected` for a symlink, a pipe, or something far too long."""
    try:
        # Without O_NONBLOCK a named pipe would hold us for ever.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as e:
        if e.errno in {errno.ELOOP, errno.ENXIO}:
            raise Rejected(f"{name} is no plain file") from e
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_FILE:
            raise Rejected(f"{name} is no plain file of a certificate's size")
        content = part = os.read(descriptor, status.st_size + 1)
        # A plain file is read whole at once but for signals and odd file systems.
        while part and len(content) <= _LONGEST_FILE:
            part = os.read(descriptor, _LONGEST_FILE)
            content += part
        return File(content=content, mode=status.st_mode)
    finally:
        os.close(descriptor)


def write_files(folder: int, contents: Mapping[str, bytes], *, modes: Mapping[str, int], uid: int, gid: int) -> None:
    """Write new files to disk; nobody else may open one before it is whole."""
    with contextlib.ExitStack() as undo:
        descriptors = []
        for name, content in contents.items():
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
            undo.callback(os.close, descriptor)
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, modes[name])
            # Only a hint: the disk begins with each of them, so that the syncs below wait for all at once.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            descriptors.append(descriptor)
        for descriptor in descriptors:
            os.fsync(descriptor)


def remove(root: int, name: str) -> None:
    """Remove a file, a symlink, or a folder of plain files; gone already is no error."""
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    except FileNotFoundError:
        return
    except OSError as e:
        if e.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        os.unlink(name, dir_fd=root)
        return
    try:
        for inner in os.listdir(folder):  # noqa: PTH208 -- a descriptor, not a path
            os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=root)
