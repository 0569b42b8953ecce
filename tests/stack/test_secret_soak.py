"""
An API server that is away for two minutes, ten times, while leaves come due: `make soak`, not part of CI.

Rules that must stay true here:

- Every figure is printed, and every figure is a claim: one that does not hold fails the run.
- Nothing is asked for: leaves come due by their schedule, in every absence some.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from threading import Event as Flag

import pytest

from rotator.clock import SystemClock
from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from tests.fixtures_openbao import new_domain
from tests.stack.cluster import Cluster
from tests.stack.secret_installation import SecretInstallation
from tests.stack.test_secret_scenarios import running

pytestmark = [pytest.mark.soak, pytest.mark.stack, pytest.mark.external]

ABSENCES = 10
AWAY = timedelta(minutes=2)
BETWEEN = timedelta(seconds=75)
"""Half a lifetime and more between two absences: each finds leaves of another age."""
SECRETS = 20


def test_ten_absences_of_two_minutes(
    cluster: Cluster, openbao: OpenBaoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Leaves of six minutes live through ten absences of two: none is missed, none expires, every account closes."""
    vault = new_domain(openbao, tmp_path / "credentials", longest_leaf=timedelta(hours=1))
    installation = SecretInstallation(
        tmp_path,
        vault,
        cluster,
        secrets=SECRETS,
        namespaces=4,
        leaf="6m",
        proxied=True,
        timing={"publish": "5s", "retry_budget": "20s"},
    )
    proxy = installation.proxy
    assert proxy is not None
    with running(installation) as it:
        it.wait(lambda: len(it.held()) == SECRETS, "every Secret to be made")
        it.wait_right()
        for _ in range(ABSENCES):
            SystemClock().wait(Flag(), BETWEEN)
            proxy.stop()
            SystemClock().wait(Flag(), AWAY)
            proxy.start()
            it.wait_right()
        it.wait_accounted()
    issued = it.events(EventType.ISSUED)
    ends = [each.new.not_after for each in issued if each.new is not None]
    missed, wrong = it.events(EventType.MISSED), it.wrong()
    with capsys.disabled():
        print(
            f"\nabsences: {ABSENCES} of {AWAY}; leaves issued: {len(ends)}; renewals missed: {len(missed)}; "
            f"accounts that do not close: {len(wrong)}"
        )
    assert ([], []) == (missed, wrong)
    assert 0 == it.reconciles()
