"""The style sheet of a report: wide, narrow, dark and printed."""

from __future__ import annotations

from edgecl.evaluation.report.svg import COLOURS

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --panel: #f3f5f7; --alarm: #fff4e5; LIGHT }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --panel: #1e2328; --alarm: #33240f; DARK }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 980px; padding: 1.2rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.4rem; break-after: avoid; }
p { margin: 0.3rem 0; }
.quiet, figcaption, footer, th { color: var(--muted); font-size: 0.9rem; }
.verdict { border-left: 4px solid var(--muted); background: var(--panel); margin: 1rem 0;
  padding: 0.7rem 1rem; break-inside: avoid; }
.verdict h2 { margin: 0; font-size: 0.9rem; font-weight: normal; color: var(--muted); }
.verdict p { font-size: 1.15rem; }
.verdict.good { border-color: var(--right); }
.verdict.partly, .verdict.bad { border-color: var(--wrong); }
.verdict.bad { background: var(--alarm); }
.tiles { display: flex; flex-wrap: wrap; gap: 0.7rem; margin: 1rem 0; padding: 0; }
.tiles div { flex: 1 1 9rem; background: var(--panel); border-radius: 6px;
  padding: 0.5rem 0.8rem; }
.tiles dt { color: var(--muted); font-size: 0.85rem; }
.tiles dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tiles dd.quiet { font-size: 0.8rem; }
.warnings { background: var(--alarm); border-left: 4px solid var(--wrong); margin: 1rem 0;
  padding: 0.6rem 1rem 0.6rem 2rem; break-inside: avoid; }
.warnings li { margin: 0.3rem 0; }
figure { margin: 0.5rem 0; break-inside: avoid; }
svg { display: block; max-width: 100%; height: auto; stroke-linejoin: round;
  stroke-linecap: butt; }
.narrow { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; list-style: none; margin: 0.3rem 0;
  padding: 0; font-size: 0.9rem; }
.legend i { display: inline-block; width: 1.2rem; height: 0.25rem; margin-right: 0.4rem;
  vertical-align: middle; background: currentColor; }
.legend span { color: var(--ink); }
table { border-collapse: collapse; width: 100%; font-size: 0.95rem; }
th { text-align: left; font-weight: normal; vertical-align: bottom; }
td, th { padding: 0.3rem 0.6rem 0.3rem 0; border-bottom: 1px solid var(--grid); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { min-width: 7rem; }
td.score { white-space: nowrap; }
thead { display: table-header-group; }
tr { break-inside: avoid; }
img { width: 48px; height: 48px; border-radius: 3px; vertical-align: middle; }
.bar { display: inline-block; width: 6rem; height: 0.7rem; margin-right: 0.5rem;
  background: var(--grid); border-radius: 2px; vertical-align: baseline; }
.bar b { display: block; height: 100%; background: var(--right); border-radius: 2px; }
.pairs { display: flex; flex-wrap: wrap; gap: 0.8rem; list-style: none; padding: 0; }
.pairs li { background: var(--panel); border-radius: 6px; padding: 0.6rem; flex: 1 1 16rem;
  max-width: 30rem; break-inside: avoid; }
.pairs img { margin-right: 4px; }
.queue img { margin: 0 4px 4px 0; width: 64px; height: 64px; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--grid); padding-top: 0.6rem; }
@media screen and (max-width: 640px) {
  body { padding: 0.8rem; }
  .wide { display: none; }
  .narrow { display: block; }
  thead { display: none; }
  table, tbody { display: block; }
  tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0.1rem 0.8rem; padding: 0.5rem 0;
    border-bottom: 1px solid var(--grid); }
  td, td.n { border: 0; padding: 0; text-align: left; white-space: normal; }
  td.all { grid-column: 1 / -1; }
  td:empty { display: none; }
  .classes tr { grid-template-columns: 48px 1fr 1fr; }
  .classes td.picture { grid-row: 1 / span 5; }
  .classes td.name, .classes td.score { grid-column: 2 / -1; }
  .classes td.picture:empty { display: block; }
  td[data-label]::before { content: attr(data-label) " "; color: var(--muted); }
}
@page { size: A4; margin: 14mm 12mm; }
@media print {
  :root { color-scheme: light; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  .end { break-inside: avoid; }
  footer { margin-top: 1rem; }
}
"""


def style_sheet() -> str:
    """Return the style sheet, with the colours of the charts as variables."""
    light = " ".join(f"--{role}: {colours[0]};" for role, colours in COLOURS.items())
    dark = " ".join(f"--{role}: {colours[1]};" for role, colours in COLOURS.items())
    return _STYLE.replace("LIGHT", light).replace("DARK", dark)
