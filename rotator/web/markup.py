"""
Small pieces of the status page: words in a frame, moments, spans, tables.

Rules that must stay true here:

- Pure; every word that comes from outside is escaped where it is put in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any, Final

from rotator.durations import parse_moment

MOST_ROWS: Final = 500
NAMES_SHOWN: Final = 6

Row = Mapping[str, Any]


def pill(text: str, kind: str = "") -> str:
    """Return *text* in a frame; *kind* is ``good``, ``warn``, ``bad`` or empty."""
    return f'<span class="pill{" " if kind else ""}{kind}">{escape(text)}</span>'


def soft(text: str) -> str:
    """Return *text* small and quiet."""
    return f'<span class="soft small">{escape(text)}</span>'


def table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """Return a table; *rows* are HTML, whole ``<tr>`` each."""
    named = "".join(f"<th>{escape(each)}</th>" for each in heads)
    return f'<div class="table"><table><thead><tr>{named}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def few(names: Sequence[str]) -> str:
    """Return the first of *names* as words, and how many more there are; not escaped."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def moment_of(text: object) -> datetime | None:
    """Return the moment that *text* writes, None if it is none."""
    return parse_moment(text) if isinstance(text, str) else None


def span_words(span: timedelta) -> str:
    """Return *span* as people read it: its two largest units."""
    seconds = max(0, int(span.total_seconds()))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])
