r"""
The database's password, from a file as libpq's ``.pgpass``: ``host:port:database:user:password`` lines.

Rules that must stay true here:

- Read anew for each connection, so that a password can change under a running daemon.
- libpq reads such a file only if its owner alone may; a Secret that is mounted into a pod belongs to root and is read
  by the pod's group. So it is read here: closed to everybody else, and changed by nobody but its owner.
- A password stands in no error; errors name the file.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from rotator.errors import ConfigError

_FIELDS: Final = 5
_LARGEST: Final = 64 * 1024
_SPLIT: Final = re.compile(r"(?<!\\)((?:\\\\)*):")
"""A colon that no backslash takes; an even number of them takes one another."""


def password_in(file: Path, *, host: str, port: int, database: str, user: str) -> str | None:
    """
    Return the password of the first line of *file* that fits, None if none does.

    Raises:
        ConfigError: If the file cannot be read, or others may read or change it.
    """
    for line in _lines(file):
        fields = _fields(line)
        if len(fields) == _FIELDS and all(
            given in {"*", wanted} for given, wanted in zip(fields, (host, str(port), database, user), strict=False)
        ):
            return fields[-1]
    return None


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise ConfigError(f"the database's password file {file} is open to others: chmod 600 (or 640) it")
            text = opened.read(_LARGEST).decode()
    except OSError as e:
        raise ConfigError(f"cannot read the database's password file {file}: {e.strerror}") from e
    except UnicodeDecodeError:
        # Its cause would quote the bytes around.
        raise ConfigError(f"the database's password file {file} is not UTF-8") from None
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _fields(line: str) -> list[str]:
    r"""Return the fields of *line*, ``\:`` and ``\\`` taken for what they stand for."""
    parts = _SPLIT.sub("\\1\0", line).split("\0")
    return [re.sub(r"\\(.)", r"\1", part) for part in parts]
