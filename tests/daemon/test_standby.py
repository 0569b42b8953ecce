"""A standby enters what it had to spool while it led, and touches nobody else's spool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.daemon.life import Role
from rotator.daemon.standby import Freshness
from rotator.engine.recorder import Scribe
from rotator.ports import LeaseClaim
from tests.engine.world import HeldLease
from tests.web.house import House


class NumberedLease(HeldLease):
    """Held by another replica, with a disk of its own."""

    def claim(self) -> LeaseClaim:
        """Return whose holding it is."""
        return LeaseClaim(lease="L", number=1, holder="the other")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Give a replica that stands by, on whose disk one record waits."""
    with contextlib.closing(House(tmp_path)) as house:
        house.life.role = Role.STANDBY
        scribe = Scribe(clock=house.world.clock, subject="service-0", rotation=None)
        house.world.spool.add([scribe.event(EventType.DISTRIBUTED)])
        yield house


def test_a_standby_enters_its_own_records(house: House) -> None:
    """They are true and must not wait until it leads again: late, once, with an exception."""
    house.wired.lease = NumberedLease()
    for _ in range(2):
        Freshness(house.life).look()
    late = [each.event.type for each in house.world.told() if each.event.late]
    assert [EventType.DISTRIBUTED] == [each for each in late if each is not EventType.EXCEPTION_OPENED]
    assert 1 == len(house.world.events(EventType.EXCEPTION_OPENED))
    assert 0 == house.world.spool.pending()


def test_a_standby_on_the_leaders_machine_leaves_the_spool(house: House) -> None:
    """A lock of one machine is held by a process at the same file."""
    Freshness(house.life).look()
    assert [] == house.world.told()
    assert 1 == house.world.spool.pending()
