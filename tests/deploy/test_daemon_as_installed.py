"""
With exactly the rights that the chart brings: everything that rotator does works, and everything else is forbidden.

Rules that must stay true here:

- What worked is read off the world and the API server's audit log; what is forbidden is tried, each thing once, with
  the account's own token, and the server's status is what counts.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus

import pytest
import requests
import urllib3

from rotator.cluster.people import API_VERSION, FINAL, REQUEST, RequestPhase, requests_path
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from tests.deploy.as_installed import ACCOUNT, WORKLOAD, AsInstalled, installed
from tests.deploy.charts import JSON
from tests.fixtures_openbao import new_domain
from tests.fixtures_postgres import PostgreSQL, postgresql
from tests.stack.cluster import Refused
from tests.stack.nodes import Nodes, pod_ids, workload

__all__ = ["postgresql"]

pytestmark = [pytest.mark.stack, pytest.mark.external]

PATIENCE = timedelta(seconds=120)


@pytest.fixture(scope="module")
def running(
    nodes: Nodes,
    openbao: OpenBaoServer,
    postgresql: PostgreSQL,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AsInstalled]:
    """Install, let the daemon run until everything is in use, and leave it running."""
    vault = new_domain(openbao, tmp_path_factory.mktemp("vault"), allowed_domains=("svc",))
    found = installed(nodes, vault, postgresql.database(), tmp_path_factory.mktemp("installed"))
    nodes.cluster.apply(workload("Deployment", found.airflow, WORKLOAD, replicas=2))
    nodes.until_ready(found.airflow, 2)
    found.daemon.start(ready=lambda: found.status() is not None, within=PATIENCE)
    try:
        wait_until(found.settled, within=PATIENCE, what=f"everything to be in use: {found.status()}")
        yield found
    finally:
        found.daemon.stop()


def test_everything_that_it_does_works(running: AsInstalled, nodes: Nodes) -> None:
    """It leads the Lease, publishes, takes a person's request, rolls the pods for it, and is forbidden nothing."""
    cluster = running.cluster
    lease = cluster.call("GET", f"/apis/coordination.k8s.io/v1/namespaces/{running.home}/leases/rotator")
    assert lease["spec"]["holderIdentity"]
    secret = cluster.call("GET", f"/api/v1/namespaces/{running.airflow}/secrets/{WORKLOAD}-tls")
    assert "kubernetes.io/tls" == secret["type"]

    before = pod_ids(nodes.pods(running.airflow))
    asked = cluster.call("POST", requests_path(running.home), _request(running.home), token=cluster.person("alice"))

    def ended() -> str:
        seen = cluster.call("GET", requests_path(running.home, asked["metadata"]["name"]))
        phase = seen.get("status", {}).get("phase", "")
        return phase if phase in FINAL else ""

    wait_until(lambda: bool(ended()), within=PATIENCE, what="the request to end")
    assert RequestPhase.DONE == ended()
    after = nodes.until_ready(running.airflow, 2)
    assert frozenset() == before & pod_ids(after)
    renewed = cluster.call("GET", f"/api/v1/namespaces/{running.airflow}/secrets/{WORKLOAD}-tls")
    assert secret["data"]["tls.crt"] != renewed["data"]["tls.crt"]

    assert [] == _refused(running)


def test_a_reader_is_known_by_their_token(running: AsInstalled) -> None:
    """Status over HTTP goes to whom the role was given: rotator may review tokens and access."""
    made = {}
    for name in ("reader", "stranger"):
        running.cluster.service_account(running.home, name)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": ["rotator.io"], "expirationSeconds": 600},
        }
        path = f"/api/v1/namespaces/{running.home}/serviceaccounts/{name}/token"
        made[name] = running.cluster.call("POST", path, request)["status"]["token"]
    running.cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader", "namespace": running.home},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rotator-reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": running.home}],
        }
    )

    assert (200, 403) == (_read(running, made["reader"]), _read(running, made["stranger"]))
    assert [] == _refused(running)


def _read(running: AsInstalled, token: str) -> int:
    """Return the status of the answer to whoever shows *token*; the certificate shown is rotator's own."""
    host, _, port = running.listens_at.partition(":")
    shown = running.cluster.call("GET", f"/api/v1/namespaces/{running.home}/secrets/rotator-http")
    trusted = ssl.create_default_context(cadata=base64.b64decode(shown["data"]["ca.crt"]).decode())
    # The bundle holds the trust domain's own CA, not the corporate root above it.
    trusted.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with urllib3.HTTPSConnectionPool(
        host, int(port), ssl_context=trusted, assert_hostname="rotator.svc", server_hostname="rotator.svc", timeout=30
    ) as service:
        headers = {"Authorization": f"Bearer {token}"}
        return service.request("GET", "/api/v1/status", headers=headers, retries=False).status


def _request(namespace: str) -> JSON:
    return {
        "apiVersion": API_VERSION,
        "kind": REQUEST,
        "metadata": {"generateName": "alice-", "namespace": namespace},
        "spec": {"operation": "Rotate", "subjects": [WORKLOAD], "reason": "a test asks", "requestedBy": "alice"},
    }


def _refused(running: AsInstalled) -> list[tuple[str, str, int]]:
    """Return what the API server refused the daemon, what this module tries in its name left out."""
    return [
        (event["verb"], event["requestURI"], event["responseStatus"]["code"])
        for event in running.audited()
        if event["responseStatus"]["code"] in {401, 403, 422} and not event["userAgent"].startswith("python-requests")
    ]


def test_the_doctor_finds_every_right(running: AsInstalled) -> None:
    """What config rbac prints is what the doctor asks the API server for."""
    told = running.command("doctor").stdout

    assert "its account in the cluster may not" not in told
    assert "its account has every right in the cluster" in told


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One thing that the account must not be able to do; ``{home}`` and ``{airflow}`` stand for the namespaces."""

    what: str
    method: str
    path: str
    body: JSON = field(default_factory=dict)
    patch: bool = False
    status: frozenset[int] = frozenset({HTTPStatus.FORBIDDEN})
    query: str = ""


CONFINED = frozenset({HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.FORBIDDEN})
"""RBAC lets it through and the admission policy does not: it answers 422."""

_CORE = "/api/v1/namespaces/{airflow}"
_HOME = "/api/v1/namespaces/{home}"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"


def _object(api: str, kind: str, name: str, **more: object) -> JSON:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **more}


def _secret(name: str, kind: str = "kubernetes.io/tls") -> JSON:
    content = {"tls.crt": "eA==", "tls.key": "eA=="}
    return _object("v1", "Secret", name, type=kind, data=content)


_POD = _object("v1", "Pod", "new", spec={"containers": [{"name": "main", "image": "any"}]})
_EVICTION = _object("policy/v1", "Eviction", "stranger-0")
_RULES = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]

FORBIDDEN = (
    # Secrets
    Tried(what="list the Secrets of the namespace", method="GET", path=f"{_CORE}/secrets"),
    Tried(what="list its own namespace's Secrets", method="GET", path=f"{_HOME}/secrets"),
    Tried(what="list every Secret", method="GET", path="/api/v1/secrets"),
    Tried(what="watch the Secrets of the namespace", method="GET", path=f"{_CORE}/secrets", query="watch=true"),
    Tried(what="read another Secret", method="GET", path=f"{_CORE}/secrets/other"),
    Tried(what="read a Secret of another namespace", method="GET", path="/api/v1/namespaces/kube-system/secrets/any"),
    Tried(what="read its own ledger key", method="GET", path=f"{_HOME}/secrets/rotator-ledger"),
    Tried(
        what="change another Secret", method="PATCH", path=f"{_CORE}/secrets/other", body=_secret("other"), patch=True
    ),
    Tried(what="replace another Secret", method="PUT", path=f"{_CORE}/secrets/other", body=_secret("other")),
    Tried(what="delete the Secret that it publishes", method="DELETE", path=f"{_CORE}/secrets/{WORKLOAD}-tls"),
    Tried(what="delete another Secret", method="DELETE", path=f"{_CORE}/secrets/other"),
    Tried(what="delete all Secrets", method="DELETE", path=f"{_CORE}/secrets"),
    Tried(
        what="create a Secret of another name",
        method="POST",
        path=f"{_CORE}/secrets",
        body=_secret("another"),
        status=CONFINED,
    ),
    Tried(
        what="create a Secret of a name that the server makes",
        method="POST",
        path=f"{_CORE}/secrets",
        body={**_secret("x"), "metadata": {"generateName": f"{WORKLOAD}-tls"}},
        status=CONFINED,
    ),
    Tried(
        what="create its own name with another type",
        method="POST",
        path=f"{_CORE}/secrets",
        body=_secret(f"{WORKLOAD}-tls-previous", "Opaque"),
        status=CONFINED,
    ),
    Tried(
        what="create a token of an account by a Secret",
        method="POST",
        path=f"{_CORE}/secrets",
        body={
            **_object("v1", "Secret", "token", type="kubernetes.io/service-account-token"),
            "metadata": {"name": "token", "annotations": {"kubernetes.io/service-account.name": "default"}},
        },
        status=CONFINED,
    ),
    Tried(
        what="create a Secret in its own namespace",
        method="POST",
        path=f"{_HOME}/secrets",
        body=_secret("mine"),
        status=CONFINED,
    ),
    Tried(
        what="create a Secret in another namespace",
        method="POST",
        path="/api/v1/namespaces/default/secrets",
        body=_secret(f"{WORKLOAD}-tls"),
    ),
    # ConfigMaps: its own configuration included
    Tried(what="read a ConfigMap", method="GET", path=f"{_CORE}/configmaps/kube-root-ca.crt"),
    Tried(
        what="change its own configuration",
        method="PATCH",
        path=f"{_HOME}/configmaps/rotator",
        body={"data": {"rotator.yaml": ""}},
        patch=True,
    ),
    # Workloads and pods
    Tried(
        what="delete the workload",
        method="DELETE",
        path="/apis/apps/v1/namespaces/{airflow}/deployments/" + WORKLOAD,
    ),
    Tried(
        what="change the workload",
        method="PATCH",
        path="/apis/apps/v1/namespaces/{airflow}/deployments/" + WORKLOAD,
        body={"spec": {"replicas": 0}},
        patch=True,
    ),
    Tried(
        what="scale the workload",
        method="PATCH",
        path="/apis/apps/v1/namespaces/{airflow}/deployments/" + WORKLOAD + "/scale",
        body={"spec": {"replicas": 0}},
        patch=True,
    ),
    Tried(
        what="delete its own Deployment", method="DELETE", path="/apis/apps/v1/namespaces/{home}/deployments/rotator"
    ),
    Tried(what="list every Deployment", method="GET", path="/apis/apps/v1/deployments"),
    Tried(what="create a pod", method="POST", path=f"{_CORE}/pods", body=_POD),
    Tried(what="delete a pod around its budget", method="DELETE", path=f"{_CORE}/pods/{WORKLOAD}-0"),
    Tried(what="run a command in a pod", method="POST", path=f"{_CORE}/pods/{WORKLOAD}-0/exec", query="command=id"),
    Tried(what="attach to a pod", method="POST", path=f"{_CORE}/pods/{WORKLOAD}-0/attach"),
    Tried(what="reach into a pod's network", method="POST", path=f"{_CORE}/pods/{WORKLOAD}-0/portforward"),
    Tried(what="read a pod's log", method="GET", path=f"{_CORE}/pods/{WORKLOAD}-0/log"),
    Tried(
        what="put a container into a pod",
        method="PATCH",
        path=f"{_CORE}/pods/{WORKLOAD}-0/ephemeralcontainers",
        body={"spec": {"ephemeralContainers": [{"name": "x", "image": "any"}]}},
        patch=True,
    ),
    Tried(
        what="evict somebody else's pod",
        method="POST",
        path=f"{_CORE}/pods/stranger-0/eviction",
        body=_EVICTION,
        status=CONFINED,
    ),
    Tried(what="evict a pod of its own namespace", method="POST", path=f"{_HOME}/pods/x/eviction", body=_EVICTION),
    Tried(what="list the pods of every namespace", method="GET", path="/api/v1/pods"),
    Tried(what="read a node", method="GET", path="/api/v1/nodes/node-1"),
    Tried(what="list namespaces", method="GET", path="/api/v1/namespaces"),
    Tried(
        what="label its namespace privileged",
        method="PATCH",
        path=_HOME,
        body={"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}},
        patch=True,
    ),
    # More rights
    Tried(
        what="give itself a role",
        method="POST",
        path=_RBAC + "/namespaces/{airflow}/roles",
        body=_object("rbac.authorization.k8s.io/v1", "Role", "mine", rules=_RULES),
    ),
    Tried(
        what="widen its own role",
        method="PATCH",
        path=_RBAC + "/namespaces/{airflow}/roles/rotator-{home}",
        body={"rules": _RULES},
        patch=True,
    ),
    Tried(
        what="bind itself to cluster-admin",
        method="POST",
        path=_RBAC + "/clusterrolebindings",
        body=_object(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            "mine",
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            subjects=[{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}],
        ),
    ),
    Tried(what="read the roles of its namespace", method="GET", path=_RBAC + "/namespaces/{home}/roles"),
    Tried(
        what="make itself another token",
        method="POST",
        path=f"{_HOME}/serviceaccounts/{ACCOUNT}/token",
        body=_object("authentication.k8s.io/v1", "TokenRequest", ACCOUNT, spec={}),
    ),
    Tried(
        what="make a token of another account",
        method="POST",
        path="/api/v1/namespaces/kube-system/serviceaccounts/default/token",
        body=_object("authentication.k8s.io/v1", "TokenRequest", "default", spec={}),
    ),
    Tried(
        what="approve a certificate request of the cluster",
        method="PUT",
        path="/apis/certificates.k8s.io/v1/certificatesigningrequests/any/approval",
        body=_object("certificates.k8s.io/v1", "CertificateSigningRequest", "any", spec={}),
    ),
    # What confines it
    Tried(
        what="switch off the policy that confines it",
        method="DELETE",
        path=_ADMISSION + "/validatingadmissionpolicybindings/rotator-{home}",
    ),
    Tried(
        what="change the policy that confines it",
        method="PATCH",
        path=_ADMISSION + "/validatingadmissionpolicies/rotator-{home}",
        body={"spec": {"validations": []}},
        patch=True,
    ),
    Tried(what="list webhooks", method="GET", path=_ADMISSION + "/mutatingwebhookconfigurations"),
    Tried(
        what="delete the kinds of requests",
        method="DELETE",
        path="/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rotationrequests.rotator.io",
    ),
    # Leases, requests, Events
    Tried(
        what="write another Lease",
        method="PATCH",
        path="/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler",
        body={"spec": {"holderIdentity": "rotator"}},
        patch=True,
    ),
    Tried(
        what="create another Lease in its own namespace",
        method="POST",
        path="/apis/coordination.k8s.io/v1/namespaces/{home}/leases",
        body=_object("coordination.k8s.io/v1", "Lease", "other", spec={}),
        status=CONFINED,
    ),
    Tried(
        what="ask for a rotation in somebody's name",
        method="POST",
        path="/apis/rotator.io/v1alpha1/namespaces/{home}/rotationrequests",
        body=_object("rotator.io/v1alpha1", "RotationRequest", "mine", spec={}),
    ),
    Tried(
        what="write an Event of kube-system",
        method="POST",
        path="/apis/events.k8s.io/v1/namespaces/kube-system/events",
        body=_object("events.k8s.io/v1", "Event", "mine"),
    ),
    Tried(what="read the cluster's own metrics", method="GET", path="/metrics"),
)


@pytest.mark.parametrize("tried", FORBIDDEN, ids=lambda tried: tried.what)
def test_everything_else_is_forbidden(running: AsInstalled, tried: Tried) -> None:
    """Each thing that rotator has no business doing is refused by the API server."""
    words = {"home": running.home, "airflow": running.airflow}
    answer = requests.request(
        tried.method,
        running.cluster.url + tried.path.format(**words) + (f"?{tried.query}" if tried.query else ""),
        json=tried.body or None,
        headers={
            "Authorization": f"Bearer {running.token}",
            **({"Content-Type": "application/merge-patch+json"} if tried.patch else {}),
        },
        verify=str(running.cluster.ca_file),
        timeout=60,
    )

    assert answer.status_code in tried.status, answer.text
    if answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
        assert "ValidatingAdmissionPolicy" in answer.text


@pytest.mark.parametrize(("header", "whom"), [("User", "admin"), ("Group", "system:masters")])
def test_it_cannot_be_somebody_else(running: AsInstalled, header: str, whom: str) -> None:
    """Impersonation is refused."""
    user = {"Impersonate-User": "somebody"} | {f"Impersonate-{header}": whom}
    answer = requests.get(
        f"{running.cluster.url}/api/v1/namespaces",
        headers={"Authorization": f"Bearer {running.token}", **user},
        verify=str(running.cluster.ca_file),
        timeout=60,
    )

    assert HTTPStatus.FORBIDDEN == answer.status_code


def test_the_same_is_open_to_an_administrator(running: AsInstalled) -> None:
    """What was refused is there to be had: the administrator's own requests on it are answered."""
    for path in (f"/api/v1/namespaces/{running.airflow}/secrets", "/api/v1/nodes/node-1", "/api/v1/pods"):
        assert running.cluster.call("GET", path)
    with pytest.raises(Refused) as absent:
        running.cluster.call("GET", f"/api/v1/namespaces/{running.airflow}/secrets/other")
    assert HTTPStatus.NOT_FOUND == absent.value.status
