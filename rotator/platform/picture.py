"""
Who may call what, as a picture: one row for each identity, one column for each service.

Rules that must stay true here:

- A cell is filled exactly where the one may call the other, and says so in a sentence when it is pointed at.
- The same platform gives the same bytes. Readable without colours: what is permitted
  has a mark, and another environment one of its own.
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
_REFUSED: Final = "#ffffff"
_EDGE_OF_REFUSED: Final = "#8d99a6"
_INK: Final = "#1f2933"
_PERMITTED: Final = "#1b7f4b"
_OTHER_ENVIRONMENT: Final = "#cfd7e0"
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
    width, height = left + _CELL * len(columns) + _EDGE, top + _CELL * len(rows) + _EDGE * 2 + _CELL
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
    if pair.allowed:
        drawn = _permitted(x, y)
    elif pair.caller.environment == pair.service.environment:
        drawn = _refused(x, y)
    else:
        drawn = _elsewhere(x, y)
    return f"<g><title>{escape(pair.sentence)}</title>{drawn}</g>"


def _permitted(x: int, y: int) -> str:
    middle = f"{x + 7},{y + 14} {x + 11},{y + 18} {x + 19},{y + 8}"
    return f'{_box(x, y, _PERMITTED)}<polyline points="{middle}" fill="none" stroke="#ffffff" stroke-width="2.5"/>'


def _refused(x: int, y: int) -> str:
    return _box(x, y, _REFUSED, edge=_EDGE_OF_REFUSED)


def _elsewhere(x: int, y: int) -> str:
    across = f'x1="{x + 8}" y1="{y + 13}" x2="{x + 18}" y2="{y + 13}"'
    return f'{_box(x, y, _OTHER_ENVIRONMENT)}<line {across} stroke="{_QUIET}" stroke-width="2"/>'


def _box(x: int, y: int, fill: str, *, edge: str | None = None) -> str:
    # A line lies half outside its box: with one, the box is smaller by as much.
    inset, line = (1.0, "") if edge is None else (1.5, f' stroke="{edge}"')
    size = _CELL - 2 * inset
    return f'<rect x="{x + inset:g}" y="{y + inset:g}" width="{size:g}" height="{size:g}" rx="3" fill="{fill}"{line}/>'


def _legend(y: int) -> str:
    said = ((_permitted, "permitted"), (_refused, "refused"), (_elsewhere, "another environment: refused"))
    drawn, x = [], _EDGE
    for mark, words in said:
        drawn.append(mark(x, y))
        drawn.append(f'<text x="{x + _CELL + 8}" y="{y + 17}" fill="{_QUIET}">{words}</text>')
        x += _CELL + 24 + _LETTER * len(words)
    return "".join(drawn)


def _document(drawn: Sequence[str], width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="ui-sans-serif, system-ui, sans-serif" font-size="12" fill="{_INK}" role="img" '
        'aria-label="Who may call what">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )
