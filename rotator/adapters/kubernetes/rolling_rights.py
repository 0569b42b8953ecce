"""
What rotator may do in a cluster for the workloads that it rolls.

Rules that must stay true here:

- Pure. Nothing is deleted, no template or number of replicas is changed: pods are evicted, and no more.
- Names of pods count on or are drawn: `Confined` keeps evictions to names such as its controller gives.
"""

from __future__ import annotations

from rotator.adapters.kubernetes.workloads import Kind, WorkloadPlace
from rotator.cluster.rights import Confined, Rights, rule


def rolling_rights(place: WorkloadPlace) -> Rights:
    """Return what `Pods` and its doctor need for one workload."""
    sets = (rule("replicasets", "list", group="apps"),) if place.kind is Kind.DEPLOYMENT else ()
    # As its controller names pods: by their ordinal, or by the ReplicaSet's hash and five characters. Without that,
    # the pods of a workload whose name begins alike could be evicted too.
    ending = "[0-9]+" if place.kind is Kind.STATEFULSET else "[a-z0-9]+-[a-z0-9]{5}"
    dotted = place.name.replace(".", "[.]")
    pattern = f"{dotted}-{ending}"
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
        confined=(Confined(namespace=place.namespace, resource="pods/eviction", patterns=(pattern,)),),
    )
