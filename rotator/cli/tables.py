"""
What the daemon says, as tables for people.

Rules that must stay true here:

- Pure: an answer and the present moment go in, something that rich can draw comes out.
- A field that is missing or null is a dash, never an error: daemon and command may be of different versions.
- Nothing that came from outside is read as markup.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rotator.core.window import written
from rotator.durations import parse_moment

Row = Mapping[str, Any]

_DASH: Final = "-"
_SERIAL_SHOWN: Final = 12
_SECOND: Final = timedelta(seconds=1)
_LATE, _SOON, _WELL = "bold red", "yellow", "green"
_BUSY_PHASES: Final = frozenset({"prepared", "trusted", "activated", "reissued", "published"})


def _replica(status: Row) -> list[RenderableType]:
    """Return the line that says whose words the table holds, on a standby."""
    replica = status.get("replica")
    if not isinstance(replica, dict) or replica.get("role") != "standby":
        return []
    leader = replica.get("leader") or "nobody"
    seen = f", as it saw things at {status['as_of']}" if "as_of" in status else ""
    return [Text(f"this replica stands by; {leader} leads{seen}", style="dim"), Text()]


def status_view(status: Row, now: datetime) -> RenderableType:
    """Return subjects, workloads and the ledger's line."""
    subjects = Table(
        "subject", "phase", "gen", "serial", "issued", "expires", "next action", "waiting on", box=None, pad_edge=False
    )
    for row in _rows(status, "subjects"):
        subjects.add_row(
            Text(_said(row.get("name")), style="bold"),
            _phase(row),
            Text(_said(row.get("generation"))),
            Text(_said(row.get("serial"))[:_SERIAL_SHOWN]),
            _ago(row.get("not_before"), now),
            _left(row, now),
            _next(row, now),
            _names(row.get("waiting_on")),
        )
    # A cluster's objects tell of requests alone.
    shows_subjects = _rows(status, "subjects") or not _rows(status, "requests")
    parts: list[RenderableType] = [*_replica(status), *([subjects] if shows_subjects else [])]
    workloads = _rows(status, "workloads")
    if workloads:
        parts += [Text(), _workloads(workloads)]
    parts += [line for row in _rows(status, "subjects") for line in _mesh_lines(row)]
    watched = _rows(status, "watched")
    if watched:
        parts += [Text(), _watched(watched, now)]
    parts += _platform_lines(status)
    for alert in _rows(status, "alerts"):
        grave = alert.get("severity") == "critical"
        parts.append(Text(f"{alert.get('severity')}: {alert.get('summary')}", style="bold red" if grave else "yellow"))
    requests = _rows(status, "requests")
    if requests:
        parts += [Text(), _requests(requests, now)]
    ledger = status.get("ledger")
    if isinstance(ledger, Mapping):
        parts += [Text(), _ledger(ledger, now)]
    return Group(*parts)


def _platform_lines(status: Row) -> list[RenderableType]:
    """Return what stands of the platform, a line for each mesh, and who is waited for."""
    platform = status.get("platform")
    if not isinstance(platform, Mapping):
        return []
    lines: list[RenderableType] = [Text()]
    for row in _rows(platform, "meshes"):
        to_apply = row.get("to_apply")
        says = f"platform, {_said(row.get('trust_domain'))}: {_said(row.get('documents'))} documents"
        says += f", {to_apply} writes to apply" if to_apply else ""
        says += f", {_said(row.get('problem'))}" if row.get("problem") else ""
        lines.append(Text(says, style=_SOON if to_apply or row.get("problem") else ""))
    change = platform.get("open_change")
    if isinstance(change, Mapping):
        waiting = ", ".join(map(str, platform.get("waiting_on") or ())) or "nobody"
        lines.append(Text(f"change {_said(change.get('id'))} is under way: waits for {waiting}", style=_SOON))
    return lines


def _watched(rows: Sequence[Row], now: datetime) -> Table:
    """Return what is watched without being managed: of a place of many, what ends first."""
    table = Table("watched", "place", "found", "issuer", "expires", "seen", "problem", box=None, pad_edge=False)
    for row in rows:
        which = _said(row.get("which")) if row.get("which") else ""
        table.add_row(
            Text(_said(row.get("name")), style="bold"),
            Text(_said(row.get("place"))),
            Text(_said(row.get("count")) + (f", first {which}" if which else "")),
            Text(_said(row.get("issuer"))),
            _left(row, now),
            _ago(row.get("seen_at"), now),
            Text(_said(row.get("problem")), style=_SOON),
        )
    return table


def plan_view(rows: Sequence[Row], now: datetime) -> RenderableType:
    """Return what will happen, soonest first, and below it what may go wrong with its rolls."""
    table = Table("when", "in", "subject", "action", "why", box=None, pad_edge=False)
    for row in rows:
        at = _moment(row.get("at"))
        away = _DASH if at is None else "now" if at <= now else _short(at - now)
        table.add_row(*(Text(_said(each)) for each in (row.get("at"), away, row.get("subject"))),
                      Text(_said(row.get("what"))), Text(_said(row.get("why"))))  # fmt: skip
    ahead = [Text(_said(each), style=_SOON) for row in rows for each in row.get("foreseen") or ()]
    return Group(table, *ahead)


def steps_view(plan: Sequence[Row]) -> RenderableType:
    """Return what a rotation that is asked for now would do, numbered for each subject."""
    parts: list[RenderableType] = []
    for subject, rows in itertools.groupby(plan, key=lambda row: _said(row.get("subject"))):
        parts.append(Text(subject, style="bold"))
        parts += [Text(f"  {number}. {_said(row.get('what'))}") for number, row in enumerate(rows, start=1)]
    return Group(*parts)


def findings_view(findings: Sequence[tuple[str, str, str, str]]) -> RenderableType:
    """Return what a check found (grade, about what, what, mend), in the order given."""
    styles = {"broken": _LATE, "warning": _SOON}
    lines = []
    for grade, about, what, mend in findings:
        lines.append(Text.assemble((f"{grade:<8}", styles.get(grade, _WELL)), (about, "bold"), f": {what}"))
        if mend:
            lines.append(Text(f"{'':8}do {mend}"))
    return Group(*lines)


def progress_line(progress: Row) -> Text:
    """Return where one rotation stands, on one line."""
    total, proven = progress.get("total"), progress.get("proven")
    line = Text.assemble(
        (_said(progress.get("subject")), "bold"),
        "  ",
        (_said(progress.get("phase")), _SOON),
        f"  {_said(proven)} of {_said(total)} consumers proven" if total is not None else "",
    )
    if progress.get("waiting_on"):
        line.append("  waiting on ").append(_names(progress.get("waiting_on")))
    if progress.get("alert"):
        line.append("  held beyond its deadline", style=_LATE)
    if progress.get("outcome"):
        line.append(f"  {_said(progress.get('outcome'))}")
    return line


def _mesh_lines(row: Row) -> list[Text]:
    """Return what a mesh's row says beside its columns: refusals, what it runs on, warnings."""
    lines, name = [], _said(row.get("name"))
    mesh = row.get("mesh")
    if isinstance(mesh, Mapping):
        refusals = mesh.get("refusals")
        told = refusals if isinstance(refusals, list) else ()
        lines += [Text(f"{name} is refused: {said}", style=_LATE) for said in told]
        adoption = mesh.get("adoption")
        if isinstance(adoption, Mapping):
            lines.append(Text(f"{name}: found {_said(adoption.get('found'))}; rotator adopt {name}", style=_SOON))
    warnings = row.get("warnings")
    lines += [Text(f"{name}: {said}", style=_SOON) for said in (warnings if isinstance(warnings, list) else ())]
    return lines


def _requests(requests: Sequence[Row], now: datetime) -> Table:
    """Return what people have asked for and what is waited for."""
    table = Table("request", "asks to", "for", "by", "state", "approvals", "ends", box=None, pad_edge=False)
    for row in requests:
        needed, given = row.get("approvals_needed"), row.get("approvals_given")
        ends = _moment(row.get("expires_at"))
        waits = row.get("state") in {"awaiting_approval", "pending"}
        table.add_row(
            Text(_said(row.get("id")), style="bold"),
            Text(_said(row.get("operation")) + (" (emergency)" if row.get("emergency") else "")),
            _names(row.get("subjects")),
            Text(_said(row.get("requested_by"))),
            Text(_said(row.get("phase") or row.get("state")).replace("_", " "), style=_SOON if waits else ""),
            Text(f"{given} of {needed}" if needed else _DASH),
            Text(f"in {_short(ends - now)}" if waits and ends is not None and ends > now else _DASH),
        )
    return table


def _workloads(workloads: Sequence[Row]) -> Table:
    table = Table("workload", "member", "state", "work", "since", "waiting on", box=None, pad_edge=False)
    for row in workloads:
        for member in _rows(row, "members"):
            running, ready = member.get("running"), member.get("ready")
            state = (
                "stopped" if not running else "draining" if member.get("draining") else "ready" if ready else "starting"
            )
            table.add_row(
                Text(_said(row.get("name")), style="bold"),
                Text(_said(member.get("name"))),
                Text(state, style=_WELL if state == "ready" else _SOON),
                Text(_said(member.get("busy"))),
                Text(_said(member.get("started_at"))),
                _names(row.get("waiting_on")),
            )
    return table


def _ledger(ledger: Row, now: datetime) -> Text:
    signed = _moment(ledger.get("checkpoint_at"))
    when = "not signed yet" if signed is None else f"signed {_short(max(now - signed, timedelta()))} ago"
    line = Text(f"ledger: {_said(ledger.get('size'))} records, {when}, {_said(ledger.get('witness'))}")
    if ledger.get("problem"):
        line.append(f"  {_said(ledger.get('problem'))}", style=_LATE)
    return line


def _phase(row: Row) -> Text:
    phase = _said(row.get("phase"))
    style = _WELL if phase in {"steady", "in_use"} else _SOON if phase in _BUSY_PHASES else _LATE
    return Text(phase.replace("_", " "), style=style)


def _left(row: Row, now: datetime) -> Text:
    ends, line = _moment(row.get("not_after")), _moment(row.get("safety_line"))
    if ends is None:
        return Text(_DASH)
    if ends <= now:
        return Text(f"expired {_short(now - ends)} ago", style=_LATE)
    return Text(f"in {_short(ends - now)}", style=_LATE if line is not None and now >= line else "")


def _next(row: Row, now: datetime) -> Text:
    paused, opens, rotation = _moment(row.get("paused_until")), _moment(row.get("renew_at")), row.get("open_rotation")
    if row.get("error"):
        return Text(f"retry: {_said(row.get('error'))}", style=_LATE)
    if isinstance(rotation, Mapping):
        return Text(f"{_said(rotation.get('intent')).replace('_', ' ')} under way", style=_SOON)
    if paused is not None:
        return Text(f"paused for {_short(paused - now)}", style=_SOON)
    if opens is None:
        return Text(_said(row.get("why")) if row.get("why") else _DASH)
    return Text("renew now" if opens <= now else f"renew in {_short(opens - now)}")


def _ago(value: object, now: datetime) -> Text:
    at = _moment(value)
    return Text(_DASH if at is None else f"{_short(max(now - at, timedelta()))} ago")


def _short(span: timedelta) -> str:
    """Return the two largest units of *span*: ``3d4h``, ``12m``, ``8s``."""
    for unit, below in ((timedelta(days=1), timedelta(hours=1)), (timedelta(hours=1), timedelta(minutes=1))):
        if span >= unit:
            return written(span // below * below)
    return written(span // _SECOND * _SECOND)


def _names(value: object) -> Text:
    return Text(", ".join(map(str, value)) if isinstance(value, list) and value else _DASH)


def _rows(answer: Row, key: str) -> list[Row]:
    rows = answer.get(key)
    return [each for each in rows if isinstance(each, Mapping)] if isinstance(rows, list) else []


def _moment(value: object) -> datetime | None:
    try:
        return parse_moment(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _said(value: object) -> str:
    return _DASH if value is None or value == "" else str(value)
