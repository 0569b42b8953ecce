"""
What tests of workloads rest on: real controllers, and pods that play what they are told.

Rules that must stay true here:

- What is asserted is what any cluster would do, but for the kubelet's part, which is played.
"""

from __future__ import annotations

import pytest

from tests.stack.cluster import Refused
from tests.stack.nodes import ENDS, PLAYS, Nodes, budget, is_ending, pod_ids, pod_names, workload

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def test_controllers_make_pods_that_get_ready(nodes: Nodes, pods_namespace: str) -> None:
    """A StatefulSet's pods have its numbers, a Deployment's are owned through its ReplicaSet; all are scheduled."""
    nodes.cluster.apply(workload("StatefulSet", pods_namespace, "worker", replicas=2))
    nodes.cluster.apply(workload("Deployment", pods_namespace, "web", replicas=2))
    nodes.until_ready(pods_namespace, 4)
    assert ("worker-0", "worker-1") == pod_names(nodes.pods(pods_namespace, "app=worker"))
    owners = {pod["metadata"]["ownerReferences"][0]["kind"] for pod in nodes.pods(pods_namespace, "app=web")}
    assert {"ReplicaSet"} == owners
    assert all(pod["spec"]["nodeName"] in {"node-1", "node-2", "node-3"} for pod in nodes.pods(pods_namespace))


def test_a_budget_holds_an_eviction(nodes: Nodes, pods_namespace: str) -> None:
    """The real disruption controller counts: with one pod down the next eviction is refused, and says by whom."""
    nodes.cluster.apply(workload("StatefulSet", pods_namespace, "worker", replicas=2))
    nodes.cluster.apply(budget(pods_namespace, "worker", minAvailable=2))
    nodes.until_ready(pods_namespace, 2)
    path = f"/api/v1/namespaces/{pods_namespace}/pods/worker-0/eviction"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "worker-0"}}
    with pytest.raises(Refused, match="disruption budget") as refused:
        nodes.cluster.call("POST", path, eviction)
    assert 429 == refused.value.status


def test_a_pod_that_is_yet_to_be_made_plays_what_it_is_told(nodes: Nodes, pods_namespace: str) -> None:
    """Its template does not change; once it is told otherwise it gets ready, as the same pod."""
    nodes.cluster.apply(workload("StatefulSet", pods_namespace, "worker", replicas=1))
    (before,) = nodes.until_ready(pods_namespace, 1)
    with nodes.plays(pods_namespace, {PLAYS: "crashing"}):
        nodes.cluster.call("DELETE", f"/api/v1/namespaces/{pods_namespace}/pods/worker-0")
        nodes.until(lambda: "CrashLoopBackOff" in str(nodes.pods(pods_namespace)), "the next pod to crash")
    sick = nodes.pods(pods_namespace)
    assert before["metadata"]["uid"] not in pod_ids(sick)
    nodes.annotate(pods_namespace, "worker-0", {PLAYS: None})
    assert pod_ids(sick) == pod_ids(nodes.until_ready(pods_namespace, 1))


def test_a_pod_may_use_its_grace_period(nodes: Nodes, pods_namespace: str) -> None:
    """It is ending and goes on; its name comes back with the next pod, after it."""
    slow = workload(
        "StatefulSet", pods_namespace, "worker", replicas=1, grace_seconds=2, annotations={ENDS: "at-grace"}
    )
    nodes.cluster.apply(slow)
    before = nodes.until_ready(pods_namespace, 1)
    nodes.cluster.call("DELETE", f"/api/v1/namespaces/{pods_namespace}/pods/worker-0")
    (ending,) = nodes.pods(pods_namespace)
    assert is_ending(ending)
    nodes.until(lambda: not pod_ids(before) & pod_ids(nodes.pods(pods_namespace)), "the old pod gone")
    nodes.until_ready(pods_namespace, 1)
