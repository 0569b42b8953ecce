"""
Faults on demand: crash before call *n*, crash after it, lose its reply, refuse it.

Rules that must stay true here:

- A fake makes every call that would leave the process through `Faults.call`, one `with` block per call: what stands
  in the block is the effect, so *before* nothing has happened and *after* everything has.
- A crash is no `Exception`: nothing under test may catch it by accident.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rotator.errors import RotatorError, Unavailable

Hook = Callable[[str], None]


class Crash(BaseException):
    """The process ended here, as by SIGKILL."""


def _nothing(call: str) -> None:
    """Let *call* pass."""


class Faults:
    """The one point that every call of a fake passes; safe from several threads."""

    def __init__(self) -> None:
        """Start without any fault."""
        self.before: Hook = _nothing
        """Called with the call's name before its effect; what it raises prevents the effect."""
        self.after: Hook = _nothing
        """Called with the call's name after its effect; what it raises loses the reply."""
        self.calls: list[str] = []
        """Every call so far, the failed ones included."""
        self._lock = threading.Lock()

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Make the call *name*, whose effect is the body of the `with` block."""
        with self._lock:
            self.calls.append(name)
        self.before(name)
        yield
        self.after(name)

    def clear(self) -> None:
        """Let every further call pass; what was called stays on the list."""
        self.before = self.after = _nothing

    def crash_before(self, n: int) -> None:
        """Crash before the *n*-th call from now, counted from 1, and before every later one: the process is gone."""
        self.before, self.after = self._from(n, Crash), _nothing

    def crash_after(self, n: int) -> None:
        """Crash after the effect of the *n*-th call from now, and at every later one."""
        self.before, self.after = self._from(n + 1, Crash), self._from(n, Crash)

    def lose_reply(self, n: int) -> None:
        """Let the *n*-th call from now take effect and answer nothing, once."""
        self.before, self.after = _nothing, self._once(n, Unavailable)

    def refuse(self, n: int, error: type[RotatorError] = Unavailable) -> None:
        """Let the *n*-th call from now fail with *error* before any effect, once."""
        self.before, self.after = self._once(n, error), _nothing

    def _from(self, n: int, error: type[BaseException]) -> Hook:
        """Return a hook that raises *error* at the *n*-th call from now and at all that follow."""
        first = len(self.calls) + n

        def hook(call: str) -> None:
            if len(self.calls) >= first:
                raise error(f"at call {n}, {call}")

        return hook

    def _once(self, n: int, error: type[BaseException]) -> Hook:
        """Return a hook that raises *error* at the *n*-th call from now and never again."""
        which = len(self.calls) + n

        def hook(call: str) -> None:
            if len(self.calls) == which:
                raise error(f"at call {n}, {call}")

        return hook
