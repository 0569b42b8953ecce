"""
The worked example, played: real Envoys for every workload, a stand-in for the control plane, the real daemon.

Rules that must stay true here:

- Documents are those that are committed; what is expected is what the configuration says of every pair.
- While the mesh's CA or its tokens move, every pair is called over and over: a permitted call that fails, or a refused
  one that is answered, is a failure, and every call is counted.
"""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from rotator.clock import SystemClock
from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.store.sql import SQLStore
from tests.example.documents import ON_KUBERNETES, ON_MACHINES, with_provided_ca
from tests.example.led import Led
from tests.example.matrix import Matrix
from tests.example.scene import PATIENCE, Scene
from tests.stack.kuma.plane import Model

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.external, pytest.mark.timeout(900)]

# Between two rounds: the daemon, the control plane and twenty Envoys share the machine with the calls.
_PAUSE = timedelta(seconds=0.5)


class Watch:
    """Calls every pair over and over, from a thread of its own, while it is entered."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._stop = threading.Event()
        self._clock = SystemClock()
        self._thread = threading.Thread(target=self._run, name="watch")
        self.calls = 0
        self.rounds = 0
        self.wrong: list[str] = []

    def _run(self) -> None:
        while not self._clock.wait(self._stop, _PAUSE):
            tried = self._matrix.tried()
            self.calls += len(tried)
            self.rounds += 1
            self.wrong += [f"{self._clock.now()}: {each.in_words}" for each in tried if not each.is_right]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def told(self) -> str:
        """Return the figures."""
        return f"{self.calls} calls over {self.rounds} rounds of every pair, {len(self.wrong)} wrong"


def test_everybody_reaches_what_he_may_and_nothing_else_while_the_ca_moves(
    tmp_path: Path, openbao: OpenBaoServer
) -> None:
    """The whole matrix before, during and after a rotation of the mesh's CA: 0 wrong calls."""
    with Scene(ON_KUBERNETES, tmp_path) as scene:
        with Led(scene, openbao, tmp_path / "daemon") as led:
            scene.apply()
            matrix = scene.start()
            assert () == matrix.wrong()
            with Watch(matrix) as watch:
                led.wait_done(led.begin(scene.trust_domain))
            assert () == matrix.wrong()
        print(f"{scene.standin.version}, a CA rotation: {watch.told}")  # noqa: T201 -- figures
    assert [] == watch.wrong
    assert watch.rounds > 1
    assert [] == led.daemon.wrong()


def test_in_a_mesh_with_a_provided_ca_the_same(tmp_path: Path, openbao: OpenBaoServer) -> None:
    """The older form, of identities and of permissions: the whole matrix before, during and after a CA rotation."""
    example = with_provided_ca(ON_MACHINES, tmp_path)
    with Scene(example, tmp_path / "scene", version="2.14.3") as scene:
        with Led(scene, openbao, tmp_path / "daemon", model=Model.PROVIDED) as led:
            scene.apply()
            matrix = scene.start()
            wait_until(lambda: not matrix.wrong(), within=PATIENCE, what="the permissions to be in force")
            with Watch(matrix) as watch:
                led.wait_done(led.begin(scene.trust_domain))
            assert () == matrix.wrong()
        print(f"{scene.standin.version}, a CA rotation, provided: {watch.told}")  # noqa: T201 -- figures
    assert [] == watch.wrong
    assert watch.rounds > 1
    assert [] == led.daemon.wrong()


def test_on_machines_with_tokens_and_after_their_rotation_the_same(tmp_path: Path, openbao: OpenBaoServer) -> None:
    """
    On machines proxies connect with the tokens that the daemon issues and publishes, as the example's file says.

    Without permissions everybody is refused, with them the matrix is right; and so it is while the daemon rotates the
    signing key and with it every token, after new connections with these, and after the old key's end.
    The old key waits for the last token that needs it, whose proxy is let in with it until it reads another.
    """
    with Scene(ON_MACHINES, tmp_path, dataplane_tokens=True) as scene:
        with Led(scene, openbao, tmp_path / "daemon") as led:
            scene.apply(leaving_out="MeshTrafficPermission")
            matrix = scene.start(tokens=led.tokens)
            assert {"refused"} == {each.call.outcome.value for each in matrix.tried()}
            scene.apply()
            wait_until(lambda: not matrix.wrong(), within=PATIENCE, what="the permissions to be in force")
            assert set(led.shown()) == set(scene.machines.proxies)
            assert {1} == led.signed_by()
            last = min(led.shown())
            before = led.shown()[last]
            with Watch(matrix) as watch:
                led.rotate_tokens(scene, held=last)
                # Its Envoy goes on; whoever comes with the one before is let in no more.
                proxy = scene.machines.proxies[last]
                led.let_read(last, before)
                proxy.reconnect()
                led.wait(lambda: "signing key" in proxy.refusal, "the old token to be refused")
                led.let_read(last, None)
                led.wait(lambda: proxy.refusal == "", "the new token to be let in")
            assert {2} == led.signed_by()
            assert () == matrix.wrong()
            prefix = f"dataplane-token-signing-key-{scene.mesh}-"
            _, kept = scene.standin.call("GET", f"/meshes/{scene.mesh}/secrets")
            assert [f"{prefix}2"] == [each["name"] for each in kept["items"] if each["name"].startswith(prefix)]
        print(f"{scene.standin.version}, a rotation of tokens: {watch.told}")  # noqa: T201 -- figures
    assert [] == watch.wrong
    assert watch.rounds > 1
    assert [] == led.daemon.wrong()
    # Twenty tokens were revoked within seconds, and none took another off the list.
    with contextlib.closing(SQLStore(led.daemon.document["store"], environment="test")) as store:
        told = [each.event for each in records(store)]
    assert [] == [each for each in told if each.type is EventType.DRIFTED]
    assert len(scene.machines.proxies) == len([each for each in told if each.type is EventType.REVOKED])
