"""What an Airflow ran gets into the ledger, each attempt once, and is found again with its worker and certificate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from rotator.core.event import CertificateFacts, Commitment, Event, EventType
from rotator.core.model import SubjectName
from rotator.core.tasks import Run, TaskAttempt, WorkerRun
from rotator.engine.memory import Memory
from rotator.engine.recorder import Recorder
from rotator.engine.run_batches import FIRST_REACH, SETTLES, RunCopier, RunSource, packed
from rotator.errors import InvariantBroken, Unavailable
from rotator.evidence.ledger import records
from rotator.evidence.record import MAX_DETAIL_CHARACTERS, rfc3339
from rotator.evidence.who_ran import Loaded, Ran, attempts
from rotator.store.spool import Spool
from rotator.store.sql import SQLStore
from tests.engine.world import START, HeldLease
from tests.fakes.clock import ManualClock

MINUTE = timedelta(minutes=1)
WORKERS = SubjectName("workers")
CERTIFICATE = SubjectName("worker-tls")


class ToldHistory:
    """`rotator.ports.RunHistory` that a test fills."""

    def __init__(self) -> None:
        self.all: list[TaskAttempt] = []
        self.known: dict[tuple[str, str], Run] = {}
        self.reachable = True

    def ended(self, since: datetime, until: datetime) -> Iterator[TaskAttempt]:
        if not self.reachable:
            raise Unavailable("Airflow did not answer while copying what ran")
        yield from (each for each in self.all if each.ended_at is not None and since <= each.ended_at < until)

    def runs(self, of: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Run]:
        return {key: self.known[key] for key in of if key in self.known}


class Desk:
    """A ledger, a history, and who was seen to run."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        self.store = SQLStore(f"sqlite:///{directory / 'state.db'}", environment="test")
        self.lease = HeldLease()
        self.recorder = Recorder(
            journal=self.store,
            memory=Memory(),
            clock=self.clock,
            lease=self.lease,
            spool=Spool(directory / "spool", clock=self.clock),
        )
        self.history = ToldHistory()
        self.seen: list[WorkerRun] = []
        self.copier = self.anew()

    def anew(self) -> RunCopier:
        """Return a copier as a restart makes one."""
        source = RunSource(airflow="main", history=self.history, workloads=frozenset({WORKERS}))
        return RunCopier(source, recorder=self.recorder, ledger=self.store, seen=lambda: self.seen)

    def ran(self, name: str, begin: timedelta, end: timedelta, *, host: str = "w-0", attempt: int = 1) -> None:
        """Let a task run from *begin* to *end* after the start of time."""
        self.history.all.append(
            TaskAttempt(
                dag="etl", run=name, task="load", attempt=attempt, state="success", host=host, queue="default",
                started_at=START + begin, ended_at=START + end,
            )
        )  # fmt: skip
        self.history.known["etl", name] = Run(
            dag="etl", run=name, run_type="manual", triggered_by="rest_api", triggering_user="alice"
        )

    def works(self, identity: str, begin: timedelta, until: timedelta, *, host: str = "w-0") -> None:
        """Let a worker be seen from *begin* to *until*."""
        self.seen = [each for each in self.seen if each.identity != identity]
        self.seen.append(
            WorkerRun(
                workload=WORKERS, member="w-0", host=host, identity=identity, started_at=START + begin,
                seen_until=START + until, certificates=(CERTIFICATE,),
            )
        )  # fmt: skip

    def published(self, serial: str, at: timedelta) -> None:
        """Let a certificate be published."""
        facts = CertificateFacts(serial=serial, sha256=serial, issuer="i", not_before=START, not_after=START + MINUTE)
        event = Event(type=EventType.DISTRIBUTED, time=START + at, subject=CERTIFICATE, result="ok", new=facts)
        self.recorder.write((), [event])

    def batches(self) -> list[Event]:
        """Return the batches in the ledger."""
        return [each.event for each in records(self.store) if each.event.type is EventType.RUN_BATCH]

    def found(self, *, run: str | None = None, serial: str | None = None, at: datetime | None = None) -> list[Ran]:
        """Return what the ledger answers."""
        return list(attempts(records(self.store), run=run, serial=serial, at=at))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


def test_each_attempt_is_copied_once_over_restarts_and_outages(desk: Desk) -> None:
    """A batch begins where the last in the ledger ended, whoever wrote it; an outage is caught up with."""
    for number in range(40):
        desk.ran(f"r{number}", MINUTE * number, MINUTE * number + timedelta(seconds=30))
    for visit in range(14):
        desk.history.reachable = not 4 <= visit < 8
        desk.clock.set(START + MINUTE * 3 * visit)
        copier = desk.anew() if visit % 3 == 0 else desk.copier
        if desk.history.reachable:
            copier.copy(desk.clock.now())
        else:
            with pytest.raises(Unavailable):
                copier.copy(desk.clock.now())
        desk.copier = copier
    told = [row[1] for event in desk.batches() for row in json.loads(str(event.detail["attempts_000"]))]
    assert [f"r{number}" for number in range(38)] == told
    since, until = (
        [str(event.detail[key]) for event in desk.batches()] for key in ("since", "until")
    )  # fmt: skip
    assert all(end <= begin for end, begin in zip(until, since[1:], strict=False))
    assert rfc3339(desk.clock.now() - SETTLES) >= until[-1]


def test_the_first_batch_reaches_back(desk: Desk) -> None:
    """A day; what is older was there before rotator."""
    desk.ran("old", -FIRST_REACH - MINUTE, -FIRST_REACH - timedelta(seconds=1))
    desk.ran("new", -MINUTE * 10, -MINUTE * 5)
    assert 1 == desk.copier.copy(START)
    assert ["new"] == [each.run for each in desk.found()]


def test_nothing_ran_is_no_record(desk: Desk) -> None:
    """Silence costs nothing; a worker that is new is told all the same."""
    desk.copier.copy(START)
    assert [] == desk.batches()
    desk.works("w-0@1", -MINUTE, timedelta())
    for minute in range(1, 4):
        desk.copier.copy(START + MINUTE * minute)
    assert 1 == len(desk.batches())


def test_law_24_people_stand_as_commitments(desk: Desk) -> None:
    """No name is in the ledger; the side store reveals it until it is erased."""
    desk.ran("r1", -MINUTE * 5, -MINUTE * 4)
    desk.copier.copy(START)
    assert all(b"alice" not in raw for raw in desk.store.entries(0, desk.store.size()))
    (found,) = desk.found()
    assert found.person.startswith("sha256:")
    assert "alice" == desk.store.reveal(Commitment(found.person))
    desk.store.salts.erase(Commitment(found.person))
    assert desk.store.reveal(Commitment(found.person)) is None


def test_repeated_host_names_are_told_apart_by_time(desk: Desk) -> None:
    """Before and after a roll the name is the same: the process, and the certificate that it had loaded, are not."""
    desk.published("aa", -MINUTE * 60)
    desk.works("w-0@1", -MINUTE * 50, -MINUTE * 20)
    desk.published("bb", -MINUTE * 25)
    desk.works("w-0@2", -MINUTE * 19, timedelta())
    desk.ran("before", -MINUTE * 30, -MINUTE * 26)
    desk.ran("across", -MINUTE * 26, -MINUTE * 21)
    desk.ran("after", -MINUTE * 10, -MINUTE * 5)
    desk.copier.copy(START)
    found = {each.run: (each.worker_run, each.loaded) for each in desk.found()}
    old, new = Loaded(certificate=CERTIFICATE, serial="aa"), Loaded(certificate=CERTIFICATE, serial="bb")
    assert {"before": ("w-0@1", (old,)), "across": ("w-0@1", (old,)), "after": ("w-0@2", (new,))} == found
    assert ["before", "across"] == [each.run for each in desk.found(serial="aa")]
    assert ["after"] == [each.run for each in desk.found(run="etl/after")]
    assert ["across"] == [each.run for each in desk.found(at=START - MINUTE * 22)]


def test_a_worker_that_nobody_saw_is_unknown(desk: Desk) -> None:
    """Not guessed: before the first that was seen, long after the last sight of it, and at other hosts."""
    desk.works("w-0@1", -MINUTE * 30, -MINUTE * 20, host="w-0.pods.example")
    desk.ran("earlier", -MINUTE * 40, -MINUTE * 35)
    desk.ran("seen", -MINUTE * 25, -MINUTE * 15)
    desk.ran("later", -MINUTE * 10, -MINUTE * 5)
    desk.ran("elsewhere", -MINUTE * 25, -MINUTE * 15, host="w-1")
    desk.copier.copy(START)
    found = {each.run: each.worker_run for each in desk.found()}
    assert {"earlier": None, "seen": "w-0@1", "later": None, "elsewhere": None} == found


def test_many_attempts_are_many_records(desk: Desk) -> None:
    """No record grows beyond its bounds, no detail beyond its own, and nothing is lost in between."""
    for number in range(400):
        desk.ran(f"a-long-name-of-a-run-{number}-{'x' * 180}", -MINUTE * 5, -MINUTE * 4)
    assert 400 == desk.copier.copy(START)
    assert 3 <= len(desk.batches())
    assert 400 == len(desk.found())


def test_what_looks_like_a_secret_in_a_name_does_not_stop_the_copy(desk: Desk) -> None:
    """People put all sorts of things into the names of runs."""
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlc2lnbmF0dXJl"  # noqa: S105 -- nobody's
    desk.ran(token, -MINUTE * 5, -MINUTE * 4)
    assert 1 == desk.copier.copy(START)
    assert all(token.encode() not in raw for raw in desk.store.entries(0, desk.store.size()))


def test_law_14_without_the_lease_nothing_is_written(desk: Desk) -> None:
    """The next leader copies it."""
    desk.ran("r1", -MINUTE * 5, -MINUTE * 4)
    desk.lease.is_held = False
    with pytest.raises(InvariantBroken):
        desk.copier.copy(START)
    desk.lease.is_held = True
    assert 1 == desk.anew().copy(START)


def test_a_task_told_again_is_one_answer(desk: Desk) -> None:
    """An earlier try comes along with its repetition: the last word about each counts."""
    desk.ran("r1", -MINUTE * 50, -MINUTE * 45)
    desk.copier.copy(START - MINUTE * 40)
    again = desk.history.all[0]
    desk.history.all.append(replace(again, ended_at=START - MINUTE * 20, state="failed"))
    desk.copier.copy(START)
    assert ["failed"] == [each.state for each in desk.found()]


def test_packed_rows_fit() -> None:
    """Every detail is a JSON array and short enough."""
    rows = [[str(number), "y" * (number % 90)] for number in range(300)]
    details = packed("rows", rows)
    assert all(len(str(text)) <= MAX_DETAIL_CHARACTERS for text in details.values())
    assert rows == [row for key in sorted(details) for row in json.loads(str(details[key]))]
    assert {} == packed("rows", [])
