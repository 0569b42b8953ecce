"""
Records that wait outside the journal, entered once whatever happens.

Rules that must stay true here:

- The kill is real, and falls at each point between the spool and the journal.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rotator.core.event import Event, EventType
from rotator.errors import InvariantBroken, JournalError
from rotator.evidence.ledger import records
from rotator.store.spool import Spool
from rotator.store.sql import SQLStore
from tests.evidence.examples import NOON, event
from tests.fakes.clock import ManualClock
from tests.small_files import files_of_at_most
from tests.store.conftest import OpenStore


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", clock=ManualClock(NOON))


def enter(spool: Spool, store: SQLStore) -> int:
    with store.transaction() as transaction:
        entered = spool.drain(transaction)
    spool.clear()
    return entered


def told(store: SQLStore) -> list[tuple[int, EventType, bool]]:
    return [(record.seq, record.event.type, record.event.late) for record in records(store)]


def test_law_12_spooled_records_are_entered_late_with_the_next_numbers(spool: Spool, store: SQLStore) -> None:
    """What waited outside follows what is there, marked late, and one exception is opened."""
    with store.transaction() as transaction:
        transaction.append(event(0))
    spool.add([event(1), event(2, type=EventType.DISTRIBUTED)])
    spool.add([event(3, type=EventType.VERIFIED)])
    assert 3 == spool.pending()
    assert 3 == enter(spool, store)
    assert [
        (0, EventType.ISSUED, False),
        (1, EventType.ISSUED, True),
        (2, EventType.DISTRIBUTED, True),
        (3, EventType.VERIFIED, True),
        (4, EventType.EXCEPTION_OPENED, False),
    ] == told(store)
    assert (0, 0) == (spool.pending(), enter(spool, store))
    assert 5 == store.size()


def test_an_event_is_the_same_after_its_wait(spool: Spool, store: SQLStore) -> None:
    """Nothing but `late` and its id is different from what was given."""
    given = event(1)
    spool.add([given])
    enter(spool, store)
    entered = next(records(store)).event
    assert given == Event(**{name: getattr(entered, name) for name in Event.__slots__} | {"late": False, "id": None})


def test_law_21_entering_twice_counts_once(spool: Spool, store: SQLStore, tmp_path: Path) -> None:
    """A commit whose `clear` was lost is entered again by the next process without a second record."""
    spool.add([event(1), event(2)])
    with store.transaction() as transaction:
        spool.drain(transaction)
    # The process ends here; the next one finds the spool full, and a further record comes.
    again = Spool(tmp_path / "spool", clock=ManualClock(NOON))
    again.add([event(3)])
    assert 3 == enter(again, store)
    assert 4 == store.size()
    assert 3 == sum(late for _, _, late in told(store))


def test_what_is_added_while_entering_stays(spool: Spool, store: SQLStore) -> None:
    """`clear` forgets what was drained, not what came after."""
    spool.add([event(1)])
    with store.transaction() as transaction:
        spool.drain(transaction)
        spool.add([event(2)])
    spool.clear()
    assert 1 == spool.pending()
    assert 1 == enter(spool, store)


def test_a_transaction_that_fails_leaves_the_spool_full(spool: Spool, store: SQLStore) -> None:
    """Until the commit nothing is forgotten."""
    spool.add([event(1)])

    def fail() -> None:
        with store.transaction() as transaction:
            spool.drain(transaction)
            raise InvariantBroken(12, "something went wrong")

    with pytest.raises(InvariantBroken):
        fail()
    assert (1, 0) == (spool.pending(), store.size())


def test_what_a_crash_cut_off_is_dropped(spool: Spool, store: SQLStore, tmp_path: Path) -> None:
    """Half a line was never promised: it is dropped and does not spoil the next one."""
    spool.add([event(1)])
    path = tmp_path / "spool"
    path.write_bytes(path.read_bytes() + path.read_bytes()[:100])
    assert 1 == spool.pending()
    spool.add([event(2)])
    assert 2 == enter(spool, store)


def test_one_rotten_line_does_not_keep_the_others_out(spool: Spool, store: SQLStore, tmp_path: Path) -> None:
    """A line that cannot be read is counted in the exception and set aside."""
    spool.add([event(1)])
    path = tmp_path / "spool"
    path.write_bytes(b"{rotten\n" + path.read_bytes())
    assert 1 == enter(spool, store)
    exception = list(records(store))[-1].event
    assert {"records": 1, "unreadable": 1} == exception.detail
    assert b"{rotten\n" == (tmp_path / "spool.unreadable").read_bytes()
    assert 0 == spool.pending()


def test_law_10_no_secret_is_spooled(spool: Spool, tmp_path: Path) -> None:
    """The spool refuses what the ledger would refuse, and nobody else may read it."""
    with pytest.raises(InvariantBroken, match="law 10"):
        spool.add([event(1, reason="-----BEGIN PRIVATE KEY-----")])
    spool.add([event(1)])
    assert 0o600 == (tmp_path / "spool").stat().st_mode & 0o777
    assert b"BEGIN" not in (tmp_path / "spool").read_bytes()


def test_a_full_disk_is_said_and_leaves_whole_lines(spool: Spool) -> None:
    """What does not fit is not half there."""
    spool.add([event(1)])
    with files_of_at_most(2048), pytest.raises(JournalError, match="cannot write the spool"):
        spool.add([event(2), event(3)])
    assert 1 == spool.pending()


KILLED = """
import os, signal, sys
from pathlib import Path
from rotator.store.spool import Spool
from rotator.store.sql import SQLStore
from tests.evidence.examples import NOON, event
from tests.fakes.clock import ManualClock

home, url, at = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def point(name):
    if name == at:
        os.kill(os.getpid(), signal.SIGKILL)

spool = Spool(home / "spool", clock=ManualClock(NOON))
spool.add([event(1)])
point("one spooled")
spool.add([event(2), event(3)])
point("all spooled")
store = SQLStore(url, environment="test")
with store.transaction() as transaction:
    spool.drain(transaction)
    point("drained")
point("committed")
spool.clear()
point("cleared")
"""


@pytest.mark.parametrize(
    ("at", "expected"), [("one spooled", 1), ("all spooled", 3), ("drained", 3), ("committed", 3), ("cleared", 3)]
)
def test_law_12_a_kill_between_spool_and_journal_loses_and_doubles_nothing(
    tmp_path: Path, url: str, open_store: OpenStore, at: str, expected: int
) -> None:
    """Killed at any point, the next process finds each record once, late, with one exception."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), url, at]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert -signal.SIGKILL == ran.returncode, ran.stderr
    store = open_store(url)
    enter(Spool(tmp_path / "spool", clock=ManualClock(NOON)), store)
    found = told(store)
    assert list(range(expected + 1)) == [seq for seq, _, _ in found]
    assert expected == sum(late for _, _, late in found)
    assert 1 == sum(kind is EventType.EXCEPTION_OPENED for _, kind, _ in found)
