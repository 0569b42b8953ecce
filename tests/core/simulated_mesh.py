"""
A small pure world in which a trust domain's authority moves: signer, stores, consumers, journal, and their faults.

Rules that must stay true here:

- The world knows the truth (what each consumer really has loaded); rotator sees only what its probes could see.
- Rotator's own half does what the engine does: observe, decide, apply one step, remember only intents.
- No decision is made here that `rotator.core` should make.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from rotator.core import authority, renewal
from rotator.core.authority import AuthorityDecision, AuthorityPolicy
from rotator.core.model import (
    AtDeadline,
    Authority,
    AuthorityIntent,
    AuthoritySeen,
    CertificateWant,
    Generation,
    IntentKind,
    IssuerId,
    KeyType,
    Leaf,
    ManagedCertificate,
    Observation,
    Publication,
    RelyingParty,
    Serial,
    SubjectName,
    TrustDomainName,
)
from rotator.core.movement import Next
from rotator.core.steps import (
    ActivateIssuer,
    Done,
    IssueLeaf,
    Nothing,
    PrepareIssuer,
    PublishBundle,
    Refused,
    ReissueLeaves,
    Republish,
    RetireIssuer,
    RevokeIssuer,
    Wait,
)
from rotator.core.window import Budget, LeafPolicy

DOMAIN = TrustDomainName("mesh.example")
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LEAF_LIFE = 10 * MINUTE
BACKDATE = timedelta(seconds=30)
ROGUE = IssuerId("ca-rogue")

POLICY = AuthorityPolicy(
    trust_domain=DOMAIN,
    longest_leaf=LEAF_LIFE,
    lifetime=120 * MINUTE,
    renew_at=0.5,
    trust_deadline=4 * MINUTE,
    at_deadline=AtDeadline.HOLD,
    skew=MINUTE,
    propagation=MINUTE,
    retry_budget=4 * MINUTE,
    minimum_overlap=5 * MINUTE,
    wave=2,
)
LEAF_POLICY = LeafPolicy(
    renew_at=0.4,
    skew=MINUTE,
    budget=Budget(issue=MINUTE, publish=MINUTE, drain=timedelta(), proof=MINUTE, retry=MINUTE),
    backdate=BACKDATE,
)


class Fault(StrEnum):
    """What goes wrong with one step."""

    NONE = "none"
    NEVER = "never applied"
    LOST = "applied, reply lost"
    TWICE = "applied twice"
    PARTLY = "applied to the first of its wave only"


def authority_of(number: int, issued_at: datetime, lifetime: timedelta) -> Authority:
    """Return the CA certificate of generation *number*."""
    return Authority(
        id=IssuerId(f"ca-{number}"),
        serial=Serial(f"{number:x}"),
        sha256=f"sha-ca-{number}",
        subject=f"CN=mesh generation {number}",
        parent=IssuerId("ca-corporate"),
        not_before=issued_at - BACKDATE,
        not_after=issued_at + lifetime,
        spki_sha256=f"spki-ca-{number}",
        path_length=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """One publication: leaf and bundle that move as one."""

    number: int
    leaf: Leaf
    bundle: tuple[Authority, ...]
    drifted: bool = False
    """Somebody else put this here."""

    @property
    def trusts(self) -> frozenset[IssuerId]:
        """Return the key ids in the bundle."""
        return frozenset(each.id for each in self.bundle)


@dataclass(slots=True, kw_only=True)
class Consumer:
    """One workload with its store."""

    certificate: ManagedCertificate
    store: Material | None = None
    loaded: Material | None = None
    running: bool = True
    reachable: bool = True
    """Probes reach it while it runs."""
    writable: bool = True
    stuck: bool = False
    """It does not take up new material."""
    history: list[Material] = field(default_factory=list)

    @property
    def name(self) -> SubjectName:
        """Return the certificate's name."""
        return self.certificate.name

    @property
    def answers(self) -> bool:
        """Return whether a probe sees it."""
        return self.running and self.reachable


class StoreUnavailable(Exception):
    """A store cannot be written."""


class SimulatedMesh:
    """The world and rotator's memory of it."""

    def __init__(self, policy: AuthorityPolicy = POLICY, consumers: int = 3) -> None:
        self.policy = policy
        self.now = START
        self.offset = timedelta()
        self.generations: dict[int, Generation] = {}
        self.active: IssuerId | None = None
        self.highest = 0
        self.intent: AuthorityIntent | None = None
        self.consumers: dict[SubjectName, Consumer] = {}
        self.left_behind: set[SubjectName] = set()
        self.foreign: set[str] = set()
        """Leaves that somebody else put somewhere."""
        self.leaves: list[tuple[SubjectName, Leaf]] = []
        self.open_leaves: list[tuple[SubjectName, Leaf]] = []
        """Those that nobody has seen replaced, as the ledger knows."""
        self.ended: list[str] = []
        self.rotations = 0
        self.is_late = False
        """What is written now was decided a while ago."""
        self._count = 0
        for _ in range(consumers):
            self.join()

    # --- the world ---

    def join(self) -> Consumer:
        """Add a consumer that has nothing yet."""
        name = SubjectName(f"party-{len(self.consumers):02d}")
        certificate = ManagedCertificate(
            name=name, trust_domain=DOMAIN, identity=f"spiffe://{DOMAIN}/{name}", lifetime=LEAF_LIFE
        )
        self.consumers[name] = Consumer(certificate=certificate)
        return self.consumers[name]

    def load(self, consumer: Consumer) -> None:
        """Let *consumer* take up what lies in its store."""
        if consumer.running and not consumer.stuck and consumer.store is not None:
            consumer.loaded = consumer.store

    def stop(self, consumer: Consumer) -> None:
        """Let *consumer* die."""
        consumer.running, consumer.stuck, consumer.loaded = False, False, None

    def start(self, consumer: Consumer) -> None:
        """Let *consumer* come up with what lies in its store."""
        consumer.running = True
        self.load(consumer)

    def put(self, consumer: Consumer, leaf: Leaf, bundle: tuple[Authority, ...], *, drifted: bool = False) -> None:
        """Write one publication."""
        if not consumer.writable and not drifted:
            raise StoreUnavailable
        number = consumer.store.number + 1 if consumer.store is not None else 1
        drifted = drifted or leaf.sha256 in self.foreign
        consumer.store = Material(number=number, leaf=leaf, bundle=bundle, drifted=drifted)
        consumer.history.append(consumer.store)

    def sign(self, consumer: Consumer, signer: IssuerId) -> Leaf | None:
        """Return a leaf, or None where the signer refuses: unknown, expired, or the leaf would outlive it."""
        held = next((each for each in self.generations.values() if each.authority.id == signer), None)
        if held is None or held.revoked:
            return None
        if self.now + LEAF_LIFE > held.authority.not_after:
            if not (self.is_clock_wrong or self.is_late):
                raise AssertionError(f"{consumer.name} asked {signer} for a leaf that outlives it")
            return None
        leaf = self.leaf(consumer, signer)
        self.leaves.append((consumer.name, leaf))
        self.open_leaves.append((consumer.name, leaf))
        return leaf

    def leaf(self, consumer: Consumer, signer: IssuerId) -> Leaf:
        """Return a leaf certificate whoever signs it."""
        self._count += 1
        return Leaf(
            serial=Serial(f"{self._count:x}"),
            sha256=f"sha-leaf-{self._count}",
            subject="",
            spiffe_id=consumer.certificate.identity,
            issuer=signer,
            not_before=self.now - BACKDATE,
            not_after=self.now + LEAF_LIFE,
            chain_not_after=self.now + LEAF_LIFE,
            spki_sha256=f"spki-{self._count}",
            key_type=KeyType.ECDSA_P256,
        )

    # --- what rotator sees ---

    @property
    def clock(self) -> datetime:
        """Return what rotator's wall clock says."""
        return self.now + self.offset

    def seen(self) -> AuthoritySeen:
        """Return the trust domain as probes, stores, signer and ledger show it."""
        held = {each.authority.id for each in self.generations.values()}
        self._forget_replaced()
        strays: dict[IssuerId, datetime] = {}
        for _, leaf in self.open_leaves:
            strays[leaf.issuer] = max(strays.get(leaf.issuer, leaf.not_after), leaf.not_after)
        return AuthoritySeen(
            generations=tuple(self.generations[number] for number in sorted(self.generations)),
            active=self.active,
            parties=tuple(self._party(each, held) for each in self.consumers.values()),
            highest_number=self.highest,
            stray_until=strays,
        )

    def _forget_replaced(self) -> None:
        """A consumer that is seen using a leaf does not use its earlier ones any more."""
        for consumer in self.consumers.values():
            if not consumer.answers or consumer.loaded is None:
                continue
            mine = [leaf.sha256 for name, leaf in self.open_leaves if name == consumer.name]
            served = consumer.loaded.leaf.sha256
            if served in mine:
                replaced = set(mine[: mine.index(served)])
                self.open_leaves = [each for each in self.open_leaves if each[1].sha256 not in replaced]

    @staticmethod
    def _party(consumer: Consumer, held: set[IssuerId]) -> RelyingParty:
        store, loaded = consumer.store, consumer.loaded
        older = [each.leaf.not_after for each in consumer.history if store is not None and each.trusts != store.trusts]
        return RelyingParty(
            name=consumer.name,
            published=store.trusts & held if store is not None else None,
            acknowledged=loaded.trusts & held if consumer.answers and loaded is not None else frozenset(),
            reachable=consumer.answers,
            leaf_issuer=store.leaf.issuer if store is not None else None,
            leaf_not_after=store.leaf.not_after if store is not None else None,
            served_issuer=loaded.leaf.issuer if consumer.answers and loaded is not None else None,
            last_leaf_not_after=max(older, default=None),
        )

    def decide(self) -> AuthorityDecision:
        """Return the decision about the authority, after noting when trust was first published everywhere."""
        seen = self.seen()
        decision = authority.decide(self.intent, seen, self.policy, self.clock)
        if (
            self.intent is not None
            and self.intent.kind is IntentKind.ROTATE
            and self.intent.trust_published_at is None
            and len(decision.bundle) > 1
            and all(
                each.published is None or each.published >= {one.id for one in decision.bundle} for each in seen.parties
            )
        ):
            self.intent = replace(self.intent, trust_published_at=self.clock)
            decision = authority.decide(self.intent, seen, self.policy, self.clock)
        return decision

    # --- what rotator does ---

    def open(self, kind: IntentKind) -> None:
        """Open an intent; a rollback turns the rotation that is under way."""
        if kind is IntentKind.ROLL_BACK and self.intent is not None:
            self.intent = replace(self.intent, kind=kind)
            return
        active = next((each.number for each in self.generations.values() if each.authority.id == self.active), None)
        self.rotations += 1
        self.intent = AuthorityIntent(
            rotation_id=f"rotation-{self.rotations}", kind=kind, since=self.clock, from_generation=active
        )

    def step(self, fault: Fault = Fault.NONE) -> Next:
        """Observe, decide, apply one step; return what was decided."""
        if self.intent is None and authority.due(self.seen(), self.policy, self.clock, DOMAIN) is not None:
            self.open(IntentKind.ROTATE)
        decision = self.decide()
        following = decision.next
        if fault is not Fault.NEVER:
            self.apply(following, decision, fault)
            if fault is Fault.TWICE:
                self.apply(following, decision, fault)
        return following

    def apply(self, step: Next, decision: AuthorityDecision, fault: Fault) -> None:
        """Apply *step* as the engine would."""
        match step:
            case PrepareIssuer():
                self._prepare(step, fault)
            case PublishBundle():
                self._publish(step, fault)
            case ActivateIssuer():
                self._check_activation(step)
                self.active = step.issuer
                if self.intent is not None and fault is not Fault.LOST and not step.back:
                    self.intent = replace(self.intent, activated_at=self.clock)
            case ReissueLeaves():
                for name in self._wave(step.consumers, fault):
                    self.renew(self.consumers[name], decision, accepted=frozenset({step.signer}))
            case RetireIssuer():
                self.retire(step.issuer)
            case RevokeIssuer():
                for number, each in self.generations.items():
                    if each.authority.id == step.issuer:
                        self.generations[number] = replace(each, revoked=True)
            case Done():
                if self.intent is not None:
                    self.ended.append("rolled back" if step.rolled_back else self.intent.kind.value)
                self.intent = None
            case Refused():
                if self.intent is not None:
                    self.intent = replace(self.intent, kind=IntentKind.ROTATE)
            case Wait() | Nothing():
                pass

    def _check_activation(self, step: ActivateIssuer) -> None:
        """Law 4, and law 1's written choice: who is left behind, and how many."""
        begins = next(each.authority for each in self.generations.values() if each.authority.id == step.issuer)
        if not self.is_clock_wrong and begins.not_after - self.clock < self.policy.floor_to_activate:
            raise AssertionError(f"{step.issuer} begins to sign with {begins.not_after - self.clock} left")
        if self.intent is not None and self.intent.kind is IntentKind.COMPROMISE:
            return
        if self.policy.at_deadline is AtDeadline.PROCEED:
            self.left_behind |= set(step.without)

    @property
    def is_clock_wrong(self) -> bool:
        """Return whether rotator's clock is off by more than is allowed."""
        return abs(self.offset) > self.policy.skew

    def retire(self, issuer: IssuerId) -> None:
        """Remove a generation from the signer."""
        self.generations = {number: each for number, each in self.generations.items() if each.authority.id != issuer}
        if self.active == issuer:
            self.active = None

    def _prepare(self, step: PrepareIssuer, fault: Fault) -> None:
        self.highest = max(self.highest, step.number)
        if step.number not in self.generations:
            made = authority_of(step.number, self.now, self.policy.lifetime)
            self.generations[step.number] = Generation(number=step.number, authority=made, reference=f"ref-{made.id}")
        if self.intent is not None and fault is not Fault.LOST:
            self.intent = replace(self.intent, to_generation=step.number)

    def _publish(self, step: PublishBundle, fault: Fault) -> None:
        by_id = {each.authority.id: each.authority for each in self.generations.values()}
        for name in self._wave(step.consumers, fault):
            consumer = self.consumers[name]
            if consumer.store is not None and consumer.writable:
                self.put(consumer, consumer.store.leaf, tuple(by_id[each] for each in step.bundle))

    @staticmethod
    def _wave(names: tuple[SubjectName, ...], fault: Fault) -> tuple[SubjectName, ...]:
        return names[:1] if fault is Fault.PARTLY else names

    def want(self, consumer: Consumer, decision: AuthorityDecision) -> CertificateWant:
        """Return what *consumer* should have now."""
        return CertificateWant(
            certificate=consumer.certificate,
            signer=decision.signer.authority if decision.signer is not None else None,
            accepted=decision.accepted,
            bundle=decision.bundle,
        )

    def renew(
        self, consumer: Consumer, decision: AuthorityDecision, accepted: frozenset[IssuerId] | None = None
    ) -> renewal.Decision:
        """Decide about one leaf and apply it."""
        want = self.want(consumer, decision)
        if accepted is not None:
            want = replace(want, accepted=accepted)
        decided = renewal.decide(want, self.observation(consumer), LEAF_POLICY, self.clock, held_until=None)
        if want.bundle:
            self.carry_out(consumer, want, decided)
        return decided

    def carry_out(self, consumer: Consumer, want: CertificateWant, decided: renewal.Decision) -> None:
        """Apply what was decided about one leaf."""
        try:
            match decided:
                case IssueLeaf():
                    leaf = self.sign(consumer, decided.signer.id)
                    if leaf is not None:
                        self.put(consumer, leaf, want.bundle)
                case Republish() if consumer.store is not None:
                    self.put(consumer, consumer.store.leaf, want.bundle)
                case _:
                    pass
        except StoreUnavailable:
            pass

    @staticmethod
    def observation(consumer: Consumer) -> Observation:
        """Return what is published for *consumer*."""
        if consumer.store is None:
            return Observation(publications=(None,))
        return Observation(
            publications=(
                Publication(
                    target=f"directory:/{consumer.name}",
                    number=consumer.store.number,
                    leaf=consumer.store.leaf,
                    bundle=consumer.store.bundle,
                    key_matches=True,
                ),
            )
        )

    # --- time passing under good care ---

    def renew_all(self) -> None:
        """Let every certificate's reconciler have its turn."""
        decision = self.decide()
        for consumer in self.consumers.values():
            self.renew(consumer, decision)

    def load_all(self) -> None:
        """Let every consumer take up what lies in its store."""
        for consumer in self.consumers.values():
            self.load(consumer)

    def heal(self) -> None:
        """Bring every consumer back."""
        self.offset = timedelta()
        for consumer in self.consumers.values():
            consumer.reachable = consumer.writable = True
            consumer.stuck = False
            if not consumer.running:
                self.start(consumer)

    def run(self, duration: timedelta, tick: timedelta = timedelta(seconds=30)) -> list[Next]:
        """Let the engine work for *duration*; return every step that it took."""
        taken: list[Next] = []
        until = self.now + duration
        while self.now < until:
            taken.extend(self.work())
            self.now += tick
        return taken

    def work(self) -> list[Next]:
        """Let the engine do everything that it can do at this moment, leaves first."""
        taken: list[Next] = []
        for _ in range(100):
            self.renew_all()
            self.load_all()
            following = self.step()
            if isinstance(following, Wait | Nothing):
                return taken
            taken.append(following)
            self.check()
        raise AssertionError(f"no end in sight: {taken[-6:]}")

    # --- what must hold ---

    def check(self) -> None:
        """Raise if a leaf that is presented would be refused by anyone who should admit it, or outlives its issuer."""
        self._forgive()
        verifiers = [
            each
            for each in self._alive()
            if each.name not in self.left_behind and each.loaded is not None and each.loaded.leaf.not_after > self.now
        ]
        for presenter in self._alive():
            if presenter.loaded is None or presenter.loaded.leaf.not_after <= self.now:
                continue
            issuer = presenter.loaded.leaf.issuer
            for verifier in verifiers:
                if verifier.loaded is not None and issuer not in verifier.loaded.trusts:
                    trusted = sorted(verifier.loaded.trusts)
                    raise AssertionError(f"{presenter.name} presents {issuer}, {verifier.name} trusts {trusted}")

    def _alive(self) -> Iterable[Consumer]:
        return (
            each
            for each in self.consumers.values()
            if each.running and each.loaded is not None and not each.loaded.drifted
        )

    def _forgive(self) -> None:
        """A party that was left behind counts again once it trusts whoever signs."""
        for name in list(self.left_behind):
            loaded = self.consumers[name].loaded
            if loaded is None or (self.active is not None and self.active in loaded.trusts):
                self.left_behind.discard(name)
