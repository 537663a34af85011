"""What the charts of a report share: axes in pixels, ticks, and names that fit."""

from __future__ import annotations

import time
import unicodedata
from typing import TYPE_CHECKING

from edgecl.evaluation.report.findings import short
from edgecl.evaluation.report.svg import NARROW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DAY = 86_400
_DAY_STEPS = (1, 2, 5, 7, 14, 30, 91, 182, 365)


def axes_in(
    figure: Figure,
    left: float,
    right: float,
    top: float,
    bottom: float,
    *,
    x: tuple[float, float] = (0, 1),
    y: tuple[float, float] = (0, 1),
) -> Axes:
    """Add axes with margins in pixels, in a part of the figure from its top left."""
    width, height = figure.get_size_inches() * 72
    x0, x1 = x[0] * width + left, x[1] * width - right
    y0, y1 = (1 - y[1]) * height + bottom, (1 - y[0]) * height - top
    axes = figure.add_axes((x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height))
    axes.tick_params(length=3, width=0.8)
    return axes


def is_wide(figure: Figure) -> bool:
    """Whether a chart is drawn for a wide page."""
    return bool(figure.get_size_inches()[0] * 72 > NARROW)


def few_ticks(axes: Axes, figure: Figure) -> None:
    """Number an axis of counts, more often on a wide page."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8 if is_wide(figure) else 4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}".replace(",", "\u202f")))


def day_ticks(axes: Axes, figure: Figure) -> None:
    """Mark days (UTC) on an axis of seconds since the epoch, at most as many as can be read."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    low, high = axes.get_xlim()
    most = 9 if is_wide(figure) else 4
    n_days = (high - low) / DAY
    step = next((s for s in _DAY_STEPS if n_days / s <= most), -(-int(n_days) // most))
    first = -(-int(low) // DAY)
    days = range(first, int(high // DAY) + 1, step)
    ticks: list[float] = [day * DAY for day in days] or [low]
    style = "%d %b" if time.gmtime(low).tm_year == time.gmtime(high).tm_year else "%d %b %Y"
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    names = [time.strftime(style, time.gmtime(tick)).lstrip("0") for tick in ticks]
    axes.xaxis.set_major_formatter(FixedFormatter(names))


def fitting(name: str, most: float, size: float) -> str:
    """Return a name, shortened to a width in pixels at a font size."""
    for length in range(24, 3, -1):
        cut = short(name, length)
        if width_of(cut, size) <= most:
            break
    return cut


def width_of(text: str, size: float) -> float:
    """Return about how wide a text is, pixels, in a wide font."""
    return size * sum(1.1 if _is_broad(char) else 0.64 for char in text)


def _is_broad(char: str) -> bool:
    return char in "WMmw@%&" or unicodedata.east_asian_width(char) in "WF"
