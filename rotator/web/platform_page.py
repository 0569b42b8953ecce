"""
The platform on the status page: what is applied where, what is out of step, what was changed and what waits.

Rules that must stay true here:

- Pure, as `rotator.web.page`: the status document in, HTML out, every word from outside escaped.
- Whoever asked for a change that is over stands here as in the ledger, as a commitment; ``rotator explain`` names them.
- Bounded: of many drifts and changes the first are shown, and how many are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final

from rotator.web.markup import Row, few, moment_of, pill, soft, span_words, table

MOST_DRIFTS: Final = 20
LONGEST_DIFF: Final = 4000
"""Characters of one diff."""
_COMMITMENT: Final = 12
"""Characters of a commitment: enough to find it in the ledger."""
_ID: Final = 12
"""Characters of an id: enough to find it, and for approving enough to name it."""
_PLATFORM: Final = "platform"

_STATES: Final[Mapping[str, str]] = {"done": "good", "open": "warn", "failed": "bad", "refused": "bad"}
_KINDS: Final[Mapping[str, str]] = {"apply": "apply", "undo": "undo", "put_back": "put back"}


def platform_section(platform: Row | None, requests: Sequence[Row], now: datetime) -> str:
    """Return what ``platform`` and ``requests`` of the status say at *now*; nothing where no platform is configured."""
    if not platform:
        return ""
    heads = ("Environment", "Mesh", "Applied", "Stand there", "To apply", "Out of step", "Seen")
    rows = (row for mesh in platform.get("meshes", ()) for row in _environments(mesh, now))
    return f"<h2>Platform</h2>{table(heads, rows)}{_drifts(platform, now)}{_changes(platform, requests)}"


def _environments(mesh: Row, now: datetime) -> Iterator[str]:
    """Yield a row for each environment of *mesh*; one for the mesh as long as nothing was seen."""
    seen = moment_of(mesh.get("seen_at"))
    looked = soft("not yet" if seen is None else f"{span_words(now - seen)} ago")
    if mesh.get("problem"):
        looked += f"<br>{pill('cannot be seen', 'bad')} {soft(str(mesh['problem']))}"
    where = f"<td>{escape(str(mesh.get('mesh', '')))}<br><code>{escape(str(mesh.get('trust_domain', '')))}</code></td>"
    unseen: Row = {"environment": "not seen yet"}
    for each in mesh.get("environments", ()) or (unseen,):
        name = each.get("environment")
        shown = escape(str(name)) if name is not None else '<span class="soft">the whole mesh</span>'
        waits, drifted = each.get("to_apply"), each.get("drifted")
        yield (
            f'<tr><td class="name">{shown}</td>{where}<td>{_count(each.get("applied"))}</td>'
            f"<td>{_count(each.get('documents'))}</td>"
            f"<td>{_judged(waits, 'to apply', 'warn')}</td><td>{_judged(drifted, 'changed', 'bad')}</td>"
            f"<td>{looked}</td></tr>"
        )


def _drifts(platform: Row, now: datetime) -> str:
    drifts: Sequence[Row] = platform.get("drift", ())
    if not drifts:
        return ""
    ordered = sorted(drifts, key=lambda row: not row.get("opens"))
    items = "".join(_drift(each, now) for each in ordered[:MOST_DRIFTS])
    more = f'<p class="soft small">{len(drifts) - MOST_DRIFTS} more: see the JSON.</p>' if drifts[MOST_DRIFTS:] else ""
    after = "is put back" if platform.get("on_drift") == "put_back" else "is only told of"
    return (
        f'<h2>Changed by others</h2>{soft(f"By platform.drift.then it {after}.")}<ul class="alerts">{items}</ul>{more}'
    )


def _drift(row: Row, now: datetime) -> str:
    opens = bool(row.get("opens"))
    since = moment_of(row.get("since"))
    known = soft(f"for {span_words(now - since)}") if since is not None else ""
    diff = str(row.get("diff") or "")
    cut = diff[:LONGEST_DIFF] + ("\n…" if len(diff) > LONGEST_DIFF else "")
    details = f"<details><summary>what would put it back</summary><pre>{escape(cut)}</pre></details>" if diff else ""
    return (
        f'<li class="{"critical" if opens else "warning"}">'
        f"{pill('lets somebody in', 'bad') if opens else pill(str(row.get('what', '')), 'warn')} "
        f"{escape(str(row.get('says', '')))} {known}{details}</li>"
    )


def _changes(platform: Row, requests: Sequence[Row]) -> str:
    pending = [each for each in requests if _PLATFORM in each.get("subjects", ())]
    changes: Sequence[Row] = platform.get("changes", ())
    if not pending and not changes:
        return ""
    heads = ("Change", "State", "Documents", "When", "Asked by", "Approved by", "Outcome")
    rows = [*(_pending(each) for each in pending), *(_change(each, platform) for each in changes)]
    return f"<h2>Changes of the platform</h2>{table(heads, rows)}"


def _pending(row: Row) -> str:
    """Return the row of a request that waits for somebody's word."""
    given, needed = row.get("approvals_given", 0), row.get("approvals_needed", 0)
    reason = row.get("reason")
    return (
        f'<tr><td class="name">{escape(str(row.get("operation", "")))}<br>{_id(row)}'
        f"</td><td>{pill('waits for approval', 'warn')}</td><td></td>"
        f'<td class="when">{soft(_when(row.get("asked_at")))}<br>{soft("until " + _when(row.get("expires_at")))}</td>'
        f"<td>{escape(str(row.get('requested_by') or 'erased'))}</td>"
        f"<td>{escape(str(given))} of {escape(str(needed))}</td>"
        f"<td>{escape(str(reason)) if reason else ''}<br>"
        f"<code>rotator approve {escape(str(row.get('id', ''))[:_ID])}</code>"
        "</td></tr>"
    )


def _change(row: Row, platform: Row) -> str:
    state = row.get("state")
    kind = str(row.get("kind", ""))
    undoes = f"<br>{soft('of ' + str(row['undoes'])[:_ID])}" if row.get("undoes") else ""
    ticket = f"<br>{soft(str(row['ticket']))}" if row.get("ticket") else ""
    said = escape(str(row.get("outcome") or ""))
    if state == "open":
        waiting = [str(each) for each in platform.get("waiting_on", ())]
        why = f"waits for {few(waiting)}: {platform.get('why', '')}" if waiting else "under way"
        said = escape(why)
    ended = row.get("finished_at")
    when = soft(_when(row.get("opened_at"))) + (f"<br>{soft('ended ' + _when(ended))}" if ended else "")
    shown = "not known" if state is None else str(state).replace("_", " ")
    return (
        f'<tr><td class="name">{escape(_KINDS.get(kind, kind))}{undoes}<br>'
        f"{_id(row)}{ticket}</td><td>{pill(shown, _STATES.get(str(state), ''))}</td>"
        f'<td>{_count(row.get("documents"))}</td><td class="when">{when}</td>'
        f"<td>{_people([row.get('requested_by')])}</td><td>{_people(row.get('approved_by', ()))}</td>"
        f"<td>{said}</td></tr>"
    )


def _id(row: Row) -> str:
    """Return the beginning of an id; the whole stands there when it is pointed at."""
    whole = str(row.get("id", ""))
    return f'<code title="{escape(whole)}">{escape(whole[:_ID])}</code>'


def _people(commitments: Sequence[Any]) -> str:
    """Return who it was, as the ledger says it."""
    shown = [
        f'<code title="{escape(each)}">{escape(each.rpartition(":")[2][:_COMMITMENT])}</code>'
        for each in map(str, filter(None, commitments))
    ]
    return "<br>".join(shown) or '<span class="soft">nobody</span>'


def _count(found: object) -> str:
    return '<span class="soft">?</span>' if found is None else escape(str(found))


def _judged(count: object, what: str, kind: str) -> str:
    """Return how many there are, as good news if there are none."""
    if count is None:
        return _count(count)
    return pill(f"{count} {what}", kind) if count else pill("none", "good")


def _when(found: object) -> str:
    return str(found or "").replace("T", " ").removesuffix("Z")
