"""
Policies and services of a mesh as objects of a real API server: what stands there is what the stand-in's proxies get.

Rules that must stay true here:

- Definitions and admission are our own, after Kuma's: a released control plane brings its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.clock import ManualClock
from tests.fakes.kuma.desired import Access
from tests.fakes.kuma.signing import new_root
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import Json
from tests.stack.cluster import Cluster, Refused
from tests.stack.kuma_admission import AdmissionWebhook
from tests.stack.kuma_store import KubernetesStore

pytestmark = [pytest.mark.stack, pytest.mark.external]

MESH, DOMAIN = "policies-in-cluster", "policies.test"
WORKER, SCHEDULER = (f"spiffe://{DOMAIN}/ns/airflow/sa/{name}" for name in ("worker", "scheduler"))


@pytest.fixture
def standin(cluster: Cluster, system_namespace: str, tmp_path: Path) -> Iterator[StandIn]:
    """Give a control plane over the API server with the proxies of a service, and identities for them."""
    with (
        KubernetesStore(cluster, system_namespace, policies=True) as store,
        StandIn(
            clock=ManualClock(datetime.now(UTC)), version="3.0.1", environment="kubernetes", store=store
        ) as standin,
        AdmissionWebhook(cluster, system_namespace, MESH, tmp_path / "admission"),
    ):
        standin.edit_mesh(MESH)
        root = new_root("root", DOMAIN, standin.clock.now(), by_rsa=False)
        parts = {"certificate": root.certificate_pem, "privateKey": root.key_pem}
        for part, pem in parts.items():
            standin.keep_secret(part.lower(), pem, mesh=MESH)
        ca = {part: {"type": "Secret", "secretRef": {"kind": "Secret", "name": part.lower()}} for part in parts}
        provider = {"type": "Bundled", "bundled": {"insecureAllowSelfSigned": True, "ca": ca}}
        identity = {"spiffeID": {"trustDomain": DOMAIN}, "provider": provider}
        identity["selector"] = {"dataplane": {"matchLabels": {}}}
        standin.apply({"type": "MeshIdentity", "mesh": MESH, "name": "everybody", "spec": identity})
        standin.add_proxy("reports", mesh=MESH, labels={"app": "reports"})
        standin.run(20)
        yield standin
        store.delete("Mesh", "", MESH)


def permission(namespace: str, name: str, who: str) -> Json:
    """Return a MeshTrafficPermission for the reports as an object."""
    rule = {"default": {"allow": [{"spiffeID": {"type": "Exact", "value": who}}]}}
    spec = {"targetRef": {"kind": "Dataplane", "labels": {"app": "reports"}}, "rules": [rule]}
    metadata = {"name": name, "namespace": namespace, "labels": {"kuma.io/mesh": MESH, "kuma.io/origin": "zone"}}
    return {"apiVersion": "kuma.io/v1alpha1", "kind": "MeshTrafficPermission", "metadata": metadata, "spec": spec}


def access(standin: StandIn) -> Access:
    """Return whom the reports' proxy lets in, a few seconds later."""
    standin.run(5)
    runs = standin.proxies["reports"].runs
    assert runs is not None
    assert runs.access is not None
    return runs.access


def test_permissions_in_the_cluster_are_what_proxies_enforce(
    cluster: Cluster, system_namespace: str, standin: StandIn
) -> None:
    """One in the control plane's namespace counts for all; one beside an application for that namespace alone."""
    assert not access(standin).admits((WORKER,))
    cluster.apply(permission(system_namespace, "reports", WORKER))
    admitted = access(standin)
    assert (True, False) == (admitted.admits((WORKER,)), admitted.admits((SCHEDULER,)))
    for namespace in ("airflow", f"elsewhere-{system_namespace}"):
        cluster.namespace(namespace)
        cluster.apply(permission(namespace, "mine", SCHEDULER if namespace == "airflow" else f"{SCHEDULER}-2"))
    admitted = access(standin)
    assert (True, False) == (admitted.admits((SCHEDULER,)), admitted.admits((f"{SCHEDULER}-2",)))


def test_the_control_planes_admission_refuses_a_wrong_document(
    cluster: Cluster, system_namespace: str, standin: StandIn
) -> None:
    """422, with the field."""
    del standin
    wrong = permission(system_namespace, "reports", "airflow/worker")
    with pytest.raises(Refused, match=r"spec.rules\[0\].default.allow\[0\].spiffeID.value") as refused:
        cluster.apply(wrong)
    assert 422 == refused.value.status
