"""
Vault's Kubernetes login, set up at a real OpenBao by the shipped script, with a real API server to review tokens.

Rules that must stay true here:

- The method, its reviewer and the role are set up by the shipped script and the shipped manifest, as operators do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from rotator.adapters.vault.auth import Kubernetes
from rotator.adapters.vault.session import VaultSession
from rotator.adapters.vault.transport import Endpoint
from rotator.clock import SystemClock
from rotator.embedded.loopback_tls import write_private
from tests.fixtures_openbao import VaultDomain
from tests.stack.cluster import Cluster

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


def kubernetes_login(cluster: Cluster, domain: VaultDomain, place: Path) -> Login:
    """Apply the shipped reviewer to *cluster* and return what the script needs to set up the login for *domain*."""
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
    write_private(place / "reviewer", made["status"]["token"].encode())
    with domain.server.admin() as admin:
        root_token: str = admin.token
    return Login(
        cluster=cluster,
        domain=domain,
        environment={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(place),
            "BAO_ADDR": domain.server.address,
            "BAO_CACERT": str(domain.server.ca_file),
            "BAO_TOKEN": root_token,
            "MOUNT": MOUNT,
            "KUBERNETES_HOST": cluster.url,
            "KUBERNETES_CA_FILE": str(cluster.ca_file),
            "REVIEWER_TOKEN_FILE": str(place / "reviewer"),
            "POLICIES": domain.files.role_id_file.parent.name,
        },
        place=place,
    )
