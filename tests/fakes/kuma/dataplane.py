"""
A mesh of real Envoys, and the ways between them.

Rules that must stay true here:

- Every proxy that will ever take part is known from the start, so the ports of the ways to it never change.
- A proxy counts as started once everybody who takes configurations has a way to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rotator.embedded.process import wait_until
from tests.fakes.kuma.envoy_config import Ports
from tests.fakes.kuma.envoy_proxy import PATIENCE, EnvoyProxy
from tests.fakes.kuma.ports import QuietPorts


class DataPlane:
    """Several Envoys of one mesh, each in front of its own service, every one with a way to every other."""

    def __init__(
        self,
        control_plane: str,
        work: Path,
        names: Iterable[str],
        *,
        mesh: str = "default",
        zones: Sequence[str] = (),
    ) -> None:
        """
        Describe every proxy that will ever take part, without starting any: the ports of the ways to it are chosen now.

        They take turns in *zones*, if the control plane is a Global one.
        """
        names, free = tuple(names), QuietPorts()
        self.proxies = {
            name: EnvoyProxy(
                control_plane,
                work,
                name=name,
                service=name,
                ports=Ports(
                    inbound=free.take(),
                    workload=free.take(),
                    outbound={other: free.take() for other in names if other != name},
                ),
                admin_port=free.take(),
                mesh=mesh,
                zone=zones[number % len(zones)] if zones else "",
                labels={},
            )
            for number, name in enumerate(names)
        }

    def start_proxy(self, name: str) -> None:
        """Start *name*, new or stopped before; return once every running proxy has a way to it."""
        self.proxies[name].start()
        wait_until(lambda: self._is_known(name), within=PATIENCE, what=f"everybody to know {name}")

    def _is_known(self, name: str) -> bool:
        """Return whether the proxy and everybody who takes configurations have its address in use."""
        others = [self.proxies[other] for other in self.running() if other != name]
        return bool(self.proxies[name].answered) and all(each.is_frozen or each.knows(name) for each in others)

    def stop_proxy(self, name: str, *, keeps_dataplane: bool = True) -> None:
        """Stop *name*; its Dataplane stays offline or goes with it."""
        self.proxies[name].stop(keeps_dataplane=keeps_dataplane)

    def kill_proxy(self, name: str) -> None:
        """Kill *name* as a crash would."""
        self.proxies[name].kill()

    def freeze_proxy(self, name: str) -> None:
        """Let *name* acknowledge nothing from now on; it goes on serving with what it has."""
        self.proxies[name].is_frozen = True

    def thaw_proxy(self, name: str) -> None:
        """Let *name* take what it is given again."""
        self.proxies[name].is_frozen = False

    def running(self) -> tuple[str, ...]:
        """Return the proxies whose Envoys run."""
        return tuple(name for name, proxy in self.proxies.items() if proxy.alive)

    def outbounds(self) -> dict[str, int]:
        """Return ``client>server`` to the client's port for it, for every pair of running proxies."""
        running = self.running()
        return {
            f"{client}>{server}": self.proxies[client].ports.outbound[server]
            for client in running
            for server in running
            if client != server
        }

    def inbounds(self) -> dict[str, int]:
        """Return name to the port that takes mutual TLS, for every running proxy."""
        return {name: self.proxies[name].ports.inbound for name in self.running()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self.proxies.values():
            if proxy.alive:
                proxy.kill()
