"""
The drawings in docs show what the code does now.

Rules that must stay true here:

- A difference is mended by `make diagrams`, never by hand.
"""

from __future__ import annotations

import pytest

from tests.diagrams import DIAGRAMS, PAGES


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_diagram_is_current(name: str) -> None:
    """Every page in docs/diagrams is what `make diagrams` would write."""
    assert PAGES[name]() == (DIAGRAMS / name).read_text()
