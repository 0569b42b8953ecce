"""
Draws docs/diagrams from the tables in the code and from the example configuration: `make diagrams`.

Rules that must stay true here:

- Nothing is drawn that the code does not hold as data; a test compares the files with what is drawn now.
"""

from __future__ import annotations

import re
from pathlib import Path

from rotator.core.model import IntentKind, Phase
from rotator.core.transitions import TRANSITIONS, Transition
from rotator.platform.picture import picture
from rotator.settings import load, platform_of

ROOT = Path(__file__).resolve().parent.parent
DIAGRAMS = ROOT / "docs/diagrams"
EXAMPLE = ROOT / "config/rotator.yaml"

TITLES: dict[IntentKind | None, str] = {
    IntentKind.ROTATE: "An ordinary rotation",
    IntentKind.ROLL_BACK: "A rollback",
    IntentKind.COMPROMISE: "A compromised authority",
    None: "Nobody wants anything",
}

HEAD = """\
# How a trust domain's authority moves

Drawn by `make diagrams` from the table in `rotator/core/transitions.py`, which a test holds against the state machine.
Phases are facts, computed from what is seen; steps are orders.
A phase may also change without a step: consumers acknowledge, leaves are replaced, time passes."""


def words(name: str) -> str:
    """Return ``publish bundle`` for ``PublishBundle``."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def drawing(rows: list[Transition]) -> str:
    """Return one state diagram with a line for each phase, step and following phase."""
    named = {row.phase for row in rows} | {then for row in rows for then in row.then}
    states = [f"  {phase}" for phase in Phase if phase in named]
    arrows = [f"  {row.phase} --> {then}: {words(row.step.__name__)}" for row in rows for then in row.then]
    return "\n".join(["```mermaid", "stateDiagram-v2", "  direction LR", *states, *arrows, "```"])


def table(rows: list[Transition]) -> str:
    """Return the same as a table, with the reason for each step."""
    lines = ["| in phase | step | then | why |", "|---|---|---|---|"]
    lines += [f"| {row.phase} | {words(row.step.__name__)} | {', '.join(row.then)} | {row.why} |" for row in rows]
    return "\n".join(lines)


def authority() -> str:
    """Return the page of a trust domain's authority."""
    parts = [HEAD]
    for intent, title in TITLES.items():
        rows = [row for row in TRANSITIONS if row.intent == intent]
        if rows:
            parts += [f"## {title}", drawing(rows), table(rows)]
    return "\n\n".join(parts) + "\n"


def who_may_call_what() -> str:
    """Return the picture of the platform that config/rotator.yaml describes."""
    platform = platform_of(load(EXAMPLE))
    assert platform is not None
    return picture(platform)


PAGES = {"authority.md": authority, "who-may-call-what.svg": who_may_call_what}


def main() -> None:
    """Write every page."""
    DIAGRAMS.mkdir(exist_ok=True)
    for name, draw in PAGES.items():
        (DIAGRAMS / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
