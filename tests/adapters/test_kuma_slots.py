"""The ring of slots, whose fields a document's are, what rotator asks for, and what an API server's answers mean."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rotator.adapters.kuma import slots
from rotator.adapters.kuma.control_plane import Kind
from rotator.adapters.kuma.kubernetes import managers_of
from rotator.adapters.kuma.rights import admission_policy, rbac_rules
from rotator.adapters.kuma.slots import COOLING, Slot, State
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.errors import AdapterError, Conflict, Denied, Rejected, Unavailable

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MESH = "prod"


def ring(**states: Slot) -> list[Slot]:
    """Return the mesh's slots, every one in use but those given by their last two words: ``key_1``."""
    found = []
    for name in slots.slot_names(MESH):
        short = "_".join(name.split("-")[-2:])
        given = states.get(short, Slot(name=name, state=State.USED, revision="1", purpose=short))
        found.append(given)
    return found


def slot(short: str, state: State, *, freed: timedelta | None = None) -> Slot:
    """Return one slot, freed so long ago."""
    name = f"rotator-{MESH}-{short.replace('_', '-')}"
    return Slot(name=name, state=state, revision="7", since=None if freed is None else NOW - freed)


# --- the ring -------------------------------------------------------------------------------------------------------


def test_twelve_names_a_mesh() -> None:
    """Eight slots for certificates and four for keys, by names that are known beforehand."""
    names = slots.slot_names(MESH)
    assert (12, 12) == (len(names), len(set(names)))
    assert ("rotator-prod-cert-0", "rotator-prod-key-3") == (names[0], names[-1])


def test_keys_and_certificates_keep_apart() -> None:
    """A key goes into a slot for keys; a certificate or a bundle never does."""
    found = ring(key_2=slot("key_2", State.MISSING), cert_5=slot("cert_5", State.MISSING))
    assert "rotator-prod-key-2" == slots.slot_for("g7-key", MESH, found, now=NOW).name
    assert "rotator-prod-cert-5" == slots.slot_for("g7-cert", MESH, found, now=NOW).name
    assert "rotator-prod-cert-5" == slots.slot_for("bundle-0123456789ab", MESH, found, now=NOW).name


def test_what_never_was_used_comes_first_then_what_rests_longest() -> None:
    """Slots are taken in the order in which nothing can confuse them."""
    hour, day = timedelta(hours=1), timedelta(days=1)
    free = {"key_0": slot("key_0", State.FREE, freed=hour), "key_1": slot("key_1", State.FREE, freed=day)}
    assert "rotator-prod-key-1" == slots.slot_for("g7-key", MESH, ring(**free), now=NOW).name
    free["key_3"] = slot("key_3", State.MISSING)
    assert "rotator-prod-key-3" == slots.slot_for("g7-key", MESH, ring(**free), now=NOW).name


def test_a_slot_rests_before_it_is_used_again() -> None:
    """To the second; a moment that nobody can read counts as now."""
    just_before = slot("key_0", State.FREE, freed=COOLING - timedelta(seconds=1))
    with pytest.raises(Unavailable, match="the next in 1 s"):
        slots.slot_for("g7-key", MESH, ring(key_0=just_before), now=NOW)
    assert (
        "rotator-prod-key-0"
        == slots.slot_for("g7-key", MESH, ring(key_0=slot("key_0", State.FREE, freed=COOLING)), now=NOW).name
    )
    with pytest.raises(Unavailable, match="the next in 60 s"):
        slots.slot_for("g7-key", MESH, ring(key_0=slot("key_0", State.FREE)), now=NOW)


def test_a_ring_without_a_free_slot_says_what_holds_it() -> None:
    """Slots in use and slots of somebody else's are named, and none is taken."""
    with pytest.raises(Rejected, match=r"rotator-prod-key-0 \(key_0\), rotator-prod-key-1 \(foreign\)"):
        slots.slot_for("g7-key", MESH, ring(key_1=slot("key_1", State.FOREIGN)), now=NOW)


def test_a_slot_reads_back_as_it_was_written() -> None:
    """Used, freed and missing are told apart by what the Secret says; its content never shows."""
    empty = slots.slot_in("rotator-prod-key-0", MESH, None)
    assert State.MISSING is empty.state
    body = slots.used(empty, MESH, "kuma-system", purpose="g7-key", value=b"PRIVATE", now=NOW)
    assert "resourceVersion" not in body["metadata"]
    body["metadata"]["resourceVersion"] = "12"
    used = slots.slot_in("rotator-prod-key-0", MESH, body)
    assert (State.USED, "g7-key", b"PRIVATE", NOW, "12") == (
        used.state,
        used.purpose,
        used.value,
        used.since,
        used.revision,
    )
    assert "PRIVATE" not in repr(used)
    body = slots.freed(used, MESH, "kuma-system", now=NOW)
    assert "12" == body["metadata"]["resourceVersion"]
    free = slots.slot_in("rotator-prod-key-0", MESH, body)
    assert (State.FREE, "", b"", NOW) == (free.state, free.purpose, free.value, free.since)
    assert b"PRIVATE" not in base64.b64decode(body["data"]["value"])
    assert body["data"]["value"], "Kuma refuses a secret without content"


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "Opaque"},
        {"metadata": {"labels": {"kuma.io/mesh": "other", "app.kubernetes.io/managed-by": "rotator"}}},
        {"metadata": {"labels": {"kuma.io/mesh": "prod"}}},
        {"metadata": {}},
        {"data": {"value": "no base64!"}},
        {"data": None},
    ],
)
def test_what_rotator_did_not_write_is_foreign(changed: dict[str, Any]) -> None:
    """Another type, another mesh, nobody's label, or a content that cannot be read: hands off."""
    empty = slots.slot_in("rotator-prod-key-0", MESH, None)
    body = slots.used(empty, MESH, "kuma-system", purpose="g7-key", value=b"x", now=NOW)
    assert State.FOREIGN is slots.slot_in("rotator-prod-key-0", MESH, {**body, **changed}).state


# --- whose fields they are ------------------------------------------------------------------------------------------

BACKENDS: dict[str, Any] = {"f:spec": {"f:mtls": {"f:backends": {}, "f:enabledBackend": {}}}}


@pytest.mark.parametrize(
    ("manager", "fields", "owns"),
    [
        ("argocd-controller", BACKENDS, True),
        ("argocd-controller", {"f:spec": {}}, True),
        ("argocd-controller", {"f:spec": {"f:mtls": {}}}, True),
        ("argocd-controller", {"f:spec": {"f:mtls": {".": {}}}}, False),
        ("argocd-controller", {"f:spec": {"f:mtls": {"f:enabledBackend": {}}}}, False),
        ("argocd-controller", {"f:spec": {"f:routing": {}}}, False),
        ("argocd-controller", {"f:metadata": {"f:labels": {}}}, False),
        ("helm", BACKENDS, True),
        ("kubectl", BACKENDS, True),
        ("rotator", BACKENDS, False),
        ("kuma-cp", BACKENDS, False),
        ("kubectl-edit", BACKENDS, False),
        ("kubectl-client-side-apply", BACKENDS, False),
    ],
)
def test_who_keeps_applying_a_mesh_is_named(manager: str, fields: dict[str, Any], *, owns: bool) -> None:
    """A manager counts if it owns what rotator writes, or something around it, and comes back to write it again."""
    entry = {"manager": manager, "operation": "Apply", "fieldsV1": fields}
    found = {"metadata": {"managedFields": [entry]}}
    assert frozenset({manager} if owns else ()) == managers_of(Kind.MESH, found)


def test_a_subresource_is_nobodys_claim() -> None:
    """Who writes a status does not own what a person wrote."""
    entry = {"manager": "somebody", "subresource": "status", "fieldsV1": BACKENDS}
    assert frozenset() == managers_of(Kind.MESH, {"metadata": {"managedFields": [entry]}})


def test_an_annotation_that_is_no_manifest_is_none() -> None:
    """What cannot be read as the manifest applied last claims nothing."""
    entry = {"manager": "kubectl-client-side-apply", "fieldsV1": BACKENDS}
    for text in ("", "{", "[]", '"x"'):
        annotations = {"kubectl.kubernetes.io/last-applied-configuration": text}
        metadata = {"managedFields": [entry], "annotations": annotations}
        assert frozenset() == managers_of(Kind.MESH, {"metadata": metadata})


# --- rights ---------------------------------------------------------------------------------------------------------


def test_no_right_reaches_beyond_names() -> None:
    """But for creating and for identities, whose names count on, every rule names its objects; none lists Secrets."""
    rights = rbac_rules(MESH, "kuma-system", read_secrets=("prod.ca-builtin-cert-ca-1",))
    rules = [*rights.cluster, *rights.namespaces["kuma-system"]]
    open_ended = [(rule["resources"], rule["verbs"]) for rule in rules if "resourceNames" not in rule]
    assert [
        (["secrets"], ["create"]),
        (["meshidentities"], ["get", "list", "create", "update", "delete"]),
        (["meshtrusts"], ["get", "list", "create"]),
    ] == open_ended
    verbs = {verb for rule in rules if "secrets" in rule["resources"] for verb in rule["verbs"]}
    assert {"get", "create", "update", "delete"} == verbs
    assert not any("*" in word for rule in rules for words in rule.values() for word in words)


def test_the_policy_looks_at_rotator_alone() -> None:
    """Somebody else's writes are none of its business, and it fails closed."""
    policy, binding = admission_policy((MESH,), "kuma-system", service_account="rotator:rotator")
    (condition,) = policy["spec"]["matchConditions"]
    assert "request.userInfo.username == 'system:serviceaccount:rotator:rotator'" == condition["expression"]
    assert ("Fail", ["Deny"]) == (policy["spec"]["failurePolicy"], binding["spec"]["validationActions"])


# --- answers --------------------------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: bytes, tmp_path: Path) -> Iterator[ObjectAPI]:
    """Give the hands on an API server that gives this one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 -- the base class calls them so

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class calls it so
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"server": f"http://127.0.0.1:{server.server_address[1]}"}
    context = {"cluster": "test", "user": "test"}
    document = {
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": "t"}}],
        "contexts": [{"name": "test", "context": context}],
        "current-context": "test",
    }
    kubeconfig.write_text(yaml.safe_dump(document))
    api = ObjectAPI(ClusterAccess(namespace="kuma-system", kubeconfig_file=kubeconfig))
    try:
        yield api
    finally:
        api.close()
        server.shutdown()
        thread.join()
        server.server_close()


def status_body(message: str, *fields: str) -> bytes:
    """Return an error as an API server words it."""
    causes = [{"field": field, "message": message} for field in fields]
    return json.dumps({"kind": "Status", "message": message, "details": {"causes": causes}}).encode()


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "unknown field", Rejected),
        (401, "Unauthorized", Denied),
        (403, 'secrets is forbidden: User "x" cannot get', Denied),
        (403, 'admission webhook "validator.kuma.io" denied the request: no', Rejected),
        (409, "the object has been modified", Conflict),
        (422, "is invalid", Rejected),
        (429, "storage is (re)initializing", Unavailable),
        (500, "failed calling webhook", Unavailable),
        (503, "shutting down", Unavailable),
    ],
)
def test_an_error_answer_says_what_to_do_next(
    status: int, message: str, error: type[AdapterError], tmp_path: Path
) -> None:
    """Each answer becomes the error whose class says what the caller does."""
    with answering(status, status_body(message), tmp_path) as api:
        with pytest.raises(error) as found:
            api.replace("/api/v1/x", {})
        assert error is type(found.value)


def test_an_answer_that_is_no_json_is_no_answer(tmp_path: Path) -> None:
    """Somebody between us and the API server says something: observe again. But a plain 404 is an absent kind."""
    with answering(200, b"<html>", tmp_path) as api, pytest.raises(Unavailable):
        api.get("/api/v1/x")
    with answering(404, b"404 page not found\n", tmp_path) as api:
        assert (None, ()) == (api.get("/apis/kuma.io/v1alpha1/x"), api.listed("/apis/kuma.io/v1alpha1/x"))
        with pytest.raises(Rejected, match="knows no"):
            api.create("/apis/kuma.io/v1alpha1/x", {})
        with pytest.raises(Conflict, match="is gone"):
            api.replace("/apis/kuma.io/v1alpha1/x", {})


def test_no_secret_is_quoted(tmp_path: Path) -> None:
    """Of a Secret's refusal the fields alone are named; of anything's, no PEM."""
    body = status_body("Invalid value: PRIVATE", "data.value")
    with answering(422, body, tmp_path) as api:
        with pytest.raises(Rejected, match=r"data\.value") as refused:
            api.create("/api/v1/x", {}, secret=True)
        assert "PRIVATE" not in str(refused.value)
    pem = "Invalid value: -----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"
    with answering(422, status_body(pem), tmp_path) as api:
        with pytest.raises(Rejected, match="PEM left out") as refused:
            api.create("/api/v1/x", {})
        assert "MIIE" not in str(refused.value)
