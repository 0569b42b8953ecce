"""
The naive way on the same stack: the CA's secret overwritten in place, under load, with what it costs.

Rules that must stay true here:

- An experiment, not a test of rotator: it counts, and claims no more than that something fails.
- The same proxies, the same load and leaves of the same life as with rotator, so that the two counts compare.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

from rotator.clock import SystemClock
from rotator.durations import parse_duration
from rotator.embedded.process import wait_until
from tests.stack.kuma.beginnings import begin, put_authority
from tests.stack.kuma.installation import PATIENCE
from tests.stack.kuma.load import AT_REST, Count, Load
from tests.stack.kuma.plane import Beginning, MeshUnderTest, Model

SPAN = 2.2
"""How long to look, in lives of a leaf: every leaf has been renewed by then, and every old one is gone."""


def overwritten_in_place(
    plane: MeshUnderTest,
    model: Model,
    *,
    directory: Path,
    apart: timedelta = timedelta(0),
    leaf: str = "60s",
    proxies: int = 5,
    rate: float = 120.0,
) -> Count:
    """
    Overwrite the CA's secrets under load on a running *plane*; return what became of the requests since.

    The key's secret comes first and the certificate's *apart* later: nothing, as a script does it, or the time that a
    person takes for two commands.
    """
    clock = SystemClock()
    begin(plane, model, Beginning.BY_HAND, leaf=leaf, now=clock.now())
    for number in range(proxies):
        plane.start_proxy(f"service-{number}")
    with Load(directory / "load.jsonl", rate=rate) as load:
        load.under(plane.outbounds())
        # Kuma lets proxies speak TLS only once it has been told that both sides can.
        wait_until(
            lambda: load.passes(AT_REST), within=PATIENCE, what=f"{AT_REST} requests in a row: {load.count().told()}"
        )
        before = load.count()
        put_authority(plane, clock.now(), lambda: _pass(clock, apart))
        _pass(clock, parse_duration(leaf) * SPAN)
        return load.count() - before


def _pass(clock: SystemClock, span: timedelta) -> None:
    """Let *span* pass: what happens in it is the experiment."""
    clock.wait(threading.Event(), span)
