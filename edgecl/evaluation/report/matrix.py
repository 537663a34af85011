"""The confusion matrix of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgecl.evaluation.report.contents import Contents
from edgecl.evaluation.report.figure import axes_in, fitting, is_wide, width_of
from edgecl.evaluation.report.svg import COLOURS, NARROW, WIDE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CELLS = {WIDE: 40, NARROW: 14}
_INK, _RIGHT, _WRONG = (COLOURS[role][0] for role in ("ink", "right", "wrong"))


def shown_cells(c: Contents, width: int) -> list[int]:
    """Return the classes in the confusion matrix: all, or of many those with most mistakes."""
    assert c.confusion is not None
    tested = np.flatnonzero(c.confusion.sum(axis=1) + c.confusion.sum(axis=0))
    wrong = c.confusion - np.diag(np.diagonal(c.confusion))
    mistakes = (wrong.sum(axis=0) + wrong.sum(axis=1))[tested]
    worst = tested[np.argsort(-mistakes, kind="stable")[: _MOST_CELLS[width]]]
    return [int(i) for i in np.sort(worst)]


def _matrix_side(n: int, width: int) -> float:
    """Return the side of a matrix of n classes, pixels."""
    most = 700 if width == WIDE else 250
    return float(min(most, 46 * n))


def _matrix_names(c: Contents, width: int) -> tuple[list[str], float, float]:
    """Return the names at a matrix, their size and the room that the longest takes, pixels."""
    shown = shown_cells(c, width)
    side = _matrix_side(len(shown), width)
    size = min(12.0, max(7.0, side / len(shown) * 0.62))
    most = 170.0 if width == WIDE else 84.0
    names = [fitting(c.classes[i].name, most, size) for i in shown]
    return names, size, max(width_of(name, size) for name in names) + 10


def matrix_height(c: Contents, width: int) -> int:
    """Return the height of the chart on a page of that width, pixels."""
    _, _, room = _matrix_names(c, width)
    return round(_matrix_side(len(shown_cells(c, width)), width) + room) + 24


def confusion(figure: Figure, c: Contents, is_alone: bool) -> str:
    """What probes of each class were taken for."""
    from matplotlib.patches import Rectangle

    assert c.confusion is not None
    width = WIDE if is_wide(figure) else NARROW
    shown = shown_cells(c, width)
    n, side = len(shown), _matrix_side(len(shown), width)
    table = c.confusion[np.ix_(shown, shown)]
    of = np.maximum(c.confusion[shown].sum(axis=1), 1)
    names, size, room = _matrix_names(c, width)
    axes = axes_in(figure, room, width - room - side, room, 24)
    for row, column in np.argwhere(table):
        share = table[row, column] / of[row]
        colour = _RIGHT if row == column else _WRONG
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, lw=0, alpha=0.1 + 0.5 * share)
        )
        if side / n > 17:
            axes.text(column, row, str(table[row, column]), ha="center", va="center", size=size)
    axes.set_xticks(range(n), names, rotation=90, size=size)
    axes.set_yticks(range(n), names, size=size)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=_INK)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor", lw=0.5)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(n - 0.5, -0.5)
    if is_alone:
        axes.set_xlabel("rows: class; columns: what it is taken for", size=11)
    right = int(np.diagonal(c.confusion).sum())
    return f"Confusion matrix: {right} of {int(c.confusion.sum())} test pictures are right."
