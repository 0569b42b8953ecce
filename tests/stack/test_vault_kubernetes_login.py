"""
Logging in at Vault as a pod does: a real OpenBao that has a real API server review the token.

Rules that must stay true here:

- The method, its reviewer and the role are set up by the shipped script and the shipped manifest, as operators do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rotator.adapters.vault.auth import Kubernetes
from rotator.adapters.vault.session import VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.clock import SystemClock
from rotator.embedded.loopback_tls import write_private
from rotator.embedded.openbao import OpenBaoServer, read
from rotator.errors import Denied
from tests.fixtures_openbao import VaultDomain
from tests.stack.cluster import Cluster

pytestmark = [pytest.mark.stack, pytest.mark.external]

SHIPPED = Path(__file__).parents[2] / "deploy" / "vault"
MOUNT = "kubernetes-shipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A method that is set up, and where tokens for it are made."""

    cluster: Cluster
    domain: VaultDomain
    environment: dict[str, str]
    place: Path

    def set_up(self, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run the shipped script."""
        return subprocess.run(
            ["sh", SHIPPED / "kubernetes-auth.sh"],
            env=self.environment | changed,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def token(
        self, *, namespace: str = "rotator", account: str = "rotator", audiences: tuple[str, ...] = ("vault",)
    ) -> Path:
        """Return a file with a token such as the kubelet projects into a pod."""
        self.cluster.namespace(namespace)
        metadata = {"namespace": namespace, "name": account}
        self.cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 600, "audiences": list(audiences)},
        }
        made = self.cluster.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", request)
        file = self.place / f"{namespace}-{account}-{'-'.join(audiences).replace('/', '_')}"
        write_private(file, made["status"]["token"].encode())
        return file

    def logged_in(self, token_file: Path) -> bool:
        """Log in with what *token_file* holds, use the rights, and return whether the session knows its end."""
        server = self.domain.server
        auth = Kubernetes(role="rotator", token_file=token_file, mount=MOUNT)
        session = VaultSession(Endpoint(address=server.address, ca_file=server.ca_file), auth, clock=SystemClock())
        with session:
            session.read(f"{self.domain.mount}/config/issuers", doing="reading the pointer")
            return session.token_not_after is not None


@pytest.fixture
def login(cluster: Cluster, openbao: OpenBaoServer, vault_domain: VaultDomain, tmp_path: Path) -> Login:
    """Apply the shipped reviewer and give what the script needs."""
    cluster.namespace("vault")
    for document in yaml.safe_load_all((SHIPPED / "token-reviewer.yaml").read_text()):
        # Its token is filled in by a controller of clusters; here one is asked for.
        if document["kind"] != "Secret":
            cluster.apply(document)
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    made = cluster.call("POST", "/api/v1/namespaces/vault/serviceaccounts/vault-token-reviewer/token", request)
    write_private(tmp_path / "reviewer", made["status"]["token"].encode())
    with openbao.admin() as admin:
        root_token: str = admin.token
    return Login(
        cluster=cluster,
        domain=vault_domain,
        environment={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "BAO_ADDR": openbao.address,
            "BAO_CACERT": str(openbao.ca_file),
            "BAO_TOKEN": root_token,
            "MOUNT": MOUNT,
            "KUBERNETES_HOST": cluster.url,
            "KUBERNETES_CA_FILE": str(cluster.ca_file),
            "REVIEWER_TOKEN_FILE": str(tmp_path / "reviewer"),
            "POLICIES": vault_domain.files.role_id_file.parent.name,
        },
        place=tmp_path,
    )


def test_a_pods_token_for_vault_logs_in_and_no_other(login: Login) -> None:
    """The script may be run twice; the account's token for Vault is taken, and one of anything else is denied."""
    for _ in range(2):
        ran = login.set_up()
        assert 0 == ran.returncode, ran.stderr

    assert login.logged_in(login.token())
    for other in (
        login.token(audiences=("https://kubernetes.default.svc",)),
        login.token(account="somebody"),
        login.token(namespace="elsewhere"),
    ):
        with pytest.raises(Denied):
            login.logged_in(other)


def test_a_deleted_account_logs_in_no_more(login: Login) -> None:
    """The API server itself is asked each time: a token that outlives its account opens nothing."""
    assert 0 == login.set_up().returncode
    token = login.token()
    login.cluster.call("DELETE", "/api/v1/namespaces/rotator/serviceaccounts/rotator")

    with pytest.raises(Denied):
        login.logged_in(token)


def test_the_script_says_what_is_missing(login: Login) -> None:
    """Without a reviewer's token nothing is set up, and policies that are not rotator's own are refused."""
    nothing = login.place / "nothing"
    nothing.touch()
    for changed in ({"REVIEWER_TOKEN_FILE": str(nothing)}, {"POLICIES": "root"}):
        ran = login.set_up(MOUNT="never", **changed)
        assert 2 == ran.returncode
        assert "kubernetes-auth.sh" in ran.stderr
    with login.domain.server.admin() as admin:
        assert "never/" not in read(admin, "sys/auth")
