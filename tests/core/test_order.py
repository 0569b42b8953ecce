"""Parts of one Airflow: one at a time, the API server first and never together with a drain."""

from __future__ import annotations

import pytest

from rotator.core.model import Member, SubjectName
from rotator.core.order import Component, Standing, held_by_others
from tests.core.worlds import member


def part(component: Component, *members: Member, has_work: bool = True, looked: bool = True) -> Standing:
    name = SubjectName(component.value)
    return Standing(workload=name, component=component, members=members if looked else None, has_work=has_work)


API, WORKERS, SCHEDULER = Component.API_SERVER, Component.WORKER, Component.SCHEDULER
READY, DRAINING, GONE = member("a"), member("a", draining=True), member("a", ready=False, fresh=True)


def test_law_17_the_api_server_waits_for_a_draining_worker_and_goes_before_the_next() -> None:
    """While a worker drains it stays; between two workers it is its turn."""
    assert held_by_others(part(API, READY), [part(WORKERS, DRAINING)]) is not None
    assert held_by_others(part(WORKERS, DRAINING), [part(API, READY)]) is None
    assert held_by_others(part(API, READY), [part(WORKERS, READY)]) is None
    assert held_by_others(part(WORKERS, READY), [part(API, READY)]) is not None


def test_law_17_no_worker_goes_while_the_api_servers_are_rolled_or_away() -> None:
    """And neither a drained one; of several that are not rolled, one that works is enough."""
    for workers in (READY, DRAINING):
        assert held_by_others(part(WORKERS, workers), [part(API, READY, GONE)]) is not None
        assert held_by_others(part(WORKERS, workers), [part(API, GONE, has_work=False)]) is not None
        assert held_by_others(part(WORKERS, workers), [part(API, READY, GONE, has_work=False)]) is None


def test_law_17_a_worker_that_is_gone_does_not_hold_the_api_server() -> None:
    """It has no task that could pay; one that was drained by hand has."""
    assert held_by_others(part(API, READY), [part(WORKERS, READY, GONE, has_work=False)]) is None
    assert held_by_others(part(API, READY), [part(WORKERS, READY, DRAINING, has_work=False)]) is not None


def test_a_lasting_fault_elsewhere_does_not_hold_what_no_task_pays_for() -> None:
    """A triggerer that does not get ready holds nobody once its own roll is over."""
    fault = part(Component.TRIGGERER, GONE, has_work=False)
    assert held_by_others(part(WORKERS, READY), [fault]) is None
    assert held_by_others(part(WORKERS, READY), [part(Component.TRIGGERER, GONE)]) is not None


def test_who_was_never_looked_at_holds_the_others() -> None:
    """After a restart nobody knows what it is in the middle of."""
    assert held_by_others(part(API, READY), [part(WORKERS, looked=False)]) is not None


@pytest.mark.parametrize("first", [False, True])
def test_two_parts_never_hold_each_other_for_good(*, first: bool) -> None:
    """Of any two that have work and are whole, one may go; of two in the middle of their own, none gets stuck alone."""
    for one in Component:
        for other in Component:
            mine, theirs = part(one, DRAINING if first else READY), part(other, READY)
            held = [held_by_others(mine, [theirs]), held_by_others(theirs, [mine])]
            assert None in held, (one, other)


def test_workers_of_several_queues_do_not_hold_each_other() -> None:
    """They are one component."""
    assert held_by_others(part(WORKERS, READY), [part(WORKERS, DRAINING)]) is None
    assert held_by_others(part(SCHEDULER, READY), []) is None
