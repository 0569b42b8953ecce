"""
The status page: what ``rotator status`` says, for people with a browser.

Rules that must stay true here:

- Pure: the status document in, one self-contained page out; no script, no font, no picture from elsewhere.
- Every word that comes from outside is escaped; nothing is styled in place, since the content policy forbids it.
- It says the same without colours: what is wrong stands there in words.
- Bounded: of a large fleet the most urgent rows are shown, and how many are not.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final

from rotator.web.markup import MOST_ROWS, Row, few, moment_of, pill, span_words
from rotator.web.platform_page import platform_section
from rotator.web.seen import Health

REFRESH_SECONDS: Final = 10

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5d6878;--line:#dfe3ea;--ground:#f5f6f9;--card:#fff;--good:#1a7f52;
--goodbg:#e2f4ea;--warn:#8f5a00;--warnbg:#fdf0d5;--bad:#b3261e;--badbg:#fde7e5;--life:#e3e7ee;--used:#4d78c9;
--mark:#1c2330}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#2d3542;--ground:#12161d;--card:#1a202a;
--good:#6fd3a2;--goodbg:#15362a;--warn:#f0bf6a;--warnbg:#3b2d12;--bad:#ff9b93;--badbg:#43201d;--life:#2d3542;
--used:#6f9bee;--mark:#e6e9ef}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 20px 48px}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:6px 14px;margin-bottom:18px}
h1{font-size:22px;margin:0;letter-spacing:-.01em}
h2{font-size:13px;margin:28px 0 8px;color:var(--soft);font-weight:600;text-transform:uppercase;letter-spacing:.06em}
.soft{color:var(--soft)}.small{font-size:13px}
.pill{display:inline-block;padding:1px 9px;border-radius:99px;font-size:12.5px;font-weight:600;white-space:nowrap;
background:var(--life);color:var(--ink)}
.good{background:var(--goodbg);color:var(--good)}.warn{background:var(--warnbg);color:var(--warn)}
.bad{background:var(--badbg);color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px}
.card,.table{background:var(--card);border:1px solid var(--line);border-radius:10px}
.card{padding:12px 16px}.card b{display:block;font-size:22px;font-weight:650;letter-spacing:-.01em;margin-top:2px}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th{font-size:12.5px;color:var(--soft);font-weight:600;text-align:left;white-space:nowrap}
th,td{padding:9px 14px;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.name{font-weight:600;min-width:230px}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;color:var(--soft);overflow-wrap:anywhere}
.life{min-width:180px}
svg{display:block;width:100%;height:12px;margin:3px 0 4px}
.whole{fill:var(--life)}.part{fill:var(--used)}.part.late{fill:var(--warn)}.part.over{fill:var(--bad)}
.mark{stroke:var(--mark);stroke-width:1.5;vector-effect:non-scaling-stroke;opacity:.65}
.mark.line{stroke:var(--bad);opacity:1}
ul{margin:0;padding:0;list-style:none}
.alerts li{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--warn);border-radius:8px;
padding:8px 14px;margin-bottom:8px}
.alerts li.critical{border-left-color:var(--bad)}
.when{white-space:nowrap}p.soft{margin:0 0 8px}
details{margin-top:6px}summary{cursor:pointer;color:var(--soft);font-size:13px}
pre{font:12px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--ground);border-radius:6px;
padding:8px 12px;margin:6px 0 2px;overflow-x:auto}
footer{margin-top:28px;color:var(--soft);font-size:13px}
"""

STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
"""What the content policy allows: this style and no other."""

_FOOTER: Final = (
    "<footer>Read-only. Orders go over <code>rotator rotate-now</code>, <code>pause</code>, <code>rollback</code>. "
    'The same as JSON: <a href="/api/v1/status">/api/v1/status</a>.</footer>'
)

_NOBODY: Final = '<span class="soft">none</span>'

_WHOLE: Final = 100
"""A life in the units of its bar."""

_CALM: Final = frozenset({"in_use", "steady", "retired"})


def status_page(status: Mapping[str, Any], *, now: datetime, health: Health, environment: str) -> str:
    """
    Return the page that shows *status* (the contract's ``rotator --json status``) at *now*.

    It loads itself anew every `REFRESH_SECONDS`.
    """
    subjects: Sequence[Row] = status.get("subjects", ())
    alerts: Sequence[Row] = status.get("alerts", ())
    domains = [each for each in subjects if each.get("kind") == "trust_domain"]
    certificates = [each for each in subjects if each.get("kind") != "trust_domain"]
    parts = [
        _header(health, environment, now),
        _cards(subjects, alerts, status.get("ledger", {}), now),
        _alerts(alerts),
        _subjects("Trust domains", domains, now),
        _subjects("Certificates", certificates, now),
        platform_section(status.get("platform"), status.get("requests", ()), now),
        _workloads(status.get("workloads", ())),
        _watched(status.get("watched", ()), now),
        _FOOTER,
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}"><title>{_title(alerts, environment)}</title>'
        f"<style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _title(alerts: Sequence[Row], environment: str) -> str:
    count = f"({len(alerts)}) " if alerts else ""
    return f"{count}rotator · {escape(environment)}"


def _header(health: Health, environment: str, now: datetime) -> str:
    state = pill("live", "good") if health.live else pill("not live", "bad")
    problems = "".join(f" {pill(each, 'warn')}" for each in health.problems)
    return (
        f"<header><h1>rotator</h1>{pill(environment)}{pill(health.role)}{state}{problems}"
        f'<span class="soft small">{_clock(now)} · last sweep {health.silent_seconds} s ago</span></header>'
    )


def _cards(subjects: Sequence[Row], alerts: Sequence[Row], ledger: Row, now: datetime) -> str:
    moving = sum(1 for each in subjects if each.get("open_rotation"))
    ends = [(at, each) for each in subjects if (at := moment_of(each.get("not_after"))) is not None]
    soonest = min(ends, key=lambda pair: pair[0], default=None)
    next_end = (
        "nothing yet" if soonest is None else "over" if soonest[0] <= now else f"in {span_words(soonest[0] - now)}"
    )
    whose = "" if soonest is None else escape(str(soonest[1].get("name", "")))
    signed = moment_of(ledger.get("checkpoint_at"))
    said = "not signed yet" if signed is None else f"signed {span_words(now - signed)} ago"
    said += f" · {escape(str(ledger.get('witness', '')))}"
    if ledger.get("problem"):
        said += f" · {pill('cannot be signed', 'bad')}"
    return (
        '<div class="cards">'
        f"{_card('Subjects', str(len(subjects)), f'{moving} in rotation')}"
        f"{_card('Alerts', str(len(alerts)), 'see below' if alerts else 'nobody needs to act')}"
        f"{_card('Next end of life', next_end, whose)}"
        f"{_card('Evidence log', str(ledger.get('size', 0)), said)}"
        "</div>"
    )


def _card(title: str, figure: str, below: str) -> str:
    """Return one card; *below* is HTML."""
    return (
        f'<div class="card"><span class="soft small">{escape(title)}</span><b>{escape(figure)}</b>'
        f'<span class="soft small">{below}</span></div>'
    )


def _alerts(alerts: Sequence[Row]) -> str:
    if not alerts:
        return ""
    items = "".join(
        f'<li class="{"critical" if each.get("severity") == "critical" else "warning"}">'
        f"{pill(str(each.get('severity', '')), 'bad' if each.get('severity') == 'critical' else 'warn')} "
        f"<b>{escape(str(each.get('subject', '')))}</b> {escape(str(each.get('summary', '')))}"
        f' <span class="soft small">since {escape(str(each.get("since", "")))}</span></li>'
        for each in sorted(alerts, key=lambda row: row.get("severity") != "critical")[:MOST_ROWS]
    )
    return f'<h2>Alerts</h2><ul class="alerts">{items}</ul>'


def _subjects(title: str, rows: Sequence[Row], now: datetime) -> str:
    if not rows:
        return ""
    shown = sorted(rows, key=lambda row: (not _is_troubled(row), str(row.get("safety_line") or "")))[:MOST_ROWS]
    more = len(rows) - len(shown)
    note = f'<p class="soft small">{more} more, all further from their end: see the JSON.</p>' if more else ""
    return (
        f'<h2>{escape(title)}</h2><div class="table"><table><thead><tr><th>Name</th><th>Phase</th><th>Life</th>'
        "<th>Generation and serial</th><th>Waits for</th><th>Last rotation</th></tr></thead><tbody>"
        f"{''.join(_subject(each, now) for each in shown)}</tbody></table></div>{note}"
    )


def _is_troubled(row: Row) -> bool:
    return bool(row.get("error") or row.get("waiting_on") or row.get("phase") not in _CALM)


def _subject(row: Row, now: datetime) -> str:
    phase = str(row.get("phase", ""))
    under_way = row.get("open_rotation")
    shown = pill(phase.replace("_", " "), "good" if phase in _CALM else "warn")
    if under_way:
        intent = escape(str(under_way.get("intent", "")).replace("_", " "))
        shown += f'<br><span class="soft small">{intent} under way</span>'
    if row.get("paused_until"):
        shown += f'<br><span class="soft small">paused until {escape(str(row["paused_until"]))}</span>'
    name, identity = escape(str(row.get("name", ""))), escape(str(row.get("spiffe_id") or ""))
    number, serial = row.get("generation"), str(row.get("serial") or "")
    last = row.get("last_rotation") or {}
    ended = (
        f"{escape(str(last.get('result', '')).replace('_', ' '))}<br>"
        f'<span class="soft small">{escape(str(last.get("finished_at") or ""))}</span>'
        if last
        else '<span class="soft">none</span>'
    )
    return (
        f'<tr><td class="name">{name}<br><code>{identity}</code></td>'
        f'<td>{shown}</td><td class="life">{_life(row, now)}</td>'
        f"<td>{'' if number is None else escape(str(number))}<br><code>{escape(serial)}</code></td>"
        f"<td>{_waiting(row)}</td><td>{ended}</td></tr>"
    )


def _waiting(row: Row) -> str:
    names = [str(each) for each in row.get("waiting_on", ())]
    text = few(names)
    said = escape(text) if text else '<span class="soft">nobody</span>'
    if row.get("why"):
        said += f'<br><span class="soft small">{escape(str(row["why"]))}</span>'
    if row.get("error"):
        said += f"<br>{pill('failing', 'bad')} <span class='small'>{escape(str(row['error']))}</span>"
    return said


def _life(row: Row, now: datetime) -> str:
    """Return the bar of a life: the part that is used, where its renewal opens, where its safety line is."""
    begins, ends = moment_of(row.get("not_before")), moment_of(row.get("not_after"))
    if begins is None or ends is None or ends <= begins:
        return '<span class="soft">nothing yet</span>'
    opens, line = moment_of(row.get("renew_at")), moment_of(row.get("safety_line"))
    used = _share(now, begins, ends)
    over = now >= ends or (line is not None and now >= line)
    state = " over" if over else " late" if opens is not None and now >= opens else ""
    marks = "".join(
        f'<line class="mark{name}" x1="{at:.2f}" x2="{at:.2f}" y1="0" y2="10"/>'
        for name, moment in (("", opens), (" line", line))
        if moment is not None and 0 < (at := _share(moment, begins, ends)) < _WHOLE
    )
    left = f"ended {span_words(now - ends)} ago" if now >= ends else f"{span_words(ends - now)} left"
    return (
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{used:.0f}% used">'
        f'<rect class="whole" width="100" height="10" rx="1"/><rect class="part{state}" width="{used:.2f}" height="10" '
        f'rx="1"/>{marks}</svg><span class="small">{left}</span> <span class="soft small">{used:.0f}% used</span>'
    )


def _share(moment: datetime, begins: datetime, ends: datetime) -> float:
    """Return where *moment* lies between *begins* and *ends*, 0 to 100."""
    return max(0.0, min(1.0, (moment - begins) / (ends - begins))) * _WHOLE


def _workloads(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    body = "".join(
        f'<tr><td class="name">{escape(str(each.get("name", "")))}</td><td>{_members(each.get("members", ()))}</td>'
        f"<td>{_waiting(each)}</td></tr>"
        for each in rows[:MOST_ROWS]
    )
    return (
        '<h2>Workloads</h2><div class="table"><table><thead><tr><th>Name</th><th>Members</th><th>Waits for</th></tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _watched(rows: Sequence[Row], now: datetime) -> str:
    """Return what is watched without being managed, what ends first on top."""
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda row: (not row.get("problem"), str(row.get("not_after") or "")))
    body = "".join(
        f'<tr><td class="name">{escape(str(each.get("name", "")))}<br><code>{escape(str(each.get("place", "")))}</code>'
        f'</td><td class="life">{_life(each, now)}</td><td>{escape(str(each.get("count", "")))}</td>'
        f"<td>{pill(str(each['problem']), 'warn') if each.get('problem') else _NOBODY}</td></tr>"
        for each in ordered[:MOST_ROWS]
    )
    return (
        '<h2>Watched, not managed</h2><div class="table"><table><thead><tr><th>Name</th><th>Ends first</th>'
        f"<th>Certificates</th><th>Trouble</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _members(members: Iterable[Row]) -> str:
    shown = []
    for each in tuple(members)[:MOST_ROWS]:
        if each.get("draining"):
            busy = each.get("busy")
            state, kind = f"draining, {'?' if busy is None else busy} tasks", "warn"
        elif each.get("ready"):
            state, kind = "ready", "good"
        else:
            state, kind = ("starting" if each.get("running") else "down"), "bad"
        shown.append(f"{pill(state, kind)} {escape(str(each.get('name', '')))}")
    return "<br>".join(shown) or '<span class="soft">none seen yet</span>'


def _clock(now: datetime) -> str:
    return now.strftime("%Y-%m-%d %H:%M:%S UTC")
