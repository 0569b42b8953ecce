"""
What the demonstration leaves behind: ``report.json`` for machines and ``report.html`` for people.

Rules that must stay true here:

- Pure but for `write`: a recording goes in, text comes out.
- The fields of ``report.json`` are a contract: they may be added to, never renamed.
- ``report.html`` is whole in itself: no script, no font, no picture from anywhere else.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from pathlib import Path

from rotator.demo.claims import claims
from rotator.demo.page import STYLE
from rotator.demo.picture import control, timeline
from rotator.demo.recording import Claim, Recording


def write(recording: Recording, directory: Path) -> None:
    """Write ``report.json`` and ``report.html`` into *directory*."""
    text = json.dumps(document(recording), indent=2, sort_keys=False) + "\n"
    (directory / "report.json").write_text(text, encoding="utf-8")
    (directory / "report.html").write_text(page(recording), encoding="utf-8")


def document(recording: Recording) -> dict[str, object]:
    """Return the content of ``report.json``: the contract's fields first, then everything the picture is drawn from."""
    load, evidence = recording.load, recording.evidence
    killed = recording.ca_rotation(recording.killed_rotation)
    requested = recording.ca_rotation(recording.requested_rotation)
    return {
        "requests": load.requests,
        "failed_requests": load.failed,
        "sessions_resumed": load.sessions_resumed,
        "leaf_rotations": recording.leaf_rotations,
        "ca_rotations": len(recording.ca_moves),
        "killed_rotation_completed": killed is not None and killed.completed_at is not None,
        "rotate_now": requested is not None and requested.completed_at is not None,
        "tasks_completed": sum(1 for task in recording.tasks if task.ok),
        "tasks_lost": recording.tasks_lost,
        "control": {"requests": recording.control.requests, "failed_requests": recording.control.failed},
        "evidence": {
            "entries": evidence.entries if evidence is not None else 0,
            "verified": evidence is not None and evidence.exit_code == 0,
            "pinned_size": evidence.pinned_size if evidence is not None else None,
            "verdict": evidence.verdict if evidence is not None else "not verified",
        },
        "seconds": round(recording.seconds, 1),
        "versions": dict(recording.versions),
        "requests_per_second": round(load.rate, 1),
        "handshakes": load.handshakes,
        "worker_rolls": {
            worker: sum(1 for roll in recording.rolls if roll.worker == worker) for worker in recording.workers
        },
        "claims": [asdict(claim) for claim in claims(recording)],
        "timeline": asdict(recording),
    }


def page(recording: Recording) -> str:
    """Return ``report.html``."""
    judged = claims(recording)
    broken = [claim for claim in judged if not claim.held]
    versions = " · ".join(f"{name} {version}" for name, version in recording.versions.items())
    verdict = "Every claim held." if not broken else f"{len(broken)} of {len(judged)} claims did not hold."
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rotator demo: {escape(verdict)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">rotator demo · {escape(recording.started_at)} · {recording.seconds:.0f} s</p>
<h1>A CA changes hands under load</h1>
<p class="verdict {"held" if not broken else "broken"}">{escape(verdict)}</p>
</header>
{_tiles(recording)}
<section>
<h2>What happened</h2>
<div class="figure">{timeline(recording)}</div>
{_LEGEND}
</section>
<section>
<h2>What was claimed</h2>
<table class="claims"><tbody>
{"".join(_row(claim) for claim in judged)}
</tbody></table>
</section>
{_comparison(recording)}
{_verification(recording)}
<section>
<h2>On what</h2>
<p class="versions">{escape(versions)}</p>
</section>
</main>
</body>
</html>
"""


_LEGEND = """<ul class="legend">
<li><i class="swatch g1"></i><i class="swatch g2"></i><i class="swatch g3"></i> one colour a CA generation,
of the CA and of every leaf it signed</li>
<li><i class="swatch elsewhere"></i> leaves of another trust domain</li>
<li><i class="swatch g2 waiting"></i> a CA that is trusted but does not sign</li>
<li><i class="swatch g2 unused"></i> life that was left when the successor was in place</li>
<li><i class="swatch drain"></i> a worker drains: no new tasks, the running ones finish</li>
<li><i class="swatch down"></i> a process is down</li>
<li><i class="swatch dotted proven"></i> the server sees the new worker's serial</li>
<li><i class="swatch dotted failed"></i> a failed request</li>
</ul>"""


def _tiles(recording: Recording) -> str:
    """Return the figures that matter most."""
    load = recording.load
    done = sum(1 for task in recording.tasks if task.ok)
    entries = recording.evidence.entries if recording.evidence is not None else 0
    tiles = (
        (f"{load.requests:,}", "requests, each a new mutual TLS connection", False),
        (f"{load.failed:,}", "failed", load.failed > 0),
        (f"{len(recording.ca_moves)}", "CA moves", False),
        (f"{recording.leaf_rotations}", "leaf renewals", False),
        (f"{len(recording.rolls)}", "workers replaced", False),
        (f"{done}", "tasks finished", False),
        (f"{recording.tasks_lost}", "tasks lost", recording.tasks_lost > 0),
        (f"{entries}", "log entries", False),
    )
    cells = "".join(
        f'<div class="tile{" bad" if bad else ""}"><b>{figure}</b><span>{escape(text)}</span></div>'
        for figure, text, bad in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _row(claim: Claim) -> str:
    """Return one line of the claims' table."""
    state = "held" if claim.held else "broken"
    return (
        f'<tr class="{state}"><td class="state">{state}</td>'
        f'<td>{escape(claim.text)}</td><td class="figures">{escape(claim.figure)}</td></tr>\n'
    )


def _comparison(recording: Recording) -> str:
    """Return the naive way beside rotator's, counted apart."""
    naive, load = recording.control, recording.load
    if not naive.requests:
        return ""
    return f"""<section>
<h2>For comparison: the naive way, once</h2>
<p>The same two Envoys under the same load, after the daemon was stopped and its log verified:
new CA, then bundle and leaf written to the client's directory, then to the server's, with no overlap.
<b>{naive.failed} of {naive.requests:,} requests failed</b> in one change of the CA;
rotator's {len(recording.ca_moves)} changes above failed {load.failed} of {load.requests:,}.</p>
<div class="figure">{control(recording)}</div>
</section>"""


def _verification(recording: Recording) -> str:
    """Return how to check the log without believing this page."""
    evidence = recording.evidence
    said = ""
    if evidence is not None:
        said_of_it = escape(evidence.verdict)
        said = (
            f"<p>This run's log has {evidence.entries} entries. The checkpoint over the first {evidence.pinned_size} "
            f"was copied outside the log's folder before the daemon was killed. Verdict: {said_of_it}.</p>"
        )
    return f"""<section>
<h2>Check it yourself</h2>
{said}
<pre>rotator evidence verify demo/ledger --key demo/log.vkey --pinned demo/pinned.checkpoint
cat demo/ledger/checkpoint        # a C2SP signed note
cat demo/report.json              # every figure on this page, and what the picture is drawn from</pre>
<p>The log is a <code>tlog-tiles</code> directory with a signed-note checkpoint, so that tools which rotator's authors
did not write can check it as well.</p>
</section>"""
