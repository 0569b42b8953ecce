"""
How requests and answers cross the control socket: one line of JSON each way, one request a connection.

Rules that must stay true here:

- Every read has a size limit and one deadline for the whole line, so a byte now and then keeps nobody waiting.
- An error crosses as its class, its message and its exit code, and is raised again as the same class.
- A path of any length works: the socket is reached through its directory's file descriptor, because an address holds
  107 bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from rotator import errors
from rotator.exits import exit_code
from rotator.ports import Clock

LARGEST_REQUEST: Final = 64 * 1024
LARGEST_ANSWER: Final = 64 * 1024 * 1024
"""A status of 100,000 subjects takes about 50 MB."""
_CHUNK: Final = 256 * 1024

_KINDS: Final[Mapping[str, type[errors.RotatorError]]] = {
    kind.__name__: kind
    for kind in (
        errors.ConfigError,
        errors.JournalError,
        errors.LedgerTampered,
        errors.Unavailable,
        errors.Conflict,
        errors.Denied,
        errors.Rejected,
        errors.RotatorError,
    )
}


class BrokenLine(errors.RotatorError):
    """What came over the socket is no line of JSON, or came too slowly, or is too long."""


def read_line(connection: socket.socket, *, limit: int, within: timedelta, clock: Clock) -> dict[str, Any]:
    """
    Return the JSON object of the next line.

    Raises:
        BrokenLine: If there is no whole line of at most *limit* bytes *within* that time, or it is no JSON object.
    """
    end = clock.monotonic() + within.total_seconds()
    line = bytearray()
    while not line.endswith(b"\n"):
        left = end - clock.monotonic()
        if left <= 0:
            raise BrokenLine("no whole line came in time")
        connection.settimeout(left)
        try:
            chunk = connection.recv(min(_CHUNK, limit + 1 - len(line)))
        except TimeoutError as e:
            raise BrokenLine("no whole line came in time") from e
        except OSError as e:
            raise BrokenLine("the connection broke") from e
        if not chunk:
            raise BrokenLine("the connection ended before a whole line came")
        line += chunk
        if len(line) > limit:
            raise BrokenLine(f"the line is longer than {limit} bytes")
        if b"\n" in line[:-1]:
            raise BrokenLine("more than one line came")
    try:
        content = json.loads(line, parse_constant=_no_constant)
    # RecursionError: brackets nested deeper than the reader goes. ValueError includes bad UTF-8 and endless digits.
    except (ValueError, RecursionError) as e:
        raise BrokenLine("the line is no JSON") from e
    if not isinstance(content, dict):
        raise BrokenLine("the line is no JSON object")
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def write_line(connection: socket.socket, content: Mapping[str, Any], *, within: timedelta) -> None:
    """Send *content* as one line. Raises `BrokenLine` if the other end does not take it in time."""
    try:
        connection.settimeout(within.total_seconds())
        connection.sendall(json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n")
    except OSError as e:
        raise BrokenLine("the other end did not take the answer") from e


def error_content(error: errors.RotatorError) -> dict[str, Any]:
    """Return *error* as it crosses the socket and as ``--json`` prints it."""
    kind = next(
        each.__name__ for each in type(error).__mro__ if each.__name__ in _KINDS or each is errors.InvariantBroken
    )
    content: dict[str, Any] = {"kind": kind, "message": str(error), "exit_code": int(exit_code(error))}
    if isinstance(error, errors.InvariantBroken):
        content["law"] = error.law
    return {"error": content}


def raise_error(content: Mapping[str, Any]) -> NoReturn:
    """Raise what `error_content` wrote."""
    message, law = str(content.get("message", "the daemon gave no reason")), content.get("law")
    if isinstance(law, int):
        raise errors.InvariantBroken(law, message.removeprefix(f"law {law}: "))
    raise _KINDS.get(str(content.get("kind")), errors.RotatorError)(message)


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Give an address for the socket at *path*, however long that is, good for the length of the block."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
