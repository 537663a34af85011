"""The pictures of a report, drawn by matplotlib as SVG for the page and as PNG.

Every chart is drawn for a wide and for a narrow page, since text that is scaled down cannot be
read. Text stays text, in the page's font. Colours are those of a light page; in the SVG each is
written as the CSS variable of its role, so that the page decides.

Only `Figure` objects are used, never pyplot: no backend is chosen, and settings are put back.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecl.evaluation.report.contents import Contents
from edgecl.evaluation.report.figure import DAY, axes_in, day_ticks, few_ticks, fitting, is_wide
from edgecl.evaluation.report.findings import short
from edgecl.evaluation.report.matrix import confusion, matrix_height
from edgecl.evaluation.report.measures import arrivals_of, last_accuracy
from edgecl.evaluation.report.svg import COLOURS, NARROW, WIDE, drawing, svg_of
from edgecl.figures import percent
from edgecl.types import Float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASS_COLOURS = ("right", "wrong", "c3", "c4", "c5", "c6")
_HIGHLIGHTS = 3
_MOST_BARS = 60
_PNG_DPI = 144
_INK, _MUTED = COLOURS["ink"][0], COLOURS["muted"][0]
_RIGHT, _WRONG = COLOURS["right"][0], COLOURS["wrong"][0]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Args:
        wide: SVG element for a wide page, empty when the chart is for PNG only.
        narrow: SVG element for a narrow page.
        png: The same as a picture file.
        alt: What is to be seen, for who cannot see it.
    """

    wide: str
    narrow: str
    png: bytes
    alt: str


def draw(contents: Contents, folder: Path) -> dict[str, Chart]:
    """Draw all charts for which there is something to draw, by name.

    Args:
        contents: What is shown.
        folder: Where matplotlib may keep its list of fonts meanwhile.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    c = contents
    charts = {}
    with drawing(folder):
        if len(c.history.steps):
            charts["accuracy"] = _drawn("accuracy", _accuracy, lambda w: 360, c)
            if np.ptp(c.history.times) >= DAY:
                charts["days"] = _drawn("days", _accuracy_by_day, lambda w: 360, c)
        # On the page a table says the same, with pictures.
        if c.classes:
            charts["classes"] = Chart("", "", *_png(_classes, 70 + 26 * _n_bars(c), c))
        if c.confusion is not None and c.confusion.sum():
            charts["confusion"] = _drawn("confusion", confusion, lambda w: matrix_height(c, w), c)
        if c.latencies:
            charts["latency"] = _drawn("latency", _latency, lambda w: 50 + 95 * len(c.latencies), c)
        if c.classes:
            charts["store"] = _drawn("store", _store, lambda w: 280 if w == WIDE else 500, c)
    return charts


def class_colours(contents: Contents) -> dict[int, str]:
    """Return the classes that have a colour of their own in the chart over time, with its role.

    All of a few; of many the worst now.
    """
    scored = np.flatnonzero(np.isfinite(contents.history.by_class).any(axis=0))
    if len(scored) > len(CLASS_COLOURS):
        worst = np.argsort(last_accuracy(contents)[scored], kind="stable")[:_HIGHLIGHTS]
        scored = np.sort(scored[worst])
    return {int(i): role for i, role in zip(scored, CLASS_COLOURS, strict=False)}


def quantile(edges: Float64, counts: np.ndarray[Any, Any], share: float) -> float:
    """Return below which time a share of the steps of a histogram stayed: its bucket's end."""
    at = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return float(edges[min(at, len(edges) - 1)] * 2**0.25)


def time_text(microseconds: float) -> str:
    """Return a time as a person reads it."""
    if microseconds < 1000:
        return f"{microseconds:.0f} µs"
    if microseconds < 1e6:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds / 1e6:.3g} s"


def size_text(n_bytes: float) -> str:
    """Return a size as a person reads it."""
    return f"{n_bytes / 1e6:.3g} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.3g} kB"


# Drawing


def _drawn(
    name: str,
    paint: Callable[[Figure, Contents, bool], str],
    height: Callable[[int], int],
    c: Contents,
) -> Chart:
    """Draw a chart in both widths."""
    from matplotlib.figure import Figure

    elements = {}
    for width in (WIDE, NARROW):
        figure = Figure(figsize=(width / 72, height(width) / 72), dpi=72)
        paint(figure, c, False)
        elements[width] = svg_of(figure, f"{name}-{width}")
    return Chart(elements[WIDE], elements[NARROW], *_png(paint, height(WIDE), c))


def _png(
    paint: Callable[[Figure, Contents, bool], str], height: int, c: Contents
) -> tuple[bytes, str]:
    """Draw a chart as a picture file; returns that, and what is to be seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE / 72, height / 72), dpi=72, facecolor="white")
    alt = paint(figure, c, True)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return out.getvalue(), alt


def _accuracy(figure: Figure, c: Contents, is_alone: bool) -> str:
    """Accuracy by samples learned."""
    steps = c.history.steps.astype(np.float64)
    marks = [(row.step, row.receipt_id) for row in c.receipts if row.step is not None]
    axes = _lines(figure, c, steps, [float(at) for at, _ in arrivals_of(c)], marks, is_alone)
    axes.set_xlim(0, max(steps[-1], 1) * 1.02)
    axes.set_xlabel("pictures learned")
    few_ticks(axes, figure)
    return _said(c, "pictures learned", len(marks))


def _accuracy_by_day(figure: Figure, c: Contents, is_alone: bool) -> str:
    """Accuracy by the calendar, in UTC."""
    times = c.history.times
    arrivals = np.interp([at for at, _ in arrivals_of(c)], c.history.steps, times).tolist()
    first, last = float(times[0]), float(times[-1])
    marks = [(row.time, row.receipt_id) for row in c.receipts if first <= row.time <= c.time]
    last = max([last, *(at for at, _ in marks)])
    axes = _lines(figure, c, times, arrivals, marks, is_alone)
    room = 0.02 * (last - first)
    axes.set_xlim(first - room, last + room)
    day_ticks(axes, figure)
    return _said(c, "time", len(marks))


def _said(c: Contents, against: str, n_marks: int) -> str:
    return (
        f"Accuracy of all classes together on the test pictures against {against}, now "
        f"{percent(c.history.together[-1])}; {len(arrivals_of(c))} classes came, "
        f"{n_marks} unlearnings."
    )


def _lines(
    figure: Figure,
    c: Contents,
    x: Float64,
    arrivals: Sequence[float],
    marks: Sequence[tuple[float, str]],
    is_alone: bool,
) -> Axes:
    """Draw accuracy over something; a chart that stands alone names its lines itself."""
    history = c.history
    axes = axes_in(figure, 52, 170 if is_alone else 14, 34, 46)
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.grid(axis="y")
    colours = class_colours(c)
    for i, column in enumerate(history.by_class.T):
        role = colours.get(i)
        colour = COLOURS[role][0] if role else _MUTED
        width, alpha = (1.4, 1.0) if role else (0.8, 0.7)
        _steps(axes, x, column, color=colour, lw=width, alpha=alpha)
    together = history.together
    _steps(axes, x, together, color=_INK, lw=2.6)
    above = axes.get_xaxis_transform()
    axes.plot(
        arrivals, [1.035] * len(arrivals), "v", color=_MUTED, markersize=5, transform=above,
        clip_on=False,
    )  # fmt: skip
    for at, text in _at_places(marks):
        axes.axvline(at, color=_WRONG, lw=1.2, ls=(0, (4, 3)))
        axes.text(
            at, 1.075, text, color=_WRONG, ha="center", size=11, transform=above, clip_on=False
        )
    if is_alone:
        ends = [(float(together[-1]), "all together", _INK)]
        for i, role in colours.items():
            known = history.by_class[np.isfinite(history.by_class[:, i]), i]
            ends.append((float(known[-1]), short(c.classes[i].name, 20), COLOURS[role][0]))
        _label_ends(axes, ends)
    return axes


def _steps(axes: Axes, x: Float64, y: Float64, **style: Any) -> None:
    """Draw values that hold until the next one; only where one changes is there a point."""
    known = np.flatnonzero(np.isfinite(y))
    if not len(known):
        return
    x, y = x[known], y[known]
    is_new = np.concatenate([[True], y[1:] != y[:-1]])
    is_new[-1] = True
    dot = "o" if len(known) == 1 else ""  # a line of one point would not be seen
    axes.plot(x[is_new], y[is_new], drawstyle="steps-post", marker=dot, **style)


def _at_places(marks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return where something was unlearned; receipts at one place share a label."""
    places: dict[float, list[str]] = {}
    for at, receipt_id in marks:
        places.setdefault(at, []).append(receipt_id)
    return [
        (at, ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}") for at, ids in places.items()
    ]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names behind the ends of lines, moved apart where they would overlap."""
    least = 0.062
    y = -1.0
    for value, name, colour in sorted(ends):
        y = max(value, y + least)
        axes.text(
            1.01, y, name, color=colour, size=11, va="center", transform=axes.get_yaxis_transform()
        )


def _n_bars(c: Contents) -> int:
    return min(len(c.classes), _MOST_BARS)


def _classes(figure: Figure, c: Contents, is_alone: bool) -> str:
    """Accuracy and counts of each class; of very many the worst."""
    del is_alone
    accuracy = last_accuracy(c)
    order = np.arange(len(accuracy))
    if len(order) > _MOST_BARS:
        order = np.sort(np.argsort(accuracy, kind="stable")[:_MOST_BARS])
    axes = axes_in(figure, 220, 180, 30, 30)
    rows = [c.classes[i] for i in order]
    axes.barh(range(len(rows)), np.nan_to_num(accuracy[order]), color=_RIGHT, height=0.7)
    axes.set_yticks(range(len(rows)), [fitting(row.name, 200, 12) for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.grid(axis="x")
    for y, (i, row) in enumerate(zip(order, rows, strict=True)):
        score = percent(accuracy[i]) if np.isfinite(accuracy[i]) else "-"
        counts = f"{score}   {row.learned} / {row.kept} / {row.held_out}"
        axes.text(1.02, y, counts, va="center", size=11, clip_on=False)
    axes.text(1.02, -0.9, "now   learned / kept / held out", va="center", size=9, clip_on=False)
    return f"Accuracy, samples learned, kept and held out of {len(rows)} classes."


def _latency(figure: Figure, c: Contents, is_alone: bool) -> str:
    """How long a step took, a row a stage."""
    del is_alone
    n = len(c.latencies)
    lowest = min(float(edges[0]) for edges, _ in c.latencies.values())
    highest = max(float(edges[-1]) for edges, _ in c.latencies.values()) * 2**0.25
    said = []
    for row, (stage, (edges, counts)) in enumerate(c.latencies.items()):
        # Room for half a label of a time at either end.
        axes = axes_in(figure, 28, 28, 24, 26, y=(row / n, (row + 1) / n))
        axes.bar(edges, counts, width=edges * (2**0.25 - 1), align="edge", color=_RIGHT)
        axes.set_xscale("log")
        axes.set_xlim(lowest / 1.3, highest * 1.3)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        _time_ticks(axes, lowest, highest)
        p50, p99 = quantile(edges, counts, 0.5), quantile(edges, counts, 0.99)
        for at in (p50, p99):
            axes.axvline(at, color=_INK, lw=1, ls=(0, (3, 2)))
        text = f"half below {time_text(p50)}, 99 % below {time_text(p99)}"
        axes.set_title(f"{stage}: {text}", loc="left", size=11, color=_INK)
        said.append(f"{stage} {text}")
    return "How long steps took: " + "; ".join(said) + "."


def _time_ticks(axes: Axes, lowest: float, highest: float) -> None:
    """Mark times as a person says them: 1 ms, 10 ms."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    powers = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    ticks = [10.0**p for p in powers]
    if len(ticks) < 4:
        ticks = sorted([*ticks, *(3 * tick for tick in ticks)])
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([time_text(tick) for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def _store(figure: Figure, c: Contents, is_alone: bool) -> str:
    """When the kept pictures were learned, and what the store consists of."""
    from matplotlib.ticker import MaxNLocator

    del is_alone
    wide = is_wide(figure)
    first, second = ((0.0, 0.5), (0.5, 1.0)) if wide else ((0.0, 1.0), (0.0, 1.0))
    above, below = ((0.0, 1.0), (0.0, 1.0)) if wide else ((0.0, 0.5), (0.5, 1.0))
    axes = axes_in(figure, 52, 14, 30, 46, x=first, y=above)
    axes.set_title("kept pictures, by when they were learned", loc="left", size=12)
    last = max(int(c.kept_steps.max(initial=0)), 1)
    axes.hist(c.kept_steps, bins=min(20, last), range=(0, last), color=_RIGHT)
    axes.set_xlim(0, last * 1.02)
    axes.grid(axis="y")
    axes.set_xlabel("pictures learned")
    few_ticks(axes, figure)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes = axes_in(figure, 110, 80, 30, 46, x=second, y=below)
    axes.set_title("what the store holds", loc="left", size=12)
    parts = {part: n for part, n in c.bytes_by_part.items() if n}
    sizes = list(parts.values())
    axes.barh(range(len(parts)), sizes, color=_RIGHT, height=0.6)
    axes.set_yticks(range(len(parts)), list(parts))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(parts), 5) - 0.5, -0.6)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    for y, size in enumerate(sizes):
        axes.annotate(
            size_text(size), (size, y), (4, 0), textcoords="offset points", va="center", size=11,
            annotation_clip=False,
        )  # fmt: skip
    return f"{len(c.kept_steps)} kept pictures by age, and the store's {size_text(sum(sizes))}."
