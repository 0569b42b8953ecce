"""
What holds for every test.

Rules that must stay true here:

- In CI Hypothesis draws the same examples each time; nowhere does it judge by a clock, which two busy cores would fail.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Slow draws and filters say something about the machine, not about the code.
_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("local", deadline=None, suppress_health_check=_QUIET)
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# One real server serves every folder's tests: two modules importing the fixture would start two.
pytest_plugins = [
    "tests.fixtures_cluster",
    "tests.fixtures_kuma",
    "tests.fixtures_left_behind",
    "tests.fixtures_openbao",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Begin with the modules that take many minutes.

    Otherwise the longest would run alone at the end, while the other processes have nothing to do.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
