"""
The control planes that one contract suite runs against.

Rules that must stay true here:

- A world gives meshes that nobody else uses, so tests need no order and no cleaning.
- Every world is asked the same; what one of them lacks is said by the world, not guessed by the test.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Protocol

from rotator.adapters.kuma.api import Endpoint
from rotator.adapters.kuma.control_plane import ControlPlane, Environment
from rotator.adapters.kuma.universal import connect
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn


class KumaWorld(Protocol):
    """Somewhere that meshes can be kept."""

    environment: Environment
    version: tuple[int, int, int]

    def plane(self) -> ControlPlane:
        """Return a mesh of its own, without CA and without proxies, at the control plane."""
        ...

    def again(self, plane: ControlPlane) -> ControlPlane:
        """Return the same mesh as another process would reach it."""
        ...

    def by_hand(self, plane: ControlPlane, name: str, value: bytes) -> str:
        """Keep a secret in the mesh as somebody else; return the name by which documents refer to it."""
        ...

    def start_proxy(self, plane: ControlPlane, name: str) -> None:
        """Start a proxy in the mesh and let it connect."""
        ...

    def stop_proxy(self, plane: ControlPlane, name: str) -> None:
        """Stop it; whether it goes on being listed is the environment's."""
        ...


class StandInWorld:
    """The HTTP API of the stand-in control plane."""

    environment = Environment.UNIVERSAL

    def __init__(self, version: str, cleanup: ExitStack) -> None:
        """Start a stand-in of *version*."""
        # Its time is ours at the beginning: certificates of the tests are made by the clock on the wall.
        self._standin = StandIn(clock=ManualClock(datetime.now(UTC)), version=version, local_is_admin=True)
        cleanup.enter_context(self._standin)
        self._endpoint = Endpoint(url=self._standin.url)
        self._numbers = itertools.count(1)
        self.version = self._standin.numbers

    def plane(self) -> ControlPlane:
        """Return a mesh of its own."""
        mesh = f"mesh-{next(self._numbers)}"
        self._standin.edit_mesh(mesh, meshServices={"mode": "Exclusive"})
        return connect(self._endpoint, mesh)

    def again(self, plane: ControlPlane) -> ControlPlane:
        """Return the same mesh over connections of its own."""
        return connect(self._endpoint, plane.mesh)

    def by_hand(self, plane: ControlPlane, name: str, value: bytes) -> str:
        """Keep a secret in the mesh as somebody else."""
        self._standin.keep_secret(name, value, mesh=plane.mesh)
        return name

    def start_proxy(self, plane: ControlPlane, name: str) -> None:
        """Start a proxy and let it connect."""
        self._standin.add_proxy(name, mesh=plane.mesh)
        self._standin.run(30)

    def stop_proxy(self, plane: ControlPlane, name: str) -> None:
        """Stop it; its Dataplane stays."""
        del plane
        self._standin.stop_proxy(name)
        self._standin.run(30)
