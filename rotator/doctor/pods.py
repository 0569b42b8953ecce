"""
Whether the workloads in the cluster could be rolled.

Rules that must stay true here:

- Nobody is evicted, not as a rehearsal either: what the API server would say is worked out from what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from rotator.adapters.kubernetes.workload_report import WorkloadReport, report
from rotator.bootstrap.fleet import workload_place
from rotator.cluster.objects import ObjectAPI
from rotator.core.rollout import SURGE
from rotator.core.window import written
from rotator.doctor.findings import Finding, broken, fine, warning
from rotator.settings import Settings
from rotator.settings.workloads import ClusterWorkload


def pods_findings(about: str, settings: Settings, name: str, api: ObjectAPI) -> Iterator[Finding]:
    """Yield what is found of the workload *name*, which is in the cluster of *api*."""
    workload = settings.workloads[name]
    place, wanted = workload_place(workload), workload.in_cluster
    if place is None or wanted is None:
        return
    found = report(api, place, scaler=workload.surge > 0 or workload.drain is not None)
    if found is None:
        yield broken(about, f"there is no {place}", "mend namespace and name, or make it: nobody would be rolled")
        return
    ready = f"{found.ready} of {found.wanted} pods of {place} take work"
    if found.ready < found.wanted:
        yield warning(about, ready, "mend those that do not: a roll stops where pods do not get ready")
    else:
        yield fine(about, ready)
    if found.held is not None:
        yield warning(about, found.held, "see it through: until then nobody is replaced")
    yield from _budgets(about, found, surge=workload.surge > 0)
    yield from _time(about, found, wanted, workload.max_unavailable + workload.surge, surge=workload.surge > 0)
    yield from _number(about, found, str(place), workload.surge)
    if found.surge.scaled_by and not workload.surge:
        yield warning(
            about,
            f"{found.surge.scaled_by} sets the number of {place}; rotator leaves it alone, but nobody drains the pods "
            f"that it takes away, drained by rotator or not: they have {written(found.grace)} to end",
            "let terminationGracePeriodSeconds be longer than the longest task, and let it scale down slowly "
            "(behavior.scaleDown; at KEDA advanced.horizontalPodAutoscalerConfig and cooldownPeriod)",
        )
    yield from _mounts(about, found, settings, name, place.namespace)


def _budgets(about: str, found: WorkloadReport, *, surge: bool) -> Iterator[Finding]:
    """Yield what its PodDisruptionBudgets mean for a roll."""
    if len(found.budgets) > 1:
        names = ", ".join(each.name for each in found.budgets)
        yield broken(
            about,
            f"its pods are covered by more than one PodDisruptionBudget ({names}), so none of them can be evicted",
            "leave one of them",
        )
        return
    for each in found.budgets:
        if each.allowed > 0:
            yield fine(about, f"PodDisruptionBudget {each.name} lets {each.allowed} go now")
        elif each.all_healthy and surge:
            yield warning(
                about,
                f"PodDisruptionBudget {each.name} lets nobody go, though all are healthy; with surge it may",
                "let it ask for minAvailable as a number, no higher than what is wanted without surge",
            )
        elif each.all_healthy:
            yield broken(
                about,
                f"PodDisruptionBudget {each.name} lets nobody go, though all are healthy",
                "let it allow one disruption, or no pod will ever load a new certificate",
            )
        else:
            yield warning(
                about, f"PodDisruptionBudget {each.name} lets nobody go now", "mend the pods that are not healthy"
            )


def _number(about: str, found: WorkloadReport, place: str, surge: int) -> Iterator[Finding]:
    """Yield whether the wanted number can be raised for a roll, and what is left of an earlier one."""
    seen = found.surge
    if seen.scaled_by and surge:
        yield broken(
            about,
            f"{seen.scaled_by} sets the number of {place}, so surge {surge} cannot be had and its roll will not begin",
            "take surge out of the configuration and let max_unavailable be 1 or more, or remove the autoscaler",
        )
    if seen.is_overruled:
        yield warning(
            about,
            f"somebody else set the number of {place} to {seen.wanted} after rotator had raised it",
            f"nothing, if {seen.wanted} is meant: rotator leaves it; annotation {SURGE} goes with the end of the roll",
        )
    elif seen.before is not None and not surge:
        yield warning(
            about,
            f"the number of {place} is still raised from {seen.before} to {seen.wanted}, and surge is not set any more",
            f"set it back to {seen.before} and take annotation {SURGE} off: rotator may have lost the right to do it",
        )
    elif seen.before is not None:
        yield fine(about, f"the number of {place} is raised from {seen.before} to {seen.wanted} for its roll")


def _time(
    about: str, found: WorkloadReport, wanted: ClusterWorkload, at_once: int, *, surge: bool
) -> Iterator[Finding]:
    """Yield whether all waves fit into the deadline if every pod uses its grace period."""
    longest = math.ceil(found.wanted / at_once) * found.grace
    if longest > wanted.deadline:
        yield warning(
            about,
            f"pods may take {written(longest)} to end one after the other, and the deadline is "
            f"{written(wanted.deadline)}",
            "lengthen its deadline, raise max_unavailable, or shorten terminationGracePeriodSeconds",
        )
    if found.wanted == 1 and not surge:
        yield warning(about, "it has one pod, so nobody takes work while that is replaced", "give it a second one")


def _mounts(about: str, found: WorkloadReport, settings: Settings, name: str, namespace: str) -> Iterator[Finding]:
    """Yield the certificates that roll it and that its pods do not mount."""
    for subject, certificate in settings.certificates.items():
        if name not in certificate.rolls:
            continue
        secrets = [
            place.kubernetes_secret.name
            for place in certificate.publish
            if place.kubernetes_secret is not None and place.kubernetes_secret.namespace == namespace
        ]
        if secrets and not found.mounted & set(secrets):
            yield warning(
                about,
                f"its pods mount no {' or '.join(secrets)}, where certificate {subject} is published",
                "mount it, or take the workload out of the certificate's rolls: replacing them would change nothing",
            )
