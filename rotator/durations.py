"""
Durations and moments as people write them, read.

Rules that must stay true here:

- A bare number is refused: ``90`` could be seconds or minutes, ``90s`` cannot.
- What `rotator.core.window.spoken` writes, but for fractions of a second, can be read here.
- Pure; nothing here knows what time it is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

UNITS: Final = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
DURATION_PATTERN: Final = r"^(\d{1,9}w)?(\d{1,9}d)?(\d{1,9}h)?(\d{1,9}m)?(\d{1,9}s)?(\d{1,9}ms)?$"
LONGEST: Final = timedelta(days=36500)
"""A century: nothing that rotates takes longer, and sums of durations stay far from what timedelta can hold."""

_PARTS: Final = re.compile(r"(\d+)(ms|[wdhms])")


def parse_duration(text: str) -> timedelta:
    """
    Return the duration that *text* says: ``90s``, ``12h``, ``7d``, ``1h30m``, ``500ms``.

    Units run from the largest to the smallest, each at most once.

    Raises:
        ValueError: If *text* says anything else, or more than a century.
    """
    if not text or not re.fullmatch(DURATION_PATTERN, text, flags=re.ASCII):
        raise ValueError("not a duration such as 90s, 12h, 7d or 1h30m")
    total = timedelta()
    for count, unit in _PARTS.findall(text):
        total += int(count) * UNITS[unit]
        if total > LONGEST:
            raise ValueError("more than a century")
    return total


def parse_moment(text: str) -> datetime:
    """
    Return the RFC 3339 moment that *text* says, as aware UTC in whole seconds.

    Raises:
        ValueError: If *text* is no moment or names no offset from UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment needs Z or an offset, as in 2026-12-20T00:00:00Z")
    return moment.astimezone(UTC).replace(microsecond=0)


def moment_text(moment: datetime) -> str:
    """Return *moment* as RFC 3339 UTC with whole seconds (``2026-12-20T00:00:00Z``)."""
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
