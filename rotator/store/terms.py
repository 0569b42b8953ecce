"""
Who leads, as the database knows it: writes of a term that is over are refused inside their own transaction (law 14).

Rules that must stay true here:

- A term begins in a transaction that is alone, like every one that writes: whoever wrote before it has committed, and
  whoever writes after it as an older term is refused. So writes of two terms never mix.
- A process that was stopped, or cut off, in the middle of a transaction holds the writers' lock with its session. Its
  successor does not wait for it: the database server ends that session, and what it had not committed is gone.
- Of two holders of one lease, the later one is known by its number: the earlier one cannot begin a term any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import sqlalchemy as sa

from rotator.errors import InvariantBroken, JournalError
from rotator.ports import LeaseClaim
from rotator.store.engine import WRITER_LOCK, translated, writing
from rotator.store.tables import terms

_BEGINNING = "begin a term"
_TRIES = 5
_PATIENCE = sa.text("SET LOCAL lock_timeout = '1s'")

_END_THE_WRITER = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND ((classid::bigint << 32) | objid::bigint) = :lock AND pid <> pg_backend_pid()"
)

EPOCH = sa.select(terms.c.epoch).where(terms.c.id == sa.literal_column("1"))


def begin_term(engine: sa.Engine, claim: LeaseClaim, *, held: Callable[[], bool]) -> int:
    """
    Begin a term for whoever holds *claim* and return its epoch, greater than every one before.

    *held* is asked as the last thing before it is committed.

    Raises:
        InvariantBroken: If the lease is not held, or a later holder of it has begun a term.
        JournalError: If the database does not answer.
    """
    for _ in range(_TRIES):
        if engine.dialect.name != "postgresql" or _may_write_soon(engine):
            break
        _end_the_writer(engine)
    with writing(engine, _BEGINNING) as connection:
        before = connection.execute(sa.select(terms).where(terms.c.id == 1)).one_or_none()
        if before is not None and before.lease == claim.lease and before.number > claim.number:
            raise InvariantBroken(14, f"{before.holder} has led since this process took the lease")
        row = {
            "epoch": 1 if before is None else before.epoch + 1,
            "holder": claim.holder,
            "lease": claim.lease,
            "number": claim.number,
        }
        if before is None:
            connection.execute(terms.insert().values(id=1, **row))
        else:
            connection.execute(terms.update().where(terms.c.id == 1).values(**row))
        if not held():
            raise InvariantBroken(14, "the lease was lost before the term began")
    return int(str(row["epoch"]))


def _may_write_soon(engine: sa.Engine) -> bool:
    """Return whether the writers' lock comes free within a second."""
    with contextlib.suppress(JournalError), translated(_BEGINNING), engine.begin() as connection:
        connection.execute(_PATIENCE)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITER_LOCK)))
        return True
    return False


def _end_the_writer(engine: sa.Engine) -> None:
    """Have the server end the session that holds the writers' lock: its process does not commit."""
    with translated(_BEGINNING), engine.begin() as connection:
        connection.execute(_END_THE_WRITER, {"lock": WRITER_LOCK})
