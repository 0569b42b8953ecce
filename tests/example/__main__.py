"""
Play the worked example and print who reached whom; exit 1 if somebody did, or did not, against the configuration.

    python -m tests.example [kubernetes|machines]

Rules that must stay true here:

- It says first what it is: a stand-in for Kuma with real Envoys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.example.documents import ON_KUBERNETES, ON_MACHINES
from tests.example.matrix import table
from tests.example.scene import Scene

_EXAMPLES = {"kubernetes": ON_KUBERNETES, "machines": ON_MACHINES}


def main(name: str = "kubernetes", say: Callable[[str], object] = print) -> int:
    """Play it; return the exit code."""
    with TemporaryDirectory(prefix="rotator-example-") as work, Scene(_EXAMPLES[name], Path(work)) as scene:
        say(f"a stand-in for Kuma {scene.standin.version}, and a real Envoy for every workload")
        scene.give_identities()
        say(f"{scene.apply()} documents applied, as they stand below {scene.example.rendered}")
        tried = scene.start().tried()
        say("")
        say(table(tried))
        wrong = [each for each in tried if not each.is_right]
        by_hostname = [each for each in tried if each.by_hostname]
        led = sum(each.allowed for each in by_hostname)
        allowed = sum(each.allowed for each in tried if not each.by_hostname)
        say("")
        say(f"{len(tried) - len(by_hostname)} pairs: {allowed} may call, every other one is refused")
        say(f"{len(by_hostname)} calls by hostname: {led} led to the caller's own environment, the others are refused")
        for each in wrong:
            say(f"wrong: {each.in_words}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(next(iter(sys.argv[1:]), "kubernetes")))
