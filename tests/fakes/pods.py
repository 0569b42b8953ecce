"""
A StatefulSet or Deployment with its controller, and a drain of its pods, in memory and by hand-moved time.

Rules that must stay true here:

- It passes the contract suite of the real one (tests/contract/test_pods.py).
- The controller acts when somebody looks: what is due by the clock has happened then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.adapters.kubernetes.workloads import Kind
from rotator.core.model import Member, Serial, SubjectName, Surge
from rotator.errors import Conflict, NotYet, Rejected
from rotator.ports import Clock
from tests.fakes.faults import Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class FakePod:
    """One pod."""

    name: str
    uid: str
    created_at: datetime
    ready_at: datetime | None
    """None: it does not get ready."""
    gone_at: datetime | None = None
    """None: nobody told it to end."""


class FakePods:
    """`rotator.ports.Workloads` and `rotator.ports.Surging` over pods in memory."""

    def __init__(
        self,
        clock: Clock,
        kind: Kind = Kind.STATEFULSET,
        *,
        replicas: int = 3,
        workload: str = "workers",
        name: str = "worker",
        uncertainty: timedelta = timedelta(),
        on_start: Callable[[str], None] = lambda _: None,
        faults: Faults | None = None,
    ) -> None:
        """Make it with all of its pods ready; *on_start* is called with the UID of each that is made later."""
        self.clock = clock
        self.kind = kind
        self.name = name
        self.workload = SubjectName(workload)
        self.replicas = replicas
        self.uncertainty = uncertainty
        self.on_start = on_start
        self.faults = faults or Faults()
        self.most_disrupted: int | None = None
        """Of a PodDisruptionBudget; None: there is none."""
        self.ready_after = timedelta()
        self.grace = timedelta()
        self.next_are_sick = False
        self.none_are_made = False
        """The controller can make no pods: a quota, an admission policy."""
        self.held_by: str | None = None
        self.shown: dict[str, str] | None = None
        """By UID, what each pod is seen to serve; None: nobody looks."""
        self.raised: tuple[int, int] | None = None
        """What the annotation says: from which number to which."""
        self.autoscaler = ""
        self.revision = 0
        self.wanted: list[int] = []
        """Every number that was written through the port."""
        self.work: dict[str, int] = {}
        """By UID, how many looks of the drain a pod still works."""
        self.lost = 0
        """Work of pods that were told to end."""
        self.evictions = 0
        self.fewest_ready: int | None = None
        """How few took work at any look, from when it is set."""
        self._numbers = itertools.count(1)
        self._pods: list[FakePod] = []
        self._seen: dict[str, str] = {}
        self._seen_number = (0, Surge(wanted=replicas))
        self.settle()

    # --- the port ---------------------------------------------------------------------------------------------------

    def members(self) -> tuple[Member, ...]:
        """Return the pods that there are and those that are to come."""
        with self.faults.call("members"):
            self.settle()
            self._seen = {pod.name: pod.uid for pod in self._pods}
            self._seen_number = (self.revision, self._number())
            return tuple(self._members())

    def held(self) -> str | None:
        """Return what a test says somebody else does."""
        return self.held_by

    def replace(self, member: str, *, forced: bool) -> None:  # noqa: ARG002 -- as the real one
        """Tell a pod to end."""
        with self.faults.call("replace"):
            self.settle()
            if member not in self._seen:
                raise Rejected(f"{self.workload} has no pod {member}")
            pod = next((each for each in self._pods if each.name == member), None)
            if pod is None:
                return
            if pod.uid != self._seen[member]:
                raise Conflict(f"{member} is another pod by now")
            if self.most_disrupted is not None and pod.gone_at is None and self._is_ready(pod):
                healthy = sum(map(self._is_ready, self._pods))
                if healthy - 1 < self.replicas - self.most_disrupted:
                    needs = self.replicas - self.most_disrupted
                    raise NotYet(f"The disruption budget {self.name} needs {needs} healthy pods and has {healthy}")
            self.end(member)
            self.evictions += 1
            self.settle()

    # --- the wanted number ------------------------------------------------------------------------------------------

    def seen(self, *, scaler: bool) -> Surge | None:
        """Return how many are wanted, as `members` saw it."""
        surge = self._seen_number[1]
        return replace(surge, scaled_by=self.autoscaler) if scaler else surge

    def more(self, by: int) -> None:
        """Want more, and keep from which number to which."""
        with self.faults.call("more"):
            surge = self._unchanged()
            if surge.before is not None:
                raise Conflict("not one to raise")
            self.raised = (surge.wanted, surge.wanted + by)
            self._want(surge.wanted + by)

    def back(self) -> None:
        """Want as many as before, unless somebody set the number since."""
        with self.faults.call("back"):
            surge = self._unchanged()
            if surge.before is None:
                return
            self.raised = None
            self._want(surge.wanted if surge.is_overruled else surge.before)

    def _number(self) -> Surge:
        before, raised_to = self.raised or (None, None)
        return Surge(wanted=self.replicas, before=before, raised_to=raised_to)

    def _unchanged(self) -> Surge:
        revision, surge = self._seen_number
        if revision != self.revision:
            raise Conflict("changed since it was seen")
        return surge

    def _want(self, number: int) -> None:
        self.scale(number)
        self.wanted.append(number)
        self.settle()

    # --- the world --------------------------------------------------------------------------------------------------

    def scale(self, number: int) -> None:
        """Let another number be wanted, as anybody may."""
        self.replicas = number
        self.revision += 1

    def end(self, name: str) -> None:
        """Tell a pod to end, as anybody may; what it works on is lost."""
        now = self.clock.now()
        for each in self._pods:
            if each.name == name and each.gone_at is None:
                self.lost += self.work.pop(each.uid, 0) > 0
        self._pods = [
            replace(each, gone_at=now + self.grace) if each.name == name and each.gone_at is None else each
            for each in self._pods
        ]

    def mend(self) -> None:
        """Let every pod get ready, those to come too."""
        self.next_are_sick = False
        now = self.clock.now()
        self._pods = [each if each.ready_at is not None else replace(each, ready_at=now) for each in self._pods]

    def fall_sick(self, name: str) -> None:
        """Let a pod stop taking work."""
        self._pods = [replace(each, ready_at=None) if each.name == name else each for each in self._pods]

    def settle(self) -> None:
        """Let everything happen that is due by now."""
        now = self.clock.now()
        self._pods = [each for each in self._pods if each.gone_at is None or each.gone_at > now]
        if self.kind is Kind.STATEFULSET:
            wanted = [f"{self.name}-{number}" for number in range(self.replicas)]
            for pod in tuple(self._pods):
                if pod.name not in wanted:
                    self.end(pod.name)
            taken = {each.name for each in self._pods}
            for name in wanted:
                if name not in taken:
                    self._make(name)
        else:
            staying = [each for each in self._pods if each.gone_at is None]
            for pod in staying[self.replicas :]:
                self.end(pod.name)
            for _ in range(self.replicas - len(staying)):
                self._make(f"{self.name}-{next(self._numbers)}x")
        if self.fewest_ready is not None:
            self.fewest_ready = min(self.fewest_ready, sum(map(self._is_ready, self._pods)))

    def _make(self, name: str) -> None:
        if self.none_are_made:
            return
        now = self.clock.now()
        uid = f"uid-{next(self._numbers)}"
        ready_at = None if self.next_are_sick else now + self.ready_after
        self._pods.append(FakePod(name=name, uid=uid, created_at=now.replace(microsecond=0), ready_at=ready_at))
        self.on_start(uid)

    def _members(self) -> list[Member]:
        pods = self._pods
        if self.kind is Kind.STATEFULSET:
            ordered = sorted(pods, key=lambda pod: -int(pod.name.rpartition("-")[2]))
            found = [self._member(pod, spare=int(pod.name.rpartition("-")[2]) >= self.replicas) for pod in ordered]
            missing = {f"{self.name}-{number}" for number in range(self.replicas)} - {each.name for each in found}
            first_extra = self.replicas - self._number().more
            return [
                replace(each, extra=first_extra <= int(each.name.rpartition("-")[2]) < self.replicas)
                for each in (*found, *map(self._to_come, sorted(missing)))
            ]
        staying = [each for each in pods if each.gone_at is None]
        ending = [each for each in pods if each.gone_at is not None]
        return [
            *(self._member(pod, spare=False) for pod in staying),
            *(self._to_come(f"{self.name} (pod {number} to come)") for number in range(len(staying), self.replicas)),
            *(self._member(pod, spare=True) for pod in ending),
        ]

    def _member(self, pod: FakePod, *, spare: bool) -> Member:
        ready = self._is_ready(pod)
        return Member(
            workload=self.workload,
            name=pod.name,
            running=True,
            ready=ready,
            started_at=pod.created_at,
            identity=pod.uid,
            detail="" if ready else "it ends" if pod.gone_at is not None else "the readiness probe fails",
            ending=pod.gone_at is not None,
            spare=spare,
            uncertainty=self.uncertainty,
            host=pod.name,
            shows=None if self.shown is None or not ready else Serial(self.shown.get(pod.uid, "")),
        )

    def _to_come(self, name: str) -> Member:
        return Member(workload=self.workload, name=name, running=False, ready=False, started_at=None)

    def _is_ready(self, pod: FakePod) -> bool:
        return pod.gone_at is None and pod.ready_at is not None and self.clock.now() >= pod.ready_at


class FakePodDrainer:
    """`rotator.ports.Drainer` of `FakePods`: with each look whoever works finishes a little."""

    def __init__(self, pods: FakePods, queues: frozenset[str] = frozenset({"default"})) -> None:
        """Drain *pods*, which all consume *queues*."""
        self.pods = pods
        self.queues = queues
        self.drained: set[str] = set()
        self.begins: Callable[[str], int] = lambda _: 0
        """By UID, for how many looks a pod that takes work begins to work."""
        self.without_consumer = 0
        """At how many looks nobody consumed."""

    def inspect(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Return who still works, and let time pass for them."""
        seen = tuple(self._look(each) for each in members)
        self.without_consumer += not any(each.ready and not each.draining and not each.ending for each in seen)
        return seen

    def drain(self, member: Member) -> None:
        """Let it take no more."""
        self.drained.add(member.identity)

    def undrain(self, member: Member) -> None:
        """Let it take work again."""
        self.drained.discard(member.identity)

    def _look(self, member: Member) -> Member:
        uid, work = member.identity, self.pods.work
        draining = uid in self.drained
        left = max(0, work.get(uid, 0) - 1)
        if left == 0 and member.ready and not draining:
            left = self.begins(uid)
        if member.running and not member.ending:
            work[uid] = left
        return replace(member, draining=draining, busy=left if member.running else None, queues=self.queues)
