"""
Tables of journal, ledger and salts, and the versions of their schema.

Rules that must stay true here:

- The ledger is append-only, and the database itself says so: triggers refuse every change, removal and gap.
- A schema is changed by adding a version to `MIGRATIONS`, never by editing one that has been released.
- A schema newer than this program is refused in words, not guessed at.
- Moments are whole microseconds since 1970 in UTC: the same number on every database.
"""

from __future__ import annotations

import sqlalchemy as sa

from rotator.errors import ConfigError

SCHEMA_VERSION = 7

# SQLite gives row numbers to "INTEGER PRIMARY KEY" alone.
_Ordinal = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()

schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))

rotations = sa.Table(
    "rotations",
    metadata,
    sa.Column("ordinal", _Ordinal, sa.Identity(), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("intent", sa.Text, nullable=False),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("opened_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    sa.Column("emergency", sa.Boolean, nullable=False),
    sa.Column("reason_commitment", sa.Text),
    sa.Column("requested_by", sa.Text),
    sa.Column("ticket", sa.Text),
    sa.Column("from_generation", sa.Integer),
    sa.Column("to_generation", sa.Integer),
    sa.Column("trust_published_at", sa.BigInteger),
    sa.Column("activated_at", sa.BigInteger),
    sa.Column("roll_started_at", sa.BigInteger),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("may_interrupt", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("approved_by", sa.Text, nullable=False, server_default=""),
    sa.Column("kubernetes", sa.Text),
    # Finished rotations pile up; a sweep asks for the open ones.
    sa.Index("rotations_state", "state", "ordinal"),
    sa.Index("rotations_subject", "subject", "ordinal"),
    sqlite_autoincrement=True,
)

issuances = sa.Table(
    "issuances",
    metadata,
    sa.Column("ordinal", _Ordinal, sa.Identity(), primary_key=True),
    sa.Column("spki_sha256", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("trust_domain", sa.Text, nullable=False),
    sa.Column("rotation_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("asked_at", sa.BigInteger, nullable=False),
    sa.Column("signer", sa.Text),
    sa.Column("serial", sa.Text),
    sa.Column("not_after", sa.BigInteger),
    # A sweep asks for the live ones of ten thousand subjects at once, never one subject at a time.
    sa.Index("issuances_state", "state", "ordinal"),
    sa.Index("issuances_subject", "subject", "state", "ordinal"),
    sqlite_autoincrement=True,
)

holds = sa.Table(
    "holds",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("past_safety_line", sa.Boolean, nullable=False),
)

sightings = sa.Table(
    "sightings",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("party", sa.Text, primary_key=True),
    sa.Column("last_leaf_not_after", sa.BigInteger, nullable=False),
    sa.Column("served_issuer", sa.Text),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("ordinal", _Ordinal, sa.Identity(), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("asked_for", sa.Text, nullable=False),
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("words", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("asked_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("needed", sa.Integer, nullable=False),
    sa.Column("approved_by", sa.Text, nullable=False),
    sa.Column("rotations", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("kubernetes", sa.Text),
    # A sweep asks for those that wait.
    sa.Index("requests_state", "state", "ordinal"),
    sqlite_autoincrement=True,
)

standing_alerts = sa.Table(
    "standing_alerts",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("raised", sa.Boolean, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("record_id", sa.Text, nullable=False),
    # Names of receivers, one a line.
    sa.Column("told", sa.Text, nullable=False),
)

# What one change of the platform writes; who asked for it and how it stands is in the rotation of the same id.
platform_changes = sa.Table(
    "platform_changes",
    metadata,
    sa.Column("ordinal", _Ordinal, sa.Identity(), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("undoes", sa.Text),
    # Every document before and after, as JSON: what it takes to undo it.
    sa.Column("steps", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

# The platform's documents as they were applied last: what drift is judged by.
platform_documents = sa.Table(
    "platform_documents",
    metadata,
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("stood_sha256", sa.Text, nullable=False),
    sa.Column("change", sa.Text, nullable=False),
    sa.Column("applied_at", sa.BigInteger, nullable=False),
)

# One row: who leads now. A transaction of an older term is refused (law 14).
terms = sa.Table(
    "terms",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("lease", sa.Text),
    sa.Column("number", sa.BigInteger),
)

# One row: the last signed checkpoint, where every replica finds it. The log on a disk may be behind it, never ahead.
signed = sa.Table(
    "signed",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("note", sa.LargeBinary, nullable=False),
)

# One row: the leader's own status, so that a standby can show it. It names no person (law 24).
reports = sa.Table(
    "reports",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
    sa.Column("entry", sa.LargeBinary, nullable=False),
)

# The salts stand in a database of their own, so that they can be erased and left out of copies (law 24).
salts_metadata = sa.MetaData()

salts = sa.Table(
    "salts",
    salts_metadata,
    sa.Column("commitment", sa.Text, primary_key=True),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

_SQLITE_GUARDS = (
    """CREATE TRIGGER ledger_never_changes BEFORE UPDATE ON ledger
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_never_shrinks BEFORE DELETE ON ledger
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_has_no_gaps BEFORE INSERT ON ledger
       WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq) + 1, 0) FROM ledger)
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)

_POSTGRESQL_GUARDS = (
    """CREATE FUNCTION ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$""",
    """CREATE FUNCTION ledger_follows() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN
         IF NEW.seq IS DISTINCT FROM (SELECT COALESCE(MAX(seq) + 1, 0) FROM ledger) THEN
           RAISE EXCEPTION 'the ledger is append-only';
         END IF;
         RETURN NEW;
       END $$""",
    """CREATE TRIGGER ledger_never_shrinks BEFORE UPDATE OR DELETE ON ledger
       FOR EACH ROW EXECUTE FUNCTION ledger_refuses()""",
    """CREATE TRIGGER ledger_is_never_emptied BEFORE TRUNCATE ON ledger
       FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuses()""",
    """CREATE TRIGGER ledger_has_no_gaps BEFORE INSERT ON ledger
       FOR EACH ROW EXECUTE FUNCTION ledger_follows()""",
)

MIGRATIONS: dict[int, tuple[str | sa.Table, ...]] = {
    2: (
        "ALTER TABLE rotations ADD COLUMN may_interrupt BOOLEAN NOT NULL DEFAULT FALSE",
        """CREATE TABLE sightings (
           subject TEXT NOT NULL, party TEXT NOT NULL, last_leaf_not_after BIGINT NOT NULL,
           served_issuer TEXT, seen_at BIGINT NOT NULL, PRIMARY KEY (subject, party))""",
    ),
    3: (
        "ALTER TABLE rotations ADD COLUMN approved_by TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE rotations ADD COLUMN kubernetes TEXT",
        requests,
    ),
    4: (standing_alerts,),
    5: (terms, signed),
    6: (reports,),
    7: (platform_changes, platform_documents),
}
"""Statements, and tables to make, that lead from the version before to the one named; version 1 is made whole."""


def is_up_to_date(connection: sa.Connection) -> bool:
    """Return whether nothing needs to be made: reading it waits for nobody's lock."""
    if not sa.inspect(connection).has_table(schema_version.name):
        return False
    return connection.execute(sa.select(schema_version.c.version)).scalar() == SCHEMA_VERSION


def bring_up(connection: sa.Connection) -> None:
    """
    Make the tables, or lead an older schema to `SCHEMA_VERSION`, inside the caller's transaction.

    Raises:
        ConfigError: If the schema is newer than this program.
    """
    if not sa.inspect(connection).has_table(schema_version.name):
        metadata.create_all(connection)
        guards = _SQLITE_GUARDS if connection.dialect.name == "sqlite" else _POSTGRESQL_GUARDS
        for statement in guards:
            connection.exec_driver_sql(statement)
        connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
        return
    found: int = connection.execute(sa.select(schema_version.c.version)).scalar_one()
    if found > SCHEMA_VERSION:
        raise ConfigError(
            f"the store was written by a newer rotator (schema {found}, this one knows {SCHEMA_VERSION}): "
            "run that version, or restore the store as it was before"
        )
    for version in range(found + 1, SCHEMA_VERSION + 1):
        for step in MIGRATIONS[version]:
            if isinstance(step, sa.Table):
                step.create(connection)
            else:
                connection.exec_driver_sql(step)
    connection.execute(schema_version.update().values(version=SCHEMA_VERSION))
