"""
What makes a cluster of an API server: the real controller manager and scheduler, and nodes that KWOK plays.

Rules that must stay true here:

- What a Deployment, StatefulSet, PodDisruptionBudget, owner or namespace does is done by the released controllers, and
  pods are bound by the released scheduler: only the kubelet is played (tests/stack/stages.yaml says how).
- A pod plays by its annotations; those of a pod that its controller has yet to make come from its template, or from
  `Nodes.plays`, which leaves the template alone as a fault in the world would.
- Everything listens on loopback, and speaks to the API server as the administrator.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import requests

from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until
from tests.stack.cluster import BIN, HERE, Cluster, Refused

JSON = dict[str, Any]

PLAYS: Final = "tests.rotator.io/plays"
"""``unready`` or ``crashing``; without it the pod gets ready."""
READY_AFTER: Final = "tests.rotator.io/ready-after"
"""How long it takes to get ready, as ``2s``; without it no time."""
ENDS: Final = "tests.rotator.io/ends"
"""``at-grace``: deleted, it uses its whole grace period; ``never``: it stays. Without it it is gone at once."""
IP: Final = "tests.rotator.io/ip"
"""The address that it says it has; without it one of KWOK's own, behind which nobody listens."""

PATIENCE = timedelta(seconds=60)
"""For whatever controllers do, on two busy cores."""

NODES: Final = ("node-1", "node-2", "node-3")


class Nodes:
    """The controllers and nodes of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        """Describe them without starting anything."""
        self.cluster = cluster
        directory = cluster.directory
        controllers, scheduler, kwok = free_port(), free_port(), free_port()
        self.controllers = ServerProcess(
            "kube-controller-manager",
            [
                BIN / "kube-controller-manager",
                f"--kubeconfig={cluster.kubeconfig}",
                f"--bind-address={LOOPBACK}",
                f"--secure-port={controllers}",
                f"--tls-cert-file={directory / 'server.crt'}",
                f"--tls-private-key-file={directory / 'server.key'}",
                f"--service-account-private-key-file={directory / 'service-account.key'}",
                f"--root-ca-file={cluster.ca_file}",
                "--leader-elect=false",
                # As kubeadm sets them up: each controller has its own rights and no more.
                "--use-service-account-credentials=true",
                # Their own limits would make every test wait for them, not for what it tests.
                "--horizontal-pod-autoscaler-sync-period=1s",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
            log=directory / "kube-controller-manager.log",
        )
        self.scheduler = ServerProcess(
            "kube-scheduler",
            [
                BIN / "kube-scheduler",
                f"--kubeconfig={cluster.kubeconfig}",
                f"--bind-address={LOOPBACK}",
                f"--secure-port={scheduler}",
                f"--tls-cert-file={directory / 'server.crt'}",
                f"--tls-private-key-file={directory / 'server.key'}",
                "--leader-elect=false",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
            log=directory / "kube-scheduler.log",
        )
        self.kwok = ServerProcess(
            "kwok",
            [
                BIN / "kwok",
                f"--kubeconfig={cluster.kubeconfig}",
                f"--config={directory / 'stages.yaml'}",
                "--manage-all-nodes=true",
                f"--node-ip={LOOPBACK}",
                f"--server-address={LOOPBACK}:{kwok}",
                "--node-lease-duration-seconds=40",
            ],
            log=directory / "kwok.log",
        )
        self._healthy = {
            self.controllers: f"https://{LOOPBACK}:{controllers}/healthz",
            self.scheduler: f"https://{LOOPBACK}:{scheduler}/healthz",
            self.kwok: f"http://{LOOPBACK}:{kwok}/healthz",
        }

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all of them, and return once the nodes are ready and namespaces get their accounts."""
        shutil.copy(HERE / "stages.yaml", self.cluster.directory / "stages.yaml")
        for name in NODES:
            self.cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        for server, url in self._healthy.items():
            server.start(ready=partial(_answers, url, self.cluster.ca_file), within=PATIENCE)
        self.until(lambda: all(is_ready(self._node(name)) for name in NODES), "the nodes to be ready")
        self.until(lambda: self.has_account("default"), "the first ServiceAccount")

    def stop(self) -> None:
        """Stop all of them."""
        for server in reversed(self._healthy):
            server.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what tests see and do --------------------------------------------------------------------------------------

    def namespace(self, name: str) -> str:
        """Make the namespace *name*, and return its name once pods can be made in it."""
        self.cluster.namespace(name)
        self.until(lambda: self.has_account(name), f"the ServiceAccount of {name}")
        return name

    def has_account(self, namespace: str) -> bool:
        """Return whether *namespace* has the account that pods run as."""
        try:
            self.cluster.call("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        except Refused as e:
            if e.status == 404:
                return False
            raise
        return True

    def pods(self, namespace: str, selector: str = "") -> tuple[JSON, ...]:
        """Return the pods of *namespace* that *selector* selects, by name, those that are ending included."""
        query = {"labelSelector": selector} if selector else None
        found = self.cluster.call("GET", f"/api/v1/namespaces/{namespace}/pods", query=query)["items"]
        return tuple(sorted(found, key=lambda pod: str(pod["metadata"]["name"])))

    def until_ready(self, namespace: str, count: int, selector: str = "") -> tuple[JSON, ...]:
        """Return the pods of *namespace* once they are exactly *count*, all ready and none ending."""

        def settled() -> bool:
            pods = self.pods(namespace, selector)
            return count == len(pods) and all(is_ready(pod) and not is_ending(pod) for pod in pods)

        self.until(settled, f"{count} ready pods in {namespace}")
        return self.pods(namespace, selector)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until *condition* holds."""
        wait_until(condition, within=PATIENCE, what=what, every=timedelta(milliseconds=100))

    def annotate(self, namespace: str, pod: str, annotations: Mapping[str, str | None]) -> None:
        """Let one pod that exists play something else; None takes an annotation away."""
        self.cluster.call(
            "PATCH",
            f"/api/v1/namespaces/{namespace}/pods/{pod}",
            {"metadata": {"annotations": dict(annotations)}},
            content_type="application/merge-patch+json",
        )

    @contextmanager
    def plays(self, namespace: str, annotations: Mapping[str, str]) -> Iterator[None]:
        """Let every pod that is made in *namespace* meanwhile have *annotations*, whatever its template says."""
        name = f"plays-{namespace}"
        written = ", ".join(f"{key!r}: {value!r}" for key, value in annotations.items())
        group = {"apiVersion": "admissionregistration.k8s.io/v1"}
        policy = group | {
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                    ],
                },
                "mutations": [
                    {
                        "patchType": "ApplyConfiguration",
                        "applyConfiguration": {
                            "expression": "Object{metadata: Object.metadata{annotations: {" + written + "}}}"
                        },
                    }
                ],
            },
        }
        binding = group | {
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        }
        for document in (policy, binding):
            self.cluster.apply(document)
        first = next(iter(annotations))
        try:
            self.until(lambda: self._would_have(namespace, first), f"{first} on new pods of {namespace}")
            yield
        finally:
            for document in (binding, policy):
                self.cluster.delete(document)
            self.until(lambda: not self._would_have(namespace, first), f"no {first} on new pods of {namespace}")

    def _would_have(self, namespace: str, annotation: str) -> bool:
        """Return whether a pod that is made now would get *annotation*."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "rehearsed-"},
            # As little as a restricted namespace admits.
            "spec": {
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "main",
                        "image": "played",
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    }
                ],
            },
        }
        made = self.cluster.call("POST", f"/api/v1/namespaces/{namespace}/pods", pod, query={"dryRun": "All"})
        return annotation in made["metadata"].get("annotations", {})

    def _node(self, name: str) -> JSON:
        return self.cluster.call("GET", f"/api/v1/nodes/{name}")


def is_ending(pod: JSON) -> bool:
    """Return whether *pod* was told to end and is not gone yet."""
    return "deletionTimestamp" in pod["metadata"]


def workload(
    kind: str,
    namespace: str,
    name: str,
    *,
    replicas: int,
    annotations: Mapping[str, str] | None = None,
    grace_seconds: int = 5,
    secret: str | None = None,
    **spec: Any,
) -> JSON:
    """
    Return a StatefulSet or Deployment whose pods are labelled ``app: NAME`` and play *annotations*.

    *secret* is mounted; *spec* is added to the workload's own, as ``updateStrategy={"type": "OnDelete"}``.
    """
    labels = {"app": name}
    container: JSON = {"name": "main", "image": "played"}
    pod: JSON = {"terminationGracePeriodSeconds": grace_seconds, "containers": [container]}
    if secret is not None:
        container["volumeMounts"] = [{"name": "tls", "mountPath": "/etc/tls"}]
        pod["volumes"] = [{"name": "tls", "secret": {"secretName": secret}}]
    # One that may start them all at once, unless a test asks for the order.
    ordered = {"serviceName": name, "podManagementPolicy": "Parallel"} if kind == "StatefulSet" else {}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": dict(annotations or {})}, "spec": pod},
            **ordered,
            **spec,
        },
    }


def budget(namespace: str, name: str, **spec: Any) -> JSON:
    """Return a PodDisruptionBudget for the workload *name*, as ``maxUnavailable=1`` or ``minAvailable="100%"``."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, **spec},
    }


def _answers(url: str, ca_file: Path) -> bool:
    """Return whether the server at *url* says that it is healthy."""
    try:
        with requests.get(url, timeout=2, verify=str(ca_file)) as answer:
            return answer.status_code == 200
    except requests.RequestException:
        return False


def is_ready(document: JSON) -> bool:
    """Return whether a node or a pod has the condition Ready."""
    conditions = document.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def pod_names(pods: tuple[JSON, ...]) -> tuple[str, ...]:
    """Return the names of *pods*."""
    return tuple(pod["metadata"]["name"] for pod in pods)


def pod_ids(pods: tuple[JSON, ...]) -> frozenset[str]:
    """Return the UIDs of *pods*."""
    return frozenset(pod["metadata"]["uid"] for pod in pods)
