"""
What stands for and against rolling a workload, before anybody has to go.

Rules that must stay true here:

- Nothing is changed, and nothing is asked that rolling itself has no right to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from rotator.adapters.kubernetes.workloads import WorkloadPlace, held_by_others, owned_pods, scaler_of, surge_of
from rotator.cluster.objects import JSON, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.core.model import Surge

_GRACE_SECONDS = 30
"""Kubernetes' own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSeen:
    """A PodDisruptionBudget that covers the workload's pods."""

    name: str
    allowed: int
    """How many pods may go now."""
    all_healthy: bool
    """Everybody that it counts is healthy: if nobody may go now, nobody ever may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadReport:
    """One workload as it is now."""

    wanted: int
    ready: int
    held: str | None
    """Whose roll-out or pause stands against replacing anybody."""
    grace: timedelta
    """What each pod may take to end."""
    mounted: frozenset[str]
    """Names of the Secrets and ConfigMaps that its pods mount."""
    budgets: tuple[BudgetSeen, ...]
    surge: Surge
    """How many are wanted, and what of that is rotator's own."""


def report(api: ObjectAPI, place: WorkloadPlace, *, scaler: bool = False) -> WorkloadReport | None:
    """
    Return what there is of *place*, None if there is no such workload.

    With *scaler* it is asked who else sets its number, for which there is a right where surge is set.
    """
    owner = api.get(place.path)
    if owner is None:
        return None
    pods = owned_pods(api, place, owner)
    template = owner["spec"]["template"]
    spec = template["spec"]
    labels = template["metadata"].get("labels", {})
    listed = api.listed(path_of("policy/v1", "poddisruptionbudgets", namespace=place.namespace))
    return WorkloadReport(
        wanted=surge_of(owner).wanted,
        surge=replace(surge_of(owner), scaled_by=scaler_of(api, place) if scaler else ""),
        ready=int(owner.get("status", {}).get("readyReplicas", 0)),
        held=held_by_others(place.kind, owner, pods),
        grace=timedelta(seconds=spec.get("terminationGracePeriodSeconds", _GRACE_SECONDS)),
        mounted=frozenset(_mounted(spec)),
        budgets=tuple(_budget(each) for each in listed if selects(each["spec"].get("selector") or {}, labels)),
    )


def selects(selector: JSON, labels: JSON) -> bool:
    """Return whether *selector* selects what has *labels*; an empty one selects everything, as policy/v1 has it."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", ()):
        found = labels.get(each["key"])
        match each["operator"]:
            case "In":
                holds = found in each["values"]
            case "NotIn":
                holds = found not in each["values"]
            case "Exists":
                holds = found is not None
            case _:
                holds = found is None
        if not holds:
            return False
    return True


def _budget(budget: JSON) -> BudgetSeen:
    status = budget.get("status", {})
    expected, healthy = status.get("expectedPods", 0), status.get("currentHealthy", 0)
    return BudgetSeen(
        name=budget["metadata"]["name"],
        allowed=status.get("disruptionsAllowed", 0),
        all_healthy=expected > 0 and healthy >= expected,
    )


def _mounted(spec: JSON) -> set[str]:
    found = set()
    for volume in spec.get("volumes", ()):
        sources = (volume, *volume.get("projected", {}).get("sources", ()))
        for source in sources:
            secret, configmap = source.get("secret") or {}, source.get("configMap") or {}
            found |= {secret.get("secretName") or secret.get("name"), configmap.get("name")}
    return {name for name in found if name}
