"""
The cluster that rotator works in, as settings name it.

Rules that must stay true here:

- One `ObjectAPI` for everything that talks to one cluster; nothing is called over the network while wiring.
"""

from __future__ import annotations

from rotator.adapters.kubernetes.requests import PostedRequests
from rotator.cluster.objects import ClusterAccess, ObjectAPI
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


def open_board(settings: Settings) -> PostedRequests:
    """Return the objects in which people ask in rotator's own namespace; raises `ConfigError` as `open_cluster`."""
    return PostedRequests(open_cluster(settings), access(settings).namespace)
