"""
What a command's end means: one exit code for every way out.

Rules that must stay true here:

- The numbers are the contract's; they never change meaning.
- Every error of `rotator.errors` has exactly one code, decided here and nowhere else.
"""

from __future__ import annotations

from enum import IntEnum

from rotator.errors import ConfigError, Denied, InvariantBroken


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    """The command line or the configuration cannot be used; nothing was changed."""
    WAITING = 3
    """Accepted, and waiting for an approval, an acknowledgement or a drain."""
    LAW = 4
    """A law was about to be broken and the daemon refused."""
    DENIED = 5


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code that tells a script what *error* asks of it."""
    match error:
        case ConfigError():
            return ExitCode.USAGE
        case InvariantBroken():
            return ExitCode.LAW
        case Denied():
            return ExitCode.DENIED
        case _:
            return ExitCode.FAILED
