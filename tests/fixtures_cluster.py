"""
A real Kubernetes API server for every test that wants one: one a session, namespaces of its own for each test.

Loaded as a plugin by ``tests/conftest.py``: every test may ask for `cluster`, or for `nodes` where pods must come and
go; such a test is marked ``stack``. Tests of the API alone do not wait for controllers, and hold with and without them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.stack.cluster import Cluster
from tests.stack.nodes import Nodes

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a real API server with the kinds of Kuma; started once, four seconds."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.install_crds()
        yield cluster


@pytest.fixture
def system_namespace(cluster: Cluster) -> str:
    """Give a control plane namespace of a name that no other test has."""
    name = f"kuma-system-{next(_numbers)}"
    cluster.namespace(name)
    return name


@pytest.fixture(scope="session")
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    """Give the same cluster with the real controller manager and scheduler, and nodes that play pods; ten seconds."""
    with Nodes(cluster) as nodes:
        yield nodes


@pytest.fixture
def pods_namespace(nodes: Nodes) -> str:
    """Give a namespace of a name that no other test has, in which pods can be made."""
    return nodes.namespace(f"pods-{next(_numbers)}")
