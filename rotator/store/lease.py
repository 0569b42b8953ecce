"""
The right to change the world, held by one process at a time (law 14).

Rules that must stay true here:

- A lease ends with its process, however that ends: the kernel, or the database server, takes it back.
- `held` asks who really knows (the file's own lock, the database session), never a flag of ours alone.
- Who comes second is told who holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from rotator.errors import Conflict, JournalError
from rotator.store.engine import open_engine, parse_url, translated

LEASE_LOCK = 0x6C65617365
"""The advisory lock of PostgreSQL that the holder's session keeps: "lease" in ASCII."""

_MAX_NAME_BYTES = 4096


class Announcement:
    """Whom to tell that a lease is lost."""

    def __init__(self) -> None:
        self.told: Callable[[], None] | None = None

    def tell(self) -> None:
        """Tell it, if anybody wants to know."""
        if self.told is not None:
            self.told()


class FileLease:
    """A lock on a file, for stores that are a file: whoever shares it is on the same machine."""

    def __init__(self, path: Path) -> None:
        """Lock *path*, which is made and stays; it says who holds it, for people."""
        self._path = path
        self._handle: int | None = None
        self._holder: str | None = None
        self._lost = Announcement()
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """
        Take the lease; taking it twice is no error.

        Raises:
            Conflict: If another process holds it; it is named.
            JournalError: If the file cannot be made.
        """
        with self._lock:
            if self._handle is not None:
                return
            try:
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as e:
                raise JournalError(f"cannot open the lease {self._path}: {e.strerror}") from e
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                name = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
                os.ftruncate(handle, 0)
                os.pwrite(handle, name, 0)
            except BlockingIOError as e:
                self._holder = _holder(handle)
                os.close(handle)
                raise Conflict(f"{self._holder} holds {self._path}: one rotator at a time works on one store") from e
            except OSError as e:
                os.close(handle)
                raise JournalError(f"cannot write the lease {self._path}: {e.strerror}") from e
            self._handle = handle
            self._holder = f"process {os.getpid()} on {socket.gethostname()}"

    def held(self) -> bool:
        """Return whether it is held: the lock is ours and the file is still the one that others would lock."""
        with self._lock:
            if self._handle is None:
                return False
            if self._is_the_file(self._handle):
                return True
        self._lost.tell()
        return False

    def release(self) -> None:
        """Give it back; giving it back twice is no error. The file stays: removing it would let two hold it."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None
                self._holder = None

    def holder(self) -> str | None:
        """Return who held it when this process last tried to take it, None if nobody was met."""
        return self._holder

    def when_lost(self, told: Callable[[], None]) -> None:
        """Have *told* called when `held` finds that it is lost."""
        self._lost.told = told

    def _is_the_file(self, handle: int) -> bool:
        try:
            ours, theirs = os.fstat(handle), self._path.stat()
        except OSError:
            return False
        # Removed and made anew, the file could be locked by somebody else beside us.
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def _holder(handle: int) -> str:
    try:
        name = json.loads(os.pread(handle, _MAX_NAME_BYTES, 0))
        return f"process {name['pid']} on {name['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


class DatabaseLease:
    """An advisory lock of one PostgreSQL session, for stores that several replicas share."""

    def __init__(self, url: URL) -> None:
        """Hold the lease in a session of its own at *url*. Nothing is opened before `acquire`."""
        self._engine = open_engine(url)
        self._session: sa.Connection | None = None
        self._named: str | None = None
        self._lost = Announcement()
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """
        Take the lease; taking it twice is no error.

        Raises:
            Conflict: If another session holds it; it is named.
            JournalError: If the database does not answer.
        """
        with self._lock:
            if self._session is not None and self._alive(self._session):
                return
            self._drop()
            with translated("take the lease"), contextlib.ExitStack() as undo:
                session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                undo.callback(session.close)
                name = f"rotator {socket.gethostname()} pid {os.getpid()}"[:63]
                session.execute(sa.select(sa.func.set_config("application_name", name, False)))
                if not session.execute(sa.select(sa.func.pg_try_advisory_lock(LEASE_LOCK))).scalar_one():
                    self._named = self._holder(session)
                    raise Conflict(f"{self._named} holds the store: one rotator at a time works on one store")
                undo.pop_all()
            self._session = session
            self._named = name

    def held(self) -> bool:
        """Return whether the session that holds it still lives, by asking the server through it."""
        with self._lock:
            if self._session is None:
                return False
            if self._alive(self._session):
                return True
            # The server has given the lock up with the session: whoever has it now, it is not this process.
            self._drop()
        self._lost.tell()
        return False

    def release(self) -> None:
        """Give it back by ending the session; giving it back twice is no error."""
        with self._lock:
            self._drop()
            self._named = None

    def holder(self) -> str | None:
        """Return who held it when this process last tried to take it, None if nobody was met."""
        return self._named

    def when_lost(self, told: Callable[[], None]) -> None:
        """Have *told* called when `held` finds that it is lost."""
        self._lost.told = told

    def _drop(self) -> None:
        if self._session is not None:
            with contextlib.suppress(JournalError), translated("end the lease"):
                # Out of the pool and closed: a session that is kept for reuse would keep the lock.
                self._session.invalidate()
            with contextlib.suppress(JournalError), translated("end the lease"):
                self._session.close()
            self._session = None
        self._engine.dispose()

    @staticmethod
    def _alive(session: sa.Connection) -> bool:
        owned = sa.text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()"
            " AND ((classid::bigint << 32) | objid::bigint) = :lock"
        )
        try:
            with translated("ask for the lease"):
                return bool(session.execute(owned, {"lock": LEASE_LOCK}).scalar_one())
        except JournalError:
            return False

    @staticmethod
    def _holder(session: sa.Connection) -> str:
        query = sa.text(
            "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE l.locktype = 'advisory' AND l.granted AND ((l.classid::bigint << 32) | l.objid::bigint) = :lock"
        )
        name: Any = session.execute(query, {"lock": LEASE_LOCK}).scalar()
        return str(name) if name else "another session"


def lease_for(url: str) -> FileLease | DatabaseLease:
    """Return the lease that guards the store at *url*. Raises `ConfigError` if the URL cannot be used."""
    parsed = parse_url(url)
    if parsed.drivername == "sqlite":
        return FileLease(Path(f"{parsed.database}.lock"))
    return DatabaseLease(parsed)
