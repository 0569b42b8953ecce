"""
What rotator may do in a cluster for the workloads that it rolls.

Rules that must stay true here:

- Pure. Nothing is deleted, no template or number of replicas is changed: pods are evicted, and no more.
- Names of pods count on or are drawn: `Confined` keeps evictions to those that begin with the workload's name.
"""

from __future__ import annotations

from rotator.adapters.kubernetes.workloads import Kind, WorkloadPlace
from rotator.cluster.rights import Confined, Rights, rule


def rolling_rights(place: WorkloadPlace) -> Rights:
    """Return what `Pods` and its doctor need for one workload."""
    sets = (rule("replicasets", "list", group="apps"),) if place.kind is Kind.DEPLOYMENT else ()
    return Rights(
        namespaces={
            place.namespace: (
                rule(place.kind.plural, "get", group="apps", names=(place.name,)),
                *sets,
                rule("pods", "list"),
                rule("pods/eviction", "create"),
                rule("poddisruptionbudgets", "list", group="policy"),
            )
        },
        confined=(Confined(namespace=place.namespace, resource="pods/eviction", beginnings=(f"{place.name}-",)),),
    )
