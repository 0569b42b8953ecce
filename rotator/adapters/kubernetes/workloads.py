"""
StatefulSets and Deployments as workloads whose pods are replaced one by one.

Rules that must stay true here:

- A pod ends by the Eviction API and in its own grace period: PodDisruptionBudgets hold, and nothing is deleted around
  them or killed, not by ``forced`` either (law 17).
- The pod that was decided about is the pod that goes: its UID is the eviction's precondition (law 14).
- Who the members are is asked each time: they are scaled, move between nodes and change their names meanwhile.
- A pod has loaded what was published before it was *created*: kubelet reads a Secret when it mounts it, which is later.
  A container that was restarted in its pod proves nothing, its volume was mounted before.
- What somebody else rolls out or has paused is theirs: nobody is replaced until they are done.
- The wanted number and the annotation that says what it was before are one write, with the revision that was read as
  its precondition: there is no moment at which one is true without the other (laws 13 and 14).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from rotator.cluster.objects import JSON, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.core.model import Member, Serial, SubjectName, Surge
from rotator.core.rollout import SURGE
from rotator.errors import Conflict, Rejected

_APPS: Final = "apps/v1"
_RAISED: Final = re.compile(r"from ([0-9]{1,9}) to ([0-9]{1,9})")
"""What the annotation says."""
_OVER: Final = frozenset({"Succeeded", "Failed"})
"""Phases of a pod that will not run again."""


class Kind(StrEnum):
    """Who makes the pods."""

    STATEFULSET = "StatefulSet"
    DEPLOYMENT = "Deployment"

    @property
    def plural(self) -> str:
        """Return its name in paths."""
        return f"{self.lower()}s"


class Order(StrEnum):
    """In which order the pods of a StatefulSet are rolled."""

    HIGHEST_FIRST = "highest_first"
    """As its own controller does."""
    LOWEST_FIRST = "lowest_first"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPlace:
    """One workload in the cluster."""

    kind: Kind
    namespace: str
    name: str
    order: Order = Order.HIGHEST_FIRST
    """Of a StatefulSet; the pods of a Deployment go oldest first."""

    @property
    def path(self) -> str:
        """Return where it is at the API server."""
        return path_of(_APPS, self.kind.plural, namespace=self.namespace, name=self.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Pods:
    """`rotator.ports.Workloads` and `rotator.ports.Surging` for one StatefulSet or Deployment."""

    def __init__(
        self,
        api: ObjectAPI,
        place: WorkloadPlace,
        *,
        workload: SubjectName,
        uncertainty: timedelta = timedelta(),
        shown_at: Callable[[str], Serial | None] | None = None,
    ) -> None:
        """
        Describe the workload without calling anything.

        Args:
            api: The cluster.
            place: Where it is.
            workload: Its name in the configuration.
            uncertainty: The allowed clock difference between here and the API server, which dates pods.
            shown_at: Asks the pod at an address for the serial of the leaf that it serves, None if it does not answer;
                must be bounded in time. None: nobody asks.
        """
        self._shown_at = shown_at
        self._api = api
        self._place = place
        self._workload = workload
        self._uncertainty = uncertainty
        self._uids: Mapping[str, str] = {}
        self._held: str | None = None
        self._surge: Surge | None = None
        self._revision = ""

    def members(self) -> tuple[Member, ...]:
        """
        Return a member for each pod that there is, and one that does not run for each that is yet to be made.

        None if there is no such workload: then nobody runs on old material either.
        """
        found = self._api.get(self._place.path)
        if found is None:
            self._uids, self._held, self._surge = {}, f"there is no {self._place}", None
            return ()
        pods = owned_pods(self._api, self._place, found)
        self._uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}
        self._held = held_by_others(self._place.kind, found, pods)
        self._surge, self._revision = surge_of(found), found["metadata"]["resourceVersion"]
        wanted = self._surge.wanted
        match self._place.kind:
            case Kind.STATEFULSET:
                return tuple(self._ordinals(found, pods, wanted))
            case Kind.DEPLOYMENT:
                return tuple(self._interchangeable(pods, wanted))

    def held(self) -> str | None:
        """Return whose roll-out or pause stands against replacing anybody."""
        return self._held

    def replace(self, member: str, *, forced: bool) -> None:  # noqa: ARG002 -- a pod's own grace period is all there is
        """
        Evict the pod *member* as it was last seen; its controller makes another.

        *forced* changes nothing but what it was decided on: at the end of its grace period kubelet kills any pod.

        Raises:
            NotYet: If a PodDisruptionBudget does not allow it now.
            Conflict: If another pod has its name by now.
            Rejected: If no such pod was seen.
        """
        uid = self._uids.get(member)
        if uid is None:
            raise Rejected(f"{self._place} has no pod {member}")
        self._api.evict(path_of("v1", "pods", namespace=self._place.namespace, name=member), uid=uid)

    # --- the wanted number ------------------------------------------------------------------------------------------

    def seen(self, *, scaler: bool) -> Surge | None:
        """Return how many are wanted; with *scaler* the namespace's autoscalers are asked for."""
        if self._surge is None or not scaler:
            return self._surge
        return replace(self._surge, scaled_by=scaler_of(self._api, self._place))

    def more(self, by: int) -> None:
        """Want *by* more, and leave on the workload from which number to which."""
        if self._surge is None or self._surge.before is not None:
            raise Conflict(f"the number of {self._place} is not one to raise")
        wanted = self._surge.wanted
        self._write(f"from {wanted} to {wanted + by}", replicas=wanted + by)

    def back(self) -> None:
        """Want as many as before, unless somebody else has set the number since, and take the annotation off."""
        if self._surge is None or self._surge.before is None:
            return
        self._write(None, replicas=None if self._surge.is_overruled else self._surge.before)

    def _write(self, raised: str | None, *, replicas: int | None) -> None:
        """Write the annotation, and the wanted number if it is not None, if nothing has changed since the last look."""
        body: JSON = {"metadata": {"resourceVersion": self._revision, "annotations": {SURGE: raised}}}
        if replicas is not None:
            body["spec"] = {"replicas": replicas}
        self._api.merge(self._place.path, body)

    # --- what there is ----------------------------------------------------------------------------------------------

    def _ordinals(self, owner: JSON, pods: tuple[JSON, ...], wanted: int) -> Iterator[Member]:
        """Yield the members of a StatefulSet, which are known by their numbers; then those that are too many."""
        name = owner["metadata"]["name"]
        first = int(owner["spec"].get("ordinals", {}).get("start", 0))
        names = [f"{name}-{number}" for number in range(first, first + wanted)]
        # Its controller removes the highest numbers first, whatever the order in which they are rolled.
        extra = frozenset(names[len(names) - self._surge.more :]) if self._surge is not None else frozenset()
        if self._place.order is Order.HIGHEST_FIRST:
            names.reverse()
        by_name = {pod["metadata"]["name"]: pod for pod in pods}
        for each in names:
            pod = by_name.pop(each, None)
            if pod is None:
                yield self._to_come(each, extra=each in extra)
            else:
                yield self._member(pod, spare=False, extra=each in extra)
        yield from (self._member(pod, spare=True) for pod in by_name.values())

    def _interchangeable(self, pods: tuple[JSON, ...], wanted: int) -> Iterator[Member]:
        """Yield the members of a Deployment; for those that end, others are counted on."""
        staying = [pod for pod in pods if not _is_ending(pod)]
        yield from (self._member(pod, spare=False) for pod in staying)
        for number in range(1, wanted - len(staying) + 1):
            yield self._to_come(f"{self._place.name} (pod {number} to come)")
        yield from (self._member(pod, spare=True) for pod in pods if _is_ending(pod))

    def _member(self, pod: JSON, *, spare: bool, extra: bool = False) -> Member:
        metadata, status = pod["metadata"], pod.get("status", {})
        ending = _is_ending(pod)
        address = status.get("podIP", "")
        ready = not ending and _condition(pod, "Ready").get("status") == "True"
        return Member(
            workload=self._workload,
            name=metadata["name"],
            # One that is to go with the number and has never begun has no work to lose.
            running=not (extra and status.get("phase") == "Pending"),
            ready=ready,
            started_at=datetime.fromisoformat(metadata["creationTimestamp"]),
            identity=metadata["uid"],
            detail="" if ready else _why_not_ready(pod),
            ending=ending,
            spare=spare,
            extra=extra,
            uncertainty=self._uncertainty,
            host=pod["spec"].get("hostname") or metadata["name"],
            address=address,
            shows=(self._shown_at(address) or Serial("")) if self._shown_at is not None and ready and address else None,
        )

    def _to_come(self, name: str, *, extra: bool = False) -> Member:
        return Member(
            workload=self._workload,
            name=name,
            running=False,
            ready=False,
            started_at=None,
            extra=extra,
            detail=f"the {self._place.kind}'s controller has yet to make it",
        )


def owned_pods(api: ObjectAPI, place: WorkloadPlace, owner: JSON) -> tuple[JSON, ...]:
    """Return the pods of *owner*, which is at *place*, that run or will, oldest first."""
    selector = selector_text(owner["spec"]["selector"])
    owners = {owner["metadata"]["uid"]}
    if place.kind is Kind.DEPLOYMENT:
        sets = api.listed(path_of(_APPS, "replicasets", namespace=place.namespace), selector=selector)
        owners = {each["metadata"]["uid"] for each in sets if _is_owned(each, owners)}
    pods = api.listed(path_of("v1", "pods", namespace=place.namespace), selector=selector)
    # The API server dates in whole seconds: the name makes the order the same each time.
    return tuple(
        sorted(
            (pod for pod in pods if _is_owned(pod, owners) and pod.get("status", {}).get("phase") not in _OVER),
            key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]),
        )
    )


def surge_of(owner: JSON) -> Surge:
    """
    Return how many are wanted of *owner*, and what of that rotator has raised.

    Words in the annotation that are not rotator's say that somebody else has set both: the number stands.
    """
    wanted = int(owner["spec"].get("replicas", 1))
    words = owner["metadata"].get("annotations", {}).get(SURGE)
    if words is None:
        return Surge(wanted=wanted)
    said = _RAISED.fullmatch(words)
    before, raised_to = (int(said[1]), int(said[2])) if said is not None else (wanted, -1)
    # Raised by nothing or less is nobody's surge.
    return Surge(wanted=wanted, before=before, raised_to=raised_to if raised_to > before else -1)


def scaler_of(api: ObjectAPI, place: WorkloadPlace) -> str:
    """
    Return which autoscaler sets the number of *place*, in words; empty if none does.

    KEDA scales by a HorizontalPodAutoscaler that it makes, so that is where its ScaledObjects are seen too.
    """
    for each in api.listed(path_of("autoscaling/v2", "horizontalpodautoscalers", namespace=place.namespace)):
        target = each["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) == (place.kind.value, place.name):
            owners = each["metadata"].get("ownerReferences", ())
            made_by = next((f", made for {owner['kind']} {owner['name']}" for owner in owners), "")
            return f"HorizontalPodAutoscaler {each['metadata']['name']}{made_by}"
    return ""


def held_by_others(kind: Kind, owner: JSON, pods: tuple[JSON, ...]) -> str | None:
    """Return why nobody of *pods* may be replaced for our sake, in words; None if they may."""
    metadata, spec, status = owner["metadata"], owner["spec"], owner.get("status", {})
    name = f"{kind} {metadata['namespace']}/{metadata['name']}"
    if "deletionTimestamp" in metadata:
        return f"{name} is being deleted"
    if status.get("observedGeneration", 0) < metadata.get("generation", 0):
        return f"the controller of {name} has not seen its last change yet"
    match kind:
        case Kind.DEPLOYMENT:
            if spec.get("paused"):
                return f"{name} is paused: resume it first"
            if status.get("updatedReplicas", 0) != status.get("replicas", 0):
                return f"a roll-out of {name} is under way"
            return None
        case Kind.STATEFULSET:
            return _template_pending(name, spec, status, pods)


def _template_pending(name: str, spec: JSON, status: JSON, pods: tuple[JSON, ...]) -> str | None:
    """Return that a StatefulSet's template was changed and has not reached every pod that it is meant for, or None."""
    strategy = spec.get("updateStrategy", {})
    on_delete = strategy.get("type") == "OnDelete"
    partition = 0 if on_delete else int(strategy.get("rollingUpdate", {}).get("partition", 0))
    behind = [
        pod["metadata"]["name"]
        for pod in pods
        if _ordinal(pod) >= partition
        and pod["metadata"].get("labels", {}).get("controller-revision-hash") != status.get("updateRevision")
    ]
    if not behind:
        return None
    if on_delete:
        return (
            f"the template of {name} was changed, and whoever is replaced would get it (OnDelete): "
            f"replace {', '.join(behind)} for it first"
        )
    return f"a roll-out of {name} is under way"


def selector_text(selector: JSON) -> str:
    """Return a workload's label selector as a query has it."""
    parts = [f"{key}={value}" for key, value in sorted(selector.get("matchLabels", {}).items())]
    for each in selector.get("matchExpressions", ()):
        key, values = each["key"], ",".join(each.get("values", ()))
        match each["operator"]:
            case "In":
                parts.append(f"{key} in ({values})")
            case "NotIn":
                parts.append(f"{key} notin ({values})")
            case "Exists":
                parts.append(key)
            case _:
                parts.append(f"!{key}")
    return ",".join(parts)


def _ordinal(pod: JSON) -> int:
    number = pod["metadata"]["name"].rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _is_owned(document: JSON, owners: set[str]) -> bool:
    references = document["metadata"].get("ownerReferences", ())
    return any(each.get("controller") and each["uid"] in owners for each in references)


def _is_ending(pod: JSON) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _condition(pod: JSON, type_: str) -> JSON:
    found: JSON = next((each for each in pod.get("status", {}).get("conditions", ()) if each["type"] == type_), {})
    return found


def _why_not_ready(pod: JSON) -> str:
    """Return what keeps *pod* from taking work, as its status tells it."""
    metadata, status = pod["metadata"], pod.get("status", {})
    if _is_ending(pod):
        return f"it ends by {metadata['deletionTimestamp']}"
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"no node for it: {scheduled.get('message') or scheduled.get('reason', '')}"
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting")
        if waiting is not None:
            return f"container {container['name']}: {waiting.get('reason', 'waiting')}"
    ready = _condition(pod, "Ready")
    return ready.get("message") or ready.get("reason") or f"it is {status.get('phase', 'new')}"
