"""
What rotator may do in a cluster for the workloads that it rolls.

Rules that must stay true here:

- Pure. Nothing is deleted and no template is changed: pods are evicted, and no more. The number of replicas is changed
  where surge is set, and there `Confined` keeps every other part of the workload as it is.
- Names of pods count on or are drawn: `Confined` keeps evictions to names such as its controller gives.
"""

from __future__ import annotations

from typing import Final

from rotator.adapters.kubernetes.workloads import Kind, WorkloadPlace
from rotator.cluster.rights import Confined, Rights, Rule, rule

_KEPT: Final = (
    "metadata.labels",
    "metadata.ownerReferences",
    "metadata.finalizers",
    "spec.template",
    "spec.minReadySeconds",
    "spec.revisionHistoryLimit",
)
_KEPT_BY_KIND: Final = {
    Kind.STATEFULSET: ("spec.updateStrategy", "spec.persistentVolumeClaimRetentionPolicy", "spec.ordinals"),
    Kind.DEPLOYMENT: ("spec.strategy", "spec.paused", "spec.progressDeadlineSeconds"),
}
"""Whatever can be changed of a workload but its number and its annotations."""


def rolling_rights(place: WorkloadPlace, *, surge: bool = False, drained: bool = False) -> Rights:
    """
    Return what `Pods` and its doctor need for one workload.

    With *surge* also for raising its number; of one that is *drained*, whether an autoscaler takes its pods is asked.
    """
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
                *(_surging(place) if surge else ()),
                *((rule("horizontalpodautoscalers", "list", group="autoscaling"),) if surge or drained else ()),
            )
        },
        confined=(
            Confined(namespace=place.namespace, resource="pods/eviction", patterns=(pattern,)),
            *((_number_alone(place),) if surge else ()),
        ),
    )


def _surging(place: WorkloadPlace) -> tuple[Rule, ...]:
    return (
        # Not by the scale subresource, which cannot write beside the number what it was before.
        rule(place.kind.plural, "patch", group="apps", names=(place.name,)),
    )


def _number_alone(place: WorkloadPlace) -> Confined:
    """Return that of the workload nothing but its number and its annotations is changed."""
    return Confined(
        namespace=place.namespace,
        resource=place.kind.plural,
        group="apps",
        names=(place.name,),
        operations=("UPDATE",),
        kept=(*_KEPT, *_KEPT_BY_KIND[place.kind]),
    )
