"""
Transactions that wait for each other share one commit: most of a small transaction's cost is its sync to disk.

Rules that must stay true here:

- Whoever writes is alone: members write one after the other, so numbers follow the order of commits (law 21).
- A member returns only after the commit that holds its rows; a member that fails takes back its own rows and nobody
  else's. Where the database gives up the whole transaction (a full disk), every member is told so.
- Nobody waits to be joined: whoever ends and sees nobody waiting commits at once.
- Every wait is bounded.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator

import sqlalchemy as sa

from rotator.errors import JournalError
from rotator.store.engine import BUSY_SECONDS, Run, driver_error, translated, writing_plainly

MOST_MEMBERS = 64
"""A commit takes at most so many: others want to know that theirs is done."""

_LOOK_SECONDS = 1.0


class Batch:
    """One transaction of the database and the members that share it."""

    def __init__(self, undo: contextlib.ExitStack, run: Run) -> None:
        """*undo* holds the open transaction: closing it commits."""
        self._undo = undo
        self.run = run
        self.members = 0
        self.next_seq: int | None = None
        """The number of the next record; None until somebody asks."""
        self.fenced = False
        """It was seen that this process still leads: once is enough, since nobody else writes meanwhile."""
        self.broken: BaseException | None = None
        """Why it can only be rolled back."""
        self._error: BaseException | None = None
        self._done = threading.Event()

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Keep what the block writes if it ends well, and only then."""
        self.run("SAVEPOINT member")
        before = self.next_seq
        try:
            yield
            self.run("RELEASE SAVEPOINT member")
        except BaseException as e:
            self.next_seq = before
            try:
                self.run("ROLLBACK TO SAVEPOINT member")
            except Exception:  # noqa: BLE001 -- whatever it is, the savepoint is gone and with it everybody's rows
                self.broken = e
            raise
        self.members += 1

    def end(self) -> None:
        """Commit, or roll back what is broken; never raises: every member learns from `wait`."""
        try:
            if self.broken is None:
                self._undo.close()
            else:
                self._undo.__exit__(type(self.broken), self.broken, self.broken.__traceback__)
        except BaseException as e:  # noqa: BLE001 -- told to every member
            self._error = e
        else:
            self._error = self.broken
        self._done.set()

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended within *seconds*. Raises `JournalError` if it did not commit."""
        if not self._done.wait(seconds):
            return False
        if self._error is not None:
            said = str(self._error) if isinstance(self._error, JournalError) else "another writer's trouble ended it"
            raise JournalError(said) from self._error
        return True


class Commits:
    """Gives writers their turn, and commits for several at once. Safe from many threads."""

    def __init__(self, engine: sa.Engine, doing: str) -> None:
        """*doing* completes "cannot ..." in errors."""
        self._engine = engine
        self._doing = doing
        self._driver_error = driver_error(engine)
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._batch: Batch | None = None
        self._order = itertools.count()
        """Who came before whom; no clock is needed for that."""
        self._refused: tuple[int, JournalError] | None = None

    @contextlib.contextmanager
    def member(self) -> Iterator[Batch]:
        """
        Run the block as the one writer; return once what it wrote is committed.

        Raises:
            JournalError: If that failed, or could not be known.
        """
        arrived = next(self._order)
        with self._my_turn():
            # Whoever came before has waited for a lock that another process holds: not everybody waits anew.
            if self._refused is not None and self._refused[0] > arrived:
                raise JournalError(str(self._refused[1])) from self._refused[1]
            batch = self._batch or self._open()
            try:
                with translated(self._doing, self._driver_error), batch.part():
                    yield batch
            finally:
                if not self._waiting or batch.members >= MOST_MEMBERS or batch.broken is not None:
                    self._end(batch)
        while not batch.wait(_LOOK_SECONDS):
            # Only if whoever was to come next gave up on its way.
            with self._my_turn():
                self._end(batch)

    @contextlib.contextmanager
    def _my_turn(self) -> Iterator[None]:
        with self._counting:
            self._waiting += 1
        try:
            mine = self._turn.acquire(timeout=2 * BUSY_SECONDS)
        finally:
            with self._counting:
                self._waiting -= 1
        if not mine:
            raise JournalError(f"cannot {self._doing}: other writers do not end")
        try:
            yield
        finally:
            self._turn.release()

    def _open(self) -> Batch:
        with contextlib.ExitStack() as undo:
            try:
                run = undo.enter_context(writing_plainly(self._engine, self._doing))
            except JournalError as e:
                self._refused = (next(self._order), e)
                raise
            self._batch = Batch(undo.pop_all(), run)
        return self._batch

    def _end(self, batch: Batch) -> None:
        """Commit *batch* unless that was done already; the turn is held."""
        if self._batch is batch:
            self._batch = None
            batch.end()
