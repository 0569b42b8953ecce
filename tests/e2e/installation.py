"""
A real installation on one machine: a real OpenBao, a configuration, and ``rotator run`` as a child that can be killed.

Rules that must stay true here:

- The daemon is driven as an operator and a crash would: its command, its socket, its signals.
- Where it is killed is a condition (the n-th request that OpenBao has audited), never a time.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from rotator.cli import main
from rotator.control import ControlClient, RotateRequest
from rotator.core.event import EventType
from rotator.core.model import SubjectName
from rotator.embedded.process import ServerProcess, wait_until
from rotator.errors import RotatorError
from rotator.evidence.ledger import records
from rotator.evidence.signer import LocalSigner
from rotator.pki.certificates import key_matches
from rotator.ports import IssuanceState, RotationState
from rotator.store.sql import SQLStore
from tests.fixtures_openbao import VaultDomain, VaultMesh

ORIGIN = "rotator.example/test"
PATIENCE = timedelta(seconds=60)
ENDED = frozenset({IssuanceState.SUPERSEDED, IssuanceState.REVOKED, IssuanceState.LAPSED, IssuanceState.NEVER})


class DaemonInstallation:
    """One daemon over one trust domain, and how people and crashes meet it."""

    def __init__(
        self,
        directory: Path,
        vault: VaultMesh,
        *,
        trust_domain: Mapping[str, Any],
        certificates: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Configure it with what the file says of its *trust_domain* and *certificates*; `start` runs it."""
        self.directory = directory
        self.socket = directory / "s"
        self.configuration = directory / "rotator.yaml"
        self.domain = SubjectName(vault.trust_domain)
        key = directory / "log.key"
        signer = LocalSigner.generate(key, ORIGIN)
        self.verifier_key = directory / "log.vkey"
        self.verifier_key.write_text(signer.verifier_key + "\n")
        self.document: dict[str, Any] = {
            "version": 1,
            "environment": "test",
            "store": f"sqlite:///{directory / 'state.db'}",
            "socket": str(self.socket),
            "log": {"format": "json"},
            "ledger": {
                "path": str(directory / "ledger"),
                "origin": ORIGIN,
                "signing_key_file": str(key),
                "checkpoint_every": "1s",
            },
            "timing": {
                "skew": "1s",
                "propagation": "1s",
                "issue": "1s",
                "publish": "1s",
                "proof": "1s",
                "retry_budget": "30s",
                "sweep_every": "100ms",
                "backdate": "1s",
            },
            "limits": {"issuances_per_subject": {"count": 10000, "within": "1h"}, "threads": 4},
            "issuers": {
                "corporate": {
                    "vault": {
                        "address": vault.server.address,
                        "ca_file": str(vault.server.ca_file),
                        "timeout": "2s",
                        "auth": {
                            "approle": {
                                "role_id_file": str(vault.files.role_id_file),
                                "secret_id_file": str(vault.files.secret_id_file),
                            }
                        },
                        "mount": vault.rights.corporate_mount,
                        "issuer": vault.rights.corporate_issuer,
                    }
                }
            },
            "trust_domains": {vault.trust_domain: dict(trust_domain)},
            "certificates": dict(certificates),
        }
        self.write()
        self.daemon = ServerProcess(
            "rotator",
            [sys.executable, "-m", "rotator", "--config", str(self.configuration), "run"],
            log=directory / "rotator.log",
        )

    def write(self) -> None:
        """Write the configuration as it is now, as one replacement."""
        draft = self.configuration.with_suffix(".new")
        draft.write_text(yaml.safe_dump(self.document, sort_keys=False))
        draft.replace(self.configuration)

    # --- driving ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon and return once it answers."""
        self.daemon.start(ready=lambda: self.status() is not None, within=PATIENCE)

    def client(self) -> ControlClient:
        """Return a client of the daemon's socket."""
        return ControlClient(self.socket, timeout=timedelta(seconds=60))

    def status(self) -> Mapping[str, Any] | None:
        """Return the daemon's status, None if it does not answer."""
        with contextlib.suppress(RotatorError):
            return self.client().status()
        return None

    def settled(self) -> bool:
        """Return whether everything is in use and nothing is open."""
        status = self.status()
        return status is not None and all(
            row["open_rotation"] is None and row["phase"] in {"in_use", "steady", "retired"}
            for row in status["subjects"]
        )

    def wait_settled(self) -> None:
        """Wait until everything is in use and nothing is open."""
        wait_until(self.settled, within=PATIENCE, what=f"everything to settle: {self.status()}")

    def wait_accounted(self) -> None:
        """Wait until every order that left no trace has been looked for on the CA's list, too."""

        def accounted() -> bool:
            with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
                return not store.issuances(states=frozenset({IssuanceState.ASKED, IssuanceState.ISSUED}))

        self.wait_settled()
        wait_until(accounted, within=PATIENCE, what="every order to be accounted for", every=timedelta(seconds=1))

    def rotate(self, subject: str) -> str:
        """Ask for a rotation and return its id."""
        answer = self.client().rotate(RotateRequest(subjects=(SubjectName(subject),), reason="a test asks"))
        found: str = answer["rotations"][0]["id"]
        return found

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command as an operator would."""
        return subprocess.run(
            [sys.executable, "-m", "rotator", "--config", str(self.configuration), *words],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def reconciles(self) -> int:
        """Return the exit code of ``rotator evidence reconcile``."""
        return main(["--config", str(self.configuration), "evidence", "reconcile", "--no-record"])


class Installation(DaemonInstallation):
    """One daemon over one standalone trust domain, with services that read their directory at every use."""

    def __init__(
        self, directory: Path, vault: VaultDomain, *, services: int = 2, ca_lifetime: str = "6h", leaf: str = "30m"
    ) -> None:
        self.vault = vault
        self.names = [SubjectName(f"service-{number}") for number in range(services)]
        super().__init__(
            directory,
            vault,
            trust_domain={
                "model": "standalone",
                "issuer": "corporate",
                "ca": {
                    "mount": vault.mount,
                    "role": vault.rights.role,
                    "lifetime": ca_lifetime,
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
                    "publish": [{"directory": str(directory / name)}],
                    "probes": [{"read_back": {}}],
                }
                for name in self.names
            },
        )

    def requests(self) -> int:
        """Return how many requests OpenBao has audited for this trust domain's mount, and its corporate parent."""
        marks = (self.vault.mount.encode() + b"/", self.vault.rights.corporate_mount.encode() + b"/")
        with self.vault.server.audit_file.open("rb") as lines:
            return sum(1 for line in lines if b'"type":"request"' in line and any(mark in line for mark in marks))

    def kill_at(self, request: int) -> None:
        """Kill the daemon as soon as OpenBao has audited *request* more requests, or everything has settled."""
        before = self.requests()
        wait_until(
            lambda: self.requests() - before >= request or self.settled(),
            within=PATIENCE,
            what=f"request {request}",
            every=timedelta(milliseconds=1),
        )
        self.daemon.kill()

    # --- accounts ---------------------------------------------------------------------------------------------------

    def wrong(self) -> list[str]:
        """Return every account that does not close, judged with the daemon stopped."""
        found = []
        published = set()
        for name in self.names:
            current = self.directory / name / "CURRENT"
            if not key_matches((current / "tls.key").read_bytes(), (current / "tls.crt").read_bytes()):
                found.append(f"{name}: key and certificate do not belong together")
            published.add(json.loads((current / "publication.json").read_text())["serial"])
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            open_orders = store.issuances(states=frozenset({IssuanceState.ASKED, IssuanceState.ISSUED}))
            found += [f"order {each.spki_sha256[:12]} of {each.subject} is {each.state}" for each in open_orders]
            found += [f"rotation {each.id} is open" for each in store.rotations(state=RotationState.OPEN)]
            states = {each.serial: each.state for each in store.issuances(states=frozenset(IssuanceState))}
            issued = [
                each.event.new.serial
                for each in records(store)
                if each.event.type is EventType.ISSUED and each.event.new is not None
            ]
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
