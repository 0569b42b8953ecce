"""
The real daemon over a scene's control plane: it leads the mesh, and keeps the tokens that the example's file names.

Rules that must stay true here:

- Tokens and signing keys are those of the committed configuration; what changes is where the files lie, and for how
  long a machine gets to read a new one.
- Proxies read the very files that the daemon publishes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import yaml

from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.errors import RotatorError
from rotator.pki.token import parse_token
from rotator.ports import RotationState
from tests.example.scene import Scene
from tests.fixtures_openbao import new_mesh
from tests.stack.kuma.installation import AUTHORITY_LIFE, MeshInstallation
from tests.stack.kuma.plane import Json, Model

ROTATES_WITHIN = timedelta(minutes=8)
"""Twenty proxies on two cores take their time; nothing waits for the whole of it when all is well."""


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


class Led:
    """A daemon that leads a scene's mesh; as a context manager it starts, and is stopped afterwards."""

    def __init__(self, scene: Scene, openbao: OpenBaoServer, directory: Path, *, model: Model = Model.IDENTITY) -> None:
        """Write its configuration below *directory*; the mesh has a root of its own where *model* takes one."""
        vault = new_mesh(
            openbao,
            directory / "vault",
            trust_domain=scene.trust_domain,
            lifetimes=(AUTHORITY_LIFE,),
            mesh_root=model is Model.IDENTITY,
        )
        self.daemon = MeshInstallation(directory, vault, ScenePlane(scene), model)
        document = self.daemon.document
        if model is Model.IDENTITY:
            # The stand-in is one of machines, and its proxies are called as those of pods.
            document["trust_domains"][scene.trust_domain]["mesh"]["identity_path"] = scene.path
        said = yaml.safe_load(scene.example.configuration.read_text(encoding="utf-8"))
        self.tokens = directory / "tokens"
        """Where each proxy finds its token: a file that is called like it."""
        self.tokens.mkdir()
        self.keys = tuple(said.get("signing_keys", {}))
        document["tokens"] = {name: self._moved(name, token) for name, token in said.get("tokens", {}).items()}
        document["signing_keys"] = {
            name: {**keys, "known_after": "2s"} for name, keys in said.get("signing_keys", {}).items()
        }
        self.daemon.write()

    def _moved(self, name: str, token: dict[str, Any]) -> dict[str, Any]:
        self.let_read(name, None)
        return {**token, "publish": [{"directory": str(self._published(name))}], "revoke_after": "5s"}

    def _published(self, name: str) -> Path:
        return self.daemon.directory / "published" / name

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            self.daemon.start()
            started.callback(self.daemon.daemon.stop)
            # Every token is there before the first proxy comes with one.
            self.wait(lambda: all(self.shown().values()), "every token")
            done = self.daemon.adopt("--accept-interruption", "nobody calls anybody yet")
            assert 0 == done.returncode, done.stdout + done.stderr
            self._undo = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def shown(self) -> dict[str, str]:
        """Return each proxy's token as it reads it; empty while there is none."""
        found = dict.fromkeys(sorted(each.name for each in self.tokens.iterdir()), "")
        for name in found:
            with contextlib.suppress(OSError):
                found[name] = (self.tokens / name).read_text(encoding="ascii").strip()
        return found

    def let_read(self, proxy: str, text: str | None) -> None:
        """Let *proxy* read *text* from now on instead of what the daemon publishes for it; that again with None."""
        draft = self.tokens.with_name("draft")
        if text is None:
            draft.symlink_to(self._published(proxy) / "CURRENT" / "token")
        else:
            draft.write_text(text, encoding="ascii")
        draft.replace(self.tokens / proxy)

    def signed_by(self) -> set[int]:
        """Return the serials of the keys that have signed what proxies read now."""
        return {parse_token(token, source=name).key for name, token in self.shown().items()}

    def begin(self, subject: str) -> str:
        """Ask for a rotation of *subject* and return its id."""
        return self.daemon.rotate(subject)

    def wait_done(self, rotation: str) -> None:
        """Return when *rotation* is done."""

        def done() -> bool:
            with contextlib.suppress(RotatorError):
                return bool(self.daemon.client().progress(rotation)["state"] == RotationState.DONE.value)
            return False

        self.wait(done, "the rotation to end")

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until *holds*."""
        wait_until(holds, within=ROTATES_WITHIN, what=what, every=timedelta(seconds=0.5))

    def rotate_tokens(self, scene: Scene, *, held: str) -> None:
        """
        Rotate the keys that sign the tokens, and with them every token; *held* is not issued anew before all others.

        Proxies connect anew with what they read, once while the old key waits for *held*, and once after its end.
        """
        before = self.shown()
        self.said("pause", held, "--until", "1h", "--reason", "the example shows who is waited for")
        rotations = [self.begin(name) for name in self.keys]
        self.wait(lambda: self.waited_for() == {held}, "the old key to be needed by that one token alone")
        now = self.shown()
        assert {held} == {name for name, token in now.items() if token == before[name]}
        scene.machines.reconnect()
        assert {held} == self.waited_for()
        self.said("resume", held)
        for rotation in rotations:
            self.wait_done(rotation)
        scene.machines.reconnect()

    def waited_for(self) -> set[str]:
        """Return for whom the rotations of signing keys wait, as ``rotator status`` has it."""
        status = self.daemon.status()
        rows = status["subjects"] if status is not None else ()
        return {on for row in rows if row["name"] in self.keys for on in row["waiting_on"]}

    def said(self, *words: str) -> str:
        """Return what one of the operator's commands says."""
        done = self.daemon.command(*words)
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout
