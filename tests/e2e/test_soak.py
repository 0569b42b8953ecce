"""
The long counts: `make soak`, not part of CI.

Rules that must stay true here:

- Every figure is printed, and every figure is a claim: one that does not hold fails the run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rotator.embedded.openbao import OpenBaoServer
from tests.e2e.installation import Installation
from tests.fixtures_openbao import new_domain

pytestmark = [pytest.mark.soak, pytest.mark.external]

KILLS = 60
LEAF_KILLS = 30
RUNS = 3
"""Demonstrations in a row: tens of thousands of requests, and at least two rolls of each worker in every one."""


def test_law_13_dozens_of_kills(tmp_path: Path, openbao: OpenBaoServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Ninety kills, spread over every request of CA rotations and leaf renewals, lose nothing."""
    installation = Installation(tmp_path, new_domain(openbao, tmp_path))
    installation.start()
    try:
        installation.wait_settled()
        for kill in range(KILLS):
            installation.rotate(installation.domain)
            installation.kill_at(kill + 1)
            installation.start()
            installation.wait_settled()
        for kill in range(LEAF_KILLS):
            installation.rotate(installation.names[kill % len(installation.names)])
            installation.kill_at(kill % 6)
            installation.start()
            installation.wait_settled()
        installation.wait_accounted()
    finally:
        installation.daemon.stop()
    wrong = installation.wrong()
    with capsys.disabled():
        print(
            f"\nkills: {KILLS} of CA rotations, {LEAF_KILLS} of leaf renewals; accounts that do not close: {len(wrong)}"
        )
    assert wrong == []
    assert installation.reconciles() == 0


def test_demonstrations_in_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole main job, several times in a row, each with every claim held."""
    for run in range(RUNS):
        done = subprocess.run(
            [sys.executable, "-m", "rotator", "demo", "--directory", str(tmp_path / "demo")],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        with capsys.disabled():
            print(f"\nrun {run + 1}: exit {done.returncode}")
            print("\n".join(line for line in done.stdout.splitlines() if "held" in line or "BROKEN" in line))
        assert done.returncode == 0, done.stdout[-4000:]
