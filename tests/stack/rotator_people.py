"""
People of a real cluster who ask rotator for something: kinds, policy, roles, and who holds which.

Rules that must stay true here:

- Everything that is applied is what `deploy/people` holds, made for the test's own namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rotator.adapters.kubernetes import people
from rotator.cluster.people import API_VERSION, APPROVAL, REQUEST, approvals_path, requests_path
from rotator.cluster.rbac import Account, role_objects
from rotator.embedded.process import wait_until
from tests.stack.cluster import Cluster, Refused

JSON = dict[str, Any]


class PeopleWorld:
    """One namespace of rotator's, and people with roles in it."""

    def __init__(self, cluster: Cluster, namespace: str, roles: Mapping[str, tuple[str, ...]]) -> None:
        """Apply everything in *namespace*; *roles* says who holds which, without ``rotator-`` before it."""
        self.cluster = cluster
        self.namespace = namespace
        self.account = Account(namespace=namespace)
        cluster.namespace(namespace)
        self.token = cluster.service_account(namespace, self.account.name)
        for document in people.definitions():
            cluster.apply(document)
        for path in (requests_path(namespace), approvals_path(namespace)):
            wait_until(lambda path=path: cluster.serves(path), within=timedelta(seconds=60), what=path)  # type: ignore[misc] # mypy cannot infer a lambda's default
        self.policy = people.naming_policy(self.account)
        documents = (
            *self.policy,
            *people.roles_of_people(namespace),
            *role_objects(people.own_rights(namespace), self.account, name="rotator", cluster_name=namespace),
        )
        for document in documents:
            cluster.apply(document)
        for name, held in roles.items():
            for role in held:
                self._bind(name, role)
        self._wait_guarded()

    def _bind(self, name: str, role: str) -> None:
        self.cluster.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": f"{name}-{role}", "namespace": self.namespace},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": f"rotator-{role}",
                },
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
            }
        )

    def _wait_guarded(self) -> None:
        """Wait until the policy is in force: the API server reads it a moment after it was made."""

        def refuses() -> bool:
            try:
                self.ask("admin", token=None, rehearse=True, by="somebody-else")
            except Refused as refused:
                return "your own name" in str(refused)
            return False

        wait_until(refuses, within=timedelta(seconds=60), what="the policy to be in force")

    # --- what people do ---------------------------------------------------------------------------------------------

    def ask(
        self, name: str, *, by: str | None = None, token: str | None = "", rehearse: bool = False, **spec: Any
    ) -> JSON:
        """Make a request as the user *name* (in the name of *by*); raise `Refused` if the API server refuses it."""
        asked = {"operation": "Rotate", "subjects": ["web"], "reason": "a test asks", "requestedBy": by or name} | spec
        document = {
            "apiVersion": API_VERSION,
            "kind": REQUEST,
            "metadata": {"generateName": f"{name}-", "namespace": self.namespace},
            "spec": {key: value for key, value in asked.items() if value is not None},
        }
        return self.cluster.call(
            "POST",
            requests_path(self.namespace),
            document,
            token=self.cluster.person(name) if token == "" else token,
            query={"fieldValidation": "Strict"} | ({"dryRun": "All"} if rehearse else {}),
        )

    def answer(
        self, name: str, request: JSON, *, by: str | None = None, of: str | None = None, token: str = "", **spec: Any
    ) -> JSON:
        """Approve *request* as the user *name*, in the name of *by* and as asked for by *of*."""
        said = {
            "request": {
                "name": request["metadata"]["name"],
                "uid": request["metadata"]["uid"],
                "requestedBy": of or request["spec"]["requestedBy"],
            },
            "decision": "Approve",
            "approvedBy": by or name,
        } | spec
        document = {
            "apiVersion": API_VERSION,
            "kind": APPROVAL,
            "metadata": {"generateName": f"{name}-", "namespace": self.namespace},
            "spec": said,
        }
        return self.cluster.call(
            "POST",
            approvals_path(self.namespace),
            document,
            token=token or self.cluster.person(name),
            query={"fieldValidation": "Strict"},
        )

    def refused(self, method: str, path: str, body: JSON, *, token: str) -> int:
        """Return the status with which the API server refuses a call; 0 if it does not."""
        try:
            self.cluster.call(method, path, body, token=token)
        except Refused as refused:
            return refused.status
        return 0

    def request(self, made: JSON) -> JSON:
        """Return the request *made* as it stands now."""
        return self.cluster.call("GET", requests_path(self.namespace, made["metadata"]["name"]))

    def approval(self, made: JSON) -> JSON:
        """Return the approval *made* as it stands now."""
        return self.cluster.call("GET", approvals_path(self.namespace, made["metadata"]["name"]))
