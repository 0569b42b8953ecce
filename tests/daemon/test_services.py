"""Parts of the daemon start in order and stop the other way round, whatever one of them does."""

from __future__ import annotations

import pytest

from rotator.daemon.services import Services
from rotator.errors import Unavailable
from rotator.settings import Settings


class Part:
    """Writes down what is asked of it; fails at *fails*."""

    def __init__(self, name: str, told: list[str], fails: str = "") -> None:
        self.name = name
        self._told = told
        self._fails = fails

    def start(self) -> None:
        """Start."""
        self._do("start")

    def stop(self) -> None:
        """Stop."""
        self._do("stop")

    def reload(self, settings: Settings) -> None:
        """Reload."""
        del settings
        self._do("reload")

    def _do(self, what: str) -> None:
        self._told.append(f"{what} {self.name}")
        if what == self._fails:
            raise Unavailable(f"{self.name} does not {what}")


def test_what_started_last_stops_first() -> None:
    """The order of stopping is the reverse of starting, once."""
    told: list[str] = []
    services = Services([Part("a", told), Part("b", told)])
    services.start()
    services.stop()
    services.stop()
    assert ["start a", "start b", "stop b", "stop a"] == told


def test_a_part_that_cannot_start_takes_the_others_with_it() -> None:
    """What had started is stopped, and the error is told."""
    told: list[str] = []
    services = Services([Part("a", told), Part("b", told, "start"), Part("c", told)])
    with pytest.raises(Unavailable, match="b does not start"):
        services.start()
    assert ["start a", "start b", "stop a"] == told


def test_a_part_that_cannot_stop_keeps_no_other_from_it() -> None:
    """Trouble while stopping is logged, and stopping goes on."""
    told: list[str] = []
    services = Services([Part("a", told), Part("b", told, "stop")])
    services.start()
    services.stop()
    assert ["start a", "start b", "stop b", "stop a"] == told
