"""
One holder at a time, on both kinds of store.

Rules that must stay true here:

- The second holder is another process, killed without warning.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.embedded.process import wait_until
from rotator.errors import ConfigError, Conflict, JournalError
from rotator.store.lease import DatabaseLease, FileLease, lease_for
from tests.fixtures_postgres import PostgreSQL

HOLDER = """
import sys
from rotator.store.lease import lease_for
lease = lease_for(sys.argv[1])
lease.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_holder(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lease of *url*."""
    command = [sys.executable, "-c", HOLDER, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "held\n" == process.stdout.readline()
            yield process
        finally:
            process.kill()


def takes(lease: FileLease | DatabaseLease) -> bool:
    try:
        lease.acquire()
    except Conflict:
        return False
    return True


def test_law_14_a_second_daemon_on_one_store_is_refused_and_told_why(url: str) -> None:
    """The holder is named; when it is killed the lease is free at once."""
    lease = lease_for(url)
    with another_holder(url) as process:
        with pytest.raises(Conflict, match=rf"\b{process.pid}\b.*one rotator at a time"):
            lease.acquire()
        assert not lease.held()
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        wait_until(lambda: takes(lease), within=timedelta(seconds=60), what="the lease of a dead process")
    assert lease.held()
    lease.release()


def test_a_lease_is_taken_held_and_given_back(url: str) -> None:
    """Taking twice and giving back twice is no error; what was given back can be taken by another."""
    one, two = lease_for(url), lease_for(url)
    assert not one.held()
    one.acquire()
    one.acquire()
    assert one.held()
    with pytest.raises(Conflict, match=str(os.getpid())):
        two.acquire()
    one.release()
    one.release()
    assert not one.held()
    two.acquire()
    assert two.held()
    two.release()


def test_law_14_a_lock_file_that_was_replaced_is_not_held(tmp_path: Path) -> None:
    """Whoever removes the file lets two hold it: the first one notices."""
    lease = FileLease(tmp_path / "state.db.lock")
    lease.acquire()
    (tmp_path / "state.db.lock").unlink()
    assert not lease.held()
    (tmp_path / "state.db.lock").touch()
    assert not lease.held()
    lease.release()


def test_a_lease_that_cannot_be_made_is_no_conflict(tmp_path: Path) -> None:
    """A directory that is not there is said as such."""
    with pytest.raises(JournalError, match="cannot open the lease"):
        FileLease(tmp_path / "absent" / "lock").acquire()


@pytest.mark.external
def test_law_14_a_session_that_was_ended_is_not_held(postgresql: PostgreSQL) -> None:
    """When the database ends the session, the lease is lost, is seen to be lost, and can be taken again."""
    lease = lease_for(postgresql.database())
    lease.acquire()
    postgresql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'rotator % pid %'"
    )
    assert not lease.held()
    assert not lease.held()
    lease.acquire()
    assert lease.held()
    lease.release()


def test_the_kind_of_lease_follows_the_store(tmp_path: Path) -> None:
    """A file is guarded by a file, a database by a session of its own; anything else is refused."""
    assert isinstance(lease_for(f"sqlite:///{tmp_path}/state.db"), FileLease)
    assert isinstance(lease_for("postgresql://nobody@127.0.0.1:1/none"), DatabaseLease)
    for url in ("mysql://host/db", "sqlite://", "nonsense"):
        with pytest.raises(ConfigError):
            lease_for(url)


def test_a_database_that_does_not_answer_is_a_journal_error() -> None:
    """No server, no lease, and no password in the words."""
    lease = lease_for("postgresql://user:hunter2@127.0.0.1:1/none")
    with pytest.raises(JournalError, match="cannot take the lease") as caught:
        lease.acquire()
    assert "hunter2" not in str(caught.value)
    assert not lease.held()
