"""Requests made by objects: brought to the desk once, answered in their status, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.control import AdoptRequest, PauseRequest, ResumeRequest, RollbackRequest, RotateRequest
from rotator.control.spelling import order_in, spec_of
from rotator.core.approval import ApprovalPolicy, ApprovalRule, Operation
from rotator.core.event import Event, EventType, Trigger
from rotator.core.model import SubjectName
from rotator.desk import Desk
from rotator.desk.board import Board
from rotator.errors import ConfigError, Unavailable
from rotator.ports import PostedObject
from tests.engine.world import MESH, START, World
from tests.fakes.faults import Crash
from tests.fakes.request_board import FakeRequestBoard

WEB = SubjectName("service-0")
RULE = ApprovalRule(name="all", operations=frozenset(Operation), expires_after=timedelta(hours=1))


class Posting:
    """A world whose people ask by objects."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        self.policy = ApprovalPolicy()
        self.objects = FakeRequestBoard(clock=self.world.clock, guarded=START - timedelta(days=1))
        self.board = self.new_board()
        self.world.run(until=self.world.settled)

    def new_board(self) -> Board:
        """Return a board as a restart makes it."""
        desk = Desk(self.world.engine, ledger=dict, requests=self.world.store, approval=lambda: self.policy)
        self.desk = desk
        return Board(desk, self.objects, self.world.clock, taken_within=timedelta(hours=24), kept=timedelta(days=30))

    def ask(self, name: str = "one", by: str = "alice", **spec: Any) -> PostedObject:
        """Post a request."""
        asked = {"operation": "Rotate", "subjects": [WEB], "reason": "a test asks", "requestedBy": by} | spec
        return self.objects.post(name, {key: value for key, value in asked.items() if value is not None})

    def answer(self, made: PostedObject, name: str = "word", by: str = "bob", **spec: Any) -> PostedObject:
        """Post an approval."""
        about = {"name": made.name, "uid": made.uid, "requestedBy": made.spec["requestedBy"]}
        said = {"request": about, "decision": "Approve", "approvedBy": by} | spec
        return self.objects.post(name, said, approval=True)

    def phase(self, name: str = "one") -> Any:
        return self.objects.status(name).get("phase")

    def asked(self, subject: str = WEB) -> int:
        """Return how many rotations of *subject* people have asked for."""
        return sum(1 for each in self.world.rotations(subject) if each.trigger is Trigger.REQUEST)

    def last(self, type_: EventType) -> Event:
        return self.world.events(type_)[-1]


@pytest.fixture
def posting(tmp_path: Path) -> Iterator[Posting]:
    posting = Posting(tmp_path)
    yield posting
    posting.world.close()


def test_a_request_is_carried_out_and_its_status_follows(posting: Posting) -> None:
    """From nothing to Running with who is waited for, to Done; the ledger has the object's uid."""
    for consumer in posting.world.consumers.values():
        consumer.lag = timedelta(seconds=5)
    made = posting.ask(ticket="OPS-1")
    posting.board.look()
    status = posting.objects.status("one")
    assert ("Running", True) == (status["phase"], status["message"].startswith(f"waits for probe:{WEB}"))
    assert f"issue {WEB} anew" in status["plan"][0]["what"]
    posting.world.run(until=posting.world.settled)
    posting.board.look()
    status = posting.objects.status("one")
    assert ("Done", ["done"]) == (status["phase"], [each["state"] for each in status["rotations"]])
    asked = posting.last(EventType.INTENT)
    assert (made.uid, "OPS-1") == (asked.corroboration.kubernetes, asked.detail["ticket"])
    assert asked.requested_by is not None
    assert "alice (cluster user)" == posting.world.store.reveal(asked.requested_by)


def test_looking_again_asks_for_nothing_again(posting: Posting) -> None:
    """However often it is looked at, and by whichever replica, one object is one request."""
    posting.ask()
    for _ in range(3):
        posting.board.look()
        posting.board = posting.new_board()
    assert 1 == posting.asked()


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_between_ledger_and_status_does_it_once(posting: Posting, at: int, after: bool) -> None:  # noqa: FBT001 -- by pytest
    """Wherever a look is cut short, the next daemon comes to one rotation, one intent, and a status that says so."""
    posting.ask("all", subjects=None, everything=True)
    (posting.world.faults.crash_after if after else posting.world.faults.crash_before)(at)
    try:
        posting.board.look()
    except Crash:
        assert None is posting.phase("all")
    posting.world.restart()
    posting.board = posting.new_board()
    posting.desk.look()
    posting.board.look()
    posting.world.run(span=timedelta(hours=4), tick=timedelta(minutes=1), until=posting.world.settled)
    posting.board.look()
    intents = [each.subject for each in posting.world.events(EventType.INTENT) if "request" in each.detail]
    rotations = posting.objects.status("all")["rotations"]
    assert ("Done", 4, 4, 4) == (posting.phase("all"), len(intents), len(set(intents)), len(rotations))


def test_somebody_else_approves_by_an_object(posting: Posting) -> None:
    """The request waits, says for how many and until when, and is carried out with the second object."""
    posting.policy = ApprovalPolicy(rules=(RULE,))
    made = posting.ask()
    posting.board.look()
    status = posting.objects.status("one")
    assert ("AwaitingApproval", 1, 0) == tuple(status[key] for key in ("phase", "approvalsNeeded", "approvalsGiven"))
    assert (0, True) == (posting.asked(), "expiresAt" in status)
    word = posting.answer(made, reason="agreed")
    posting.board.look()
    assert ("Counted", 1) == (posting.objects.status("word", approval=True)["phase"], posting.asked())
    assert word.uid == posting.last(EventType.APPROVAL).corroboration.kubernetes
    posting.world.run(until=posting.world.settled)
    posting.board.look()
    assert "Done" == posting.phase()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"by": "alice"}, "nobody approves their own request"),
        ({"by": "system:serviceaccount:a:robot"}, "a ServiceAccount is nobody"),
        ({"about": {"requestedBy": "carol"}}, "somebody else has made the request"),
        ({"about": {"name": "two"}}, "has another name"),
        ({"about": {"uid": "another"}}, "no request of that uid"),
    ],
    ids=["their own", "a machine", "another's request", "another name", "another uid"],
)
def test_a_word_that_does_not_count_is_refused_and_recorded(posting: Posting, spec: dict[str, Any], why: str) -> None:
    """What the API server cannot see rotator refuses, once, with the approval's uid in the ledger."""
    posting.policy = ApprovalPolicy(rules=(RULE,))
    made = posting.ask()
    posting.board.look()
    about = {"name": made.name, "uid": made.uid, "requestedBy": "alice"} | spec.pop("about", {})
    word = posting.answer(made, **{"request": about, **spec})
    posting.board.look()
    posting.board.look()
    status = posting.objects.status("word", approval=True)
    assert ("Refused", True) == (status["phase"], why in status["message"])
    refused = [each for each in posting.world.events(EventType.REFUSED) if each.detail["operation"] == "approve"]
    assert [word.uid] == [each.corroboration.kubernetes for each in refused]
    assert ("AwaitingApproval", 0) == (posting.phase(), posting.asked())


def test_a_no_and_a_silence_end_it(posting: Posting) -> None:
    """Rejected and Expired are told apart, and nothing is opened."""
    posting.policy = ApprovalPolicy(rules=(RULE,))
    first, _ = posting.ask("one"), posting.ask("two", subjects=["service-1"])
    posting.board.look()
    posting.answer(first, decision="Reject", reason="not today")
    posting.board.look()
    posting.world.clock.advance(timedelta(hours=1))
    posting.desk.look()
    posting.board.look()
    assert ("Rejected", "Expired", 0) == (posting.phase("one"), posting.phase("two"), posting.asked())


def test_a_name_that_nobody_has_bound_is_nobody(posting: Posting) -> None:
    """Without the admission policy, or before it was there, a request is unattributed: refused and recorded so."""
    posting.objects.guarded = None
    posting.ask("one")
    posting.board.look()
    posting.ask("two")
    posting.world.clock.advance(timedelta(minutes=1))
    posting.objects.guarded = posting.world.clock.now()
    posting.board.look()
    assert ("Refused", "Refused", 0) == (posting.phase("one"), posting.phase("two"), posting.asked())
    asked = posting.last(EventType.REFUSED)
    assert asked.requested_by is not None
    assert "unattributed, perhaps alice (cluster user)" == posting.world.store.reveal(asked.requested_by)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"subjects": ["nonsense"]}, "nothing in the configuration has that name"),
        ({"operation": "Rollback", "subjects": [MESH]}, "no CA rotation is under way"),
        ({"operation": "Rollback"}, "is no trust domain"),
        ({"operation": "Pause", "until": "2020-01-01T00:00:00Z"}, "is past"),
        ({"compromised": True, "confirm": WEB}, "only a trust domain's CA"),
        ({"compromised": True, "confirm": "other"}, "type the subject once more"),
        ({"operation": "Destroy"}, "what this version does not know"),
        ({"reason": "two\nlines"}, "control characters"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_what_cannot_be_is_refused_with_its_uid(posting: Posting, spec: dict[str, Any], why: str) -> None:
    """A refused request says why in its status, and stands in the ledger once with its object's uid."""
    made = posting.ask(**spec)
    for _ in range(2):
        posting.board.look()
        posting.board = posting.new_board()
    status = posting.objects.status("one")
    assert ("Refused", True) == (status["phase"], why in status["message"]), status
    told = [each for each in posting.world.events(EventType.REFUSED) if each.corroboration.kubernetes == made.uid]
    assert 1 == len(told)


def test_a_dry_run_answers_with_the_plan(posting: Posting) -> None:
    """Nothing is opened or recorded."""
    before = len(posting.world.told())
    posting.ask(dryRun=True)
    posting.board.look()
    status = posting.objects.status("one")
    assert ("Done", True, before) == (status["phase"], len(status["plan"]) > 0, len(posting.world.told()))


def test_a_status_has_an_end(posting: Posting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a request for a whole fleet the first rotations are shown; the phase is that of all."""
    monkeypatch.setattr("rotator.desk.board.MOST_SHOWN", 2)
    posting.ask("all", subjects=None, everything=True)
    posting.board.look()
    status = posting.objects.status("all")
    assert ("Running", 2, 2) == (status["phase"], len(status["rotations"]), len(status["plan"]))
    posting.world.run(span=timedelta(hours=4), tick=timedelta(minutes=1), until=posting.world.settled)
    posting.board.look()
    assert ("Done", 2) == (posting.phase("all"), len(posting.objects.status("all")["rotations"]))


def test_pause_and_resume_by_objects(posting: Posting) -> None:
    """Both are done at once and say so."""
    until = "2030-01-01T03:00:00Z"
    posting.ask("one", operation="Pause", until=until)
    posting.board.look()
    assert ("Done", 1) == (posting.phase("one"), len(posting.world.store.holds()))
    posting.ask("two", operation="Resume", reason=None)
    posting.board.look()
    assert ("Done", 0) == (posting.phase("two"), len(posting.world.store.holds()))


def test_an_old_request_is_not_carried_out(posting: Posting) -> None:
    """What was made while no rotator ran for days is expired and recorded, not done."""
    posting.ask()
    posting.world.clock.advance(timedelta(hours=25))
    posting.board.look()
    assert ("Expired", 0, "expired") == (posting.phase(), posting.asked(), posting.last(EventType.REFUSED).result)


def test_what_was_taken_up_before_the_journal_was_lost_is_not_done_again(posting: Posting) -> None:
    """A status that says Running, and a journal that does not know of it: a person has to look."""
    made = posting.ask()
    posting.objects.show(made, {"phase": "Running"})
    posting.board.look()
    assert ("Failed", 0) == (posting.phase(), posting.asked())


def test_trouble_of_the_moment_is_tried_again(posting: Posting) -> None:
    """An API server that does not answer changes nothing; the next look goes on."""
    posting.ask()
    posting.objects.trouble = Unavailable("the API server did not answer")
    posting.board.look()
    posting.objects.trouble = None
    assert (None, 0) == (posting.phase(), posting.asked())
    posting.board.look()
    assert 1 == posting.asked()


def test_a_lost_lease_writes_nothing(posting: Posting) -> None:
    """Who does not hold the lease opens nothing and records nothing (law 14)."""
    posting.ask()
    before = len(posting.world.told())
    posting.world.lease.is_held = False
    posting.board.look()
    assert (0, before) == (posting.asked(), len(posting.world.told()))
    posting.world.lease.is_held = True
    posting.board = posting.new_board()
    posting.board.look()
    assert 1 == posting.asked()


def test_what_ended_long_ago_is_tidied_away(posting: Posting) -> None:
    """Names and reasons in objects go after their time; the ledger keeps its records."""
    posting.ask(dryRun=True)
    posting.board.look()
    posting.world.clock.advance(timedelta(days=31))
    posting.board.look()
    assert {} == posting.objects.shelves[False]


@pytest.mark.parametrize(
    "order",
    [
        RotateRequest(subjects=(WEB,), reason="r", ticket="T", emergency=True),
        RotateRequest(everything=True, reason="r", dry_run=True),
        RotateRequest(subjects=(WEB,), reason="r", compromised=True),
        PauseRequest(subject=WEB, until=START, reason="r", past_safety_line=True),
        ResumeRequest(subject=WEB),
        RollbackRequest(subject=WEB, reason="r"),
        AdoptRequest(subject=WEB, reason="r", accept_interruption="nobody is here"),
    ],
    ids=lambda order: order.operation.value,
)
def test_what_one_side_writes_the_other_reads(order: Any) -> None:
    """An order spelled as a spec is the same order when it is read."""
    assert order == order_in(spec_of(order, requested_by="alice"))
    with pytest.raises(ConfigError, match="unknown field"):
        order_in({**spec_of(order, requested_by="alice"), "surprise": True})
    assert replace(order) == order
