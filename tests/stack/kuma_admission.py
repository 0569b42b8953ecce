"""
A control plane's admission webhook for a real API server, answering as the stand-in's own API does.

Rules that must stay true here:

- What is refused, and in which words, is the stand-in's (`tests.fakes.kuma.admission`); here it is only carried.
- As with a released control plane: of secrets the deletion of one that a mesh refers to is refused, its content is not
  looked at; an answer of the webhook has no side effects, so a rehearsed call is answered as a real one.
- Whoever is asked answers even while the control plane is down: an API server would refuse every write otherwise, and
  that is another test's business.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rotator.clock import SystemClock
from rotator.embedded.loopback_tls import listener_certificate, write_private
from rotator.embedded.process import LOOPBACK
from tests.fakes.kuma.admission import Invalid, Violation, check, used_secrets
from tests.fakes.kuma.policy_admission import policy_violations
from tests.fakes.kuma.reading import read_source, secret_content
from tests.fakes.kuma.store import IDENTITY, MESH, SECRET, TRUST, Json
from tests.stack.cluster import Cluster
from tests.stack.kuma_store import POLICY_PLURALS, KubernetesStore

_KINDS = {"Mesh": MESH, "MeshIdentity": IDENTITY, "MeshTrust": TRUST, **{kind: kind for kind in POLICY_PLURALS}}


class AdmissionWebhook:
    """The webhook for *mesh* in *namespace*; as a context manager it is registered and serves."""

    def __init__(self, cluster: Cluster, namespace: str, mesh: str, directory: Path, *, major: int = 3) -> None:
        """Describe it as a control plane's of *major*; its certificate is made below *directory*."""
        self._major = major
        self._cluster = cluster
        self._namespace = namespace
        self._mesh = mesh
        # One of its own: it reads while the control plane's own write waits for its answer.
        self._store = KubernetesStore(cluster, namespace)
        directory.mkdir(parents=True, exist_ok=True)
        self._ca_file = directory / "webhook-ca.crt"
        certificate, key = listener_certificate(self._ca_file)
        pair = directory / "webhook.pem"
        write_private(pair, certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        review = self._review

        class Handler(BaseHTTPRequestHandler):
            """Answers one review."""

            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = json.dumps(review(asked)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                # The API server keeps its connections for long; each would keep a thread of ours.
                self.send_header("Connection", "close")
                self.close_connection = True
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class calls it so
                """Say nothing."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        self._cluster.apply(self._configuration())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.delete(self._configuration())
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._store.__exit__(kind, error, trace)

    def _configuration(self) -> Json:
        url = f"https://{LOOPBACK}:{self._server.server_address[1]}/"
        bundle = base64.b64encode(self._ca_file.read_bytes()).decode()
        common: Json = {
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": url, "caBundle": bundle},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "timeoutSeconds": 10,
        }
        here = {"matchLabels": {"kubernetes.io/metadata.name": self._namespace}}
        everything = ["CREATE", "UPDATE", "DELETE"]
        kuma = {"apiGroups": ["kuma.io"], "apiVersions": ["v1alpha1"], "operations": everything}
        secrets = {"apiGroups": [""], "apiVersions": ["v1"], "operations": everything, "resources": ["secrets"]}
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": f"kuma-{self._namespace}"},
            "webhooks": [
                {
                    **common,
                    "name": "mesh.kuma.io",
                    "rules": [{**kuma, "operations": ["CREATE", "UPDATE"], "resources": ["meshes"]}],
                    # Meshes belong to the whole cluster, and each has its own control plane here.
                    "matchConditions": [{"name": "its-own", "expression": f"request.name == '{self._mesh}'"}],
                },
                {
                    **common,
                    "name": "documents.kuma.io",
                    "namespaceSelector": here,
                    "rules": [{**kuma, "resources": ["meshidentities", "meshtrusts", *POLICY_PLURALS.values()]}],
                },
                {**common, "name": "secrets.kuma.io", "namespaceSelector": here, "rules": [secrets]},
            ],
        }

    # --- answers ----------------------------------------------------------------------------------------------------

    def _review(self, asked: Json) -> Json:
        request = asked["request"]
        answer: Json = {"uid": request["uid"], "allowed": True}
        try:
            self._check(request)
        except Invalid as e:
            causes = [
                {"field": each.field, "message": each.message, "reason": "FieldValueInvalid"} for each in e.violations
            ]
            status = {"code": 422, "reason": "Invalid", "message": str(e), "details": {"causes": causes}}
            answer |= {"allowed": False, "status": status}
        return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}

    def _check(self, request: Json) -> None:
        """Raise `Invalid` if what is asked for is refused."""
        kind = request["kind"]["kind"]
        if kind == "Secret":
            self._check_secret(request)
        elif request["operation"] != "DELETE":
            after = self._store.resource(_KINDS[kind], _stored(request["object"]))
            old = request.get("oldObject")
            before = None if old is None else self._store.resource(_KINDS[kind], _stored(old))
            check(after, before, self._read)
            refused = policy_violations(after.type, after.name, after.spec, major=self._major)
            if refused:
                raise Invalid(*refused)

    def _check_secret(self, request: Json) -> None:
        if request["operation"] != "DELETE":
            value = (request["object"].get("data") or {}).get("value")
            if request["object"].get("type") == "system.kuma.io/secret" and not value:
                raise Invalid(Violation("data.value", "cannot be empty."))
            return
        secret = self._store.resource(SECRET, _stored(request["oldObject"]))
        mesh = self._store.get(MESH, "", secret.mesh)
        backend = used_secrets(mesh.name, mesh.spec).get(secret.name) if mesh is not None else None
        if backend is not None:
            raise Invalid(Violation("name", f"the secret {secret.name} is in use in mTLS backend {backend}"))

    def _read(self, mesh: str, source: Json) -> bytes | None:
        return read_source(source, lambda name: secret_content(self._store, mesh, name))


def _stored(found: Json) -> Json:
    """Return an object under review with what the API server adds when it stores it."""
    metadata = {"resourceVersion": "0", "creationTimestamp": SystemClock().now().isoformat(), **found["metadata"]}
    if not metadata.get("creationTimestamp"):
        metadata["creationTimestamp"] = SystemClock().now().isoformat()
    return {**found, "metadata": metadata}
