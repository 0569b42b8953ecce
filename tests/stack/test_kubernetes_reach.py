"""
A mesh's documents and secrets in a real API server, reached with exactly the rights that rotator asks for.

Rules that must stay true here:

- Every call of the code under test is made by a ServiceAccount that holds `rbac_rules` and nothing else.
- Kuma's own admission is not here: what it would refuse is played by admission policies of the test.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.kuma import slots
from rotator.adapters.kuma.control_plane import Document, Kind
from rotator.adapters.kuma.kubernetes import KubernetesDocuments, KubernetesSecrets
from rotator.adapters.kuma.mesh import identity_spec, trusting
from rotator.adapters.kuma.slots import COOLING
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.embedded.process import wait_until
from rotator.errors import ConfigError, Conflict, Denied, Rejected, Unavailable
from tests.fakes.clock import ManualClock
from tests.stack.cluster import Cluster, Refused
from tests.stack.kuma_store import grant

pytestmark = pytest.mark.stack

KUMA = "kuma.io/v1alpha1"
BUILTIN_CERT = "ca-builtin-cert-ca-1"

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """One mesh in a namespace of its own, and rotator's hands on it."""

    cluster: Cluster
    mesh: str
    namespace: str
    token: str
    api: ObjectAPI
    administrator: ObjectAPI
    clock: ManualClock

    @property
    def user(self) -> str:
        """Return the name under which the API server knows rotator."""
        return f"system:serviceaccount:{self.namespace}:rotator"

    @property
    def documents(self) -> KubernetesDocuments:
        """Return the documents of the mesh."""
        return KubernetesDocuments(self.api, mesh=self.mesh, namespace=self.namespace)

    @property
    def secrets(self) -> KubernetesSecrets:
        """Return the secrets of the mesh."""
        return KubernetesSecrets(self.api, mesh=self.mesh, namespace=self.namespace, clock=self.clock)

    def raw(self, path: str) -> dict[str, Any]:
        """Return an object as the administrator sees it."""
        return self.cluster.call("GET", path)

    def secret(self, name: str) -> dict[str, Any]:
        """Return a Secret as the administrator sees it."""
        return self.raw(f"/api/v1/namespaces/{self.namespace}/secrets/{name}")

    def identity(self, name: str, **spec: object) -> Document:
        """Return a MeshIdentity that is not there yet."""
        made = identity_spec(
            certificate="c", key="k", trust_domain="td", path=None, longest_leaf=timedelta(hours=1), self_signed=False
        )
        return Document(kind=Kind.IDENTITY, name=name, spec=made | spec)


def mesh_document(name: str, certificate: str = "old") -> dict[str, Any]:
    """Return a Mesh with a provided backend."""
    conf = {"cert": {"secret": certificate}, "key": {"secret": "key"}}
    backend = {"name": "ca-1", "type": "provided", "mode": "STRICT", "conf": conf}
    spec = {"mtls": {"enabledBackend": "ca-1", "backends": [backend]}, "routing": {"zoneEgress": True}}
    return {"apiVersion": KUMA, "kind": "Mesh", "metadata": {"name": name}, "spec": spec}


def signing_with(document: Document, certificate: str) -> Document:
    """Return *document* of a Mesh with another certificate."""
    spec = json.loads(json.dumps(document.spec))
    spec["mtls"]["backends"][0]["conf"]["cert"]["secret"] = certificate
    return document.with_spec(spec)


def certificate_in(document: Document | None) -> str:
    """Return the certificate that a Mesh signs with."""
    assert document is not None
    name: str = document.spec["mtls"]["backends"][0]["conf"]["cert"]["secret"]
    return name


@pytest.fixture
def reach(cluster: Cluster, system_namespace: str, tmp_path: Path) -> Iterator[Reach]:
    """Give a mesh of a name of its own, and rotator with its rights."""
    mesh = f"mesh{next(_numbers)}"
    by_kubectl(cluster, mesh_document(mesh))
    token = grant(cluster, mesh, system_namespace, read_secrets=(f"{mesh}.{BUILTIN_CERT}",))
    kubeconfig = cluster.kubeconfig_for(token, system_namespace, tmp_path / "kubeconfig")
    api = ObjectAPI(ClusterAccess(namespace=system_namespace, kubeconfig_file=kubeconfig))
    administrator = ObjectAPI(ClusterAccess(namespace=system_namespace, kubeconfig_file=cluster.kubeconfig))
    made = Reach(
        cluster=cluster,
        mesh=mesh,
        namespace=system_namespace,
        token=token,
        api=api,
        administrator=administrator,
        clock=ManualClock(),
    )
    # Policies reach the server's own eyes a moment after they are stored.
    wait_until(lambda: _held_to_its_own(made), within=timedelta(seconds=30), what="the admission policy to hold")
    yield made
    api.close()
    administrator.close()


def _held_to_its_own(reach: Reach) -> bool:
    """Return whether the admission policy holds rotator to its own names."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "probe"}, "type": "system.kuma.io/secret"}
    try:
        path = f"/api/v1/namespaces/{reach.namespace}/secrets"
        reach.cluster.call("POST", path, body, token=reach.token, query={"dryRun": "All"})
    except Refused as e:
        return e.status == 422
    return False


def by_kubectl(cluster: Cluster, document: Mapping[str, Any], manager: str = "kubectl-create") -> None:
    """Create *document* as somebody's hand does."""
    path = cluster.path_of(document).rpartition("/")[0]
    cluster.call("POST", path, document, query={"fieldManager": manager})


# --- documents ------------------------------------------------------------------------------------------------------


def test_a_mesh_is_read_and_switched(reach: Reach) -> None:
    """One write moves the certificate of a Mesh; whatever else stands there stays."""
    seen = reach.documents.read(Kind.MESH, reach.mesh)
    assert seen is not None
    written = reach.documents.write(signing_with(seen, "new"))
    assert ("new", {"zoneEgress": True}) == (certificate_in(written), written.spec["routing"])
    assert (reach.documents.read(Kind.MESH, reach.mesh),) == reach.documents.listed(Kind.MESH)
    assert written.revision != seen.revision


def test_a_write_over_somebody_elses_is_refused(reach: Reach) -> None:
    """A mesh that changed since it was read is not overwritten."""
    seen = reach.documents.read(Kind.MESH, reach.mesh)
    assert seen is not None
    reach.documents.write(signing_with(seen, "theirs"))
    with pytest.raises(Conflict):
        reach.documents.write(signing_with(seen, "ours"))
    assert "theirs" == certificate_in(reach.documents.read(Kind.MESH, reach.mesh))


def test_an_identity_lives_and_dies(reach: Reach) -> None:
    """An identity is created once, changed, listed, and deleted as it was read."""
    name = f"rotator-{reach.mesh}-999998-g1"
    made = reach.documents.write(reach.identity(name))
    assert {"kuma.io/mesh": reach.mesh} == made.labels
    with pytest.raises(Conflict):
        reach.documents.write(reach.identity(name))
    chosen = reach.documents.write(made.with_spec({**made.spec, "selector": {"dataplane": {"matchLabels": {}}}}))
    assert {"dataplane": {"matchLabels": {}}} == chosen.spec["selector"]
    assert (chosen,) == reach.documents.listed(Kind.IDENTITY)
    with pytest.raises(Conflict):
        reach.documents.remove(made)
    reach.documents.remove(chosen)
    reach.documents.remove(chosen)
    assert None is reach.documents.read(Kind.IDENTITY, name)


def test_the_control_planes_status_stays(reach: Reach) -> None:
    """A write leaves the status as the control plane wrote it: it is no subresource there."""
    made = reach.documents.write(reach.identity(f"rotator-{reach.mesh}-999998-g1"))
    path = f"/apis/{KUMA}/namespaces/{reach.namespace}/meshidentities/{made.name}"
    stored = reach.raw(path)
    condition = {"type": "Ready", "status": "True", "reason": "Ready", "message": ""}
    reach.cluster.call("PUT", path, stored | {"status": {"conditions": [condition]}}, query={"fieldManager": "kuma-cp"})
    seen = reach.documents.read(Kind.IDENTITY, made.name)
    assert seen is not None
    assert (frozenset(), {"conditions": [condition]}) == (seen.managers, seen.status)
    chosen = reach.documents.write(seen.with_spec({**seen.spec, "selector": {"dataplane": {"matchLabels": {}}}}))
    assert {"conditions": [condition]} == chosen.status


def test_trust_is_edited(reach: Reach) -> None:
    """A MeshTrust grows and shrinks; a malformed one is rejected with the server's words, and without the PEM."""
    pem = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    trust = Document(kind=Kind.TRUST, name=f"rotator-{reach.mesh}", spec=trusting("td", [pem]))
    made = reach.documents.write(trust)
    grown = reach.documents.write(made.with_spec(trusting("td", [pem, pem])))
    assert 2 == len(grown.spec["caBundles"])
    with pytest.raises(Rejected, match="caBundles") as refused:
        reach.documents.write(grown.with_spec(trusting("td", [])))
    assert "MIIB" not in str(refused.value)


def test_another_meshs_documents_are_not_seen(reach: Reach) -> None:
    """What carries another mesh's label, or none (the mesh called default), is not there."""
    for name, labels in (("theirs", {"kuma.io/mesh": "other"}), ("defaults", {})):
        metadata = {"name": name, "namespace": reach.namespace, "labels": labels}
        spec = reach.identity("x").spec
        by_kubectl(reach.cluster, {"apiVersion": KUMA, "kind": "MeshIdentity", "metadata": metadata, "spec": spec})
    assert () == reach.documents.listed(Kind.IDENTITY)
    assert None is reach.documents.read(Kind.IDENTITY, "theirs")
    assert None is reach.documents.read(Kind.IDENTITY, "defaults")


def test_a_kind_that_the_cluster_does_not_know_has_no_documents(reach: Reach) -> None:
    """An older Kuma without MeshTrust lists none; one cannot be made in a namespace that is not there."""
    documents = KubernetesDocuments(reach.administrator, mesh=reach.mesh, namespace="nowhere")
    plural = f"/apis/{KUMA}/namespaces/nowhere/meshtrusters"
    assert ((), None) == (reach.administrator.listed(plural), reach.administrator.get(f"{plural}/x"))
    with pytest.raises(Rejected, match="knows no"):
        documents.write(reach.identity(f"rotator-{reach.mesh}-999998-g1"))


# --- whose fields they are ------------------------------------------------------------------------------------------


def test_a_field_that_a_tool_keeps_applying_is_not_taken(reach: Reach) -> None:
    """A Mesh whose mtls is applied by somebody else's tool names it, and a change of it is refused."""
    reach.cluster.apply(mesh_document(reach.mesh), manager="argocd-controller")
    seen = reach.documents.read(Kind.MESH, reach.mesh)
    assert seen is not None
    assert frozenset({"argocd-controller"}) == seen.managers
    with pytest.raises(Denied, match="argocd-controller"):
        reach.documents.write(signing_with(seen, "new"))
    assert "old" == certificate_in(reach.documents.read(Kind.MESH, reach.mesh))


def test_a_tool_that_applies_the_rest_of_a_mesh_is_no_owner(reach: Reach) -> None:
    """A tool that applies the mesh without its mtls is not named, and its next run leaves rotator's write alone."""
    rest = {
        "apiVersion": KUMA,
        "kind": "Mesh",
        "metadata": {"name": reach.mesh},
        "spec": {"routing": {"zoneEgress": False}},
    }
    reach.cluster.apply(rest, manager="argocd-controller")
    seen = reach.documents.read(Kind.MESH, reach.mesh)
    assert seen is not None
    assert frozenset() == seen.managers
    reach.documents.write(signing_with(seen, "new"))
    reach.cluster.apply(rest, manager="argocd-controller")
    assert "new" == certificate_in(reach.documents.read(Kind.MESH, reach.mesh))


def test_what_kubectl_apply_would_write_again_counts(reach: Reach) -> None:
    """Who applied on the client's side owns the field while the manifest applied last names it, and no longer."""
    path = f"/apis/{KUMA}/meshes/{reach.mesh}"
    manifest = mesh_document(reach.mesh)

    def applied(named: Mapping[str, Any]) -> frozenset[str]:
        stored = reach.raw(path)
        stored["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(named)}
        stored["spec"]["mtls"]["backends"][0]["mode"] = "STRICT" if named == manifest else "PERMISSIVE"
        reach.cluster.call("PUT", path, stored, query={"fieldManager": "kubectl-client-side-apply"})
        seen = reach.documents.read(Kind.MESH, reach.mesh)
        assert seen is not None
        return seen.managers

    assert frozenset() == applied({})
    assert frozenset({"kubectl-client-side-apply"}) == applied(manifest)


def test_rotator_owns_what_it_wrote(reach: Reach) -> None:
    """The API server notes rotator as the manager of the fields it wrote: another tool's apply is told so."""
    seen = reach.documents.read(Kind.MESH, reach.mesh)
    assert seen is not None
    reach.documents.write(signing_with(seen, "new"))
    with pytest.raises(Refused, match='conflict with \\\\"rotator\\\\"'):
        reach.cluster.apply(mesh_document(reach.mesh), manager="helm", force=False)


# --- secrets --------------------------------------------------------------------------------------------------------


def test_a_secret_is_kept_as_kuma_reads_it(reach: Reach) -> None:
    """A generation's secret has Kuma's type, label and data key, and is kept once however often it is asked for."""
    name = reach.secrets.create("g1-cert", b"PEM one")
    stored = reach.secret(name)
    assert f"rotator-{reach.mesh}-cert-0" == name
    assert ("system.kuma.io/secret", reach.mesh) == (stored["type"], stored["metadata"]["labels"]["kuma.io/mesh"])
    assert {"value": base64.b64encode(b"PEM one").decode()} == stored["data"]
    assert name == reach.secrets.create("g1-cert", b"PEM one")
    with pytest.raises(Conflict):
        reach.secrets.create("g1-cert", b"PEM two")
    assert ["g1-cert"] == [secret.purpose for secret in reach.secrets.held()]
    assert b"PEM one" == reach.secrets.read(name)


def test_a_freed_slot_keeps_no_key_and_rests(reach: Reach) -> None:
    """What was freed is gone at once; its slot is used again only when nothing can hold its content any more."""
    names = [reach.secrets.create(f"g{number}-key", b"secret %d" % number) for number in range(1, 5)]
    assert list(slots.slot_names(reach.mesh))[8:] == names
    with pytest.raises(Rejected, match="no slot is free"):
        reach.secrets.create("g5-key", b"secret 5")
    reach.secrets.remove(names[1])
    reach.secrets.remove(names[1])
    assert (None, 3) == (reach.secrets.read(names[1]), len(reach.secrets.held()))
    assert b"secret 2" not in base64.b64decode(reach.secret(names[1])["data"]["value"])
    reach.clock.advance(COOLING - timedelta(seconds=1))
    with pytest.raises(Unavailable, match="the next in 1 s"):
        reach.secrets.create("g5-key", b"secret 5")
    reach.clock.advance(timedelta(seconds=1))
    assert names[1] == reach.secrets.create("g5-key", b"secret 5")
    assert b"secret 5" == reach.secrets.read(names[1])


def test_a_secret_that_is_not_rotators_is_left_alone(reach: Reach) -> None:
    """A name of rotator's that somebody else wrote is neither used nor freed; another name is refused outright."""
    taken = f"rotator-{reach.mesh}-cert-0"
    metadata = {"name": taken, "namespace": reach.namespace, "labels": {"kuma.io/mesh": reach.mesh}}
    theirs = {"apiVersion": "v1", "kind": "Secret", "type": "system.kuma.io/secret", "metadata": metadata}
    reach.cluster.apply(theirs | {"data": {"value": base64.b64encode(b"theirs").decode()}})
    assert () == reach.secrets.held()
    assert f"rotator-{reach.mesh}-cert-1" == reach.secrets.create("g1-cert", b"ours")
    with pytest.raises(Rejected, match="did not write it"):
        reach.secrets.remove(taken)
    with pytest.raises(Rejected, match="not one of rotator's"):
        reach.secrets.remove("somebodys")


def test_a_secret_that_the_control_plane_guards_stays(reach: Reach) -> None:
    """A refused deletion (Kuma guards what a Mesh refers to) leaves the secret as it was."""
    name = reach.secrets.create("g1-cert", b"PEM one")
    guard = f"guard-{reach.namespace}"
    namespaces = {"matchLabels": {"kubernetes.io/metadata.name": reach.namespace}}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["secrets"]}
    spec = {
        "matchConstraints": {"namespaceSelector": namespaces, "resourceRules": [rule]},
        "validations": [{"expression": f"request.name != '{name}'", "message": "the mesh refers to it"}],
    }
    group = "admissionregistration.k8s.io/v1"
    policy = {"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": guard}, "spec": spec}
    binding = {"policyName": guard, "validationActions": ["Deny"]}
    reach.cluster.apply(policy)
    reach.cluster.apply(
        {"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": guard}, "spec": binding}
    )
    path = f"/api/v1/namespaces/{reach.namespace}/secrets/{name}"

    def guarded() -> bool:
        try:
            reach.cluster.call("DELETE", path, query={"dryRun": "All"})
        except Refused:
            return True
        return False

    wait_until(guarded, within=timedelta(seconds=30), what="the guard to hold")
    with pytest.raises(Rejected):
        reach.secrets.remove(name)
    assert b"PEM one" == reach.secrets.read(name)


def test_a_secret_of_the_mesh_is_read_for_adoption(reach: Reach) -> None:
    """A CA that was there before rotator is read by name, where the rights name it; another secret is denied."""
    name = f"{reach.mesh}.{BUILTIN_CERT}"
    metadata = {"name": name, "namespace": reach.namespace, "labels": {"kuma.io/mesh": reach.mesh}}
    builtin = {"apiVersion": "v1", "kind": "Secret", "type": "system.kuma.io/secret", "metadata": metadata}
    reach.cluster.apply(builtin | {"data": {"value": base64.b64encode(b"their CA").decode()}})
    assert b"their CA" == reach.secrets.read(name)
    with pytest.raises(Denied):
        reach.secrets.read("kuma-tls-cert")


# --- rights ---------------------------------------------------------------------------------------------------------


def forbidden(reach: Reach) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield calls that rotator has no business to make: method, path, body."""
    system = f"/api/v1/namespaces/{reach.namespace}"
    kuma = f"/apis/{KUMA}/namespaces/{reach.namespace}"
    labels = {"kuma.io/mesh": reach.mesh}

    def secret(name: str, kind: str = "system.kuma.io/secret") -> dict[str, Any]:
        metadata = {"name": name, "labels": labels}
        return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": {"value": "eA=="}}

    def identity(name: str, mesh: str) -> dict[str, Any]:
        metadata = {"name": name, "labels": {"kuma.io/mesh": mesh}}
        return {"apiVersion": KUMA, "kind": "MeshIdentity", "metadata": metadata, "spec": reach.identity("x").spec}

    yield "GET", f"{system}/secrets", None
    yield "GET", "/api/v1/secrets", None
    yield "GET", f"{system}/secrets/kuma-tls-cert", None
    yield "DELETE", f"{system}/secrets/kuma-tls-cert", None
    yield "POST", f"{system}/secrets", secret("admin-user-token")
    yield "POST", f"{system}/secrets", secret(f"rotator-{reach.mesh}-cert-8")
    yield "POST", f"{system}/secrets", secret(f"rotator-{reach.mesh}-cert-0", "system.kuma.io/global-secret")
    yield "POST", "/api/v1/namespaces/default/secrets", secret(f"rotator-{reach.mesh}-cert-0")
    yield "GET", f"/apis/{KUMA}/meshes", None
    yield "GET", f"/apis/{KUMA}/meshes/other", None
    yield "DELETE", f"/apis/{KUMA}/meshes/{reach.mesh}", None
    yield "POST", f"/apis/{KUMA}/meshes", mesh_document("other")
    yield "POST", f"{kuma}/meshidentities", identity("theirs", reach.mesh)
    yield "POST", f"{kuma}/meshidentities", identity(f"rotator-{reach.mesh}-999998-g1", "other")
    yield "DELETE", f"{kuma}/meshidentities/theirs", None
    yield "DELETE", f"{kuma}/meshtrusts/theirs", None
    yield "GET", f"{kuma}/dataplanes", None
    yield "GET", f"{system}/pods", None
    yield "GET", f"{system}/configmaps", None
    yield (
        "POST",
        f"{system}/serviceaccounts/rotator/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"},
    )


def test_nothing_else_is_allowed(reach: Reach) -> None:
    """With the rights that rotator asks for, and the policy beside them, it can do nothing that it never does."""
    metadata = {"name": "theirs", "namespace": reach.namespace, "labels": {"kuma.io/mesh": reach.mesh}}
    theirs = {"apiVersion": KUMA, "kind": "MeshIdentity", "metadata": metadata, "spec": reach.identity("x").spec}
    by_kubectl(reach.cluster, theirs)
    answers = {}
    for method, path, body in forbidden(reach):
        try:
            reach.cluster.call(method, path, body, token=reach.token)
        except Refused as e:
            answers[method, path] = e.status
        else:
            answers[method, path] = 200
    assert {} == {call: status for call, status in answers.items() if status not in {403, 422}}


def test_no_call_lists_secrets(reach: Reach) -> None:
    """The audit log of a generation's whole life holds no list of Secrets and no call that was refused."""
    before = sum(1 for _ in reach.cluster.audit(user=reach.user))
    for purpose in ("g1-key", "g1-cert", "bundle-0123456789ab"):
        reach.secrets.create(purpose, purpose.encode())
    for secret in reach.secrets.held():
        reach.secrets.remove(secret.name)
    seen = reach.documents.read(Kind.MESH, reach.mesh)
    assert seen is not None
    reach.documents.write(signing_with(seen, "new"))
    events = list(reach.cluster.audit(user=reach.user))[before:]
    verbs = {(event["verb"], event["objectRef"]["resource"]) for event in events}
    assert {("get", "secrets"), ("create", "secrets"), ("update", "secrets"), ("delete", "secrets")} <= verbs
    assert {("get", "meshes"), ("update", "meshes")} <= verbs
    assert ("list", "secrets") not in verbs
    # Slots that are not there yet are asked for by name: 404 is an answer.
    assert {200, 201, 404} >= {event["responseStatus"]["code"] for event in events}


# --- errors ---------------------------------------------------------------------------------------------------------


def test_an_api_server_that_is_away_is_unavailable(cluster: Cluster, tmp_path: Path) -> None:
    """No answer, and an answer of somebody with another certificate, are the same to the caller: observe again."""
    file = cluster.kubeconfig_for("none", "default", tmp_path / "kubeconfig")
    file.write_text(file.read_text().replace(f":{cluster.port}", ":1"))
    api = ObjectAPI(ClusterAccess(namespace="default", kubeconfig_file=file, timeout=timedelta(seconds=2)))
    with pytest.raises(Unavailable, match="did not answer GET"):
        KubernetesDocuments(api, mesh="m", namespace="default").read(Kind.MESH, "m")
    api.close()


def test_a_token_that_nobody_knows_is_denied(cluster: Cluster, tmp_path: Path) -> None:
    """A token that ended is told to a person."""
    file = cluster.kubeconfig_for("none", "default", tmp_path / "kubeconfig")
    api = ObjectAPI(ClusterAccess(namespace="default", kubeconfig_file=file))
    with pytest.raises(Denied, match="does not know who asks"):
        KubernetesDocuments(api, mesh="m", namespace="default").read(Kind.MESH, "m")
    api.close()


def test_no_way_in_is_a_configuration_error(tmp_path: Path) -> None:
    """Neither a kubeconfig that is not there nor a machine outside every cluster is silently anything else."""
    with pytest.raises(ConfigError, match="kubeconfig"):
        ObjectAPI(ClusterAccess(namespace="default", kubeconfig_file=tmp_path / "none"))
    with pytest.raises(ConfigError, match="ServiceAccount"):
        ObjectAPI(ClusterAccess(namespace="default"))
