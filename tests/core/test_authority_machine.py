"""
The centrepiece: any order of rotations, rollbacks, lag, death, joining, drift, lost replies and clock jumps.

Rules that must stay true here:

- After every rule each leaf that a live consumer presents is admitted by every live consumer (`SimulatedMesh.check`).
- From every state a healed mesh reaches the end of its rotation, and of two more in a row.
- Runs are the same everywhere: examples are derived, not drawn.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rotator.core import renewal
from rotator.core.model import AtDeadline, CertificateWant, IntentKind, Phase
from rotator.core.steps import Nothing, PublishBundle, RetireIssuer
from tests.core.simulated_mesh import LEAF_POLICY, MINUTE, POLICY, ROGUE, Consumer, Fault, SimulatedMesh

FAULTS = st.sampled_from(
    [Fault.NONE, Fault.NONE, Fault.NONE, Fault.NEVER, Fault.LOST, Fault.TWICE, Fault.PARTLY],
)
MOST_CONSUMERS = 5
ROLL_BACK = "roll back"
EVENTS = ["lost", "lost and stuck", "found", "stuck", "freed", "dead", "back", "store fails", "store mends"]
WHICH = st.integers(min_value=0, max_value=MOST_CONSUMERS - 1)


class MovingAuthority(RuleBasedStateMachine):
    """A trust domain whose CA changes hands while everything else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.mesh = SimulatedMesh()
        self.pending: tuple[Consumer, CertificateWant, renewal.Decision, int, datetime] | None = None
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
        self.pending = (
            consumer,
            want,
            decided,
            consumer.store.number if consumer.store is not None else 0,
            self.mesh.now,
        )

    @precondition(lambda self: self.pending is not None)
    @rule()
    def end_slow_renewal(self) -> None:
        """The slow renewal is written if its precondition still holds."""
        assert self.pending is not None
        consumer, want, decided, number, since = self.pending
        is_current = number == (consumer.store.number if consumer.store is not None else 0)
        # every call has a timeout: what took longer was given up
        if is_current and want.bundle and self.mesh.now - since <= LEAF_POLICY.budget.issue:
            self.mesh.is_late = True
            self.mesh.carry_out(consumer, want, decided)
            self.mesh.is_late = False
        self.pending = None

    # --- people ---

    @precondition(lambda self: self.mesh.intent is None)
    @rule()
    def rotate_now(self) -> None:
        """Somebody asks for a rotation."""
        self.mesh.open(IntentKind.ROTATE)

    @precondition(lambda self: self.mesh.intent is not None and self.mesh.intent.kind is IntentKind.ROTATE)
    @rule(ticks=st.integers(min_value=0, max_value=8), stuck=st.none() | WHICH)
    def roll_back(self, ticks: int, stuck: int | None) -> None:
        """Somebody wants the old one back, and it goes on for a while, perhaps with one that takes up nothing."""
        if stuck is not None:
            self.one(stuck).stuck = True
        self.mesh.open(IntentKind.ROLL_BACK)
        for tick in range(ticks):
            self.go_on(tick)

    @rule()
    def lose_journal(self) -> None:
        """The intent is forgotten: whoever is trusted and used stays trusted."""
        self.mesh.intent = None

    @rule(
        stop=st.sampled_from([Phase.PREPARED, Phase.TRUSTED, Phase.ACTIVATED, Phase.REISSUED, "shrinking"]),
        which=WHICH,
        then=st.sampled_from([None, ROLL_BACK, ROLL_BACK, *EVENTS]),
    )
    def rotate_until(self, stop: Phase | str, which: int, then: str | None) -> None:
        """A rotation goes on until *stop* is reached, consumers one at a time; just then something happens to one."""
        mesh = self.mesh
        if mesh.intent is None:
            mesh.open(IntentKind.ROTATE)
        for tick in range(40):
            decision = mesh.decide()
            if mesh.intent is None or decision.phase is stop:
                break
            self.go_on(tick)
            if stop == "shrinking" and isinstance(decision.next, PublishBundle) and decision.next.shrink:
                break
            mesh.now += timedelta(seconds=25 if stop == "shrinking" else 10)
        if then == ROLL_BACK and mesh.intent is not None:
            self.roll_back(ticks=8, stuck=which)
        elif then is not None:
            self.happens_to_a_consumer(which, then)

    def go_on(self, tick: int) -> None:
        """One step, and one consumer has its turn."""
        self.step(fault=Fault.NONE)
        self.mesh.check()
        consumer = self.one(tick)
        self.mesh.renew(consumer, self.mesh.decide())
        self.mesh.load(consumer)
        self.mesh.check()

    # --- consumers ---

    @rule(which=WHICH)
    def load(self, which: int) -> None:
        """One consumer takes up its material."""
        self.mesh.load(self.one(which))

    @rule()
    def load_all(self) -> None:
        """Every consumer takes up its material."""
        self.mesh.load_all()

    @rule(which=WHICH, what=st.sampled_from(EVENTS))
    def happens_to_a_consumer(self, which: int, what: str) -> None:
        """A consumer falls out of contact, or dies, or its store cannot be written; or that ends."""
        consumer = self.one(which)
        match what:
            case "lost" | "found":
                consumer.reachable = what == "found"
            case "lost and stuck":
                consumer.reachable, consumer.stuck = False, True
            case "stuck" | "freed":
                consumer.stuck = what == "stuck"
            case "dead":
                self.mesh.stop(consumer)
            case "back":
                self.mesh.start(consumer)
            case _:
                consumer.writable = what != "store fails"

    @precondition(lambda self: len(self.mesh.consumers) < MOST_CONSUMERS)
    @rule()
    def join(self) -> None:
        """Somebody new starts, in whatever phase (law 19)."""
        joiner = self.mesh.join()
        self.mesh.renew(joiner, self.mesh.decide())
        self.mesh.load(joiner)

    # --- others ---

    @rule(which=WHICH, what=st.sampled_from(["newest gone", "oldest gone", "other leaf", "backup"]))
    def drift(self, which: int, what: str) -> None:
        """Somebody else edits a bundle, swaps a leaf, or restores an old publication."""
        consumer = self.one(which)
        if consumer.store is None or not consumer.store.bundle:
            return
        leaf, bundle = consumer.store.leaf, consumer.store.bundle
        match what:
            case "newest gone":
                bundle = bundle[1:]
            case "oldest gone":
                bundle = bundle[:-1]
            case "other leaf":
                leaf = self.mesh.leaf(consumer, ROGUE)
                self.mesh.foreign.add(leaf.sha256)
            case _:
                leaf, bundle = consumer.history[0].leaf, consumer.history[0].bundle
                self.mesh.foreign.add(leaf.sha256)
        self.mesh.put(consumer, leaf, bundle, drifted=True)

    # --- time ---

    @rule(seconds=st.sampled_from([5, 30, 60, 240, 600, 80 * 60, 108 * 60, 121 * 60]))
    def time_passes(self, seconds: int) -> None:
        """Nobody does anything for a while; ten minutes are a whole leaf, two hours a whole CA."""
        self.mesh.now += timedelta(seconds=seconds)

    @rule(minutes=st.sampled_from([2, 6, 12]), lag=st.booleans())
    def time_passes_with_care(self, minutes: int, *, lag: bool) -> None:
        """Engine and consumers work for a while; with *lag* consumers take up material one at a time."""
        for tick in range(minutes * 3):
            self.mesh.renew_all()
            if lag:
                self.mesh.load(self.one(tick))
            else:
                self.mesh.load_all()
            self.mesh.check()
            self.step(fault=Fault.NONE)
            self.mesh.check()
            self.mesh.now += timedelta(seconds=20)

    @rule(jump=st.sampled_from([-3600, -60, 0, 60]))
    def clock_jumps(self, jump: int) -> None:
        """Rotator's clock is off by what is allowed, or an hour behind: things get late, never wrong."""
        self.mesh.offset = timedelta(seconds=jump)

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
    # A failing walk is printed as it was found: shrinking fifty steps takes longer than a test may.
    phases=[hypothesis.Phase.generate],
    report_multiple_bugs=False,
)
