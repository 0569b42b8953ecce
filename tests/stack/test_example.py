"""
The worked example, played: real Envoys for every workload, a stand-in for the control plane, the real daemon.

Rules that must stay true here:

- Documents are those that are committed; what is expected is what the configuration says of every pair.
- While the mesh's CA moves, every pair is called over and over: a permitted call that fails, or a refused one that is
  answered, is a failure, and every call is counted.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from rotator.clock import SystemClock
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.errors import RotatorError
from rotator.ports import RotationState
from tests.example.documents import ON_KUBERNETES, ON_MACHINES
from tests.example.matrix import Matrix
from tests.example.scene import PATIENCE, Scene
from tests.fixtures_openbao import new_mesh
from tests.stack.kuma.installation import AUTHORITY_LIFE, MeshInstallation
from tests.stack.kuma.plane import Json, Model

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.external, pytest.mark.timeout(900)]

# Between two rounds: the daemon, the control plane and twenty Envoys share the machine with the calls.
_PAUSE = timedelta(seconds=0.5)


class ScenePlane:
    """The control plane of a scene as the daemon's tests see one. Implements `ControlPlaneUnderTest`."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    @property
    def product(self) -> str:
        """Return what it stands in for."""
        return f"stand-in for Kuma {self._scene.standin.version}"

    @property
    def url(self) -> str:
        """Return its HTTP API."""
        return self._scene.standin.url

    @property
    def token_file(self) -> Path | None:
        """Return the file with an administrator's token."""
        return self._scene.standin.token_file

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        return self._scene.mesh

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Fail: nobody else changes this mesh."""
        raise AssertionError(f"nobody calls {method} {path} with {body}")

    def restart(self) -> None:
        """Fail: it keeps nothing that it could come back with."""
        raise AssertionError("this control plane keeps nothing")


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


def led(scene: Scene, openbao: OpenBaoServer, directory: Path) -> MeshInstallation:
    """Return a daemon that leads the scene's mesh, started and with the mesh taken over."""
    vault = new_mesh(
        openbao, directory / "vault", trust_domain=scene.trust_domain, lifetimes=(AUTHORITY_LIFE,), mesh_root=True
    )
    daemon = MeshInstallation(directory, vault, ScenePlane(scene), Model.IDENTITY)
    # The stand-in is one of machines, and its proxies are called as those of pods.
    daemon.document["trust_domains"][scene.trust_domain]["mesh"]["identity_path"] = scene.path
    daemon.write()
    daemon.start()
    done = daemon.adopt("--accept-interruption", "nobody calls anybody yet")
    assert 0 == done.returncode, done.stdout + done.stderr
    return daemon


def rotated(daemon: MeshInstallation) -> None:
    """Rotate the CA, and return when that is done: twenty proxies on two cores take their time."""
    rotation = daemon.rotate(daemon.domain)

    def done() -> bool:
        with contextlib.suppress(RotatorError):
            return bool(daemon.client().progress(rotation)["state"] == RotationState.DONE.value)
        return False

    wait_until(done, within=timedelta(minutes=8), what="the rotation to end", every=timedelta(seconds=0.5))


def test_everybody_reaches_what_he_may_and_nothing_else_while_the_ca_moves(
    tmp_path: Path, openbao: OpenBaoServer
) -> None:
    """The whole matrix before, during and after a rotation of the mesh's CA: 0 wrong calls."""
    with Scene(ON_KUBERNETES, tmp_path) as scene:
        daemon = led(scene, openbao, tmp_path / "daemon")
        try:
            scene.apply()
            matrix = scene.start()
            assert () == matrix.wrong()
            with Watch(matrix) as watch:
                rotated(daemon)
            assert () == matrix.wrong()
        finally:
            daemon.daemon.stop()
        told = f"{watch.calls} calls over {watch.rounds} rounds of every pair, {len(watch.wrong)} wrong"
        print(f"{scene.standin.version}, a CA rotation: {told}")  # noqa: T201 -- figures
    assert [] == watch.wrong
    assert watch.rounds > 1
    assert [] == daemon.wrong()


def test_on_machines_with_tokens_and_after_their_rotation_the_same(tmp_path: Path) -> None:
    """
    On machines proxies connect with tokens; without permissions everybody is refused, with them the matrix is right.

    It is so, too, after a new signing key, new tokens, new connections with them, and the old key's end.
    """
    with Scene(ON_MACHINES, tmp_path, dataplane_tokens=True) as scene:
        scene.give_identities()
        scene.apply(leaving_out="MeshTrafficPermission")
        tokens = Tokens(scene, tmp_path / "tokens")
        tokens.issue()
        matrix = scene.start(tokens=tokens.directory)
        assert {"refused"} == {each.call.outcome.value for each in matrix.tried()}
        scene.apply()
        wait_until(lambda: not matrix.wrong(), within=PATIENCE, what="the permissions to be in force")
        with Watch(matrix) as watch:
            tokens.new_signing_key(2)
            tokens.issue()
            scene.machines.reconnect()
            tokens.remove_signing_key(1)
        assert () == matrix.wrong()
        told = f"{watch.calls} calls over {watch.rounds} rounds of every pair, {len(watch.wrong)} wrong"
        print(f"{scene.standin.version}, a rotation of tokens: {told}")  # noqa: T201 -- figures
    assert [] == watch.wrong


class Tokens:
    """Dataplane tokens of a scene's proxies, each in a file that is called like its proxy, and the keys behind them."""

    def __init__(self, scene: Scene, directory: Path) -> None:
        self.directory = directory
        self._scene = scene
        directory.mkdir()

    def issue(self) -> None:
        """Write a new token for every proxy."""
        for dataplane in self._scene.workloads.dataplanes():
            said = {"mesh": self._scene.mesh, "name": dataplane["name"], "validFor": "1h"}
            said["workload"] = dataplane["labels"]["kuma.io/workload"]
            (self.directory / dataplane["name"]).write_text(self._scene.standin.token(said), encoding="ascii")

    def new_signing_key(self, serial: int) -> None:
        """Add a key, which signs from now on."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        self._scene.standin.apply({**self._key(serial), "data": base64.b64encode(pem).decode()})

    def remove_signing_key(self, serial: int) -> None:
        """Remove a key: what it signed lets nobody in any more."""
        name = self._key(serial)["name"]
        status, answer = self._scene.standin.call("DELETE", f"/meshes/{self._scene.mesh}/secrets/{name}")
        assert 200 == status, answer

    def _key(self, serial: int) -> Json:
        mesh = self._scene.mesh
        return {"type": "Secret", "mesh": mesh, "name": f"dataplane-token-signing-key-{mesh}-{serial}"}
