"""
Rotator as the chart installs it, but for its process, which runs here: outside the nodes, with the account's own token.

Rules that must stay true here:

- The rights are those that the rendered chart brings, and the only credentials are tokens of its ServiceAccount: one
  for the API server, one for Vault.
- The process's configuration is the chart's own text; paths of the pod stand for places below the test's directory.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from rotator.control import ControlClient
from rotator.embedded.process import ServerProcess, free_port
from rotator.errors import RotatorError
from rotator.evidence.signer import LocalSigner
from tests.deploy.charts import JSON, Rendering
from tests.deploy.in_cluster import install, placed
from tests.fixtures_openbao import VaultDomain
from tests.stack.cluster import Cluster
from tests.stack.nodes import Nodes
from tests.stack.vault_login import MOUNT, kubernetes_login

ACCOUNT = "rotator"
WORKLOAD = "airflow-triggerer"
"""The Deployment of the example, and the certificate that it loads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AsInstalled:
    """One installation, whose daemon can be started here."""

    cluster: Cluster
    rendering: Rendering
    airflow: str
    """The namespace of what it looks after."""
    place: Path
    token: str
    """Of its account, for the API server."""
    daemon: ServerProcess

    @property
    def home(self) -> str:
        """Return rotator's own namespace."""
        return self.rendering.namespace

    @property
    def username(self) -> str:
        """Return what the API server calls it."""
        return f"system:serviceaccount:{self.home}:{ACCOUNT}"

    @property
    def listens_at(self) -> str:
        """Return host and port of its HTTP service."""
        found: str = yaml.safe_load(self.configuration.read_text())["http"]["listen"]
        return found

    @property
    def configuration(self) -> Path:
        """Return the process's configuration."""
        return self.place / "rotator.yaml"

    def status(self) -> Mapping[str, Any] | None:
        """Return the daemon's status, None if it does not answer."""
        with contextlib.suppress(RotatorError):
            return ControlClient(self.place / "run" / "control.sock", timeout=timedelta(seconds=60)).status()
        return None

    def settled(self) -> bool:
        """Return whether everything is in use and nothing is open."""
        status = self.status()
        return status is not None and all(
            row["open_rotation"] is None and row["phase"] in {"in_use", "steady", "retired"}
            for row in status["subjects"]
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command with the daemon's own configuration."""
        return subprocess.run(
            [sys.executable, "-m", "rotator", "--config", str(self.configuration), *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def audited(self) -> Iterator[JSON]:
        """Yield what the API server's audit log holds of the account."""
        yield from self.cluster.audit(user=self.username)


def installed(nodes: Nodes, vault: VaultDomain, database: str, place: Path) -> AsInstalled:
    """
    Apply the chart of the example with several replicas, for *vault*, and describe a daemon without starting it.

    The user alice may ask for rotations, and read. The daemon keeps its state at *database*, a SQLAlchemy URL.
    """
    rendering = placed("replicas", place, nodes)
    document = yaml.safe_load(rendering.configuration)
    airflow = document["certificates"][WORKLOAD]["publish"][0]["kubernetes_secret"]["namespace"]
    rendering = replace(rendering, configuration=_for_vault(document, vault))
    alice = json.dumps([{"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"}])
    # The kinds of the Prometheus operator are not in this cluster, and the replicas of the nodes run nothing.
    without = "serviceMonitor.enabled=false,prometheusRule.enabled=false,replicas=0"
    people = ("--set-json", f"people.requester={alice}", "--set-json", f"people.reader={alice}")
    install(nodes.cluster, rendering, "--set", without, *people)

    login = kubernetes_login(nodes.cluster, vault, place)
    set_up = login.set_up(NAMESPACE=rendering.namespace)
    assert set_up.returncode == 0, set_up.stderr
    token = nodes.cluster.service_account(rendering.namespace, ACCOUNT)
    (place / "run").mkdir(mode=0o750)
    (place / "lib").mkdir()
    secrets = place / "secrets"
    for mount in ("ledger", "vault-ca", "vault-token"):
        (secrets / mount).mkdir(parents=True)
    LocalSigner.generate(secrets / "ledger" / "ledger.key", "rotator.example/cluster")
    (secrets / "vault-ca" / "ca.crt").write_bytes(vault.server.ca_file.read_bytes())
    login.token(namespace=rendering.namespace).replace(secrets / "vault-token" / "token")
    kubeconfig = nodes.cluster.kubeconfig_for(token, rendering.namespace, place / "kubeconfig")
    text = rendering.configuration
    for inside, outside in {
        "/var/lib/rotator": str(place / "lib"),
        "/run/rotator": str(place / "run"),
        "/var/run/secrets/rotator.io": str(secrets),
        "0.0.0.0:8443": f"127.0.0.1:{free_port()}",
        "127.0.0.1:8443": f"127.0.0.1:{free_port()}",
    }.items():
        text = text.replace(inside, outside)
    running = yaml.safe_load(text)
    running["cluster"]["kubeconfig_file"] = str(kubeconfig)
    running["store"] = database
    port = running["http"]["listen"]
    running["certificates"]["rotator"]["probes"][0]["tls"] = port
    configuration = place / "rotator.yaml"
    configuration.write_text(yaml.safe_dump(running, sort_keys=False))
    return AsInstalled(
        cluster=nodes.cluster,
        rendering=rendering,
        airflow=airflow,
        place=place,
        token=token,
        daemon=ServerProcess(
            "rotator",
            [sys.executable, "-m", "rotator", "--config", str(configuration), "run"],
            log=place / "rotator.log",
        ),
    )


def _for_vault(document: JSON, vault: VaultDomain) -> str:
    """Return the example's configuration, with the names and the quick times of *vault*."""
    found: JSON = json.loads(json.dumps(document))
    corporate = found["issuers"]["corporate"]["vault"]
    corporate |= {
        "address": vault.server.address,
        "mount": vault.rights.corporate_mount,
        "issuer": vault.rights.corporate_issuer,
    }
    corporate["auth"]["kubernetes"]["mount"] = MOUNT
    found["trust_domains"] = {
        str(vault.trust_domain): {
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
        }
    }
    for name, certificate in found["certificates"].items():
        certificate |= {
            "trust_domain": str(vault.trust_domain),
            "identity": f"spiffe://{vault.trust_domain}/{name}",
            "dns_names": [f"{name}.svc"],
            "lifetime": "30m",
        }
    found["workloads"]["airflow-triggerers"]["deployment"]["deadline"] = "5m"
    found["timing"] = {
        "skew": "1s",
        "propagation": "1s",
        "issue": "1s",
        "publish": "1s",
        "proof": "1s",
        "retry_budget": "30s",
        "sweep_every": "200ms",
        "backdate": "1s",
    }
    found["limits"] = {"issuances_per_subject": {"count": 10000, "within": "1h"}, "threads": 4}
    return yaml.safe_dump(found, sort_keys=False)
