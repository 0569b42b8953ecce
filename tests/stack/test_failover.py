"""
The leader dies, sleeps, or is cut off while certificates rotate: the other replica finishes, and every account closes.

Rules that must stay true here:

- Both daemons are real, and so is everything around them; figures are printed, and each is a claim.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rotator.embedded.openbao import OpenBaoServer
from tests.fixtures_openbao import new_domain
from tests.fixtures_postgres import PostgreSQL, postgresql
from tests.stack.cluster import Cluster
from tests.stack.replicas import LEASE, NAMES, REQUESTS_OF_A_RENEWAL, Pair, pair

__all__ = ["postgresql"]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

SERVICES = 12
MOMENTS = 30
HOW = ("killed", "stopped", "cut")


@contextmanager
def running(
    tmp_path: Path, cluster: Cluster, namespace: str, openbao: OpenBaoServer, postgresql: PostgreSQL
) -> Iterator[Pair]:
    vault = new_domain(openbao, tmp_path)
    with pair(tmp_path, cluster, namespace, vault, postgresql.database(), services=SERVICES) as made:
        yield made


def stop(made: Pair) -> None:
    for name in NAMES:
        made.replicas[name].installation.daemon.stop()


def told(made: Pair, disturbances: int) -> str:
    seconds = sorted(made.takeovers[:disturbances])
    middle = seconds[len(seconds) // 2]
    return (
        f"\n{disturbances} disturbances of {SERVICES} running rotations, {len(made.issued())} certificates issued; "
        f"seconds to take over, lease {LEASE['duration']}: {seconds[0]:.1f} to {seconds[-1]:.1f}, middle {middle:.1f}"
        + "".join(f"; idle {each:.1f}" for each in made.takeovers[disturbances:])
    )


def test_law_14_a_leader_killed_stopped_and_cut_off_costs_nothing(
    tmp_path: Path,
    cluster: Cluster,
    system_namespace: str,
    openbao: OpenBaoServer,
    postgresql: PostgreSQL,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    Each once in the middle of running rotations, then an idle one: no double issue, no overwrite, no lost record.

    An idle fail-over issues nothing and writes no Secret; a leader told to stop gives the lease back at once. The
    standby shows what the leader sees.
    """
    with running(tmp_path, cluster, system_namespace, openbao, postgresql) as made:
        for at, how in enumerate(HOW):
            made.disturb(how, at=2 + 4 * at)
        issued, published = made.issued(), made.published()
        for how in ("killed", "told"):
            made.idle(how)
            made.wait_shows_the_same()
        assert (issued, published) == (made.issued(), made.published())
        stop(made)
        assert made.wrong() == []
        assert made.reconciles() == 0
        with capsys.disabled():
            print(told(made, len(HOW)))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_law_14_thirty_random_moments_of_each(
    tmp_path: Path,
    cluster: Cluster,
    system_namespace: str,
    openbao: OpenBaoServer,
    postgresql: PostgreSQL,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed, stopped and cut off at thirty random moments each: no double issue, no overwrite, no lost record."""
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)  # noqa: S311 -- moments, no secrets
    with running(tmp_path, cluster, system_namespace, openbao, postgresql) as made:
        for round_ in range(MOMENTS * len(HOW)):
            made.disturb(HOW[round_ % len(HOW)], at=chance.randint(1, SERVICES * REQUESTS_OF_A_RENEWAL))
        stop(made)
        wrong = made.wrong()
        with capsys.disabled():
            print(told(made, MOMENTS * len(HOW)), f"seed {seed}; accounts that do not close: {len(wrong)}")
        assert wrong == []
        assert made.reconciles() == 0
