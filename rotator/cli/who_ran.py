"""
``evidence who-ran``: what ran on which worker, under which certificate, and who set it off.

Rules that must stay true here:

- No logic that another room could hold: read the ledger, ask `rotator.evidence.who_ran`, print, exit.
- People are commitments unless ``--reveal`` is given, and then as the side store still knows them (law 24).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from rotator.cli import audit
from rotator.core.event import Commitment
from rotator.durations import parse_moment
from rotator.errors import ConfigError, RotatorError
from rotator.evidence.record import rfc3339
from rotator.evidence.who_ran import Ran, attempts

_ERASED = "erased"


def who_ran(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Option("--run", metavar="DAG/RUN", help="Only this run (default: all).")] = None,
    serial: Annotated[
        str | None, typer.Option("--serial", help="Only on workers that had loaded this certificate (default: any).")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Only what ran at this moment (default: any time).")
    ] = None,
    *,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show people's names where they were not erased (default: commitments).")
    ] = False,
    as_json: audit.Json = False,
) -> None:
    """Tell which task attempts ran, on which worker and certificate, and who set them off."""
    try:
        sources = audit.sources_of(ctx)
        found = list(attempts(sources.records(), run=run, serial=_hex(serial), at=_moment(at)))
        people = {each.person: sources.reveal(Commitment(each.person)) for each in found if each.person and reveal}
    except ConfigError as e:
        audit.fail(e, audit.USAGE)
    except RotatorError as e:
        audit.fail(e, audit.FAILED)
    rows = [_row(each, people, reveal=reveal) for each in found]
    if as_json or audit.wants_json(ctx):
        audit.print_json({"attempts": rows})
        return
    for row in rows:
        typer.echo(_sentence(row))
    if not rows:
        typer.echo("nothing in the ledger ran so")


def _row(one: Ran, people: dict[str, str | None], *, reveal: bool) -> dict[str, Any]:
    name = (people.get(one.person) or _ERASED) if one.person and reveal else None
    return {
        "airflow": one.airflow,
        "dag": one.dag,
        "run": one.run,
        "task": one.task,
        "map_index": one.map_index,
        "try": one.attempt,
        "state": one.state,
        "host": one.host,
        "queue": one.queue,
        "started": rfc3339(one.started_at) if one.started_at else None,
        "ended": rfc3339(one.ended_at) if one.ended_at else None,
        "workload": one.workload,
        "worker": one.worker,
        "worker_run": one.worker_run,
        "certificates": [{"name": each.certificate, "serial": each.serial} for each in one.loaded],
        "run_type": one.run_type,
        "triggered_by": one.triggered_by,
        "person": one.person or None,
        "person_name": name,
        "bundle": one.bundle,
        "record": one.seq,
    }


def _sentence(row: dict[str, Any]) -> str:
    index = f"[{row['map_index']}]" if row["map_index"] >= 0 else ""
    where = f"{row['worker']} ({row['worker_run']})" if row["worker"] else f"an unknown worker at {row['host'] or '?'}"
    under = ", ".join(f"{each['name']} {each['serial'][:12]}" for each in row["certificates"]) or "no known certificate"
    who = row["person_name"] or (f"person {row['person'][:19]}" if row["person"] else row["triggered_by"] or "nobody")
    what = f"{row['dag']}/{row['run']}/{row['task']}{index}#{row['try']}"
    when = f"{row['started'] or '-'} to {row['ended'] or '-'}"
    return f"{when}  {what} {row['state']} on {where} under {under}; set off by {who} [record {row['record']}]"


def _hex(serial: str | None) -> str | None:
    return None if serial is None else serial.replace(":", "").lower()


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_moment(text)
    except ValueError as e:
        raise ConfigError(f"--at: {e}") from e
