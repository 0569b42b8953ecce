"""
`make bench`: ratios, not times.

    python -m tests.bench [NAME...] [--seconds N] [--output FILE]

Rules that must stay true here:

- Every bench runs on real parts and is thrown away afterwards; nothing of it stays but the output file.
- Exit 0: every bench ran (an aim that is missed is shown, not failed: machines differ). Exit 2: a tool is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import fleet, issuing, memory, mesh, rolls, secrets, watch
from tests.bench.figures import Figure, as_json, show
from tests.bench.raw import Missing

Bench = Callable[[Path, float], list[Figure]]

BENCHES: dict[str, Bench] = {
    "issuing": issuing.bench,
    "fleet": fleet.bench,
    "memory": memory.bench,
    "mesh": mesh.bench,
    "rolls": rolls.bench,
    "secrets": secrets.bench,
    "watch": watch.bench,
}


def main() -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each rate is measured (default: 10)")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="default: bench.json")
    wanted = parser.parse_args()
    if unknown := set(wanted.names) - set(BENCHES):
        parser.error(f"no bench is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    figures: list[Figure] = []
    missing: list[str] = []
    for name in wanted.names or BENCHES:
        with tempfile.TemporaryDirectory(prefix=f"rotator-bench-{name}-") as directory:
            try:
                figures += BENCHES[name](Path(directory), wanted.seconds)
            except Missing as e:
                missing.append(f"{name}: {e}")
    show(figures)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    wanted.output.write_text(json.dumps({**machine, "figures": as_json(figures)}, indent=2) + "\n", encoding="utf-8")
    print(f"written to {wanted.output}")
    for line in missing:
        print(line, file=sys.stderr)
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
