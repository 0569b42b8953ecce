"""
What a commitment stands for: the one place where a person's name and words are kept, and can be erased.

Rules that must stay true here:

- A commitment is SHA-256 over a random 32-byte salt and the text: without the salt it cannot be guessed back, and two
  commitments to one name do not match.
- Erasing removes salt and text from the disk; the records, and every proof over them, stay as they are (law 24).
- Kept in a database of its own (beside a SQLite store), so that copies of the ledger go out without it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL

from rotator.core.event import Commitment
from rotator.store.engine import open_engine, reading, translated, writing
from rotator.store.tables import salts, salts_metadata

SALT_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Salted:
    """A text beside its salt."""

    salt: bytes
    text: str

    @property
    def commitment(self) -> Commitment:
        """Return what stands for it in the ledger."""
        return Commitment(f"sha256:{hashlib.sha256(self.salt + self.text.encode()).hexdigest()}")


def salted(text: str) -> Salted:
    """Return *text* with a salt of its own."""
    return Salted(salt=secrets.token_bytes(SALT_BYTES), text=text)


class SaltStore:
    """The erasable side of the ledger."""

    def __init__(self, store: URL) -> None:
        """Open ``salts.db`` beside the SQLite file *store*, or the table ``salts`` in the PostgreSQL database."""
        url = store
        if store.drivername == "sqlite":
            url = store.set(database=str(Path(store.database or "").with_name("salts.db")))
        self._engine = open_engine(url, erasable=True)
        # Looked at first: opening must not wait for whoever writes at this moment.
        with reading(self._engine, "open the salts") as connection:
            is_made = sa.inspect(connection).has_table(salts.name)
        if not is_made:
            with writing(self._engine, "open the salts") as connection:
                salts_metadata.create_all(connection)

    def keep(self, fresh: Mapping[Commitment, Salted]) -> None:
        """Keep *fresh* durably. Raises `JournalError` if that fails."""
        rows = [{"commitment": name, "salt": value.salt, "text": value.text} for name, value in fresh.items()]
        # Not alone: the transaction that names these commitments is waiting, and holds the writers' lock.
        with writing(self._engine, "keep the salt of a commitment", alone=False) as connection:
            connection.execute(salts.insert(), rows)

    def reveal(self, commitment: Commitment) -> str | None:
        """Return the text behind *commitment*; None if it was erased or never made here."""
        found = self._find(commitment)
        return found.text if found and hmac.compare_digest(found.commitment, commitment) else None

    def salt(self, commitment: Commitment) -> bytes | None:
        """Return the salt of *commitment*, for an auditor who knows the text; None if it was erased."""
        found = self._find(commitment)
        return found.salt if found else None

    def erase(self, commitment: Commitment) -> bool:
        """Remove salt and text of *commitment* from the disk for good; return whether they were there."""
        with writing(self._engine, "erase a salt", alone=False) as connection:
            gone = connection.execute(salts.delete().where(salts.c.commitment == commitment)).rowcount
        if self._engine.dialect.name == "postgresql":
            # A deleted row's bytes stay in the table until it is vacuumed.
            with translated("erase a salt"), self._engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM FULL salts")
        return gone > 0

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _find(self, commitment: Commitment) -> Salted | None:
        with reading(self._engine, "read a salt") as connection:
            row = connection.execute(sa.select(salts).where(salts.c.commitment == commitment)).one_or_none()
        return None if row is None else Salted(salt=row.salt, text=row.text)
