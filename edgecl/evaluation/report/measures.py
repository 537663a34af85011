"""What follows from the scores over time: last and best accuracy, and what a new class did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecl.evaluation.report.contents import Contents
from edgecl.store.probes import FEW_PROBES
from edgecl.types import Float64

GAP_WINDOW = 50
"""Samples after a class came in which the others may sink; scores are noted at each of them."""


def drops_of(c: Contents) -> Float64:
    """Return for each class its best accuracy minus its last, in points, shape (K,).

    Scores on very few probes do not count; 0 for a class without others.
    """
    drops = np.zeros(len(c.classes))
    is_many = c.history.n_probes >= FEW_PROBES
    for i, column in enumerate(c.history.accuracy.T):
        known = column[is_many[:, i]]
        if len(known):
            drops[i] = 100 * (known.max() - known[-1])
    return drops


def last_accuracy(c: Contents) -> Float64:
    """Return the newest accuracy of each class, shape (K,); NaN without any.

    It is that of the head that is served, or the last one noted where that cannot be scored.
    """
    last = np.full(len(c.classes), np.nan)
    for i, column in enumerate(c.history.accuracy.T):
        known = column[np.isfinite(column)]
        if len(known):
            last[i] = known[-1]
    if c.confusion is not None:
        of = c.confusion.sum(axis=1)
        last = np.divide(np.diagonal(c.confusion), of, out=last, where=of > 0)
    return last


@dataclass(frozen=True, slots=True)
class Gap:
    """What the coming of a class did to the ones before it.

    Args:
        place: The class that came.
        since: Steps since it came, shape (N,); the first is before it.
        change: Accuracy of the classes before it, minus what it was before, in points, shape (N,).
    """

    place: int
    since: Float64
    change: Float64


def gaps_of(contents: Contents) -> list[Gap]:
    """Return what each class did to the earlier ones, up to the next one that came.

    A class before which nothing was scored, or after which the next came at once, is left out.
    """
    history = contents.history
    arrivals = arrivals_of(contents)
    gaps = []
    for at, place in arrivals:
        later = [step for step, _ in arrivals if step > at]
        earlier = [other for step, other in arrivals if step < at]
        end = min([at + GAP_WINDOW, *later])
        before = np.flatnonzero(history.steps <= at)
        after = np.flatnonzero((history.steps > at) & (history.steps <= end))
        if not earlier or not len(before) or len(after) < 2:
            continue
        rows = np.concatenate([before[-1:], after])
        table = history.accuracy[rows][:, earlier]
        table = table[:, np.isfinite(table).all(axis=0)]
        if table.shape[1]:
            mean = 100 * table.mean(axis=1)
            since = (history.steps[rows] - at).astype(np.float64)
            gaps.append(Gap(place, since, mean - mean[0]))
    return gaps


def arrivals_of(contents: Contents) -> list[tuple[int, int]]:
    """Return step and place of each class that came, in that order."""
    rows = enumerate(contents.classes)
    return sorted((row.arrival, place) for place, row in rows if row.arrival is not None)
