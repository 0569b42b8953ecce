"""
What a check can say.

Rules that must stay true here:

- Everything that is not fine says how to mend it, as an order that a person can follow.
- A check that cannot be made is a finding, never a crash: whoever asks for a doctor has trouble enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from rotator.errors import ConfigError, Conflict, Denied, RotatorError, Unavailable


class Grade(StrEnum):
    """How bad it is."""

    FINE = "fine"
    WARNING = "warning"
    BROKEN = "broken"
    """Rotator cannot do its work like this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    about: str
    """What, as the configuration names it: ``trust_domain mesh.prod``, ``issuer corporate``."""
    grade: Grade
    what: str
    mend: str = ""
    """What to do; empty if it is fine."""


def fine(about: str, what: str) -> Finding:
    """Return that all is well."""
    return Finding(about=about, grade=Grade.FINE, what=what)


def warning(about: str, what: str, mend: str) -> Finding:
    """Return what people should look at."""
    return Finding(about=about, grade=Grade.WARNING, what=what, mend=mend)


def broken(about: str, what: str, mend: str) -> Finding:
    """Return what keeps rotator from its work."""
    return Finding(about=about, grade=Grade.BROKEN, what=what, mend=mend)


def attempted(about: str, check: Callable[[], Iterable[Finding]], *, otherwise: str) -> Iterator[Finding]:
    """Yield what *check* finds; what it raises is a finding; *otherwise* is the mend where its class has none."""
    try:
        yield from check()
    except RotatorError as e:
        yield broken(about, str(e), _mend(e, otherwise))


def _mend(error: RotatorError, otherwise: str) -> str:
    match error:
        case Unavailable():
            return "see that it runs and can be reached from here, then ask again"
        case Denied():
            return f"give rotator the right, or mend the file it logs in with; {otherwise}"
        case ConfigError():
            return "mend the configuration"
        case Conflict():
            return "ask again: somebody wrote at the same time"
        case _:
            return otherwise
