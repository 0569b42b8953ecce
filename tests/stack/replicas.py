"""
Replicas of one installation: real daemons on one PostgreSQL, one API server and one OpenBao, and what befalls them.

Rules that must stay true here:

- The daemons are driven as operators and crashes would: command, socket, signals, and a wire that can be cut.
- The moment of a disturbance is a condition (the n-th request that OpenBao has audited), never a time.
- Every account is closed from what others saw: OpenBao's list, the API server's own order of changes, the ledger.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import requests

from rotator.cli import main
from rotator.clock import SystemClock
from rotator.control import RotateRequest
from rotator.core.event import EventType
from rotator.core.model import SubjectName
from rotator.embedded.loopback_tls import write_private
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.evidence.verify import State, verify
from rotator.ports import IssuanceState, RotationState
from rotator.store.sql import SQLStore
from tests.e2e.installation import ENDED, ORIGIN, PATIENCE, Installation
from tests.fakes.gate import Gate
from tests.fixtures_openbao import VaultDomain
from tests.stack.cluster import JSON, Cluster

NAMES: Final = ("first", "second")
LEASE: Final = {"duration": "6s", "renew_deadline": "4s", "retry": "500ms"}
PREVIOUS: Final = "-previous"
"""Ends the name of a Secret that holds the publication before, until the new one is proven."""
GENERATION: Final = "rotator.io/generation"
REQUESTS_OF_A_RENEWAL: Final = 1
"""At OpenBao, at least, for each certificate."""


class Replica:
    """One daemon, its disk, and its wire to the API server."""

    def __init__(self, name: str, installation: Installation, gate: Gate) -> None:
        self.name = name
        self.installation = installation
        self.gate = gate
        self.log = installation.directory / "rotator.log"

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.installation.daemon.pid

    def start(self) -> None:
        """Start it and return once it answers, whatever its role."""
        made = self.installation
        made.daemon.start(ready=lambda: made.status() is not None, within=2 * PATIENCE)

    def said(self, event: str) -> list[Mapping[str, Any]]:
        """Every line *event* of its log, oldest first, over all its starts."""
        found: list[Mapping[str, Any]] = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                spoken = json.loads(line)
                if isinstance(spoken, dict) and spoken.get("event") == event:
                    found.append(spoken)
        return found

    def epoch(self) -> int:
        """The last term that it began; 0 for none."""
        return max((int(each["epoch"]) for each in self.said("term_begun")), default=0)


class Watcher:
    """Sees every change of the Secrets of one namespace in the API server's own order."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._path = f"/api/v1/namespaces/{namespace}/secrets"
        self.seen: dict[str, list[int]] = {}
        """Name -> the generations that it had, in order."""
        self.wrong: list[str] = []
        self._since: str = cluster.call("GET", self._path)["metadata"]["resourceVersion"]

    def look(self) -> None:
        """Take note of everything that has changed since the last look."""
        authorization = f"Bearer {self._cluster.administrator}"
        with requests.get(
            self._cluster.url + self._path,
            params={"watch": "true", "resourceVersion": self._since, "timeoutSeconds": "2"},
            headers={"Authorization": authorization},
            verify=str(self._cluster.ca_file),
            stream=True,
            timeout=60,
        ) as answer:
            for line in answer.iter_lines():
                self._note(json.loads(line))

    def _note(self, change: JSON) -> None:
        if change["type"] == "ERROR":
            self.wrong.append(f"the watch broke: {change['object'].get('message')}")
            return
        metadata = change["object"]["metadata"]
        self._since = metadata["resourceVersion"]
        if metadata["name"].endswith(PREVIOUS):
            return
        number = int(metadata.get("annotations", {}).get(GENERATION, "0"))
        numbers = self.seen.setdefault(metadata["name"], [])
        if change["type"] == "DELETED":
            self.wrong.append(f"{metadata['name']} was deleted")
        if numbers and number < numbers[-1]:
            self.wrong.append(f"{metadata['name']} went back from {numbers[-1]} to {number}")
        numbers.append(number)


@dataclass(slots=True)
class Pair:
    """Two replicas and what they share."""

    cluster: Cluster
    namespace: str
    vault: VaultDomain
    store_url: str
    replicas: dict[str, Replica]
    watcher: Watcher
    pins: list[bytes] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)
    """Seconds from each disturbance to the next term."""

    @property
    def names(self) -> list[SubjectName]:
        """Every certificate."""
        return self.replicas["first"].installation.names

    # --- who leads --------------------------------------------------------------------------------------------------

    def epoch(self) -> int:
        """The term that the store is in."""
        return max(each.epoch() for each in self.replicas.values())

    def leader(self) -> Replica:
        """The replica that began the last term."""
        return max(self.replicas.values(), key=Replica.epoch)

    def other(self, replica: Replica) -> Replica:
        """The other one."""
        return next(each for each in self.replicas.values() if each is not replica)

    def wait_leads(self, replica: Replica, *, after: int) -> None:
        """Wait until *replica* has begun a term after the term *after*."""
        wait_until(
            lambda: replica.epoch() > after,
            within=PATIENCE,
            what=f"{replica.name} to lead: {replica.log.read_text()[-2000:]}",
            every=timedelta(milliseconds=50),
        )

    # --- driving ----------------------------------------------------------------------------------------------------

    def rotate_all(self) -> None:
        """Ask the leader for a rotation of every certificate."""
        client = self.leader().installation.client()
        client.rotate(RotateRequest(subjects=tuple(self.names), reason="a test asks"))

    def requests(self) -> int:
        """How many requests OpenBao has audited for this trust domain, whoever made them."""
        return self.replicas["first"].installation.requests()

    def wait_accounted(self) -> None:
        """Wait until nothing is open and every order has its end or its place."""

        def accounted() -> bool:
            with contextlib.closing(self.store()) as store:
                return not (
                    store.rotations(state=RotationState.OPEN)
                    or store.issuances(states=frozenset({IssuanceState.ASKED, IssuanceState.ISSUED}))
                )

        wait_until(accounted, within=2 * PATIENCE, what="every order to be accounted for", every=timedelta(seconds=0.5))
        self.watcher.look()

    def pin(self) -> None:
        """Keep the checkpoint that the leader shows now, as an auditor would."""
        checkpoint = self.leader().installation.directory / "ledger" / "checkpoint"
        wait_until(checkpoint.exists, within=PATIENCE, what="a checkpoint")
        self.pins.append(checkpoint.read_bytes())

    def store(self) -> SQLStore:
        """The store, as an auditor opens it."""
        return SQLStore(self.store_url, environment="test")

    # --- what befalls the leader --------------------------------------------------------------------------------------

    def disturb(self, how: str, *, at: int) -> None:
        """
        Let every certificate rotate, disturb the leader at its *at*-th request, and see the other one take over.

        *how* is ``killed``, ``stopped`` or ``cut``. Afterwards the disturbed one is well again and stands by.
        """
        victim = self.leader()
        heir, before, asked = self.other(victim), self.epoch(), self.requests()
        self.rotate_all()
        wait_until(
            lambda: self.requests() - asked >= at,
            within=PATIENCE,
            what=f"request {at} after {self.requests() - asked}",
            every=timedelta(milliseconds=2),
        )
        began = SystemClock().monotonic()
        match how:
            case "killed":
                victim.installation.daemon.kill()
            case "stopped":
                os.kill(victim.pid, signal.SIGSTOP)
            case _:
                victim.gate.cut()
        try:
            self.wait_leads(heir, after=before)
            self.takeovers.append(SystemClock().monotonic() - began)
        finally:
            match how:
                case "killed":
                    victim.start()
                case "stopped":
                    os.kill(victim.pid, signal.SIGCONT)
                case _:
                    victim.gate.mend()
        self.wait_accounted()
        self.wait_stands_by(victim)
        self.pin()

    def idle(self, how: str) -> None:
        """Have the leader, which has nothing to do, ``killed`` or ``told`` to stop, and see the other one take over."""
        victim = self.leader()
        heir, before, began = self.other(victim), self.epoch(), SystemClock().monotonic()
        if how == "killed":
            victim.installation.daemon.kill()
        else:
            victim.installation.daemon.stop()
        self.wait_leads(heir, after=before)
        self.takeovers.append(SystemClock().monotonic() - began)
        victim.start()
        self.wait_accounted()

    def wait_stands_by(self, replica: Replica) -> None:
        """Wait until *replica* answers and refuses orders by naming the leader."""

        def refuses() -> bool:
            done = replica.installation.run("resume", self.names[0])
            return done.returncode != 0 and "stands by" in done.stderr

        wait_until(refuses, within=PATIENCE, what=f"{replica.name} to stand by", every=timedelta(seconds=0.5))

    def wait_shows_the_same(self) -> None:
        """Wait until the standby's status shows what the leader's does, and says whose words these are."""
        leader, standby = (each.installation for each in (self.leader(), self.other(self.leader())))

        def serials(status: Mapping[str, Any] | None) -> dict[str, Any]:
            return {row["name"]: row["serial"] for row in (status or {}).get("subjects", ())}

        def agree() -> bool:
            seen, shown = leader.status(), standby.status()
            if seen is None or shown is None or shown["replica"]["role"] != "standby":
                return False
            return "as_of" in shown and serials(seen) == serials(shown) and seen["replica"]["role"] == "leader"

        wait_until(agree, within=PATIENCE, what="the standby to show what the leader sees", every=timedelta(seconds=1))

    # --- accounts ---------------------------------------------------------------------------------------------------

    def issued(self) -> set[str]:
        """Every serial on OpenBao's own list of leaves."""
        with self.vault.session() as session:
            return {each.serial for each in self.vault.issuer(session).issued()}

    def published(self) -> dict[str, str]:
        """The serial that each Secret says it holds."""
        listed = self.cluster.call("GET", f"/api/v1/namespaces/{self.namespace}/secrets")["items"]
        found = {each["metadata"]["name"]: each["metadata"]["annotations"] for each in listed}
        return {name: said["rotator.io/serial"] for name, said in found.items() if not name.endswith(PREVIOUS)}

    def wrong(self) -> list[str]:
        """Every account that does not close; judged with both daemons stopped."""
        found = list(self.watcher.wrong)
        published = set(self.published().values())
        with contextlib.closing(self.store()) as store:
            found += [f"rotation {each.id} is open" for each in store.rotations(state=RotationState.OPEN)]
            states = {each.serial: each.state for each in store.issuances(states=frozenset(IssuanceState))}
            told = list(records(store))
        serials = Counter(
            each.event.new.serial for each in told if each.event.type is EventType.ISSUED and each.event.new is not None
        )
        found += [f"{serial} has {count} records" for serial, count in serials.items() if count > 1]
        found += [f"record {each.seq} stands at {at}" for at, each in enumerate(told) if each.seq != at]
        distributed = Counter(
            (each.event.rotation_id, each.event.new.serial)
            for each in told
            if each.event.type is EventType.DISTRIBUTED and each.event.new is not None
        )
        by_rotation = Counter(rotation for rotation, _ in distributed)
        found += [f"rotation {each} published {count} leaves" for each, count in by_rotation.items() if count > 1]
        listed = self.issued()
        found += [f"{serial} is on the CA's list and has no record" for serial in listed - set(serials)]
        found += [
            f"{serial} is neither in use nor accounted for ({states.get(serial)})"  # type: ignore[call-overload] # text
            for serial in listed - published
            if states.get(serial) not in ENDED  # type: ignore[call-overload] # text
        ]
        for replica in self.replicas.values():
            directory = replica.installation.directory / "ledger"
            key = replica.installation.verifier_key.read_text().strip()
            verdict = verify(directory, key, pinned=self.pins)
            if verdict.state is not State.WHOLE:
                found.append(f"the log of {replica.name}: {verdict}")
        return found

    def reconciles(self) -> int:
        """The exit code of ``rotator evidence reconcile``."""
        configuration = self.replicas["first"].installation.configuration
        return main(["--config", str(configuration), "evidence", "reconcile", "--no-record"])


@contextlib.contextmanager
def pair(
    directory: Path, cluster: Cluster, namespace: str, vault: VaultDomain, store_url: str, *, services: int
) -> Iterator[Pair]:
    """Two running replicas that have settled: each certificate is a Secret of *namespace*."""
    with contextlib.ExitStack() as undo:
        replicas = {
            name: _replica(directory, name, cluster, namespace, vault, store_url, services, undo) for name in NAMES
        }
        _share_key(replicas)
        with _settled(Pair(cluster, namespace, vault, store_url, replicas, Watcher(cluster, namespace))) as made:
            yield made


@contextlib.contextmanager
def alone(
    directory: Path,
    cluster: Cluster,
    namespace: str,
    vault: VaultDomain,
    store_url: str,
    *,
    leaf: str,
    change: Callable[[JSON], None],
) -> Iterator[Pair]:
    """
    One running replica of one certificate that lives for *leaf*; *change* edits its configuration before it starts.

    What is asked of the result's own `Pair.store` goes to *store_url*, wherever the replica is sent.
    """
    with contextlib.ExitStack() as undo:
        replica = _replica(directory, NAMES[0], cluster, namespace, vault, store_url, 1, undo, leaf=leaf)
        change(replica.installation.document)
        replica.installation.write()
        watcher = Watcher(cluster, namespace)
        with _settled(Pair(cluster, namespace, vault, store_url, {NAMES[0]: replica}, watcher)) as made:
            yield made


@contextlib.contextmanager
def _settled(made: Pair) -> Iterator[Pair]:
    """Run *made* until the block ends, and give it once every certificate is published and accounted for."""
    with contextlib.ExitStack() as undo:
        for each in made.replicas.values():
            undo.callback(each.installation.daemon.stop)
            each.start()
        wait_until(
            lambda: len(made.published()) == len(made.names),
            within=PATIENCE,
            what="every Secret",
        )
        made.wait_accounted()
        made.pin()
        yield made


def _replica(
    directory: Path,
    name: str,
    cluster: Cluster,
    namespace: str,
    vault: VaultDomain,
    store_url: str,
    services: int,
    undo: contextlib.ExitStack,
    *,
    leaf: str = "30m",
) -> Replica:
    """One replica with a disk of its own and a wire of its own."""
    home = directory / name
    home.mkdir()
    gate = undo.enter_context(Gate(cluster.port))
    kubeconfig = home / "kubeconfig"
    through = cluster.kubeconfig.read_text().replace(cluster.url, f"https://127.0.0.1:{gate.port}")
    write_private(kubeconfig, through.encode())
    installation = Installation(home, vault, services=services, leaf=leaf)
    document = installation.document
    document["store"] = store_url
    document["cluster"] = {
        "namespace": namespace,
        "kubeconfig_file": str(kubeconfig),
        "timeout": "2s",
        "lease": dict(LEASE),
    }
    document["ledger"]["origin"] = ORIGIN
    for certificate, said in document["certificates"].items():
        said["publish"] = [{"kubernetes_secret": {"namespace": namespace, "name": certificate}}]
    installation.write()
    return Replica(name, installation, gate)


def _share_key(replicas: Mapping[str, Replica]) -> None:
    """Give every replica the first one's key of the log."""
    first, second = (replicas[name].installation.directory for name in NAMES)
    for name in ("log.key", "log.vkey"):
        write_private(second / name, (first / name).read_bytes())
