"""The page of a report: one HTML file that needs nothing else, and can run nothing.

Its policy (a `meta` element) forbids scripts and anything from outside, whatever a name in it says.
"""

from __future__ import annotations

from html import escape

import numpy as np

from edgecl.evaluation.report.charts import Chart, class_colours
from edgecl.evaluation.report.contents import Contents
from edgecl.evaluation.report.done import changes, exports, live, receipts
from edgecl.evaluation.report.doubts import doubtful
from edgecl.evaluation.report.findings import short, warnings_of
from edgecl.evaluation.report.html import cell as _cell
from edgecl.evaluation.report.html import day as _day
from edgecl.evaluation.report.html import image as _image
from edgecl.evaluation.report.html import name as _name
from edgecl.evaluation.report.html import number as _number
from edgecl.evaluation.report.html import pictures as _pictures
from edgecl.evaluation.report.html import points as _points
from edgecl.evaluation.report.html import prose as _prose
from edgecl.evaluation.report.html import table as _table
from edgecl.evaluation.report.html import when as _when
from edgecl.evaluation.report.matrix import shown_cells
from edgecl.evaluation.report.measures import (
    GAP_WINDOW,
    drops_of,
    gaps_of,
    last_accuracy,
    tests_of,
)
from edgecl.evaluation.report.style import style_sheet
from edgecl.evaluation.report.svg import NARROW, WIDE
from edgecl.evaluation.report.verdict import verdict_of
from edgecl.figures import percent
from edgecl.paired import wilson
from edgecl.store.probes import FEW_PROBES

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_NO_PROBES = (
    "No picture was held out to test on yet, so there is no accuracy to show. One of ten is set "
    "aside while a stream is learned."
)
_LEFT_OUT = (
    "Every kept picture is a test, as if it had not been learned. Its curve over time begins with "
    "the next pictures that are taught."
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
        _verdict(c),
        _tiles(c),
        _warnings(c),
        _section("Accuracy over time", _accuracy(c, charts)),
        _section("When a class came", _arrivals(c)),
        _section("Classes", _classes(c)),
        _section("What is taken for what", _confusion(c, charts)),
        _section("Perhaps taught wrong", doubtful(c)),
        _section("How long a step takes", _latency(c, charts)),
        _section("The store", _store(c, charts)),
        _section("Changes", changes(c)),
        _section("Live frames", live(c)) if c.live else "",
        _section("Unlearned", receipts(c)),
        # With what ends the page, so that no printed page holds the footer alone.
        '<div class="end">',
        _section("Exports", exports(c)),
        _section("Waiting for a name", _novel(c)) if c.n_novel else "",
        _foot(c),
        "</div>",
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
        f"<header><h1>{_name(c.home.name or str(c.home))}</h1>\n"
        f'<p class="quiet">edgecl report of {_name(str(c.home))}, {_when(c.time)}; '
        f"{escape(c.backbone)} at {c.image_size} pixels, head {escape(c.head)}</p></header>"
    )


def _verdict(c: Contents) -> str:
    found = verdict_of(c)
    return (
        f'<section class="verdict {found.state}"><h2>Does it still know what it knew?</h2>\n'
        f"<p><strong>{found.answer}</strong> {_prose(found.text)}</p></section>"
    )


def _tiles(c: Contents) -> str:
    n, right = (int(part.sum()) for part in tests_of(c))
    tiles = []
    if n:
        low, high = wilson(right, n)
        tiles.append(("accuracy now", percent(right / n), f"{right} of {n} {c.test_pictures} right"
                      f"; the true share is likely {percent(low)} to {percent(high)}"))  # fmt: skip
    tiles.append(("classes", _number(len(c.classes)), ""))
    tiles.append(("pictures learned", _number(c.samples), f"{_number(len(c.kept_steps))} kept"))
    if len(c.history.times):
        tiles.append(("last learned", _day(c.history.times[-1]), _age_text(c)))
    items = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd><dd class=quiet>{escape(more)}</dd></div>"
        for k, v, more in tiles
    )
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
        return f"<p>{_LEFT_OUT if c.is_left_out else _NO_PROBES}</p>"
    entries = [("--ink", "all together")]
    entries += [(f"--{role}", short(c.classes[i].name)) for i, role in class_colours(c).items()]
    if len(entries) - 1 < np.isfinite(c.history.by_class).any(axis=0).sum():
        entries.append(("--muted", "the other classes, one line each"))
    legend = "".join(
        f'<li style="color: var({colour})"><i></i><span>{_name(name)}</span></li>'
        for colour, name in entries
    )
    which = "pictures that were held out, never learned"
    if c.is_left_out:
        which = "kept pictures, each asked in turn as if it had not been learned"
    caption = (
        f"Right answers divided by test pictures: {which}. A "
        "triangle above: a class came; it has a line of its own from its fifth test picture on."
    )
    if any(row.step is not None for row in c.receipts):
        caption += (
            " A dashed line: something was unlearned, with its receipt. What was unlearned is in "
            "no curve, also not before."
        )
    legend = f'<ul class="legend">{legend}</ul>'
    if "days" not in charts:
        return _figure(charts["accuracy"], caption, legend) + _papers(c)
    by_day = _figure(charts["days"], "By day (UTC).", legend)
    return by_day + _figure(charts["accuracy"], caption) + _papers(c)


def _papers(c: Contents) -> str:
    """Return what papers report, where all classes count in it; elsewhere it would mislead."""
    n_tested = [row.held_out for row in c.classes]
    if c.is_left_out:
        n_tested = c.history.n_probes[-1].tolist()
    if len(c.scores) < 3 or min(n_tested, default=0) < FEW_PROBES:
        return ""
    return (
        '<p class="quiet">To compare with papers, means over classes from their fifth test picture '
        f"on: min-ACC {percent(c.scores['min_accuracy'], 1)}, "
        f"WC-ACC {percent(c.scores['worst_case_accuracy'], 1)}, "
        f"forgetting {percent(c.scores['forgetting'], 1)}.</p>"
    )


def _arrivals(c: Contents) -> str:
    """Return a table of what the coming of each class did to the others."""
    if len(c.history.steps) == 0:
        return ""
    gaps = gaps_of(c)
    if not gaps:
        return (
            "<p>Nothing to compare: no class came while others were scored, or they came at once."
            "</p>"
        )
    rows = []
    for gap in gaps:
        at = c.classes[gap.place].arrival or 0
        when = float(np.interp(at, c.history.steps, c.history.times))
        lost, back = "nothing", ""
        if gap.worst >= 0.5:
            lost = f"{_points(gap.worst)}, after {_pictures(gap.worst_at)}"
            back = "not in the pictures that followed"
            if gap.back_at is not None:
                back = f"after {_pictures(gap.back_at)}"
        rows.append(
            (_name(c.classes[gap.place].name), _when(when), _number(gap.n_earlier), lost, back)
        )
    note = (
        f'<p class="quiet">What the classes that were there lost, in the mean, in the {GAP_WINDOW} '
        "pictures after each class came (up to the next class), and when it was made good.</p>"
    )
    head = ("class that came", "when", "classes before", "lost at worst", "made good")
    return _table(head, rows) + note


def _classes(c: Contents) -> str:
    accuracy, drops = last_accuracy(c), drops_of(c)
    n, right = tests_of(c)
    head = ("", "class", "accuracy now", "was better by", "learned", "kept", "held out",
            "first right", "9 of 10 right")  # fmt: skip
    rows = []
    for i, row in enumerate(c.classes):
        score = "not tested"
        if n[i] and n[i] < FEW_PROBES:
            score = f"{right[i]} of {n[i]}"
        elif np.isfinite(accuracy[i]):
            bar = f'<span class="bar"><b style="width: {100 * accuracy[i]:.0f}%"></b></span>'
            low, high = wilson(int(right[i]), int(n[i]))
            score = f"{bar}{percent(accuracy[i])} ({100 * low:.0f}-{100 * high:.0f})"
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
        f'<p class="quiet">Accuracy is that of the head which is served now, on the '
        f"{c.test_pictures}{' (held out)' * (not c.is_left_out)}, with the interval "
        "that holds the truth 19 times of 20; of fewer than "
        f"{FEW_PROBES} their number is said instead. “Was better by” is "
        "in points. “First right: frame 4”: its fourth frame was the first that was known before "
        "it was learned; “9 of 10 right: not in 45”: of its 45 frames no ten in a row were.</p>"
    )
    numbers = frozenset(head[3:])
    heads = "".join(f"<th{' class=n' if h in numbers else ''}>{h}</th>" for h in head)
    table = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="classes">{table}</table>{note}'


def _frames(n: int | None, n_frames: int) -> str:
    if n is not None:
        return f"frame {_number(n)}"
    return f"not in {_number(n_frames)}" if n_frames else "-"


def _confusion(c: Contents, charts: dict[str, Chart]) -> str:
    if c.confusion is None or "confusion" not in charts:
        return f"<p>No confusion matrix: {escape(c.no_confusion or 'nothing was scored')}.</p>"
    caption = (
        "Test pictures by class (rows) and by the answer of the head that is served (columns)."
    )
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
        return body + "<p>No test picture is taken for another class.</p>"
    items = []
    for pair in c.confused:
        true, guess = c.classes[pair.true], c.classes[pair.guess]
        pictures = "".join(_image(p, f"a test picture of {true.name}") for p in pair.pictures)
        looks = ""
        if like := pair.nearest or guess.picture:
            looks = f" like {_image(like, f'the kept picture of {guess.name} most like it')}"
        items.append(
            f"<li><p>{_name(true.name)} taken for {_name(guess.name)}: {pair.n} of {pair.of}"
            f"</p><p>{pictures}{looks}</p></li>"
        )
    return body + f'<ul class="pairs">{"".join(items)}</ul>'


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
        first, last = _day(c.kept_times.min()), _day(c.kept_times.max())
        text += f", from {first}" if first == last else f", from {first} to {last}"
    body = text + ".</p>" + (_figure(charts["store"]) if "store" in charts else "")
    rows = [(_name(name or "(unnamed)"), _number(n)) for name, n in c.sources]
    return body + _table(("source", "samples still there"), rows[:20], numbers=(1,))


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


def _age_text(c: Contents) -> str:
    """Return how long ago something was learned."""
    age = c.time - float(c.history.times[-1])
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if age >= 2 * size:
            return f"{age / size:.0f} {unit} ago"
    return "just now"
