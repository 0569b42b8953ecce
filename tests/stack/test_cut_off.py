"""
A replica alone, cut off from what it needs: from its database while a certificate ends, from all else amid a step.

Rules that must stay true here:

- The daemon is real, and so are the Lease, PostgreSQL and OpenBao: only wires are cut.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy.engine import make_url

from rotator.clock import SystemClock
from rotator.core.event import EventType
from rotator.daemon import LEASE_LOST
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.evidence.record import Record
from rotator.ports import IssuanceState
from tests.fakes.gate import Gate
from tests.fixtures_openbao import new_domain
from tests.fixtures_postgres import PostgreSQL, postgresql
from tests.stack.cluster import JSON, Cluster
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
    with Gate(make_url(url).port or 0) as wire:

        def change(document: JSON) -> None:
            document["store"] = make_url(url).set(port=wire.port).render_as_string(hide_password=False)
            document["timing"]["retry_budget"] = RETRY_BUDGET
            for said in document["certificates"].values():
                said["renew_at"] = 0.3

        with alone(tmp_path, cluster, system_namespace, vault, url, leaf=LEAF, change=change) as made:
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
            wait_until(
                lambda: published in spool.read_bytes(), within=PATIENCE, what="its last record to wait on the disk"
            )
            unwritten = told(made)
            wire.mend()
            wait_until(lambda: spool.read_bytes() == b"", within=PATIENCE, what="the spool to be entered")
            made.wait_accounted()
            made.pin()
            made.replicas[NAMES[0]].installation.daemon.stop()
            late = [each.event for each in told(made) if each.event.late]
            opened = [each for each in told(made) if each.event.type is EventType.EXCEPTION_OPENED]
            with capsys.disabled():
                print(
                    f"\nrenewed {left.total_seconds():.0f} s before the end of {LEAF}; {len(late)} records entered late"
                )
            assert timedelta(0) < left
            assert before == unwritten
            assert {EventType.ISSUED, EventType.DISTRIBUTED} <= {each.type for each in late}
            assert 1 == len(opened)
            assert all(after.seq == each.seq + 1 for each, after in pairwise(told(made)))
            assert 1 == made.epoch()
            assert made.wrong() == []
            assert made.reconciles() == 0


def test_a_step_that_outlives_its_lease_ends_the_process(
    tmp_path: Path, cluster: Cluster, system_namespace: str, openbao: OpenBaoServer, postgresql: PostgreSQL
) -> None:
    """
    Vault does not answer and the Lease is lost: the process ends with 6, and does not wait for Vault to do so.

    Started again it finds what it had ordered, finishes, and every account closes.
    """
    vault, url = new_domain(openbao, tmp_path), postgresql.database()
    with Gate(urlsplit(openbao.address).port or 0) as wire:

        def change(document: JSON) -> None:
            issuer = document["issuers"]["corporate"]["vault"]
            issuer["address"] = openbao.address.replace(f":{urlsplit(openbao.address).port}", f":{wire.port}")
            issuer["timeout"] = "10m"
            document["limits"]["stop_within"] = "1s"

        with alone(tmp_path, cluster, system_namespace, vault, url, leaf="30m", change=change) as made:
            replica = made.leader()
            daemon = replica.installation.daemon
            wire.cut()
            made.rotate_all()

            def ordered() -> bool:
                with contextlib.closing(made.store()) as store:
                    return bool(store.issuances(states=frozenset({IssuanceState.ASKED})))

            wait_until(ordered, within=PATIENCE, what="a step to be under way")
            replica.gate.cut()
            wait_until(lambda: daemon.status is not None, within=PATIENCE, what="the process to end")
            assert LEASE_LOST == daemon.status
            wire.mend()
            replica.gate.mend()
            daemon.kill()
            # What it had asked for may be settled only after twice the time-out; nobody wants to wait for that here.
            replica.installation.document["issuers"]["corporate"]["vault"]["timeout"] = "2s"
            replica.installation.write()
            replica.start()
            made.wait_accounted()
            made.pin()
            daemon.stop()
            assert made.wrong() == []
            assert made.reconciles() == 0
