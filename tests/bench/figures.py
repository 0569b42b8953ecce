"""
What a bench found, for people and for machines.

Rules that must stay true here:

- A ratio against something measured in the same run comes first; absolute numbers say something about the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number."""

    bench: str
    name: str
    value: float
    unit: str
    """``ratio``, ``a second``, ``CPU seconds``, ``MiB``, ``issuances``, ``ms`` ..."""
    aim: str | None = None
    """What it should be, as ``>= 0.5``; None if it is only there to be read."""

    @property
    def reached(self) -> bool | None:
        """Return whether the aim is reached, None without one."""
        if self.aim is None:
            return None
        relation, bound = self.aim.split()
        return self.value >= float(bound) if relation == ">=" else self.value <= float(bound)


def show(figures: Sequence[Figure]) -> None:
    """Print a table."""
    table = Table(box=None, pad_edge=False)
    for title in ("bench", "what", "value", "unit", "aim"):
        table.add_column(title, justify="right" if title == "value" else "left")
    for figure in figures:
        verdict = {None: "", True: f"{figure.aim}, reached", False: f"{figure.aim}, MISSED"}[figure.reached]
        table.add_row(figure.bench, figure.name, f"{figure.value:,.3g}", figure.unit, verdict)
    Console(width=140).print(table)


def as_json(figures: Sequence[Figure]) -> list[dict[str, object]]:
    """Return the figures as plain values."""
    return [{**asdict(figure), "reached": figure.reached} for figure in figures]
