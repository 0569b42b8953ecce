"""The laws that the engine keeps, each with a test that fails when it is broken."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.control import Person, Right, RollbackRequest, RotateRequest
from rotator.core.event import EventType
from rotator.core.model import Phase, SubjectKind, SubjectName
from rotator.desk import Desk
from rotator.engine.limits import IssuanceLimit, Limits, next_try
from rotator.engine.recorder import AWAY_FOR, Scribe
from rotator.errors import InvariantBroken, JournalError, Unavailable
from rotator.ports import RotationState
from tests.engine.accounts import broken_pairs, everything_wrong
from tests.engine.world import MESH, START, World
from tests.fakes.clock import ManualClock

SERVICE = SubjectName("service-0")
ALICE = Person(uid=1000, name="alice", groups=frozenset({"operators"}))
HOURS = timedelta(hours=1)


def _desk(world: World) -> Desk:
    return Desk(world.engine, ledger=dict, requests=world.store)


def _number(world: World) -> int:
    """Return the generation that signs."""
    state = world.engine.domains.get(MESH)
    assert state is not None
    assert state.signer is not None
    return state.signer.number


def test_law_01_a_lagging_consumer_holds_activation(world: World) -> None:
    """While one consumer has not loaded the new bundle, the old CA goes on signing, and status names the laggard."""
    world.run(until=world.settled)
    laggard = world.consumers[SERVICE]
    laggard.lag = timedelta(minutes=10)
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(span=timedelta(minutes=5))
    assert _number(world) == 1
    subject = next(each for each in _desk(world).status()["subjects"] if each["name"] == MESH)
    assert [SERVICE] == [name for name in subject["waiting_on"] if SERVICE in name]
    world.run(until=lambda: _number(world) == 2, span=HOURS)
    laggard.lag = timedelta(0)
    world.run(until=world.settled, span=HOURS)
    assert everything_wrong(world) == []


def test_law_02_both_are_trusted_until_the_last_old_leaf_is_gone(world: World) -> None:
    """The old CA leaves the bundles only after every consumer was seen with a leaf of the new one."""
    world.run(until=world.settled)
    laggard = world.consumers[SERVICE]
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=lambda: _number(world) == 2)
    laggard.lag = timedelta(minutes=30)
    for _ in range(20):
        world.run(span=timedelta(minutes=1))
        assert broken_pairs(world) == []
        loaded = laggard.loaded
        assert loaded is not None
        if loaded.leaf is not None and loaded.leaf.issuer == world.held()[0].authority.id:
            bundles = [consumer.store.read() for consumer in world.consumers.values()]
            assert all(found is not None and len(found.bundle) == 2 for found in bundles)


def test_law_03_no_pair_is_ever_broken(world: World) -> None:
    """At every second of a rotation every live leaf verifies under every live bundle."""
    world.run(until=world.settled)
    for consumer, lag in zip(world.consumers.values(), (0, 3, 17), strict=True):
        consumer.lag = timedelta(seconds=lag)
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    for _ in range(1200):
        world.run(span=timedelta(seconds=1))
        assert broken_pairs(world) == []
    assert _number(world) == 2


def test_law_05_one_rotation_at_a_time(world: World) -> None:
    """A second request for a trust domain that rotates already is refused, named and recorded."""
    world.run(until=world.settled)
    desk = _desk(world)
    world.consumers[SERVICE].lag = HOURS
    request = RotateRequest(subjects=(SubjectName(MESH),), reason="quarterly")
    first = desk.rotate(request, ALICE)["rotations"][0]["id"]
    second = desk.rotate(request, ALICE)
    assert second["rotations"] == []
    assert first in second["refused"][0]["why"]
    assert [each.result for each in world.events(EventType.REFUSED)] == ["refused"]
    assert len(world.store.rotations(state=RotationState.OPEN, subject=SubjectName(MESH))) == 1


def test_law_05_two_rotations_in_a_row_work(world: World) -> None:
    """A rotation, a rolled-back one and another rotation follow each other."""
    world.run(until=world.settled)
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=world.settled, span=HOURS)
    assert _number(world) == 2
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.consumers[SERVICE].lag = timedelta(minutes=10)
    world.run(span=timedelta(minutes=2))
    _desk(world).rollback(RollbackRequest(subject=SubjectName(MESH), reason="too early"), ALICE)
    world.run(until=world.settled, span=2 * HOURS)
    assert _number(world) == 2
    world.consumers[SERVICE].lag = timedelta(0)
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=world.settled, span=HOURS)
    assert _number(world) == 4
    assert everything_wrong(world) == []


def test_law_07_a_rollback_walks_backwards_and_says_so(world: World) -> None:
    """After activation a rollback signs with the old CA again first, and ends as a rollback, never as a rotation."""
    world.run(until=world.settled)
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=lambda: _number(world) == 2)
    _desk(world).rollback(RollbackRequest(subject=SubjectName(MESH), reason="partner not ready"), ALICE)
    for _ in range(600):
        world.run(span=timedelta(seconds=2), tick=timedelta(seconds=2))
        assert broken_pairs(world) == []
    world.run(until=world.settled, span=2 * HOURS)
    assert _number(world) == 1
    assert [each.number for each in world.held()] == [1]
    assert world.rotations()[-1].state is RotationState.ROLLED_BACK
    assert len(world.events(EventType.ROLLED_BACK)) == 1
    assert everything_wrong(world) == []


@pytest.mark.parametrize("call", ["authorities.set_signed", "authorities.activate"])
def test_law_07_a_rollback_asked_for_in_the_middle_of_a_step_is_not_lost(world: World, call: str) -> None:
    """A person's word that comes while the engine waits for the signer stands when the engine notes its progress."""
    world.run(until=world.settled)
    asked: list[str] = []

    def interrupt(name: str) -> None:
        if name == call and not asked:
            asked.append(name)
            _desk(world).rollback(RollbackRequest(subject=SubjectName(MESH), reason="not today"), ALICE)

    world.faults.after = interrupt
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=lambda: bool(asked) and world.settled(), span=2 * HOURS)
    assert RotationState.ROLLED_BACK is world.rotations()[-1].state
    assert 1 == _number(world)
    assert everything_wrong(world) == []


def test_law_07_past_retirement_there_is_no_rollback(world: World) -> None:
    """A rollback of a finished rotation is refused and recorded."""
    world.run(until=world.settled)
    answer = _desk(world).rollback(RollbackRequest(subject=SubjectName(MESH), reason="regret"), ALICE)
    assert "only a new rotation" in answer["refused"][0]["why"]
    assert len(world.events(EventType.REFUSED)) == 1


def test_law_08_compromise_does_not_wait(world: World) -> None:
    """A compromise revokes the old CA first, signs with the new one at once, and waits for nobody."""
    world.run(until=world.settled)
    old = world.held()[0].authority
    world.consumers[SERVICE].alive = False
    request = RotateRequest(subjects=(SubjectName(MESH),), reason="stolen key", compromised=True, emergency=True)
    _desk(world).rotate(request, ALICE)
    world.run(until=lambda: _number(world) == 2, span=timedelta(minutes=1))
    types = [each.type for each in world.events(EventType.REVOKED, EventType.ACTIVATED)]
    assert types.index(EventType.REVOKED) < len(types) - 1 - types[::-1].index(EventType.ACTIVATED)
    world.run(span=timedelta(minutes=2))
    bundles = [consumer.store.read() for consumer in world.consumers.values()]
    assert all(found is not None and old.id not in {each.id for each in found.bundle} for found in bundles)


def test_law_09_the_previous_publication_stays_until_proof(world: World) -> None:
    """While nobody has shown the new leaf, the publication before it is still there."""
    world.run(until=world.settled)
    consumer = world.consumers[SERVICE]
    consumer.lag = timedelta(minutes=5)
    before = consumer.store.current
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(span=timedelta(minutes=2))
    assert consumer.store.current > before
    assert before in consumer.store.history
    world.run(until=world.settled, span=HOURS)
    assert set(consumer.store.history) == {consumer.store.current}


def test_law_11_a_wrong_answer_is_never_published(world: World) -> None:
    """A certificate with another key is refused, nothing is published, and the good one stays in use."""
    world.run(until=world.settled)
    consumer = world.consumers[SERVICE]
    before = consumer.store.read()
    other = world.consumers[SubjectName("service-1")].store.material().chain_pem
    world.vault.answer = lambda _: other
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(span=timedelta(minutes=1))
    assert consumer.store.read() == before
    assert [each.result for each in world.events(EventType.FAILED)][:1] == ["rejected"]
    world.vault.answer = bytes
    world.run(until=world.settled, span=HOURS)
    assert everything_wrong(world) == []


class _BrokenJournal:
    """Stands before the world's journal and refuses to write while it is broken."""

    def __init__(self, world: World) -> None:
        self.broken = False
        inner = world.faults.before

        def before(call: str) -> None:
            if self.broken and call == "journal.commit":
                raise JournalError("no space left on device")
            inner(call)

        world.faults.before = before


def test_law_12_without_a_journal_no_step_starts(world: World) -> None:
    """While intents cannot be written, nothing is issued, before the safety line."""
    world.run(until=world.settled)
    journal = _BrokenJournal(world)
    journal.broken = True
    calls = len([each for each in world.faults.calls if each == "issuer.sign"])
    world.run(span=timedelta(minutes=40), tick=timedelta(seconds=10))
    assert len([each for each in world.faults.calls if each == "issuer.sign"]) == calls
    journal.broken = False
    world.run(until=world.settled, span=HOURS)
    assert everything_wrong(world) == []


def test_law_12_expiry_beats_bookkeeping(world: World) -> None:
    """Past the safety line a leaf is renewed without a journal, and its records are entered later, as late."""
    world.run(until=world.settled)
    journal = _BrokenJournal(world)
    journal.broken = True
    world.run(span=timedelta(minutes=70), tick=timedelta(seconds=10))
    found = world.consumers[SERVICE].store.read()
    assert found is not None
    assert found.leaf is not None
    assert found.leaf.not_after > world.clock.now() + timedelta(minutes=20)
    journal.broken = False
    world.run(until=world.settled, span=HOURS)
    late = [each for each in world.events() if each.late]
    assert EventType.ISSUED in {each.type for each in late}
    assert len(world.events(EventType.EXCEPTION_OPENED)) == 1
    assert everything_wrong(world) == []


def test_law_12_a_journal_that_is_away_is_not_waited_for_at_each_record(world: World) -> None:
    """Past the safety line one time-out is paid and then none for a while; before it, intents are tried each time."""
    world.run(until=world.settled)
    recorder, now = world.engine.recorder, world.clock.now()
    beat = Scribe(clock=world.clock, subject=SERVICE, rotation=None).event(EventType.HEARTBEAT)
    _BrokenJournal(world).broken = True
    calls = len(world.faults.calls)

    def tried() -> int:
        return len(world.faults.calls) - calls

    assert not recorder.write((), [beat], safety_line=now)
    assert not recorder.write((), [beat], safety_line=now)
    assert 1 == tried()
    with pytest.raises(JournalError):
        recorder.write((), [beat], safety_line=now + timedelta(hours=1))
    assert 2 == tried()
    world.clock.advance(AWAY_FOR)
    assert not recorder.write((), [beat], safety_line=now)
    assert 3 == tried()
    world.faults.clear()
    assert 3 == recorder.enter_spooled()
    assert recorder.write((), [beat], safety_line=now)


def test_law_14_who_lost_the_lease_writes_nowhere(world: World) -> None:
    """A process without the lease issues nothing and publishes nothing, however due it is."""
    world.run(until=world.settled)
    calls = list(world.faults.calls)
    world.lease.is_held = False
    world.run(span=timedelta(minutes=40), tick=timedelta(seconds=30))
    written = [
        each for each in world.faults.calls[len(calls) :] if each in {"issuer.sign", "store.put", "journal.commit"}
    ]
    assert written == []


def test_law_14_a_lost_lease_is_told_as_a_law(world: World) -> None:
    """What stops a write without the lease is an `InvariantBroken` that names law 14."""
    world.lease.is_held = False
    with pytest.raises(InvariantBroken) as caught:
        world.engine.recorder.fence()
    assert caught.value.law == 14


def test_law_15_the_next_try_is_never_past_the_safety_line() -> None:
    """Whatever the number of failures, the next try comes before the safety line, and past it they go on."""
    line = START + timedelta(minutes=10)
    for failures, gone in itertools.product(range(1, 40), range(0, 600, 7)):
        now = START + timedelta(seconds=gone)
        assert now < next_try(failures, now, line) <= line
    past = line + timedelta(minutes=1)
    assert timedelta(0) < next_try(50, past, line) - past <= timedelta(seconds=2)


def test_law_15_success_trips_the_breaker_and_failure_does_not() -> None:
    """Only issued certificates count, and the breaker closes again when they are long enough ago."""
    clock = ManualClock()
    limits = Limits(clock, issuer_per_second=100, per_subject=IssuanceLimit(count=3, within=HOURS))
    assert limits.tripped_until("a") is None
    for _ in range(3):
        limits.issued("a")
    assert limits.tripped_until("a") == clock.now() + HOURS
    assert limits.tripped_until("b") is None
    clock.advance(HOURS)
    assert limits.tripped_until("a") is None


def test_law_15_a_loop_of_issuance_stops_itself(tmp_path: Path) -> None:
    """If somebody undoes every publication, issuing stops after the configured number instead of going on for ever."""
    world = World(tmp_path, certificates=1, limit=IssuanceLimit(count=4, within=HOURS))
    try:
        for _ in range(40):
            world.run(span=timedelta(minutes=1), tick=timedelta(seconds=10))
            if world.consumers[SERVICE].store.current:
                world.consumers[SERVICE].store.spoil("somebody wrote garbage over it")
        assert world.faults.calls.count("issuer.sign") == 4
    finally:
        world.close()


def test_law_16_done_means_in_use(world: World) -> None:
    """A rotation is complete only when the consumer was seen with the new serial, not when it was written."""
    world.run(until=world.settled)
    world.consumers[SERVICE].lag = timedelta(minutes=5)
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(span=timedelta(minutes=2))
    assert [each.state for each in world.rotations(SERVICE)][-1] is RotationState.OPEN
    world.run(until=world.settled, span=HOURS)
    rotation = world.rotations(SERVICE)[-1].id
    story = [each.type for each in world.events() if each.rotation_id == rotation]
    assert story.index(EventType.DISTRIBUTED) < story.index(EventType.VERIFIED) < story.index(EventType.COMPLETED)


def test_law_18_the_old_leaf_is_revoked_last(world: World) -> None:
    """The old leaf is revoked after the new one was seen in use, and never before."""
    world.run(until=world.settled)
    world.consumers[SERVICE].lag = timedelta(minutes=3)
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(span=timedelta(minutes=2))
    assert "issuer.revoke" not in world.faults.calls
    world.run(until=world.settled, span=HOURS)
    rotation = world.rotations(SERVICE)[-1].id
    told = [each for each in world.events(EventType.VERIFIED, EventType.REVOKED) if each.subject == SERVICE]
    new = next(index for index, each in enumerate(told) if each.rotation_id == rotation)
    revoked = [index for index, each in enumerate(told) if each.type is EventType.REVOKED]
    assert revoked == [new + 1]


def test_law_18_what_ends_before_the_next_crl_is_left_to_lapse(tmp_path: Path) -> None:
    """A leaf that ends before a revocation would reach anybody is recorded as lapsed; no CRL is waited for."""
    world = World(tmp_path, certificates=1, leaf_lifetime=timedelta(minutes=20), ca_lifetime=timedelta(hours=4))
    try:
        world.crl_interval = timedelta(hours=1)
        world.restart()
        world.run(until=world.settled)
        world.ask(SERVICE, SubjectKind.CERTIFICATE)
        world.run(until=world.settled)
        assert "issuer.revoke" not in world.faults.calls
        assert len(world.events(EventType.LAPSED)) == 1
    finally:
        world.close()


def test_law_19_a_joiner_is_safe_in_every_phase(tmp_path: Path) -> None:
    """A service that is added while the CA rotates gets material that is valid in that phase and the next."""
    for phase in (Phase.PREPARED, Phase.TRUSTED, Phase.ACTIVATED, Phase.REISSUED):
        place = tmp_path / phase
        place.mkdir()
        world = World(place, certificates=3)
        try:
            joiner = SubjectName("service-2")
            target, consumer = world.certificates.pop(joiner), world.consumers.pop(joiner)
            world.restart()
            world.run(until=world.settled)
            world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
            if phase in {Phase.PREPARED, Phase.TRUSTED}:
                world.consumers[SERVICE].lag = timedelta(minutes=3)
            world.run(span=timedelta(seconds=20))
            world.certificates[joiner], world.consumers[joiner] = target, consumer
            world.engine.use(world.fleet())
            for _ in range(300):
                world.run(span=timedelta(seconds=4), tick=timedelta(seconds=4))
                assert broken_pairs(world) == [], phase
            world.consumers[SERVICE].lag = timedelta(0)
            world.run(until=world.settled, span=HOURS)
            assert broken_pairs(world) == [], phase
        finally:
            world.close()


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1), timedelta(days=2)])
def test_law_20_a_jumping_clock_issues_nothing_twice(tmp_path: Path, jump: timedelta) -> None:
    """A clock that jumps causes at most one renewal a service, and every account closes."""
    world = World(tmp_path, certificates=2)
    try:
        world.run(until=world.settled)
        signed = world.faults.calls.count("issuer.sign")
        world.clock.jump(jump)
        world.run(until=world.settled, span=HOURS)
        world.run(span=timedelta(minutes=2))
        assert world.faults.calls.count("issuer.sign") - signed <= 4
        world.run(until=world.settled, span=HOURS)
    finally:
        world.close()


def test_law_21_every_intent_has_an_outcome(world: World) -> None:
    """After a day of renewals and CA rotations every rotation that began has ended, and numbers have no gap."""
    world.run(span=timedelta(hours=14), tick=timedelta(seconds=30))
    world.run(until=world.settled, span=HOURS)
    assert everything_wrong(world) == []
    assert [each.seq for each in world.told()] == list(range(len(world.told())))


def test_law_21_a_missed_renewal_is_recorded_once(world: World) -> None:
    """A leaf that was not replaced before its safety line leaves one record of that, however long it lasts."""
    world.run(until=world.settled)
    world.faults.before = _refuse_signing
    world.run(span=timedelta(minutes=75), tick=timedelta(seconds=20))
    missed = [each for each in world.events(EventType.MISSED) if each.subject == SERVICE]
    assert len(missed) == 1
    world.restart()
    world.run(until=world.settled, span=HOURS)
    assert len([each for each in world.events(EventType.MISSED) if each.subject == SERVICE]) == 1


def _refuse_signing(call: str) -> None:
    if call == "issuer.sign":
        raise Unavailable("Vault is sealed")


def test_law_23_records_name_what_others_saw(world: World) -> None:
    """Issued records carry the issuer's own request id, verified ones name the consumers that showed it."""
    world.run(until=world.settled)
    issued = world.events(EventType.ISSUED)
    assert all(each.corroboration.vault_request_id for each in issued)
    verified = [each for each in world.events(EventType.VERIFIED) if each.subject == SERVICE]
    assert verified[0].corroboration.dataplanes == (f"probe:{SERVICE}",)


def test_law_24_names_and_reasons_stand_as_commitments(world: World) -> None:
    """Neither a person's name nor their words stand in the ledger."""
    world.run(until=world.settled)
    _desk(world).rotate(RotateRequest(subjects=(SERVICE,), reason="Bob left the company"), ALICE)
    world.run(until=world.settled, span=HOURS)
    asked = next(each for each in world.events(EventType.INTENT) if each.requested_by is not None)
    assert asked.reason_commitment is not None
    raw = b"".join(world.store.entries(0, world.store.size()))
    assert b"alice" not in raw
    assert b"Bob" not in raw


def test_a_dry_run_changes_nothing(world: World) -> None:
    """With ``dry_run`` the plan is told and nothing is opened."""
    world.run(until=world.settled)
    size = world.store.size()
    request = RotateRequest(reason="look", everything=True, dry_run=True)
    answer = _desk(world).rotate(request, ALICE)
    assert answer["rotations"] == []
    assert any("prepare generation 2" in each["what"] for each in answer["plan"])
    assert world.store.size() == size
    assert dataclasses.asdict(request)["dry_run"]


def test_law_03_is_judged_by_what_is_published_now(world: World) -> None:
    """After a rotation a renewal is not refused because another consumer's bundle was last seen before it."""
    world.run(until=world.settled)
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=world.settled, span=HOURS)
    for name in world.certificates:
        view, found = world.engine.leaves.view(name), world.consumers[name].store.read()
        assert view is not None
        assert view.observation.publications == (found,)


def test_what_was_asked_without_a_right_is_recorded_once_a_minute(world: World) -> None:
    """The ledger shows who tried what, however often they try; it is no reason to fill it."""
    desk = _desk(world)
    for _ in range(5):
        desk.denied("rotate", ALICE, Right.OPERATE)
    desk.denied("pause", ALICE, Right.OPERATE)
    world.clock.advance(timedelta(minutes=1))
    desk.denied("rotate", ALICE, Right.OPERATE)
    refused = world.events(EventType.REFUSED)
    assert ["rotate", "pause", "rotate"] == [each.detail["operation"] for each in refused]
    assert all(each.requested_by is not None for each in refused)


def test_a_request_whose_record_has_no_reply_is_under_way_all_the_same(world: World) -> None:
    """The commit took and nobody heard of it: the next visit finds the rotation and carries it out."""
    world.run(until=world.settled)
    request = RotateRequest(subjects=(SubjectName(MESH),), reason="now")
    world.faults.lose_reply(1)
    with pytest.raises(Unavailable):
        _desk(world).rotate(request, ALICE)
    answer = _desk(world).rotate(request, ALICE)
    assert ([], True) == (answer["rotations"], "under way already" in answer["refused"][0]["why"])
    world.run(until=world.settled, span=HOURS)
    assert _number(world) == 2
