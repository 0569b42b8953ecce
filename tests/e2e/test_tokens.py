"""
Tokens of a control plane in another process, kept by the real daemon: run out and renewed, revoked, their key rotated.

Rules that must stay true here:

- Real time, the daemon's own commands, its own files; whether a token lets in is asked of the control plane over HTTP
  with what a consumer would read.
- Nothing hangs on how fast the machine is: what has to happen is waited for, what must not is asked of the records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3

from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.store.sql import SQLStore
from tests.e2e.installation import DaemonInstallation
from tests.fakes.kuma.process import StandInProcess
from tests.fixtures_openbao import new_mesh

pytestmark = pytest.mark.external

PATIENCE = timedelta(seconds=120)
LOGIN, WEB, KEYS = "login", "web", "user-keys"


class TokenInstallation(DaemonInstallation):
    """One daemon that keeps a user's token, a proxy's token and the key of the former."""

    def __init__(self, directory: Path, server: OpenBaoServer, plane: StandInProcess) -> None:
        self.plane = plane
        vault = new_mesh(server, directory / "credentials", trust_domain="default")
        super().__init__(
            directory,
            vault,
            trust_domain={
                "model": "provided",
                "issuer": "corporate",
                "ca": {"lifetime": "6h"},
                "longest_leaf": "30m",
                "trust_deadline": {"after": "30s"},
                "mesh": {
                    "name": "default",
                    "control_plane": {"url": plane.url, "token_file": str(plane.token_file), "timeout": "2s"},
                },
            },
        )
        domain = str(vault.trust_domain)
        life: dict[str, Any] = {"trust_domain": domain, "lifetime": "20s", "revoke_after": "1s"}
        self.document["timing"]["retry_budget"] = "1s"
        self.document["tokens"] = {
            LOGIN: {
                **life,
                "user": {"name": "rotator", "groups": ["mesh-system:admin"]},
                "publish": [{"directory": str(directory / LOGIN)}],
            },
            WEB: {
                **life,
                "dataplane": {"name": "web", "tags": {"kuma.io/service": ["web"]}},
                "publish": [{"directory": str(directory / WEB)}],
            },
        }
        self.document["signing_keys"] = {
            KEYS: {
                "trust_domain": domain,
                "signs": "user",
                "rotate_every": "1d",
                "known_after": "2s",
                "others_live": "0s",
            }
        }
        self.write()

    def text(self, name: str = LOGIN) -> str:
        """Return the token as a consumer reads it, empty while there is none."""
        with contextlib.suppress(OSError):
            return (self.directory / name / "CURRENT" / "token").read_text()
        return ""

    def answer(self, token: str) -> int:
        """Return how the control plane answers *token* where administrators alone are let in; 0 if it does not."""
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            headers = {"Authorization": f"Bearer {token}"}
            return urllib3.request("GET", f"{self.plane.url}/global-secrets", headers=headers, retries=False).status
        return 0

    def wait(self, what: str, holds: Any) -> None:
        """Wait until *holds*."""
        wait_until(holds, within=PATIENCE, what=f"{what}: {self.status()}")

    def explained(self, name: str) -> str:
        """Return what ``rotator explain`` tells."""
        told = self.run("explain", name)
        assert 0 == told.returncode, told.stderr
        return told.stdout

    def row(self, name: str) -> Any:
        """Return the row of ``rotator --json status``."""
        status = self.status()
        assert status is not None
        return next(each for each in status["subjects"] if each["name"] == name)


@pytest.fixture
def installation(openbao: OpenBaoServer, tmp_path: Path) -> Iterator[TokenInstallation]:
    """Give a running daemon whose tokens are published."""
    with StandInProcess(tmp_path / "cp", quick=True) as plane:
        assert plane.call("PUT", "/meshes/default", {"type": "Mesh", "name": "default"})[0] == 201
        made = TokenInstallation(tmp_path, openbao, plane)
        made.start()
        try:
            made.wait("both tokens", lambda: made.text() and made.text(WEB))
            yield made
        finally:
            made.daemon.stop()


def test_a_token_runs_out_is_renewed_is_revoked_and_explained(installation: TokenInstallation) -> None:
    """The story of each is told by the ledger, and no token is in log, ledger or status."""
    here, seen = installation, []
    first = here.text()
    seen.append(first)
    assert 200 == here.answer(first)
    # Renewed before its end, and what it replaced is revoked: 401 with most of its life left.
    here.wait("the renewal", lambda: here.text() not in {"", first})
    seen.append(here.text())
    here.wait("the revocation", lambda: here.answer(first) == 401)
    assert 200 == here.answer(here.text())
    # Asked for by a person.
    before = here.text()
    asked = here.run("rotate-now", LOGIN, "--reason", "a test asks", "--wait")
    assert 0 == asked.returncode, asked.stdout + asked.stderr
    assert before != here.text()
    seen.append(here.text())
    # Driven to its end: the control plane is away for longer than it lives.
    here.plane.kill()
    last = here.text()
    here.wait("the alert", lambda: f"{LOGIN}/expired" in [each["key"] for each in (here.status() or {})["alerts"]])
    here.plane.start()
    assert 401 == here.answer(last)
    here.wait("the next token", lambda: here.text() != last and here.answer(here.text()) == 200)
    seen.append(here.text())
    assert ("token", "in_use") == (here.row(LOGIN)["kind"], here.row(LOGIN)["phase"])
    told = here.explained(LOGIN)
    for words in (
        "user token",
        "was put on the revocation list: nobody connects with it any more, and who is connected with it stays so",
        "asked for by",
        "it failed: unavailable because the control plane did not answer",
        "should have been replaced by now and was not",
        "expired at",
    ):
        assert words in told, told
    here.daemon.stop()
    everything = (here.directory / "rotator.log").read_text() + told
    with contextlib.closing(SQLStore(here.document["store"], environment="test")) as store:
        everything += "\n".join(str(each) for each in records(store))
    for token in seen:
        assert token not in everything
        assert token.rpartition(".")[2] not in everything
    assert 0 == here.reconciles()


def test_a_signing_key_is_rotated_by_a_persons_word(installation: TokenInstallation) -> None:
    """The new key signs, the token is issued anew, the old key goes last, and whoever reads the file is let in."""
    here = installation
    asked = here.run("--json", "rotate-now", KEYS, "--reason", "a test asks")
    assert 0 == asked.returncode, asked.stdout + asked.stderr

    def over() -> bool:
        # Read, then asked: between the two it may have been replaced, which says nothing.
        text = here.text()
        if here.answer(text) == 401:
            assert here.text() != text, here.explained(KEYS)
        return [2] == [each["serial"] for each in here.row(KEYS).get("signing_keys", [])]

    here.wait("the old key to go", over)
    here.wait("its end", lambda: here.row(KEYS)["open_rotation"] is None)
    assert 200 == here.answer(here.text())
    names = [each["name"] for each in here.plane.call("GET", "/global-secrets")[1]["items"]]
    assert ["user-token-signing-key-2"] == [each for each in names if each.startswith("user-token-signing-key")]
    told = here.explained(KEYS)
    for words in ("was added", "is known wherever tokens are checked", "was removed", "completed"):
        assert words in told, told
