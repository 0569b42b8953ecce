"""
A stand-in control plane as a child process that a test may kill and start anew.

Rules that must stay true here:

- It comes back at the same address with what its store file holds, or with nothing.
- What somebody else does goes through its API, with an administrator's token.
"""

from __future__ import annotations

import json
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3

from rotator.embedded.process import LOOPBACK, ServerProcess, listening
from tests.fakes.kuma.http_api import COLLECTIONS
from tests.fakes.kuma.ports import QuietPorts
from tests.fakes.kuma.store import HOSTNAMES, Json

_ROOT = Path(__file__).parents[3]
_COLLECTIONS = {kind: collection for collection, kind in COLLECTIONS.items()}
_TIMEOUT = urllib3.Timeout(connect=2.0, read=10.0)


class StandInProcess:
    """One control plane; as a context manager it starts, and is gone afterwards."""

    def __init__(
        self,
        work: Path,
        *,
        version: str = "2.14.3",
        zones: tuple[str, ...] = (),
        quick: bool = False,
        dataplane_tokens: bool = False,
        forgets: bool = False,
        silence: timedelta | None = None,
    ) -> None:
        """
        Describe it.

        With *dataplane_tokens* its proxies show a token when they connect; one that *forgets* keeps nothing in a file,
        which costs a write of the whole at every change. *silence*: after so much of it a proxy counts as gone.
        """
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.version = version
        self.url = f"http://{LOOPBACK}:{QuietPorts().take()}"
        self.token_file = work / "admin-token"
        self.store_file = work / "store.json"
        self.token_file.write_text(secrets.token_urlsafe(16), encoding="ascii")
        self._http = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "tests.fakes.kuma", "--version", version, "--port", port]
        command += ["--token-file", str(self.token_file), "--zones", ",".join(zones)]
        command += [] if forgets else ["--store", str(self.store_file)]
        command += ["--silence", str(silence.total_seconds())] if silence is not None else []
        command += ["--quick"] if quick else []
        command += ["--dataplane-tokens"] if dataplane_tokens else []
        self._process = ServerProcess("stand-in", command, log=work / "stand-in.log", cwd=_ROOT)

    def start(self) -> None:
        """Start it; return once its API answers."""
        port = int(self.url.rpartition(":")[2])
        self._process.start(ready=lambda: listening(port))

    def kill(self) -> None:
        """Kill it as a crash would."""
        self._process.kill()
        self._http.clear()

    def restart(self, *, with_memory: bool = True) -> None:
        """Kill it and start it anew; without its memory everything that was stored is gone."""
        self.kill()
        if not with_memory:
            self.store_file.unlink(missing_ok=True)
        self.start()

    def call(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Return status and answer of one request, as an administrator."""
        headers = {"Authorization": f"Bearer {self.token_file.read_text(encoding='ascii')}"}
        answer = self._http.request(method, f"{self.url}{path}", json=body, headers=headers)
        return answer.status, json.loads(answer.data or b"{}")

    def apply(self, document: Json) -> None:
        """Write a resource as it reads in YAML, as somebody else; a refusal is an `AssertionError` with the answer."""
        kind, name = document["type"], document["name"]
        collection = "hostnamegenerators" if kind == HOSTNAMES else _COLLECTIONS.get(kind, "meshes")
        where = f"/meshes/{document['mesh']}" if "mesh" in document else ""
        status, answer = self.call("PUT", f"{where}/{collection}/{name}", document)
        assert status in {200, 201}, f"{kind} {name}: {status} {answer}"

    def token(self, said: Json) -> str:
        """Return a new dataplane token of the control plane's own."""
        headers = {"Authorization": f"Bearer {self.token_file.read_text(encoding='ascii')}"}
        answer = self._http.request("POST", f"{self.url}/tokens/dataplane", json=said, headers=headers)
        assert answer.status == 200, answer.data
        return answer.data.decode()

    def faults(self, **said: float) -> None:
        """Make the API slow or failing: ``delay`` in seconds, ``failing`` and ``lost`` as counts of requests."""
        self._http.request("POST", f"{self.url}/stand-in/faults", json=said)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()
        self._http.clear()
