"""
One SQLAlchemy engine per store, and the end of SQLAlchemy's exceptions.

Rules that must stay true here:

- SQLite: write-ahead log, synced at every commit, one writer (``BEGIN IMMEDIATE``), a bounded wait for its lock.
- PostgreSQL: every statement and every wait for a lock is bounded; writers queue on one advisory lock, so that
  sequence numbers follow commits.
- Nobody outside `rotator.store` sees an exception of SQLAlchemy; no message holds a value or a password.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from rotator.errors import ConfigError, JournalError
from rotator.store.passfile import password_in

BUSY_SECONDS = 5
"""How long a statement waits for another process's lock. The step that could not be written is tried again later."""

WRITER_LOCK = 0x726F7461746F72
"""The advisory lock of PostgreSQL that writers hold for the length of a transaction: "rotator" in ASCII."""

Run = Callable[..., Any]
"""Executes one statement, given as text and its parameters; returns the driver's cursor."""

_BEGIN_ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": f"SELECT pg_advisory_xact_lock({WRITER_LOCK})"}
_READ_ONLY = "rotator_reads"
_IDLE_CONNECTIONS = 4
_POSTGRESQL_PORT = 5432
_MORE_CONNECTIONS = 60
"""As many as there may be worker threads; each closes after use."""


def parse_url(url: str) -> URL:
    """
    Return *url* taken apart.

    Raises:
        ConfigError: If it is neither a SQLite file nor PostgreSQL by psycopg. The message never holds its password.
    """
    try:
        found = make_url(url)
    except ArgumentError as e:
        raise ConfigError("the store's URL cannot be read (sqlite:////path or postgresql+psycopg://...)") from e
    match found.drivername:
        case "sqlite" if found.database and found.database != ":memory:":
            return found
        case "postgresql" | "postgresql+psycopg":
            return found.set(drivername="postgresql+psycopg")
        case other:
            raise ConfigError(f"the store cannot be {other}: sqlite:////path or postgresql+psycopg://...")


def open_engine(url: URL, *, erasable: bool = False) -> sa.Engine:
    """
    Return an engine for *url*; a SQLite file is made (0600) if it is not there.

    *erasable* is for salts: what is deleted is overwritten, and no write-ahead log keeps a copy.

    Raises:
        JournalError: If the file cannot be made.
        ConfigError: If the PostgreSQL driver is not installed.
    """
    if url.drivername == "sqlite":
        return _sqlite(Path(url.database or ""), erasable=erasable)
    bounds = (
        f"-c statement_timeout={BUSY_SECONDS * 2}s -c lock_timeout={BUSY_SECONDS}s"
        # A process that was stopped in the middle of a transaction must not keep the others out for ever.
        f" -c idle_in_transaction_session_timeout={BUSY_SECONDS * 4}s"
    )
    passfile = url.query.get("passfile")
    try:
        engine = sa.create_engine(
            url.difference_update_query(["passfile"]),
            hide_parameters=True,
            pool_size=_IDLE_CONNECTIONS,
            max_overflow=_MORE_CONNECTIONS,
            pool_timeout=BUSY_SECONDS,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": BUSY_SECONDS,
                "options": bounds,
                "application_name": "rotator",
                # A server that vanished without a word is noticed within these.
                "tcp_user_timeout": BUSY_SECONDS * 2000,
                "keepalives_idle": BUSY_SECONDS,
            },
        )
    except ModuleNotFoundError as e:
        raise ConfigError("PostgreSQL needs its driver: pip install 'rotator[postgresql]'") from e
    if isinstance(passfile, str):
        _use_passwords_of(Path(passfile), engine)
    return engine


def _use_passwords_of(file: Path, engine: sa.Engine) -> None:
    """Let *engine* take the password from *file* at each connection; raises `ConfigError` if it cannot be read now."""
    url = engine.url

    def password() -> str | None:
        return password_in(
            file,
            host=url.host or "localhost",
            port=url.port or _POSTGRESQL_PORT,
            database=url.database or "",
            user=url.username or "",
        )

    def connect(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        try:
            found = password()
        except ConfigError as e:
            # While it runs this is a store that cannot be reached: it is tried again.
            raise JournalError(str(e)) from e
        if found is not None:
            parameters["password"] = found

    password()
    event.listen(engine, "do_connect", connect)


def _sqlite(path: Path, *, erasable: bool) -> sa.Engine:
    try:
        # The names in it are nobody else's business; SQLite would take the umask's word.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as e:
        raise JournalError(f"cannot open the store {path}: {e.strerror}") from e
    engine = sa.create_engine(
        URL.create("sqlite", database=str(path)),
        hide_parameters=True,
        pool_size=_IDLE_CONNECTIONS,
        max_overflow=_MORE_CONNECTIONS,
        pool_timeout=BUSY_SECONDS,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    def configure(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # The driver's own guesses about when to begin are turned off; `begin` below says it.
        connection.isolation_level = None
        _keep_journal(connection, path, "delete" if erasable else "wal")
        connection.execute("PRAGMA synchronous=FULL").close()
        connection.execute(f"PRAGMA secure_delete={'ON' if erasable else 'OFF'}").close()

    def begin(connection: sa.Connection) -> None:
        # A deferred transaction that comes to write after another one has written fails at once: take the lock first.
        reads = connection.get_execution_options().get(_READ_ONLY)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


def _keep_journal(connection: sqlite3.Connection, path: Path, mode: str) -> None:
    """
    Have the file at *path* keep its journal as *mode* says, which stays with the file.

    Two that change it at the same moment would each wait for the other: SQLite refuses one of them at once, whatever
    its time-out. So whoever has to change it does so alone.
    """
    if connection.execute("PRAGMA journal_mode").fetchone() == (mode,):
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        connection.execute(f"PRAGMA journal_mode={mode}").close()
    finally:
        os.close(directory)


@contextlib.contextmanager
def reading(engine: sa.Engine, doing: str) -> Iterator[sa.Connection]:
    """Open a transaction that only reads; *doing* completes "cannot ..."."""
    with translated(doing), engine.connect() as plain:
        connection = plain.execution_options(**{_READ_ONLY: True})
        with connection.begin():
            yield connection


@contextlib.contextmanager
def writing(engine: sa.Engine, doing: str, *, alone: bool = True) -> Iterator[sa.Connection]:
    """
    Open a transaction that writes; it commits when the block ends and leaves nothing when it raises.

    *alone* queues it behind other writers on PostgreSQL too (on SQLite every writer is alone).
    """
    with translated(doing), engine.begin() as connection:
        if alone and connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITER_LOCK)))
        yield connection


@contextlib.contextmanager
def writing_plainly(engine: sa.Engine, doing: str) -> Iterator[Run]:
    """
    Open a transaction as `writing` does, alone, and give the driver's own way to execute.

    For statements that were compiled once: SQLAlchemy would only take its time over them.
    """
    with translated(doing, driver_error(engine)):
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(_BEGIN_ALONE[engine.dialect.name])
            yield cursor.execute
            connection.commit()
        finally:
            # Rolls back what was not committed, and closes a connection that cannot even do that.
            connection.close()


def driver_error(engine: sa.Engine) -> type[Exception]:
    """Return what every error of the driver is."""
    found: type[Exception] = engine.dialect.loaded_dbapi.Error
    return found


@contextlib.contextmanager
def translated(doing: str, driver: type[Exception] = sqlite3.Error) -> Iterator[None]:
    """
    Run database calls; *doing* completes "cannot ...".

    *driver* is the error of a driver that is spoken to directly: SQLAlchemy wraps only what it calls itself.

    A commit whose answer was lost raises too: `JournalError` never means that nothing was written.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, driver) as e:
        raise JournalError(f"cannot {doing}: {_first_words(e)}") from e


def _first_words(error: Exception) -> str:
    """Return the driver's own first line: the lines after it may quote values."""
    cause: Any = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0][:200].rstrip(".").lower()
