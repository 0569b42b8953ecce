"""
One stand-in control plane as a process of its own, in real time, until it is told to end.

    python -m tests.fakes.kuma --version 2.14.3 --port 5681 --store FILE --token-file FILE

Rules that must stay true here:

- It may be killed at any moment: what was stored is whole, everything else is forgotten.
- An administrator's token is read from a file, never from the command line.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import traceback
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.timings import Timings


def _end(failed: threading.ExceptHookArgs) -> None:
    """End the process with what a thread raised."""
    traceback.print_exception(failed.exc_value)
    os._exit(os.EX_SOFTWARE)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.kuma", description=__doc__)
    parser.add_argument("--version", default="2.14.3")
    parser.add_argument("--environment", default="universal", choices=["universal", "kubernetes"])
    parser.add_argument("--zones", default="", help="names with commas between: a Global one with these zones")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", type=Path, help="file that outlives the process (default: memory)")
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--dataplane-tokens", action="store_true", help="proxies show a token when they connect")
    parser.add_argument("--silence", type=float, help="seconds of silence after which a proxy counts as gone")
    parser.add_argument("--quick", action="store_true", help="every delay a fifth of Kuma's own")
    chosen = parser.parse_args()
    timings = Timings.quick() if chosen.quick else Timings()
    if chosen.silence is not None:
        timings = replace(timings, silence=timedelta(seconds=chosen.silence))
    # Time that stands still would look like a control plane that is slow.
    threading.excepthook = _end
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    zones = tuple(filter(None, chosen.zones.split(",")))
    with StandIn(
        version=chosen.version,
        environment=chosen.environment,
        mode="global" if zones else "zone",
        zones=zones,
        port=chosen.port,
        store_file=chosen.store,
        admin_token=chosen.token_file.read_text(encoding="ascii").strip(),
        timings=timings,
        real_time=True,
        authenticates_proxies=chosen.dataplane_tokens,
    ):
        stop.wait()


main()
