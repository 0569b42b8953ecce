"""
The proxies of one mesh, seen through a control plane's HTTP API; on Kubernetes too.

Rules that must stay true here:

- Every relying party is reported: the mesh's Dataplanes in every zone, and every zone egress, which ends the mesh's TLS
  wherever traffic leaves for another zone. A zone ingress only passes TLS on.
- A proxy that cannot be asked is silent, not an error; a missing right is an error, because it silences all.
- Proxies go by the name under which the control plane lists them: unique also on a Global control plane.
"""

from __future__ import annotations

from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.config_dump import view_of
from rotator.adapters.kuma.control_plane import ProxyReport, ProxyView
from rotator.adapters.kuma.overview import EGRESS, report_of
from rotator.errors import Conflict, Rejected, Unavailable
from rotator.http_exchange import segment


class HTTPProxies:
    """What a control plane reports and passes on of its proxies (`Proxies`)."""

    def __init__(self, api: ControlPlaneAPI, mesh: str) -> None:
        """Look at the proxies of *mesh*."""
        self._api = api
        self._mesh = mesh

    def reports(self) -> tuple[ProxyReport, ...]:
        """Return every proxy's report, by name; none from a mesh that is not there."""
        doing = f"listing the proxies of mesh {self._mesh}"
        items = self._api.listed(f"/meshes/{segment(self._mesh)}/dataplanes/_overview", doing=doing)
        found = [report_of(item) for item in items or ()]
        # Versions without zone egresses know no such list.
        egresses = self._api.listed("/zoneegresses/_overview", doing="listing the zone egresses")
        found += [report_of({"type": "ZoneEgressOverview", **item}) for item in egresses or ()]
        return tuple(sorted(found, key=lambda report: report.name))

    def view(self, name: str) -> ProxyView | None:
        """
        Return what the proxy *name* uses now; None if it cannot be asked.

        Raises:
            Denied: If the right to see proxies' configurations is missing.
        """
        if name.startswith(EGRESS):
            path = f"/zoneegresses/{segment(name.removeprefix(EGRESS))}/xds"
        else:
            path = f"/meshes/{segment(self._mesh)}/dataplanes/{segment(name)}/xds"
        try:
            dump = self._api.get(path, doing=f"asking proxy {name} what it trusts")
        except (Unavailable, Rejected, Conflict):
            return None
        return None if dump is None else view_of(dump, mesh=self._mesh)
