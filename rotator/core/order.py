"""
In which order the parts of one Airflow are rolled: never two of them at the same time.

Rules that must stay true here:

- The API server is never replaced while a worker drains, and no worker is drained while API servers are rolled or none
  is there: Airflow's workers kill their own tasks some 35 s after the Execution API has gone (law 17).
- One part at a time, shortest first: API servers, scheduler, DAG processor, triggerer, then workers. A part that is
  under way comes to an end first; between two of its members another may take its turn.
- A part that has not been looked at yet holds the others: nobody knows what it is in the middle of.

Workloads of the same component (workers of several queues) do not hold each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rotator.core.model import Member, SubjectName


class Component(StrEnum):
    """What the members of a part are, in the order in which parts are rolled."""

    API_SERVER = "api_server"
    SCHEDULER = "scheduler"
    DAG_PROCESSOR = "dag_processor"
    TRIGGERER = "triggerer"
    WORKER = "worker"


_ORDER = tuple(Component)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of which Airflow a workload is."""

    installation: str
    component: Component


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A part as it was last seen."""

    workload: SubjectName
    component: Component
    members: tuple[Member, ...] | None
    """None: it has not been looked at since this process began."""
    has_work: bool = False
    """Some member of it is to be replaced."""

    @property
    def under_way(self) -> tuple[str, ...]:
        """Return the members that are between two states: drained, ending, gone, or not ready yet."""
        return tuple(
            each.name
            for each in self.members or ()
            if not each.spare and (each.draining or each.ending or not each.running or not each.ready)
        )


def held_by_others(me: Standing, others: Sequence[Standing]) -> str | None:
    """Return which other part of the same Airflow stands against replacing a member of *me*; None if none does."""
    others = [each for each in others if each.component is not me.component]
    for each in others:
        if each.members is None:
            return f"{each.workload}, another part of the same Airflow, has not been looked at yet"
    for each in others:
        if names := _in_the_way(me, each):
            return f"{', '.join(names)} of {each.workload}, another part of the same Airflow, takes no work yet"
    if me.under_way:
        return None
    for each in others:
        if each.has_work and _ORDER.index(each.component) < _ORDER.index(me.component):
            return f"{each.workload}, another part of the same Airflow, comes first"
    return None


def _in_the_way(me: Standing, other: Standing) -> tuple[str, ...]:
    """
    Return those members of *other* for which *me* has to wait.

    A lasting fault elsewhere is no reason to leave a part on a certificate that ends, unless tasks would pay for it.
    """
    if other.has_work:
        return other.under_way
    members = other.members or ()
    if me.component is Component.API_SERVER:
        # They still work, and need it.
        return tuple(each.name for each in members if each.draining or each.ending)
    if other.component is Component.API_SERVER and not any(each.ready and not each.ending for each in members):
        return tuple(each.name for each in members)
    return ()
