"""People's requests and other people's words on them, over a whole engine: what is done, what waits, what is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.control import (
    ApproveRequest,
    PauseRequest,
    Person,
    RejectRequest,
    RollbackRequest,
    RotateRequest,
)
from rotator.core.approval import ApprovalPolicy, ApprovalRule, Operation
from rotator.core.event import Event, EventType, Trigger
from rotator.core.model import SubjectName
from rotator.desk import Desk
from rotator.errors import ConfigError, Denied, Rejected
from rotator.ports import RequestState, RotationState
from tests.engine.world import MESH, World
from tests.fakes.faults import Crash

WEB = SubjectName("service-0")
ALICE = Person(uid=1000, name="alice", groups=frozenset())
BOB = Person(uid=1001, name="bob", groups=frozenset())
CAROL = Person(uid=1002, name="carol", groups=frozenset())
SOMEBODY = Person(uid=10001, name="rotator", groups=frozenset(), known=False)
RULE = ApprovalRule(
    name="all", operations=frozenset(Operation), approvals=1, expires_after=timedelta(hours=1), emergency_skips=True
)


class Asking:
    """A world with a desk whose policy a test may change."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        self.policy = ApprovalPolicy(rules=(RULE,))
        self.desk = self.new_desk()
        self.world.run(until=self.world.settled)

    def new_desk(self) -> Desk:
        """Return a desk as a restart makes it."""
        return Desk(self.world.engine, ledger=dict, requests=self.world.store, approval=lambda: self.policy)

    def rotate(self, person: Person = ALICE, **fields: object) -> str:
        """Ask for a rotation of one service and return the id of the request that waits."""
        request = RotateRequest(subjects=(WEB,), reason="a test asks")
        answer = self.desk.rotate(replace(request, **fields), person)  # type: ignore[arg-type] # fields by name
        assert ["1 more approval"] == answer["waiting_on"]
        found: str = answer["request"]["id"]
        return found

    def state(self, request: str) -> str:
        """Return where a request stands."""
        found: str = self.desk.request(request)["state"]
        return found

    def asked(self, subject: str = WEB) -> int:
        """Return how many rotations of *subject* people have asked for."""
        return sum(1 for each in self.world.rotations(subject) if each.trigger is Trigger.REQUEST)

    def last(self, type_: EventType) -> Event:
        """Return the last record of that type."""
        return self.world.events(type_)[-1]


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    asking = Asking(tmp_path)
    yield asking
    asking.world.close()


def test_a_request_waits_and_is_carried_out_with_both_names(asking: Asking) -> None:
    """Nothing is opened before somebody else agrees; then every record of the rotation carries both commitments."""
    request = asking.rotate()
    assert (0, "awaiting approval") == (asking.asked(), asking.last(EventType.INTENT).result)
    answer = asking.desk.approve(ApproveRequest(id=request, reason="agreed"), BOB)
    (opened,) = answer["rotations"]
    approval = asking.last(EventType.APPROVAL)
    assert ("approved", 1) == (approval.result, len(approval.approved_by))
    asking.world.run(until=asking.world.settled)
    told = [each for each in asking.world.events() if each.rotation_id == opened["id"]]
    assert {EventType.INTENT, EventType.ISSUED, EventType.COMPLETED} <= {each.type for each in told}
    assert {(approval.requested_by, approval.approved_by)} == {(each.requested_by, each.approved_by) for each in told}
    reveal = asking.world.store.reveal
    assert approval.requested_by is not None
    assert ("alice (uid 1000)", "bob (uid 1001)") == (reveal(approval.requested_by), reveal(approval.approved_by[0]))


def test_nobody_approves_their_own_request(asking: Asking) -> None:
    """One's own word is refused, by whatever name the same uid goes, and the refusal is recorded."""
    request = asking.rotate()
    for person in (ALICE, replace(ALICE, name="renamed")):
        with pytest.raises(Denied, match="nobody approves their own request"):
            asking.desk.approve(ApproveRequest(id=request), person)
    refused = asking.last(EventType.REFUSED)
    assert ("approve", 0) == (refused.detail["operation"], asking.asked())
    assert "awaiting_approval" == asking.state(request)


def test_one_word_counts_once(asking: Asking) -> None:
    """Where two people have to agree, one who says it twice is one."""
    asking.policy = ApprovalPolicy(rules=(replace(RULE, approvals=2),))
    answer = asking.desk.rotate(RotateRequest(subjects=(WEB,), reason="a test asks"), ALICE)
    request = answer["request"]["id"]
    for _ in range(2):
        asking.desk.approve(ApproveRequest(id=request), BOB)
    assert (1, 0) == (asking.desk.request(request)["approvals_given"], asking.asked())
    asking.desk.approve(ApproveRequest(id=request[:8]), CAROL)
    assert ("accepted", 1) == (asking.state(request), asking.asked())
    assert 2 == len(asking.last(EventType.INTENT).approved_by)


def test_a_no_ends_it(asking: Asking) -> None:
    """What somebody has rejected is never carried out, and is in the ledger with their words as a commitment."""
    request = asking.rotate()
    asking.desk.reject(RejectRequest(id=request, reason="not before the release"), BOB)
    with pytest.raises(Rejected, match="it is rejected"):
        asking.desk.approve(ApproveRequest(id=request), CAROL)
    said = asking.last(EventType.APPROVAL)
    assert ("rejected", True, 0) == (said.result, said.reason_commitment is not None, asking.asked())


def test_a_request_expires(asking: Asking) -> None:
    """What nobody has approved in time is refused, recorded, and no word helps it any more."""
    request = asking.rotate()
    asking.world.clock.advance(timedelta(hours=1))
    with pytest.raises(Rejected, match="waited too long"):
        asking.desk.approve(ApproveRequest(id=request), BOB)
    asking.desk.look()
    assert ("expired", "expired", 0) == (asking.state(request), asking.last(EventType.REFUSED).result, asking.asked())
    assert [] == asking.desk.status()["requests"]


def test_what_waits_survives_a_restart(asking: Asking) -> None:
    """A request that waits is shown with its words after a restart, and is carried out as it was written down."""
    request = asking.rotate(ticket="OPS-1")
    asking.world.restart()
    desk = asking.desk = asking.new_desk()
    desk.look()
    (waiting,) = desk.status()["requests"]
    assert (request, "alice (uid 1000)", "a test asks") == tuple(
        waiting[key] for key in ("id", "requested_by", "reason")
    )
    desk.approve(ApproveRequest(id=request), BOB)
    assert ("accepted", "OPS-1") == (asking.state(request), asking.last(EventType.INTENT).detail["ticket"])


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_in_the_middle_does_it_once(asking: Asking, at: int, after: bool) -> None:  # noqa: FBT001 -- by pytest
    """Wherever the last approval is cut short, the next look brings it to one rotation with one record."""
    request = asking.rotate()
    faults = asking.world.faults
    (faults.crash_after if after else faults.crash_before)(at)
    with contextlib.suppress(Crash):
        asking.desk.approve(ApproveRequest(id=request), BOB)
    asking.world.restart()
    asking.desk = asking.new_desk()
    asking.desk.look()
    # Before the first commit nothing was said.
    assert (at == 1 and not after) == (asking.state(request) == "awaiting_approval")
    asking.desk.approve(ApproveRequest(id=request), BOB)
    intents = [each for each in asking.world.events(EventType.INTENT) if each.result == "started" and each.approved_by]
    assert ("accepted", 1, 1) == (asking.state(request), asking.asked(), len(intents))
    assert 1 == len(asking.world.events(EventType.APPROVAL))


def test_law_12_what_waits_holds_nothing(asking: Asking) -> None:
    """While a request waits for hours the schedule renews the same certificate, and the request still stands."""
    asking.policy = ApprovalPolicy(rules=(replace(RULE, expires_after=timedelta(days=1)),))
    request = asking.rotate()
    before = len(asking.world.events(EventType.ISSUED))
    asking.world.run(span=timedelta(hours=2), tick=timedelta(minutes=1))
    renewed = [each for each in asking.world.rotations(WEB) if each.trigger is Trigger.SCHEDULE]
    assert (True, True) == (len(renewed) > 0, len(asking.world.events(EventType.ISSUED)) > before)
    assert "awaiting_approval" == asking.state(request)


def test_an_emergency_may_skip_and_opens_an_exception(asking: Asking) -> None:
    """Where the rule lets it, an emergency waits for nobody, and the ledger says which rule was skipped."""
    answer = asking.desk.rotate(RotateRequest(subjects=(WEB,), reason="it burns", emergency=True), ALICE)
    assert (1, []) == (len(answer["rotations"]), answer["waiting_on"])
    opened = [(each.result, each.reason) for each in asking.world.events(EventType.EXCEPTION_OPENED)]
    assert ("approval skipped", "an emergency went on without the approvals of all") in opened
    asking.policy = ApprovalPolicy(rules=(replace(RULE, emergency_skips=False),))
    other = RotateRequest(subjects=(SubjectName("service-1"),), reason="it burns", emergency=True)
    assert ["1 more approval"] == asking.desk.rotate(other, ALICE)["waiting_on"]


def test_nobody_known_neither_asks_nor_approves(asking: Asking) -> None:
    """Inside a pod a request is refused and recorded as unattributed; a word from there never counts."""
    with pytest.raises(Denied, match="nobody can be known"):
        asking.desk.rotate(RotateRequest(subjects=(WEB,), reason="from a pod"), SOMEBODY)
    refused = asking.last(EventType.REFUSED)
    assert refused.requested_by is not None
    assert "unattributed, perhaps rotator (uid 10001)" == asking.world.store.reveal(refused.requested_by)
    request = asking.rotate()
    with pytest.raises(Denied, match="never counts"):
        asking.desk.approve(ApproveRequest(id=request), SOMEBODY)
    assert 0 == asking.asked()


def test_policy_may_let_the_unknown_ask(asking: Asking) -> None:
    """Where the file says so a request from a pod is carried out, and stays unattributed in every record."""
    asking.policy = ApprovalPolicy(allow_unattributed=True)
    asking.desk.rotate(RotateRequest(subjects=(WEB,), reason="from a pod"), SOMEBODY)
    asked = asking.last(EventType.INTENT)
    assert asked.requested_by is not None
    assert (1, True) == (
        asking.asked(),
        (asking.world.store.reveal(asked.requested_by) or "").startswith("unattributed"),
    )


def test_a_word_from_another_place_is_refused(asking: Asking) -> None:
    """A user of the cluster cannot be compared with a user of the machine, so their word does not count there."""
    request = asking.rotate()
    with pytest.raises(Rejected, match="made in another place"):
        asking.desk.approve(ApproveRequest(id=request), Person(uid=None, name="bob", groups=frozenset()))


def test_an_unknown_name_is_recorded_without_it(asking: Asking) -> None:
    """A request for what is not configured is in the ledger, and the words that somebody typed are not."""
    with pytest.raises(ConfigError, match="nothing is called nonsense"):
        asking.desk.rotate(RotateRequest(subjects=(SubjectName("nonsense"),), reason="a test asks"), ALICE)
    refused = asking.last(EventType.REFUSED)
    assert ("rotator", "nothing in the configuration has that name") == (refused.subject, refused.reason)


def test_what_became_impossible_is_refused_when_it_is_approved(asking: Asking) -> None:
    """A request is judged again at the moment it is carried out: what stands in its way then refuses it."""
    asking.desk.rotate(RotateRequest(subjects=(SubjectName(MESH),), reason="a test asks", emergency=True), ALICE)
    request = asking.desk.rollback(RollbackRequest(subject=SubjectName(MESH), reason="back"), ALICE)["request"]["id"]
    asking.world.run(span=timedelta(hours=6), until=lambda: not asking.world.store.rotations(state=RotationState.OPEN))
    asking.policy = ApprovalPolicy(rules=(replace(RULE, expires_after=timedelta(days=1)),))
    row = asking.world.store.request(request)
    assert row is not None
    with asking.world.store.transaction() as transaction:
        transaction.save(replace(row, expires_at=asking.world.clock.now() + timedelta(hours=1)))
    answer = asking.desk.approve(ApproveRequest(id=request), BOB)
    assert ("refused", []) == (asking.state(request), answer["rotations"])
    assert "no CA rotation is under way" in answer["refused"][0]["why"]


def test_a_pause_waits_and_then_holds(asking: Asking) -> None:
    """A pause that needs a word holds nothing until it has it."""
    until = asking.world.clock.now().replace(microsecond=0) + timedelta(hours=2)
    answer = asking.desk.pause(PauseRequest(subject=WEB, until=until, reason="a test asks"), ALICE)
    assert () == asking.world.store.holds()
    asking.desk.approve(ApproveRequest(id=answer["request"]["id"]), BOB)
    assert [until] == [each.until for each in asking.world.store.holds()]


def test_everything_is_one_request(asking: Asking) -> None:
    """A request for everything waits as one, and opens what can be opened; the rest is named and recorded."""
    answer = asking.desk.rotate(RotateRequest(everything=True, reason="a test asks"), ALICE)
    request = answer["request"]["id"]
    asking.policy = ApprovalPolicy()
    asking.desk.rotate(RotateRequest(subjects=(SubjectName(MESH),), reason="another"), CAROL)
    asking.policy = ApprovalPolicy(rules=(RULE,))
    answer = asking.desk.approve(ApproveRequest(id=request), BOB)
    assert (3, [MESH]) == (len(answer["rotations"]), [each["subject"] for each in answer["refused"]])
    row = asking.world.store.request(request)
    assert row is not None
    assert (RequestState.ACCEPTED, 3, True) == (row.state, len(row.rotations), MESH in row.outcome)
