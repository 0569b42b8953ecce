"""
A whole engine in a small world: a fake Vault, stores in memory, consumers that load what is published, a real journal.

Rules that must stay true here:

- Everything that would leave the process passes one `Faults` point, so that a test can crash, lose or refuse call *n*.
- Time moves by hand. `run` visits what is due, lets consumers load, and moves the clock to the next look.
- A new engine over the same world is a restart: nothing but the journal and the world survives it.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rotator.core.authority_policy import AuthorityPolicy
from rotator.core.event import Event, EventType, Trigger
from rotator.core.model import (
    Generation,
    IntentKind,
    ManagedCertificate,
    Publication,
    Served,
    SubjectKind,
    SubjectName,
    TrustDomainName,
)
from rotator.core.window import Budget, Calendar, LeafPolicy
from rotator.engine.engine import Engine
from rotator.engine.limits import IssuanceLimit, Limits
from rotator.engine.recorder import EventSpool
from rotator.engine.targets import CertificateTarget, DomainTarget, Fleet, WorkloadTarget
from rotator.evidence.ledger import records
from rotator.evidence.record import Record
from rotator.pki.certificates import Material
from rotator.ports import Journal, Notifier, Rotation, RotationState, Stamp, Transaction
from rotator.store.spool import Spool
from rotator.store.sql import SQLStore
from tests.fakes.clock import ManualClock
from tests.fakes.faults import Faults
from tests.fakes.leaf_store import MemoryLeafStore
from tests.fakes.vault import FakeVault

MESH = TrustDomainName("mesh.test")
NO_LOOP = IssuanceLimit(count=1000, within=timedelta(hours=1))
START = datetime(2030, 1, 1, tzinfo=UTC)


class HeldLease:
    """A lease that is held until a test takes it away."""

    def __init__(self) -> None:
        self.is_held = True
        self.asked: Callable[[], object] = lambda: None
        """Called each time before somebody hears whether it is held."""

    def acquire(self) -> None:
        """Take it."""
        self.is_held = True

    def held(self) -> bool:
        """Return whether it is held."""
        self.asked()
        return self.is_held

    def release(self) -> None:
        """Give it back."""
        self.is_held = False

    def holder(self) -> str | None:
        """Return that this process holds it, or nobody does."""
        return "this process" if self.is_held else None

    def when_lost(self, told: Callable[[], None]) -> None:
        """Tell nobody: who writes without it is refused."""


class FaultyStore:
    """A leaf store whose writes pass the world's fault point."""

    def __init__(self, inner: MemoryLeafStore, faults: Faults) -> None:
        self.inner = inner
        self._faults = faults

    @property
    def target(self) -> str:
        """Return the inner store's name."""
        return self.inner.target

    def read(self) -> Publication | None:
        """Read, without a fault point: reading has no effect to lose."""
        return self.inner.read()

    def material(self) -> Material:
        """Return what is published."""
        return self.inner.material()

    def put(self, material: Material, *, expected: int, stamp: Stamp) -> Publication:
        """Publish through the fault point."""
        with self._faults.call("store.put"):
            return self.inner.put(material, expected=expected, stamp=stamp)

    def forget(self, *, keep: frozenset[int]) -> None:
        """Forget through the fault point."""
        with self._faults.call("store.forget"):
            self.inner.forget(keep=keep)


class FaultyJournal:
    """A journal whose commits pass the world's fault point."""

    def __init__(self, inner: SQLStore, faults: Faults) -> None:
        self.inner = inner
        self._faults = faults
        self.rotations = inner.rotations
        self.issuances = inner.issuances
        self.holds = inner.holds
        self.last_generation = inner.last_generation
        self.sightings = inner.sightings
        self.standing_alerts = inner.standing_alerts
        self.applied_documents = inner.applied_documents
        self.platform_change = inner.platform_change
        self.last_platform_changes = inner.last_platform_changes
        self.last_platform_rotations = inner.last_platform_rotations

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction; the fault point lies around its commit."""
        with self._faults.call("journal.commit"), self.inner.transaction() as transaction:
            yield transaction


@dataclass
class Consumer:
    """Something that loads what is published, with a lag, and tells a probe what it uses."""

    name: str
    store: MemoryLeafStore
    clock: ManualClock
    lag: timedelta = timedelta(0)
    alive: bool = True
    loaded: Publication | None = None
    noticed: dict[int, datetime] = field(default_factory=dict)

    def settle(self) -> None:
        """Load what is published if it has been there for the lag."""
        publication = self.store.read()
        if publication is None or not self.alive:
            return
        since = self.noticed.setdefault(publication.number, self.clock.now())
        if self.clock.now() - since >= self.lag:
            self.loaded = publication

    def look(self) -> Served:
        """Return what it uses."""
        self.settle()
        if not self.alive or self.loaded is None:
            return Served(probe=self.name, seen_at=self.clock.now(), reachable=False)
        leaf = self.loaded.leaf
        return Served(
            probe=self.name,
            seen_at=self.clock.now(),
            reachable=True,
            serial=leaf.serial if leaf is not None else None,
            bundle=frozenset(each.serial for each in self.loaded.bundle),
        )


class World:
    """The world around one engine, and the engine."""

    def __init__(
        self,
        directory: Path,
        *,
        certificates: int = 3,
        leaf_lifetime: timedelta = timedelta(hours=1),
        ca_lifetime: timedelta = timedelta(hours=12),
        notifiers: Sequence[Notifier] = (),
        limit: IssuanceLimit = NO_LOOP,
    ) -> None:
        self.limit = limit
        self.crl_interval = timedelta(minutes=5)
        self.clock = self.make_clock()
        self.vault = FakeVault(self.clock)
        self.faults = self.vault.faults
        self.directory = directory
        self.notifiers = notifiers
        self.lease = HeldLease()
        self.store = SQLStore(f"sqlite:///{directory}/state.db", environment="test")
        self.spool: EventSpool = Spool(directory / "spool.jsonl", clock=self.clock)
        self.leaf_policy = LeafPolicy(
            renew_at=0.5,
            skew=timedelta(seconds=5),
            budget=Budget(
                issue=timedelta(seconds=5),
                publish=timedelta(seconds=5),
                drain=timedelta(0),
                proof=timedelta(seconds=30),
                retry=timedelta(minutes=5),
            ),
            backdate=timedelta(seconds=30),
            calendar=Calendar(),
        )
        self.authority_policy = AuthorityPolicy(
            trust_domain=MESH,
            longest_leaf=leaf_lifetime,
            lifetime=ca_lifetime,
            renew_at=0.5,
            trust_deadline=timedelta(minutes=30),
            skew=timedelta(seconds=5),
            propagation=timedelta(seconds=5),
            retry_budget=timedelta(minutes=5),
            minimum_overlap=timedelta(minutes=10),
        )
        self.consumers: dict[SubjectName, Consumer] = {}
        self.workloads: dict[SubjectName, WorkloadTarget] = {}
        targets = {}
        for number in range(certificates):
            name = SubjectName(f"service-{number}")
            inner = MemoryLeafStore(f"memory:{name}")
            consumer = Consumer(name=f"probe:{name}", store=inner, clock=self.clock)
            self.consumers[name] = consumer
            targets[name] = CertificateTarget(
                certificate=ManagedCertificate(
                    name=name,
                    trust_domain=MESH,
                    identity=f"spiffe://{MESH}/{name}",
                    lifetime=leaf_lifetime,
                ),
                policy=self.leaf_policy,
                stores=(FaultyStore(inner, self.faults),),
                probes=(_ConsumerProbe(consumer),),
            )
        self.certificates = targets
        self.engine = self.restart()

    def make_clock(self) -> ManualClock:
        """Return the clock of this world."""
        return ManualClock(START)

    def fleet(self) -> Fleet:
        """Return the fleet as configured now."""
        return Fleet(
            environment="test",
            policy_sha256="0" * 64,
            certificates=self.certificates,
            domains=self.domains(),
            workloads=self.workloads,
        )

    def domains(self) -> dict[TrustDomainName, DomainTarget]:
        """Return the trust domains as configured now."""
        domain = DomainTarget(
            name=MESH,
            policy=self.authority_policy,
            issuer=self.vault.issuer(MESH),
            authorities=self.vault.authorities(MESH),
            parent=self.vault.authorities(MESH),
            crl_interval=self.crl_interval,
            issuer_label="corporate",
        )
        return {MESH: domain}

    def restart(self) -> Engine:
        """Return a fresh engine over the same world; faults are over."""
        self.faults.clear()
        journal: Journal = FaultyJournal(self.store, self.faults)
        self.engine = Engine(
            fleet=self.fleet(),
            journal=journal,
            ledger=self.store,
            lease=self.lease,
            spool=self.spool,
            clock=self.clock,
            limits=Limits(self.clock, issuer_per_second=1e6, per_subject=self.limit),
            notifiers=self.notifiers,
        )
        self.engine.start()
        return self.engine

    def run(
        self,
        *,
        until: Callable[[], bool] | None = None,
        span: timedelta = timedelta(minutes=5),
        tick: timedelta = timedelta(seconds=1),
    ) -> None:
        """Sweep, let consumers load, move the clock by *tick*; until *until* is true, or for *span*."""
        end = self.clock.now() + span
        while self.clock.now() < end:
            self.engine.sweep()
            self.settle()
            if until is not None and until():
                return
            self.clock.advance(tick)
        assert until is None, f"not reached within {span}: {self.explain()}"

    def settle(self) -> None:
        """Let everybody load what is due."""
        for consumer in self.consumers.values():
            consumer.settle()

    def explain(self) -> str:
        """Return what every target waits for, for a failing test."""
        rows = []
        for target in self.engine.pool.known():
            look, failures, error = self.engine.pool.look(target)
            rows.append(f"{target}: {look} failures={failures} {error}")
        return "\n".join(rows)

    def ask(self, subject: SubjectName, kind: SubjectKind) -> Rotation:
        """Open a rotation as a person's request does; return it."""
        rotation = Rotation(
            id=uuid.uuid4().hex,
            subject=subject,
            kind=kind,
            intent=IntentKind.ROTATE,
            trigger=Trigger.REQUEST,
            state=RotationState.OPEN,
            opened_at=self.clock.now(),
            from_generation=max((each.number for each in self.held()), default=None)
            if kind is SubjectKind.TRUST_DOMAIN
            else None,
        )
        asked = Event(
            type=EventType.INTENT,
            time=self.clock.now(),
            subject=subject,
            result="started",
            rotation_id=rotation.id,
            trigger=Trigger.REQUEST,
        )
        with self.store.transaction() as transaction:
            transaction.save(rotation)
            transaction.append(asked)
        self.engine.memory.apply([rotation])
        for target in self.engine.pool.known():
            self.engine.pool.kick(target)
        return rotation

    def held(self) -> tuple[Generation, ...]:
        """Return the generations that the signer holds, past every fault."""
        before, after = self.faults.before, self.faults.after
        self.faults.clear()
        try:
            return self.vault.authorities(MESH).observe().generations
        finally:
            self.faults.before, self.faults.after = before, after

    def settled(self) -> bool:
        """Return whether everything is published, proven, and no rotation is open."""
        views = [self.engine.leaves.view(name) for name in self.certificates]
        return all(view is not None and view.proof.proven for view in views) and not self.store.rotations(
            state=RotationState.OPEN
        )

    def rotations(self, subject: str = MESH) -> tuple[Rotation, ...]:
        """Return the rotations of *subject*, oldest first."""
        return self.store.rotations(subject=SubjectName(subject))

    def told(self) -> list[Record]:
        """Return every record of the ledger."""
        return list(records(self.store))

    def events(self, *types: str) -> list[Event]:
        """Return the events of the ledger, of *types* only if given."""
        return [each.event for each in self.told() if not types or each.event.type in types]

    def close(self) -> None:
        """Close the journal."""
        self.store.close()


class _ConsumerProbe:
    """The probe of one consumer."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    @property
    def name(self) -> str:
        """Return the probe's name."""
        return self._consumer.name

    def look(self) -> Served:
        """Return what the consumer uses."""
        return self._consumer.look()
