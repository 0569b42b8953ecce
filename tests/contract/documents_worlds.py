"""
The places of the platform's documents that one contract suite runs against.

Rules that must stay true here:

- Each gives one mesh that nobody else uses, and a way to write there as somebody else.
- In a cluster the code under test has the rights that it asks for, and the policy that confines them, no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.documents import PLURALS, HTTPPlatformDocuments, KubernetesPlatformDocuments
from rotator.adapters.kuma.rights import platform_rights
from rotator.adapters.kuma.universal import connect
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.rbac import Account, confinement, role_objects
from rotator.core.model import TrustDomainName
from rotator.platform.documents import Address, Document
from rotator.platform.resources import kubernetes_object, universal
from rotator.ports import MeshDocuments
from tests.contract.cluster_world import ClusterWorld
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn
from tests.fakes.mesh_documents import MemoryDocuments
from tests.fixtures_postgres import running_postgresql
from tests.stack.cluster import Cluster
from tests.stack.kuma.plane import Model
from tests.stack.kuma.released import ReleasedPlane

AT = TrustDomainName("mesh.prod")


class DocumentsWorld(Protocol):
    """One mesh."""

    mesh: str

    @property
    def documents(self) -> MeshDocuments:
        """Return its documents."""
        ...

    def edited(self, document: Document) -> None:
        """Write *document* as somebody else, whole."""
        ...

    def gone(self, address: Address) -> None:
        """Remove what is at *address* as somebody else."""
        ...


class InMemory:
    """The fake."""

    mesh = "default"

    def __init__(self) -> None:
        self.documents = MemoryDocuments(AT, self.mesh)

    def edited(self, document: Document) -> None:
        """Write as somebody else."""
        self.documents.put(document)

    def gone(self, address: Address) -> None:
        """Remove as somebody else."""
        self.documents.take(address)


class OverHTTP:
    """The HTTP API of the stand-in control plane."""

    mesh = "default"

    def __init__(self, version: str, cleanup: ExitStack) -> None:
        """Start a stand-in of *version*."""
        self.standin = cleanup.enter_context(StandIn(clock=ManualClock(), version=version, local_is_admin=True))
        self.standin.edit_mesh(self.mesh, meshServices={"mode": "Exclusive"})
        self._connect(self.standin.url)

    def _connect(self, url: str) -> None:
        endpoint = Endpoint(url=url)
        plane = connect(endpoint, self.mesh)
        self.documents = HTTPPlatformDocuments(
            ControlPlaneAPI(endpoint), lambda: plane, trust_domain=AT, mesh=self.mesh
        )
        self._api = ControlPlaneAPI(endpoint)

    def edited(self, document: Document) -> None:
        """Write as somebody else."""
        self._api.put(self._path(document.address), universal(document.resource), doing="writing by hand")

    def gone(self, address: Address) -> None:
        """Remove as somebody else."""
        self._api.delete(self._path(address), doing="removing by hand")

    def _path(self, address: Address) -> str:
        return f"/meshes/{address.mesh}/{PLURALS[address.kind]}/{address.name}"


class Released(OverHTTP):
    """The HTTP API of a released Kuma, which the environment names; its own validation takes or refuses."""

    def __init__(self, directory: Path, cleanup: ExitStack) -> None:
        """Start it over a PostgreSQL of its own, with a mesh in which nobody is let in."""
        postgres = cleanup.enter_context(running_postgresql(directory))
        plane = cleanup.enter_context(ReleasedPlane(directory, postgres, self.mesh, Model.IDENTITY))
        # What its begin permits, and what a release may bring with a mesh, is none of the suite's.
        permissions = f"/meshes/{self.mesh}/meshtrafficpermissions"
        for each in plane.api("GET", permissions)["items"]:
            plane.api("DELETE", f"{permissions}/{each['name']}")
        self._connect(plane.url)


class InCluster(ClusterWorld):
    """A real Kubernetes API, as rotator's ServiceAccount; what the control plane is, a stand-in over it says."""

    def __init__(self, version: str, cluster: Cluster, directory: Path, cleanup: ExitStack) -> None:
        super().__init__(version, cluster, directory, cleanup)
        plane = self.plane()
        self.mesh = plane.mesh
        account, rights = Account(namespace=self._namespace), platform_rights(self._namespace)
        name = f"rotator-platform-{self.mesh}"
        for each in role_objects(rights, account, name=name, cluster_name=name):
            cluster.apply(each)
        for each in confinement(rights.confined, account, name=name):
            cluster.apply(each)
        api = ObjectAPI(ClusterAccess(namespace=self._namespace, kubeconfig_file=directory / self.mesh))
        cleanup.callback(api.close)
        self._as_rotator = api
        self.documents = KubernetesPlatformDocuments(
            lambda: api, lambda: plane, trust_domain=AT, mesh=self.mesh, namespace=self._namespace
        )

    def edited(self, document: Document) -> None:
        """Write as somebody else, as ``kubectl edit`` does."""
        self.write(kubernetes_object(document.resource, namespace=self._namespace), manager="kubectl-edit")

    def write(self, body: Mapping[str, Any], *, manager: str) -> None:
        """Replace or create *body* as the field manager *manager*."""
        path = self._cluster.path_of(body)
        query = {"fieldManager": manager}
        if self._cluster.serves(path):
            version = self._cluster.call("GET", path)["metadata"]["resourceVersion"]
            metadata = {**body["metadata"], "resourceVersion": version}
            self._cluster.call("PUT", path, {**body, "metadata": metadata}, query=query)
        else:
            self._cluster.call("POST", path.rpartition("/")[0], body, query=query)

    def applied_by(self, document: Document, manager: str) -> None:
        """Apply *document* on the server's side as a tool of somebody else's."""
        self._cluster.apply(kubernetes_object(document.resource, namespace=self._namespace), manager=manager)

    def create_as_rotator(self, document: Document) -> None:
        """Create *document* with rotator's account, past its adapter."""
        path = f"/apis/kuma.io/v1alpha1/namespaces/{self._namespace}/{PLURALS[document.address.kind]}"
        self._as_rotator.create(path, kubernetes_object(document.resource, namespace=self._namespace))

    def beside(self, document: Document, namespace: str) -> None:
        """Write *document* into a namespace of an application."""
        self._cluster.namespace(namespace)
        self._cluster.apply(kubernetes_object(document.resource, namespace=namespace))

    def gone(self, address: Address) -> None:
        """Remove as somebody else."""
        where = f"/apis/kuma.io/v1alpha1/namespaces/{self._namespace}"
        self._cluster.call("DELETE", f"{where}/{PLURALS[address.kind]}/{address.name}")
