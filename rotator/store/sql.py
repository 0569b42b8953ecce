"""
Journal and ledger in one database, in one transaction.

Rules that must stay true here:

- Rows and records of a transaction become true together or not at all.
- Sequence numbers have no gaps and follow the order of commits: whoever writes is alone (law 21).
- A transaction's block is its writer's turn: keep it short, and never open another one inside it.
- `JournalError` says that it could not be written, never that it was not: observe again (law 13).
- Once a term has begun, nothing of this process is committed after a later term has (law 14).
- Names and words of people go to the salt store before the transaction that names their commitments commits (law 24).
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from rotator.core.event import Commitment, Event
from rotator.core.model import SubjectKind, SubjectName, TrustDomainName
from rotator.errors import InvariantBroken, JournalError, LedgerTampered
from rotator.evidence.merkle import leaf_hash
from rotator.evidence.record import encode
from rotator.platform.documents import address_json, json_of
from rotator.ports import (
    AppliedDocument,
    Hold,
    Issuance,
    IssuanceState,
    LeaseClaim,
    PlatformChange,
    Request,
    RequestState,
    Rotation,
    RotationState,
    Sighting,
    StandingAlert,
)
from rotator.store import rows
from rotator.store.commits import Batch, Commits
from rotator.store.engine import open_engine, parse_url, reading, writing
from rotator.store.salts import Salted, SaltStore, salted
from rotator.store.tables import (
    bring_up,
    holds,
    is_up_to_date,
    issuances,
    ledger,
    platform_changes,
    platform_documents,
    reports,
    requests,
    rotations,
    sightings,
    signed,
    standing_alerts,
)
from rotator.store.terms import EPOCH, begin_term

# Built once: putting a statement together costs more than running it.
_LAST_SEQ = sa.select(sa.func.max(ledger.c.seq))
_SEQ_OF_ID = sa.select(ledger.c.seq).where(ledger.c.id == sa.bindparam("id"))
_APPEND = ledger.insert()

_FIXED = frozenset({"ordinal"})
"""What a row keeps for life."""


_LAST = sa.select(sa.func.max(ledger.c.seq))


def _after(last: int | None) -> int:
    return 0 if last is None else last + 1


class _Statement:
    """One statement, compiled once for one database: building it anew costs more than running it."""

    def __init__(self, statement: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self._order: Sequence[str] | None = getattr(compiled, "positiontup", None)

    def bound(self, columns: Mapping[str, object]) -> object:
        """Return *columns* as the driver takes them."""
        return columns if self._order is None else tuple(columns[name] for name in self._order)


class _Statements:
    """Everything that a transaction may run."""

    def __init__(self, dialect: sa.Dialect) -> None:
        insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert

        def upsert(*key: sa.Column[str]) -> _Statement:
            table, fixed = key[0].table, {each.name for each in key}
            names = [column.name for column in table.columns if column.name != "ordinal"]
            new = insert(table).values({name: sa.bindparam(name) for name in names})
            others = {name: new.excluded[name] for name in names if name not in fixed}
            return _Statement(new.on_conflict_do_update(index_elements=[*key], set_=others), dialect)

        self.rotation = upsert(rotations.c.id)
        self.issuance = upsert(issuances.c.spki_sha256)
        self.hold = upsert(holds.c.subject)
        self.release = _Statement(holds.delete().where(holds.c.subject == sa.bindparam("name")), dialect)
        self.sighting = upsert(sightings.c.subject, sightings.c.party)
        self.request = upsert(requests.c.id)
        seen = (sightings.c.subject == sa.bindparam("subject"), sightings.c.party == sa.bindparam("party"))
        self.forget = _Statement(sightings.delete().where(*seen), dialect)
        self.alert = upsert(standing_alerts.c.key)
        over = standing_alerts.c.key == sa.bindparam("name")
        self.forget_alert = _Statement(standing_alerts.delete().where(over), dialect)
        self.change = upsert(platform_changes.c.id)
        self.applied = upsert(platform_documents.c.address)
        removed = platform_documents.c.address == sa.bindparam("name")
        self.forget_applied = _Statement(platform_documents.delete().where(removed), dialect)
        self.find = _Statement(sa.select(ledger.c.seq).where(ledger.c.id == sa.bindparam("name")), dialect)
        self.last = _Statement(_LAST, dialect)
        self.append = _Statement(ledger.insert(), dialect)
        self.epoch = _Statement(EPOCH, dialect)
        self.signed = _Statement(
            sa.select(signed.c.size, signed.c.note).where(signed.c.id == sa.literal_column("1")), dialect
        )
        self.keep_signed = upsert(signed.c.id)
        self.keep_report = upsert(reports.c.id)


class SQLTransaction:
    """What becomes true together. Use it only inside its ``with`` block."""

    def __init__(self, batch: Batch, statements: _Statements, *, environment: str, policy_sha256: str | None) -> None:
        self._run = batch.run
        self._statements = statements
        self._environment = environment
        self._policy_sha256 = policy_sha256
        self._next = batch.next_seq
        self.salted: dict[Commitment, Salted] = {}
        """Texts committed to in this transaction, to be kept before it commits."""

    @property
    def next_seq(self) -> int | None:
        """Return the number of the next record, None if this transaction did not need to know."""
        return self._next

    def save(
        self,
        row: Rotation | Issuance | Hold | Sighting | Request | StandingAlert | AppliedDocument | PlatformChange,
    ) -> None:
        """Insert or replace one row by its key (id, spki_sha256, subject, subject with party, id, key, address, id)."""
        match row:
            case Rotation():
                self._execute(self._statements.rotation, rows.from_rotation(row))
            case Issuance():
                self._execute(self._statements.issuance, rows.from_issuance(row))
            case Hold():
                self._execute(self._statements.hold, rows.from_hold(row))
            case Sighting():
                self._execute(self._statements.sighting, rows.from_sighting(row))
            case Request():
                self._execute(self._statements.request, rows.from_request(row))
            case StandingAlert():
                self._execute(self._statements.alert, rows.from_standing_alert(row))
            case AppliedDocument():
                self._execute(self._statements.applied, rows.from_applied_document(row))
            case PlatformChange():
                self._execute(self._statements.change, rows.from_platform_change(row))

    def release(self, subject: SubjectName) -> None:
        """Remove the hold on *subject*."""
        self._execute(self._statements.release, {"name": subject})

    def forget(self, row: Sighting | StandingAlert | AppliedDocument) -> None:
        """Remove the sighting of one party, one alert, or one applied document."""
        match row:
            case Sighting():
                self._execute(self._statements.forget, {"subject": row.subject, "party": row.party})
            case StandingAlert():
                self._execute(self._statements.forget_alert, {"name": row.key})
            case AppliedDocument():
                address = json_of(address_json(row.document.address))
                self._execute(self._statements.forget_applied, {"name": address})

    def append(self, event: Event) -> int:
        """
        Append one evidence record; return its sequence number (gap-free, from 0).

        An event whose ``id`` is already in the ledger is not appended again: its number is returned.
        """
        if event.id is not None:
            known = self._execute(self._statements.find, {"name": event.id}).fetchone()
            if known is not None:
                return int(known[0])
        if self._next is None:
            self._next = _after(self._execute(self._statements.last, {}).fetchone()[0])
        seq, record_id = self._next, event.id or uuid.uuid4().hex
        entry = encode(
            event, seq=seq, record_id=record_id, environment=self._environment, policy_sha256=self._policy_sha256
        )
        self._execute(
            self._statements.append, {"seq": seq, "id": record_id, "leaf_hash": leaf_hash(entry), "entry": entry}
        )
        self._next = seq + 1
        return seq

    def commit_to(self, text: str) -> Commitment:
        """Return a salted commitment to a person's name or words; salt and text go to the salt store."""
        fresh = salted(text)
        self.salted[fresh.commitment] = fresh
        return fresh.commitment

    def _execute(self, statement: _Statement, columns: Mapping[str, object]) -> Any:  # noqa: ANN401 -- a driver's cursor
        return self._run(statement.text, statement.bound(columns))


class SQLStore:
    """
    `rotator.ports.Journal`, `rotator.ports.Requests` and `rotator.ports.Ledger` on SQLite or PostgreSQL.

    Safe from many threads.
    """

    def __init__(self, url: str, *, environment: str, policy_sha256: Callable[[], str | None] = lambda: None) -> None:
        """
        Open the store at *url* and make or lead on its tables.

        Args:
            url: ``sqlite:////path/state.db`` or ``postgresql+psycopg://...``.
            environment: Stands in every record.
            policy_sha256: Asked at each transaction for the hash of the policy in force.

        Raises:
            ConfigError: If the URL cannot be used, or a newer rotator wrote the store.
            JournalError: If the database cannot be opened.
        """
        parsed = parse_url(url)
        self._environment = environment
        self._policy_sha256 = policy_sha256
        self._term: int | None = None
        self._engine = open_engine(parsed)
        keys = (rotations.c.id, issuances.c.spki_sha256, holds.c.subject)
        self._upserts = {key.table.name: _upsert(key, self._engine.dialect.name) for key in keys}
        with contextlib.ExitStack() as undo:
            undo.callback(self._engine.dispose)
            doing = f"open the store {parsed.render_as_string(hide_password=True)}"
            # A standby opens it while the leader writes, or while a stopped one holds the writers' lock.
            with reading(self._engine, doing) as connection:
                is_made = is_up_to_date(connection)
            if not is_made:
                with writing(self._engine, doing) as connection:
                    bring_up(connection)
            self.salts = SaltStore(parsed)
            self._statements = _Statements(self._engine.dialect)
            self._commits = Commits(self._engine, "write to the journal")
            undo.pop_all()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        self.salts.close()

    # --- journal --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SQLTransaction]:
        """Open one transaction: committed when the block ends, nothing kept when it raises."""
        with self._commits.member() as batch:
            self._fence(batch)
            transaction = SQLTransaction(
                batch, self._statements, environment=self._environment, policy_sha256=self._policy_sha256()
            )
            yield transaction
            if transaction.salted:
                # Before the commit: a salt that nothing names harms nobody, a name that nothing can reveal is lost.
                self.salts.keep(transaction.salted)
            batch.next_seq = transaction.next_seq

    # --- terms --------------------------------------------------------------------------------------------------------

    def begin_term(self, claim: LeaseClaim, *, held: Callable[[], bool]) -> int:
        """
        Lead from now on; return the term's epoch. Every earlier term's writes are refused from here on.

        *held* says, as the last thing, whether the lease is still this process's.

        Raises:
            InvariantBroken: If it is not, or a later holder of that lease has begun a term already.
            JournalError: If the database does not answer.
        """
        self._term = begin_term(self._engine, claim, held=held)
        return self._term

    def _fence(self, batch: Batch) -> None:
        """Refuse to write if a later term has begun; the writers' lock is held, so the answer stays true."""
        if self._term is None or batch.fenced:
            return
        found = batch.run(self._statements.epoch.text, self._statements.epoch.bound({})).fetchone()
        if found is None or int(found[0]) != self._term:
            raise InvariantBroken(14, "another process leads since, so this one must not write any more")
        batch.fenced = True

    # --- signed checkpoints -----------------------------------------------------------------------------------------

    def last_signed(self) -> bytes | None:
        """Return the signed note of the last checkpoint, whoever signed it; None before the first."""
        query = sa.select(signed.c.note).where(signed.c.id == 1)
        with reading(self._engine, "read the last checkpoint") as connection:
            found = connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def keep_signed(self, size: int, note: bytes) -> None:
        """
        Keep *note*, which signs *size* records, in place of the one before. The same one again is no error.

        Raises:
            LedgerTampered: If as many or more records were signed already, by another note.
            InvariantBroken: If another process leads since: it signs from now on.
        """
        with self._commits.member() as batch:
            self._fence(batch)
            found = batch.run(self._statements.signed.text, self._statements.signed.bound({})).fetchone()
            if found is not None and (int(found[0]), bytes(found[1])) == (size, note):
                return
            if found is not None and int(found[0]) >= size:
                raise LedgerTampered(f"{found[0]} records were signed already, by another replica or key: not {size}")
            row = {"id": 1, "size": size, "note": note}
            batch.run(self._statements.keep_signed.text, self._statements.keep_signed.bound(row))

    # --- what the leader says ---------------------------------------------------------------------------------------

    def keep_report(self, content: bytes) -> None:
        """Keep the leader's status in place of the one before. Raises `InvariantBroken` if another process leads."""
        with self._commits.member() as batch:
            self._fence(batch)
            batch.run(
                self._statements.keep_report.text, self._statements.keep_report.bound({"id": 1, "content": content})
            )

    def last_report(self) -> bytes | None:
        """Return the status that a leader kept last; None before the first."""
        with reading(self._engine, "read the leader's status") as connection:
            found = connection.execute(sa.select(reports.c.content).where(reports.c.id == 1)).scalar()
        return None if found is None else bytes(found)

    def rotations(
        self, *, state: RotationState | None = None, subject: SubjectName | None = None, last_ended: bool = False
    ) -> tuple[Rotation, ...]:
        """Return rotations, oldest first; with *last_ended* only the newest of each subject that has ended."""
        query = sa.select(rotations).order_by(rotations.c.ordinal)
        if state is not None:
            query = query.where(rotations.c.state == state.value)
        if subject is not None:
            query = query.where(rotations.c.subject == subject)
        if last_ended:
            ended = sa.select(sa.func.max(rotations.c.ordinal)).where(rotations.c.state != RotationState.OPEN.value)
            query = query.where(rotations.c.ordinal.in_(ended.group_by(rotations.c.subject)))
        with reading(self._engine, "read rotations") as connection, _readable("a rotation"):
            return tuple(rows.to_rotation(row) for row in connection.execute(query))

    def issuances(
        self, *, states: frozenset[IssuanceState], subject: SubjectName | None = None
    ) -> tuple[Issuance, ...]:
        """Return certificate orders in the given states, oldest first."""
        wanted = sorted(state.value for state in states)
        query = sa.select(issuances).where(issuances.c.state.in_(wanted)).order_by(issuances.c.ordinal)
        if subject is not None:
            query = query.where(issuances.c.subject == subject)
        with reading(self._engine, "read certificate orders") as connection, _readable("a certificate order"):
            return tuple(rows.to_issuance(row) for row in connection.execute(query))

    def holds(self) -> tuple[Hold, ...]:
        """Return every pause, also those whose time is over."""
        with reading(self._engine, "read holds") as connection:
            return tuple(rows.to_hold(row) for row in connection.execute(sa.select(holds).order_by(holds.c.subject)))

    def sightings(self) -> tuple[Sighting, ...]:
        """Return every sighting, by subject and party."""
        query = sa.select(sightings).order_by(sightings.c.subject, sightings.c.party)
        with reading(self._engine, "read sightings") as connection:
            return tuple(rows.to_sighting(row) for row in connection.execute(query))

    def standing_alerts(self) -> tuple[StandingAlert, ...]:
        """Return every alert that is raised, or whose end somebody does not know yet, by key."""
        query = sa.select(standing_alerts).order_by(standing_alerts.c.key)
        with reading(self._engine, "read alerts") as connection, _readable("an alert"):
            return tuple(rows.to_standing_alert(row) for row in connection.execute(query))

    # --- the platform -----------------------------------------------------------------------------------------------

    def applied_documents(self) -> tuple[AppliedDocument, ...]:
        """Return every document of the platform that was applied and not removed, by address."""
        query = sa.select(platform_documents).order_by(platform_documents.c.address)
        with reading(self._engine, "read applied documents") as connection, _readable("an applied document"):
            return tuple(rows.to_applied_document(row) for row in connection.execute(query))

    def platform_change(self, change_id: str) -> PlatformChange | None:
        """Return one change of the platform, None if it is not known."""
        query = sa.select(platform_changes).where(platform_changes.c.id == change_id)
        with reading(self._engine, "read a change") as connection, _readable("a change"):
            row = connection.execute(query).one_or_none()
            return None if row is None else rows.to_platform_change(row)

    def last_platform_changes(self, count: int) -> tuple[PlatformChange, ...]:
        """Return the newest *count* changes of the platform, newest first."""
        query = sa.select(platform_changes).order_by(platform_changes.c.ordinal.desc()).limit(count)
        with reading(self._engine, "read changes") as connection, _readable("a change"):
            return tuple(rows.to_platform_change(row) for row in connection.execute(query))

    def last_platform_rotations(self, count: int) -> tuple[Rotation, ...]:
        """Return the rotations of the newest *count* changes of the platform, oldest first."""
        newest = sa.select(platform_changes.c.id).order_by(platform_changes.c.ordinal.desc()).limit(count)
        query = sa.select(rotations).where(rotations.c.id.in_(newest)).order_by(rotations.c.ordinal)
        with reading(self._engine, "read rotations") as connection, _readable("a rotation"):
            return tuple(rows.to_rotation(row) for row in connection.execute(query))

    def last_generation(self, trust_domain: TrustDomainName) -> int:
        """Return the highest generation number ever used for *trust_domain*, 0 for none."""
        used = sa.select(
            sa.func.max(sa.func.coalesce(rotations.c.from_generation, 0)),
            sa.func.max(sa.func.coalesce(rotations.c.to_generation, 0)),
        ).where(rotations.c.subject == trust_domain, rotations.c.kind == SubjectKind.TRUST_DOMAIN.value)
        with reading(self._engine, "read generations") as connection:
            before, after = connection.execute(used).one()
        return max(before or 0, after or 0)

    # --- what people asked ----------------------------------------------------------------------------------------

    def request(self, request_id: str) -> Request | None:
        """Return the request *request_id*, None if it is not known."""
        query = sa.select(requests).where(requests.c.id == request_id)
        with reading(self._engine, "read a request") as connection, _readable("a request"):
            row = connection.execute(query).one_or_none()
            return None if row is None else rows.to_request(row)

    def requests(self, state: RequestState) -> tuple[Request, ...]:
        """Return every request in *state*, oldest first."""
        query = sa.select(requests).where(requests.c.state == state.value).order_by(requests.c.ordinal)
        with reading(self._engine, "read requests") as connection, _readable("a request"):
            return tuple(rows.to_request(row) for row in connection.execute(query))

    def rotation(self, rotation_id: str) -> Rotation | None:
        """Return the rotation *rotation_id*, None if it is not known."""
        query = sa.select(rotations).where(rotations.c.id == rotation_id)
        with reading(self._engine, "read a rotation") as connection, _readable("a rotation"):
            row = connection.execute(query).one_or_none()
            return None if row is None else rows.to_rotation(row)

    def reveal(self, commitment: Commitment) -> str | None:
        """Return the text behind *commitment*; None if it was erased."""
        return self.salts.reveal(commitment)

    # --- ledger ---------------------------------------------------------------------------------------------------

    def size(self) -> int:
        """Return how many records are committed."""
        with reading(self._engine, "read the ledger") as connection:
            return _after(connection.execute(_LAST).scalar())

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """Return the canonical bytes of records ``start <= seq < stop``."""
        query = sa.select(ledger.c.entry).where(ledger.c.seq >= start, ledger.c.seq < stop).order_by(ledger.c.seq)
        with reading(self._engine, "read the ledger") as connection:
            return [bytes(entry) for entry in connection.execute(query).scalars()]


def _upsert(key: sa.Column[str], dialect: str) -> sa.Executable:
    """Return the statement that inserts a row, or replaces all of it but its number where *key* is there already."""
    table = key.table
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    others = {column.name: insert.excluded[column.name] for column in table.columns if column.name not in _FIXED}
    return insert.on_conflict_do_update(index_elements=[key], set_=others)


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as e:
        raise JournalError(f"{what} in the store is not readable by this version") from e
