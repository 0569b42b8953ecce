"""What holds a roll of pods, and what the doctor says of it beforehand, over real controllers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.kubernetes.rolling_rights import rolling_rights
from rotator.adapters.kubernetes.workload_report import BudgetSeen, WorkloadReport, report
from rotator.adapters.kubernetes.workloads import Kind, Pods, WorkloadPlace
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.own_rights import missing_rights
from rotator.cluster.rbac import Account, role_objects
from rotator.core.model import SubjectName
from rotator.doctor import Grade
from rotator.doctor.pods import pods_findings
from tests.stack.nodes import PLAYS, Nodes, budget, pod_ids, workload
from tests.web.house import settings_of

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


class Looked:
    """One workload of two pods, seen with exactly the rights that rolling it takes."""

    def __init__(self, nodes: Nodes, api: ObjectAPI, place: WorkloadPlace) -> None:
        self.nodes = nodes
        self.api = api
        self.place = place
        self.pods = Pods(api, place, workload=SubjectName("workers"))

    def change(self, **spec: Any) -> None:
        """Change the workload's spec, as somebody else does."""
        patch = {"spec": spec}
        self.nodes.cluster.call("PATCH", self.place.path, patch, content_type="application/merge-patch+json")

    def another_template(self) -> None:
        """Change what its pods are made from."""
        self.change(template={"metadata": {"annotations": {"changed": "once"}}})

    def held(self) -> str | None:
        """Return what holds its roll now."""
        self.pods.members()
        return self.pods.held()

    def until_held(self, words: str) -> None:
        """Wait until what holds its roll says *words*."""
        self.nodes.until(lambda: words in (self.held() or ""), words)

    def until_free(self) -> None:
        """Wait until nothing holds its roll."""
        self.nodes.until(lambda: self.held() is None, "nothing to hold the roll")

    def report(self) -> WorkloadReport:
        """Return what the doctor sees."""
        found = report(self.api, self.place)
        assert found is not None
        return found

    def told(self, directory: Path) -> dict[Grade, list[str]]:
        """Return what the doctor says, of a workload that loads another Secret and has 8 s for all of it."""
        where = {"namespace": self.place.namespace, "name": self.place.name, "deadline": "8s"}
        place = {"kubernetes_secret": {"namespace": self.place.namespace, "name": "other-tls"}}
        settings = settings_of(
            directory,
            cluster={"namespace": self.place.namespace, "kubeconfig_file": "/nowhere"},
            workloads={"workers": {self.place.kind.lower(): where}},
            certificates={
                "web": {
                    "trust_domain": "mesh.test",
                    "identity": "spiffe://mesh.test/web",
                    "lifetime": "1h",
                    "publish": [place],
                    "rolls": ["workers"],
                }
            },
        )
        found: dict[Grade, list[str]] = {}
        for each in pods_findings("workload workers", settings, "workers", self.api):
            assert each.mend or each.grade is Grade.FINE
            found.setdefault(each.grade, []).append(each.what)
        return found


@pytest.fixture(params=list(Kind))
def looked(request: pytest.FixtureRequest, nodes: Nodes, pods_namespace: str, tmp_path: Any) -> Iterator[Looked]:
    """Give a workload at rest."""
    place = WorkloadPlace(kind=request.param, namespace=pods_namespace, name="worker")
    account = Account(namespace=pods_namespace)
    token = nodes.cluster.service_account(pods_namespace, account.name)
    for each in role_objects(rolling_rights(place), account, name="rolling", cluster_name=f"rolling-{pods_namespace}"):
        nodes.cluster.apply(each)
    kubeconfig = nodes.cluster.kubeconfig_for(token, pods_namespace, tmp_path / "kubeconfig")
    nodes.cluster.apply(workload(place.kind, pods_namespace, "worker", replicas=2, secret="worker-tls"))  # noqa: S106 -- a name
    nodes.until_ready(pods_namespace, 2)
    with closing(ObjectAPI(ClusterAccess(namespace=pods_namespace, kubeconfig_file=kubeconfig))) as api:
        assert () == missing_rights(api, rolling_rights(place))
        made = Looked(nodes, api, place)
        made.until_free()
        yield made


def test_a_roll_out_of_somebody_else_holds_until_it_is_over(looked: Looked) -> None:
    """From the change until every pod has the new template; a pod that does not get ready keeps it going."""
    with looked.nodes.plays(looked.place.namespace, {PLAYS: "unready"}):
        looked.another_template()
        looked.until_held("a roll-out of")
    for pod in looked.nodes.pods(looked.place.namespace):
        looked.nodes.annotate(looked.place.namespace, pod["metadata"]["name"], {PLAYS: None})
    looked.until_free()
    looked.nodes.until_ready(looked.place.namespace, 2)


def test_what_waits_for_its_people_holds(looked: Looked) -> None:
    """A paused Deployment, and a StatefulSet whose new template would come with whoever is replaced."""
    if looked.place.kind is Kind.DEPLOYMENT:
        looked.change(paused=True)
        looked.until_held("is paused")
        looked.change(paused=False)
    else:
        looked.change(updateStrategy={"type": "OnDelete", "rollingUpdate": None})
        looked.until_free()
        looked.another_template()
        looked.until_held("replace worker-0, worker-1 for it first")
        for name in ("worker-0", "worker-1"):
            looked.nodes.cluster.call("DELETE", f"/api/v1/namespaces/{looked.place.namespace}/pods/{name}")
    looked.until_free()


def test_a_partition_holds_nobody_once_it_is_reached(looked: Looked) -> None:
    """Only the pods from its number on are meant to have the new template; a scaled workload is no roll-out."""
    if looked.place.kind is Kind.STATEFULSET:
        before = pod_ids(looked.nodes.pods(looked.place.namespace))
        looked.change(updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 1}})
        looked.another_template()
        looked.nodes.until(lambda: before != pod_ids(looked.nodes.pods(looked.place.namespace)), "one to be replaced")
        looked.until_free()
        looked.nodes.until_ready(looked.place.namespace, 2)
        assert 1 == len(before & pod_ids(looked.nodes.pods(looked.place.namespace)))
    looked.change(replicas=3)
    looked.nodes.until_ready(looked.place.namespace, 3)
    looked.until_free()


def test_the_doctor_sees_what_would_stand_against_a_roll(looked: Looked, tmp_path: Path) -> None:
    """Budgets with what they allow, what is mounted, how long a pod may take, and that there is no such workload."""
    name, namespace = looked.place.name, looked.place.namespace
    looked.nodes.cluster.apply(budget(namespace, name, minAvailable="100%"))
    never = (BudgetSeen(name=name, allowed=0, all_healthy=True),)
    looked.nodes.until(lambda: never == looked.report().budgets, "the budget to be counted")
    seen = looked.report()
    assert (2, 2, None) == (seen.wanted, seen.ready, seen.held)
    assert (frozenset({"worker-tls"}), 5) == (seen.mounted, seen.grace.total_seconds())
    told = looked.told(tmp_path)
    assert f"PodDisruptionBudget {name} lets nobody go, though all are healthy" in told[Grade.BROKEN]
    assert f"2 of 2 pods of {looked.place} take work" in told[Grade.FINE]
    assert told[Grade.WARNING] == [
        "pods may take 10s to end one after the other, and the deadline is 8s",
        "its pods mount no other-tls, where certificate web is published",
    ]
    looked.nodes.cluster.apply(budget(namespace, "all", maxUnavailable=1, selector={}))
    assert {name, "all"} == {each.name for each in looked.report().budgets}
    assert any("more than one PodDisruptionBudget" in each for each in looked.told(tmp_path)[Grade.BROKEN])
    looked.nodes.cluster.delete(
        {"apiVersion": "apps/v1", "kind": looked.place.kind, "metadata": {"namespace": namespace, "name": name}}
    )
    looked.nodes.until(lambda: report(looked.api, looked.place) is None, "it to be gone")
    assert {Grade.BROKEN: [f"there is no {looked.place}"]} == looked.told(tmp_path)
    assert () == looked.pods.members()
    assert "there is no" in (looked.pods.held() or "")
