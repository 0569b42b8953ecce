"""What the doctor says of rotator's account in a cluster, on a real API server."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.documents import PLURALS
from rotator.adapters.kuma.kubernetes import KubernetesSecrets
from rotator.adapters.kuma.manifests import manifests
from rotator.adapters.kuma.rights import platform_rights, rbac_rules
from rotator.adapters.kuma.token_secrets import Shelves
from rotator.bootstrap import Sessions
from rotator.bootstrap.meshes import endpoint_of
from rotator.bootstrap.rights import rights_objects, token_secrets_of
from rotator.bootstrap.tokens import shelves_of, signing_key_targets
from rotator.clock import SystemClock
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.own_rights import missing_rights
from rotator.cluster.rbac import Account, role_objects
from rotator.cluster.rights import Confined, Rights, rule
from rotator.doctor.findings import Finding, Grade
from rotator.doctor.platform import platform_findings
from rotator.doctor.tokens import token_findings
from rotator.embedded.process import wait_until
from rotator.errors import Denied, Rejected
from rotator.settings import Settings, load
from tests.settings.test_platform import written
from tests.settings.test_tokens import written as with_tokens
from tests.stack.cluster import JSON, Cluster, Refused
from tests.stack.published import grant

pytestmark = pytest.mark.stack

_URL = "url: http://127.0.0.1:5681"


@pytest.fixture
def access(cluster: Cluster, system_namespace: str, tmp_path: Path) -> ClusterAccess:
    """Give an account of rotator's that may do nothing yet."""
    token = cluster.service_account(system_namespace, "rotator")
    kubeconfig = cluster.kubeconfig_for(token, system_namespace, tmp_path / "kubeconfig")
    return ClusterAccess(namespace=system_namespace, kubeconfig_file=kubeconfig)


def _with_platform(access: ClusterAccess) -> Settings:
    """Return settings with a platform on the control plane in the cluster that *access* reaches."""
    assert access.kubeconfig_file is not None
    path = written(access.kubeconfig_file.parent)
    reached = f"{{namespace: {access.namespace}, kubeconfig_file: {access.kubeconfig_file}}}"
    path.write_text(path.read_text().replace(_URL, f"{_URL}\n        kubernetes: {reached}"))
    return load(path)


def _missing(access: ClusterAccess, rights: Rights) -> tuple[str, ...]:
    with contextlib.closing(ObjectAPI(access)) as api:
        return missing_rights(api, rights)


def test_an_account_without_rights_is_told_each(access: ClusterAccess) -> None:
    """Every single thing that rotator will have to do and may not is named."""
    missing = _missing(access, rbac_rules("default", access.namespace))

    assert "update meshes default" in missing
    assert f"create secrets in {access.namespace}" in missing
    assert f"delete secrets {access.namespace}/rotator-default-key-3" in missing
    assert f"list meshidentities in {access.namespace}" in missing


def test_the_shipped_manifests_give_every_right(cluster: Cluster, access: ClusterAccess) -> None:
    """With what deploy/kuma renders nothing is missing, and for a mesh that it does not name almost everything is."""
    for each in manifests(["default"], access.namespace, service_account=f"{access.namespace}:rotator"):
        cluster.apply(each)

    assert () == _missing(access, rbac_rules("default", access.namespace))
    assert "update meshes other" in _missing(access, rbac_rules("other", access.namespace))


def test_the_platform_is_told_what_it_lacks_before_it_is_applied(cluster: Cluster, access: ClusterAccess) -> None:
    """Without rights the doctor names each and the command that gives them; with what that prints it finds all well."""
    settings = _with_platform(access)

    def said() -> list[Finding]:
        return list(platform_findings(settings, SystemClock()))

    refused = [each for each in said() if each.grade is Grade.BROKEN]
    assert {"rotator config rbac | kubectl apply -f -"} <= {each.mend for each in refused}
    assert "its account in the cluster may not list meshtrafficpermissions" == refused[0].what
    assert "and 41 rights more" == refused[5].what

    account = Account(namespace=access.namespace)
    for each in rights_objects(settings, account):
        cluster.apply(each)

    assert [] == [each for each in said() if each.grade is Grade.BROKEN]
    assert {
        "its account has every right in the cluster",
        "its documents can be read; 0 of the configuration's stand there",
    } == {each.what for each in said()}


def test_one_right_of_the_platform_that_is_missing_is_named(cluster: Cluster, access: ClusterAccess) -> None:
    """Who may do everything but remove a kind is told that one thing."""
    given = platform_rights(access.namespace)
    rules = tuple(
        {**each, "verbs": [verb for verb in each["verbs"] if verb != "delete"]}
        if PLURALS["MeshTCPRoute"] in each["resources"]
        else each
        for each in given.namespaces[access.namespace]
    )
    rights = Rights(cluster=given.cluster, namespaces={access.namespace: rules})
    account = Account(namespace=access.namespace)
    for each in role_objects(rights, account, name="platform", cluster_name=f"platform-{access.namespace}"):
        cluster.apply(each)

    found = [each for each in platform_findings(_with_platform(access), SystemClock()) if each.grade is Grade.BROKEN]

    missing = f"its account in the cluster may not delete meshtcproutes in {access.namespace}"
    assert [(missing, "rotator config rbac | kubectl apply -f -")] == [(each.what, each.mend) for each in found]


def test_what_config_rbac_prints_lets_tokens_be_revoked_and_keys_be_rotated(
    cluster: Cluster, access: ClusterAccess, tmp_path: Path
) -> None:
    """The policies of a mesh and of the rest do not shut out each other's Secrets."""
    namespace = access.namespace
    reached = f"{{namespace: {namespace}, kubeconfig_file: {access.kubeconfig_file}}}"
    plane = f'{{url: "https://127.0.0.1:1", kubernetes: {reached}}}'
    settings = load(with_tokens(tmp_path, ('{url: "https://kuma.example:5682"}', plane)))
    mesh = settings.trust_domains["mesh"].mesh
    assert mesh is not None
    lacking = f"its account in the cluster may not get secrets {namespace}/dataplane-token-revocations-airflow"
    assert (lacking, "rotator config rbac | kubectl apply -f -") in _said_of_tokens(settings)

    for each in rights_objects(settings, Account(namespace=namespace)):
        cluster.apply(each)

    wanted = token_secrets_of(settings, "mesh", mesh)
    wait_until(lambda: () == _missing(access, wanted), within=timedelta(seconds=60), what="the rights to be in force")
    assert ("its account has every right in the cluster", "") in _said_of_tokens(settings)
    shelves = shelves_of(mesh, ControlPlaneAPI(endpoint_of(mesh)), SystemClock())
    wait_until(lambda: _is_refused(shelves), within=timedelta(seconds=60), what="the policy to be in force")
    shelves.everywhere().write("dataplane-token-revocations-airflow", b"one", seen=None)
    shelves.everywhere().write("zone-token-revocations", b"one", seen=None)
    (keys,) = signing_key_targets(settings, SystemClock()).values()
    keys.keys.add(7)
    assert [7] == [each.serial for each in keys.keys.held()]
    with contextlib.closing(ObjectAPI(access)) as api:
        secrets = KubernetesSecrets(api, mesh="airflow", namespace=namespace, clock=SystemClock())
        assert b"a CA" == secrets.read(secrets.create("cert-one", b"a CA"))


def _said_of_tokens(settings: Settings) -> list[tuple[str, str]]:
    """Return what the doctor says of tokens, and the mends."""
    with contextlib.closing(Sessions(SystemClock(), 1, {})) as sessions:
        return [(each.what, each.mend) for each in token_findings(settings, sessions, SystemClock())]


def _is_refused(shelves: Shelves) -> bool:
    """Return whether a Secret of a mesh under a name that is a GlobalSecret's cannot be made."""
    try:
        shelves.of_mesh("airflow").write("zone-token-revocations", b"one", seen=None)
    except (Denied, Rejected):
        return True
    shelves.of_mesh("airflow").remove("zone-token-revocations")
    return False


def test_a_subresource_is_asked_for_as_one(cluster: Cluster, access: ClusterAccess) -> None:
    """The right on pods/eviction is not the right on pods, and the doctor knows which is missing."""
    namespace = access.namespace
    granted = Rights(namespaces={namespace: (rule("pods", "create"),)})
    account = Account(namespace=namespace)
    for each in role_objects(granted, account, name="pods", cluster_name=f"pods-{namespace}"):
        cluster.apply(each)
    wanted = Rights(namespaces={namespace: (rule("pods", "create"), rule("pods/eviction", "create"))})

    assert (f"create pods/eviction in {namespace}",) == _missing(access, wanted)


def test_a_refusal_says_why(cluster: Cluster, system_namespace: str) -> None:
    """What its roles let it create and the configuration does not name is refused in rotator's own words."""
    account = Account(namespace=system_namespace)
    names = ("worker-tls",)
    rights = Rights(
        namespaces={system_namespace: (rule("secrets", "create"), rule("pods/eviction", "create"))},
        confined=(
            Confined(namespace=system_namespace, resource="secrets", names=names),
            Confined(namespace=system_namespace, resource="pods/eviction", patterns=("worker-[0-9]+",)),
        ),
    )
    token = grant(cluster, account, rights)
    secrets, pods = (f"/api/v1/namespaces/{system_namespace}/{plural}" for plural in ("secrets", "pods"))

    def refused(path: str, body: JSON) -> str:
        with pytest.raises(Refused) as told:
            cluster.call("POST", path, body, token=token, query={"dryRun": "All"})
        return str(told.value)

    def secret(name: str) -> JSON:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}

    def eviction(name: str) -> JSON:
        return {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}

    cluster.call("POST", secrets, secret(*names), token=token, query={"dryRun": "All"})
    assert "rotator's configuration names no such object of secrets" in refused(secrets, secret("other"))
    spec = {"serviceAccountName": account.name, "containers": [{"name": "one", "image": "none"}]}
    for name in ("worker-0", "other"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
        cluster.call("POST", pods, {**pod, "spec": spec})
    # Its roles and the policy let it go; dry, nobody does.
    cluster.call("POST", f"{pods}/worker-0/eviction", eviction("worker-0"), token=token, query={"dryRun": "All"})
    words = "rotator's configuration names no such object of pods/eviction"
    assert words in refused(f"{pods}/other/eviction", eviction("other"))
