"""
Play the worked example and print who reached whom; exit 1 if somebody did, or did not, against the configuration.

    python -m tests.example [kubernetes|machines]

Rules that must stay true here:

- It says first what it is: a stand-in for Kuma with real Envoys.
- On machines the tokens are the real daemon's; on Kubernetes proxies need none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from rotator.embedded.openbao import OpenBaoServer
from tests.example.documents import ON_KUBERNETES, ON_MACHINES
from tests.example.led import Led
from tests.example.matrix import Matrix, Tried, table
from tests.example.scene import Scene

_EXAMPLES = {"kubernetes": ON_KUBERNETES, "machines": ON_MACHINES}


def main(name: str = "kubernetes", say: Callable[[str], object] = print) -> int:
    """Play it; return the exit code."""
    example = _EXAMPLES[name]
    with TemporaryDirectory(prefix="rotator-example-") as work, ExitStack() as running:
        scene = running.enter_context(Scene(example, Path(work), dataplane_tokens=example is ON_MACHINES))
        say(f"a stand-in for Kuma {scene.standin.version}, and a real Envoy for every workload")
        led = None
        if example is ON_MACHINES:
            led = running.enter_context(_led(scene, Path(work), running))
            say(f"rotator leads the mesh and has issued {len(led.shown())} tokens, one for each proxy")
        else:
            scene.give_identities()
        say(f"{scene.apply()} documents applied, as they stand below {example.rendered}")
        matrix = scene.start(tokens=led.tokens if led is not None else None)
        wrong = _shown(matrix, say)
        if led is not None:
            led.rotate_tokens(scene, held=next(iter(led.shown())))
            again = [each for each in matrix.tried() if not each.is_right]
            say(f"after a new signing key, new tokens and new connections with them: {len(again)} wrong")
            wrong += again
        for each in wrong:
            say(f"wrong: {each.in_words}")
    return 1 if wrong else 0


def _led(scene: Scene, work: Path, running: ExitStack) -> Led:
    """Return the daemon that leads the mesh, with an OpenBao of its own."""
    openbao = running.enter_context(OpenBaoServer(work / "openbao"))
    openbao.provision_corporate()
    return Led(scene, openbao, work / "daemon")


def _shown(matrix: Matrix, say: Callable[[str], object]) -> list[Tried]:
    """Call every pair once, say who reached whom, and return what is otherwise than the configuration says."""
    tried = matrix.tried()
    by_hostname = [each for each in tried if each.by_hostname]
    led = sum(each.allowed for each in by_hostname)
    allowed = sum(each.allowed for each in tried if not each.by_hostname)
    say("")
    say(table(tried))
    say("")
    say(f"{len(tried) - len(by_hostname)} pairs: {allowed} may call, every other one is refused")
    say(f"{len(by_hostname)} calls by hostname: {led} led to the caller's own environment, the others are refused")
    return [each for each in tried if not each.is_right]


if __name__ == "__main__":
    sys.exit(main(next(iter(sys.argv[1:]), "kubernetes")))
