"""What the doctor says of rotator's account in a cluster, on a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotator.adapters.kuma.manifests import manifests
from rotator.adapters.kuma.own_rights import missing_rights
from rotator.cluster.objects import ClusterAccess
from tests.stack.cluster import Cluster

pytestmark = pytest.mark.stack


@pytest.fixture
def access(cluster: Cluster, system_namespace: str, tmp_path: Path) -> ClusterAccess:
    """Give an account of rotator's that may do nothing yet."""
    token = cluster.service_account(system_namespace, "rotator")
    kubeconfig = cluster.kubeconfig_for(token, system_namespace, tmp_path / "kubeconfig")
    return ClusterAccess(namespace=system_namespace, kubeconfig_file=kubeconfig)


def test_an_account_without_rights_is_told_each(access: ClusterAccess) -> None:
    """Every single thing that rotator will have to do and may not is named."""
    missing = missing_rights(access, "default")

    assert "update meshes default" in missing
    assert "create secrets" in missing
    assert "delete secrets rotator-default-key-3" in missing
    assert "list meshidentities" in missing


def test_the_shipped_manifests_give_every_right(cluster: Cluster, access: ClusterAccess) -> None:
    """With what deploy/kuma renders nothing is missing, and for a mesh that it does not name almost everything is."""
    for each in manifests(["default"], access.namespace, service_account=f"{access.namespace}:rotator"):
        cluster.apply(each)

    assert () == missing_rights(access, "default")
    assert "update meshes other" in missing_rights(access, "other")
