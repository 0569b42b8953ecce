"""
People ask a real daemon in a real cluster, each with their own kubeconfig; ledger and audit log say the same.

Rules that must stay true here:

- The daemon has the token of its ServiceAccount and exactly the rights that its features state; it runs as a process.
- People have their own tokens and the roles of deploy/people; they ask through the command line, as on their machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rotator.cluster.people import approvals_path, requests_path
from rotator.core.event import Event, EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.store.sql import SQLStore
from tests.e2e.installation import PATIENCE, Installation
from tests.fixtures_openbao import new_domain
from tests.stack.cluster import Cluster
from tests.stack.rotator_people import JSON, PeopleWorld

pytestmark = [pytest.mark.stack, pytest.mark.external]

SERVICE = "service-0"


@dataclass
class Office:
    """One daemon, its cluster, and people with their kubeconfigs."""

    world: PeopleWorld
    installation: Installation
    directory: Path

    def run(self, person: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command as *person* on their own machine, which has no configuration of rotator's."""
        token = self.world.cluster.person(person)
        file = self.world.cluster.kubeconfig_for(token, "default", self.directory / f"{person}.kubeconfig")
        own = {key: value for key, value in os.environ.items() if not key.startswith(("ROTATOR_", "KUBE"))}
        return subprocess.run(
            [sys.executable, "-m", "rotator", "--kubeconfig", str(file), "--namespace", self.world.namespace, *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=own,
        )

    def told(self, uid: str) -> list[Event]:
        """Return the ledger's records about the object with that uid."""
        store = SQLStore(self.installation.document["store"], environment="test")
        try:
            return [each.event for each in records(store) if each.event.corroboration.kubernetes == uid]
        finally:
            store.close()

    def whose(self, event: Event) -> str | None:
        """Return who stands behind the commitment of a record."""
        store = SQLStore(self.installation.document["store"], environment="test")
        try:
            return store.reveal(event.requested_by) if event.requested_by is not None else None
        finally:
            store.close()

    def size(self) -> int:
        """Return how many records the ledger has about requests."""
        store = SQLStore(self.installation.document["store"], environment="test")
        try:
            return sum(1 for each in records(store) if "request" in each.event.detail)
        finally:
            store.close()

    def tries(self, person: str, plural: str) -> list[JSON]:
        """Return what the API server's audit log has of *person* making objects of that kind in this office."""
        # Other tests have people of the same names in their own namespaces of the same cluster.
        here = {"resource": plural, "namespace": self.world.namespace}
        return [
            each
            for each in self.world.cluster.audit(user=person)
            if each["verb"] == "create" and here.items() <= each["objectRef"].items()
        ]

    def request(self, name: str) -> JSON:
        """Return the request of that name."""
        return self.world.cluster.call("GET", requests_path(self.world.namespace, name))

    def wait_phase(self, name: str, phase: str) -> JSON:
        """Wait until the request of that name is in *phase*, and return it."""
        wait_until(
            lambda: self.request(name).get("status", {}).get("phase") == phase, within=PATIENCE, what=f"{name} {phase}"
        )
        return self.request(name)


@contextlib.contextmanager
def opened(cluster: Cluster, openbao: OpenBaoServer, directory: Path, namespace: str) -> Iterator[Office]:
    """Alice asks and might approve, bob and carol approve; every rotation of a certificate takes another's word."""
    roles = {"alice": ("requester", "approver"), "bob": ("approver",), "carol": ("approver", "requester")}
    world = PeopleWorld(cluster, namespace, roles)
    installation = Installation(directory, new_domain(openbao, directory / "credentials"), services=1)
    kubeconfig = cluster.kubeconfig_for(world.token, namespace, directory / "rotator.kubeconfig")
    installation.document["cluster"] = {
        "namespace": namespace,
        "kubeconfig_file": str(kubeconfig),
        "requests": {"look_every": "200ms"},
    }
    rule = {"name": "services", "subjects": ["service-*"], "operations": ["rotate"], "expires_after": "1h"}
    installation.document["approval"] = {"rules": [rule]}
    installation.write()
    installation.start()
    try:
        installation.wait_settled()
        yield Office(world=world, installation=installation, directory=directory)
    finally:
        installation.daemon.stop()


@pytest.fixture(scope="module")
def office(cluster: Cluster, openbao: OpenBaoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """Give one office for all tests that leave it as it was."""
    with opened(cluster, openbao, tmp_path_factory.mktemp("office"), "rotator-people") as found:
        yield found


def answered(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what a command printed as JSON."""
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_request_approved_by_a_second_person(office: Office) -> None:
    """It waits with exit code 3, is carried out once somebody else agrees, and both names are in every record."""
    asked = office.run("alice", "--json", "rotate-now", SERVICE, "--reason", "a test asks", "--ticket", "OPS-1")
    assert 3 == asked.returncode, asked.stderr
    request = answered(asked)["request"]
    assert ("awaiting_approval", "alice", 1) == tuple(
        request[key] for key in ("state", "requested_by", "approvals_needed")
    )
    agreed = office.run("bob", "approve", request["id"], "--reason", "seen", "--wait", "--wait-at-most", "60s")
    assert 0 == agreed.returncode, agreed.stderr + agreed.stdout
    done = office.wait_phase(request["id"], "Done")
    assert ["done"] == [each["state"] for each in done["status"]["rotations"]]
    waits, opened = office.told(request["uid"])
    assert ("awaiting approval", "started") == (waits.result, opened.result)
    assert ("alice (cluster user)", 1, "OPS-1") == (
        office.whose(opened),
        len(opened.approved_by),
        opened.detail["ticket"],
    )
    (word,) = [
        each
        for each in office.world.cluster.call("GET", approvals_path(office.world.namespace))["items"]
        if each["spec"]["request"]["uid"] == request["uid"]
    ]
    (approval,) = office.told(word["metadata"]["uid"])
    assert (EventType.APPROVAL, "approved", opened.approved_by) == (
        approval.type,
        approval.result,
        approval.approved_by,
    )
    assert ("Counted", "bob") == (word["status"]["phase"], word["spec"]["approvedBy"])
    # The API server has seen the same two people make the same two objects.
    assert 201 in {each["responseStatus"]["code"] for each in office.tries("alice", "rotationrequests")}
    assert {201} == {each["responseStatus"]["code"] for each in office.tries("bob", "rotationapprovals")}


def test_who_may_not_is_denied_by_the_api_server(office: Office) -> None:
    """Exit code 5; rotator never hears of it, and the audit log names who tried."""
    before = office.size()
    tried = office.run("mallory", "rotate-now", SERVICE, "--reason", "a test asks")
    assert (5, True) == (tried.returncode, 'User "mallory" cannot create resource' in tried.stderr), tried.stderr
    (seen,) = office.tries("mallory", "rotationrequests")
    assert (403, "forbid") == (
        seen["responseStatus"]["code"],
        seen["annotations"]["authorization.k8s.io/decision"],
    )
    assert before == office.size()


def test_another_s_name_is_refused_by_the_api_server(office: Office) -> None:
    """Whoever writes another's name makes nothing; the audit log has the real one."""
    before = office.size()
    status = office.world.refused(
        "POST",
        requests_path(office.world.namespace),
        {
            "apiVersion": "rotator.io/v1",
            "kind": "RotationRequest",
            "metadata": {"generateName": "forged-"},
            "spec": {"operation": "Rotate", "subjects": [SERVICE], "reason": "x", "requestedBy": "bob"},
        },
        token=office.world.cluster.person("alice"),
    )
    refused = [each for each in office.tries("alice", "rotationrequests") if each["responseStatus"]["code"] == 403]
    assert (403, True) == (status, any("your own name, alice" in json.dumps(each) for each in refused))
    assert before == office.size()


def test_one_s_own_request_is_approved_by_nobody_else_s_name(office: Office) -> None:
    """
    The honest one is refused by the API server.

    Who hides whose request it is gets past it, is refused by rotator, and stands in the ledger and the audit log.
    """
    asked = office.run("alice", "--json", "rotate-now", SERVICE, "--reason", "a test asks")
    request = answered(asked)["request"]
    honest = office.run("alice", "approve", request["id"])
    assert (5, True) == (honest.returncode, "nobody approves their own request" in honest.stderr), honest.stderr
    assert 403 in {each["responseStatus"]["code"] for each in office.tries("alice", "rotationapprovals")}
    made = office.request(request["id"])
    word = office.world.answer("alice", made, of="carol")
    wait_until(lambda: "phase" in office.world.approval(word).get("status", {}), within=PATIENCE, what="an answer")
    assert "Refused" == office.world.approval(word)["status"]["phase"]
    (refused,) = office.told(word["metadata"]["uid"])
    assert (EventType.REFUSED, "approve", "alice (cluster user)") == (
        refused.type,
        refused.detail["operation"],
        office.whose(refused),
    )
    assert 201 in {each["responseStatus"]["code"] for each in office.tries("alice", "rotationapprovals")}
    assert "AwaitingApproval" == office.request(request["id"])["status"]["phase"]
    said = office.run("carol", "reject", request["id"], "--reason", "not today")
    assert 0 == said.returncode, said.stderr
    assert "Rejected" == office.wait_phase(request["id"], "Rejected")["status"]["phase"]


def test_what_waits_survives_a_killed_daemon(cluster: Cluster, openbao: OpenBaoServer, tmp_path: Path) -> None:
    """Killed while a request waits, and answered meanwhile: one rotation, one intent, one status."""
    with opened(cluster, openbao, tmp_path, "rotator-killed") as office:
        asked = office.run("alice", "--json", "rotate-now", SERVICE, "--reason", "a test asks")
        request = answered(asked)["request"]
        office.installation.daemon.kill()
        office.world.answer("bob", office.request(request["id"]))
        office.installation.start()
        done = office.wait_phase(request["id"], "Done")
        assert 1 == len(done["status"]["rotations"])
        assert ["awaiting approval", "started"] == [each.result for each in office.told(request["uid"])]


def test_a_refused_request_is_in_the_ledger(office: Office) -> None:
    """What names nothing is refused with exit code 4 and recorded with its uid; status lists it."""
    refused = office.run("alice", "--json", "rotate-now", "nonsense", "--reason", "a test asks")
    assert 4 == refused.returncode, refused.stdout
    request = answered(refused)["request"]
    (told,) = office.told(request["uid"])
    assert (EventType.REFUSED, "nothing in the configuration has that name") == (told.type, told.reason)
    listed = json.loads(office.run("carol", "--json", "status").stdout)["requests"]
    assert ("Refused", "alice") == next(
        (each["phase"], each["requested_by"]) for each in listed if each["id"] == request["id"]
    )


def test_a_plan_changes_nothing(office: Office) -> None:
    """A dry run prints the plan and ends with 0."""
    before = office.size()
    planned = office.run("alice", "rotate-now", SERVICE, "--reason", "a test asks", "--dry-run")
    assert (0, True, before) == (planned.returncode, f"issue {SERVICE} anew" in planned.stdout, office.size())


def test_pause_and_resume_end_at_once(office: Office) -> None:
    """No rule asks for a second word about a pause: both are done when the command ends."""
    paused = office.run("alice", "pause", SERVICE, "--until", "1h", "--reason", "a test asks")
    assert (0, True) == (paused.returncode, f"{SERVICE} is paused until" in paused.stdout), paused.stderr
    row = next(each for each in (office.installation.status() or {})["subjects"] if each["name"] == SERVICE)
    assert row["paused_until"] is not None
    assert 0 == office.run("alice", "resume", SERVICE).returncode


def test_the_doctor_says_whether_people_can_ask(office: Office) -> None:
    """It finds the kinds and the policy as they should be, with rotator's own rights."""
    found = json.loads(office.installation.run("--json", "doctor").stdout)["findings"]
    (about,) = [each for each in found if each["about"] == "cluster.requests"]
    assert ("fine", "people can ask, each in their own name alone") == (about["grade"], about["what"])
