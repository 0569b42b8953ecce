"""
The Kubernetes reach for the suite of control planes: a real API server, and a stand-in control plane over it.

Rules that must stay true here:

- The code under test is a ServiceAccount with the rights that rotator asks for, and those to read what the suite keeps
  by hand.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rotator.adapters.kuma import kubernetes
from rotator.adapters.kuma.about import ask_about
from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.control_plane import ControlPlane, Environment
from rotator.adapters.kuma.proxies import HTTPProxies
from rotator.clock import SystemClock
from rotator.cluster.objects import ClusterAccess
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn
from tests.stack.cluster import Cluster
from tests.stack.kuma_store import KubernetesStore, grant

_clusters = itertools.count(1)


class ClusterWorld:
    """Documents and secrets in a real Kubernetes API, as rotator's ServiceAccount; proxies at a stand-in over them."""

    environment = Environment.KUBERNETES

    def __init__(self, version: str, cluster: Cluster, directory: Path, cleanup: ExitStack) -> None:
        """Start a stand-in of *version* whose store is a namespace of its own in *cluster*."""
        self._cluster = cluster
        self._directory = directory
        self._number = next(_clusters)
        self._namespace = f"kuma-{self._number}"
        cluster.namespace(self._namespace)
        store = cleanup.enter_context(KubernetesStore(cluster, self._namespace))
        # Its time is ours at the beginning: certificates of the tests are made by the clock on the wall.
        clock = ManualClock(datetime.now(UTC))
        self._standin = StandIn(
            clock=clock, version=version, environment="kubernetes", store=store, local_is_admin=True
        )
        cleanup.enter_context(self._standin)
        self._numbers = itertools.count(1)
        self.version = self._standin.numbers

    def plane(self) -> ControlPlane:
        """Return a mesh of its own: meshes belong to the whole cluster."""
        mesh = f"mesh-{self._number}-{next(self._numbers)}"
        self._standin.edit_mesh(mesh, meshServices={"mode": "Exclusive"})
        # The suite's identities have names of their own, which the admission policy would refuse.
        secrets = ("company-ca", "nobodys-ca")
        token = grant(self._cluster, mesh, self._namespace, read_secrets=secrets, confined=False)
        self._cluster.kubeconfig_for(token, self._namespace, self._directory / mesh)
        return self._connected(mesh)

    def again(self, plane: ControlPlane) -> ControlPlane:
        """Return the same mesh over connections of its own."""
        return self._connected(plane.mesh)

    def by_hand(self, plane: ControlPlane, name: str, value: bytes) -> str:
        """Keep a secret in the mesh as somebody else."""
        self._standin.keep_secret(name, value, mesh=plane.mesh)
        return name

    def start_proxy(self, plane: ControlPlane, name: str) -> None:
        """Start a proxy and let it connect."""
        self._standin.add_proxy(name, mesh=plane.mesh)
        self._standin.run(30)

    def stop_proxy(self, plane: ControlPlane, name: str) -> None:
        """Stop it; its Dataplane goes with its pod."""
        del plane
        self._standin.stop_proxy(name, keeps_dataplane=False)
        self._standin.run(30)

    def _connected(self, mesh: str) -> ControlPlane:
        api = ControlPlaneAPI(Endpoint(url=self._standin.url))
        return kubernetes.connect(
            ClusterAccess(namespace=self._namespace, kubeconfig_file=self._directory / mesh),
            mesh,
            about=ask_about(api),
            proxies=HTTPProxies(api, mesh),
            clock=SystemClock(),
        )
