"""
A real daemon whose certificates are Secrets of a real API server, with the rights that `config rbac` prints for it.

Rules that must stay true here:

- Rotator's account has what its own configuration says and nothing else; what tests do there, an administrator does.
- Accounts are closed from the cluster, the CA's list and the ledger, never from what the daemon says of itself.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests

from rotator.bootstrap.rights import rights_objects
from rotator.cluster.rbac import Account
from rotator.control import RotateRequest
from rotator.core.event import Event, EventType
from rotator.core.model import Serial, SubjectName
from rotator.embedded.process import wait_until
from rotator.errors import Rejected
from rotator.evidence.ledger import records
from rotator.pki.certificates import Material, leaf_of, material, parse_certificates
from rotator.ports import IssuanceState, RotationState
from rotator.settings import load
from rotator.store.sql import SQLStore
from tests.e2e.installation import ENDED, DaemonInstallation
from tests.fixtures_openbao import VaultDomain
from tests.stack.cluster import JSON, Cluster
from tests.stack.fault_proxy import FaultProxy

PATIENCE = timedelta(seconds=300)
_AT_ONCE = 10


class SecretInstallation(DaemonInstallation):
    """One daemon over one standalone trust domain; its services read their Secrets at every use."""

    def __init__(
        self,
        directory: Path,
        vault: VaultDomain,
        cluster: Cluster,
        *,
        secrets: int,
        namespaces: int,
        leaf: str = "5m",
        proxied: bool = False,
        timing: Mapping[str, str] | None = None,
        threads: int = 4,
    ) -> None:
        self.vault = vault
        self.cluster = cluster
        self.session = requests.Session()
        prefix = f"app-{vault.mount.replace('_', '-')}"
        self.places = {
            SubjectName(f"service-{number}"): (f"{prefix}-{number % namespaces}", f"service-{number}-tls")
            for number in range(secrets)
        }
        super().__init__(
            directory,
            vault,
            trust_domain={
                "model": "standalone",
                "issuer": "corporate",
                "ca": {
                    "mount": vault.mount,
                    "role": vault.rights.role,
                    "lifetime": "6h",
                    "minimum_overlap": "1s",
                    "crl_interval": "1m",
                },
                "longest_leaf": leaf,
                "trust_deadline": {"after": "30s"},
            },
            certificates={
                name: {
                    "trust_domain": vault.trust_domain,
                    "identity": f"spiffe://{vault.trust_domain}/{name}",
                    "lifetime": leaf,
                    "publish": [{"kubernetes_secret": {"namespace": namespace, "name": secret}}],
                    "probes": [{"read_back": {}}],
                }
                for name, (namespace, secret) in self.places.items()
            },
        )
        home = f"rotator-{vault.mount.replace('_', '-')}"
        kubeconfig = directory / "rotator.kubeconfig"
        self.document["cluster"] = {"namespace": home, "kubeconfig_file": str(kubeconfig), "timeout": "3s"}
        self.document["limits"]["threads"] = threads
        self.document["timing"] |= dict(timing or {})
        self.write()
        for namespace in {home, *(namespace for namespace, _ in self.places.values())}:
            cluster.namespace(namespace)
        account = Account(namespace=home, name="rotator")
        for each in rights_objects(load(self.configuration), account):
            cluster.apply(each)
        token = cluster.service_account(home, "rotator")
        self.proxy = FaultProxy(cluster.url, cluster.ca_file, directory / "proxy") if proxied else None
        if self.proxy is None:
            cluster.kubeconfig_for(token, home, kubeconfig)
        else:
            self.proxy.kubeconfig(token, kubeconfig)

    def start(self) -> None:
        """Start the daemon and return once it answers; a loaded machine takes its time."""
        self.daemon.start(ready=lambda: self.status() is not None, within=PATIENCE)

    # --- driving ----------------------------------------------------------------------------------------------------

    def ask_all(self, names: Sequence[SubjectName]) -> None:
        """Ask for a rotation of each of *names*, a few at a time: an answer must come within the client's patience."""
        for at in range(0, len(names), _AT_ONCE):
            self.client().rotate(RotateRequest(subjects=tuple(names[at : at + _AT_ONCE]), reason="a test asks"))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until *condition* is true; the machine may be busy."""
        wait_until(condition, within=PATIENCE, what=what, every=timedelta(milliseconds=200))

    def wait_right(self) -> None:
        """Wait until everything is in use, and every Secret is what rotator would have it be."""
        self.wait(lambda: self.settled() and self.untrue() == [], "every Secret to be right")

    def path(self, name: SubjectName) -> str:
        """Return where the Secret of *name* is."""
        namespace, secret = self.places[name]
        return f"/api/v1/namespaces/{namespace}/secrets/{secret}"

    def held(self) -> dict[SubjectName, JSON]:
        """Return every Secret that is there, by certificate."""
        found = {}
        by_place = {place: name for name, place in self.places.items()}
        for namespace in sorted({namespace for namespace, _ in self.places.values()}):
            listed = self.cluster.call("GET", f"/api/v1/namespaces/{namespace}/secrets", session=self.session)
            for each in listed["items"]:
                name = by_place.get((namespace, each["metadata"]["name"]))
                if name is not None:
                    found[name] = each
        return found

    def copies(self) -> list[str]:
        """Return the names of every other Secret in the namespaces: copies of earlier publications."""
        ours = {secret for _, secret in self.places.values()}
        return [
            each["metadata"]["name"]
            for namespace in sorted({namespace for namespace, _ in self.places.values()})
            for each in self.cluster.call("GET", f"/api/v1/namespaces/{namespace}/secrets", session=self.session)[
                "items"
            ]
            if each["metadata"]["name"] not in ours
        ]

    def edit(self, name: SubjectName, change: Mapping[str, Any]) -> None:
        """Merge *change* into a Secret, as kubectl does for an administrator."""
        self.cluster.call(
            "PATCH",
            self.path(name),
            change,
            content_type="application/merge-patch+json",
            query={"fieldManager": "kubectl-edit"},
            session=self.session,
        )

    def delete(self, name: SubjectName) -> None:
        """Delete a Secret, as an administrator."""
        self.cluster.call("DELETE", self.path(name), session=self.session)

    # --- accounts ---------------------------------------------------------------------------------------------------

    def untrue(self) -> list[str]:
        """Return the certificates whose Secret is absent, or not whole, or not dressed as it should be."""
        found = []
        held = self.held()
        for name in self.places:
            whole = held.get(name)
            if whole is None:
                found.append(f"{name} is absent")
                continue
            said = whole["metadata"].get("annotations") or {}
            labels = whole["metadata"].get("labels") or {}
            try:
                made = material_of(whole)
            except Exception as error:  # noqa: BLE001 -- whatever makes it unreadable is the finding
                found.append(f"{name}: {error}")
                continue
            if (made.leaf.serial, str(name)) != (said.get("rotator.io/serial"), said.get("rotator.io/subject")):
                found.append(f"{name} is noted otherwise")
            if labels.get("app.kubernetes.io/managed-by") != "rotator":
                found.append(f"{name} bears another label")
        return found

    def serials(self) -> dict[SubjectName, Serial]:
        """Return the serial in each Secret whose chain can be read."""
        found = {}
        for name, whole in self.held().items():
            with contextlib.suppress(Rejected, KeyError):
                chain = base64.b64decode(whole["data"]["tls.crt"])
                found[name] = leaf_of(parse_certificates(chain, source="tls.crt")).serial
        return found

    def events(self, *types: EventType) -> list[Event]:
        """Return the ledger's events of *types*."""
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            return [each.event for each in records(store) if each.event.type in types]

    def wrong(self) -> list[str]:
        """Return every account that does not close, judged with the daemon stopped."""
        found = self.untrue() + [f"{name} was left" for name in self.copies()]
        published = set(self.serials().values())
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            open_orders = store.issuances(states=frozenset({IssuanceState.ASKED, IssuanceState.ISSUED}))
            found += [f"order {each.spki_sha256[:12]} of {each.subject} is {each.state}" for each in open_orders]
            found += [f"rotation {each.id} is open" for each in store.rotations(state=RotationState.OPEN)]
            states = {each.serial: each.state for each in store.issuances(states=frozenset(IssuanceState))}
        issued = [each.new.serial for each in self.events(EventType.ISSUED) if each.new is not None]
        found += [f"{serial} has {issued.count(serial)} records" for serial in set(issued) if issued.count(serial) > 1]
        with self.vault.session() as session:
            listed = {each.serial for each in self.vault.issuer(session).issued()}
        found += [f"{serial} is on the CA's list and has no record" for serial in listed - set(issued)]
        found += [
            f"{serial} is neither in use nor accounted for ({states.get(serial)})"
            for serial in listed - published
            if states.get(serial) not in ENDED
        ]
        return found


def material_of(whole: JSON) -> Material:
    """Return what a Secret holds, parsed and compared."""
    parts = {key: base64.b64decode(text) for key, text in whole["data"].items()}
    return material(parts["tls.crt"], parts["tls.key"], parts["ca.crt"])
