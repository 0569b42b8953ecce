"""
Workloads of a real cluster rolled by the real daemon, with exactly the rights that its configuration takes.

Rules that must stay true here:

- Certificates come from a real OpenBao and go to Secrets that the pods mount; pods come and go by the real controllers.
- What was done is read from the API server's audit log and from rotator's ledger, not from what either says of itself.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.bootstrap.rights import rights_objects
from rotator.cluster.rbac import Account
from rotator.core.alert_kinds import AlertKind
from rotator.core.event import Event, EventType
from rotator.core.rollout import SURGE
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, listening, wait_until
from rotator.evidence.ledger import records
from rotator.settings import load
from rotator.store.sql import SQLStore
from tests.e2e.installation import DaemonInstallation
from tests.fixtures_openbao import new_domain
from tests.stack.cluster import Refused
from tests.stack.nodes import ENDS, IP, PLAYS, Nodes, budget, is_ready, pod_ids, workload

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(600)]

CERTIFICATE = "service"
SIZE = 3
CLOCKS = timedelta(seconds=4)
"""More than the daemon's skew and time to publish, and a second that the API server does not tell."""
PATIENCE = timedelta(seconds=120)


class Farm:
    """A StatefulSet and a Deployment of three pods each under budgets, and a daemon that looks after them."""

    def __init__(
        self,
        nodes: Nodes,
        namespace: str,
        openbao: OpenBaoServer,
        directory: Path,
        *,
        statefulset: str = "worker",
        size: int = SIZE,
    ) -> None:
        self.statefulset = statefulset
        self.patience = PATIENCE
        self.size = size
        self.nodes = nodes
        self.namespace = namespace
        self.grace_seconds = 2.0
        vault = new_domain(openbao, directory / "credentials", token_life=timedelta(minutes=10))
        account = Account(namespace=namespace)
        self.username = account.username
        token = nodes.cluster.service_account(namespace, account.name)
        self.token = token
        kubeconfig = nodes.cluster.kubeconfig_for(token, namespace, directory / "kubeconfig")
        self.daemon = DaemonInstallation(
            directory,
            vault,
            trust_domain={
                "model": "standalone",
                "issuer": "corporate",
                "ca": {
                    "mount": vault.mount,
                    "role": vault.rights.role,
                    "lifetime": "6h",
                    "minimum_overlap": "1s",
                    "crl_interval": "1m",
                },
                "longest_leaf": "30m",
                "trust_deadline": {"after": "30s"},
            },
            certificates={
                CERTIFICATE: {
                    "trust_domain": vault.trust_domain,
                    "identity": f"spiffe://{vault.trust_domain}/{CERTIFICATE}",
                    "lifetime": "30m",
                    "publish": [{"kubernetes_secret": {"namespace": namespace, "name": "service-tls"}}],
                    "rolls": ["workers", "web"],
                }
            },
        )
        place: dict[str, Any] = {"namespace": namespace, "deadline": "4m"}
        self.daemon.document |= {
            "cluster": {"namespace": namespace, "kubeconfig_file": str(kubeconfig)},
            "workloads": {
                "workers": {"statefulset": place | {"name": statefulset}, "start_timeout": "5s"},
                "web": {"deployment": place | {"name": "web"}, "start_timeout": "5s"},
            },
        }
        self.daemon.write()
        for each in rights_objects(load(self.daemon.configuration), account):
            nodes.cluster.apply(each)

    def begin(self, **annotations: str) -> None:
        """Publish the first certificate, and then start the pods that mount it."""
        self.publish()
        self.plant(**annotations)

    def publish(self) -> None:
        """Start the daemon, and wait for the first certificate."""
        self.daemon.start()
        self.daemon.wait_settled()
        # A pod that is made within the clocks' allowed difference of the publication would be replaced once more.
        published = datetime.now(UTC)
        self.until(lambda: datetime.now(UTC) - published > CLOCKS, "the clocks' difference to pass")

    def plant(self, **annotations: str) -> None:
        """Start the pods, and wait until they are seen to use it."""
        for kind, name in (("StatefulSet", self.statefulset), ("Deployment", "web")):
            self.nodes.cluster.apply(
                workload(
                    kind,
                    self.namespace,
                    name,
                    replicas=self.size,
                    secret="service-tls",  # noqa: S106 -- the name of a Secret
                    annotations=annotations,
                    grace_seconds=int(self.grace_seconds),
                )
            )
            self.nodes.cluster.apply(budget(self.namespace, name, maxUnavailable=1))
        self.nodes.until_ready(self.namespace, 2 * self.size)
        self.settle()

    def settle(self, count: int | None = None) -> None:
        """Wait until the certificate is in use by every one of *count* pods, and nobody comes or goes any more."""
        wanted = 2 * self.size if count is None else count

        def at_rest() -> bool:
            pods = self.pods()
            return self.daemon.settled() and pods == self.pods() and len(pods) == wanted and self._seen() == pods

        self.until(at_rest, "the farm to be at rest")

    def _seen(self) -> frozenset[str]:
        """Return the pods that the daemon has seen ready, as its status shows them."""
        status = self.daemon.status() or {}
        return frozenset(
            member["identity"] for each in status.get("workloads", ()) for member in each["members"] if member["ready"]
        )

    def material(self) -> dict[str, bytes]:
        """Return what the Secret holds, as a pod that starts now mounts it."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets/service-tls"
        return {key: base64.b64decode(value) for key, value in self.nodes.cluster.call("GET", path)["data"].items()}

    def stopped(self) -> set[str]:
        """Return the workloads whose roll is stopped, as the daemon's status shows it."""
        status = self.daemon.status() or {}
        return {each["name"] for each in status.get("workloads", ()) if "the roll is stopped" in each["why"]}

    def why(self, workload_name: str) -> str:
        """Return what the roll of a workload waits for, in the daemon's words."""
        rows = (self.daemon.status() or {}).get("workloads", ())
        return " ".join(each["why"] for each in rows if each["name"] == workload_name)

    def coming(self, workload_name: str) -> set[str]:
        """Return whom the roll of a workload waits for to take work."""
        status = self.daemon.status() or {}
        rows = [each for each in status.get("workloads", ()) if each["name"] == workload_name]
        return {name for each in rows if each["why"] == "to take work" for name in each["waiting_on"]}

    def names(self) -> set[str]:
        """Return the names of the pods that are ready now."""
        return {pod["metadata"]["name"] for pod in self.nodes.pods(self.namespace) if is_ready(pod)}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until *condition* holds."""
        wait_until(
            condition, within=self.patience, what=f"{what}: {self.daemon.status()}", every=timedelta(milliseconds=200)
        )

    def pods(self) -> frozenset[str]:
        """Return which pods there are."""
        return pod_ids(self.nodes.pods(self.namespace))

    def evictions(self, code: int = 201) -> list[str]:
        """Return the pods whose eviction by rotator was answered with *code*, in order, as the API server tells."""
        return [
            event["objectRef"]["name"]
            for event in self.nodes.cluster.audit(user=self.username)
            if event.get("objectRef", {}).get("subresource") == "eviction" and event["responseStatus"]["code"] == code
        ]

    def events(self, *types: EventType) -> list[Event]:
        """Return the ledger's events of *types*."""
        with contextlib.closing(SQLStore(self.daemon.document["store"], environment="test")) as store:
            return [each.event for each in records(store) if each.event.type in types]

    def alerts(self, kind: AlertKind) -> list[tuple[str, str]]:
        """Return what the ledger says of alerts of *kind*: which workload, raised or cleared."""
        found = self.events(EventType.ALERT_RAISED, EventType.ALERT_CLEARED)
        return [(str(each.subject), each.type.value) for each in found if each.detail["alert"] == kind.value]


@pytest.fixture
def farm(nodes: Nodes, pods_namespace: str, openbao: OpenBaoServer, tmp_path: Path) -> Iterator[Farm]:
    """Give a farm whose daemon is stopped at the end."""
    made = Farm(nodes, pods_namespace, openbao, tmp_path)
    try:
        yield made
    finally:
        made.daemon.daemon.stop()


def test_a_rotation_replaces_every_pod_once_under_its_budget(farm: Farm) -> None:
    """Six pods go in their own grace period, one record each, none a second time; a restart makes nobody go."""
    farm.begin(**{ENDS: "at-grace"})
    before, rolled = farm.pods(), len(farm.events(EventType.ROLLED))
    evicted = len(farm.evictions())
    farm.daemon.rotate(CERTIFICATE)
    farm.settle()
    after = farm.pods()
    assert not before & after
    assert 2 * SIZE == len(farm.evictions()) - evicted
    assert sorted(before) == sorted(str(each.detail["was"]) for each in farm.events(EventType.ROLLED)[rolled:])
    # What the configuration takes is enough, and what it does not name is refused by the API server.
    assert 0 == farm.daemon.run("doctor").returncode
    farm.nodes.cluster.apply(workload("Deployment", farm.namespace, "other", replicas=1))
    (other,) = farm.nodes.until_ready(farm.namespace, 1, "app=other")
    path = f"/api/v1/namespaces/{farm.namespace}/pods/{other['metadata']['name']}"
    with pytest.raises(Refused, match="no such object"):
        farm.nodes.cluster.call("POST", f"{path}/eviction", token=farm.token, body=_eviction(other))
    with pytest.raises(Refused, match="forbidden"):
        farm.nodes.cluster.call("DELETE", path, token=farm.token)
    farm.nodes.cluster.delete({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _named(farm, "other")})
    # Restarted in good order and by a crash, and with a pod that somebody moved: nothing has changed for anybody.
    farm.daemon.daemon.stop()
    farm.daemon.start()
    farm.nodes.cluster.call("DELETE", f"/api/v1/namespaces/{farm.namespace}/pods/worker-0")
    farm.nodes.until_ready(farm.namespace, SIZE, "app=worker")
    farm.daemon.daemon.kill()
    farm.daemon.start()
    farm.settle()
    assert 2 * SIZE == len(farm.evictions()) - evicted
    assert 2 * SIZE - 1 == len(after & farm.pods())


def test_an_unhealthy_pod_stops_the_roll_until_it_is_mended(farm: Farm) -> None:
    """One of each goes, the rest work on, people are told; the daemon's crash changes nothing; mended, it ends."""
    farm.begin()
    before, evicted = farm.pods(), len(farm.evictions())
    with farm.nodes.plays(farm.namespace, {PLAYS: "unready"}):
        farm.daemon.rotate(CERTIFICATE)
        farm.until(
            lambda: {"workers", "web"} == {name for name, _ in farm.alerts(AlertKind.MEMBER_FAILED)},
            "both workloads to be told of",
        )
        farm.daemon.daemon.kill()
        farm.daemon.start()
        farm.until(lambda: farm.stopped() == {"workers", "web"}, "both rolls to be stopped again")
    assert 2 == len(farm.evictions()) - evicted
    assert 2 * SIZE - 2 == len(before & farm.pods())
    for pod in farm.nodes.pods(farm.namespace):
        farm.nodes.annotate(farm.namespace, pod["metadata"]["name"], {PLAYS: None})
    farm.settle()
    assert not before & farm.pods()
    assert 2 * SIZE == len(farm.evictions()) - evicted


def test_nobody_else_goes_before_the_first_serves_the_new_certificate(farm: Farm, tmp_path: Path) -> None:
    """Asked by their IP, pods that are new and ready still count as coming while another certificate is seen there."""
    port = free_port()
    farm.daemon.document["workloads"]["web"]["deployment"]["serves"] = {"port": port}
    farm.daemon.write()
    words = ("openssl", "s_server", "-quiet", "-accept", f"{LOOPBACK}:{port}", "-cert", "tls.crt", "-key", "tls.key")
    server = ServerProcess("openssl", words, log=tmp_path / "openssl.log", cwd=tmp_path)

    def serve() -> None:
        """Let every pod of the Deployment serve what is published now: they all have one address."""
        server.stop()
        for name, content in farm.material().items():
            (tmp_path / name).write_bytes(content)
        server.start(ready=lambda: listening(port))

    with server:
        farm.publish()
        serve()
        farm.plant(**{IP: LOOPBACK})
        before, evicted = farm.pods(), len(farm.evictions())
        farm.daemon.rotate(CERTIFICATE)
        farm.until(lambda: farm.coming("web") & farm.names() != set(), "the first new pod to be asked")
        farm.nodes.until_ready(farm.namespace, SIZE, "app=web")
        farm.until(lambda: SIZE + 1 == len(farm.evictions()) - evicted, "every worker and one web server to go")
        farm.nodes.until_ready(farm.namespace, SIZE, "app=worker")
        assert SIZE - 1 == len(before & farm.pods())
        assert 1 == len([name for name in farm.evictions()[evicted:] if name.startswith("web-")])
        serve()
        farm.settle()
        assert not before & farm.pods()
        assert 2 * SIZE == len(farm.evictions()) - evicted


def test_with_one_more_beside_them_never_fewer_are_at_work(farm: Farm) -> None:
    """Under a budget that asks for all of them, and through a crash while four are wanted: three again, all new."""
    workers = farm.daemon.document["workloads"]["workers"]
    workers |= {"surge": 1, "max_unavailable": 0}
    farm.daemon.write()
    for each in rights_objects(load(farm.daemon.configuration), Account(namespace=farm.namespace)):
        farm.nodes.cluster.apply(each)
    farm.begin()
    farm.nodes.cluster.apply(budget(farm.namespace, "worker", minAvailable=SIZE))
    before, evicted, known = farm.pods(), len(farm.evictions()), len(farm.events(EventType.SCALED))
    owner = f"/apis/apps/v1/namespaces/{farm.namespace}/statefulsets/worker"

    def annotations() -> dict[str, str]:
        found: dict[str, str] = farm.nodes.cluster.call("GET", owner)["metadata"].get("annotations", {})
        return found

    farm.daemon.rotate(CERTIFICATE)
    farm.until(lambda: SIZE + 1 == farm.nodes.cluster.call("GET", owner)["spec"]["replicas"], "one more to be wanted")
    farm.daemon.daemon.kill()
    assert f"from {SIZE} to {SIZE + 1}" == annotations()[SURGE]
    farm.daemon.start()
    farm.until(lambda: SURGE not in annotations(), "it to go back")
    farm.settle()
    assert SIZE == farm.nodes.cluster.call("GET", owner)["spec"]["replicas"]
    assert not before & farm.pods()
    assert 2 * SIZE == len(farm.evictions()) - evicted
    changes = [(each.detail["from"], each.detail["to"]) for each in farm.events(EventType.SCALED)[known:]]
    assert {(SIZE, SIZE + 1), (SIZE + 1, SIZE)} == set(changes)
    patched = [each for each in farm.nodes.cluster.audit(user=farm.username) if each["verb"] == "patch"]
    written = [each for each in patched if each.get("objectRef", {}).get("resource") == "statefulsets"]
    # The first certificate's pods came after it, so nobody was rolled before.
    assert 2 == len([each for each in written if each["responseStatus"]["code"] == 200])
    assert 0 == farm.daemon.run("doctor").returncode


def _eviction(pod: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}


def _named(farm: Farm, name: str) -> dict[str, str]:
    return {"namespace": farm.namespace, "name": name}
