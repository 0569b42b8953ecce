"""
The cluster that rotator works in, as settings name it.

Rules that must stay true here:

- One `ObjectAPI` for everything that talks to one cluster; nothing is called over the network while wiring.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from rotator.adapters.kubernetes.requests import PostedRequests
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.control import ClusterClient
from rotator.errors import ConfigError
from rotator.settings import Settings


def access(settings: Settings) -> ClusterAccess:
    """Return how to reach the cluster. Raises `ConfigError` if the settings name none."""
    cluster = settings.cluster
    if cluster is None:
        raise ConfigError("the configuration names no cluster: add cluster, even if it is empty ({})")
    return ClusterAccess(
        namespace=cluster.namespace,
        kubeconfig_file=cluster.kubeconfig_file,
        context=cluster.context,
        timeout=cluster.timeout,
        connections=max(4, 2 * settings.limits.threads),
    )


def open_cluster(settings: Settings) -> ObjectAPI:
    """Return the API server as rotator's own account; raises `ConfigError` if there are no credentials."""
    return ObjectAPI(access(settings))


def people_in(
    kubeconfig: Path | None, context: str | None, namespace: str, *, timeout: timedelta = timedelta(seconds=30)
) -> ClusterClient:
    """
    Return the rotator in *namespace* of a cluster, asked with somebody's own kubeconfig.

    Without *kubeconfig* it is KUBECONFIG's, else ~/.kube/config. Raises `ConfigError` if it cannot be used.
    """
    # Several files joined by colons are one kubeconfig, as kubectl reads them.
    file = kubeconfig or Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    reach = ClusterAccess(namespace=namespace, kubeconfig_file=file, context=context, timeout=timeout)
    return ClusterClient(ObjectAPI(reach), namespace)


def open_board(settings: Settings) -> PostedRequests:
    """Return the objects in which people ask in rotator's own namespace; raises `ConfigError` as `open_cluster`."""
    return PostedRequests(open_cluster(settings), access(settings).namespace)
