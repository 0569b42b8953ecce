"""
A leader of the past writes nothing, whatever stopped it and whenever it comes back (law 14).

Rules that must stay true here:

- Whoever is stopped is a real process with a real transaction, stopped by the kernel.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from rotator.embedded.process import wait_until
from rotator.errors import InvariantBroken, JournalError, LedgerTampered
from rotator.ports import LeaseClaim
from rotator.store.sql import SQLStore
from tests.evidence.examples import event
from tests.fixtures_postgres import PostgreSQL
from tests.store.conftest import OpenStore
from tests.store.test_store import rotation

STOPS_INSIDE = """
import os, signal, sys
from rotator.ports import LeaseClaim
from rotator.errors import RotatorError
from rotator.store.sql import SQLStore
from tests.evidence.examples import event
store = SQLStore(sys.argv[1], environment="test")
store.begin_term(LeaseClaim(lease="L", number=1, holder="the stopped one"), held=lambda: True)
try:
    with store.transaction() as transaction:
        transaction.append(event(7, id="never"))
        print("inside", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
except RotatorError as error:
    print(type(error).__name__, flush=True)
else:
    print("committed", flush=True)
"""


def claim(number: int, *, lease: str = "L") -> LeaseClaim:
    return LeaseClaim(lease=lease, number=number, holder=f"replica {number}")


def leading(store: SQLStore, number: int) -> SQLStore:
    store.begin_term(claim(number), held=lambda: True)
    return store


def append(store: SQLStore, number: int) -> int:
    with store.transaction() as transaction:
        transaction.save(rotation(number))
        return transaction.append(event(number))


def test_law_14_a_leader_of_the_past_writes_neither_row_nor_record(url: str, open_store: OpenStore) -> None:
    """Once a later term has begun the earlier leader's transaction is refused, and nothing of it is kept."""
    old, new = leading(open_store(url), 1), open_store(url)
    append(old, 1)
    leading(new, 2)
    with pytest.raises(InvariantBroken, match="law 14: another process leads since"):
        append(old, 2)
    append(new, 3)
    assert ["r-1", "r-3"] == [each.id for each in new.rotations()]
    assert 2 == new.size()


def test_law_14_everybody_who_waits_in_the_past_is_refused(url: str, open_store: OpenStore) -> None:
    """Many threads of a leader of the past write at once: each is refused, none waits for ever."""
    old = leading(open_store(url), 1)
    leading(open_store(url), 2)
    refused: list[int] = []

    def write(number: int) -> None:
        try:
            append(old, number)
        except InvariantBroken:
            refused.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert list(range(8)) == sorted(refused)


def test_law_14_the_earlier_holder_of_a_lease_begins_no_term_any_more(url: str, open_store: OpenStore) -> None:
    """Who took the lease, slept, and wakes after its successor began is refused; the successor goes on."""
    slow, quick = open_store(url), leading(open_store(url), 2)
    with pytest.raises(InvariantBroken, match="replica 2 has led since"):
        leading(slow, 1)
    assert 0 == append(quick, 1)


def test_a_lease_that_was_made_anew_counts_from_the_start(url: str, open_store: OpenStore) -> None:
    """After somebody removed the Lease its numbers begin again: the next holder leads all the same."""
    leading(open_store(url), 40)
    again = open_store(url)
    again.begin_term(claim(0, lease="another"), held=lambda: True)
    assert 0 == append(again, 1)


def test_law_14_no_term_begins_without_the_lease(url: str, open_store: OpenStore) -> None:
    """The lease is lost while the term begins: it does not, and the term before goes on."""
    before = leading(open_store(url), 1)
    with pytest.raises(InvariantBroken, match="the lease was lost before the term began"):
        open_store(url).begin_term(claim(2), held=lambda: False)
    assert 0 == append(before, 1)


def test_who_never_led_writes_what_people_asked_a_command_for(url: str, open_store: OpenStore) -> None:
    """A command that notes something (a reconciliation) is no leader and needs no term."""
    leading(open_store(url), 1)
    assert 0 == append(open_store(url), 1)


def test_law_22_a_signed_checkpoint_is_never_taken_back(store: SQLStore) -> None:
    """The same note twice is no error; a smaller one, and another of the same size, are refused."""
    assert store.last_signed() is None
    store.keep_signed(5, b"five")
    store.keep_signed(5, b"five")
    for size, note in ((5, b"another five"), (4, b"four")):
        with pytest.raises(LedgerTampered, match="5 records were signed already"):
            store.keep_signed(size, note)
    store.keep_signed(6, b"six")
    assert b"six" == store.last_signed()


def test_law_14_a_leader_of_the_past_keeps_no_checkpoint(url: str, open_store: OpenStore) -> None:
    """Once a later term has begun the earlier leader's checkpoint is refused."""
    old = leading(open_store(url), 1)
    old.keep_signed(5, b"five")
    new = leading(open_store(url), 2)
    with pytest.raises(InvariantBroken, match="law 14"):
        old.keep_signed(6, b"six")
    assert b"five" == new.last_signed()


@contextmanager
def stopped_inside(url: str) -> Iterator[subprocess.Popen[str]]:
    """A leader that the kernel has stopped in the middle of a transaction."""
    command = [sys.executable, "-c", STOPS_INSIDE, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "inside\n" == process.stdout.readline()

            def is_stopped() -> bool:
                with open(f"/proc/{process.pid}/stat") as stat:  # noqa: PTH123 -- a kernel file
                    return stat.read().rpartition(")")[2].split()[0] == "T"

            wait_until(is_stopped, within=timedelta(seconds=30), what="the process to be stopped")
            yield process
        finally:
            process.kill()


@pytest.mark.external
def test_law_14_a_stopped_leader_does_not_keep_its_successor_waiting(
    postgresql: PostgreSQL, open_store: OpenStore
) -> None:
    """Stopped inside a transaction with the writers' lock, it loses its session; back again, it has written nothing."""
    url = postgresql.database()
    open_store(url)
    with stopped_inside(url) as old:
        # A replica that starts now opens the store, too.
        new = leading(open_store(url), 2)
        assert 0 == append(new, 1)
        os.kill(old.pid, signal.SIGCONT)
        assert old.stdout is not None
        assert "JournalError\n" == old.stdout.readline()
    assert 1 == new.size()


@pytest.mark.external
def test_a_store_that_does_not_answer_lets_nobody_begin(open_store: OpenStore, postgresql: PostgreSQL) -> None:
    """Without its database no term begins: the error says so and names no password."""
    store = open_store(postgresql.database())
    name = store._engine.url.database
    assert name is not None
    postgresql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rotator'")
    with pytest.raises(JournalError, match="cannot begin a term"):
        store.begin_term(claim(1), held=lambda: True)
