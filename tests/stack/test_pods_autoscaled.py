"""
A real HorizontalPodAutoscaler changes the number of drained workers in the middle of their roll.

Rules that must stay true here:

- The autoscaler is the released controller's, moved by its bounds alone: it needs no metrics for that. KEDA scales by
  such an object.
- Workers are real and live as their pods do (tests/stack/kubelet.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rotator.core.event import EventType
from rotator.embedded.process import wait_until
from tests.stack.nodes import ENDS, is_ready
from tests.stack.test_pods_drained import GRACE_SECONDS, Drained, drained, farm
from tests.stack.test_pods_rolled import CERTIFICATE, PATIENCE, SIZE, Farm

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(900)]

__all__ = ["drained", "farm"]

MOST = SIZE + 1
NAMES = tuple(f"worker-{number}" for number in range(MOST))
LAST = f"worker-{SIZE - 1}"
"""The first to be rolled, and the first that an autoscaler takes away."""


def bounds(farm: Farm, number: int) -> None:
    """Let the autoscaler want exactly *number* workers."""
    farm.nodes.cluster.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"namespace": farm.namespace, "name": "worker"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "worker"},
                "minReplicas": number,
                "maxReplicas": number,
            },
        }
    )


def workers(farm: Farm) -> dict[str, str]:
    """Return which pod each worker is that is ready now."""
    pods = farm.nodes.pods(farm.namespace, "app=worker,!kubernetes_executor")
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods if is_ready(pod)}


def writes(farm: Farm) -> list[tuple[str, str]]:
    """Return what rotator wrote of workloads, as the API server tells."""
    found: Iterator[Any] = farm.nodes.cluster.audit(user=farm.username)
    return [
        (each["verb"], each["objectRef"]["name"])
        for each in found
        if each.get("objectRef", {}).get("resource") in {"statefulsets", "deployments"} and each["verb"] != "get"
    ]


def task_pod(farm: Farm) -> str:
    """Start a task of the same Airflow's Kubernetes executor, labelled as that does; return its pod's UID."""
    labels = {"dag_id": "etl", "task_id": "load", "run_id": "r1", "try_number": "1", "airflow-worker": "7"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": farm.namespace,
            "name": "etl-load-x1y2z3",
            # Whoever goes by labels alone would take it for one of the workers.
            "labels": labels | {"kubernetes_executor": "True", "app": "worker", "component": "worker"},
        },
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {"name": "base", "image": "played", "volumeMounts": [{"name": "tls", "mountPath": "/etc/tls"}]}
            ],
            "volumes": [{"name": "tls", "secret": {"secretName": "service-tls"}}],
        },
    }
    farm.nodes.cluster.apply(pod)
    return _task_uid(farm)


def _task_uid(farm: Farm) -> str:
    (found,) = farm.nodes.pods(farm.namespace, "kubernetes_executor=True")
    assert "deletionTimestamp" not in found["metadata"]
    return str(found["metadata"]["uid"])


def test_law_17_an_autoscaler_takes_and_gives_workers_in_the_middle_of_a_roll(drained: Drained) -> None:
    """
    The one that drains is taken away, two others come: the roll ends, no task is lost, the number is left alone.

    A task pod of the Kubernetes executor beside them mounts the same certificate: it stays, and so does what it uses.
    """
    farm, fleet = drained.farm, drained.fleet
    farm.grace_seconds = drained.kubelet.grace_seconds = GRACE_SECONDS
    farm.daemon.document["certificates"][CERTIFICATE]["task_pods"] = True
    farm.daemon.document["trust_domains"][farm.daemon.domain]["trust_deadline"] = {"after": "31m"}
    farm.daemon.write()
    farm.begin(**{ENDS: "never"})
    before, task = workers(farm), task_pod(farm)
    with fleet.working(2 * SIZE):
        drained.wait_busy()
        known = len(farm.events(EventType.DRAINED))
        farm.daemon.rotate(CERTIFICATE)
        drained.wait_draining(LAST)
        bounds(farm, SIZE - 1)
        drained.wait_leaving(LAST)
    farm.until(lambda: LAST not in workers(farm), "the autoscaler to take it")
    bounds(farm, MOST)
    farm.until(
        lambda: farm.daemon.settled() and set(NAMES) == set(workers(farm)) and not _old(farm, before),
        "everybody to be new",
    )
    assert [] == drained.kubelet.trouble
    wait_until(lambda: not fleet.ledger.lost(), within=PATIENCE, what="every task to end")
    assert frozenset() == fleet.ledger.repeated()
    evicted = farm.evictions()
    assert LAST not in evicted, "it had been taken already"
    assert {"worker-0", "worker-1"} <= set(evicted)
    assert [] == writes(farm)
    assert task == _task_uid(farm)
    assert "etl-load-x1y2z3" not in evicted + farm.evictions(403)
    assert [] == farm.events(EventType.REVOKED)
    told = [each for each in farm.events(EventType.DRAINED)[known:] if each.detail["workload"] == "workers"]
    assert {"worker-0", "worker-1"} == {str(each.detail["member"]) for each in told if each.result == "ok"}


def _old(farm: Farm, before: dict[str, str]) -> set[str]:
    """Return the workers that were there before the roll."""
    return set(before.values()) & set(workers(farm).values())
