"""What the tests of the HTTP service share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Give a settled world with a daemon around it."""
    with contextlib.closing(House(tmp_path)) as house:
        house.world.run(until=house.world.settled)
        house.life.beat()
        yield house
