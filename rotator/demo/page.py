"""
How ``report.html`` looks, by day and by night.

Rules that must stay true here:

- Nothing is loaded from anywhere: system fonts, no pictures.
- Meaning is never in colour alone: a failure is also a word, a claim also says "held" or "broken".
"""

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --soft: #f5f6f8; --edge: #dfe3e8; --ink: #1b2430; --muted: #5c6875;
  --g1: #3569c9; --g2: #0b8577; --g3: #8250c4; --g4: #b06a06; --g5: #a83a7c;
  --good: #1a7f37; --goodsoft: #e7f5ea; --bad: #c9252d; --badsoft: #fdeaea; --rate: #c7d6f2; --rateedge: #3569c9;
  --task: #8a97a6; --run: #d5dde6; --drain: #e8b64c; --inside: #ffffff; --dark: #33404f; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #12171d; --soft: #1a2129; --edge: #2c3640; --ink: #e4e9ef; --muted: #97a3b0;
  --g1: #6d9bf0; --g2: #3dbfae; --g3: #b48cf0; --g4: #e0a040; --g5: #e07bb6;
  --good: #57c878; --goodsoft: #15301d; --bad: #ff7a7a; --badsoft: #3a1a1c; --rate: #24375a; --rateedge: #6d9bf0;
  --task: #76838f; --run: #33404c; --drain: #b98a2b; --inside: #0c1116; --dark: #c9d3de; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 28px 64px; }
.eyebrow { margin: 0; color: var(--muted); font-size: 13px; letter-spacing: .02em; }
h1 { font-size: 34px; line-height: 1.15; margin: 4px 0 12px; letter-spacing: -.015em; }
h2 { font-size: 19px; margin: 44px 0 12px; letter-spacing: -.005em; }
p { max-width: 78ch; }
.verdict { display: inline-block; margin: 0; padding: 5px 14px; border-radius: 99px; font-weight: 600; }
.verdict.held { color: var(--good); background: var(--goodsoft); }
.verdict.broken { color: var(--bad); background: var(--badsoft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(126px, 1fr)); gap: 10px; margin: 26px 0 0; }
.tile { background: var(--soft); border: 1px solid var(--edge); border-radius: 10px; padding: 12px 14px; }
.tile b { display: block; font-size: 25px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--muted); font-size: 12.5px; line-height: 1.35; }
.tile.bad b { color: var(--bad); }
.figure { overflow-x: auto; border: 1px solid var(--edge); border-radius: 12px; padding: 14px 10px 8px; }
.figure svg { display: block; min-width: 860px; width: 100%; height: auto; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--muted); }
svg text.name { font-size: 12.5px; font-weight: 600; fill: var(--ink); }
svg text.name.small { font-size: 11px; font-weight: 400; fill: var(--muted); }
svg text.inside { fill: var(--inside); font-size: 10.5px; font-weight: 600; }
svg text.marker { font-size: 12px; fill: var(--ink); font-weight: 500; }
svg .grid { stroke: var(--edge); stroke-width: 1; }
svg .base { stroke: var(--muted); stroke-width: 1; opacity: .5; }
svg .floor { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 4; }
svg .rate { fill: var(--rate); stroke: var(--rateedge); stroke-width: 1; }
.g1 { --c: var(--g1); } .g2 { --c: var(--g2); } .g3 { --c: var(--g3); } .g4 { --c: var(--g4); } .g5 { --c: var(--g5); }
.elsewhere { --c: var(--muted); }
.bar { fill: var(--c, var(--muted)); }
.bar.waiting { opacity: .45; }
.bar.unused { fill: none; stroke: var(--c); stroke-width: 1; opacity: .55; stroke-dasharray: 3 2; }
.bar.daemon { --c: var(--dark); } .bar.run { --c: var(--run); } .bar.run + text.inside { fill: var(--muted); }
.bar.drain { --c: var(--drain); } .bar.task { --c: var(--task); } .bar.ok { --c: var(--g1); }
.bar.drain + text.inside { fill: #1b2430; }
.bar.down { fill: var(--badsoft); stroke: var(--bad); stroke-width: 1; }
.bar.fail { --c: var(--bad); }
.bar.phase { --c: var(--run); } .bar.phase + text.inside { fill: var(--ink); font-weight: 500; }
.bar.phase.prepared, .bar.phase.trusted { --c: color-mix(in srgb, var(--drain) 35%, var(--paper)); }
.bar.phase.activated { --c: color-mix(in srgb, var(--drain) 75%, var(--paper)); }
.bar.phase.reissued, .bar.phase.retired { --c: color-mix(in srgb, var(--good) 35%, var(--paper)); }
.bar.phase.steady { fill: var(--soft); stroke: var(--edge); }
.mark { stroke: var(--muted); stroke-width: 1.2; stroke-dasharray: 4 3; }
.mark.killed { stroke: var(--bad); } .mark.restarted { stroke: var(--good); } .mark.rotate_now { stroke: var(--ink); }
.dot { fill: var(--muted); } .dot.killed, .dot.failed { fill: var(--bad); } .dot.restarted { fill: var(--good); }
.dot.rotate_now { fill: var(--ink); } .dot.proven { fill: var(--good); stroke: var(--paper); stroke-width: 1; }
.legend { list-style: none; margin: 12px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 22px;
  color: var(--muted); font-size: 13px; }
.swatch { display: inline-block; width: 20px; height: 10px; border-radius: 2px; background: var(--c, var(--muted));
  margin-right: 4px; }
.swatch.waiting { opacity: .45; }
.swatch.unused { background: none; border: 1px dashed var(--c); opacity: .7; }
.swatch.drain { background: var(--drain); }
.swatch.down { background: var(--badsoft); border: 1px solid var(--bad); }
.swatch.dotted { width: 9px; height: 9px; border-radius: 50%; background: var(--good); }
.swatch.dotted.failed { background: var(--bad); }
table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid var(--edge); padding: 8px 14px 8px 0; vertical-align: top; }
tr:first-child td { border-top: 0; }
td.state { width: 5.5em; font-weight: 600; }
.held td.state { color: var(--good); } .broken td.state { color: var(--bad); }
td.figures { width: 42%; color: var(--muted); font-variant-numeric: tabular-nums; }
pre { background: var(--soft); border: 1px solid var(--edge); border-radius: 10px; padding: 14px 16px; overflow-x: auto;
  font: 13.5px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.versions { color: var(--muted); font-size: 14px; }
@media (max-width: 640px) { main { padding: 22px 16px 48px; } h1 { font-size: 26px; } }
"""
"""One style sheet, inlined."""
