"""Who may read status and log."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from rotator.errors import Unavailable
from rotator.ports.reviewing import Reader
from rotator.settings.service import Readers
from rotator.web.gate import ASKED_A_SECOND, MOST_KEPT, Caller, Gate, Verdict
from tests.fakes.clock import ManualClock

GOOD, POOR, STRANGE, AUDITOR, EMPTY = "good", "poor", "strange", "auditor", ""


@dataclass
class KnowsPeople:
    """A reviewer with a list; the real one is tried in tests/stack."""

    people: dict[str, frozenset[str]] = field(default_factory=dict)
    """By token, what its holder may get."""
    asked: int = 0
    answers: bool = True

    def identify(self, token: str) -> Reader | None:
        """Return whose token it is."""
        self.asked += 1
        if not self.answers:
            raise Unavailable("the API server did not answer")
        return Reader(name=token) if token in self.people else None

    def may_get(self, reader: Reader, resource: str) -> bool:
        """Return whether the list says so."""
        return resource in self.people[reader.name]


@pytest.mark.parametrize(
    ("readers", "caller", "expected"),
    [
        ("nobody", Caller(token=GOOD, certified=True), Verdict.CLOSED),
        ("loopback", Caller(), Verdict.ADMITTED),
        ("certificate", Caller(token=GOOD), Verdict.UNKNOWN),
        ("certificate", Caller(certified=True), Verdict.ADMITTED),
        ("cluster", Caller(), Verdict.UNKNOWN),
        ("cluster", Caller(certified=True), Verdict.UNKNOWN),
        ("cluster", Caller(token=EMPTY), Verdict.UNKNOWN),
        ("cluster", Caller(token=STRANGE), Verdict.UNKNOWN),
        ("cluster", Caller(token=POOR), Verdict.FORBIDDEN),
        ("cluster", Caller(token=GOOD), Verdict.ADMITTED),
    ],
)
def test_who_may_read(readers: Readers, caller: Caller, expected: Verdict) -> None:
    """Each way lets in whom it says, and nobody else."""
    people = {"good": frozenset({"status"}), "poor": frozenset[str]()}
    gate = Gate(readers, clock=ManualClock(), reviewer=KnowsPeople(people))
    assert expected is gate.verdict(caller, "status")


def test_a_right_to_one_is_none_to_the_other() -> None:
    """Who may read the log may not read the status by that."""
    gate = Gate("cluster", clock=ManualClock(), reviewer=KnowsPeople({"auditor": frozenset({"log"})}))
    caller = Caller(token=AUDITOR)
    assert [Verdict.ADMITTED, Verdict.FORBIDDEN] == [gate.verdict(caller, each) for each in ("log", "status")]


def test_without_a_reviewer_nobody_is_let_in() -> None:
    """A gate that should ask a cluster and has none stays closed."""
    assert Verdict.CLOSED is Gate("cluster", clock=ManualClock()).verdict(Caller(token=GOOD), "status")


def test_a_verdict_is_asked_for_once_in_a_while() -> None:
    """Within seconds the same answer is given without asking; a right that is taken away ends with them."""
    clock, reviewer = ManualClock(), KnowsPeople({"good": frozenset({"status"})})
    gate, caller = Gate("cluster", clock=clock, reviewer=reviewer), Caller(token=GOOD)
    assert [Verdict.ADMITTED] * 3 == [gate.verdict(caller, "status") for _ in range(3)]
    assert reviewer.asked == 1
    reviewer.people["good"] = frozenset()
    clock.advance(timedelta(seconds=30))
    assert Verdict.FORBIDDEN is gate.verdict(caller, "status")
    reviewer.people["good"] = frozenset({"status"})
    clock.advance(timedelta(seconds=5))
    assert Verdict.ADMITTED is gate.verdict(caller, "status")


def test_whoever_cannot_be_asked_lets_nobody_in_and_is_asked_again() -> None:
    """No answer is no right; it is not kept."""
    reviewer = KnowsPeople({"good": frozenset({"status"})}, answers=False)
    gate, caller = Gate("cluster", clock=ManualClock(), reviewer=reviewer), Caller(token=GOOD)
    assert Verdict.UNANSWERED is gate.verdict(caller, "status")
    reviewer.answers = True
    assert Verdict.ADMITTED is gate.verdict(caller, "status")


def test_strangers_make_few_calls_and_take_little_memory() -> None:
    """Ten thousand made-up tokens at once are a few calls to the API server, and those who are known still get in."""
    clock, reviewer = ManualClock(), KnowsPeople({"good": frozenset({"status"})})
    gate = Gate("cluster", clock=clock, reviewer=reviewer)
    assert Verdict.ADMITTED is gate.verdict(Caller(token=GOOD), "status")
    for number in range(10_000):
        gate.verdict(Caller(token=f"made up {number}"), "status")
    assert (ASKED_A_SECOND, Verdict.ADMITTED) == (reviewer.asked, gate.verdict(Caller(token=GOOD), "status"))
    for number in range(2 * MOST_KEPT):
        clock.advance(timedelta(seconds=1))
        gate.verdict(Caller(token=f"another {number}"), "status")
    assert len(gate._kept) == MOST_KEPT
