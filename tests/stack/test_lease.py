"""
The Lease of a real API server: one holder at a time, whatever clocks, calls and people do.

Rules that must stay true here:

- Time is moved by hand: each replica has clocks of its own, and no test waits for a duration to pass.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.kubernetes.lease import VERSION, KubernetesLease, LeaseTiming, lease_rights
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.doctor import Grade
from rotator.doctor.cluster import cluster_findings
from rotator.embedded.loopback_tls import write_private
from rotator.embedded.process import wait_until
from rotator.errors import AdapterError, Conflict, Denied
from tests.fakes.clock import ManualClock
from tests.fakes.gate import Gate
from tests.stack.cluster import JSON, Cluster
from tests.web.house import settings_of

pytestmark = pytest.mark.stack

TIMING = LeaseTiming(duration=timedelta(seconds=15), renew_deadline=timedelta(seconds=10), retry=timedelta(seconds=2))
PATIENCE = timedelta(seconds=60)


class Replicas:
    """Replicas that want one Lease, each with clocks of its own."""

    def __init__(self, cluster: Cluster, namespace: str, cleanup: ExitStack) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.path = path_of(VERSION, "leases", namespace=namespace, name="rotator")
        self._cleanup = cleanup
        self.access = ClusterAccess(namespace=namespace, kubeconfig_file=cluster.kubeconfig)

    def replica(
        self, name: str, *, skew: timedelta = timedelta(0), access: ClusterAccess | None = None
    ) -> tuple[KubernetesLease, ManualClock]:
        """One more replica, whose wall clock is off by *skew*."""
        clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC) + skew, moves_itself=False)
        api = ObjectAPI(access or self.access)
        self._cleanup.callback(api.close)
        lease = KubernetesLease(
            api, namespace=self.namespace, name="rotator", identity=name, timing=TIMING, clock=clock
        )
        self._cleanup.callback(lease.release)
        return lease, clock

    @property
    def stored(self) -> JSON:
        """The Lease as it is stored."""
        return self.cluster.call("GET", self.path)

    def renewed(self, clock: ManualClock) -> None:
        """Let the holder's next renewal come, and wait until it is stored."""
        before = self.stored["metadata"]["resourceVersion"]
        clock.advance(TIMING.retry)
        wait_until(
            lambda: bool(before != self.stored["metadata"]["resourceVersion"]), within=PATIENCE, what="a renewal"
        )


@pytest.fixture
def replicas(cluster: Cluster, system_namespace: str) -> Iterator[Replicas]:
    """A namespace without a Lease."""
    with ExitStack() as cleanup:
        yield Replicas(cluster, system_namespace, cleanup)


def takes(lease: KubernetesLease) -> bool:
    try:
        lease.acquire()
    except Conflict:
        return False
    return True


def test_the_second_one_is_told_who_holds_it(replicas: Replicas) -> None:
    """One takes it, also twice; the other hears its name, and both say who leads."""
    (first, _), (second, _) = replicas.replica("first"), replicas.replica("second")
    first.acquire()
    first.acquire()
    with pytest.raises(Conflict, match=f"first holds the lease {replicas.namespace}/rotator"):
        second.acquire()
    assert (True, False) == (first.held(), second.held())
    assert ("first", "first") == (first.holder(), second.holder())


def test_law_14_of_many_that_want_it_at_once_one_gets_it(replicas: Replicas) -> None:
    """Eight replicas meet where no Lease is: one takes it; when that one gives it back, one of the others does."""
    leases = [replicas.replica(f"replica-{number}")[0] for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        first = [lease for lease, got in zip(leases, pool.map(takes, leases), strict=True) if got]
        assert 1 == len(first)
        first[0].release()
        others = [lease for lease in leases if lease is not first[0]]
        second = [lease for lease, got in zip(others, pool.map(takes, others), strict=True) if got]
    assert 1 == len(second)
    assert second[0].claim().number > 0


def test_given_back_the_next_one_need_not_wait(replicas: Replicas) -> None:
    """After `release` the other takes it at once, with a higher number, and the first one holds nothing."""
    (first, _), (second, _) = replicas.replica("first"), replicas.replica("second")
    first.acquire()
    number = first.claim().number
    first.release()
    assert not first.held()
    second.acquire()
    assert number + 1 == second.claim().number
    assert first.holder() is None


@pytest.mark.parametrize("skew", [timedelta(hours=-3), timedelta(hours=3)], ids=["behind", "ahead"])
def test_law_20_a_silent_holder_is_waited_for_on_ones_own_clock(replicas: Replicas, skew: timedelta) -> None:
    """Whatever the wall clocks say, a record that does not change is left alone for a whole duration, then taken."""
    (first, _), (second, clock) = replicas.replica("first"), replicas.replica("second", skew=skew)
    first.acquire()
    assert not takes(second)
    clock.advance(TIMING.duration - timedelta(seconds=1))
    assert not takes(second)
    clock.advance(timedelta(seconds=1))
    second.acquire()
    assert second.claim().number == replicas.stored["spec"]["leaseTransitions"] == 1


def test_a_holder_that_renews_is_never_taken_over(replicas: Replicas) -> None:
    """However long the second one waits: each renewal begins its wait anew."""
    (first, held), (second, waits) = replicas.replica("first"), replicas.replica("second")
    first.acquire()
    for _ in range(12):
        assert not takes(second)
        waits.advance(TIMING.retry)
        replicas.renewed(held)
    assert first.held()


def test_law_14_who_wakes_after_its_successor_holds_nothing_and_is_told(replicas: Replicas) -> None:
    """A holder that slept over its lease believes no more, its renewal changes nothing, and it is told that once."""
    (first, slept), (second, clock) = replicas.replica("first"), replicas.replica("second")
    told = threading.Event()
    first.when_lost(told.set)
    first.acquire()
    assert not takes(second)
    clock.advance(TIMING.duration)
    second.acquire()
    slept.advance(TIMING.renew_deadline)
    assert not first.held()
    assert told.wait(PATIENCE.total_seconds())
    assert not takes(first)
    assert "second" == replicas.stored["spec"]["holderIdentity"]
    assert second.held()


def test_law_14_without_the_api_server_it_is_believed_until_the_deadline_and_no_longer(
    replicas: Replicas, tmp_path: Path
) -> None:
    """Cut off, a holder goes on until its renew deadline, which is before any successor's beginning."""
    with Gate(replicas.cluster.port) as gate:
        kubeconfig = tmp_path / "kubeconfig"
        through = f"https://127.0.0.1:{gate.port}"
        write_private(
            kubeconfig, replicas.cluster.kubeconfig.read_text().replace(replicas.cluster.url, through).encode()
        )
        access = replace(replicas.access, kubeconfig_file=kubeconfig, timeout=timedelta(seconds=1))
        lease, clock = replicas.replica("first", access=access)
        told = threading.Event()
        lease.when_lost(told.set)
        lease.acquire()
        gate.cut()
        clock.advance(TIMING.renew_deadline - timedelta(seconds=1))
        assert lease.held()
        clock.advance(timedelta(seconds=1))
        assert not lease.held()
        assert told.wait(PATIENCE.total_seconds())
        assert "first" == replicas.stored["spec"]["holderIdentity"]


def test_a_renewal_whose_answer_was_lost_and_a_touch_of_somebodys_are_survived(replicas: Replicas) -> None:
    """The record is ours, but not as we wrote it last: it is renewed as it is, and what was added stays."""
    lease, clock = replicas.replica("first")
    lease.acquire()
    replicas.cluster.call(
        "PATCH",
        replicas.path,
        {"metadata": {"annotations": {"note": "touched"}}},
        content_type="application/merge-patch+json",
    )
    replicas.renewed(clock)
    assert lease.held()
    assert "touched" == replicas.stored["metadata"]["annotations"]["note"]


def test_a_lease_that_somebody_removed_is_made_again(replicas: Replicas) -> None:
    """The holder goes on, under another Lease: its claim says so."""
    lease, clock = replicas.replica("first")
    lease.acquire()
    before = lease.claim().lease
    replicas.cluster.call("DELETE", replicas.path)
    clock.advance(TIMING.retry)
    wait_until(lambda: lease.claim().lease != before, within=PATIENCE, what="the Lease to be made again")
    assert lease.held()
    assert "first" == replicas.stored["spec"]["holderIdentity"]


def test_the_rights_suffice_and_are_no_more(replicas: Replicas, tmp_path: Path) -> None:
    """With `lease_rights` alone an account takes, renews and gives back its Lease, and reads no other one."""
    cluster, namespace = replicas.cluster, replicas.namespace
    token = cluster.service_account(namespace, "rotator")
    rules = lease_rights(namespace, "rotator").namespaces[namespace]
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "lease", "namespace": namespace}
    cluster.apply({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": list(rules)})
    cluster.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "lease"},
            "subjects": [{"kind": "ServiceAccount", "name": "rotator", "namespace": namespace}],
        }
    )
    file = cluster.kubeconfig_for(token, namespace, tmp_path / "kubeconfig")
    access = ClusterAccess(namespace=namespace, kubeconfig_file=file)
    lease, clock = replicas.replica("first", access=access)
    wait_until(lambda: _allowed(lease), within=PATIENCE, what="the role to be known")
    replicas.renewed(clock)
    lease.release()
    assert not replicas.stored["spec"].get("holderIdentity")
    other = path_of(VERSION, "leases", namespace=namespace, name="another")
    with pytest.raises(Denied):
        ObjectAPI(access).get(other)


def _allowed(lease: KubernetesLease) -> bool:
    try:
        lease.acquire()
    except AdapterError:
        return False
    return True


def test_the_doctor_says_who_leads(replicas: Replicas, tmp_path: Path) -> None:
    """Nobody, and what to do; or the holder's name."""
    settings = settings_of(
        tmp_path,
        store="postgresql+psycopg://rotator@127.0.0.1:1/rotator",
        cluster={
            "namespace": replicas.namespace,
            "kubeconfig_file": str(replicas.cluster.kubeconfig),
            "lease": {"name": "rotator"},
        },
    )

    def said() -> list[tuple[Grade, str]]:
        return [(each.grade, each.what) for each in cluster_findings(settings) if each.about == "cluster.lease"]

    assert [(Grade.WARNING, "no replica holds the Lease, so nothing is renewed")] == said()
    one, _ = replicas.replica("one")
    one.acquire()
    assert [(Grade.FINE, "one holds the Lease")] == said()
    one.release()
    assert [Grade.WARNING] == [grade for grade, _ in said()]
