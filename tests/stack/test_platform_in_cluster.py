"""
The platform in a real cluster: asked for by objects, approved by a second person, written to a real Kubernetes API.

Rules that must stay true here:

- The daemon has the rights that its features state, and the policies that confine it; it runs as a process.
- What the control plane is, a stand-in over the same API server says; its proxies enforce what stands there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rotator.adapters.kuma.rights import platform_rights, rbac_rules
from rotator.cluster.people import requests_path
from rotator.cluster.rbac import confinement, role_objects
from rotator.cluster.rights import joined
from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from tests.e2e.platform_installation import PATIENCE, PlatformInstallation
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import MESH
from tests.fakes.kuma.timings import Timings
from tests.fixtures_openbao import new_mesh
from tests.stack.cluster import Cluster
from tests.stack.kuma_store import KubernetesStore
from tests.stack.rotator_people import JSON, PeopleWorld

pytestmark = [pytest.mark.stack, pytest.mark.external]

NAME = "platform-in-cluster"
ROLES = {"alice": ("requester", "approver"), "bob": ("approver",)}


class Office:
    """One daemon over a platform in a cluster, and people with their kubeconfigs."""

    def __init__(self, cluster: Cluster, world: PeopleWorld, system: str, installation: PlatformInstallation) -> None:
        self.cluster = cluster
        self.world = world
        self.installation = installation
        self.permissions = f"/apis/kuma.io/v1alpha1/namespaces/{system}/meshtrafficpermissions"

    def run(self, person: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command as *person* on their own machine, which has no configuration of rotator's."""
        token = self.cluster.person(person)
        directory = self.installation.directory
        file = self.cluster.kubeconfig_for(token, "default", directory / f"{person}.kubeconfig")
        own = {key: value for key, value in os.environ.items() if not key.startswith(("ROTATOR_", "KUBE"))}
        return subprocess.run(
            [sys.executable, "-m", "rotator", "--kubeconfig", str(file), "--namespace", self.world.namespace, *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=own,
        )

    def permission(self) -> JSON | None:
        """Return the ledger's permission as it stands, None without one."""
        found = self.cluster.call("GET", self.permissions)["items"]
        return next((each for each in found if each["metadata"]["name"] == "rotator-production-ledger"), None)


@pytest.fixture
def office(cluster: Cluster, openbao: OpenBaoServer, system_namespace: str, tmp_path: Path) -> Iterator[Office]:
    """Give an office in which every change of the platform takes another's word."""
    world = PeopleWorld(cluster, f"rotator-{system_namespace}", ROLES)
    rights = joined([rbac_rules(NAME, system_namespace), platform_rights(system_namespace)])
    name = f"platform-{system_namespace}"
    for each in role_objects(rights, world.account, name=name, cluster_name=name):
        cluster.apply(each)
    for each in confinement(rights.confined, world.account, name=name):
        cluster.apply(each)
    kubeconfig = cluster.kubeconfig_for(world.token, world.namespace, tmp_path / "rotator.kubeconfig")
    with ExitStack() as cleanup:
        store = cleanup.enter_context(KubernetesStore(cluster, system_namespace, policies=True))
        standin = cleanup.enter_context(
            StandIn(
                real_time=True,
                version="3.0.1",
                environment="kubernetes",
                store=store,
                local_is_admin=True,
                timings=Timings.quick(),
            )
        )
        standin.edit_mesh(NAME)
        cleanup.callback(store.delete, MESH, "", NAME)
        reached = {"namespace": system_namespace, "kubeconfig_file": str(kubeconfig)}
        installation = PlatformInstallation(
            tmp_path,
            new_mesh(openbao, tmp_path / "credentials"),
            NAME,
            {"url": standin.url, "kubernetes": reached},
        )
        installation.document["cluster"] = {
            "namespace": world.namespace,
            "kubeconfig_file": str(kubeconfig),
            "requests": {"look_every": "200ms"},
        }
        rule = {"name": "access", "kinds": ["platform"], "operations": ["apply", "undo"]}
        installation.document["approval"] = {"rules": [rule]}
        installation.write()
        installation.start()
        cleanup.callback(installation.daemon.stop)
        yield Office(cluster, world, system_namespace, installation)


def test_two_people_change_who_may_call_what(office: Office) -> None:
    """Shown with diffs in the request's status, approved by another, applied; a hand's edit is found and put back."""
    installation = office.installation
    asked = office.run("alice", "--json", "platform", "apply", "--reason", "finance reads its ledger")
    assert 3 == asked.returncode, asked.stderr
    answer = json.loads(asked.stdout)
    name = answer["request"]["id"]
    status = office.cluster.call("GET", requests_path(office.world.namespace, name))["status"]
    shown = next(each for each in status["plan"] if "MeshTrafficPermission" in each["what"])
    assert ("AwaitingApproval", True) == (status["phase"], "+++ MeshTrafficPermission" in shown["diff"])
    assert (answer["digest"], None) == (status["digest"], office.permission())
    own = office.run("alice", "approve", name)
    assert 5 == own.returncode, own.stdout + own.stderr
    agreed = office.run("bob", "approve", name, "--reason", "seen", "--wait", "--wait-at-most", "60s")
    assert 0 == agreed.returncode, agreed.stdout + agreed.stderr
    standing = office.permission()
    assert standing is not None
    assert "rotator" == standing["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    applied = installation.events(EventType.APPLIED)
    assert {1} == {len(each.approved_by) for each in applied}

    installation.then("put_back")
    path = f"{office.permissions}/rotator-production-ledger"
    office.cluster.call("DELETE", path)
    wait_until(lambda: office.permission() is not None, within=PATIENCE, what="the permission to be put back")
    installation.wait("the record", lambda: 1 == len(installation.events(EventType.PUT_BACK)))
    (drifted,) = installation.events(EventType.DRIFTED)
    assert ("removed", "rotator-production-ledger") == (drifted.result, drifted.detail["name"])
    found = office.permission()
    assert found is not None
    assert standing["spec"] == found["spec"]
