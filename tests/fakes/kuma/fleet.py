"""
The virtual proxies of a stand-in: started, stopped, cut off, and compared pair by pair.

Rules that must stay true here:

- A proxy that is stopped has kept nothing; one that is cut off goes on with what it runs.
- Every pair of running proxies of different services is looked at, in both directions.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping

from rotator.ports import Clock
from tests.fakes.kuma.envoy_config import LOOPBACK, Ports
from tests.fakes.kuma.plane import ServingPlane
from tests.fakes.kuma.store import MESH
from tests.fakes.kuma.virtual import Encounter, Meeting, VirtualProxy, meet

# Nobody listens there: they only tell virtual proxies apart.
_FIRST_PORT = 20_000


class VirtualFleet:
    """Proxies without Envoys, and the control planes that serve them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.planes: dict[str, ServingPlane] = {}
        self.proxies: dict[str, VirtualProxy] = {}
        self._lock = threading.RLock()
        self._ports = itertools.count(_FIRST_PORT)

    def catch_up(self) -> None:
        """Let everything happen that was due until now."""
        raise NotImplementedError

    def add_proxy(
        self,
        name: str,
        *,
        service: str | None = None,
        mesh: str = "default",
        zone: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> VirtualProxy:
        """Start a proxy of *service* (its own name without); it connects as time passes."""
        with self._lock:
            inbound = next(self._ports)
            proxy = VirtualProxy(
                mesh,
                name,
                service or name,
                Ports(inbound=inbound, workload=next(self._ports)),
                zone=zone or next(iter(self.planes)),
                labels={"kuma.io/workload": service or name, **(labels or {})},
            )
            self.proxies[name] = proxy
            return proxy

    def stop_proxy(self, name: str, *, keeps_dataplane: bool = True) -> None:
        """Stop a proxy; its Dataplane stays as somebody's own (Universal) or goes (a pod's)."""
        with self._lock:
            self.catch_up()
            proxy = self.proxies[name]
            proxy.is_stopped = True
            if proxy.connection is not None:
                self.planes[proxy.zone].disconnect(proxy.connection, keeps_dataplane=keeps_dataplane)
            proxy.connection, proxy.runs = None, None

    def start_proxy(self, name: str) -> None:
        """Start a proxy that was stopped; it has kept nothing."""
        self.proxies[name].is_stopped = False

    def cut_proxy(self, name: str) -> None:
        """Let a proxy lose its control plane and go on with what it runs, until `start_proxy`."""
        with self._lock:
            proxy = self.proxies[name]
            proxy.is_stopped = True
            if proxy.connection is not None:
                self.planes[proxy.zone].disconnect(proxy.connection, keeps_dataplane=True)
            proxy.connection = None

    def encounter(self, client: str, server: str) -> Encounter:
        """Return what becomes of a new connection between two proxies now."""
        return meet(self.proxies[client], self.proxies[server], self.clock.now())

    def can_connect(self, client: str, server: str) -> bool:
        """Return whether a new connection between two proxies succeeds now, in plaintext too."""
        return self.encounter(client, server).meeting is not Meeting.REFUSED

    def encounters(self) -> dict[tuple[str, str], Encounter]:
        """Return what becomes of a new connection for every pair of running proxies of different services."""
        running = [name for name, proxy in self.proxies.items() if proxy.runs is not None]
        pairs = itertools.permutations(running, 2)
        return {
            (client, server): self.encounter(client, server)
            for client, server in pairs
            if self.proxies[client].service != self.proxies[server].service
        }

    def failures(self) -> dict[tuple[str, str], str]:
        """Return the pairs that cannot speak mutual TLS now, each with the reason."""
        return {
            pair: found.reason or found.meeting
            for pair, found in self.encounters().items()
            if found.meeting is not Meeting.MTLS
        }

    def _connect(self) -> None:
        for proxy in self.proxies.values():
            if proxy.connection is not None or proxy.is_stopped:
                continue
            if self.planes[proxy.zone].store.get(MESH, "", proxy.mesh) is None:
                continue
            tags = {"kuma.io/service": proxy.service, "kuma.io/protocol": "http"}
            inbound = {"port": proxy.ports.inbound, "servicePort": proxy.ports.workload, "tags": tags}
            dataplane = {"networking": {"address": LOOPBACK, "inbound": [inbound]}}
            proxy.connection = self.planes[proxy.zone].connect(
                proxy.mesh, proxy.name, dataplane=dataplane, labels=proxy.labels, admin=proxy.admin
            )

    def _deliver(self) -> None:
        """Let every proxy take what is outstanding for it and answer."""
        for proxy in self.proxies.values():
            if proxy.connection is None or proxy.is_frozen:
                continue
            plane = self.planes[proxy.zone]
            desired = plane.poll(proxy.connection, "", accepted=True)
            while desired is not None:
                proxy.runs = desired
                desired = plane.poll(proxy.connection, desired.version, accepted=True)
