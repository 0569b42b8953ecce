"""
Who may call what, as a picture: one row for each identity, one column for each service.

Rules that must stay true here:

- A cell is filled exactly where the one may call the other, and says so in a sentence when it is pointed at.
- The same platform gives the same bytes. Readable without colours: what is permitted has a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from rotator.platform.model import Identity, Platform, Service
from rotator.platform.reach import Reach, reach

_CELL: Final = 26
_LETTER: Final = 7
"""Width of a letter of the picture's type, about."""
_EDGE: Final = 16
_FAINT: Final = "#eef1f4"
_INK: Final = "#1f2933"
_PERMITTED: Final = "#1b7f4b"
_OTHER_ENVIRONMENT: Final = "#dbe1e8"
_QUIET: Final = "#66727f"


def picture(platform: Platform) -> str:
    """Return the SVG document."""
    pairs = tuple(reach(platform))
    order = [each.name for each in platform.environments]
    rows = sorted({each.caller.qualified: each.caller for each in pairs}.values(), key=lambda e: _place(order, e))
    columns = sorted({each.service.qualified: each.service for each in pairs}.values(), key=lambda e: _place(order, e))
    left = _EDGE * 2 + _LETTER * max((len(each.qualified) for each in rows), default=0)
    # Column names stand upright.
    top = _EDGE * 4 + _LETTER * max((len(each.qualified) for each in columns), default=0)
    width, height = left + _CELL * len(columns) + _EDGE, top + _CELL * len(rows) + _EDGE * 3
    width = max(width, 460)
    by_pair = {(each.caller.qualified, each.service.qualified): each for each in pairs}
    drawn = [
        f'<text x="{_EDGE}" y="{_EDGE + 10}" font-weight="600">Who may call what</text>',
        *(
            f'<text transform="translate({left + _CELL * at + _CELL // 2 + 4},{top - 8}) rotate(-90)">'
            f"{escape(each.qualified)}</text>"
            for at, each in enumerate(columns)
        ),
    ]
    for line, caller in enumerate(rows):
        y = top + _CELL * line
        drawn.append(
            f'<text x="{left - 8}" y="{y + _CELL // 2 + 4}" text-anchor="end">{escape(caller.qualified)}</text>'
        )
        drawn += [
            _cell(by_pair[caller.qualified, service.qualified], left + _CELL * at, y)
            for at, service in enumerate(columns)
        ]
    drawn.append(_legend(top + _CELL * len(rows) + _EDGE))
    return _document(drawn, width, height)


def _place(order: Sequence[str], one: Identity | Service) -> tuple[int, str]:
    return order.index(one.environment.name), one.name


def _cell(pair: Reach, x: int, y: int) -> str:
    same = pair.caller.environment == pair.service.environment
    fill = _PERMITTED if pair.allowed else _FAINT if same else _OTHER_ENVIRONMENT
    box = f'<rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_CELL - 2}" rx="3" fill="{fill}"/>'
    mark = ""
    if pair.allowed:
        middle = f"{x + 7},{y + 14} {x + 11},{y + 18} {x + 19},{y + 8}"
        mark = f'<polyline points="{middle}" fill="none" stroke="#ffffff" stroke-width="2.5"/>'
    return f"<g><title>{escape(pair.sentence)}</title>{box}{mark}</g>"


def _legend(y: int) -> str:
    said = ((_PERMITTED, "permitted"), (_FAINT, "refused"), (_OTHER_ENVIRONMENT, "another environment: refused"))
    drawn, x = [], _EDGE
    for fill, words in said:
        drawn.append(f'<rect x="{x}" y="{y}" width="12" height="12" rx="2" fill="{fill}" stroke="{_QUIET}"/>')
        drawn.append(f'<text x="{x + 18}" y="{y + 10}" fill="{_QUIET}">{words}</text>')
        x += 36 + _LETTER * len(words)
    return "".join(drawn)


def _document(drawn: Sequence[str], width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="ui-sans-serif, system-ui, sans-serif" font-size="12" fill="{_INK}" role="img" '
        'aria-label="Who may call what">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )
