"""
One Secret in a real cluster, seen by rotator with exactly the rights that it states, and by everybody else.

Rules that must stay true here:

- Rotator's account has what `secret_rights` and `configmap_rights` say and nothing else; others act as administrator.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rotator.adapters.kubernetes.bundles import BundleStore
from rotator.adapters.kubernetes.notes import Dress
from rotator.adapters.kubernetes.publishing_rights import configmap_rights, secret_rights
from rotator.adapters.kubernetes.secrets import SecretStore
from rotator.clock import SystemClock
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.rbac import Account, confinement, role_objects
from rotator.cluster.rights import Rights, joined
from rotator.core.model import SubjectName
from rotator.embedded.process import wait_until
from tests.stack.cluster import JSON, Cluster, Refused

SUBJECT = SubjectName("worker")
SECRET = "web-tls"  # noqa: S105 -- the name of a Secret
BUNDLE = "trust"

_numbers = itertools.count(1)


@dataclass(slots=True)
class PublishedSecret:
    """A namespace of its own, rotator's connection to it, and what others do there."""

    cluster: Cluster
    namespace: str
    api: ObjectAPI
    clock: SystemClock = field(default_factory=SystemClock)

    def store(self, **wanted: Any) -> SecretStore:
        """Return a new store, as a new process would have it; *wanted* are further arguments."""
        words: dict[str, Any] = {"patience": timedelta(seconds=10), "subject": SUBJECT} | wanted
        return SecretStore(self.api, namespace=self.namespace, name=SECRET, clock=self.clock, **words)

    def bundles(self, **wanted: Any) -> BundleStore:
        """Return a new store of the bundle alone."""
        words: dict[str, Any] = {"subject": SUBJECT} | wanted
        return BundleStore(self.api, namespace=self.namespace, name=BUNDLE, clock=self.clock, **words)

    def path(self, name: str = SECRET, plural: str = "secrets") -> str:
        """Return where an object of the namespace is."""
        return f"/api/v1/namespaces/{self.namespace}/{plural}/{name}"

    def held(self, name: str = SECRET, plural: str = "secrets") -> JSON:
        """Return an object as it is."""
        return self.cluster.call("GET", self.path(name, plural))

    def edit(self, change: Mapping[str, Any], *, manager: str = "kubectl-edit", plural: str = "secrets") -> JSON:
        """Merge *change* into the Secret (or the ConfigMap), as somebody else."""
        return self.cluster.call(
            "PATCH",
            self.path(SECRET if plural == "secrets" else BUNDLE, plural),
            change,
            content_type="application/merge-patch+json",
            query={"fieldManager": manager},
        )

    def make(self, body: Mapping[str, Any], plural: str = "secrets") -> JSON:
        """Create an object, as somebody else."""
        return self.cluster.call("POST", f"/api/v1/namespaces/{self.namespace}/{plural}", body)

    def remove(self, name: str = SECRET, plural: str = "secrets") -> None:
        """Delete an object, as somebody else."""
        self.cluster.call("DELETE", self.path(name, plural))

    def names(self) -> list[str]:
        """Return the names of every Secret in the namespace."""
        listed = self.cluster.call("GET", f"/api/v1/namespaces/{self.namespace}/secrets")["items"]
        return sorted(each["metadata"]["name"] for each in listed)


def dressed(**labels: str) -> Dress:
    """Return a dress of *labels*."""
    return Dress(labels=labels)


def grant(cluster: Cluster, account: Account, rights: Rights) -> str:
    """Give *account* these *rights* and no other, and return its token."""
    cluster.namespace(account.namespace)
    token = cluster.service_account(account.namespace, account.name)
    name = f"{account.name}-{account.namespace}"
    for each in (
        *role_objects(rights, account, name=name, cluster_name=name),
        *confinement(rights.confined, account, name=name),
    ):
        cluster.apply(each)
    wait_until(
        lambda: all(_refuses(cluster, namespace, token) for namespace in rights.namespaces),
        within=timedelta(seconds=60),
        what="the policy to be in force",
        every=timedelta(milliseconds=50),
    )
    return token


def _refuses(cluster: Cluster, namespace: str, token: str) -> bool:
    """Return whether *token* may not create any Secret: the server reads a policy a moment after it is made."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "no-such"}}
    path = f"/api/v1/namespaces/{namespace}/secrets"
    try:
        cluster.call("POST", path, body, token=token, query={"dryRun": "All"})
    except Refused:
        return True
    return False


@contextlib.contextmanager
def published_secret(cluster: Cluster, directory: Path) -> Iterator[PublishedSecret]:
    """Give a namespace in which rotator may publish one Secret and one ConfigMap."""
    namespace = f"published-{next(_numbers)}"
    cluster.namespace(namespace)
    account = Account(namespace=namespace, name="rotator")
    rights = joined([secret_rights(namespace, SECRET), configmap_rights(namespace, BUNDLE)])
    token = grant(cluster, account, rights)
    kubeconfig = cluster.kubeconfig_for(token, namespace, directory / f"{namespace}.kubeconfig")
    api = ObjectAPI(ClusterAccess(namespace=namespace, kubeconfig_file=kubeconfig))
    try:
        yield PublishedSecret(cluster, namespace, api)
    finally:
        api.close()
