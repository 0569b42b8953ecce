"""
What holds for every test.

Rules that must stay true here:

- In CI Hypothesis draws the same examples each time; nowhere does it judge by a clock, which two busy cores would fail.
- A test leaves no child process and no thread behind: what it started, it ends.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Slow draws and filters say something about the machine, not about the code.
_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("local", deadline=None, suppress_health_check=_QUIET)
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# One real server serves every folder's tests: two modules importing the fixture would start two.
pytest_plugins = ["tests.fixtures_openbao", "tests.fixtures_cluster", "tests.fixtures_kuma"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Begin with the modules that take many minutes.

    Otherwise the longest would run alone at the end, while the other processes have nothing to do.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


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


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """
    Fail a test that leaves a child process or a thread behind.

    What fixtures of a wider scope start is there before this one looks, and so not the test's.
    """
    children, threads = _children(), set(threading.enumerate())
    yield
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        left = [f"process {pid}: {command}" for pid, command in _children().items() if pid not in children]
        left += [f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads]
        if not left or time.monotonic() > deadline:
            break
        threading.Event().wait(0.02)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)
