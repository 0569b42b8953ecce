"""What is shipped for one machine and for the image is judged by the field's own tools."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
UNIT = TOP / "deploy" / "systemd" / "rotator.service"

EXPOSURE = 20
"""Tenths of systemd's own scale from 0 (safe) to 100: what a daemon with sockets and state cannot well go below."""


@pytest.fixture
def analyze() -> str:
    """Give systemd's own judge."""
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd is not installed")
    return found


def test_systemd_understands_every_line_of_the_unit(analyze: str, tmp_path: Path) -> None:
    """systemd-analyze verify says nothing of the unit, its program being one that is there."""
    unit = tmp_path / "rotator.service"
    unit.write_text(UNIT.read_text().replace("/opt/rotator/bin/rotator", sys.executable))
    ran = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60, check=False)

    assert (0, "") == (ran.returncode, "".join(line for line in ran.stderr.splitlines() if "rotator" in line))


def test_the_unit_is_confined(analyze: str) -> None:
    """systemd-analyze security finds it no more exposed than a daemon with sockets and state has to be."""
    command = [analyze, "security", "--offline=true", f"--threshold={EXPOSURE}", str(UNIT)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert 0 == ran.returncode, ran.stdout[-300:]


def test_the_dockerfile_is_linted() -> None:
    """Hadolint finds nothing but what is excused beside its reason."""
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    ran = subprocess.run([hadolint, TOP / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)

    assert (0, "") == (ran.returncode, ran.stdout)


def test_the_scripts_are_posix_shell() -> None:
    """What operators run on their own machines needs no bash."""
    for script in (TOP / "deploy" / "vault" / "kubernetes-auth.sh", TOP / "deploy" / "manifests" / "render"):
        assert script.read_text().startswith("#!/bin/sh\n")
        ran = subprocess.run(["sh", "-n", script], capture_output=True, text=True, timeout=60, check=False)
        assert (0, "") == (ran.returncode, ran.stderr)
