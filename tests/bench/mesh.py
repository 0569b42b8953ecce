"""
How long a mesh's CA rotation takes from ``rotate-now --wait`` to the last proxy proven, and what it costs rotator.

Rules that must stay true here:

- The real daemon and a real OpenBao; the control plane is the stand-in, with Kuma's own delays. What a released
  kuma-cp would spend is not shown: a stand-in's CPU says nothing about it.
- Real Envoys as far as one machine bears them; beyond that proxies without Envoys, in a process of their own.
- The daemon's CPU is that of the whole rotation, looks at every proxy included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rotator.clock import SystemClock
from rotator.embedded.openbao import OpenBaoServer
from tests.bench.figures import Figure
from tests.bench.installation import cpu_of
from tests.fakes.kuma.standin import StandIn
from tests.fixtures_openbao import new_mesh
from tests.stack.kuma.beginnings import begin
from tests.stack.kuma.installation import AUTHORITY_LIFE, MeshInstallation, MeshPolicy, new_mesh_name
from tests.stack.kuma.plane import Beginning, ControlPlaneUnderTest, Json, Model
from tests.stack.kuma.standin import StandInPlane

VERSION = "3.0.1"
ENVOYS = (5,)
VIRTUAL = (50,)
LEAF = "10m"


def bench(directory: Path, _seconds: float) -> list[Figure]:
    """Rotate meshes of several sizes."""
    figures: list[Figure] = []
    with OpenBaoServer(directory / "openbao") as openbao:
        openbao.provision_corporate()
        for count in ENVOYS:
            with envoys(directory / f"envoys-{count}", count) as plane:
                figures += rotated(directory / f"for-envoys-{count}", openbao, plane, f"{count} Envoys")
        for count in VIRTUAL:
            with virtual(directory / f"virtual-{count}", count) as plane:
                figures += rotated(directory / f"for-virtual-{count}", openbao, plane, f"{count} proxies without Envoy")
    return figures


def rotated(directory: Path, openbao: OpenBaoServer, plane: ControlPlaneUnderTest, what: str) -> list[Figure]:
    """Rotate the mesh of *plane* once and return what it took."""
    directory.mkdir()
    vault = new_mesh(openbao, directory / "vault", trust_domain=plane.mesh, lifetimes=(AUTHORITY_LIFE,), mesh_root=True)
    # No overlap beyond what acknowledgement takes: the overlap is a person's choice and would only be added.
    policy = MeshPolicy(longest_leaf=LEAF, minimum_overlap="0s")
    installation = MeshInstallation(directory, vault, plane, Model.IDENTITY, policy)
    installation.start()
    try:
        adopted = installation.adopt("--accept-interruption", "a bench")
        assert adopted.returncode == 0, adopted.stdout + adopted.stderr
        cpu, began = cpu_of(installation.daemon.pid), time.perf_counter()
        done = installation.command(
            "rotate-now", installation.domain, "--reason", "a bench", "--wait", within=timedelta(minutes=10)
        )
        wall, spent = time.perf_counter() - began, cpu_of(installation.daemon.pid) - cpu
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        installation.daemon.stop()
    return [
        Figure(bench="mesh", name=f"rotate-now --wait, {what}", value=wall, unit="seconds"),
        Figure(bench="mesh", name=f"rotator's CPU for it, {what}", value=spent, unit="CPU seconds"),
    ]


@contextmanager
def envoys(directory: Path, count: int) -> Iterator[ControlPlaneUnderTest]:
    """Give a mesh with *count* real Envoys."""
    services = tuple(f"service-{number}" for number in range(count))
    with StandInPlane(directory, mesh=new_mesh_name(), version=VERSION, services=services) as plane:
        begin(plane, Model.IDENTITY, Beginning.PLAIN, leaf=LEAF, now=SystemClock().now())
        for name in services:
            plane.start_proxy(name)
        yield plane


@contextmanager
def virtual(directory: Path, count: int) -> Iterator[ControlPlaneUnderTest]:
    """Give a mesh with *count* proxies without Envoys, in real time."""
    directory.mkdir(parents=True)
    with StandIn(version=VERSION, real_time=True) as standin:
        plane = _Virtual(standin, directory / "token", new_mesh_name())
        begin(plane, Model.IDENTITY, Beginning.PLAIN, leaf=LEAF, now=SystemClock().now())
        for number in range(count):
            # Ten services: what a proxy is told of the others is not what is measured.
            standin.add_proxy(f"proxy-{number}", service=f"service-{number % 10}", mesh=plane.mesh)
        yield plane


class _Virtual:
    """A stand-in of this process (`ControlPlaneUnderTest`)."""

    def __init__(self, standin: StandIn, token_file: Path, mesh: str) -> None:
        self._standin = standin
        self._mesh = mesh
        self.token_file: Path | None = token_file
        token_file.touch(mode=0o600)
        token_file.write_text(standin.admin_token, encoding="ascii")

    @property
    def product(self) -> str:
        """Return what it stands in for."""
        return f"stand-in for Kuma {VERSION}, without Envoys"

    @property
    def url(self) -> str:
        """Return its HTTP API."""
        return self._standin.url

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        return self._mesh

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Write one resource; nothing else is needed here."""
        assert (method, body is not None) == ("PUT", True), path
        self._standin.apply(body or {})
        return {}

    def restart(self) -> None:
        """Kill it and start it anew."""
        self._standin.restart()
