"""
The chart applied to a real cluster.

Rules that must stay true here:

- What is applied is what Helm rendered, whole, with strict validation; the namespace admits restricted pods alone.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from tests.deploy.charts import EXAMPLES, JSON, Rendering
from tests.stack.cluster import Cluster
from tests.stack.nodes import Nodes

_numbers = itertools.count(1)


def install(cluster: Cluster, rendering: Rendering, *words: str) -> list[JSON]:
    """Render and apply everything as Helm would apply it: on the server's side, no unknown field let through."""
    cluster.call(
        "PATCH",
        f"/api/v1/namespaces/{rendering.namespace}",
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        content_type="application/merge-patch+json",
    )
    documents = rendering.documents(*words)
    # Definitions first, as Helm orders them.
    for document in sorted(documents, key=lambda each: each["kind"] != "CustomResourceDefinition"):
        cluster.call(
            "PATCH",
            cluster.path_of(document),
            document,
            content_type="application/apply-patch+yaml",
            query={"fieldManager": "helm", "fieldValidation": "Strict"},
        )
    return documents


def placed(case: str, place: Path, nodes: Nodes) -> Rendering:
    """Return the shipped example *case* in namespaces that no other test has."""
    number = next(_numbers)
    home, airflow = nodes.namespace(f"rotator-chart-{number}"), nodes.namespace(f"airflow-chart-{number}")
    configuration = (EXAMPLES / f"cluster-{case}.yaml").read_text()
    for before, after in (
        ("namespace: rotator", f"namespace: {home}"),
        ("namespace: airflow", f"namespace: {airflow}"),
    ):
        assert before in configuration
        configuration = configuration.replace(before, after)
    return replace(Rendering(place=place, configuration=configuration, values=case), namespace=home)
