"""
A store that fails says so, keeps what it had, and goes on when it can.

Rules that must stay true here:

- Every fault is a real one: another process's lock, the kernel's limit, a killed server, a killed writer.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.embedded.process import wait_until
from rotator.errors import JournalError
from rotator.evidence.ledger import records
from rotator.store import engine
from rotator.store.sql import SQLStore
from tests.evidence.examples import event
from tests.fixtures_postgres import PostgreSQL, running_postgresql
from tests.small_files import files_of_at_most
from tests.store.conftest import OpenStore
from tests.store.test_store import issuance


def append(store: SQLStore, number: int = 0) -> None:
    with store.transaction() as transaction:
        transaction.save(issuance(number))
        transaction.append(event(number))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state.db'}"


def test_a_lock_that_is_not_given_up_is_a_journal_error(
    sqlite_url: str, tmp_path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process's lock is waited for, not for ever; afterwards writing goes on."""
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.2)
    store = open_store(sqlite_url)
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="cannot write to the journal: database is locked"):
            append(store)
        assert 0 == store.size()
        other.execute("ROLLBACK")
    append(store)
    assert 1 == store.size()


def test_a_full_disk_writes_all_or_nothing(sqlite_url: str, tmp_path: Path, open_store: OpenStore) -> None:
    """A transaction that does not fit is not half there, and room lets writing go on."""
    store = open_store(sqlite_url)
    append(store)
    full = (tmp_path / "state.db-wal").stat().st_size + 4096

    def fill() -> int:
        for number in range(1, 50):
            try:
                append(store, number)
            except JournalError as e:
                assert "cannot write to the journal" in str(e)  # noqa: PT017 -- how far it came matters too
                return number
        pytest.fail("the disk was never full")

    with files_of_at_most(full):
        written = fill()
    assert (written, written) == (store.size(), len(store.issuances(states=frozenset({issuance().state}))))
    append(store, 99)
    assert list(range(written + 1)) == [record.seq for record in records(store)]


def test_a_store_that_may_only_be_read_is_said(sqlite_url: str, open_store: OpenStore) -> None:
    """A database that refuses to be written is a journal error, and can still be read."""
    store = open_store(sqlite_url)
    append(store)
    with store._engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA query_only=ON")
        connection.exec_driver_sql("BEGIN")
    with pytest.raises(JournalError, match="readonly"):
        append(store, 1)
    assert 1 == store.size()


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Where no file can be made there is no store."""
    with pytest.raises(JournalError, match="cannot open the store"):
        SQLStore(f"sqlite:///{tmp_path}/absent/state.db", environment="test")


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    """A file of something else is not written over."""
    (tmp_path / "state.db").write_text("something else" * 100)
    with pytest.raises(JournalError, match="not a database"):
        SQLStore(f"sqlite:///{tmp_path}/state.db", environment="test")
    assert "something else" * 100 == (tmp_path / "state.db").read_text()


def test_the_files_are_for_their_owner(sqlite_url: str, tmp_path: Path, open_store: OpenStore) -> None:
    """State, its log and the salts are readable by nobody else."""
    store = open_store(sqlite_url)
    with store.transaction() as transaction:
        transaction.commit_to("alice")
        transaction.append(event(0))
    for name in ("state.db", "state.db-wal", "salts.db"):
        assert 0o600 == (tmp_path / name).stat().st_mode & 0o777, name


def test_law_24_erasing_leaves_no_trace_on_disk(sqlite_url: str, tmp_path: Path, open_store: OpenStore) -> None:
    """After `erase` the name stands in no file of the store."""
    store = open_store(sqlite_url)
    with store.transaction() as transaction:
        name = transaction.commit_to("alice@example.org")
    assert any(b"alice@example.org" in path.read_bytes() for path in tmp_path.iterdir())
    store.salts.erase(name)
    assert not any(b"alice@example.org" in path.read_bytes() for path in tmp_path.iterdir())


KILLED = """
import sys
from rotator.store.sql import SQLStore
from tests.evidence.examples import event
from tests.store.test_store import issuance

store = SQLStore(sys.argv[1], environment="test")
print("open", flush=True)
number = 0
while True:
    with store.transaction() as transaction:
        transaction.save(issuance(number))
        transaction.append(event(number))
        transaction.append(event(number))
    number += 1
    print(number, flush=True)
"""


def test_law_21_a_killed_writer_leaves_whole_transactions(url: str, open_store: OpenStore) -> None:
    """Killed while it writes as fast as it can, nothing that it had committed is missing and nothing is half there."""
    acknowledged = 0
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            before = acknowledged
            for line in process.stdout:
                if line.strip().isdigit():
                    acknowledged = before + int(line)
                    if int(line) == 7:
                        process.kill()
        store = open_store(url)
        # What was acknowledged is there; one more may have been committed without our hearing of it.
        assert acknowledged <= store.size() // 2 <= acknowledged + 1
        assert 0 == store.size() % 2
        assert list(range(store.size())) == [record.seq for record in records(store)]
        acknowledged = store.size() // 2


@pytest.mark.external
def test_a_lost_database_is_a_journal_error_and_comes_back(tmp_path: Path) -> None:
    """While the server is dead every call says so within its time; when it is back the same store goes on."""
    with running_postgresql(tmp_path) as server:
        store = SQLStore(server.database(), environment="test")
        with contextlib.closing(store):
            append(store)
            server.server.kill()
            with pytest.raises(JournalError, match="cannot write"):
                append(store, 1)
            with pytest.raises(JournalError, match="cannot read"):
                store.size()
            server.start()
            wait_until(lambda: _size(store) == 1, within=timedelta(seconds=60), what="the store to answer again")
            append(store, 2)
            assert [0, 1] == [record.seq for record in records(store)]


def _size(store: SQLStore) -> int | None:
    try:
        return store.size()
    except JournalError:
        return None


@pytest.mark.external
def test_a_session_that_ends_inside_a_transaction_leaves_nothing(postgresql: PostgreSQL, open_store: OpenStore) -> None:
    """Cut off between two records, neither is there."""
    store = open_store(postgresql.database())

    def cut_off() -> None:
        with store.transaction() as transaction:
            transaction.append(event(0))
            postgresql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'rotator' AND state = 'idle in transaction'"
            )
            transaction.append(event(1))

    with pytest.raises(JournalError):
        cut_off()
    assert 0 == store.size()
    append(store)
    assert 1 == store.size()
