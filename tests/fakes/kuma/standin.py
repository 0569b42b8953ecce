"""
The stand-in as a whole: control plane, API, and proxies without Envoys that a test can stop, freeze and compare.

Rules that must stay true here:

- In virtual time nothing happens until `run` lets it, or a request to the API comes after the clock has moved: then
  everything that was due meanwhile happens first, in its order.
- A control plane that comes back has forgotten what it gave to whom; its proxies connect again and get all afresh.
- Whatever a test changes by `apply` or `keep_secret` passes the same admission as a request.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rotator.clock import SystemClock
from rotator.ports import Clock
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.connections import BEATS, ProxySilent
from tests.fakes.kuma.desk import NESTED, Desk
from tests.fakes.kuma.federation import name_on_global, synchronize
from tests.fakes.kuma.fleet import VirtualFleet
from tests.fakes.kuma.http_api import API, Answer, Faults, HTTPServer
from tests.fakes.kuma.plane import ServingPlane
from tests.fakes.kuma.store import DATAPLANE, MESH, SECRET, ZONE, Json, MemoryStore, Resource, Store
from tests.fakes.kuma.streams import stream_answer
from tests.fakes.kuma.timings import Timings
from tests.fakes.kuma.tokens import TokenRefused, TokenServer, tags_of_dataplane

UNIVERSAL = "universal"
KUBERNETES = "kubernetes"

# So much is lived through beat by beat at each end of a longer time; what lies between in so many steps.
_FINE = timedelta(seconds=20)
_COARSE_STEPS = 100


class _PlaneClock:
    """The clock of the control plane, which may lag behind the test's while it catches up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.moment: datetime = clock.now()

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wait(self, event: threading.Event, timeout: timedelta) -> bool:
        return self._clock.wait(event, timeout)


class StandIn(VirtualFleet):
    """
    A control plane with its API, and proxies.

    As a context manager it starts and stops; `url` and `admin_token` are what a client needs.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        version: str = "2.14.3",
        environment: str = UNIVERSAL,
        mode: str = "zone",
        zone: str = "default",
        zones: tuple[str, ...] = (),
        timings: Timings | None = None,
        store: Store | None = None,
        store_file: Path | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        admin_token: str | None = None,
        local_is_admin: bool = False,
        real_time: bool = False,
        forgets_certificates: bool = False,
        unified_names: bool = False,
        authenticates_proxies: bool = False,
    ) -> None:
        """
        Describe it without starting it.

        Args:
            clock: Virtual time unless told otherwise; ignored with *real_time*.
            version: Of Kuma, as its index shows it.
            environment: ``universal`` or ``kubernetes``; in the latter its HTTP API changes nothing.
            mode: ``zone`` or ``global``.
            zone: Its own name, where it is a zone's.
            zones: The zones of a Global one.
            timings: Kuma's own without.
            store: Where resources live; in memory without, and in *store_file* if that is given.
            store_file: Outlives the process.
            port: Of the API; a free one without.
            tls: Speaks TLS by it.
            admin_token: A random one without.
            local_is_admin: Whoever sends no token is an administrator.
            real_time: A thread lets time pass.
            forgets_certificates: Proxies that leave lose the certificate's end from their insight: nobody has seen
                which of the two a released control plane does (it cleans up while it writes).
            unified_names: Its proxies know the secrets of ``Mesh.mtls`` by the newer names.
            authenticates_proxies: Data planes of other processes open their streams with a dataplane token, which is
                looked at then and never again while the stream stays; virtual proxies need none.
        """
        self.version = version
        self.environment = environment
        self.mode = mode
        self.timings = timings or Timings()
        super().__init__(SystemClock() if real_time else clock or ManualClock())
        self.admin_token = admin_token or secrets.token_urlsafe(16)
        self.viewer_token = secrets.token_urlsafe(16)
        self.is_up = False
        self.reloads_tokens = True
        self.says_read_only = False
        """Its proxies read their token's file again at each new connection."""
        self.after_tick: Callable[[], None] | None = None
        """Called at every beat, to look at what is true only for a moment."""
        self._plane_clock = None if real_time else _PlaneClock(self.clock)
        self._ours: Clock = self._plane_clock or self.clock
        self._local_is_admin = local_is_admin
        self._forgets_certificates = forgets_certificates
        self._unified_names = unified_names
        self._authenticates_proxies = authenticates_proxies
        self._tls = tls
        self._port = port
        self._own_store = store is None
        self.store: Store = store or MemoryStore(store_file)
        self._zone_names = zones if mode == "global" else (zone,)
        self._zone_stores: dict[str, Store] = {}
        if mode == "global":
            files = {name: store_file and store_file.with_name(f"{store_file.stem}-{name}.json") for name in zones}
            self._zone_stores = {name: MemoryStore(file) for name, file in files.items()}
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._server: HTTPServer | None = None
        self._next_sync = self._ours.now()
        self._faults = Faults()
        self._build()

    # --- life -------------------------------------------------------------------------------------------------------

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Return the version as numbers."""
        major, minor, patch = self.version.partition("-")[0].split(".")
        return int(major), int(minor), int(patch)

    @property
    def url(self) -> str:
        """Return the API's address; it stays the same over restarts."""
        assert self._server is not None, "the stand-in has not been started"
        return self._server.url

    @property
    def faults(self) -> Faults:
        """Return what is wrong with the API; a test changes it in place."""
        return self._faults

    @property
    def plane(self) -> ServingPlane:
        """Return the one control plane that serves proxies, where there is one."""
        (plane,) = self.planes.values()
        return plane

    def up(self) -> None:
        """Start, or come back: with what the store holds and nothing else remembered."""
        with self._lock:
            self._server = HTTPServer(self._api(), port=self._port, tls=self._tls, streams=self._streams)
            self._port = self._server.port
            self._server.start()
            self.is_up = True

    def down(self) -> None:
        """Go away as a crash would: streams are cut, insights stay as they were written last."""
        if self._server is not None and self.is_up:
            self._server.stop()
        with self._lock:
            self.is_up = False
            for proxy in self.proxies.values():
                proxy.connection = None
            self._build()

    def restart(self, *, with_memory: bool = True) -> None:
        """Go away and come back; without its memory everything that was stored is gone, meshes and secrets too."""
        self.down()
        with self._lock:
            if not with_memory:
                assert self._own_store, "a store of somebody else's keeps its memory"
                self.store = MemoryStore()
                self._zone_stores = {name: MemoryStore() for name in self._zone_stores}
            self._build()
        self.up()

    def __enter__(self) -> Self:
        self.up()
        if self._plane_clock is None:
            self._ticker = threading.Thread(target=self._let_time_pass, name="stand-in-time")
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
        self.down()

    def _build(self) -> None:
        """Make control planes that remember nothing."""
        self.instance = f"stand-in-{uuid.uuid4().hex[:4]}"
        self.planes = {
            name: ServingPlane(
                self._zone_stores.get(name, self.store),
                self._ours,
                timings=self.timings,
                version=self.numbers,
                environment=self.environment,
                zone=name,
                forgets_certificates=self._forgets_certificates,
                unified_names=self._unified_names,
            )
            for name in self._zone_names
        }
        for plane in self.planes.values():
            plane.neighbours = tuple(other for other in self.planes.values() if other is not plane)
        labels = {"kuma.io/env": self.environment, "kuma.io/origin": "global"}
        if self.mode != "global":
            labels = dict(self.plane.labels)
        self.desk = Desk(self.store, self._ours, major=self.numbers[0], labels=labels)
        self.tokens = TokenServer(self.store, self._ours, major=self.numbers[0])
        for name in self._zone_stores:
            now = self._ours.now()
            zone = Resource(type=ZONE, mesh="", name=name, spec={"enabled": True}, created_at=now, modified_at=now)
            if self.store.get(*zone.key) is None:
                self.store.put(zone)

    def _api(self) -> API:
        read_only = frozenset({DATAPLANE}) if self.mode == "global" else frozenset()
        if self.environment == KUBERNETES:
            read_only = frozenset({DATAPLANE, MESH, SECRET, "GlobalSecret", *NESTED})
        api = _CatchingUp(
            self.desk,
            index=self._index,
            configuration=self._configuration,
            ask=self._ask,
            intended=self._intended,
            admin_token=self.admin_token,
            viewer_token=self.viewer_token,
            local_is_admin=self._local_is_admin,
            read_only=read_only,
            lock=self._lock,
            tokens=self.tokens,
        )
        api.faults = self._faults
        api.before = self.catch_up
        return api

    def _index(self) -> Json:
        return {
            "hostname": "stand-in",
            "tagline": "Kuma",
            "product": "Kuma",
            "version": self.version,
            "instanceId": self.instance,
            "clusterId": "00000000-0000-4000-8000-000000000000",
            "gui": "The gui is available at /gui",
            "basedOnKuma": "",
        }

    def _configuration(self) -> Json:
        zone: Json = {} if self.mode == "global" else {"name": self._zone_names[0], "globalAddress": ""}
        return {
            "environment": self.environment,
            "mode": self.mode,
            "multizone": {"zone": zone},
            "apiServer": {"readOnly": self.says_read_only},
            "dpServer": {"authn": {"enableReloadableTokens": self.reloads_tokens}},
            "store": {"type": "kubernetes" if self.environment == KUBERNETES else "memory"},
        }

    # --- time -------------------------------------------------------------------------------------------------------

    def run(self, duration: timedelta | float) -> None:
        """Let *duration* (seconds, if a number) pass in virtual time, and everything happen that is due in it."""
        by = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        assert isinstance(self.clock, ManualClock), "time passes by itself"
        self.clock.advance(by)
        self.catch_up()

    def catch_up(self) -> None:
        """Let everything happen that was due until now."""
        with self._lock:
            if self._plane_clock is None or not self.is_up:
                return
            for moment in self._moments(self._plane_clock.moment, self.clock.now()):
                self._plane_clock.moment = moment
                self.tick()

    def tick(self) -> None:
        """Do everything that is due at this moment."""
        with self._lock:
            if not self.is_up:
                return
            self._connect()
            if self._zone_stores and self._ours.now() >= self._next_sync:
                self._next_sync = self._ours.now() + self.timings.sync
                synchronize(self.store, self.planes)
            for plane in self.planes.values():
                plane.tick()
            self._deliver()
            if self.after_tick is not None:
                self.after_tick()

    def _moments(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the moments at which something may be due, the last one included."""
        step = self.timings.watchdog / BEATS
        coarse = max(step, (until - since - 2 * _FINE) / _COARSE_STEPS)
        moment = since
        while moment < until:
            middle = since + _FINE <= moment < until - _FINE - coarse
            moment = min(moment + (coarse if middle else step), until)
            yield moment
        if since == until:
            yield until

    def _let_time_pass(self) -> None:
        while not self.clock.wait(self._stop, self.timings.watchdog / BEATS):
            self.tick()

    # --- what somebody else does ------------------------------------------------------------------------------------

    def apply(self, body: Mapping[str, Any]) -> None:
        """Write a resource as it reads in YAML, as somebody else. Raises `Invalid` if it is refused."""
        document = dict(body)
        with self._lock:
            self.catch_up()
            self.desk.write(document["type"], document.get("mesh", ""), document["name"], document)

    def edit_mesh(self, name: str = "default", **parts: Any) -> None:
        """Replace parts of a mesh, or create it; None removes a part."""
        kept = self.store.get(MESH, "", name)
        spec = {**(kept.spec if kept is not None else {}), **parts}
        self.apply({"type": MESH, "name": name, **{part: said for part, said in spec.items() if said is not None}})

    def keep_secret(self, name: str, content: bytes, *, mesh: str = "default") -> None:
        """Create or overwrite a secret, as somebody else."""
        self.apply({"type": SECRET, "mesh": mesh, "name": name, "data": base64.b64encode(content).decode()})

    def secret(self, name: str, *, mesh: str = "default") -> bytes | None:
        """Return what a secret holds, None if it is absent."""
        found = self.store.get(SECRET, mesh, name)
        return None if found is None else base64.b64decode(found.spec["data"])

    def document(self, kind: str, name: str, *, mesh: str = "default") -> Json | None:
        """Return a resource as the API shows it, None if it is absent."""
        found = self.store.get(kind, "" if kind == MESH else mesh, name)
        return None if found is None else self.desk.shown(found)

    def delete(self, kind: str, name: str, *, mesh: str = "default") -> bool:
        """Delete a resource, as somebody else. Raises `Invalid` if it is in use."""
        with self._lock:
            self.catch_up()
            return self.desk.delete(kind, "" if kind == MESH else mesh, name)

    # --- what the API asks for ----------------------------------------------------------------------------------------

    def _ask(self, mesh: str, name: str, what: str) -> bytes:
        plane, there = self._serving(mesh, name)
        return plane.ask(mesh, there, what)

    def _intended(self, mesh: str, name: str) -> Json:
        plane, there = self._serving(mesh, name)
        return plane.intended(mesh, there)

    def _serving(self, mesh: str, name: str) -> tuple[ServingPlane, str]:
        """Return who serves a proxy, and what it is called there. Raises `ProxySilent`."""
        if not self._zone_stores:
            return self.plane, name
        for zone, plane in self.planes.items():
            for dataplane in plane.store.list(DATAPLANE, mesh):
                if name_on_global(dataplane, zone) == name:
                    return plane, dataplane.name
        raise ProxySilent(f"{name} is in no zone")

    def _streams(self, path: str, body: Json) -> Answer | None:
        """Answer a data plane of another process, and whoever wants the API to misbehave."""
        if path == "faults":
            self._faults.delay = timedelta(seconds=body.get("delay", 0))
            self._faults.statuses[:] = [503] * int(body.get("failing", 0))
            self._faults.lost_replies = int(body.get("lost", 0))
            return Answer(200, b"{}")
        if path == "connect" and self._authenticates_proxies:
            try:
                self.tokens.admit_dataplane(
                    body.get("token", ""),
                    mesh=body["mesh"],
                    name=body["name"],
                    tags=tags_of_dataplane(body["dataplane"]),
                    workload=body["labels"].get("kuma.io/workload", ""),
                )
            except TokenRefused as e:
                return Answer(200, json.dumps({"refused": f"authentication failed: {e}"}).encode())
        answer = stream_answer(self.planes, path, body)
        return None if answer is None else Answer(200, json.dumps(answer).encode())


class _CatchingUp(API):
    """The API that lets everything happen first that was due before a request."""

    before: Any = None

    def answer(self, method: str, target: str, token: str, body: bytes) -> Answer:
        """Return the answer to one request."""
        self.before()
        return super().answer(method, target, token, body)
