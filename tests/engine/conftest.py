"""Worlds for engine tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world of three services in one trust domain, nothing published yet."""
    made = World(tmp_path)
    yield made
    made.close()
