"""
Proxies by their Dataplane documents, each as if on a machine of its own: a loopback address of its own.

Rules that must stay true here:

- A document keeps its ports, protocols, labels and where its outbounds lead; its address alone changes, to one of
  127.0.0.0/8, and its outbounds listen there too, so that machines do not take each other's ports.
- Several calls of one pair are several connections: an outcome is one handshake's.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3

from rotator.embedded.process import wait_until
from rotator.errors import Unavailable
from tests.fakes.kuma.envoy_config import Ports
from tests.fakes.kuma.envoy_proxy import EnvoyProxy
from tests.fakes.kuma.ports import QuietPorts
from tests.fakes.kuma.store import Json
from tests.fakes.kuma.topology import is_http as speaks_http
from tests.fakes.kuma.topology import protocol_of

_TIMEOUT = 10.0
_MOST = 254
_SETTLES_WITHIN = timedelta(minutes=3)
# Dozens of proxies ask one control plane on two cores: more often they would ask it away from everybody else.
_ASKS_EVERY = timedelta(seconds=0.5)


class Outcome(StrEnum):
    """What became of a call."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """By permission: HTTP 403 of Envoy's access control, or a connection that was closed without an answer."""
    FAILED = "failed"
    """In any other way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call and what became of it."""

    outcome: Outcome
    answered_by: str = ""
    """What the workload that answered is called."""
    detail: str = ""
    """Status and words, where it was not answered."""


class Machines:
    """Proxies with real Envoys; as a context manager it kills what runs."""

    def __init__(
        self, control_plane: str, work: Path, dataplanes: Iterable[Json], *, tokens: Path | None = None
    ) -> None:
        """
        Describe the proxies of *dataplanes* without starting them.

        With *tokens* each comes with the token in the file of that directory that is called like it.
        """
        found = list(dataplanes)
        assert len(found) <= _MOST, "no more machines fit in one block of addresses"
        block, free = f"127.{_block()}.{_block()}", QuietPorts()
        self.proxies: dict[str, EnvoyProxy] = {}
        self._outbounds: dict[str, Mapping[str, tuple[str, int, bool]]] = {}
        for number, dataplane in enumerate(found, start=1):
            name, address, workload = dataplane["name"], f"{block}.{number}", free.take()
            said = dataplane["networking"]
            inbound = next(iter(said.get("inbound") or []), None)
            http = inbound is None or speaks_http(protocol_of(inbound))
            networking = {
                **said,
                "address": address,
                "outbound": [{**each, "address": address} for each in said.get("outbound") or []],
            }
            if inbound is not None:
                networking["inbound"] = [{**inbound, "servicePort": workload}]
            self.proxies[name] = EnvoyProxy(
                control_plane,
                work,
                name=name,
                service=name,
                ports=Ports(
                    inbound=inbound["port"] if inbound is not None else 0,
                    workload=workload,
                    address=address,
                    is_http=http,
                ),
                admin_port=free.take(),
                mesh=dataplane["mesh"],
                zone="",
                labels=dataplane.get("labels") or {},
                networking=networking,
                token_file=tokens / name if tokens is not None else None,
                asks_every=_ASKS_EVERY,
            )

    def start(self) -> None:
        """Start every proxy, and return once each runs what the control plane wants it to run."""
        for proxy in self.proxies.values():
            proxy.start()

    def acknowledged(self) -> Mapping[str, str]:
        """Return the version that each proxy is known to run."""
        return {name: proxy.answered for name, proxy in self.proxies.items()}

    def wait_for(self, what: str, *, holds: Mapping[str, str]) -> None:
        """Wait until no proxy runs the version any more that it ran when `acknowledged` gave *holds*."""

        def moved() -> bool:
            return all(version not in {"", holds[name]} for name, version in self.acknowledged().items())

        try:
            wait_until(moved, within=_SETTLES_WITHIN, what=what, every=timedelta(milliseconds=200))
        except Unavailable as e:
            refused = {name: proxy.refusal for name, proxy in self.proxies.items() if proxy.refusal}
            raise Unavailable(f"{e}: it is refused to {refused}, and known of {self.acknowledged()}") from e

    def reconnect(self) -> None:
        """Let every proxy open a new stream, and return once each is known to run what it should on that one."""
        before = self.acknowledged()
        for proxy in self.proxies.values():
            proxy.reconnect()
        self.wait_for("every proxy to connect again", holds=before)

    def call(self, caller: str, port: int, *, is_http: bool, path: str = "/") -> Call:
        """Call through *caller*'s outbound at *port*, over a connection of its own."""
        address = self.proxies[caller].ports.address
        return by_http(address, port, path) if is_http else by_tcp(address, port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self.proxies.values():
            with contextlib.suppress(Exception):
                proxy.kill()


def by_http(address: str, port: int, path: str = "/") -> Call:
    """Call over HTTP, once."""
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=2.0, read=_TIMEOUT)) as http:
        try:
            answer = http.request("GET", f"http://{address}:{port}{path}", headers={"Connection": "close"})
        except urllib3.exceptions.HTTPError as e:
            return Call(outcome=Outcome.FAILED, detail=str(e))
    said = answer.data.decode(errors="replace").strip()
    if answer.status == 200:
        return Call(outcome=Outcome.ANSWERED, answered_by=said)
    refused = answer.status == 403 and said == "RBAC: access denied"
    outcome = Outcome.REFUSED if refused else Outcome.FAILED
    return Call(outcome=outcome, detail=f"{answer.status} {said}")


def by_tcp(address: str, port: int) -> Call:
    """Connect, say a line, read a line: a connection closed without an answer is a refusal."""
    try:
        with socket.create_connection((address, port), timeout=_TIMEOUT) as connection:
            connection.sendall(b"who are you?\n")
            said = connection.recv(4096).decode(errors="replace").strip()
    except ConnectionResetError:
        said = ""
    except OSError as e:
        return Call(outcome=Outcome.FAILED, detail=str(e))
    if not said:
        return Call(outcome=Outcome.REFUSED, detail="closed without an answer")
    if not said.isprintable():
        # A TLS alert: the proxies have not agreed yet on how to speak with each other.
        return Call(outcome=Outcome.FAILED, detail=repr(said))
    return Call(outcome=Outcome.ANSWERED, answered_by=said)


def _block() -> int:
    """Return a number of an address block that is probably nobody else's: many runs share one machine."""
    return 1 + secrets.randbelow(_MOST)
