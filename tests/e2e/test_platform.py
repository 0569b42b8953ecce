"""The platform's documents over a control plane's HTTP API, by the real daemon and its commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from tests.e2e.platform_installation import PlatformInstallation
from tests.fakes.kuma.process import StandInProcess
from tests.fakes.kuma.store import Json
from tests.fixtures_openbao import new_mesh

PERMISSION = "/meshes/default/meshtrafficpermissions/rotator-production-ledger"
REASON = ("--reason", "a test asks", "--wait", "--wait-at-most", "60s")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[StandInProcess]:
    """Give a control plane as a process of its own, with a mesh and without proxies."""
    with StandInProcess(tmp_path / "cp", version="3.0.1", quick=True) as plane:
        assert (201, {}) == plane.call("PUT", "/meshes/default", {"type": "Mesh", "name": "default"})
        yield plane


@pytest.fixture
def installation(tmp_path: Path, openbao: OpenBaoServer, plane: StandInProcess) -> Iterator[PlatformInstallation]:
    """Give a running daemon over that mesh."""
    vault = new_mesh(openbao, tmp_path / "credentials")
    reach = {"url": plane.url, "token_file": str(plane.token_file)}
    found = PlatformInstallation(tmp_path, vault, "default", reach)
    found.start()
    try:
        yield found
    finally:
        found.daemon.stop()


def callers(plane: StandInProcess) -> list[str]:
    """Return whom the ledger's permission lets in, the last part of each name."""
    status, found = plane.call("GET", PERMISSION)
    if status != 200:
        return []
    allowed = found["spec"]["rules"][0]["default"]["allow"]
    return [each["spiffeID"]["value"].rpartition("/")[2] for each in allowed]


def edited(plane: StandInProcess, name: str) -> None:
    """Let somebody of *name* in, by hand."""
    _, found = plane.call("GET", PERMISSION)
    spec: Json = found["spec"]
    allowed = spec["rules"][0]["default"]["allow"]
    allowed.append({"spiffeID": {"type": "Exact", "value": f"spiffe://mesh.test/{name}"}})
    body = {key: found[key] for key in ("type", "mesh", "name", "labels")} | {"spec": spec}
    assert 200 == plane.call("PUT", PERMISSION, body)[0]


def test_applied_guarded_and_undone(installation: PlatformInstallation, plane: StandInProcess) -> None:
    """Shown, applied, applied again to no effect, changed by hand, found, put back, undone: each with its record."""
    shown = installation.run("platform", "diff")
    assert (3, True) == (shown.returncode, "create MeshTrafficPermission rotator-production-ledger" in shown.stdout)
    assert "+++ MeshTrafficPermission/rotator-production-ledger (as it will be)" in shown.stdout
    assert [] == callers(plane)
    applied = installation.run("platform", "apply", *REASON)
    assert 0 == applied.returncode, applied.stderr + applied.stdout
    assert ["airflow-worker"] == callers(plane)
    written = installation.events(EventType.APPLIED)
    assert len(installation.planned()["plan"]) == 0 < len(written)

    again = installation.run("platform", "apply", *REASON)
    assert (0, True) == (again.returncode, "nothing to do" in again.stdout)
    assert len(written) == len(installation.events(EventType.APPLIED))

    edited(plane, "mallory")
    installation.wait("the edit to be found", lambda: "platform/platform_drifted" in installation.alerts())
    (drifted,) = installation.events(EventType.DRIFTED)
    assert ("edited", True) == (drifted.result, drifted.detail["opens"])
    assert 3 == installation.run("platform", "diff").returncode
    installation.then("put_back")
    installation.wait("the edit to be put back", lambda: ["airflow-worker"] == callers(plane))
    installation.wait("the record", lambda: 1 == len(installation.events(EventType.PUT_BACK)))
    installation.wait("the change to end", lambda: installation.platform().get("open_change", 1) is None)

    stale = installation.run("platform", "apply", "--reason", "a test asks", "--plan", "0" * 64)
    assert (4, True) == (stale.returncode, "has changed since it was shown" in stale.stderr), stale.stderr
    changes = installation.platform()["changes"]
    assert ["put_back", "apply"] == [each["kind"] for each in changes]
    undone = installation.run("platform", "undo", changes[1]["id"], *REASON)
    assert 0 == undone.returncode, undone.stderr + undone.stdout
    assert ([], len(written)) == (callers(plane), len(installation.events(EventType.UNDONE)))
    told = installation.run("explain", "platform").stdout
    for words in (
        "an apply of the platform was intended",
        "the change was completed",
        "was found changed by somebody else",
        "put back",
        "undone",
    ):
        assert words in told, told
    verified = installation.run(
        "evidence", "verify", str(installation.directory / "ledger"), "--key", str(installation.verifier_key)
    )
    assert 3 == verified.returncode, verified.stdout


def test_a_killed_daemon_goes_on_with_its_change(installation: PlatformInstallation, plane: StandInProcess) -> None:
    """A change whose daemon is killed once it has begun is ended by the next one, with one record each."""
    assert 0 == installation.run("platform", "apply", *REASON).returncode
    before = len(installation.events(EventType.APPLIED))
    installation.permit("scheduler")
    begun = installation.run("platform", "apply", "--reason", "a test asks")
    installation.daemon.kill()
    assert 0 == begun.returncode, begun.stderr
    installation.start()
    installation.wait("the change to end", lambda: installation.platform().get("open_change", 1) is None)
    assert {"airflow-worker", "airflow-scheduler"} == set(callers(plane))
    assert before + 1 == len(installation.events(EventType.APPLIED))
    assert "done" == installation.platform()["last_change"]["result"]
