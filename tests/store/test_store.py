"""
Journal and ledger, the same on SQLite and on PostgreSQL.

Rules that must stay true here:

- Every claim is about what a second reader finds in the database.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from rotator.core.alert_kinds import AlertKind
from rotator.core.approval import Operation
from rotator.core.event import Commitment, EventType, Trigger
from rotator.core.model import IntentKind, IssuerId, Serial, Severity, SubjectKind, SubjectName, TrustDomainName
from rotator.errors import ConfigError, InvariantBroken, JournalError
from rotator.evidence.ledger import records
from rotator.evidence.merkle import leaf_hash
from rotator.ports import (
    Hold,
    Issuance,
    IssuanceKind,
    IssuanceState,
    Request,
    RequestState,
    Rotation,
    RotationState,
    Sighting,
    StandingAlert,
)
from rotator.store.engine import parse_url
from rotator.store.sql import SQLStore
from rotator.store.tables import SCHEMA_VERSION, schema_version
from tests.evidence.examples import NOON, event
from tests.store.conftest import OpenStore

MESH = SubjectName("airflow.prod")


def rotation(number: int = 1, **changes: object) -> Rotation:
    fields: dict[str, object] = {
        "id": f"r-{number}",
        "subject": MESH,
        "kind": SubjectKind.TRUST_DOMAIN,
        "intent": IntentKind.ROTATE,
        "trigger": Trigger.SCHEDULE,
        "state": RotationState.OPEN,
        "opened_at": NOON + timedelta(microseconds=number),
        "emergency": True,
        "reason_commitment": Commitment("sha256:aa"),
        "ticket": "OPS-1",
        "from_generation": number,
        "activated_at": NOON,
    }
    return Rotation(**(fields | changes))  # type: ignore[arg-type] # fields by name


def issuance(number: int = 1, **changes: object) -> Issuance:
    fields: dict[str, object] = {
        "spki_sha256": f"{number:064x}",
        "kind": IssuanceKind.LEAF,
        "subject": SubjectName(f"worker-{number}"),
        "trust_domain": TrustDomainName("airflow.prod"),
        "rotation_id": "r-1",
        "state": IssuanceState.ASKED,
        "asked_at": NOON,
        "signer": IssuerId("aa"),
    }
    return Issuance(**(fields | changes))  # type: ignore[arg-type] # fields by name


def test_rows_come_back_as_they_were_saved(store: SQLStore) -> None:
    """What is read equals what was saved, every field of every row."""
    full = rotation(
        2,
        finished_at=NOON,
        requested_by=Commitment("sha256:bb"),
        to_generation=3,
        trust_published_at=NOON,
        roll_started_at=NOON,
        outcome="ok",
        approved_by=(Commitment("sha256:cc"), Commitment("sha256:dd")),
        kubernetes="0f3a",
    )
    issued = issuance(2, serial=Serial("0f"), not_after=NOON, state=IssuanceState.ISSUED)
    hold = Hold(subject=MESH, until=NOON, past_safety_line=True)
    with store.transaction() as transaction:
        for row in (rotation(), full, issuance(), issued, hold):
            transaction.save(row)
    assert (rotation(), full) == store.rotations()
    assert (issuance(), issued) == store.issuances(states=frozenset(IssuanceState))
    assert (hold,) == store.holds()


def request(number: int = 1, **changes: object) -> Request:
    fields: dict[str, object] = {
        "id": f"q-{number}",
        "operation": Operation.ROTATE,
        "order": '{"subjects":["web"]}',
        "requested_by": Commitment("sha256:aa"),
        "state": RequestState.AWAITING,
        "asked_at": NOON,
    }
    return Request(**(fields | changes))  # type: ignore[arg-type] # fields by name


def test_requests_come_back_as_they_were_saved(store: SQLStore) -> None:
    """What people asked is found by its id and by its state, every field of it, and is replaced by its id."""
    full = request(
        2,
        reason=Commitment("sha256:bb"),
        words=Commitment("sha256:cc"),
        expires_at=NOON,
        needed=2,
        approved_by=(Commitment("sha256:dd"), Commitment("sha256:ee")),
        rotations=("r-1", "r-2"),
        outcome="waits",
        kubernetes="0f3a",
    )
    with store.transaction() as transaction:
        for row in (request(), full, request(3)):
            transaction.save(row)
    with store.transaction() as transaction:
        transaction.save(request(3, state=RequestState.ACCEPTED))
    assert (request(), full) == store.requests(RequestState.AWAITING)
    assert request(3, state=RequestState.ACCEPTED) == store.request("q-3")
    assert None is store.request("q-4")


def test_a_commitment_is_revealed_until_it_is_erased(store: SQLStore) -> None:
    """What stands behind a commitment is found, and is gone for good once it was erased (law 24)."""
    with store.transaction() as transaction:
        name = transaction.commit_to("alice (uid 1000)")
    assert "alice (uid 1000)" == store.reveal(name)
    assert store.salts.erase(name)
    assert None is store.reveal(name)


def test_saving_again_replaces_and_keeps_the_order(store: SQLStore) -> None:
    """A row is replaced by its key, and oldest first means first saved."""
    with store.transaction() as transaction:
        for number in (1, 2):
            transaction.save(rotation(number))
    with store.transaction() as transaction:
        transaction.save(rotation(1, state=RotationState.DONE))
    assert ["r-1", "r-2"] == [found.id for found in store.rotations()]
    assert ["r-2"] == [found.id for found in store.rotations(state=RotationState.OPEN)]
    assert () == store.rotations(subject=SubjectName("another"))


def test_issuances_are_asked_for_by_state_and_subject(store: SQLStore) -> None:
    """Only orders in the given states, and of the given subject, are returned."""
    with store.transaction() as transaction:
        transaction.save(issuance(1))
        transaction.save(issuance(2, state=IssuanceState.SUPERSEDED))
        transaction.save(issuance(3, subject=MESH))
    live = frozenset({IssuanceState.ASKED, IssuanceState.ISSUED})
    assert [issuance(1), issuance(3, subject=MESH)] == list(store.issuances(states=live))
    assert [issuance(3, subject=MESH)] == list(store.issuances(states=live, subject=MESH))
    assert () == store.issuances(states=frozenset())


def test_a_hold_is_released(store: SQLStore) -> None:
    """A released hold is gone, and releasing it again is no error."""
    with store.transaction() as transaction:
        transaction.save(Hold(subject=MESH, until=NOON))
    for _ in range(2):
        with store.transaction() as transaction:
            transaction.release(MESH)
    assert () == store.holds()


def test_the_highest_generation_is_never_forgotten(store: SQLStore) -> None:
    """The number counts whichever end of whichever rotation used it, rolled back or not."""
    mesh = TrustDomainName(MESH)
    assert store.last_generation(mesh) == 0
    with store.transaction() as transaction:
        transaction.save(rotation(1, from_generation=None, to_generation=4, state=RotationState.ROLLED_BACK))
        transaction.save(rotation(2, from_generation=3))
        transaction.save(rotation(3, subject=SubjectName("other"), from_generation=9))
    assert store.last_generation(mesh) == 4


def test_the_last_rotation_that_ended_is_found_for_each_subject(store: SQLStore) -> None:
    """Of a long history only the newest ended one of each subject is read, whatever is open after it."""
    other = SubjectName("other")
    with store.transaction() as transaction:
        for number, state in enumerate((RotationState.DONE, RotationState.FAILED, RotationState.OPEN)):
            transaction.save(rotation(number, state=state))
        transaction.save(rotation(3, subject=other, state=RotationState.ROLLED_BACK))
        transaction.save(rotation(4, subject=SubjectName("third")))
    assert ["r-1", "r-3"] == [each.id for each in store.rotations(last_ended=True)]


def test_law_12_rows_and_records_are_kept_together_or_not_at_all(store: SQLStore) -> None:
    """A block that raises leaves no row, no record and no number behind."""
    with store.transaction() as transaction:
        transaction.append(event(0))

    def fail() -> None:
        with store.transaction() as transaction:
            transaction.save(rotation())
            transaction.append(event(1))
            raise InvariantBroken(3, "something else went wrong")

    with pytest.raises(InvariantBroken, match="something else"):
        fail()
    assert () == store.rotations()
    assert store.size() == 1
    with store.transaction() as transaction:
        assert transaction.append(event(2)) == 1


def test_law_21_numbers_have_no_gaps_however_many_write(store: SQLStore) -> None:
    """Records of many threads, some of which fail, are numbered from 0 without a gap, in the order of commits."""

    def write(number: int) -> None:
        with store.transaction() as transaction:
            first = transaction.append(event(number))
            assert transaction.append(event(number)) == first + 1
            if number % 5 == 0:
                raise InvariantBroken(21, "this one fails")

    def attempt(number: int) -> bool:
        try:
            write(number)
        except InvariantBroken:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as pool:
        written = sum(pool.map(attempt, range(40)))
    assert written == 32
    assert list(range(64)) == [record.seq for record in records(store)]


def test_a_reader_is_not_stopped_by_a_writer(store: SQLStore) -> None:
    """While a transaction is open others read what was committed before it."""
    with store.transaction() as transaction:
        transaction.append(event(0))
    with store.transaction() as transaction:
        transaction.append(event(1))
        with ThreadPoolExecutor(max_workers=1) as pool:
            assert pool.submit(store.size).result(timeout=60) == 1


def test_an_event_with_an_id_counts_once(store: SQLStore) -> None:
    """An event whose id is in the ledger is not appended again, in this transaction or a later one."""
    with store.transaction() as transaction:
        assert transaction.append(event(0, id="one")) == 0
        assert transaction.append(event(0, id="one")) == 0
        assert transaction.append(event(1, id="two")) == 1
    with store.transaction() as transaction:
        assert transaction.append(event(2, id="one")) == 0
    assert ["one", "two"] == [record.id for record in records(store)]


def test_entries_are_the_records_in_their_order(store: SQLStore) -> None:
    """Entries come back by number, with environment and policy, and their leaf hash stands beside them."""
    with store.transaction() as transaction:
        for number in range(5):
            transaction.append(event(number))
    assert [1, 2] == [record.seq for record in records(store, 1, 3)]
    first = next(records(store))
    assert ("test", "ab" * 32) == (first.environment, first.policy_sha256)
    with store._engine.connect() as connection:
        hashes = connection.execute(sa.text("SELECT leaf_hash FROM ledger ORDER BY seq")).scalars()
        assert [leaf_hash(entry) for entry in store.entries(0, 5)] == [bytes(found) for found in hashes]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET entry = entry WHERE seq = 0",
        "DELETE FROM ledger WHERE seq = 1",
        "INSERT INTO ledger (seq, id, leaf_hash, entry) SELECT 7, 'x', leaf_hash, entry FROM ledger WHERE seq = 0",
        "INSERT INTO ledger (seq, id, leaf_hash, entry) SELECT 0, 'x', leaf_hash, entry FROM ledger WHERE seq = 0",
    ],
)
def test_law_21_the_database_itself_refuses_to_rewrite_the_ledger(store: SQLStore, statement: str) -> None:
    """Not even SQL from elsewhere changes, removes or skips a record while the triggers stand."""
    with store.transaction() as transaction:
        transaction.append(event(0))
        transaction.append(event(1))
    with pytest.raises(sa.exc.DatabaseError, match="append-only"), store._engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert store.size() == 2


def test_law_24_people_are_commitments_and_can_be_erased(store: SQLStore, url: str, open_store: OpenStore) -> None:
    """A name is revealed from the side store, by another process too, until it is erased; the record stays."""
    with store.transaction() as transaction:
        name = transaction.commit_to("alice@example.org")
        again = transaction.commit_to("alice@example.org")
        transaction.append(event(0, requested_by=name))
    assert name != again
    assert name.startswith("sha256:")
    before = store.entries(0, 1)
    other = open_store(url)
    assert other.salts.reveal(name) == "alice@example.org"
    assert b"alice" not in before[0]
    assert other.salts.erase(name)
    assert not other.salts.erase(name)
    assert store.salts.reveal(name) is None
    assert store.salts.reveal(again) == "alice@example.org"
    assert before == store.entries(0, 1)


def test_an_error_holds_no_value_and_no_password(store: SQLStore) -> None:
    """What the database says of a broken rule is said without the row that broke it."""

    def break_a_rule() -> None:
        with store.transaction() as transaction:
            transaction.append(event(0, id="one"))
            transaction._next = 0
            transaction.append(event(0, id="two", subject="very private"))

    with pytest.raises(JournalError) as caught:
        break_a_rule()
    assert "very private" not in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        parse_url("mysql://user:hunter2@host/db")
    assert "hunter2" not in str(refused.value)


def test_a_newer_schema_is_refused_in_words(store: SQLStore, url: str) -> None:
    """A store that a newer rotator wrote is not opened."""
    with store._engine.begin() as connection:
        connection.execute(schema_version.update().values(version=SCHEMA_VERSION + 1))
    with pytest.raises(ConfigError, match="newer rotator"):
        SQLStore(url, environment="test")


def test_several_open_an_empty_store_at_once(url: str) -> None:
    """Whoever comes second finds the tables that the first one made."""
    ready = threading.Barrier(4)

    def open_one(_: int) -> int:
        ready.wait()
        opened = SQLStore(url, environment="test")
        try:
            return opened.size()
        finally:
            opened.close()

    with ThreadPoolExecutor(max_workers=4) as pool:
        assert [0] * 4 == list(pool.map(open_one, range(4)))


def test_types_of_event_are_all_stored(store: SQLStore) -> None:
    """Every type of event becomes a record and is read back as it was."""
    with store.transaction() as transaction:
        for number, kind in enumerate(EventType):
            transaction.append(event(number, type=kind))
    assert list(EventType) == [record.event.type for record in records(store)]


def test_a_sighting_is_kept_replaced_and_forgotten(store: SQLStore) -> None:
    """One row a proxy of a trust domain, as it was last seen."""
    first = Sighting(subject=MESH, party=SubjectName("web"), last_leaf_not_after=NOON, served_issuer=None, seen_at=NOON)
    later = replace(first, last_leaf_not_after=NOON + timedelta(hours=1), served_issuer=IssuerId("aa"))
    other = replace(first, party=SubjectName("worker"))
    with store.transaction() as transaction:
        for each in (first, other, later):
            transaction.save(each)
    assert (later, other) == store.sightings()
    with store.transaction() as transaction:
        transaction.forget(later)
    assert (other,) == store.sightings()


def test_an_alert_is_kept_replaced_and_forgotten(store: SQLStore) -> None:
    """One row a key, with who has been told of it as it stands."""
    first = StandingAlert(
        key="web/expired",
        kind=AlertKind.EXPIRED,
        subject=SubjectName("web"),
        severity=Severity.CRITICAL,
        since=NOON,
        summary="web ended",
        raised=True,
        at=NOON + timedelta(seconds=1),
        record_id="r1",
    )
    later = replace(first, raised=False, told=frozenset({"pager", "hook"}))
    other = replace(first, key="worker/expired", subject=SubjectName("worker"))
    with store.transaction() as transaction:
        for each in (first, other, later):
            transaction.save(each)
    assert (later, other) == store.standing_alerts()
    with store.transaction() as transaction:
        transaction.forget(later)
    assert (other,) == store.standing_alerts()


def test_a_store_of_the_first_schema_is_led_on(url: str, open_store: OpenStore) -> None:
    """What the first version wrote is read as it was, and takes what this one writes."""
    old = open_store(url)
    with old.transaction() as transaction:
        transaction.save(rotation(1))
        transaction.append(event(0))
    with old._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE sightings")
        for column in ("may_interrupt", "approved_by", "kubernetes"):
            connection.exec_driver_sql(f"ALTER TABLE rotations DROP COLUMN {column}")
        for table in (
            "requests", "standing_alerts", "terms", "signed", "reports", "platform_changes", "platform_documents"
        ):  # fmt: skip
            connection.exec_driver_sql(f"DROP TABLE {table}")
        connection.execute(schema_version.update().values(version=1))
    led_on = open_store(url)
    assert ((rotation(1),), ()) == (led_on.rotations(), led_on.sightings())
    with led_on.transaction() as transaction:
        transaction.save(rotation(1, may_interrupt=True))
        transaction.save(
            Sighting(subject=MESH, party=SubjectName("web"), last_leaf_not_after=NOON, served_issuer=None, seen_at=NOON)
        )
    assert ((rotation(1, may_interrupt=True),), 1) == (led_on.rotations(), len(led_on.sightings()))
