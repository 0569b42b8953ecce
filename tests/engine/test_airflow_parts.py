"""The parts of one Airflow, rolled by one certificate: one after the other, and never without an API server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.kubernetes.workloads import Kind
from rotator.core.model import SubjectKind, SubjectName
from rotator.core.order import Component, Part
from rotator.core.rollout import RolloutPolicy
from rotator.engine.targets import WorkloadTarget
from tests.engine.world import World
from tests.fakes.pods import FakePodDrainer, FakePods

SERVICE = SubjectName("service-0")
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
SIZES = {
    Component.WORKER: 3,
    Component.TRIGGERER: 2,
    Component.DAG_PROCESSOR: 1,
    Component.SCHEDULER: 2,
    Component.API_SERVER: 2,
}
"""In an order that is not the one in which they are to be rolled."""


@dataclass
class Airflow:
    """The parts of one Airflow, each a workload of pods, and what was seen of them at each moment."""

    world: World
    pods: dict[Component, FakePods] = field(default_factory=dict)
    fewest_api_servers: int = 99
    clashes: list[str] = field(default_factory=list)
    order: list[Component] = field(default_factory=list)

    def add(self, component: Component) -> WorkloadTarget:
        """Return one part as a target."""
        is_worker, is_api = component is Component.WORKER, component is Component.API_SERVER
        pods = FakePods(
            self.world.clock,
            Kind.STATEFULSET if is_worker else Kind.DEPLOYMENT,
            replicas=SIZES[component],
            workload=component,
            name=component,
            uncertainty=2 * SECOND,
            faults=self.world.faults,
        )
        pods.ready_after, pods.grace = 4 * SECOND, 3 * SECOND
        self.pods[component] = pods
        drainer = FakePodDrainer(pods) if is_worker else None
        if drainer is not None:
            drainer.begins = lambda _uid: 6
        return WorkloadTarget(
            name=SubjectName(component),
            policy=RolloutPolicy(
                max_unavailable=1,
                drain_deadline=HOUR,
                drained=is_worker,
                starts_members=False,
                keep_available=1 if is_api else 0,
            ),
            workloads=pods,
            drainer=drainer,
            ready_within=30 * SECOND,
            part=Part(installation="main", component=component),
        )

    def identities(self) -> set[tuple[Component, str]]:
        """Return which pods there are."""
        return {(part, each.identity) for part, pods in self.pods.items() for each in pods.members()}

    def look(self) -> None:
        """Note who is out of work now."""
        out: dict[Component, int] = {}
        for component, pods in self.pods.items():
            known = self.world.engine.rolls.known_members(SubjectName(component))
            draining = {each.identity for each in known if each.draining}
            ready = [each for each in pods.members() if each.ready and not each.ending]
            out[component] = SIZES[component] - len([each for each in ready if each.identity not in draining])
            if component is Component.API_SERVER:
                self.fewest_api_servers = min(self.fewest_api_servers, len(ready))
            if pods.evictions and component not in self.order:
                self.order.append(component)
        under_way = [component for component, count in out.items() if count > 0]
        if len(under_way) > 1:
            self.clashes.append(f"{self.world.clock.now()}: {', '.join(under_way)}")


@pytest.fixture
def airflow(tmp_path: Path) -> Iterator[Airflow]:
    """A settled world whose first service is loaded by the parts of an Airflow."""
    made = Airflow(World(tmp_path, certificates=1))
    world = made.world
    target = world.certificates[SERVICE]
    rolls = tuple(SubjectName(each) for each in SIZES)
    world.certificates[SERVICE] = replace(target, certificate=replace(target.certificate, rolls=rolls), probes=())
    for component in SIZES:
        world.workloads[SubjectName(component)] = made.add(component)
    world.restart()
    world.run(until=world.settled, span=HOUR)
    world.run(span=20 * SECOND)
    for pods in made.pods.values():
        pods.evictions = 0
    yield made
    world.close()


@pytest.mark.parametrize("restarts", [False, True])
def test_law_17_parts_are_rolled_one_after_the_other(airflow: Airflow, *, restarts: bool) -> None:
    """An API server is there at every moment, none goes while a worker drains, and each pod goes once."""
    world = airflow.world
    before = airflow.identities()
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    evicted = 0
    while not world.settled():
        world.engine.sweep()
        airflow.look()
        now = sum(pods.evictions for pods in airflow.pods.values())
        if restarts and now > evicted:
            world.restart()
        evicted = now
        world.clock.advance(SECOND)
        assert world.clock.now() < world.rotations(SERVICE)[-1].opened_at + HOUR, world.explain()
    assert [] == airflow.clashes
    assert 1 == airflow.fewest_api_servers
    assert list(Component) == airflow.order
    assert sum(SIZES.values()) == sum(pods.evictions for pods in airflow.pods.values())
    assert not before & airflow.identities()
