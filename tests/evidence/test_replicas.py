"""
One log on the disks of several replicas: only the leader signs, and nobody rolls it back or forks it.

Rules that must stay true here:

- The replicas share a real store; each has a directory of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.errors import InvariantBroken, JournalError, LedgerTampered
from rotator.evidence.files import LogFiles
from rotator.evidence.signer import LocalSigner
from rotator.evidence.tlog import TileLog
from rotator.evidence.verify import State, verify
from rotator.ports import LeaseClaim
from rotator.store.sql import SQLStore
from tests.evidence.conftest import ORIGIN
from tests.evidence.examples import ListLedger, event


class Replicas:
    """One store and any number of disks."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.signer = LocalSigner.generate(home / "log.key", ORIGIN)
        self.store = self.opened()

    def opened(self) -> SQLStore:
        """The store, as one more process opens it."""
        return SQLStore(f"sqlite:///{self.home / 'state.db'}", environment="test")

    def log(self, name: str, *, files: LogFiles | None = None) -> TileLog:
        """The writer of replica *name*."""
        return TileLog(self.home / name, ORIGIN, self.signer, files=files)

    def grow(self, by: int) -> None:
        """Commit *by* more records."""
        with self.store.transaction() as transaction:
            for _ in range(by):
                transaction.append(event(0, type=EventType.HEARTBEAT, rotation_id=None))

    def files(self, name: str) -> dict[str, bytes]:
        """What stands on the disk of *name*, but for the copies of past checkpoints."""
        found = sorted(path for path in (self.home / name).rglob("*") if path.is_file())
        relative = {str(path.relative_to(self.home / name)): path.read_bytes() for path in found}
        return {path: content for path, content in relative.items() if not path.startswith("checkpoints/")}

    def verified(self, name: str, pin: bytes) -> State:
        """What an auditor with the checkpoint *pin* finds on the disk of *name*."""
        return verify(self.home / name, self.signer.verifier_key, pinned=[pin]).state


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    """A store without any record, and no disk yet."""
    made = Replicas(tmp_path)
    with contextlib.closing(made.store):
        yield made


def test_a_standby_shows_what_the_leader_signed_byte_for_byte(replicas: Replicas) -> None:
    """Following, however often and from wherever, gives the leader's bytes, and no signature of its own."""
    leader, standby = replicas.log("leader"), replicas.log("standby")
    assert standby.follow(replicas.store, replicas.store) is None
    for by in (1, 255, 1, 300, 43):
        replicas.grow(by)
        published = leader.publish(replicas.store, replicas.store)
        replicas.grow(1)
        assert published == standby.follow(replicas.store, replicas.store)
        assert replicas.files("leader") == replicas.files("standby")
        late = f"late-{published.size}"
        assert published == replicas.log(late).follow(replicas.store, replicas.store)
        # Partial tiles of sizes that are past are nobody's any more: who comes late has none.
        assert replicas.files(late).items() <= replicas.files("leader").items()


def test_law_22_a_new_leader_goes_on_where_the_last_one_ended(replicas: Replicas) -> None:
    """On an empty disk it signs no smaller and no other log: each checkpoint of the first leader stays a prefix."""
    first, second = replicas.log("first"), replicas.log("second")
    replicas.grow(300)
    first.publish(replicas.store, replicas.store)
    pin = (replicas.home / "first" / "checkpoint").read_bytes()
    replicas.grow(250)
    assert 550 == second.publish(replicas.store, replicas.store).size
    assert State.WHOLE == replicas.verified("second", pin)
    assert 550 == first.publish(replicas.store, replicas.store).size
    assert replicas.files("first") == replicas.files("second")


def test_law_14_a_leader_of_the_past_shows_no_checkpoint(replicas: Replicas) -> None:
    """Once a later term has begun the earlier leader's disk stays as it is."""
    claim = LeaseClaim(lease="L", number=1, holder="first")
    with contextlib.closing(replicas.opened()) as old:
        old.begin_term(claim, held=lambda: True)
        replicas.grow(3)
        replicas.log("first").publish(old, old)
        before = replicas.files("first")
        replicas.store.begin_term(LeaseClaim(lease="L", number=2, holder="second"), held=lambda: True)
        replicas.grow(3)
        with pytest.raises(InvariantBroken, match="law 14"):
            replicas.log("first").publish(old, old)
    assert before["checkpoint"] == replicas.files("first")["checkpoint"]


def test_what_was_signed_and_not_shown_is_shown_by_whoever_comes_next(replicas: Replicas) -> None:
    """A crash between keeping a checkpoint and showing it: the next one, on another disk, goes on from it."""

    def crash(point: str) -> None:
        if point == "write checkpoint":
            raise JournalError("the power is gone")

    replicas.grow(10)
    with pytest.raises(JournalError):
        replicas.log("first", files=LogFiles(replicas.home / "first", at=crash)).publish(replicas.store, replicas.store)
    kept = replicas.store.last_signed()
    assert kept is not None
    assert kept == _followed(replicas, "second")
    assert kept == _followed(replicas, "first")


def _followed(replicas: Replicas, name: str) -> bytes:
    replicas.log(name).follow(replicas.store, replicas.store)
    return replicas.files(name)["checkpoint"]


def test_a_log_from_before_there_were_replicas_is_taken_over(replicas: Replicas) -> None:
    """What one disk alone had signed is known to every replica after the next publication."""
    replicas.grow(10)
    replicas.log("first").publish(replicas.store)
    assert replicas.store.last_signed() is None
    replicas.log("first").publish(replicas.store, replicas.store)
    assert replicas.files("first")["checkpoint"] == replicas.store.last_signed()


def test_law_22_a_ledger_that_does_not_lead_to_what_was_signed_is_not_followed(replicas: Replicas) -> None:
    """Other records than those that were signed: refused, and nothing of them is written."""
    replicas.grow(300)
    replicas.log("leader").publish(replicas.store, replicas.store)
    other = ListLedger([*replicas.store.entries(0, 299), b"{}"])
    with pytest.raises(LedgerTampered, match="not those that were signed"):
        replicas.log("standby").follow(other, replicas.store)
    with pytest.raises(LedgerTampered, match="not those that were signed"):
        replicas.log("standby").publish(ListLedger(other.all[:200]), replicas.store)
    assert {} == replicas.files("standby")
