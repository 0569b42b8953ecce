"""
The same store on SQLite and on PostgreSQL, and events to put into it.

Rules that must stay true here:

- What a test says of the store it says of both databases, unless its name says which one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rotator.store.sql import SQLStore
from tests.fixtures_postgres import PostgreSQL, postgresql

__all__ = ["postgresql"]

OpenStore = Callable[[str], SQLStore]


@pytest.fixture(scope="session", autouse=True)
def _running(postgresql: PostgreSQL) -> None:
    """Start the server before any test: what one test starts, it would have to end."""
    del postgresql


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, on each kind of server in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """Opens stores that are closed after the test."""
    with ExitStack() as stack:

        def open_(url: str) -> SQLStore:
            store = SQLStore(url, environment="test", policy_sha256=lambda: "ab" * 32)
            stack.callback(store.close)
            return store

        yield open_


@pytest.fixture
def store(url: str, open_store: OpenStore) -> SQLStore:
    """An empty store."""
    return open_store(url)
