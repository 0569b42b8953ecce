"""The daemon, its commands and the doctor over a mesh in a real Kubernetes API, as the configuration wires them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rotator.core.model import Phase
from rotator.embedded.openbao import OpenBaoServer
from tests.e2e.installation import DaemonInstallation
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import MESH
from tests.fakes.kuma.timings import Timings
from tests.fixtures_kuma import PROXIES
from tests.fixtures_openbao import new_mesh
from tests.stack.cluster import Cluster
from tests.stack.kuma_store import KubernetesStore, grant

pytestmark = [pytest.mark.stack, pytest.mark.external]

NAME = "in-cluster"


def test_a_mesh_in_a_cluster_is_adopted_rotated_and_sound(
    cluster: Cluster, system_namespace: str, openbao: OpenBaoServer, tmp_path: Path
) -> None:
    """With the rights of deploy/kuma alone the doctor finds nothing broken, before and after a CA rotation."""
    vault = new_mesh(openbao, tmp_path / "credentials")
    token = grant(cluster, NAME, system_namespace)
    kubeconfig = cluster.kubeconfig_for(token, system_namespace, tmp_path / "kubeconfig")
    with (
        KubernetesStore(cluster, system_namespace) as store,
        StandIn(
            real_time=True,
            version="3.0.1",
            environment="kubernetes",
            store=store,
            local_is_admin=True,
            timings=Timings.quick(),
        ) as standin,
    ):
        standin.edit_mesh(NAME)
        for name in PROXIES:
            standin.add_proxy(name, mesh=NAME)
        installation = DaemonInstallation(
            tmp_path,
            vault,
            trust_domain={
                "model": "auto",
                "issuer": "corporate",
                "ca": {"lifetime": "6h", "minimum_overlap": "1s"},
                "longest_leaf": "30m",
                "trust_deadline": {"after": "1m"},
                "mesh": {
                    "name": NAME,
                    "control_plane": {
                        "url": standin.url,
                        "kubernetes": {"namespace": system_namespace, "kubeconfig_file": str(kubeconfig)},
                    },
                },
            },
        )
        installation.start()
        try:
            before = installation.run("--json", "doctor")
            told = json.loads(before.stdout)["findings"]
            assert (0, []) == (before.returncode, [each for each in told if each["grade"] == "broken"])
            assert "its account has every right in the cluster" in {each["what"] for each in told}
            words = (str(vault.trust_domain), "--reason", "a test asks", "--wait", "--wait-at-most", "50s")
            adopted = installation.run("adopt", *words, "--accept-interruption", "nobody is here yet")
            assert 0 == adopted.returncode, adopted.stderr
            rotated = installation.run("rotate-now", *words)
            assert 0 == rotated.returncode, rotated.stderr
            status = installation.status()
            assert status is not None
            (row,) = status["subjects"]
            assert (2, True) == (row["generation"], row["phase"] in {Phase.STEADY, Phase.RETIRED})
            assert {} == standin.failures()
            assert 0 == installation.run("doctor").returncode
        finally:
            installation.daemon.stop()
            store.delete(MESH, "", NAME)
