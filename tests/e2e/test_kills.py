"""Real SIGKILLs against a real OpenBao: the next daemon finishes, and every account closes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.embedded.openbao import OpenBaoServer
from tests.e2e.installation import Installation
from tests.fixtures_openbao import new_domain

# A dozen restarts of a real daemon: minutes on two busy cores.
pytestmark = [pytest.mark.external, pytest.mark.timeout(1200)]

KILLS = 6
"""How many kills of a CA rotation, spread over its requests; ``make soak`` makes sixty."""
REQUESTS_IN_A_ROTATION = 60


@pytest.fixture
def installation(tmp_path: Path, openbao: OpenBaoServer) -> Iterator[Installation]:
    """A daemon with two services, all in use."""
    made = Installation(tmp_path, new_domain(openbao, tmp_path))
    made.start()
    made.wait_settled()
    yield made
    made.daemon.stop()


def test_law_13_kills_in_the_middle_of_ca_rotations(installation: Installation) -> None:
    """Killed at requests spread over a CA rotation, the daemon comes back, completes, and loses nothing."""
    for kill in range(KILLS):
        installation.rotate(installation.domain)
        installation.kill_at(1 + kill * REQUESTS_IN_A_ROTATION // KILLS)
        installation.start()
        installation.wait_settled()
    installation.wait_accounted()
    installation.daemon.stop()
    assert installation.wrong() == []
    assert installation.reconciles() == 0


def test_law_13_kills_in_the_middle_of_leaf_renewals(installation: Installation) -> None:
    """Killed at each of the first requests of a renewal, the daemon comes back and completes it."""
    for request in range(min(KILLS, 6)):
        installation.rotate(installation.names[0])
        installation.kill_at(request)
        installation.start()
        installation.wait_settled()
    installation.wait_accounted()
    installation.daemon.stop()
    assert installation.wrong() == []
    assert installation.reconciles() == 0
