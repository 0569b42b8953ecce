"""
A stand-in control plane for every test that wants one.

Loaded as a plugin by ``tests/conftest.py``.

Rules that must stay true here:

- `standin` is one in virtual time, with a mesh ``default`` and five proxies that nobody has given a certificate yet.
- `new_standin` is for whoever wants another version, environment or mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.fakes.kuma.standin import StandIn

PROXIES = ("web", "scheduler", "triggerer", "worker-1", "worker-2")

NewStandIn = Callable[..., StandIn]


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
