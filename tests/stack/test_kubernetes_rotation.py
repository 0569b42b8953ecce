"""
Whole rotations of a mesh whose control plane keeps everything in a real Kubernetes API, in virtual time.

Rules that must stay true here:

- The same scenarios as everywhere (`tests.stack.kuma.scenarios`); rotator writes as a ServiceAccount with exactly its
  rights, the stand-in control plane reads what the API server stored.
- What somebody else does goes through the Kubernetes API: on Kubernetes the control plane's own changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.kuma import kubernetes
from rotator.adapters.kuma.about import ask_about
from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.control_plane import ControlPlane
from rotator.adapters.kuma.mesh import builtin_secrets
from rotator.adapters.kuma.proxies import HTTPProxies
from rotator.adapters.kuma.slots import slot_names
from rotator.cluster.objects import ClusterAccess
from rotator.core.model import Phase
from tests.e2e.virtual_mesh import VirtualStage
from tests.engine.world import MESH as DOMAIN
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import MESH
from tests.stack.cluster import Cluster
from tests.stack.kuma.plane import Beginning, Json, Model
from tests.stack.kuma.scenarios import (
    Scenario,
    control_plane_restarted,
    daemon_killed,
    joins,
    two_rotations_and_a_rollback,
)
from tests.stack.kuma_admission import AdmissionWebhook
from tests.stack.kuma_store import KubernetesStore, grant

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

PROVIDED = (Model.PROVIDED, "2.14.3")
IDENTITY = (Model.IDENTITY, "2.14.3")
IDENTITY_3 = (Model.IDENTITY, "3.0.1")

# Every scenario with every model in every phase is played over the control plane's own API; here it is the way that
# counts: each model's whole circle, and each disturbance once.
PLAYED: dict[str, tuple[tuple[Model, str], Scenario]] = {
    "two rotations and a rollback, provided, 2.14": (PROVIDED, two_rotations_and_a_rollback),
    "two rotations and a rollback, identity, 2.14": (IDENTITY, two_rotations_and_a_rollback),
    "two rotations and a rollback, identity, 3.0": (IDENTITY_3, two_rotations_and_a_rollback),
    "a proxy joins": (PROVIDED, partial(joins, phase=Phase.TRUSTED)),
    "the control plane is restarted": (IDENTITY_3, partial(control_plane_restarted, phase=Phase.ACTIVATED)),
    "the daemon is killed": (PROVIDED, partial(daemon_killed, phase=Phase.PREPARED)),
}


class ClusterStage(VirtualStage):
    """A mesh in virtual time on a real API server."""

    def __init__(
        self,
        directory: Path,
        model: Model,
        version: str,
        *,
        cluster: Cluster,
        namespace: str,
        beginning: Beginning = Beginning.PLAIN,
        read_secrets: tuple[str, ...] = (),
    ) -> None:
        """Give rotator its rights, and begin; *read_secrets* are those of the CA that is there before it."""
        self.cluster = cluster
        self.namespace = namespace
        self.version = version
        token = grant(cluster, self.mesh, namespace, read_secrets=read_secrets)
        self._kubeconfig = cluster.kubeconfig_for(token, namespace, directory / "kubeconfig")
        self._store = KubernetesStore(cluster, namespace)
        self._undo = ExitStack()
        self._undo.enter_context(self._store)
        self._undo.callback(self._store.delete, MESH, "", self.mesh)
        # The control plane's word on every write: what Kuma's own admission would refuse is refused.
        self._undo.enter_context(AdmissionWebhook(cluster, namespace, self.mesh, directory / "admission"))
        super().__init__(directory, model, version, beginning=beginning)

    @cached_property
    def standin(self) -> StandIn:
        """Return the stand-in over the API server, started at its first use."""
        standin = StandIn(
            clock=self.clock,
            version=self.version,
            environment="kubernetes",
            store=self._store,
            local_is_admin=True,
        )
        standin.up()
        return standin

    @cached_property
    def _control_plane(self) -> ControlPlane:
        api = ControlPlaneAPI(Endpoint(url=self.standin.url))
        access = ClusterAccess(namespace=self.namespace, kubeconfig_file=self._kubeconfig)
        proxies = HTTPProxies(api, self.mesh)
        return kubernetes.connect(access, self.mesh, about=ask_about(api), proxies=proxies, clock=self.clock)

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the HTTP API as somebody else; what it would change is changed in the cluster instead."""
        if method != "PUT":
            return super().api(method, path, body)
        assert body is not None
        self.standin.apply(body)
        return {}

    def join(self, name: str) -> None:
        """Start a proxy; a mesh that admits plaintext speaks it to a newcomer until the newcomer's insight is there."""
        joiner = self.standin.add_proxy(name, mesh=self.mesh)
        self._spared = name
        self.run(until=lambda: joiner.runs is not None and not self.standin.failures(), span=timedelta(seconds=60))
        self._spared = None

    def leave(self, name: str) -> None:
        """Let a proxy's pod end: its Dataplane goes with it."""
        self.standin.stop_proxy(name, keeps_dataplane=False)

    def close(self) -> None:
        """Stop it, and take the mesh out of the cluster, where names are everybody's."""
        super().close()
        self._undo.close()

    # --- what the cluster shows -------------------------------------------------------------------------------------

    def slots(self) -> dict[str, str]:
        """Return the purpose of every slot in use, as the administrator reads it."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets"
        items = self.cluster.call("GET", path)["items"]
        found = {each["metadata"]["name"]: each["metadata"].get("annotations") or {} for each in items}
        purposes = {name: found.get(name, {}).get("rotator.io/purpose") for name in slot_names(self.mesh)}
        return {name: purpose for name, purpose in purposes.items() if purpose}

    def refusals(self) -> list[tuple[str, str]]:
        """Return every call of rotator's that was refused for want of a right."""
        user = f"system:serviceaccount:{self.namespace}:rotator"
        return [
            (event["verb"], event["requestURI"])
            for event in self.cluster.audit(user=user)
            if event["responseStatus"]["code"] in {401, 403, 422}
        ]


@contextmanager
def on_stage(
    directory: Path, model: Model, version: str, cluster: Cluster, namespace: str, **more: Any
) -> Iterator[ClusterStage]:
    """Give a stage, and see that rotator was never refused anything."""
    with closing(ClusterStage(directory, model, version, cluster=cluster, namespace=namespace, **more)) as stage:
        yield stage
        assert [] == stage.refusals()


@pytest.mark.parametrize("played", PLAYED.values(), ids=PLAYED.keys())
def test_no_pair_is_refused(
    tmp_path: Path, cluster: Cluster, system_namespace: str, played: tuple[tuple[Model, str], Scenario]
) -> None:
    """With everything in a real API server, and rotator's rights, no new connection is refused at any second."""
    (model, version), scenario = played
    with on_stage(tmp_path, model, version, cluster, system_namespace) as stage:
        stage.adopt()
        scenario(stage)
        assert stage.judged > 0
        # One generation at rest: its certificate, its key, and no bundle of more than that.
        assert ["cert", "key"] == sorted(purpose.rpartition("-")[2] for purpose in stage.slots().values())


def test_many_rotations_go_round_the_ring(tmp_path: Path, cluster: Cluster, system_namespace: str) -> None:
    """Four rotations in a row need more secrets than there are slots: freed ones are taken again, none in use is."""
    with on_stage(tmp_path, *PROVIDED, cluster, system_namespace) as stage:
        stage.adopt()
        with stage.unharmed("four rotations"):
            for _ in range(4):
                before = stage.active()
                stage.moved(stage.rotate(), before)
        assert 2 == len(stage.slots())


def test_a_builtin_ca_is_taken_over(tmp_path: Path, cluster: Cluster, system_namespace: str) -> None:
    """A mesh on Kuma's builtin CA is taken over with the right to read that CA's two secrets, and then rotates."""
    secrets = builtin_secrets(str(DOMAIN), "ca-1")
    with on_stage(
        tmp_path, *PROVIDED, cluster, system_namespace, beginning=Beginning.BUILTIN, read_secrets=secrets
    ) as stage:
        with stage.unharmed("taken over"):
            before = stage.active()
            stage.adopt()
            assert before != stage.active()
        with stage.unharmed("a rotation"):
            before = stage.active()
            stage.moved(stage.rotate(), before)


def test_a_slot_edited_by_hand_holds_the_rotation(tmp_path: Path, cluster: Cluster, system_namespace: str) -> None:
    """A slot whose content somebody changes with kubectl is named, and holds the rotation until it is mended."""
    with on_stage(tmp_path, *PROVIDED, cluster, system_namespace) as stage:
        stage.adopt()
        with stage.unharmed("a slot is edited by hand"):
            before = stage.active()
            rotation = stage.rotate()
            stage.at(Phase.PREPARED)
            names = {purpose: name for name, purpose in stage.slots().items()}
            path = f"/api/v1/namespaces/{system_namespace}/secrets/"
            name = names["g2-cert"]
            kept, other = (cluster.call("GET", path + each)["data"] for each in (name, names["g1-cert"]))
            edit(cluster, path + name, other)
            stage.named(name)
            edit(cluster, path + name, kept)
            stage.moved(rotation, before)


def edit(cluster: Cluster, path: str, content: Mapping[str, str]) -> None:
    """Change a Secret as ``kubectl edit`` does."""
    cluster.call(
        "PUT", path, cluster.call("GET", path) | {"data": dict(content)}, query={"fieldManager": "kubectl-edit"}
    )


def test_a_tool_that_applies_the_mesh_holds_rotator_off(
    tmp_path: Path, cluster: Cluster, system_namespace: str
) -> None:
    """A tool that applies the Mesh with its mtls is named in status and no step is taken, until it lets go of it."""
    with on_stage(tmp_path, *PROVIDED, cluster, system_namespace) as stage:
        stage.adopt()
        with stage.unharmed("somebody else's tool applies the mesh"):
            before = stage.active()
            rotation = stage.rotate()
            stage.at(Phase.PREPARED)
            applied = cluster.call("GET", f"/apis/kuma.io/v1alpha1/meshes/{stage.mesh}")
            manifest = {
                "apiVersion": applied["apiVersion"],
                "kind": "Mesh",
                "metadata": {"name": stage.mesh},
                "spec": applied["spec"],
            }
            cluster.apply(manifest, manager="argocd-controller")
            stage.named("argocd-controller")
            held = stage.slots()
            stage.run(span=timedelta(seconds=20))
            assert held == stage.slots(), "a step was taken all the same"
            # Handed over: rotator's name stands beside the tool's first. A tool that merely drops what it alone owns
            # deletes it from the mesh.
            mtls = cluster.call("GET", f"/apis/kuma.io/v1alpha1/meshes/{stage.mesh}")["spec"]["mtls"]
            cluster.apply({**manifest, "spec": {"mtls": mtls}}, manager="rotator")
            cluster.apply({**manifest, "spec": {"routing": {}}}, manager="argocd-controller")
            stage.moved(rotation, before)
