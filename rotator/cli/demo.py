"""
``rotator demo``: the main job on embedded parts.

Rules that must stay true here:

- Exit 0 only if every claim held; every claim is printed with its verdict and figure.
- However it ends (Ctrl-C, TERM, an error), nothing that it started goes on running.
- No logic that another room could hold: set the scene, run it, print, write the report.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

DEFAULT_DIRECTORY = Path("demo")


def _command() -> str:
    """Return how this command is typed from here."""
    if shutil.which("rotator"):
        return "rotator"
    return os.path.relpath(Path(sys.executable).parent / "rotator")


def demo(
    directory: Annotated[
        Path, typer.Option(help="Leave report, log and configuration there (default: ./demo). Cleared at each run.")
    ] = DEFAULT_DIRECTORY,
    seconds: Annotated[
        float, typer.Option(min=0, help="Keep the load up for at least so many seconds (default: as long as it takes).")
    ] = 0.0,
) -> None:
    """Move a CA under load on this machine, kill the daemon in the middle, and prove from its log what happened."""
    # Heavy: OpenBao's client, Celery, cryptography. `rotator --help` must not wait for them.
    from rich.console import Console  # noqa: PLC0415 -- heavy
    from rich.markup import escape  # noqa: PLC0415 -- heavy

    from rotator.demo.claims import claims  # noqa: PLC0415 -- heavy
    from rotator.demo.director import Director  # noqa: PLC0415 -- heavy
    from rotator.demo.live import LiveView  # noqa: PLC0415 -- heavy
    from rotator.demo.report import write  # noqa: PLC0415 -- heavy
    from rotator.demo.scenario import Numbers, Timeline  # noqa: PLC0415 -- heavy
    from rotator.demo.stage import cleared  # noqa: PLC0415 -- heavy

    # A plain TERM or a closed terminal would end this process at once, and leave the workers running.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console()
    places = cleared(directory)
    try:
        with LiveView(console) as view:
            recording = Director(places, Numbers(), Timeline().stretched(seconds), view).run()
    except KeyboardInterrupt:
        console.print(f"broken off; nothing goes on running, and what it wrote is in {directory}", soft_wrap=True)
        raise
    write(recording, places.root)
    judged = claims(recording)
    console.print()
    for claim in judged:
        verdict = "[green]held  [/green]" if claim.held else "[bold red]BROKEN[/bold red]"
        console.print(
            f"  {verdict}  {escape(claim.text)}: [bold]{escape(claim.figure)}[/bold]", highlight=False, soft_wrap=True
        )
    naive = recording.control
    console.print(
        f"\n  For comparison, the CA replaced in one step: {naive.failed} of {naive.requests:,} requests failed.\n\n"
        f"  Left in {directory}: report.html, report.json, ledger/ with its key log.vkey, logs/.\n"
        f"  Check the log yourself: {_command()} evidence verify {directory}/ledger --key {directory}/log.vkey "
        f"--pinned {directory}/pinned.checkpoint",
        highlight=False,
        soft_wrap=True,
    )
    if not all(claim.held for claim in judged):
        raise typer.Exit(1)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """End like Ctrl-C does: through every block that cleans up."""
    raise KeyboardInterrupt
