"""The wanted number raised and set back over real controllers, with exactly the rights that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.kubernetes.rolling_rights import rolling_rights
from rotator.adapters.kubernetes.workload_report import report
from rotator.adapters.kubernetes.workloads import Kind, Pods, WorkloadPlace
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.own_rights import missing_rights
from rotator.cluster.rbac import Account, confinement, role_objects
from rotator.core.model import Member, SubjectName, Surge
from rotator.core.rollout import SURGE
from rotator.errors import Conflict
from tests.stack.cluster import Refused
from tests.stack.nodes import NODES, PLAYS, Nodes, workload

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

MERGE = "application/merge-patch+json"


class Surged:
    """One workload of two pods, whose number rotator may change."""

    def __init__(self, nodes: Nodes, api: ObjectAPI, place: WorkloadPlace, token: str) -> None:
        self.nodes = nodes
        self.api = api
        self.place = place
        self.token = token
        self.pods = Pods(api, place, workload=SubjectName("workers"))

    def look(self, *, scaler: bool = False) -> Surge:
        """Return how many are wanted now."""
        self.pods.members()
        found = self.pods.seen(scaler=scaler)
        assert found is not None
        return found

    def raise_number(self) -> None:
        """Want one more; a controller that wrote in between is looked past."""
        self._persistently(lambda: self.pods.more(1))

    def set_back(self) -> None:
        """Want as many as before."""
        self._persistently(self.pods.back)

    def _persistently(self, change: Any) -> None:
        def changed() -> bool:
            self.look()
            try:
                change()
            except Conflict:
                return False
            return True

        self.nodes.until(changed, "the number to be changed")

    def scale(self, number: int) -> None:
        """Let somebody else want another number."""
        self.nodes.cluster.call("PATCH", self.place.path, {"spec": {"replicas": number}}, content_type=MERGE)

    def stored(self) -> tuple[int, str | None]:
        """Return the wanted number and the annotation, as the API server has them."""
        found = self.nodes.cluster.call("GET", self.place.path)
        return found["spec"]["replicas"], found["metadata"].get("annotations", {}).get(SURGE)

    def ready(self, count: int) -> None:
        """Wait until there are exactly *count* pods, all ready."""
        self.nodes.until_ready(self.place.namespace, count)

    def patch(self, body: dict[str, Any]) -> None:
        """Change the workload as rotator's account."""
        self.nodes.cluster.call("PATCH", self.place.path, body, token=self.token, content_type=MERGE)


@pytest.fixture(params=list(Kind))
def surged(request: pytest.FixtureRequest, nodes: Nodes, pods_namespace: str, tmp_path: Path) -> Iterator[Surged]:
    """Give a workload at rest, and an account with the rights of its roll."""
    place = WorkloadPlace(kind=request.param, namespace=pods_namespace, name="worker")
    account = Account(namespace=pods_namespace)
    rights = rolling_rights(place, surge=True)
    token = nodes.cluster.service_account(pods_namespace, account.name)
    name = f"surging-{pods_namespace}"
    for each in role_objects(rights, account, name="surging", cluster_name=name):
        nodes.cluster.apply(each)
    policies = confinement(rights.confined, account, name=name)
    for each in policies:
        nodes.cluster.apply(each)
    nodes.cluster.apply(workload(place.kind, pods_namespace, "worker", replicas=2, grace_seconds=2))
    kubeconfig = nodes.cluster.kubeconfig_for(token, pods_namespace, tmp_path / "kubeconfig")
    with closing(ObjectAPI(ClusterAccess(namespace=pods_namespace, kubeconfig_file=kubeconfig))) as api:
        made = Surged(nodes, api, place, token)
        made.ready(2)
        assert () == missing_rights(api, rights)
        yield made
    for each in reversed(policies):
        nodes.cluster.delete(each)


def test_one_more_comes_and_goes_again(surged: Surged) -> None:
    """What was wanted before stands on the workload; another process that finds it there sets it back, once."""
    before = {each.identity for each in surged.pods.members()}
    surged.raise_number()
    assert (3, "from 2 to 3") == surged.stored()
    surged.ready(3)
    members = surged.pods.members()
    extra = [each.name for each in members if each.extra]
    assert (["worker-2"] if surged.place.kind is Kind.STATEFULSET else []) == extra
    # Another process, which knows nothing of this one.
    surged.pods = Pods(surged.api, surged.place, workload=SubjectName("workers"))
    assert Surge(wanted=3, before=2, raised_to=3) == surged.look()
    surged.set_back()
    assert (2, None) == surged.stored()
    surged.ready(2)
    if surged.place.kind is Kind.STATEFULSET:
        assert before == {each.identity for each in surged.pods.members()}
    surged.look()
    surged.pods.back()
    assert (2, None) == surged.stored()


def test_law_14_a_number_that_somebody_changed_is_not_overwritten(surged: Surged) -> None:
    """Changed since the look it is a conflict; changed after the raise it stands, and only the annotation goes."""
    surged.nodes.until(lambda: surged.look() == surged.look(), "its controller at rest")
    surged.look()
    surged.scale(1)
    with pytest.raises(Conflict):
        surged.pods.more(1)
    assert (1, None) == surged.stored()
    surged.ready(1)
    surged.raise_number()
    surged.look()
    surged.scale(4)
    with pytest.raises(Conflict):
        surged.pods.back()
    assert surged.look().is_overruled
    surged.set_back()
    assert (4, None) == surged.stored()


def test_nothing_but_the_number_may_be_changed(surged: Surged) -> None:
    """What its pods are made from, its labels and owners are refused to rotator by the API server."""
    surged.raise_number()
    surged.nodes.until(lambda: _is_refused(surged), "the admission policy to be in force")
    changes: list[dict[str, Any]] = [
        {"spec": {"template": {"spec": {"serviceAccountName": "other"}}}},
        {"spec": {"template": {"metadata": {"annotations": {"changed": "once"}}}}},
        {"spec": {"minReadySeconds": 7}},
        {"metadata": {"labels": {"changed": "once"}}},
        {"metadata": {"finalizers": ["example.com/kept"]}},
    ]
    changes += (
        [{"spec": {"paused": True}}, {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}]
        if surged.place.kind is Kind.DEPLOYMENT
        else [{"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}}}]
    )
    for each in changes:
        with pytest.raises(Refused, match="no such object"):
            surged.patch(each)
    other = replace(surged.place, name="other")
    surged.nodes.cluster.apply(workload(other.kind, other.namespace, "other", replicas=0))
    with pytest.raises(Refused, match="forbidden"):
        surged.nodes.cluster.call(
            "PATCH", other.path, {"spec": {"replicas": 1}}, token=surged.token, content_type=MERGE
        )


def _is_refused(surged: Surged) -> bool:
    """Return whether the policy judges by now: the API server takes a moment to know it."""
    try:
        surged.patch({"metadata": {"labels": {"tried": "once"}}})
    except Refused:
        return True
    surged.nodes.cluster.call("PATCH", surged.place.path, {"metadata": {"labels": {"tried": None}}}, content_type=MERGE)
    return False


def test_an_autoscaler_is_seen(surged: Surged) -> None:
    """By its target alone, with whoever it was made for; one of another workload is none of this one."""
    assert "" == surged.look(scaler=True).scaled_by
    for name in ("other", "worker"):
        surged.nodes.cluster.apply(_autoscaler(surged.place, name))
    assert "HorizontalPodAutoscaler hpa-worker" == surged.look(scaler=True).scaled_by
    seen = report(surged.api, surged.place, scaler=True)
    assert seen is not None
    assert "HorizontalPodAutoscaler hpa-worker" == seen.surge.scaled_by


def _autoscaler(place: WorkloadPlace, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": place.namespace, "name": f"hpa-{name}"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": place.kind.value, "name": name},
            "minReplicas": 2,
            "maxReplicas": 4,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                }
            ],
        },
    }


@pytest.mark.parametrize("surged", [Kind.STATEFULSET], indirect=True)
def test_one_that_never_begins_has_no_work_to_lose(surged: Surged) -> None:
    """What came for the roll and has no node counts as not running; begun and unready, nobody knows its work."""
    with surged.nodes.plays(surged.place.namespace, {PLAYS: "unready"}):
        for name in NODES:
            _cordon(surged.nodes, name, cordoned=True)
        try:
            surged.raise_number()
            surged.nodes.until(lambda: "no node" in _extra(surged).detail, "it to be made")
            assert not _extra(surged).running
        finally:
            for name in NODES:
                _cordon(surged.nodes, name, cordoned=False)
        surged.nodes.until(lambda: _extra(surged).running, "it to begin")
    assert not _extra(surged).ready
    surged.set_back()
    surged.ready(2)


def _extra(surged: Surged) -> Member:
    """Return the one that came for the roll."""
    (found,) = (each for each in surged.pods.members() if each.extra)
    return found


def _cordon(nodes: Nodes, name: str, *, cordoned: bool) -> None:
    nodes.cluster.call(
        "PATCH", f"/api/v1/nodes/{name}", {"spec": {"unschedulable": cordoned or None}}, content_type=MERGE
    )
