"""What follows from the scores over time: last and best accuracy, and what a new class did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecl.evaluation.report.contents import Contents, Counts
from edgecl.store.probes import FEW_PROBES
from edgecl.types import Float64

# A tenth of a class's probes is two of twenty: less is chance, and so is one picture of few.
FORGOTTEN_POINTS = 10
_FEWEST_LOST = 2
_MADE_GOOD = 0.5  # points
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


def lost_places(c: Contents) -> list[int]:
    """Return the places of the classes that were known better before than now."""
    drops = drops_of(c)
    last = c.history.n_probes[-1] if len(c.history.n_probes) else np.zeros(len(drops))
    is_lost = (drops >= FORGOTTEN_POINTS) & (np.round(drops / 100 * last) >= _FEWEST_LOST)
    return np.flatnonzero(is_lost).tolist()


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


def tests_of(c: Contents) -> tuple[Counts, Counts]:
    """Return test pictures of each class, and how many of them are right now, shape (K,) each."""
    if c.confusion is None:
        zeros = np.zeros(len(c.classes), np.int64)
        return zeros, zeros
    return np.asarray(c.confusion.sum(axis=1)), np.asarray(np.diagonal(c.confusion))


def never_right(c: Contents) -> list[int]:
    """Return the places of the classes of which no test picture is right, or ever was."""
    best = np.nan_to_num(c.history.accuracy, nan=-1.0).max(axis=0, initial=-1.0)
    n, right = tests_of(c)
    return np.flatnonzero(((n > 0) | (best == 0)) & (right == 0) & (best <= 0)).tolist()


@dataclass(frozen=True, slots=True)
class Gap:
    """What the coming of a class did to the ones before it.

    Args:
        place: The class that came.
        since: Steps since it came, shape (N,); the first is before it.
        change: Accuracy of the classes before it, minus what it was before, in points, shape (N,).
        n_earlier: How many classes were before it.
    """

    place: int
    since: Float64
    change: Float64
    n_earlier: int = 0

    @property
    def worst(self) -> float:
        """Return what the others lost at worst, points; 0 if they lost nothing."""
        return max(0.0, -float(self.change.min()))

    @property
    def worst_at(self) -> float:
        """Return how many samples after it came that was."""
        return float(self.since[self.change.argmin()])

    @property
    def back_at(self) -> float | None:
        """Return after how many samples the loss was made good, None if it was not meanwhile."""
        after = int(self.change.argmin())
        back = np.flatnonzero(self.change[after:] > -_MADE_GOOD)
        return float(self.since[after + back[0]]) if len(back) else None


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
            gaps.append(Gap(place, since, mean - mean[0], len(earlier)))
    return gaps


def arrivals_of(contents: Contents) -> list[tuple[int, int]]:
    """Return step and place of each class that came, in that order."""
    rows = enumerate(contents.classes)
    return sorted((row.arrival, place) for place, row in rows if row.arrival is not None)
