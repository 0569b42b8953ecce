"""
A real Kubernetes API on this machine: etcd and kube-apiserver; what stands behind them is `tests.stack.nodes`.

Rules that must stay true here:

- What is true here of storing, admission, RBAC, field ownership and audit is true of any cluster: the server is the
  released one, with its default admission plugins, RBAC as the only authorizer, TLS, and no anonymous caller.
- Without `tests.stack.nodes` there is no controller manager, scheduler or kubelet: nothing collects garbage, finishes
  the deletion of a namespace or makes default ServiceAccounts. Tests make what they need.
- The administrator's token lives in a private file that the server reads and in the kubeconfig, in no argument list.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from rotator.embedded.loopback_tls import listener_certificate, write_private
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until

JSON = dict[str, Any]

HERE = Path(__file__).resolve().parent
BIN = HERE / "bin"
CRDS = HERE / "crds"

_BINDINGS = ("RoleBinding", "ClusterRoleBinding")

PEOPLE = ("alice", "bob", "carol", "mallory")
"""Users whom the server knows by a token and who may do nothing until a test grants it."""

_ANSWERS_WITHIN = 20
"""Seconds for one administrative call."""

_AUDIENCE = "https://kubernetes.default.svc"


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, body: str) -> None:
        """Keep the HTTP *status* beside the server's words."""
        super().__init__(f"{status}: {body[:2000]}")
        self.status = status


class Cluster:
    """One API server with all its files below one directory."""

    def __init__(self, directory: Path) -> None:
        """Describe it without starting it."""
        self.directory = directory
        self.port = free_port()
        self._token = secrets.token_urlsafe(32)
        self._people = {name: secrets.token_urlsafe(32) for name in PEOPLE}
        etcd_port, peer_port = free_port(), free_port()
        etcd, peer = f"http://{LOOPBACK}:{etcd_port}", f"http://{LOOPBACK}:{peer_port}"
        self.etcd = ServerProcess(
            "etcd",
            [
                BIN / "etcd",
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                # The directory is the test's and dies with it: what a power cut would lose is of no interest.
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            log=directory / "etcd.log",
        )
        self._etcd_url = etcd
        self.api_server = ServerProcess(
            "kube-apiserver",
            [
                BIN / "kube-apiserver",
                f"--etcd-servers={etcd}",
                f"--bind-address={LOOPBACK}",
                f"--secure-port={self.port}",
                # A loopback address may not be announced to pods; there are none.
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.96.0.0/24",
                f"--tls-cert-file={directory / 'server.crt'}",
                f"--tls-private-key-file={directory / 'server.key'}",
                f"--token-auth-file={directory / 'tokens.csv'}",
                f"--service-account-issuer={_AUDIENCE}",
                f"--service-account-key-file={directory / 'service-account.key'}",
                f"--service-account-signing-key-file={directory / 'service-account.key'}",
                "--authorization-mode=RBAC",
                "--anonymous-auth=false",
                f"--audit-policy-file={directory / 'audit-policy.yaml'}",
                f"--audit-log-path={self.audit_file}",
                # Tests count what is in it from before to after: it may not begin anew between the two.
                "--audit-log-maxsize=100000",
                # One entry is one line in the file as soon as the answer is out: tests read it right away.
                "--audit-log-mode=blocking-strict",
            ],
            log=directory / "kube-apiserver.log",
            stop_within=timedelta(seconds=20),
        )

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """Return the PEM that verifies its certificate."""
        return self.directory / "listener-ca.crt"

    @property
    def audit_file(self) -> Path:
        """Return its audit log: one JSON event a line."""
        return self.directory / "audit.log"

    @property
    def kubeconfig(self) -> Path:
        """Return the administrator's kubeconfig."""
        return self.directory / "admin.kubeconfig"

    @property
    def administrator(self) -> str:
        """Return the administrator's token."""
        return self._token

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start both, and return once the server says that it is ready."""
        if not self.ca_file.exists():
            self._prepare_directory()
        if not self.etcd.alive:
            self.etcd.start(ready=lambda: _healthy(f"{self._etcd_url}/health"))
        self.api_server.start(ready=self._ready, within=timedelta(seconds=90))

    def stop(self) -> None:
        """Stop both in order."""
        self.api_server.stop()
        self.etcd.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ready(self) -> bool:
        """Return whether the server is ready, its own hooks (RBAC's first roles) included."""
        try:
            self.call("GET", "/readyz")
            # The namespaces that objects live in are made by the server itself, a moment later.
            self.call("GET", "/api/v1/namespaces/default")
        except (requests.RequestException, Refused):
            return False
        return True

    def _prepare_directory(self) -> None:
        """Write certificates, keys, the administrator's token and the audit policy."""
        self.directory.mkdir(parents=True, exist_ok=True)
        certificate, key = listener_certificate(self.ca_file)
        write_private(self.directory / "server.key", key)
        (self.directory / "server.crt").write_bytes(certificate)
        write_private(
            self.directory / "service-account.key",
            rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        tokens = f'{self._token},admin,admin,"system:masters"\n'
        tokens += "".join(f"{token},{name},{name}\n" for name, token in self._people.items())
        write_private(self.directory / "tokens.csv", tokens.encode())
        # Metadata alone: bodies would put every Secret into the log.
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}
        (self.directory / "audit-policy.yaml").write_text(yaml.safe_dump(policy))
        self._write_kubeconfig(self.kubeconfig, self._token, "default")

    # --- administration ---------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
    ) -> JSON:
        """
        Make one call, as the administrator unless another *token* is given, and return its JSON.

        Over a connection of *session* if there is one: for whoever makes many.

        Raises:
            Refused: If the server answers with an error.
        """
        answer = (session or requests).request(
            method,
            self.url + path,
            data=None if body is None else json.dumps(body),
            params=query,
            headers={"Authorization": f"Bearer {token or self._token}", "Content-Type": content_type},
            verify=str(self.ca_file),
            timeout=_ANSWERS_WITHIN,
        )
        with answer:
            if answer.status_code >= 400:
                raise Refused(answer.status_code, answer.text)
            found: JSON = answer.json() if "json" in answer.headers.get("Content-Type", "") else {}
            return found

    def apply(self, document: Mapping[str, Any], *, manager: str = "tests", force: bool = True) -> JSON:
        """
        Server-side apply one *document* as the field manager *manager*; return what is stored.

        A binding is in force when this returns: the server's authorizer learns of one a moment after it is stored.
        """
        stored = self.call(
            "PATCH",
            self.path_of(document),
            document,
            content_type="application/apply-patch+yaml",
            query={"fieldManager": manager, "force": "true" if force else "false"},
        )
        if document["kind"] in _BINDINGS:
            wait_until(
                lambda: self._in_force(document),
                within=timedelta(seconds=60),
                what=f"the binding {document['metadata']['name']} to be in force",
                every=timedelta(milliseconds=50),
            )
        return stored

    def _in_force(self, binding: Mapping[str, Any]) -> bool:
        """Return whether *binding* gives its first subject what its role allows first; also if there is no role yet."""
        namespace = binding["metadata"].get("namespace", "")
        role = {
            "apiVersion": binding["apiVersion"],
            "kind": binding["roleRef"]["kind"],
            "metadata": {"name": binding["roleRef"]["name"], "namespace": namespace},
        }
        try:
            rules = [rule for rule in self.call("GET", self.path_of(role))["rules"] or () if rule.get("resources")]
        except Refused as e:
            if e.status != 404:
                raise
            return True
        if not rules or not binding.get("subjects"):
            return True
        rule, subject = rules[0], binding["subjects"][0]
        plural, _, below = rule["resources"][0].partition("/")
        who = {
            "User": {"user": subject["name"]},
            "Group": {"user": "somebody", "groups": [subject["name"]]},
            "ServiceAccount": {"user": f"system:serviceaccount:{subject.get('namespace')}:{subject['name']}"},
        }[subject["kind"]]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": who
            | {
                "resourceAttributes": {
                    "verb": rule["verbs"][0],
                    "group": rule["apiGroups"][0],
                    "resource": plural,
                    "subresource": below,
                    "name": (rule.get("resourceNames") or [""])[0],
                    "namespace": namespace,
                }
            },
        }
        made = self.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(made["status"].get("allowed"))

    def delete(self, document: Mapping[str, Any]) -> None:
        """Delete *document*; absent is no error."""
        try:
            self.call("DELETE", self.path_of(document))
        except Refused as e:
            if e.status != 404:
                raise

    def path_of(self, document: Mapping[str, Any]) -> str:
        """Return the API path of *document*, its plural looked up at the server."""
        group = "/api/v1" if document["apiVersion"] == "v1" else f"/apis/{document['apiVersion']}"
        kinds = {kind["kind"]: kind for kind in self.call("GET", group)["resources"] if "/" not in kind["name"]}
        kind = kinds[document["kind"]]
        where = f"/namespaces/{document['metadata']['namespace']}" if kind["namespaced"] else ""
        return f"{group}{where}/{kind['name']}/{quote(document['metadata']['name'])}"

    def install_crds(self) -> None:
        """Install the kinds of Kuma that rotator reads and writes, and return once the server serves them."""
        documents = [yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))]
        for document in documents:
            self.apply(document)
        paths = [f"/apis/kuma.io/v1alpha1/{document['spec']['names']['plural']}" for document in documents]
        wait_until(
            lambda: all(self.serves(path) for path in paths),
            within=timedelta(seconds=60),
            what="the kinds of Kuma to be served",
            every=timedelta(milliseconds=100),
        )

    def serves(self, path: str) -> bool:
        """Return whether the collection at *path* can be listed: after it is known its cache has yet to fill."""
        try:
            self.call("GET", path)
        except Refused as e:
            if e.status in {404, 429}:
                return False
            raise
        return True

    def namespace(self, name: str) -> None:
        """Make the namespace *name*; there already is no error."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def service_account(self, namespace: str, name: str) -> str:
        """Make a ServiceAccount without any right, and return a token for it that lasts an hour."""
        metadata = {"namespace": namespace, "name": name}
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        made = self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", request)
        token: str = made["status"]["token"]
        return token

    def person(self, name: str) -> str:
        """Return the token of the user *name*, one of `PEOPLE`."""
        return self._people[name]

    def kubeconfig_for(self, token: str, namespace: str, file: Path) -> Path:
        """Write a kubeconfig that holds *token* into *file* and return it."""
        self._write_kubeconfig(file, token, namespace)
        return file

    def _write_kubeconfig(self, file: Path, token: str, namespace: str) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
        write_private(file, yaml.safe_dump(document).encode())

    def audit(self, *, user: str | None = None) -> Iterator[JSON]:
        """Yield the audit events whose answer is complete, oldest first; those of *user* alone if one is named."""
        with self.audit_file.open(encoding="utf-8") as lines:
            for line in lines:
                if user is not None and user not in line:
                    continue
                event: JSON = json.loads(line)
                if event["stage"] == "ResponseComplete" and user in {None, event["user"]["username"]}:
                    yield event


def _healthy(url: str) -> bool:
    """Return whether etcd says that it is healthy."""
    try:
        with requests.get(url, timeout=2) as answer:
            return answer.status_code == 200 and answer.json().get("health") == "true"
    except requests.RequestException:
        return False
