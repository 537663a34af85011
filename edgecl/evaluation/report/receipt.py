"""A receipt as a page for an officer: one HTML file that needs nothing else and prints well."""

from __future__ import annotations

from html import escape

from edgecl.evaluation.report.style import style_sheet
from edgecl.unlearning.account import Account
from edgecl.unlearning.words import Part, parts_of, title_of, verdict_of

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body { max-width: 46rem; }
.verdict { border-left: 5px solid var(--wrong); background: var(--alarm); margin: 1rem 0;
  padding: 0.7rem 1rem; font-size: 1.1rem; }
.verdict.good { border-color: var(--right); background: var(--panel); }
li { margin: 0.3rem 0; }
td.value { font-variant-numeric: tabular-nums; }
td.n { width: 6rem; }
.signature td.value { font: 0.72rem/1.4 ui-monospace, monospace; word-break: break-all; }
.signature td:first-child { white-space: nowrap; vertical-align: top; }
@media screen and (max-width: 640px) {
  table.rows tr { display: block; }
  table.rows td { display: block; }
  table.rows td:first-child { color: var(--muted); font-size: 0.9rem; }
}
@media print { .signature { break-inside: avoid; } h1 { font-size: 18pt; }
  h2 { margin-top: 1.2rem; } }
"""


def receipt_page(account: Account, public_key: str) -> str:
    """Return a receipt as HTML.

    Args:
        account: The request.
        public_key: The device's, hex.
    """
    title = title_of(account)
    said, how = verdict_of(account)
    parts = "\n".join(_part(part) for part in parts_of(account, public_key))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style_sheet()}{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1></header>\n"
        f'<p class="verdict {how}">{escape(said)}</p>\n{parts}\n'
        f"<footer><p>Written by edgecl {escape(account.entry.edgecl)}. Not legal advice.</p>"
        "</footer>\n</body>\n</html>\n"
    )


def _part(part: Part) -> str:
    text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in part.text)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="{_kind(value)}">{escape(value)}</td></tr>'
        for name, value in part.rows
    )
    table = f'<table class="rows"><tbody>{rows}</tbody></table>' if rows else ""
    points = "".join(f"<li>{escape(point)}</li>" for point in part.points)
    listed = f"<ul>{points}</ul>" if points else ""
    return (
        f'<section class="{escape(part.title.split()[0].lower())}"><h2>{escape(part.title)}</h2>\n'
        f"{text}{table}{listed}</section>"
    )


def _kind(value: str) -> str:
    return "n" if value.strip("0123456789.,e-%") == "" else "value"
