"""
A stand-in control plane for every test that wants one.

Loaded as a plugin by ``tests/conftest.py``.

Rules that must stay true here:

- `standin` is one in virtual time, with a mesh ``default`` and five proxies that nobody has given a certificate yet.
- `new_standin` is for whoever wants another version, environment or mode.
- `mesh_stack` is real: a control plane as a process of its own and five Envoys, in real time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.kuma.dataplane import DataPlane
from tests.fakes.kuma.permissions import everybody
from tests.fakes.kuma.process import StandInProcess
from tests.fakes.kuma.standin import StandIn

PROXIES = ("web", "scheduler", "triggerer", "worker-1", "worker-2")

NewStandIn = Callable[..., StandIn]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshStack:
    """A control plane and its data plane, both for real but for Kuma itself."""

    control_plane: StandInProcess
    data_plane: DataPlane


NewMeshStack = Callable[..., MeshStack]


@pytest.fixture
def new_mesh_stack(tmp_path: Path) -> Iterator[NewMeshStack]:
    """Return what starts a stack from `StandInProcess`'s own arguments, with a mesh ``default`` and five proxies."""
    with ExitStack() as started:

        def start(**arguments: object) -> MeshStack:
            control_plane = started.enter_context(StandInProcess(tmp_path / "cp", **arguments))  # type: ignore[arg-type]  # -- the process names them
            mesh = {"type": "Mesh", "name": "default", "meshServices": {"mode": "Exclusive"}}
            assert (201, {}) == control_plane.call("PUT", "/meshes/default", mesh)
            for permission in everybody("default", "airflow.test", major=int(control_plane.version[0])):
                path = f"/meshes/default/meshtrafficpermissions/{permission['name']}"
                assert (201, {}) == control_plane.call("PUT", path, permission)
            data_plane = started.enter_context(DataPlane(control_plane.url, tmp_path / "dp", PROXIES))
            for name in PROXIES:
                data_plane.start_proxy(name)
            return MeshStack(control_plane=control_plane, data_plane=data_plane)

        yield start


@pytest.fixture
def mesh_stack(new_mesh_stack: NewMeshStack) -> MeshStack:
    """Return a started stack of Kuma 2.14.3 with five Envoys, all in plaintext, every delay a fifth of Kuma's own."""
    return new_mesh_stack(quick=True)


@pytest.fixture
def new_standin() -> Iterator[NewStandIn]:
    """Return what starts a stand-in from `StandIn`'s own arguments; all are stopped at the end."""
    with ExitStack() as started:
        yield lambda **arguments: started.enter_context(StandIn(**arguments))


@pytest.fixture
def standin(new_standin: NewStandIn) -> StandIn:
    """Return a started stand-in of Kuma 2.14.3 with five proxies of five services, in virtual time."""
    return with_proxies(new_standin())


def with_proxies(standin: StandIn) -> StandIn:
    """Give *standin* a mesh and five proxies that speak plaintext so far."""
    standin.edit_mesh(meshServices={"mode": "Exclusive"})
    for name in PROXIES:
        standin.add_proxy(name)
    standin.run(3)
    return standin
