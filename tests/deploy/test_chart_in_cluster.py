"""
The chart in a real cluster: applied with strict validation under restricted pod security, pods made and replaced.

Rules that must stay true here:

- What is applied is what Helm rendered, whole; the namespace admits restricted pods alone.
- Controllers and scheduler are the released ones; the kubelet is played, so no container runs here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.charts import JSON, of_kind
from tests.deploy.in_cluster import install, placed
from tests.stack.cluster import Cluster, Refused
from tests.stack.nodes import NODES, PLAYS, Nodes, pod_names

pytestmark = pytest.mark.stack


def test_two_replicas_start_and_one_stays_through_a_drain(nodes: Nodes, tmp_path: Path) -> None:
    """Both replicas become ready on two nodes; of two evictions at once the second is refused by the budget."""
    for node in NODES:
        # As a kubelet labels its own.
        labels = {"metadata": {"labels": {"kubernetes.io/hostname": node}}}
        content_type = "application/merge-patch+json"
        nodes.cluster.call("PATCH", f"/api/v1/nodes/{node}", labels, content_type=content_type)
    rendering = placed("replicas", tmp_path, nodes)
    # The kinds of the Prometheus operator are not in this cluster.
    install(nodes.cluster, rendering, "--set", "serviceMonitor.enabled=false,prometheusRule.enabled=false")
    pods = nodes.until_ready(rendering.namespace, 2)

    assert 2 == len({pod["spec"]["nodeName"] for pod in pods})
    # Nobody takes the first one's place before the second is asked for.
    with nodes.plays(rendering.namespace, {PLAYS: "unready"}):
        codes = [_evicted(nodes.cluster, rendering.namespace, name) for name in pod_names(pods)]
        assert [201, 429] == codes
        nodes.until(lambda: len(nodes.pods(rendering.namespace)) == 2, "the first one's successor")
    for name in pod_names(nodes.pods(rendering.namespace)):
        nodes.annotate(rendering.namespace, name, {PLAYS: None})
    nodes.until_ready(rendering.namespace, 2)


def _evicted(cluster: Cluster, namespace: str, pod: str) -> int:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"namespace": namespace, "name": pod}}
    try:
        cluster.call("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", eviction)
    except Refused as e:
        return e.status
    return 201


def test_one_replica_starts_with_its_volume(nodes: Nodes, tmp_path: Path) -> None:
    """The single replica becomes ready once its claim is bound, and an upgrade leaves one pod."""
    rendering = placed("single", tmp_path, nodes)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": rendering.namespace},
        "spec": {
            "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": rendering.namespace, "name": "rotator"},
            "hostPath": {"path": "/nowhere"},
        },
    }
    nodes.cluster.apply(volume)
    install(nodes.cluster, rendering)
    (before,) = nodes.until_ready(rendering.namespace, 1)
    install(nodes.cluster, rendering, "--set", "image.tag=another")

    def replaced() -> bool:
        pods = nodes.pods(rendering.namespace)
        return [each["spec"]["containers"][0]["image"].rpartition(":")[2] for each in pods] == ["another"]

    nodes.until(replaced, "the new pod alone")
    (after,) = nodes.until_ready(rendering.namespace, 1)
    assert before["metadata"]["uid"] != after["metadata"]["uid"]


def test_a_restricted_namespace_takes_no_less(nodes: Nodes, tmp_path: Path) -> None:
    """The same pod with one more right is refused there: the namespace does judge."""
    rendering = placed("replicas", tmp_path, nodes)
    documents = install(nodes.cluster, rendering, "--set", "serviceMonitor.enabled=false,prometheusRule.enabled=false")
    template = of_kind(documents, "Deployment")["spec"]["template"]
    pod: JSON = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "namespace": rendering.namespace},
        "spec": template["spec"] | {"securityContext": {}},
    }
    with pytest.raises(Refused, match="violates PodSecurity") as refused:
        nodes.cluster.call("POST", f"/api/v1/namespaces/{rendering.namespace}/pods", pod, query={"dryRun": "All"})
    assert 403 == refused.value.status
