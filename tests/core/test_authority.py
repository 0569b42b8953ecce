"""The authority's movements, one world at a time: each law that `decide` keeps, and where each phase leads."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from rotator.core.authority import AuthorityDecision, AuthorityPolicy, decide
from rotator.core.model import (
    AtDeadline,
    AuthorityIntent,
    AuthoritySeen,
    Generation,
    IntentKind,
    IssuerId,
    Phase,
    RelyingParty,
)
from rotator.core.steps import (
    ActivateIssuer,
    Done,
    Nothing,
    PrepareIssuer,
    PublishBundle,
    Refused,
    ReissueLeaves,
    RetireIssuer,
    RevokeIssuer,
    Wait,
)
from tests.core.worlds import DOMAIN, HOUR, MINUTE, NOW, SECOND, authority, domain, generation, party

POLICY = AuthorityPolicy(
    trust_domain=DOMAIN,
    longest_leaf=12 * HOUR,
    lifetime=168 * HOUR,
    renew_at=0.5,
    trust_deadline=2 * HOUR,
    skew=MINUTE,
    propagation=MINUTE,
    retry_budget=HOUR,
    minimum_overlap=HOUR,
    wave=2,
)
PROCEED = replace(POLICY, at_deadline=AtDeadline.PROCEED, at_most_left_behind=1)
OLD, NEW = generation(1), generation(2, issued_at=NOW - HOUR)
BOTH = ("ca-2", "ca-1")


def intent(
    kind: IntentKind = IntentKind.ROTATE,
    *,
    of: int | None = 1,
    to: int | None = 2,
    published: datetime | None = NOW - MINUTE,
    activated: datetime | None = None,
) -> AuthorityIntent:
    """Return what is under way."""
    return AuthorityIntent(
        rotation_id="r-1",
        kind=kind,
        since=NOW - HOUR,
        from_generation=of,
        to_generation=to,
        trust_published_at=published,
        activated_at=activated,
    )


def rotated(seen: AuthoritySeen, *, policy: AuthorityPolicy = POLICY, now: datetime = NOW) -> AuthorityDecision:
    """Return the decision in the middle of an ordinary rotation from 1 to 2."""
    return decide(intent(activated=NOW - MINUTE if seen.active == "ca-2" else None), seen, policy, now)


def before(*parties: RelyingParty, generations: tuple[Generation, ...] = (OLD, NEW)) -> AuthoritySeen:
    """Return a world in which the old one signs."""
    return domain(*generations, active="ca-1", parties=parties, highest=2)


def after(*parties: RelyingParty, strays: dict[str, datetime] | None = None) -> AuthoritySeen:
    """Return a world in which the new one signs."""
    return domain(OLD, NEW, active="ca-2", parties=parties, highest=2, strays=strays)


# --- gaining trust ----------------------------------------------------------------------------------------------------


def test_a_rotation_begins_with_a_successor_of_a_number_never_used() -> None:
    """Deleted numbers count."""
    seen = domain(OLD, parties=(party(),), highest=7)
    decided = decide(intent(to=None, published=None), seen, POLICY, NOW)
    assert PrepareIssuer(trust_domain=DOMAIN, number=8, reason="to follow generation 1") == decided.next
    assert Phase.STEADY is decided.phase


def test_law_02_the_bundle_grows_first() -> None:
    """Everyone is given {new, old}, newest first, in waves, those in contact first."""
    parties = (party("a", reachable=False), party("b"), party("c"), party("d", published=BOTH))
    decided = rotated(before(*parties))
    assert isinstance(decided.next, PublishBundle)
    assert BOTH == decided.next.bundle
    assert ("b", "c") == decided.next.consumers
    assert not decided.next.shrink
    assert (NEW.authority, OLD.authority) == decided.bundle
    assert OLD is decided.signer


def test_law_01_trust_before_use() -> None:
    """One live party that has not acknowledged stops the activation and is named, however new its leaf."""
    ready = party("a", published=BOTH)
    lagging = party("b", published=BOTH, acknowledged=("ca-1",))
    decided = rotated(before(ready, lagging))
    assert isinstance(decided.next, Wait)
    assert ("b",) == decided.next.on == decided.waiting_on
    assert Phase.PREPARED is decided.phase
    assert frozenset({"ca-1"}) == decided.accepted
    activated = rotated(before(ready, replace(lagging, acknowledged=ready.acknowledged)))
    assert ActivateIssuer(trust_domain=DOMAIN, issuer=NEW.authority.id) == activated.next
    assert Phase.TRUSTED is activated.phase


def test_law_01_a_party_out_of_contact_is_live_until_its_last_leaf_has_expired() -> None:
    """Skew included, to the second."""
    away = party("a", published=BOTH, acknowledged=(), reachable=False, last_until=NOW - MINUTE + SECOND)
    assert isinstance(rotated(before(away)).next, Wait)
    assert isinstance(rotated(before(away), now=NOW + SECOND).next, ActivateIssuer)


def test_law_01_a_party_that_never_had_anything_is_not_live() -> None:
    """A joiner without material starts with what is right when it starts."""
    unborn = party("a", published=None, leaf_issuer=None, served=None, leaf_until=None, reachable=False)
    assert isinstance(rotated(before(unborn)).next, ActivateIssuer)


def test_law_01_hold_waits_past_the_deadline_and_says_when_the_mesh_goes_dark() -> None:
    """Time passed is not acknowledgement."""
    lagging = party("a", published=BOTH, acknowledged=("ca-1",), leaf_until=NOW + 20 * HOUR)
    decided = rotated(before(lagging), now=NOW + 3 * HOUR)
    assert isinstance(decided.next, Wait)
    assert decided.next.alert
    assert ("a",) == decided.waiting_on
    assert "the mesh goes dark by 2026-03-08T12:00:00Z" in decided.next.why


def test_law_01_proceed_leaves_at_most_so_many_named_parties_behind() -> None:
    """Not before the deadline, and not one more."""
    first = party("a", published=BOTH, acknowledged=("ca-1",))
    second = replace(first, name=party("b").name)
    late = NOW + 3 * HOUR
    assert isinstance(rotated(before(first), policy=PROCEED).next, Wait)
    decided = rotated(before(first), policy=PROCEED, now=late).next
    assert ActivateIssuer(trust_domain=DOMAIN, issuer=NEW.authority.id, without=(first.name,)) == decided
    held = rotated(before(first, second), policy=PROCEED, now=late).next
    assert isinstance(held, Wait)
    assert held.alert


def test_law_01_an_earlier_successors_deadline_does_not_count_for_the_next() -> None:
    """Replaced within the rotation, a successor has its own time."""
    third = generation(3, issued_at=NOW)
    lagging = party("a", published=("ca-3", "ca-1"), acknowledged=("ca-1",))
    seen = domain(OLD, third, parties=(lagging,), highest=3)
    stale = intent(to=3, published=NOW - 9 * HOUR)
    assert isinstance(decide(stale, seen, PROCEED, NOW + HOUR).next, Wait)
    assert isinstance(decide(stale, seen, PROCEED, NOW + 4 * HOUR).next, ActivateIssuer)


def test_a_party_with_nothing_left_to_lose_does_not_hold_past_the_deadline() -> None:
    """Recovery after an expiry never hangs on a consumer that is dark anyway."""
    dark = party("a", published=BOTH, acknowledged=("ca-1",), leaf_until=NOW - HOUR)
    assert isinstance(rotated(before(dark)).next, Wait)
    decided = rotated(before(dark), now=NOW + 3 * HOUR).next
    assert ActivateIssuer(trust_domain=DOMAIN, issuer=NEW.authority.id, without=(dark.name,)) == decided


def test_a_publication_that_cannot_be_made_is_waited_for_like_an_acknowledgement() -> None:
    """Out of contact and still lacking the bundle: published again until the deadline, then the written choice."""
    away = party("a", acknowledged=(), reachable=False, leaf_until=NOW + 20 * HOUR)
    seen = before(away)
    never = intent(published=None)
    assert isinstance(decide(never, seen, PROCEED, NOW).next, PublishBundle)
    assert isinstance(decide(never, seen, PROCEED, NOW + 4 * HOUR).next, ActivateIssuer)
    assert isinstance(decide(never, seen, POLICY, NOW + 4 * HOUR).next, Wait)


# --- law 4 ------------------------------------------------------------------------------------------------------------


def test_law_04_nothing_is_activated_without_the_life_for_a_successor() -> None:
    """2 x 12 h + 2 x 2 h + 1 min + 1 h; one second less and it is put away and replaced in the same rotation."""
    floor = 29 * HOUR + MINUTE
    assert floor == POLICY.floor_to_activate
    ready = party("a", published=BOTH)
    enough = replace(NEW, authority=replace(NEW.authority, not_after=NOW + floor))
    assert isinstance(rotated(before(ready, generations=(OLD, enough))).next, ActivateIssuer)
    old = replace(NEW, authority=replace(NEW.authority, not_after=NOW + floor - SECOND))
    decided = rotated(before(ready, generations=(OLD, old)))
    assert isinstance(decided.next, RetireIssuer)
    assert "too old to be activated" in decided.next.reason
    assert (OLD.authority,) == decided.bundle
    replaced = rotated(domain(OLD, parties=(ready,), highest=2))
    assert PrepareIssuer(trust_domain=DOMAIN, number=3, reason="to follow generation 1") == replaced.next


def test_law_04_an_authority_stops_signing_before_a_leaf_could_outlive_it() -> None:
    """12 h + 1 min + 1 min before its end nobody signs, and a rotation is due."""
    stop = 12 * HOUR + 2 * MINUTE
    assert stop == POLICY.stop_signing_before_end
    ends = OLD.authority.not_after
    seen = domain(OLD, parties=(party(),))
    assert OLD is decide(None, seen, POLICY, ends - stop - SECOND).signer
    assert None is decide(None, seen, POLICY, ends - stop).signer


def test_law_04_a_parent_that_gives_too_little_does_not_make_a_loop() -> None:
    """Born too short: a person is told, and the next try comes a trust deadline later."""
    short = generation(2, issued_at=NOW, lifetime=20 * HOUR)
    seen = before(party("a", published=BOTH), generations=(OLD, short))
    waiting = rotated(seen, now=NOW + HOUR).next
    assert isinstance(waiting, Wait)
    assert waiting.alert
    assert NOW + 2 * HOUR == waiting.until
    assert isinstance(rotated(seen, now=NOW + 2 * HOUR).next, RetireIssuer)


def test_law_06_a_successor_that_is_not_valid_yet_waits() -> None:
    """A clock that fell behind activates nothing early."""
    early = generation(2, issued_at=NOW + HOUR)
    decided = rotated(before(party("a", published=BOTH), generations=(OLD, early)))
    assert isinstance(decided.next, Wait)
    assert NOW + HOUR == decided.next.until


@pytest.mark.parametrize(
    "broken",
    [replace(OLD, can_sign=False), replace(OLD, revoked=True), generation(1, issued_at=NOW - 168 * HOUR)],
)
def test_law_06_never_an_expired_or_revoked_or_keyless_signer(broken: Generation) -> None:
    """Nobody signs rather than the wrong one."""
    assert None is decide(None, domain(broken, parties=(party(),)), POLICY, NOW).signer


def test_law_06_expired_authorities_leave_the_bundle_and_the_newest_comes_first() -> None:
    """Whatever leaves are said to be left."""
    ended = generation(1, issued_at=NOW - 168 * HOUR - MINUTE)
    middle, last = generation(2), generation(3)
    seen = domain(ended, middle, last, active="ca-3", parties=(party("a", leaf_issuer="ca-2", served="ca-1"),))
    assert (last.authority, middle.authority) == decide(None, seen, POLICY, NOW).bundle


# --- letting go -------------------------------------------------------------------------------------------------------


def test_leaves_follow_in_waves() -> None:
    """Those in contact first; those whose leaf has ended need none."""
    done = party("d", published=BOTH, leaf_issuer="ca-2", served="ca-2")
    ended = party("e", published=BOTH, leaf_until=NOW - HOUR, served=None)
    parties = [party(name, published=BOTH, reachable=name != "a") for name in "abc"]
    decided = rotated(after(*parties, done, ended))
    assert isinstance(decided.next, ReissueLeaves)
    assert ("b", "c") == decided.next.consumers
    assert Phase.ACTIVATED is decided.phase
    assert NEW is decided.signer
    assert frozenset(BOTH) == decided.accepted


@pytest.mark.parametrize(
    ("holdout", "strays", "why"),
    [
        (party("a", published=BOTH, leaf_issuer="ca-2", served="ca-1"), {}, "seen using another leaf"),
        (party("a", published=BOTH, leaf_issuer="ca-2", served=None), {}, "seen using another leaf"),
        (
            party("a", published=BOTH, leaf_issuer="ca-2", served="ca-2"),
            {"ca-1": NOW + HOUR},
            "nobody has seen replaced",
        ),
    ],
)
def test_law_02_the_old_one_leaves_last(holdout: RelyingParty, strays: dict[str, datetime], why: str) -> None:
    """While any leaf of it may be presented it stays in the bundle, overlap or not."""
    decided = rotated(after(holdout, strays=strays), now=NOW + 2 * HOUR - HOUR * bool(strays))
    assert isinstance(decided.next, Wait)
    assert why in decided.next.why
    assert (NEW.authority, OLD.authority) == decided.bundle


def test_law_02_strays_count_to_the_second_with_skew() -> None:
    """A leaf that was issued and never published is live until it ends."""
    moved = party("a", published=BOTH, leaf_issuer="ca-2", served="ca-2", leaf_until=NOW + 12 * HOUR)
    seen = after(moved, strays={"ca-1": NOW + 2 * HOUR})
    last = NOW + 2 * HOUR + MINUTE - SECOND
    assert (NEW.authority, OLD.authority) == rotated(seen, now=last).bundle
    decided = rotated(seen, now=last + SECOND)
    assert isinstance(decided.next, PublishBundle)
    assert decided.next.shrink
    assert (NEW.authority,) == decided.bundle


def test_law_02_the_minimum_overlap_is_kept_and_delays_no_activation() -> None:
    """It counts from the publication of both."""
    ready = party("a", published=BOTH)
    assert isinstance(rotated(before(ready)).next, ActivateIssuer)
    moved = party("a", published=BOTH, leaf_issuer="ca-2", served="ca-2", leaf_until=NOW + 12 * HOUR)
    waiting = rotated(after(moved), now=NOW - MINUTE + HOUR - SECOND)
    assert isinstance(waiting.next, Wait)
    assert NOW - MINUTE + HOUR == waiting.next.until
    assert Phase.REISSUED is waiting.phase
    assert isinstance(rotated(after(moved), now=NOW - MINUTE + HOUR).next, PublishBundle)


def test_after_the_shrink_the_old_one_is_retired_and_the_rotation_is_done() -> None:
    """Forgetting is waited for, but not for ever."""
    moved = party("a", published=("ca-2",), leaf_issuer="ca-2", served="ca-2", leaf_until=NOW + 12 * HOUR)
    clinging = replace(moved, acknowledged=frozenset({IssuerId("ca-1"), IssuerId("ca-2")}))
    waiting = rotated(after(clinging), now=NOW + 2 * HOUR).next
    assert isinstance(waiting, Wait)
    assert ("a",) == waiting.on
    for seen, now in ((after(moved), NOW + 2 * HOUR), (after(clinging), NOW + 4 * HOUR)):
        decided = rotated(seen, now=now)
        assert RetireIssuer(trust_domain=DOMAIN, issuer=OLD.authority.id, reason="superseded by generation 2") == (
            decided.next
        )
        assert Phase.REISSUED is decided.phase
    ended = rotated(domain(NEW, active="ca-2", parties=(moved,), highest=2), now=NOW + 2 * HOUR)
    assert Done() == ended.next
    assert Phase.RETIRED is ended.phase


def test_a_bundle_that_somebody_cut_is_mended_before_anything_else() -> None:
    """Also after the activation."""
    cut = party("a", published=("ca-2",), leaf_issuer="ca-1")
    decided = rotated(after(cut)).next
    assert isinstance(decided, PublishBundle)
    assert not decided.shrink


def test_law_13_the_same_world_gives_the_same_step() -> None:
    """A reply that was lost, a journal that knows nothing of the successor: the successor is found."""
    lost = intent(to=None)
    seen = before(party("a", published=BOTH))
    assert decide(lost, seen, POLICY, NOW) == decide(lost, seen, POLICY, NOW)
    assert isinstance(decide(lost, seen, POLICY, NOW).next, ActivateIssuer)


# --- one at a time, and from everywhere -------------------------------------------------------------------------------


def test_law_05_left_overs_are_put_away_before_they_count_as_successors() -> None:
    """Nobody wants anything: what nobody uses goes, the present signer stays; never the signer itself."""
    stray = generation(2)
    decided = decide(None, domain(OLD, stray, parties=(party(),)), POLICY, NOW)
    assert RetireIssuer(trust_domain=DOMAIN, issuer=stray.authority.id, reason="left over") == decided.next
    assert (OLD.authority,) == decided.bundle
    given = decide(None, domain(OLD, stray, parties=(party(published=BOTH),)), POLICY, NOW)
    assert isinstance(given.next, Wait)
    assert isinstance(decide(None, domain(OLD, parties=(party(),)), POLICY, NOW).next, Nothing)
    assert isinstance(decide(None, domain(OLD, stray, active=None), POLICY, NOW).next, Nothing)


def test_a_domain_whose_journal_was_lost_keeps_what_live_leaves_need() -> None:
    """In the middle of a rotation, without an intent: nothing is taken away that somebody uses."""
    seen = after(party("a", published=BOTH, served="ca-1"), party("b", published=BOTH, leaf_issuer="ca-2"))
    decided = decide(None, seen, POLICY, NOW)
    assert (NEW.authority, OLD.authority) == decided.bundle
    assert frozenset(BOTH) == decided.accepted
    assert isinstance(decided.next, Nothing)


def test_the_first_generation_waits_for_nobody() -> None:
    """Bootstrap is a rotation from nothing."""
    first = intent(of=None, to=None, published=None)
    unborn = party("a", published=None, leaf_issuer=None, served=None, leaf_until=None)
    empty = decide(first, domain(active=None, parties=(unborn,)), POLICY, NOW)
    assert Phase.ABSENT is empty.phase
    assert PrepareIssuer(trust_domain=DOMAIN, number=1, reason="first generation") == empty.next
    made = decide(first, domain(OLD, active=None, parties=(unborn,)), POLICY, NOW)
    assert ActivateIssuer(trust_domain=DOMAIN, issuer=OLD.authority.id) == made.next
    assert Done() == decide(first, domain(OLD, parties=(unborn,)), POLICY, NOW).next


def test_recovery_from_an_expired_authority_is_a_rotation() -> None:
    """Expired: out of the bundle, never asked again, replaced by the same movement."""
    ended = generation(1, issued_at=NOW - 200 * HOUR)
    dark = party("a", leaf_until=NOW - 40 * HOUR)
    seen = domain(ended, NEW, parties=(dark,), highest=2)
    grown = decide(intent(published=None), seen, POLICY, NOW)
    assert isinstance(grown.next, PublishBundle)
    assert (IssuerId("ca-2"),) == grown.next.bundle
    ready = domain(ended, NEW, parties=(party("a", published=("ca-2",), leaf_until=NOW - 40 * HOUR),), highest=2)
    assert isinstance(decide(intent(published=None), ready, POLICY, NOW).next, ActivateIssuer)


# --- back -------------------------------------------------------------------------------------------------------------

BACK = IntentKind.ROLL_BACK


def test_law_07_before_activation_rollback_takes_the_new_one_out_again() -> None:
    """Bundle {old}, then the successor is put away, then it is recorded as a rollback."""
    shrunk = decide(intent(BACK), before(party("a", published=BOTH)), POLICY, NOW)
    assert isinstance(shrunk.next, PublishBundle)
    assert shrunk.next.shrink
    assert (OLD.authority,) == shrunk.bundle
    retired = decide(intent(BACK), before(party("a")), POLICY, NOW)
    assert RetireIssuer(trust_domain=DOMAIN, issuer=NEW.authority.id, reason="rolled back") == retired.next
    done = decide(intent(BACK), domain(OLD, parties=(party("a"),), highest=2), POLICY, NOW)
    assert Done(rolled_back=True) == done.next
    assert Phase.STEADY is done.phase


def test_law_07_rollback_walks_backwards() -> None:
    """The old one signs again first, then leaves follow, and the new one is trusted until its last leaf is gone."""
    active = intent(BACK, activated=NOW - MINUTE)
    moved = party("a", published=BOTH, leaf_issuer="ca-2", served="ca-2")
    first = decide(active, after(moved), POLICY, NOW)
    assert ActivateIssuer(trust_domain=DOMAIN, issuer=OLD.authority.id, back=True) == first.next
    second = decide(active, before(moved), POLICY, NOW)
    assert isinstance(second.next, ReissueLeaves)
    assert OLD.authority.id == second.next.signer
    assert Phase.TRUSTED is second.phase
    back = party("a", published=BOTH, leaf_issuer="ca-1", served="ca-2")
    third = decide(active, before(back), POLICY, NOW)
    assert isinstance(third.next, Wait)
    assert (NEW.authority, OLD.authority) == third.bundle


def test_law_07_past_retirement_there_is_no_way_back() -> None:
    """Gone, or trusted by nobody any more: refused, and the rotation goes on."""
    moved = party("a", published=("ca-2",), leaf_issuer="ca-2", served="ca-2", leaf_until=NOW + 12 * HOUR)
    late = intent(BACK, activated=NOW - MINUTE)
    for seen in (after(moved), domain(NEW, active="ca-2", parties=(moved,), highest=2)):
        decided = decide(late, seen, POLICY, NOW + 2 * HOUR)
        assert isinstance(decided.next, Refused)
        assert NEW is decided.signer
        assert (NEW.authority,) == decided.bundle


def test_law_04_binds_rollback_too() -> None:
    """The old one resumes only with life for its own successor; the refusal shows the numbers."""
    tired = generation(1, issued_at=NOW - 140 * HOUR)
    moved = party("a", published=BOTH, leaf_issuer="ca-2", served="ca-2")
    seen = domain(tired, NEW, active="ca-2", parties=(moved,), highest=2)
    decided = decide(intent(BACK, activated=NOW - MINUTE), seen, POLICY, NOW)
    assert Refused(reason="generation 1 has 1d4h left and needs 1d5h1m to sign again") == decided.next
    assert NEW is decided.signer


def test_law_01_binds_rollback_too() -> None:
    """Whoever lost the old one from its bundle acknowledges it again first."""
    kept = party("a", published=BOTH, leaf_issuer="ca-2", served="ca-2")
    shrunk = party("b", published=("ca-2",), leaf_issuer="ca-2", served="ca-2")
    grown = decide(intent(BACK, activated=NOW - MINUTE), after(kept, shrunk), POLICY, NOW)
    assert isinstance(grown.next, PublishBundle)
    assert ("b",) == grown.next.consumers
    lagging = replace(shrunk, published=frozenset({IssuerId("ca-1"), IssuerId("ca-2")}))
    held = decide(intent(BACK, activated=NOW - MINUTE), after(kept, lagging), PROCEED, NOW + 9 * HOUR)
    assert isinstance(held.next, ActivateIssuer)  # its leaf has ended by then
    alive = replace(lagging, last_leaf_not_after=NOW + 20 * HOUR)
    assert isinstance(decide(intent(BACK), after(kept, alive), PROCEED, NOW + 9 * HOUR).next, Wait)


# --- away -------------------------------------------------------------------------------------------------------------


def test_law_08_compromise_has_its_own_phases() -> None:
    """Prepare, revoke, activate, reissue, forget, retire; no acknowledgement is waited for."""
    away = intent(IntentKind.COMPROMISE, to=None, published=None)
    lost = party("a")
    prepared = decide(away, domain(OLD, parties=(lost,), highest=1), POLICY, NOW)
    reason = "to replace the compromised generation 1"
    assert PrepareIssuer(trust_domain=DOMAIN, number=2, reason=reason) == prepared.next
    away = replace(away, to_generation=2)
    assert RevokeIssuer(trust_domain=DOMAIN, issuer=OLD.authority.id) == decide(away, before(lost), POLICY, NOW).next
    revoked = replace(OLD, revoked=True)
    activated = decide(away, before(lost, generations=(revoked, NEW)), POLICY, NOW).next
    assert ActivateIssuer(trust_domain=DOMAIN, issuer=NEW.authority.id, without=(lost.name,)) == activated
    seen = domain(revoked, NEW, active="ca-2", parties=(lost,), highest=2)
    reissued = decide(away, seen, POLICY, NOW)
    assert isinstance(reissued.next, ReissueLeaves)
    assert (NEW.authority,) == reissued.bundle
    assert frozenset({NEW.authority.id}) == reissued.accepted
    stranger = party("b", leaf_issuer=None, served=None)
    told = decide(away, replace(seen, parties=(stranger,)), POLICY, NOW).next
    assert isinstance(told, PublishBundle)
    assert told.shrink
    clean = party("a", published=("ca-2",), leaf_issuer="ca-2", served="ca-1")
    retired = decide(away, replace(seen, parties=(clean,)), POLICY, NOW).next
    assert RetireIssuer(trust_domain=DOMAIN, issuer=OLD.authority.id, reason="compromised") == retired
    over = decide(away, domain(NEW, active="ca-2", parties=(clean,), highest=2), POLICY, NOW)
    assert Done() == over.next
    assert Phase.RETIRED is over.phase


def test_law_08_a_successor_from_before_the_theft_is_not_fled_to() -> None:
    """It lay in the same signer."""
    away = replace(intent(IntentKind.COMPROMISE, to=None, published=None), since=NOW)
    assert isinstance(decide(away, before(party("a")), POLICY, NOW).next, RetireIssuer)
    fresh = generation(3, issued_at=NOW - timedelta(seconds=30))
    seen = domain(OLD, fresh, parties=(party("a"),), highest=3)
    assert isinstance(decide(away, seen, POLICY, NOW).next, RevokeIssuer)


def test_law_08_no_setting_turns_a_rotation_into_a_compromise() -> None:
    """Every grace at zero still waits for trust, and nothing is revoked."""
    zero = replace(
        PROCEED, trust_deadline=timedelta(), minimum_overlap=timedelta(), skew=timedelta(), retry_budget=timedelta()
    )
    lagging = [party(name, published=BOTH, acknowledged=("ca-1",)) for name in "ab"]
    assert isinstance(rotated(before(*lagging), policy=zero).next, Wait)
    assert isinstance(rotated(after(party("a", published=BOTH)), policy=zero).next, ReissueLeaves)


def test_law_19_what_joins_is_valid_in_this_phase_and_the_next() -> None:
    """In every phase the signer is in the bundle that the joiner gets, and in the next phase's too."""
    moved = party("a", published=BOTH, leaf_issuer="ca-2", served="ca-2", leaf_until=NOW + 12 * HOUR)
    worlds = [before(party("a")), before(party("a", published=BOTH)), after(party("a", published=BOTH)), after(moved)]
    decisions = [rotated(each) for each in worlds]
    for now, following in pairwise(decisions):
        assert now.signer is not None
        assert now.signer.authority in now.bundle
        assert now.signer.authority in following.bundle


def test_law_19_a_party_that_is_down_may_come_back_with_what_lies_in_its_store() -> None:
    """Its leaf of the old one is replaced, and trusted until then."""
    down = party("a", published=BOTH, reachable=False, served=None)
    decided = rotated(after(down), now=NOW + 2 * HOUR)
    assert isinstance(decided.next, ReissueLeaves)
    assert (NEW.authority, OLD.authority) == decided.bundle


def test_authorities_are_told_apart_by_key_id() -> None:
    """Two generations with one common name are two."""
    twin = replace(NEW, authority=replace(NEW.authority, subject=authority().subject))
    decided = rotated(before(party("a", published=BOTH), generations=(OLD, twin)))
    assert isinstance(decided.next, ActivateIssuer)
    assert 2 == len(decided.bundle)
