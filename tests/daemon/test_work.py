"""What only the leader does, around a small world: when it takes orders, and what a sweep that hangs brings about."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.control import ControlClient, RotateRequest
from rotator.core.alert_kinds import AlertKind
from rotator.core.model import SubjectKind, SubjectName
from rotator.daemon.life import Role
from rotator.daemon.parts import parts
from rotator.daemon.services import Services
from rotator.daemon.work import Work
from rotator.engine.alerting import QUIET
from rotator.errors import Unavailable
from rotator.web.seen import health
from tests.web.house import House

SERVICE = SubjectName("service-0")
PATIENCE = 60.0
ORDER = RotateRequest(subjects=(SERVICE,), reason="a test asks")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Give a settled world in which nobody sweeps but the test: the next sweep is minutes of real time away."""
    with contextlib.closing(House(tmp_path, timing={"sweep_every": "10m"})) as house:
        house.world.run(until=house.world.settled)
        house.life.beat()
        yield house


def test_no_order_is_taken_before_the_journal_was_read(house: House) -> None:
    """The socket of who has just begun to lead shows and refuses; once work has begun the same order is taken."""
    made = parts(house.life)
    client = ControlClient(house.wired.settings.socket, timeout=timedelta(seconds=PATIENCE))
    house.life.role = Role.LEADER
    (socket,) = (each for each in made.always if each in made.while_leading)
    before = house.world.rotations(SERVICE)
    always = Services([socket])
    always.start()
    try:
        assert "leader" == client.status()["replica"]["role"]
        with pytest.raises(Unavailable, match="still reading its journal: ask again"):
            client.rotate(ORDER)
        assert before == house.world.rotations(SERVICE)
        leading = Services([made.work])
        leading.start()
        try:
            client.rotate(ORDER)
            assert len(before) + 1 == len(house.world.rotations(SERVICE))
        finally:
            leading.stop()
    finally:
        always.stop()


def test_a_sweep_that_hangs_is_told_and_is_not_live(house: House) -> None:
    """A call that never ends: people are told, the daemon is not live; once it ends, both are over."""
    http = house.wired.settings.http
    assert http is not None
    limit = http.not_live_after(house.wired.settings.timing.sweep_every)
    work = Services([Work(house.life)])
    work.start()
    hangs, ends = threading.Event(), threading.Event()

    def never_answers(call: str) -> None:
        if call == "issuer.sign":
            hangs.set()
            assert ends.wait(PATIENCE)

    house.world.faults.before = never_answers
    house.world.ask(SERVICE, SubjectKind.CERTIFICATE)
    jobs = Work(house.life)
    sweep = threading.Thread(target=jobs.sweep)
    sweep.start()
    try:
        assert hangs.wait(PATIENCE)
        house.world.clock.advance(limit)
        jobs.look_at_alerts()
        assert health(house.life).live
        assert AlertKind.SWEEP_SILENT in kinds(house)
        house.world.clock.advance(timedelta(seconds=1))
        assert not health(house.life).live
        assert f"no sweep has ended for {int(limit.total_seconds()) + 1} s" in health(house.life).problems
        ends.set()
        sweep.join(PATIENCE)
        assert health(house.life).live
        jobs.look_at_alerts()
        house.world.clock.advance(QUIET)
        jobs.look_at_alerts()
        assert AlertKind.SWEEP_SILENT not in kinds(house)
    finally:
        ends.set()
        sweep.join(PATIENCE)
        work.stop()


def kinds(house: House) -> set[str]:
    """Return the kinds of alerts that are raised."""
    return {each.key.partition("/")[2] for each in house.wired.engine.alerting.raised()}
