"""
The centrepiece: any order of rotations, rollbacks, lag, death, joining, drift, lost replies and clock jumps.

Rules that must stay true here:

- After every rule each leaf that a live consumer presents is admitted by every live consumer (`SimulatedMesh.check`).
- From every state a healed mesh reaches the end of its rotation, and of two more in a row.
- Runs are the same everywhere: examples are derived, not drawn.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rotator.core import renewal
from rotator.core.model import AtDeadline, CertificateWant, IntentKind
from rotator.core.steps import Nothing, RetireIssuer
from tests.core.simulated_mesh import LEAF_POLICY, MINUTE, POLICY, ROGUE, Consumer, Fault, SimulatedMesh

FAULTS = st.sampled_from(
    [Fault.NONE, Fault.NONE, Fault.NONE, Fault.NEVER, Fault.LOST, Fault.TWICE, Fault.PARTLY],
)
WHICH = st.integers(min_value=0, max_value=7)


class MovingAuthority(RuleBasedStateMachine):
    """A trust domain whose CA changes hands while everything else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.mesh = SimulatedMesh()
        self.pending: tuple[Consumer, CertificateWant, renewal.Decision, int] | None = None
        self.rotations_seen: set[str] = set()

    @initialize(
        choice=st.sampled_from([(AtDeadline.HOLD, 0), (AtDeadline.PROCEED, 1)]),
        wave=st.sampled_from([1, 2, 50]),
    )
    def begin(self, choice: tuple[AtDeadline, int], wave: int) -> None:
        """A mesh of three with its first generation."""
        policy = replace(POLICY, at_deadline=choice[0], at_most_left_behind=choice[1], wave=wave)
        self.mesh = SimulatedMesh(policy=policy)
        self.mesh.run(MINUTE)

    def one(self, which: int) -> Consumer:
        """Return one of the consumers."""
        members = list(self.mesh.consumers.values())
        return members[which % len(members)]

    # --- rotator ---

    @rule(fault=FAULTS)
    def step(self, fault: Fault) -> None:
        """One authority step, perhaps with a fault."""
        taken = self.mesh.step(fault)
        if isinstance(taken, RetireIssuer):
            presented = {
                each.loaded.leaf.issuer
                for each in self.mesh.consumers.values()
                if each.loaded is not None and not each.loaded.drifted and each.loaded.leaf.not_after > self.mesh.now
            }
            assert taken.issuer not in presented

    @rule()
    def steps(self) -> None:
        """Some authority steps in a row."""
        for _ in range(4):
            self.step(fault=Fault.NONE)
            self.mesh.check()

    @rule(which=WHICH)
    def renew(self, which: int) -> None:
        """One certificate's reconciler has its turn."""
        self.mesh.renew(self.one(which), self.mesh.decide())

    @rule()
    def renew_all(self) -> None:
        """Every certificate's reconciler has its turn."""
        self.mesh.renew_all()

    @precondition(lambda self: self.pending is None)
    @rule(which=WHICH)
    def begin_slow_renewal(self, which: int) -> None:
        """A renewal is decided and will be written later, unless another publication comes between (law 14)."""
        consumer, decision = self.one(which), self.mesh.decide()
        want = self.mesh.want(consumer, decision)
        decided = renewal.decide(want, self.mesh.observation(consumer), LEAF_POLICY, self.mesh.clock, held_until=None)
        self.pending = (consumer, want, decided, consumer.store.number if consumer.store is not None else 0)

    @precondition(lambda self: self.pending is not None)
    @rule()
    def end_slow_renewal(self) -> None:
        """The slow renewal is written if its precondition still holds."""
        assert self.pending is not None
        consumer, want, decided, number = self.pending
        if number == (consumer.store.number if consumer.store is not None else 0) and want.bundle:
            self.mesh.carry_out(consumer, want, decided)
        self.pending = None

    # --- people ---

    @precondition(lambda self: self.mesh.intent is None)
    @rule()
    def rotate_now(self) -> None:
        """Somebody asks for a rotation."""
        self.mesh.open(IntentKind.ROTATE)

    @precondition(lambda self: self.mesh.intent is not None and self.mesh.intent.kind is IntentKind.ROTATE)
    @rule()
    def roll_back(self) -> None:
        """Somebody wants the old one back."""
        self.mesh.open(IntentKind.ROLL_BACK)

    # --- consumers ---

    @rule(which=WHICH)
    def load(self, which: int) -> None:
        """One consumer takes up its material."""
        self.mesh.load(self.one(which))

    @rule()
    def load_all(self) -> None:
        """Every consumer takes up its material."""
        self.mesh.load_all()

    @rule(which=WHICH)
    def lose_contact(self, which: int) -> None:
        """A consumer goes on, but no probe reaches it."""
        self.one(which).reachable = False

    @rule(which=WHICH)
    def regain_contact(self, which: int) -> None:
        """A probe reaches it again."""
        self.one(which).reachable = True

    @rule(which=WHICH)
    def die(self, which: int) -> None:
        """A consumer stops."""
        self.mesh.stop(self.one(which))

    @rule(which=WHICH)
    def come_back(self, which: int) -> None:
        """A consumer starts with whatever lies in its store."""
        self.mesh.start(self.one(which))

    @rule(which=WHICH, writable=st.booleans())
    def store_fails_or_mends(self, which: int, *, writable: bool) -> None:
        """A store cannot be written for a while."""
        self.one(which).writable = writable

    @precondition(lambda self: len(self.mesh.consumers) < 6)
    @rule()
    def join(self) -> None:
        """Somebody new starts, in whatever phase (law 19)."""
        joiner = self.mesh.join()
        self.mesh.renew(joiner, self.mesh.decide())
        self.mesh.load(joiner)

    # --- others ---

    @rule(which=WHICH, at=st.integers(min_value=0, max_value=2))
    def drift_of_bundle(self, which: int, at: int) -> None:
        """Somebody takes an authority out of a published bundle."""
        consumer = self.one(which)
        if consumer.store is not None and consumer.store.bundle:
            bundle = list(consumer.store.bundle)
            bundle.pop(at % len(bundle))
            self.mesh.put(consumer, consumer.store.leaf, tuple(bundle), drifted=True)

    @rule(which=WHICH)
    def drift_of_leaf(self, which: int) -> None:
        """Somebody puts another CA's leaf into a store."""
        consumer = self.one(which)
        if consumer.store is not None:
            leaf = self.mesh.leaf(consumer, ROGUE)
            self.mesh.foreign.add(leaf.sha256)
            self.mesh.put(consumer, leaf, consumer.store.bundle, drifted=True)

    @rule(which=WHICH)
    def restored_backup(self, which: int) -> None:
        """Somebody restores an older publication."""
        consumer = self.one(which)
        if consumer.history:
            old = consumer.history[0]
            self.mesh.foreign.add(old.leaf.sha256)
            self.mesh.put(consumer, old.leaf, old.bundle, drifted=True)

    # --- time ---

    @rule(seconds=st.sampled_from([5, 30, 60, 240, 600]))
    def time_passes(self, seconds: int) -> None:
        """Nobody does anything for a while; ten minutes are a whole leaf."""
        self.mesh.now += timedelta(seconds=seconds)

    @rule(minutes=st.sampled_from([2, 6, 12]))
    def time_passes_with_care(self, minutes: int) -> None:
        """Engine and consumers work for a while."""
        for _ in range(minutes * 2):
            self.mesh.renew_all()
            self.mesh.load_all()
            self.mesh.check()
            self.mesh.step()
            self.mesh.check()
            self.mesh.now += timedelta(seconds=30)

    @rule()
    def suspended(self) -> None:
        """Rotator sleeps until its CA has expired."""
        self.mesh.now += 121 * MINUTE

    @rule(jump=st.sampled_from([-60, 0, 60]))
    def clock_within_skew(self, jump: int) -> None:
        """Rotator's clock is off by what is allowed."""
        self.mesh.offset = timedelta(seconds=jump)

    @rule()
    def clock_far_behind(self) -> None:
        """Rotator's clock falls an hour behind: things get late, never wrong."""
        self.mesh.offset = -60 * MINUTE

    # --- what must hold ---

    @invariant()
    def the_laws_hold(self) -> None:
        """Laws 1 to 4 and 6, whatever happened."""
        mesh = self.mesh
        mesh.check()
        ends = {each.authority.id: each.authority.not_after for each in mesh.generations.values()}
        assert [] == [leaf.sha256 for _, leaf in mesh.leaves if leaf.not_after > ends.get(leaf.issuer, leaf.not_after)]
        signer = mesh.decide().signer
        if signer is not None:
            assert mesh.active == signer.authority.id
            assert signer.can_sign
            assert not signer.revoked
            assert signer.authority.not_after > mesh.clock

    def teardown(self) -> None:
        """From here, two rotations in a row end, and nothing but their successor is left (law 5)."""
        settle(self.mesh)
        for _ in range(2):
            before = self.mesh.active
            self.mesh.open(IntentKind.ROTATE)
            settle(self.mesh)
            assert before != self.mesh.active
        assert 1 == len(self.mesh.generations)
        assert {self.mesh.active} == {
            issuer for each in self.mesh.consumers.values() if each.store is not None for issuer in each.store.trusts
        }


def settle(mesh: SimulatedMesh) -> None:
    """Heal *mesh* and let it come to rest, within what one successor after another may take."""
    mesh.heal()
    until = mesh.now + 3 * mesh.policy.longest_rotation
    while mesh.now < until:
        mesh.work()
        if mesh.intent is None and isinstance(mesh.decide().next, Nothing):
            return
        mesh.now += MINUTE
    raise AssertionError(f"the rotation does not end: {mesh.intent} {mesh.decide()}")


TestMovingAuthority = MovingAuthority.TestCase
TestMovingAuthority.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.generate, Phase.shrink],
)
