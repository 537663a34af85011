"""The page of a report: one HTML file that needs nothing else, and can run nothing.

Its policy (a `meta` element) forbids scripts and anything from outside, whatever a name in it says.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from edgecl.evaluation.report.charts import Chart, class_colours
from edgecl.evaluation.report.contents import Contents
from edgecl.evaluation.report.findings import short, warnings_of
from edgecl.evaluation.report.matrix import shown_cells
from edgecl.evaluation.report.measures import GAP_WINDOW, drops_of, gaps_of, last_accuracy
from edgecl.evaluation.report.style import style_sheet
from edgecl.evaluation.report.svg import NARROW, WIDE

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_NO_PROBES = (
    "No picture was held out as a probe yet, so there is no accuracy to show. Probes are set aside "
    "while a stream is learned."
)


def render(contents: Contents, charts: dict[str, Chart]) -> str:
    """Return the page as HTML.

    Args:
        contents: What it shows.
        charts: Its charts by name, as `charts.draw` gives them.
    """
    c = contents
    parts = [
        _head(c),
        _tiles(c),
        _warnings(c),
        _section("Accuracy over time", _accuracy(c, charts)),
        _section("When a class came", _stability(c, charts)),
        _section("Classes", _classes(c) if c.classes else ""),
        _section("What is taken for what", _confusion(c, charts)),
        _section("Perhaps taught wrong", _doubts(c)),
        _section("How long a step takes", _latency(c, charts)),
        _section("The store", _store(c, charts)),
        _section("Unlearned", _receipts(c)),
        _section("Exports", _exports(c)),
        _section("Waiting for a name", _novel(c)) if c.n_novel else "",
        _foot(c),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>edgecl report: {escape(c.home.name)}</title>\n"
        f"<style>{style_sheet()}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


# Parts of the page


def _head(c: Contents) -> str:
    return (
        f"<header><h1>edgecl report</h1>\n<p>{_name(str(c.home))}</p>\n"
        f'<p class="quiet">{escape(c.backbone)} at {c.image_size} pixels, head {escape(c.head)}, '
        f"{_when(c.time)}</p></header>"
    )


def _tiles(c: Contents) -> str:
    accuracy = last_accuracy(c)
    known = accuracy[np.isfinite(accuracy)]
    tiles = [("samples learned", _number(c.samples)), ("classes", str(len(c.classes)))]
    if len(known):
        tiles.append(("accuracy on the probes now", f"{known.mean():.1%}"))
    for name, what in (
        ("min_accuracy", "lowest so far (min-ACC)"),
        ("worst_case_accuracy", "worst case (WC-ACC)"),
        ("forgetting", "forgotten since the best"),
    ):
        if name in c.scores:
            tiles.append((what, f"{c.scores[name]:.1%}"))
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in tiles)
    return f'<dl class="tiles">{items}</dl>'


def _warnings(c: Contents) -> str:
    found = warnings_of(c)
    if not found:
        return "<p>Nothing to warn about.</p>"
    items = "".join(f"<li>{_prose(text)}</li>" for text in found)
    return f'<ul class="warnings" aria-label="warnings">{items}</ul>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>" if body else ""


def _figure(chart: Chart, caption: str = "", more: str = "") -> str:
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure role="group" aria-label="{escape(chart.alt)}"><div class="wide">{chart.wide}'
        f'</div><div class="narrow">{chart.narrow}</div>{more}'
        f"{said}</figure>"
    )


def _accuracy(c: Contents, charts: dict[str, Chart]) -> str:
    if "accuracy" not in charts:
        return f"<p>{_NO_PROBES}</p>"
    entries = [("--ink", "mean")]
    entries += [(f"--{role}", short(c.classes[i].name)) for i, role in class_colours(c).items()]
    if len(entries) - 1 < len(c.classes):
        entries.append(("--muted", "the other classes, one line each"))
    legend = "".join(
        f'<li style="color: var({colour})"><i></i><span>{_name(name)}</span></li>'
        for colour, name in entries
    )
    caption = (
        "Share of the probes that is right. A triangle above: a class came; it counts from its "
        "first probe on, and starts low."
    )
    if any(row.step is not None for row in c.receipts):
        caption += (
            " A dashed line: something was unlearned, with its receipt. What was unlearned is in "
            "no curve, also not before."
        )
    return _figure(charts["accuracy"], caption, f'<ul class="legend">{legend}</ul>')


def _stability(c: Contents, charts: dict[str, Chart]) -> str:
    if "stability" not in charts:
        if len(c.history.steps) == 0:
            return ""
        return (
            "<p>Nothing to compare: no class came while others were scored, or they came at once."
            "</p>"
        )
    gaps = sorted(gaps_of(c), key=lambda gap: gap.change.min())
    worst = "; ".join(
        f"{_points(-gap.change.min())}, {_number(gap.since[gap.change.argmin()])} samples after "
        f"{_name(short(c.classes[gap.place].name))} came"
        for gap in gaps[:3]
        if gap.change.min() <= -0.5
    )
    caption = (
        f"What the earlier classes lost or won in the {GAP_WINDOW} samples after each class came "
        "(one line each, up to the next class), and the mean. A head without a gap stays at 0."
    )
    text = f"<p>Largest drops: {worst}.</p>" if worst else "<p>No earlier class lost anything.</p>"
    return _figure(charts["stability"], caption) + text


def _classes(c: Contents) -> str:
    accuracy, drops = last_accuracy(c), drops_of(c)
    head = ("", "class", "accuracy now", "was better by", "learned", "kept", "held out",
            "first right", "9 of 10 right")  # fmt: skip
    rows = []
    for i, row in enumerate(c.classes):
        score = "no probe"
        if np.isfinite(accuracy[i]):
            bar = f'<span class="bar"><b style="width: {100 * accuracy[i]:.0f}%"></b></span>'
            score = f"{bar}{accuracy[i]:.0%}"
        cells = [
            _cell(_image(row.picture, "") if row.picture else "", "picture"),
            _cell(_name(row.name), "name"),
            _cell(score, "score"),
            _cell(f"{drops[i]:.0f}" if drops[i] else "", "n", "was better by"),
            _cell(_number(row.learned), "n", "learned"),
            _cell(_number(row.kept), "n", "kept"),
            _cell(_number(row.held_out), "n", "held out"),
            _cell(_frames(row.first_right, row.n_frames), "n", "first right"),
            _cell(_frames(row.nine_of_ten, row.n_frames), "n", "9 of 10 right"),
        ]
        rows.append("<tr>" + "".join(cells) + "</tr>")
    note = (
        '<p class="quiet">Accuracy is that of the head which is served now, on the probes. '
        "“Was better by” is in points. “First right” and “9 of 10 right” count the frames of the "
        "class until then.</p>"
    )
    numbers = frozenset(head[3:])
    heads = "".join(f"<th{' class=n' if h in numbers else ''}>{h}</th>" for h in head)
    table = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="classes">{table}</table>{note}'


def _frames(n: int | None, n_frames: int) -> str:
    if n is not None:
        return _number(n)
    return f"not in {_number(n_frames)}" if n_frames else "-"


def _confusion(c: Contents, charts: dict[str, Chart]) -> str:
    if c.confusion is None or "confusion" not in charts:
        return f"<p>No confusion matrix: {escape(c.no_confusion or 'nothing was scored')}.</p>"
    caption = "Probes by class (rows) and by the answer of the head that is served (columns)."
    n_wide, n_narrow = len(shown_cells(c, WIDE)), len(shown_cells(c, NARROW))
    n_tested = int((c.confusion.sum(axis=0) + c.confusion.sum(axis=1) > 0).sum())
    if n_wide < n_tested:
        caption += f" Of {n_tested} classes the {n_wide} with most mistakes."
    body = _figure(charts["confusion"], caption)
    if n_narrow < n_wide:
        body += (
            f'<p class="quiet narrow">On this narrow page the {n_narrow} classes with most '
            "mistakes.</p>"
        )
    if not c.confused:
        return body + "<p>No probe is taken for another class.</p>"
    items = []
    for pair in c.confused:
        true, guess = c.classes[pair.true], c.classes[pair.guess]
        pictures = "".join(_image(p, f"a probe of {true.name}") for p in pair.pictures)
        looks = ""
        if guess.picture:
            looks = f" like {_image(guess.picture, f'a picture of {guess.name}')}"
        items.append(
            f"<li><p>{_name(true.name)} taken for {_name(guess.name)}: {pair.n} of {pair.of}"
            f"</p><p>{pictures}{looks}</p></li>"
        )
    return body + f'<ul class="pairs">{"".join(items)}</ul>'


def _doubts(c: Contents) -> str:
    if not c.doubts:
        return ""
    items = []
    for doubt in c.doubts:
        pictures = _image(doubt.picture, f"a picture of {doubt.label}") if doubt.picture else ""
        why = f"the others say {_name(doubt.guess)}"
        if doubt.twin is not None:
            why = f"shows what {doubt.twin} does, taught as {_name(doubt.guess)}"
            if doubt.twin_picture:
                pictures += _image(doubt.twin_picture, f"a picture of {doubt.guess}")
        items.append(
            f"<li><p>{doubt.uid}, taught as {_name(doubt.label)}: {why}</p><p>{pictures}</p></li>"
        )
    return (
        f"<p>{_number(c.n_doubts)} kept samples are contradicted by all the others together; those "
        "most of all come first. <code>edgecl review mistakes</code> lists them; relabel, forget "
        f'or confirm them by their number.</p><ul class="pairs">{"".join(items)}</ul>'
    )


def _latency(c: Contents, charts: dict[str, Chart]) -> str:
    if "latency" not in charts:
        return "<p>No time was measured yet.</p>"
    del c
    caption = "Steps by the time they took, on a logarithmic scale; dashed: half, and 99 of 100."
    return _figure(charts["latency"], caption)


def _store(c: Contents, charts: dict[str, Chart]) -> str:
    capacity = f"{c.picture_bytes / 1e6:.1f} of {c.capacity_bytes / 1e6:.0f} MB"
    text = (
        f"<p>{_number(len(c.kept_steps))} of at most {_number(c.capacity_samples)} pictures kept "
        f"({capacity})"
    )
    if len(c.kept_times):
        ages = c.time - c.kept_times
        text += f"; half of them are younger than {_age(float(np.median(ages)))}, "
        text += f"the oldest is {_age(float(ages.max()))} old"
    body = text + ".</p>" + (_figure(charts["store"]) if "store" in charts else "")
    rows = [(_name(name or "(unnamed)"), _number(n)) for name, n in c.sources]
    return body + _table(("source", "samples still there"), rows[:20], numbers=(1,))


def _receipts(c: Contents) -> str:
    if not c.receipts:
        return "<p>Nothing was unlearned.</p>"
    rows = [
        (
            row.receipt_id,
            escape(row.what),
            escape(row.mode.replace("_", " ")),
            _when(row.time),
            escape(row.check),
        )
        for row in c.receipts
    ]
    note = '<p class="quiet">The chain of receipts was checked; receipts hold no names.</p>'
    return _table(("receipt", "what", "mode", "when", "check"), rows) + note


def _exports(c: Contents) -> str:
    if not c.exports:
        return "<p>Nothing was exported.</p>"
    rows = [
        (
            str(row.uid),
            escape(row.kind),
            _name(row.path),
            _number(row.n_classes),
            _when(row.created),
            "stale" if row.is_stale else "in use",
        )
        for row in c.exports
    ]
    return _table(("export", "kind", "folder", "classes", "when", "state"), rows, numbers=(3,))


def _novel(c: Contents) -> str:
    pictures = "".join(_image(p, "a frame that looks like no known class") for p in c.novel)
    return (
        f"<p>{_number(c.n_novel)} frames look like no known class; the most novel first. Name or "
        f'drop them with <code>edgecl review</code>.</p><p class="queue">{pictures}</p>'
    )


def _foot(c: Contents) -> str:
    sealed = ""
    if c.is_sealed:
        sealed = " The home is encrypted; this file is not."
    return (
        f"<footer><p>Written by edgecl {escape(c.version)}, {_when(c.time)}. This file and the "
        "PNG files beside it hold class names and pictures, and edgecl cannot reach them: after "
        f"<code>edgecl forget</code>, delete them and every copy by hand.{sealed}</p></footer>"
    )


# Small parts


def _name(text: str) -> str:
    """Return a name or text as HTML; one that is written from right to left moves nothing."""
    return f"<bdi>{escape(text)}</bdi>"


def _prose(text: str) -> str:
    """Return a sentence as HTML; what stands between backticks is a command."""
    return re.sub(r"`([^`<>]+)`", r"<code>\1</code>", f"<bdi>{escape(text)}</bdi>")


def _image(data: bytes, alt: str) -> str:
    url = base64.b64encode(data).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{url}" alt="{escape(alt)}">'


def _cell(html: str, kind: str, label: str = "") -> str:
    shown = f' data-label="{label}"' if label and html else ""
    return f'<td class="{kind}"{shown}>{html}</td>'


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()
) -> str:
    """Return a table; cells are HTML already."""
    heads = "".join(f"<th{' class=n' if i in numbers else ''}>{h}</th>" for i, h in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(
            _cell(cell, "n" if i in numbers else "all" if i == 0 else "", head[i] if i else "")
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _number(n: float) -> str:
    return f"{n:,.0f}".replace(",", "\u202f")


def _points(n: float) -> str:
    return f"{n:.0f} point" + ("" if round(n) == 1 else "s")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _age(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return "2 minutes"
