"""The sections of a report on what was done: changes, live frames, unlearnings, exports."""

from __future__ import annotations

from html import escape

from edgecl.evaluation.report.contents import Contents
from edgecl.evaluation.report.html import name, number, table, when


def changes(c: Contents) -> str:
    """Return a table of changes as HTML."""
    if not c.changes:
        return "<p>No change is on record.</p>"
    rows = [
        (
            row.change,
            escape(row.kind),
            escape(row.state.replace("_", " ")),
            when(row.time),
            number(row.learned),
            f"{number(row.lost)} lost, {number(row.won)} won of {number(row.n)}",
            escape(row.verdict),
        )
        for row in c.changes
    ]
    note = (
        '<p class="quiet">The same pictures were answered before and after each change. '
        "`edgecl changes c12` says what one did, `edgecl rollback c12` takes it back.</p>"
    )
    head = ("change", "kind", "state", "when", "learned", "answers", "verdict")
    return table(head, rows) + note


def live(c: Contents) -> str:
    """Return a table of the answers to the newest live frames that were named, as HTML."""
    rows = []
    for label, known in c.live.items():
        low, high = (f"{100 * edge:.0f}" for edge in known["live_interval"])
        rows.append(
            (
                name(label),
                f"{number(known['live_right'])} of {number(known['live'])} ({low}-{high} %)",
                number(known["outdated_answers"]),
                "outdated" if known["is_outdated"] else "",
            )
        )
    note = (
        '<p class="quiet">What was served of live frames that somebody named, before they were '
        "learned, one a second and the newest 100 of each class. Outdated: fewer are right than of "
        "the test pictures, more than chance explains.</p>"
    )
    return table(("class", "right", "by an old name", ""), rows) + note


def receipts(c: Contents) -> str:
    """Return a table of what was unlearned as HTML."""
    if not c.receipts:
        return "<p>Nothing was unlearned.</p>"
    rows = [
        (
            row.receipt_id,
            escape(row.what),
            escape(row.mode.replace("_", " ")),
            when(row.time),
            escape(row.check),
        )
        for row in c.receipts
    ]
    note = '<p class="quiet">The chain of receipts was checked; receipts hold no names.</p>'
    return table(("receipt", "what", "mode", "when", "check"), rows) + note


def exports(c: Contents) -> str:
    """Return a table of exports as HTML."""
    if not c.exports:
        return "<p>Nothing was exported.</p>"
    rows = [
        (
            str(row.uid),
            escape(row.kind),
            name(row.path),
            number(row.n_classes),
            when(row.created),
            "stale" if row.is_stale else "in use",
        )
        for row in c.exports
    ]
    return table(("export", "kind", "folder", "classes", "when", "state"), rows, numbers=(3,))
