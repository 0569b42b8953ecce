"""
The database is out of reach while a certificate ends: it is renewed all the same, and every record is entered later.

Rules that must stay true here:

- The daemon is real, and so are the Lease, PostgreSQL and OpenBao: only the wire to the database is cut.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from rotator.clock import SystemClock
from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.evidence.record import Record
from tests.fakes.gate import Gate
from tests.fixtures_openbao import new_domain
from tests.fixtures_postgres import PostgreSQL, postgresql
from tests.stack.cluster import Cluster
from tests.stack.replicas import NAMES, Pair, alone

__all__ = ["postgresql"]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

LEAF, RETRY_BUDGET = "60s", "30s"
"""The safety line comes 27 seconds after each issue, and 33 before the end."""
PATIENCE = timedelta(seconds=60)


def told(made: Pair) -> list[Record]:
    """Every record of the ledger, read past the wire that is cut."""
    with contextlib.closing(made.store()) as store:
        return list(records(store))


def test_law_12_expiry_beats_a_database_out_of_reach(
    tmp_path: Path,
    cluster: Cluster,
    system_namespace: str,
    openbao: OpenBaoServer,
    postgresql: PostgreSQL,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    The holder of the Lease renews past the safety line, and before the end, though nothing can be written down.

    Its records wait on its own disk and are entered as late, with the next numbers and an exception, once the database
    is back. Neither before nor after is anything issued without a record, and the log verifies.
    """
    vault, url = new_domain(openbao, tmp_path), postgresql.database()
    clock = SystemClock()
    with (
        Gate(make_url(url).port or 0) as wire,
        alone(
            tmp_path,
            cluster,
            system_namespace,
            vault,
            url,
            database=wire,
            leaf=LEAF,
            renew_at=0.3,
            retry_budget=RETRY_BUDGET,
        ) as made,
    ):
        (name,) = made.names
        before, first = told(made), made.published()[name]
        ends = max(each.event.new.not_after for each in before if each.event.new and each.event.new.serial == first)
        wire.cut()
        wait_until(
            lambda: made.published()[name] != first, within=PATIENCE, what="a renewal", every=timedelta(seconds=0.2)
        )
        left = ends - clock.now()
        spool = made.replicas[NAMES[0]].installation.directory / "ledger-spool.jsonl"
        published = EventType.DISTRIBUTED.value.encode()
        wait_until(lambda: published in spool.read_bytes(), within=PATIENCE, what="its last record to wait on the disk")
        unwritten = told(made)
        wire.mend()
        wait_until(lambda: spool.read_bytes() == b"", within=PATIENCE, what="the spool to be entered")
        made.wait_accounted()
        made.pin()
        made.replicas[NAMES[0]].installation.daemon.stop()
        late = [each.event for each in told(made) if each.event.late]
        opened = [each for each in told(made) if each.event.type is EventType.EXCEPTION_OPENED]
        with capsys.disabled():
            print(f"\nrenewed {left.total_seconds():.0f} s before the end of {LEAF}; {len(late)} records entered late")
        assert timedelta(0) < left
        assert before == unwritten
        assert {EventType.ISSUED, EventType.DISTRIBUTED} <= {each.type for each in late}
        assert 1 == len(opened)
        assert all(after.seq == each.seq + 1 for each, after in pairwise(told(made)))
        assert 1 == made.epoch()
        assert made.wrong() == []
        assert made.reconciles() == 0
