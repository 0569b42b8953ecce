"""
What a consumer uses, seen in files: where it opens them at every use, or says itself what it has loaded.

Rules that must stay true here:

- Reading back proves only what stands in the directory; it is for consumers that open the files at every use.
- A report is believed as far as whoever may write it is; it lies where only the consumer may write.
- A file that cannot be read or understood is "not reachable", never an exception.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from rotator.core.model import Serial, Served
from rotator.errors import RotatorError
from rotator.pki.certificates import normal_serial
from rotator.ports import Clock, Readable

_LONGEST_REPORT = 1 << 20


class ReadBackProbe:
    """Takes what is published for what is in use."""

    def __init__(self, store: Readable, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    @property
    def name(self) -> str:
        """Return the probe as people name it."""
        return f"read_back:{self._store.target}"

    def look(self) -> Served:
        """Return what stands in the store now."""
        unseen = _unseen(self.name, self._clock)
        try:
            seen = self._store.read()
        except RotatorError as e:
            return unseen(str(e))
        if seen is None:
            return unseen("nothing is published")
        if seen.leaf is None or seen.problem is not None:
            return unseen(seen.problem or "no leaf is published")
        return Served(
            probe=self.name,
            seen_at=self._clock.now(),
            reachable=True,
            serial=seen.leaf.serial,
            bundle=frozenset(authority.serial for authority in seen.bundle),
        )


class ReportProbe:
    """
    Reads what a consumer wrote about itself: ``{"serial": "...", "bundle": ["...", ...]}``.

    Serials in hex, of the leaf and of every CA it has loaded; ``bundle`` may be left out. The consumer replaces the
    file by rename at each start, and each time it loads certificates anew.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    @property
    def name(self) -> str:
        """Return the probe as people name it."""
        return f"report:{self._path}"

    def look(self) -> Served:
        """Return what the consumer says that it uses."""
        unseen = _unseen(self.name, self._clock)
        try:
            serial, bundle = _parsed(_content(self._path))
        except OSError as e:
            return unseen(f"its report cannot be read: {e.strerror}")
        except (ValueError, KeyError, TypeError):
            return unseen("its report cannot be understood")
        return Served(probe=self.name, seen_at=self._clock.now(), reachable=True, serial=serial, bundle=bundle)


def _content(path: Path) -> bytes:
    """Return the file; never waits for a pipe, never reads without end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("no plain file")
        return file.read(_LONGEST_REPORT)


def _parsed(content: bytes) -> tuple[Serial, frozenset[str] | None]:
    """Return leaf serial and bundle serials. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
    report = json.loads(content)
    serial, bundle = report["serial"], report.get("bundle")
    if bundle is not None and not isinstance(bundle, list):
        raise TypeError("bundle is no list")
    return _hex(serial), None if bundle is None else frozenset(_hex(each) for each in bundle)


def _hex(serial: object) -> Serial:
    """Return *serial* as rotator writes serials. Raises if it is none."""
    if not isinstance(serial, str):
        raise TypeError("a serial is a string of hex digits")
    normal = normal_serial(serial)
    int(normal, 16)
    return normal


def _unseen(probe: str, clock: Clock) -> Callable[[str], Served]:
    """Return what makes "not reachable" with a reason."""
    return lambda why: Served(probe=probe, seen_at=clock.now(), reachable=False, detail=why)
