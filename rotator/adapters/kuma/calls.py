"""
What a control plane shows of the proxies at both ends of a call; only read, and only asked about what is named.

Rules that must stay true here:

- What cannot be had is None with its reason, never an error that ends the look: whoever asks has trouble enough. Only a
  control plane that does not answer at all, or that knows no such mesh, is one.
- A list of secrets is never asked for; of tokens only what is on the list of revoked ones is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.call_view import CallView, held_view, intended_view
from rotator.adapters.kuma.config_dump import Shown, shown_by, view_of
from rotator.adapters.kuma.control_plane import ProxyReport, ProxyView
from rotator.adapters.kuma.overview import report_of
from rotator.adapters.kuma.token_secrets import SecretShelf
from rotator.errors import Conflict, Denied, Rejected, RotatorError, Unavailable
from rotator.http_exchange import segment

JSON = Mapping[str, Any]

PERMISSIONS: Final = "meshtrafficpermissions"
SERVICES: Final = "meshservices"

_AT_ONCE: Final = 8
_STAT: Final = re.compile(r"(?P<cluster>.+?)::(?P<host>[^:]+:\d+|\[[^\]]+\]:\d+)::(?P<stat>[a-z_]+)::(?P<value>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySeen:
    """One proxy as its control plane lists it."""

    report: ProxyReport
    networking: JSON = field(repr=False)

    @property
    def marks(self) -> Mapping[str, str]:
        """Return its labels, and its tags where labels say nothing."""
        return self.report.workload

    @property
    def address(self) -> str:
        """Return where it is."""
        return str(self.networking.get("address", ""))

    @property
    def inbounds(self) -> tuple[JSON, ...]:
        """Return where it takes connections, as its Dataplane says."""
        return _items(self.networking, "inbound")

    @property
    def outbounds(self) -> tuple[JSON, ...]:
        """Return where its workload reaches others, as its Dataplane says; empty where traffic is redirected."""
        return _items(self.networking, "outbound")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRead:
    """One proxy's own configuration, and what its control plane computes for it."""

    unread: str | None = None
    """Why it could not be read; None: it was read."""
    view: ProxyView | None = None
    shown: Shown | None = None
    held: CallView | None = None
    intended: CallView | None = None
    """None: the control plane does not say."""
    hosts: tuple[HostSeen, ...] = ()
    """Whom its clusters hold, with what became of connections; empty if it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """One host behind one of a proxy's clusters."""

    cluster: str
    host: str
    healthy: bool
    connections: int
    failed: int


class Calls:
    """One mesh at one control plane, as far as calls are concerned."""

    def __init__(self, api: ControlPlaneAPI, mesh: str) -> None:
        """Look at *mesh*."""
        self._api = api
        self._mesh = mesh
        self._path = f"/meshes/{segment(mesh)}"

    def proxies(self) -> tuple[ProxySeen, ...]:
        """Return every Dataplane, by name. Raises what asking raises."""
        doing = f"listing the proxies of mesh {self._mesh}"
        items = self._api.listed(f"{self._path}/dataplanes/_overview", doing=doing)
        if items is None:
            raise Rejected(f"the control plane knows no mesh {self._mesh}")
        found = []
        for item in items:
            dataplane = item.get("dataplane")
            networking = dataplane.get("networking") if isinstance(dataplane, Mapping) else None
            found.append(
                ProxySeen(report=report_of(item), networking=networking if isinstance(networking, Mapping) else {})
            )
        return tuple(sorted(found, key=lambda each: each.report.name))

    def read(self, names: Sequence[str]) -> dict[str, ProxyRead]:
        """Return what each proxy of *names* runs and ought to run, several asked side by side."""
        if not names:
            return {}
        with ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(names)), thread_name_prefix="calls") as pool:
            return dict(zip(names, pool.map(self._read, names), strict=True))

    def documents(self, collection: str) -> tuple[JSON, ...] | None:
        """Return every document of *collection* in the mesh; None if they cannot be read."""
        try:
            found = self._api.listed(f"{self._path}/{collection}", doing=f"listing {collection} of mesh {self._mesh}")
            return None if found is None else tuple(found)
        except (Denied, Rejected, Unavailable, Conflict):
            return None

    def revoked(self) -> tuple[str, frozenset[str]] | None:
        """
        Return the list of revoked tokens of the mesh's proxies: its name, and their ids; None if it cannot be read.

        Kuma reads a GlobalSecret for them, though its documentation names a Secret of the mesh: only what it reads
        counts.
        """
        name = f"dataplane-token-revocations-{self._mesh}"
        try:
            found = SecretShelf(self._api).read(name)
        except RotatorError:
            return None
        text = "" if found is None else found.value.decode(errors="replace")
        return name, frozenset(each.strip() for each in text.split(",") if each.strip())

    def close(self) -> None:
        """Close every idle connection."""
        self._api.close()

    def _read(self, name: str) -> ProxyRead:
        path = f"{self._path}/dataplanes/{segment(name)}"
        intended = self._intended(path, name)
        try:
            dump = self._api.get(f"{path}/xds", doing=f"asking proxy {name} what it runs")
        except Denied:
            why = "rotator's user may not see proxies' configurations"
            return ProxyRead(unread=why, intended=intended)
        except (Unavailable, Rejected, Conflict):
            dump = None
        if dump is None:
            return ProxyRead(unread="its proxy does not answer its control plane", intended=intended)
        return ProxyRead(
            view=view_of(dump, mesh=self._mesh),
            shown=shown_by(dump, mesh=self._mesh),
            held=held_view(dump),
            intended=intended,
            hosts=self._hosts(path, name),
        )

    def _intended(self, path: str, name: str) -> CallView | None:
        try:
            answer = self._api.get(f"{path}/_config", doing=f"asking what proxy {name} ought to run")
        except RotatorError:
            return None
        return None if answer is None else intended_view(answer)

    def _hosts(self, path: str, name: str) -> tuple[HostSeen, ...]:
        try:
            text = self._api.text(f"{path}/clusters", doing=f"asking proxy {name} whom it reaches")
        except RotatorError:
            return ()
        return hosts_of(text or "")


def hosts_of(text: str) -> tuple[HostSeen, ...]:
    """Return the hosts of every cluster that Envoy's ``/clusters`` lists."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in text.splitlines():
        said = _STAT.fullmatch(line.strip())
        if said is not None:
            found.setdefault((said["cluster"], said["host"]), {})[said["stat"]] = said["value"]
    return tuple(
        HostSeen(
            cluster=cluster,
            host=host,
            healthy=stats.get("health_flags", "healthy") == "healthy",
            connections=_number(stats.get("cx_total", "")),
            failed=_number(stats.get("cx_connect_fail", "")),
        )
        for (cluster, host), stats in found.items()
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _items(found: JSON, key: str) -> tuple[JSON, ...]:
    said = found.get(key)
    return tuple(each for each in said if isinstance(each, Mapping)) if isinstance(said, list) else ()
