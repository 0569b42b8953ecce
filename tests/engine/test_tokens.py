"""
Tokens are issued, renewed, revoked and accounted for; their signing keys are rotated under them.

Rules that must stay true here:

- What a token is worth is asked of the control plane that checks it, with the file that a consumer reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.directory import TokenDirectory
from rotator.core.alert_kinds import AlertKind
from rotator.core.event import EventType, Trigger
from rotator.core.model import Serial, SubjectKind
from rotator.errors import Denied, JournalError, Unavailable
from rotator.ports import Hold, KnownToken, RotationState, Stamp
from tests.engine.token_world import KEYS, WEB, FaultyKeys, TokenWorld
from tests.fakes.faults import Crash, Faults
from tests.fakes.kuma.timings import Timings
from tests.fixtures_kuma import NewStandIn

NewWorld = Callable[..., TokenWorld]


@pytest.fixture
def new_world(tmp_path: Path, new_standin: NewStandIn) -> Iterator[NewWorld]:
    """Return what makes settled worlds, each with a mesh of its own at one control plane."""
    # Proxies are of no interest here: their beat need not be lived through.
    standin = new_standin(timings=Timings(watchdog=timedelta(minutes=10)))
    with contextlib.ExitStack() as opened:
        made = 0

        def make(**wanted: object) -> TokenWorld:
            nonlocal made
            made += 1
            place = tmp_path / f"world-{made}"
            place.mkdir()
            world = TokenWorld(place, standin, mesh=f"mesh-{made}", **wanted)  # type: ignore[arg-type]  # -- the world names them
            opened.callback(world.close)
            world.run(until=world.settled)
            return world

        yield make


def test_a_token_is_issued_and_lets_its_proxy_in(new_world: NewWorld) -> None:
    """It stands in every place, 0600, and the control plane takes it."""
    world = new_world()
    assert [] == world.wrong()
    for place in world.places:
        assert (place / "CURRENT" / "token").stat().st_mode & 0o777 == 0o600
    (rotation,) = world.rotations(WEB)
    assert (RotationState.DONE, Trigger.BOOTSTRAP, SubjectKind.TOKEN) == (
        rotation.state,
        rotation.trigger,
        rotation.kind,
    )


def test_a_token_is_renewed_before_its_end_and_the_one_before_is_revoked(new_world: NewWorld) -> None:
    """The one before lets in until its consumers had time to read the new one, then nobody, and leaves the lists."""
    world = new_world()
    first = world.text()
    world.run(until=lambda: world.text() != first, span=timedelta(minutes=35), tick=timedelta(seconds=10))
    # Two minutes to read it: a little less than that is a long time to look.
    world.run(span=timedelta(seconds=110), tick=timedelta(seconds=5))
    assert "" == world.lets_in(first)
    assert "" == world.lets_in(world.text())
    world.run(until=world.settled, span=timedelta(minutes=4), tick=timedelta(seconds=5))
    assert "token is revoked" == world.lets_in(first)
    lists = world.listed()
    assert lists[0] == lists[1]
    assert 1 == len(lists[0])
    world.run(span=timedelta(minutes=45), tick=timedelta(seconds=20))
    assert lists[0][0] not in world.listed()[0] + world.listed()[1]
    left = [each for each in world.events(EventType.LAPSED) if each.detail.get("serial") == lists[0][0]]
    assert ["it left the revocation list with its end"] == [each.reason for each in left]
    assert [] == world.wrong()


def test_law_21_what_ends_by_itself_is_recorded_as_lapsed(new_world: NewWorld) -> None:
    """Where nothing is revoked the token before has one record of its end, and no list is touched."""
    world = new_world(revoke=False)
    view = world.engine.tokens.view(WEB)
    assert view is not None
    assert view.best is not None
    assert view.best.token is not None
    first, ends = view.best.token.id, view.best.token.not_after + timedelta(minutes=1)
    world.run(until=lambda: world.clock.now() > ends, span=timedelta(hours=2), tick=timedelta(seconds=20))
    lapsed = [each.detail.get("serial") for each in world.events(EventType.LAPSED)]
    assert (first, len(set(lapsed))) == (lapsed[0], len(lapsed))
    assert ([], [[], []]) == (world.events(EventType.REVOKED), world.listed())


def test_law_21_what_somebody_takes_off_the_list_is_put_back_and_recorded(new_world: NewWorld) -> None:
    """A revoked token whose name an administrator removes is refused again at the next look, with one record."""
    world = new_world()
    first = world.text()
    world.ask(WEB, SubjectKind.TOKEN)
    world.run(until=world.settled, span=timedelta(minutes=10), tick=timedelta(seconds=5))
    ((name,), _) = world.listed()
    issuer = world.engine.fleet.tokens[WEB].issuer
    issuer.revoke(world.grant, add=frozenset(), drop=frozenset({Serial(name)}))
    assert "" == world.lets_in(first)
    world.run(until=lambda: world.listed() == [[name], [name]], span=timedelta(minutes=10), tick=timedelta(seconds=5))
    assert "token is revoked" == world.lets_in(first)
    world.run(span=timedelta(minutes=8), tick=timedelta(seconds=10))
    assert ["somebody took it off the revocation list"] == [each.reason for each in world.events(EventType.DRIFTED)]


def test_an_expired_token_is_renewed_and_explained(new_world: NewWorld) -> None:
    """While the control plane is away a token runs out; the next one follows once it is back, and the story says so."""
    world = new_world()
    first = world.text()
    world.faults.before = _away
    world.run(span=timedelta(minutes=65), tick=timedelta(seconds=20))
    assert "expired" in world.lets_in(first)
    assert {"expired", "safety_line"} <= {each.kind.value for each in world.engine.alerting.raised()}
    world.faults.clear()
    world.run(until=world.settled, span=timedelta(minutes=10))
    assert "" == world.lets_in(world.text())
    told = "\n".join(world.story())
    assert "dataplane token" in told
    assert "should have been replaced by now and was not" in told
    assert "expired at" in told
    assert "it failed: unavailable because" in told
    assert "no usable answer came" in told
    assert world.text() not in told
    world.run(span=timedelta(minutes=2))
    assert not {each.kind.value for each in world.engine.alerting.raised()}


def _away(call: str) -> None:
    if call == "issue":
        raise Unavailable("the control plane did not answer")


def test_what_somebody_revoked_is_replaced_at_once(new_world: NewWorld) -> None:
    """A name that an administrator puts on the list is seen, and theirs stays on it."""
    world = new_world()
    first = world.text()
    view = world.engine.tokens.view(WEB)
    assert view is not None
    assert view.best is not None
    assert view.best.token is not None
    theirs = Serial("11111111-2222-3333-4444-555555555555")
    target = world.engine.fleet.tokens[WEB]
    target.issuer.revoke(world.grant, add=frozenset({view.best.token.id, theirs}), drop=frozenset())
    assert "token is revoked" == world.lets_in(first)
    world.run(until=lambda: world.text() != first, span=timedelta(minutes=6), tick=timedelta(seconds=5))
    assert "" == world.lets_in(world.text())
    world.run(span=timedelta(minutes=70), tick=timedelta(seconds=20))
    assert all(theirs in each for each in world.listed())
    assert all(view.best.token.id not in each for each in world.listed())
    assert [] == world.wrong()


def test_a_list_that_cannot_be_written_is_tried_once_a_minute_and_keeps_no_renewal_waiting(new_world: NewWorld) -> None:
    """What should have been revoked is no reason to ask the control plane every second, nor to keep an old token."""
    world = new_world()
    first = world.text()
    tried: list[datetime] = []

    def refuses(call: str) -> None:
        if call == "revoke":
            tried.append(world.clock.now())
            raise Unavailable("the list cannot be written")

    world.faults.before = refuses
    world.run(until=lambda: world.text() != first, span=timedelta(minutes=35), tick=timedelta(seconds=10))
    second = world.text()
    world.run(until=lambda: world.text() != second, span=timedelta(minutes=35), tick=timedelta(seconds=1))
    # Once a minute, and with each look that a renewal needs.
    assert 1 < len(tried) < 8 + (world.clock.now() - tried[0]) / timedelta(minutes=1)
    world.faults.clear()
    world.run(until=world.settled, span=timedelta(minutes=4), tick=timedelta(seconds=5))
    assert "token is revoked" == world.lets_in(second)
    assert [] == world.wrong()


def test_a_changed_file_is_found_and_put_right(new_world: NewWorld) -> None:
    """What somebody wrote over the file is one record, and the whole token of the other place comes back."""
    world = new_world()
    good = world.text()
    (world.places[1] / "CURRENT" / "token").write_text("nonsense")
    world.run(until=lambda: world.text(1) == good, span=timedelta(minutes=6))
    assert 1 == len(world.events(EventType.DRIFTED))
    assert "" == world.lets_in(world.text(1))


def test_law_14_a_restart_issues_nothing(new_world: NewWorld) -> None:
    """A fresh engine over the same world issues and publishes nothing."""
    world = new_world()
    before = len(world.events(EventType.ISSUED, EventType.DISTRIBUTED))
    for _ in range(4):
        world.restart()
        world.run(span=timedelta(seconds=30))
    assert before == len(world.events(EventType.ISSUED, EventType.DISTRIBUTED))


def test_asked_for_it_is_rotated(new_world: NewWorld) -> None:
    """A person's request issues another one, and its rotation ends."""
    world = new_world()
    first = world.text()
    asked = world.ask(WEB, SubjectKind.TOKEN)
    world.run(until=world.settled, span=timedelta(minutes=5))
    assert first != world.text()
    assert RotationState.DONE == next(each.state for each in world.rotations(WEB) if each.id == asked.id)


def test_law_16_a_rotation_ends_when_every_place_has_the_token(new_world: NewWorld) -> None:
    """One place that cannot be written keeps it open, and nothing is verified; once it can be, both are read back."""
    world, puts = new_world(), list[str]()

    def second_is_refused(call: str) -> None:
        if call == "put":
            puts.append(call)
            if len(puts) > 1:
                raise Unavailable("the disk is full")

    world.faults.before = second_is_refused
    asked = world.ask(WEB, SubjectKind.TOKEN)
    world.run(span=timedelta(minutes=1), tick=timedelta(seconds=5))
    view = world.engine.tokens.view(WEB)
    assert view is not None
    assert (True, (f"directory:{world.places[1]}",)) == (world.text(0) != world.text(1), view.waiting_on)
    assert RotationState.OPEN == next(each.state for each in world.rotations(WEB) if each.id == asked.id)
    assert [] == [each for each in world.events(EventType.VERIFIED) if each.rotation_id == asked.id]
    # What its consumer read last still lets in, whatever becomes of the place meanwhile.
    before = world.text(1)
    (world.places[1] / "CURRENT" / "token").write_text("nonsense")
    world.run(span=timedelta(minutes=4), tick=timedelta(seconds=5))
    assert "" == world.lets_in(before)
    world.faults.clear()
    world.run(until=world.settled, span=timedelta(minutes=20), tick=timedelta(seconds=5))
    assert RotationState.DONE == next(each.state for each in world.rotations(WEB) if each.id == asked.id)
    assert [] == world.wrong()


def test_law_16_what_was_written_is_read_back_before_its_rotation_ends(new_world: NewWorld) -> None:
    """A place that somebody spoils right after the write keeps the rotation open until it is put right."""
    world, puts = new_world(), list[str]()

    def spoil(call: str) -> None:
        if call == "put":
            puts.append(call)
            if len(puts) == len(world.places):
                (world.places[1] / "CURRENT" / "token").write_text("nonsense")

    world.faults.after = spoil
    asked = world.ask(WEB, SubjectKind.TOKEN)
    world.run(until=lambda: len(puts) == len(world.places), span=timedelta(minutes=5))
    assert RotationState.OPEN == next(each.state for each in world.rotations(WEB) if each.id == asked.id)
    world.run(until=world.settled, span=timedelta(minutes=20), tick=timedelta(seconds=5))
    assert RotationState.DONE == next(each.state for each in world.rotations(WEB) if each.id == asked.id)
    assert [] == world.wrong()


def test_law_12_past_its_safety_line_a_token_waits_for_no_record(new_world: NewWorld) -> None:
    """With a ledger that cannot be written, and a place that somebody changed, it is issued anew all the same."""
    world = new_world()
    world.faults.before = _away
    view = world.engine.tokens.view(WEB)
    assert view is not None
    assert view.window is not None
    line, first = view.window.safety_line, world.text()
    world.run(until=lambda: world.clock.now() > line, span=timedelta(hours=1), tick=timedelta(seconds=20))

    def no_ledger(call: str) -> None:
        if call == "journal.commit":
            raise JournalError("the disk is full")

    world.faults.before = no_ledger
    (world.places[1] / "CURRENT" / "token").write_text("nonsense")
    world.run(until=lambda: world.text() != first, span=timedelta(minutes=5), tick=timedelta(seconds=2))
    assert "" == world.lets_in(world.text())
    world.faults.clear()
    world.run(until=world.settled, span=timedelta(minutes=20), tick=timedelta(seconds=5))
    assert [] == world.wrong()
    assert any(each.late for each in world.events(EventType.DRIFTED))


# --- signing keys -----------------------------------------------------------------------------------------------------


def test_a_signing_key_is_rotated_under_its_tokens(new_world: NewWorld) -> None:
    """The new key is known before a token is issued by it, and the old one goes last: somebody is let in throughout."""
    world = new_world()
    first = world.text()
    world.ask(KEYS, SubjectKind.TOKEN)
    tick = timedelta(seconds=5)
    world.run(until=lambda: world.lets_in(world.text()) != "" or world.settled(), span=timedelta(minutes=10), tick=tick)
    assert (2,) == world.standin.tokens.serials(world.ring)
    assert "no signing key" in world.lets_in(first)
    assert [] == world.wrong()
    told = [each.type for each in world.events() if each.subject == KEYS]
    assert [
        EventType.INTENT,
        EventType.ISSUED,
        EventType.ACTIVATED,
        EventType.RETIRED,
        EventType.COMPLETED,
    ] == told
    of_token = world.rotations(WEB)[-1]
    assert Trigger.AUTHORITY == of_token.trigger


def test_a_key_stays_while_a_token_needs_it(new_world: NewWorld) -> None:
    """A token that cannot be issued anew keeps the key that signed it, and status names the token."""
    world = new_world()
    first = world.text()
    world.faults.before = _away
    world.ask(KEYS, SubjectKind.TOKEN)
    world.run(span=timedelta(minutes=15), tick=timedelta(seconds=5))
    assert (1, 2) == world.standin.tokens.serials(world.ring)
    assert ("", first) == (world.lets_in(first), world.text())
    row = world.engine.signing_keys.view(KEYS)
    assert row is not None
    assert (str(WEB),) == row.look.waiting_on
    (held,) = [each for each in world.engine.alerting.raised() if each.kind is AlertKind.SIGNING_KEY_HELD]
    assert (KEYS, True) == (held.subject, f"for {WEB} which still need signing key 1" in held.summary)
    world.faults.clear()
    world.run(until=world.settled, span=timedelta(minutes=20), tick=timedelta(seconds=5))
    assert (2,) == world.standin.tokens.serials(world.ring)
    assert [] == world.wrong()
    world.run(span=timedelta(minutes=2))
    assert () == world.engine.alerting.raised()


def test_law_18_a_login_of_rotators_own_keeps_its_key(new_world: NewWorld) -> None:
    """A token that nobody here issues, and that is known to be in use, is waited for to its end, by its name."""
    world = new_world()
    keys = world.engine.fleet.signing_keys[KEYS].keys
    assert isinstance(keys, FaultyKeys)
    ends = world.clock.now() + timedelta(minutes=40)
    keys.known = (KnownToken(name="rotator's own login", key=1, not_after=ends),)
    world.ask(KEYS, SubjectKind.TOKEN)
    world.run(until=lambda: world.clock.now() >= ends, span=timedelta(hours=1), tick=timedelta(seconds=20))
    assert (1, 2) == world.standin.tokens.serials(world.ring)
    view = world.engine.signing_keys.view(KEYS)
    assert view is not None
    assert ("rotator's own login",) == view.look.waiting_on
    world.run(until=lambda: world.standin.tokens.serials(world.ring) == (2,), tick=timedelta(seconds=5))


def test_keys_that_are_not_rotated_in_time_are_told_of(new_world: NewWorld) -> None:
    """While nobody can ask for the keys nothing begins, and people hear of it; a pause is no such trouble."""
    world = new_world(rotate_every=timedelta(hours=2))
    view = world.engine.signing_keys.view(KEYS)
    assert view is not None
    assert view.opens is not None
    paused = view.opens + timedelta(minutes=30)
    world.engine.memory.apply([Hold(subject=KEYS, until=paused)])
    world.run(
        until=lambda: world.clock.now() > paused - timedelta(minutes=1),
        span=timedelta(hours=3),
        tick=timedelta(seconds=30),
    )
    assert () == world.engine.alerting.raised()
    keys = world.engine.fleet.signing_keys[KEYS].keys
    assert isinstance(keys, FaultyKeys)
    keys.answer = False
    world.run(span=timedelta(minutes=13), tick=timedelta(seconds=30))
    assert [(KEYS, AlertKind.RENEWAL_OVERDUE)] == [(each.subject, each.kind) for each in world.engine.alerting.raised()]


def test_keys_grow_old_by_themselves(new_world: NewWorld) -> None:
    """At their age a rotation opens without anybody's word, and the next one works from there."""
    world = new_world(rotate_every=timedelta(hours=2))
    world.run(
        until=lambda: world.standin.tokens.serials(world.ring) == (3,),
        span=timedelta(hours=9),
        tick=timedelta(seconds=30),
    )
    assert [] == world.wrong()
    assert all(each.state is RotationState.DONE for each in world.rotations(KEYS))


def test_tokens_of_others_are_waited_for(new_world: NewWorld) -> None:
    """A key stays for as long as the operator says that somebody else's tokens live."""
    world = new_world(others_live=timedelta(hours=2))
    theirs = world.standin.tokens.issue("dataplane", {"mesh": world.mesh, "name": "web", "validFor": "110m"})
    world.ask(KEYS, SubjectKind.TOKEN)
    world.run(span=timedelta(minutes=105), tick=timedelta(seconds=30))
    assert (1, 2) == world.standin.tokens.serials(world.ring)
    assert "" == world.lets_in(theirs)
    row = world.engine.signing_keys.view(KEYS)
    assert row is not None
    assert ("tokens of others",) == row.look.waiting_on
    world.run(
        until=lambda: world.standin.tokens.serials(world.ring) == (2,),
        span=timedelta(minutes=20),
        tick=timedelta(seconds=10),
    )


# --- crashes ----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, Callable[[Faults, int], None]] = {
    "crash before": Faults.crash_before,
    "crash after": Faults.crash_after,
    "reply lost": Faults.lose_reply,
    "refused": lambda faults, n: faults.refuse(n, Denied),
}


def _renew(world: TokenWorld) -> None:
    world.ask(WEB, SubjectKind.TOKEN)
    world.run(until=world.settled, span=timedelta(minutes=20), tick=timedelta(seconds=5))


def _rotate_key(world: TokenWorld) -> None:
    world.ask(KEYS, SubjectKind.TOKEN)
    world.run(until=world.settled, span=timedelta(minutes=20), tick=timedelta(seconds=5))


JOBS = {"token": _renew, "key": _rotate_key}


MATRIX = [
    # A crash right after an effect is the one that leaves something behind; the rest belongs to the long counts.
    pytest.param("token", "crash after", 1, id="token-crash after"),
    pytest.param("key", "crash after", 3, id="key-crash after-every third"),
    *(
        pytest.param(job, fault, 1, id=f"{job}-{fault}-all", marks=pytest.mark.soak)
        for job in JOBS
        for fault in FAULTS
        if (job, fault) != ("token", "crash after")
    ),
]


def test_law_14_what_somebody_published_since_the_look_is_not_overwritten(new_world: NewWorld) -> None:
    """A process that goes on late, with what it decided before, leaves the newer publication where it is."""
    world, theirs = new_world(), list[str]()
    stamp = Stamp(
        subject=WEB, rotation_id="theirs", leaf_published_at=world.clock.now(), bundle_published_at=world.clock.now()
    )

    def publish(call: str) -> None:
        if call == "issue" and not theirs:
            said = {"mesh": world.mesh, "name": "web", "validFor": "1h"}
            theirs.append(world.standin.tokens.issue("dataplane", said))
            place = TokenDirectory(world.places[0])
            held = place.read()
            assert held is not None
            place.put_token(theirs[0], expected=held.number, stamp=stamp)

    world.faults.after = publish
    world.ask(WEB, SubjectKind.TOKEN)
    world.run(until=lambda: bool(theirs), span=timedelta(minutes=5))
    assert theirs == [world.text(0)]
    world.run(until=world.settled, span=timedelta(minutes=20), tick=timedelta(seconds=5))
    assert [] == world.wrong()


@pytest.mark.parametrize("job", JOBS)
def test_law_14_the_lease_is_looked_at_right_before_every_effect(new_world: NewWorld, job: str) -> None:
    """Between a commit, which may take long, or another effect and an effect it is asked whether the lease is held."""
    world, seen = new_world(), list[str]()
    world.lease.asked = lambda: seen.append("lease")
    world.faults.before = seen.append
    JOBS[job](world)
    world.run(span=timedelta(minutes=3), tick=timedelta(seconds=5))
    before = [(each, seen[number - 1]) for number, each in enumerate(seen) if each not in {"lease", "journal.commit"}]
    wanted = {"issue", "put", "revoke", "forget", *(("add key", "remove key") if job == "key" else ())}
    assert wanted == {effect for effect, _ in before}
    assert [] == [pair for pair in before if pair[1] != "lease"]


@pytest.mark.parametrize(("job", "fault", "stride"), MATRIX)
def test_law_13_every_call_of_a_token_may_be_the_last(new_world: NewWorld, job: str, fault: str, stride: int) -> None:
    """Whichever call is the last, lost or refused: the file lets in, and every token that was issued has an end."""
    clean = new_world()
    before = len(clean.faults.calls)
    JOBS[job](clean)
    total = len(clean.faults.calls) - before
    assert total >= {"token": 7, "key": 12}[job]
    for n in range(1, total + 1, stride):
        world = new_world()
        FAULTS[fault](world.faults, n)
        with contextlib.suppress(Crash):
            JOBS[job](world)
        world.restart()
        world.run(until=world.settled, span=timedelta(minutes=20), tick=timedelta(seconds=5))
        assert [] == world.wrong(), f"{job}, {fault} {n}: {world.faults.calls[-12:]}"
    print(f"{total} calls of {job}, every {stride}. with: {fault}")  # noqa: T201 -- the count of a soak
