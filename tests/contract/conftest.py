"""The worlds that contract suites run in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.contract.vault_worlds import Domain, FakeWorld, RealWorld, World


@pytest.fixture(scope="module", params=["fake", pytest.param("openbao", marks=pytest.mark.external)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give the fake signer, then the real one."""
    with ExitStack() as cleanup:
        if request.param == "fake":
            yield FakeWorld()
        else:
            yield RealWorld(request.getfixturevalue("openbao"), tmp_path_factory.mktemp("vault"), cleanup)


@pytest.fixture
def domain(world: World) -> Domain:
    """Give a trust domain that no other test has."""
    return world.domain()
