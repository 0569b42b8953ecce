"""
Writers that wait for each other share one commit, and none of them notices but for its speed.

Rules that must stay true here:

- Nothing sleeps: a writer is held inside its block until the others are seen waiting.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from rotator.embedded.process import wait_until
from rotator.errors import InvariantBroken, JournalError
from rotator.evidence.ledger import records
from rotator.store import engine
from rotator.store.sql import SQLStore
from tests.evidence.examples import event
from tests.store.conftest import OpenStore
from tests.store.test_store import issuance

WRITERS = 6


def write(store: SQLStore, number: int) -> None:
    with store.transaction() as transaction:
        transaction.save(issuance(number))
        transaction.append(event(number))
        if number % 3 == 0:
            raise InvariantBroken(21, "this one fails")


@contextmanager
def together(store: SQLStore, work: Callable[[int], None]) -> Iterator[list[Future[None]]]:
    """Let *WRITERS* threads do *work* (given 1 to *WRITERS*), all waiting while the first holds its turn."""
    go = threading.Event()

    def first() -> None:
        with store.transaction() as transaction:
            transaction.append(event(0))
            assert go.wait(30)

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        held = pool.submit(first)
        wait_until(store._commits._turn.locked, within=timedelta(seconds=60), what="the first writer")
        others = [pool.submit(work, number) for number in range(1, WRITERS + 1)]
        wait_until(lambda: store._commits._waiting == WRITERS, within=timedelta(seconds=60), what="the others")
        go.set()
        held.result(30)
        yield others


def test_law_21_writers_that_wait_share_one_commit(store: SQLStore) -> None:
    """Rows of all are there once each returns, numbers follow their turns, and one that fails keeps nobody else's."""
    begun: list[None] = []
    sa.event.listen(store._engine, "checkout", lambda *_: begun.append(None))
    with together(store, lambda number: write(store, number)) as writers:
        failed = [isinstance(writer.exception(30), InvariantBroken) for writer in writers]
    assert [number % 3 == 0 for number in range(1, WRITERS + 1)] == failed
    assert len(begun) == 1
    assert store.size() == WRITERS - 2 + 1
    assert list(range(WRITERS - 1)) == [record.seq for record in records(store)]
    assert {1, 2, 4, 5} == {int(each.spki_sha256, 16) for each in store.issuances(states=frozenset({issuance().state}))}


def test_law_12_nobody_returns_before_the_commit(store: SQLStore) -> None:
    """What a writer has returned from is seen by others, in whatever company it was written."""

    def write_and_look(number: int) -> None:
        with store.transaction() as transaction:
            mine = transaction.append(event(number))
        assert store.size() > mine

    with together(store, write_and_look) as writers:
        for writer in writers:
            writer.result(30)
    assert WRITERS + 1 == store.size()


def test_a_lock_that_is_not_given_up_is_waited_for_once(
    tmp_path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited behind a writer that was refused is refused with it, and all can write later."""
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.5)
    store = open_store(f"sqlite:///{tmp_path / 'state.db'}")
    tries: list[None] = []
    sa.event.listen(store._engine, "checkout", lambda *_: tries.append(None))
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other,
        ThreadPoolExecutor(WRITERS) as pool,
    ):
        other.execute("BEGIN IMMEDIATE")
        writers = [pool.submit(write, store, number) for number in range(1, WRITERS + 1)]
        assert all(isinstance(writer.exception(30), JournalError) for writer in writers)
        assert len(tries) < WRITERS
        other.execute("ROLLBACK")
    write(store, 1)
    assert store.size() == 1
