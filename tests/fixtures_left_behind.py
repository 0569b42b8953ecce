"""
No test leaves a child process or a thread behind.

Loaded as a plugin by ``tests/conftest.py``: a hook there would not see the fixtures of a whole session.

Rules that must stay true here:

- What a test or its own fixtures started, they end; what a fixture of a wider scope started is that one's to end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

PATIENCE_SECONDS = 5.0
"""How long what was told to end may take to be gone; only a leak costs this time."""


def _children() -> dict[int, str]:
    """Return the direct children of this process, pid to command line, without zombies and multiprocessing's own."""
    found: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold spaces and parentheses: the fields begin after the last one.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid() and state != "Z" and "multiprocessing.resource_tracker" not in command:
            found[int(entry.name)] = command
    return found


def _kept() -> set[int | threading.Thread]:
    """Return what runs now: direct children by their pid, and threads."""
    return {*_children(), *threading.enumerate()}


_WIDER: set[int | threading.Thread] = set()
"""What fixtures of a wider scope than one test have started: they end it themselves."""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """
    Remember what a fixture of a wider scope starts.

    A test's own fixture may be the first that asks for it, by name and so after the test's beginning was looked at.
    """
    if fixturedef.scope == "function":
        return (yield)
    before = _kept()
    try:
        return (yield)
    finally:
        _WIDER.update(_kept() - before)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """
    Fail a test that leaves a child process or a thread behind.

    What fixtures of a wider scope start is theirs.
    """
    before = _kept()
    yield
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        known = before | _WIDER
        left = [f"process {pid}: {command}" for pid, command in _children().items() if pid not in known]
        left += [f"thread {thread.name}" for thread in threading.enumerate() if thread not in known]
        if not left or time.monotonic() > deadline:
            break
        threading.Event().wait(0.02)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)
