"""
Every error rotator raises, in one tree.

Rules that must stay true here:

- The class says what the caller does next; the message says what was being done to what.
- Messages are lower case, without a full stop, and never hold a secret: no token, no key, no whole PEM.
- An error never logs itself; whoever decides what happens next does.
"""

from __future__ import annotations

from datetime import timedelta


class RotatorError(Exception):
    """Base of every error that rotator raises on purpose."""


class ConfigError(RotatorError):
    """A person's input cannot be used: mend the file or the command, nothing was changed."""


class InvariantBroken(RotatorError):
    """A law was about to be broken: stop this target and tell a person."""

    def __init__(self, law: int, message: str) -> None:
        """Name the *law* (number in ``docs/laws.md``) beside the *message*."""
        super().__init__(f"law {law}: {message}")
        self.law = law


class JournalError(RotatorError):
    """Journal or ledger cannot be read or written: the step does not start (law 12)."""


class LedgerTampered(RotatorError):
    """The log on disk is not the log that was signed: never sign on top of it."""


class AdapterError(RotatorError):
    """A system around rotator did not do what was asked."""


class Unavailable(AdapterError):
    """No answer, or not now: observe again, then retry. It never means "it did not happen"."""

    def __init__(self, message: str = "", *, after: timedelta | None = None) -> None:
        """Say beside the *message* how long the other side asked to be left alone, if it did."""
        super().__init__(message)
        self.after = after


class NotYet(Unavailable):
    """A rule of the other side says not now, and time lifts it: look again, it is no failure."""


class Conflict(AdapterError):
    """Somebody else wrote first: observe again and decide again."""


class Denied(AdapterError):
    """A right is missing: tell a person, retry slowly."""


class Rejected(AdapterError):
    """The request or its answer is wrong: never retry the same one; observe first, the effect may be there."""
