"""
The meshes that one contract suite runs against.

Rules that must stay true here:

- A mesh is seen through the ports alone; a world adds what a test cannot do through them: proxies, and time.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import Protocol

from rotator.adapters.kuma.about import Model
from rotator.core.model import KeyType, TrustDomainName
from rotator.ports import Authorities as AuthoritiesPort
from rotator.ports import AuthorityOrder, Clock, ParentRevocation
from rotator.ports import Mesh as MeshPort
from tests.adapters.kuma_meshes import CA_LIFE, DOMAIN, LEAF, MeshWorld
from tests.fakes import mesh as fakes
from tests.fakes.clock import ManualClock
from tests.fakes.vault import FakeVault


class LedMesh(AuthoritiesPort, MeshPort, ParentRevocation, Protocol):
    """What a mesh domain's adapter is."""


class Contracted(Protocol):
    """One mesh without any CA, with two proxies, and the hands to move it."""

    mesh: LedMesh

    @property
    def clock(self) -> Clock:
        """Return the time that it lives in."""
        ...

    def settle(self) -> None:
        """Let everything happen that a write sets off, insights included."""
        ...

    def leave(self, name: str) -> None:
        """Let a proxy lose contact; it goes on being listed, with its leaf."""
        ...


PROXY = "web"
"""A proxy that every world has; it has another one at least."""


def order(number: int, announced: list[str] | None = None) -> AuthorityOrder:
    """Return the order of generation *number*."""
    return AuthorityOrder(
        trust_domain=DOMAIN,
        number=number,
        lifetime=CA_LIFE,
        key=KeyType.ECDSA_P256,
        rotation_id=f"{number:08x}-rotation",
        announce=(announced if announced is not None else []).append,
    )


class FakeContracted:
    """The fake that engine tests use."""

    def __init__(self, model: fakes.Model) -> None:
        """Start with two proxies."""
        self.clock = ManualClock()
        fake = fakes.FakeMesh(FakeVault(self.clock), TrustDomainName(DOMAIN), LEAF, model=model)
        self.mesh: LedMesh = fake
        self._fake = fake
        for name in (PROXY, "scheduler"):
            fake.join(name)

    def settle(self) -> None:
        """Let proxies follow."""
        self.clock.advance(timedelta(seconds=15))
        self._fake.settle()

    def leave(self, name: str) -> None:
        """Take a proxy out of contact."""
        self._fake.proxies[name].online = False


class StandInContracted:
    """An adapter at the stand-in control plane."""

    def __init__(self, version: str, model: Model, cleanup: ExitStack) -> None:
        """Start a stand-in of *version*."""
        self._world = cleanup.enter_context(MeshWorld(version=version, model=model))
        self.mesh: LedMesh = self._world.mesh
        self.clock: Clock = self._world.clock

    def settle(self) -> None:
        """Let caches, watchdogs, conditions and insights have their turn."""
        self._world.standin.run(15)

    def leave(self, name: str) -> None:
        """Cut a proxy off from its control plane."""
        self._world.standin.cut_proxy(name)
        self._world.standin.run(15)
