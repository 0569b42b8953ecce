"""
A real rotator over real workers of a real broker, driven and looked at as operators and auditors do.

Rules that must stay true here:

- Whose workers they are (Airflow's, or plain Celery's) is the subclass's or caller's; they are started by the daemon.
- What the daemon did is read from its ledger, and what it waits for from its status.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from rotator.adapters.airflow.remote_control import RemoteControl
from rotator.adapters.processes import CommandMember, Processes
from rotator.clock import SystemClock
from rotator.core.alert_kinds import AlertKind
from rotator.core.event import Event, EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.store.sql import SQLStore
from tests.e2e.installation import DaemonInstallation
from tests.fixtures_openbao import new_domain

JSON = dict[str, Any]

WORKER_LEAF = "worker"
"""The certificate that the workers load at their start."""


class WorkerInstallation(DaemonInstallation):
    """A rotator that rolls workers when their certificate changes."""

    certificate = WORKER_LEAF
    workload = "workers"
    patience = timedelta(seconds=120)
    """How long anything may take on a machine that is busy with other things."""

    def __init__(
        self,
        directory: Path,
        openbao: OpenBaoServer,
        *,
        members: Iterable[CommandMember],
        processes: Processes,
        broker: str,
        queues: Iterable[str],
        drain: Mapping[str, Any] = MappingProxyType({}),
        workload: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Configure it; *drain* and *workload* change what the file says of the workers."""
        self.members = tuple(members)
        self.processes = processes
        self.queues = tuple(queues)
        self.vault = new_domain(openbao, directory)
        super().__init__(
            directory,
            self.vault,
            trust_domain={
                "model": "standalone",
                "issuer": "corporate",
                "ca": {
                    "mount": self.vault.mount, "role": self.vault.rights.role, "lifetime": "6h",
                    "minimum_overlap": "1s", "crl_interval": "1m",
                },
                "longest_leaf": "1h",
                "trust_deadline": {"after": "30s"},
            },
            certificates={
                self.certificate: {
                    "trust_domain": self.vault.trust_domain,
                    "identity": f"spiffe://{self.vault.trust_domain}/{self.certificate}",
                    "lifetime": "1h",
                    "publish": [{"directory": str(directory / "tls")}],
                    "probes": [{"read_back": {}}],
                    "rolls": [self.workload],
                },
            },
        )  # fmt: skip
        (directory / "broker").write_text(broker)
        self.document["workloads"] = {
            self.workload: {
                "processes": [self.described(member) for member in self.members],
                "stop_timeout": "60s",
                "start_timeout": "4m",
                "drain": {
                    "celery": {
                        "broker_file": str(directory / "broker"),
                        "deadline": "10m",
                        "timeout": "10s",
                        **drain,
                    }
                },
                **workload,
            }
        }
        self.write()
        self.control = RemoteControl(lambda: broker, clock=SystemClock(), timeout=timedelta(seconds=10))

    @property
    def nodes(self) -> list[str]:
        """Return the workers' Celery node names."""
        return [f"celery@{member.name}" for member in self.members]

    def described(self, member: CommandMember) -> JSON:
        """Return what the configuration says of *member*."""
        secrets = self.directory / f"{member.name}.env"
        secrets.write_text("".join(f"{name}={value}\n" for name, value in member.environment.items()))
        return {
            "name": member.name,
            "command": list(member.command),
            "pid_file": str(member.pid_file),
            "log_file": str(member.log_file),
            "environment_file": str(secrets),
            "node": f"celery@{member.name}",
        }

    def reconfigure(self) -> None:
        """Write the configuration as it is now, and wait until the daemon goes by it."""
        known = len(self.events())
        self.write()
        self.wait_event(EventType.CONFIG_LOADED, "ok", known=known)

    def __enter__(self) -> Self:
        """Start the daemon, which starts the workers, and wait until all is in use."""
        self.start()
        self.wait_rolled()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.stop()

    # --- waiting ----------------------------------------------------------------------------------------------------

    def wait_consuming(self) -> None:
        """Wait until every worker consumes its queues."""
        wait_until(
            self.all_consume, within=self.patience, what="the workers to consume", every=timedelta(milliseconds=500)
        )

    def wait_rolled(self, within: timedelta | None = None) -> None:
        """Wait until everything is in use, nothing is open, and every worker consumes its queues."""
        wait_until(
            lambda: self.settled() and self.all_consume(),
            within=within or 2 * self.patience,
            what="the workers to be rolled",
            every=timedelta(milliseconds=500),
        )

    def wait_event(self, type_: str, result: str, *, known: int) -> None:
        """Wait until the ledger holds such an event beyond its first *known*."""

        def found() -> bool:
            return any(event.type == type_ and event.result == result for event in self.events()[known:])

        wait_until(found, within=self.patience, what=f"{type_} {result}", every=timedelta(milliseconds=50))

    def wait_records(self, count: int, *, known: int) -> None:
        """Wait until the ledger grows by *count*, or the rotation has ended beyond its first *known* events."""
        here = len(self.events())
        wait_until(
            lambda: len(self.events()) >= here + count or self.done_since(known),
            within=self.patience,
            what="the next records",
            every=timedelta(milliseconds=20),
        )

    # --- what is -----------------------------------------------------------------------------------------------------

    def all_consume(self) -> bool:
        """Return whether every worker consumes its queues."""
        return self.consumed() == Counter(dict.fromkeys(self.queues, len(self.nodes)))

    def consumed(self) -> Counter[str]:
        """Return how many workers consume each queue now."""
        answers = self.control.look(self.nodes)
        return Counter(queue for answer in answers.values() for queue in answer.queues)

    def queues_of(self, name: str) -> frozenset[str]:
        """Return the queues that a worker consumes now; empty also for one that does not answer."""
        answer = self.control.look([f"celery@{name}"]).get(f"celery@{name}")
        return frozenset() if answer is None else answer.queues

    def identities(self) -> dict[str, str]:
        """Return which process each worker is; empty for one that does not run."""
        return {member.name: member.identity for member in self.processes.members()}

    def workload_row(self) -> JSON:
        """Return what the daemon's status says of the workers; empty if it does not answer."""
        rows = (self.status() or {}).get("workloads", ())
        return next((dict(row) for row in rows if row["name"] == self.workload), {})

    def why(self) -> str:
        """Return what the daemon waits for, in its words."""
        row = self.workload_row()
        return f"{', '.join(row.get('waiting_on', ()))} {row.get('why', '')} {row.get('error', '')}".strip()

    def alerts(self) -> set[str]:
        """Return the kinds of alerts that are raised about the workers."""
        found = (self.status() or {}).get("alerts", ())
        return {kind.value for kind in AlertKind for each in found if each["key"] == f"{self.workload}/{kind.value}"}

    def events(self) -> list[Event]:
        """Return what the ledger holds."""
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            return [record.event for record in records(store)]

    def told(self, type_: EventType, result: str, *, known: int) -> list[Event]:
        """Return the records of members of such a type and result beyond the ledger's first *known*, in order."""
        return [
            each
            for each in self.events()[known:]
            if (each.type, each.result) == (type_, result) and "member" in each.detail
        ]

    def raw_ledger(self) -> list[bytes]:
        """Return every record as it was written."""
        with contextlib.closing(SQLStore(self.document["store"], environment="test")) as store:
            return list(store.entries(0, store.size()))

    def copied(self, runs: Iterable[str]) -> bool:
        """Return whether the ledger tells of every one of *runs*; asked for a whole batch, a command costs seconds."""
        told = b"".join(self.raw_ledger())
        return all(f'{run}\\"'.encode() in told for run in runs)

    def done_since(self, known: int) -> bool:
        """Return whether the certificate's rotation has ended beyond the ledger's first *known* events."""
        ends = (EventType.COMPLETED, EventType.FAILED)
        return any(event.type in ends and event.subject == self.certificate for event in self.events()[known:])

    def serial(self) -> str:
        """Return the serial of the certificate that is published now."""
        found: str = json.loads((self.directory / "tls" / "CURRENT" / "publication.json").read_text())["serial"]
        return found
