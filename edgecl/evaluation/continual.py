"""Scores of a learner over time: accuracy, forgetting, worst cases, and how fast it adapts.

All of them take accuracies in [0, 1] by task (or class) as rows of an array: `a[n, i]` is the
accuracy on held-out samples of task i at evaluation n. NaN means that the task was not seen yet or
was unlearned; it counts in no mean, and when the task comes back its minima and windows begin anew.
The functions read whole series; `Monitor` gives the same numbers one evaluation at a time.

References: De Lange et al. 2023, "Continual evaluation for lifelong learning", arXiv:2205.13452
(min-ACC, WC-ACC, windowed forgetting and plasticity); Chaudhry et al. 2018, arXiv:1801.10112
(forgetting, intransigence) and 2019, arXiv:1812.00420 (LCA); Lopez-Paz and Ranzato 2017,
arXiv:1706.08840 (transfer). Windows are counted in evaluations, not in samples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import UsageError
from edgecl.store.probes import (
    FEW_PROBES,
    held_out,
    history,
    latency_of_classes,
    newest_scored,
)
from edgecl.store.store import Store
from edgecl.types import Float64

NAN = float("nan")


def accuracy_by_task(
    is_right: npt.ArrayLike, tasks: npt.ArrayLike, is_seen: npt.ArrayLike
) -> Float64:
    """Return one row (T,) of accuracies; NaN for a task that is unseen or has no sample.

    Args:
        is_right: Whether each held-out sample was predicted rightly, shape (N,).
        tasks: Task of each, 0 to T - 1, shape (N,).
        is_seen: Which tasks were learned by now and are not unlearned, shape (T,).
    """
    seen = np.asarray(is_seen, bool)
    at = np.asarray(tasks, np.int64)
    n = np.bincount(at, minlength=len(seen))
    right = np.bincount(at, weights=np.asarray(is_right, np.float64), minlength=len(seen))
    return np.where(seen & (n > 0), right / np.maximum(n, 1), np.nan)


def average_accuracy(a: Float64) -> Float64:
    """Return AA (E,): for each evaluation the mean over the tasks seen."""
    return np.array([_mean(row) for row in _table(a)])


def average_incremental(a: Float64) -> float:
    """Return AIA: the mean of AA over all evaluations; `a` has one for each end of a task."""
    return _mean(average_accuracy(a))


def anytime_average(a: Float64) -> Float64:
    """Return AAA (E,): for each evaluation the mean of AA up to it.

    With an evaluation every so many samples, the last is the area under the accuracy curve.
    """
    average = average_accuracy(a)
    n = np.cumsum(np.isfinite(average))
    total = np.nancumsum(average)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def forgetting(a: Float64) -> float:
    """Return FM: the mean, over tasks seen before the last row, of best earlier minus last."""
    return _mean(_drops(_table(a)))


def forgetting_of_learned(a: Float64) -> float:
    """Return F_last: as `forgetting`, over those classes whose accuracy was ever above zero."""
    table = _table(a)
    return _mean(np.where((np.nan_to_num(table) > 0).any(axis=0), _drops(table), np.nan))


def backward_transfer(a: Float64) -> float:
    """Return BWT: mean over j < T of a[T, j] - a[j, j]; rows are the ends of the T tasks."""
    table = _square(a)
    return _mean((table[-1] - np.diag(table))[:-1])


def forward_transfer(a: Float64, scratch: npt.ArrayLike) -> float:
    """Return FWT: mean over j >= 2 of a[j, j] minus what a learner of that task alone reaches.

    Args:
        a: Rows are the ends of the T tasks, shape (T, T).
        scratch: Accuracy on each task when nothing was learned before it, shape (T,).
    """
    table = _square(a)
    return _mean((np.diag(table) - _vector("scratch", scratch, len(table)))[1:])


def intransigence(a: Float64, joint: npt.ArrayLike) -> Float64:
    """Return IM (T,): what a learner of tasks 1 to k at once reaches on task k, minus a[k, k]."""
    table = _square(a)
    return _vector("joint", joint, len(table)) - np.diag(table)


def minimum_accuracy(a: Float64, current: npt.ArrayLike) -> Float64:
    """Return min-ACC (E,): the mean over tasks of the lowest accuracy so far.

    Args:
        a: Accuracies, shape (E, T).
        current: Task that was being trained at each evaluation, shape (E,). A task's accuracies
            while it is trained do not count, and the current task is not in the mean.
    """
    worst = _minima(_table(a), np.asarray(current))
    return np.array(
        [_mean(np.delete(row, k)) for row, k in zip(worst, np.asarray(current), strict=True)]
    )


def worst_case_accuracy(a: Float64, current: npt.ArrayLike) -> Float64:
    """Return WC-ACC (E,): A_k / k + (1 - 1 / k) min-ACC, where k tasks count and k is the current.

    That is the mean of the current task's accuracy and the other tasks' minima.
    """
    table, at = _table(a), np.asarray(current)
    worst = _minima(table, at)
    each = np.arange(len(table))
    worst[each, at] = table[each, at]
    return np.array([_mean(row) for row in worst])


def windowed_forgetting(a: npt.ArrayLike, window: int) -> float:
    """Return WF^w: the largest drop between two of `window` evaluations in a row, mean over tasks.

    Args:
        a: Accuracies of one task (E,) or of several (E, T).
        window: Evaluations w; with one, nothing can drop and WF is 0.

    Example:
        >>> round(windowed_forgetting([0.9, 0.8, 0.4, 0.6, 0.85, 0.7], 2), 2)
        0.4
    """
    _check_window(window)
    table = np.asarray(a, np.float64)
    if table.ndim == 1:
        table = table[:, None]
    return _mean(np.array([_largest_drop(column, window) for column in _table(table).T]))


def windowed_plasticity(a: npt.ArrayLike, window: int) -> float:
    """Return WP^w: the largest rise, as `windowed_forgetting`."""
    return windowed_forgetting(-np.asarray(a, np.float64), window)


def learning_curve_area(a: Float64, current: npt.ArrayLike, beta: int = 10) -> float:
    """Return LCA: the mean of a task's first `beta` evaluations after it starts, over tasks.

    Args:
        a: Accuracies, shape (E, T).
        current: Task that was being trained at each evaluation, shape (E,).
        beta: Evaluations that count; a task with fewer counts with those it has.
    """
    if beta < 1:
        raise UsageError(f"beta is {beta}; expected 1 or more evaluations")
    table, at = _table(a), np.asarray(current)
    areas = []
    for i in range(table.shape[1]):
        began = np.flatnonzero(at == i)
        areas.append(_mean(table[began[0] : began[0] + beta, i]) if len(began) else NAN)
    return _mean(np.array(areas))


def samples_until(
    accuracy: npt.ArrayLike, n_samples: npt.ArrayLike, target: float, *, since: float = 0
) -> float:
    """Return after how many samples an accuracy first reaches a target; NaN if never.

    The latency of a new class, when the series is its accuracy and `since` its first sample.

    Args:
        accuracy: Accuracy at each evaluation, shape (E,); NaN does not count.
        n_samples: Samples learned by then, shape (E,), increasing.
        target: What must be reached.
        since: Samples learned when the count begins; earlier evaluations do not count.
    """
    values = np.asarray(accuracy, np.float64)
    at = _vector("n_samples", n_samples, len(values))
    reached = np.flatnonzero((values >= target) & (at >= since))
    return float(at[reached[0]] - since) if len(reached) else NAN


def adaptation_samples(
    accuracy: npt.ArrayLike,
    n_samples: npt.ArrayLike,
    *,
    before: float,
    since: float,
    share: float = 0.9,
) -> float:
    """Return how many samples a rewritten class needs to come near its old accuracy; or NaN.

    Args:
        accuracy: Accuracy on its new label at each evaluation, shape (E,).
        n_samples: Samples learned by then, shape (E,), increasing.
        before: Accuracy on its old label just before the event.
        since: Samples learned at the event.
        share: Part of `before` that must be reached.
    """
    return samples_until(accuracy, n_samples, share * before, since=since)


def stale_rate(predicted: npt.ArrayLike, superseded: npt.ArrayLike) -> float:
    """Return the share of rewritten inputs that still get their old label; NaN without any.

    Args:
        predicted: Predicted labels of rewritten held-out inputs, shape (N,).
        superseded: The label that each had before, shape (N,) or one for all.
    """
    guesses = np.asarray(predicted)
    return float((guesses == np.asarray(superseded)).mean()) if len(guesses) else NAN


def retention(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Return the accuracy that untouched classes kept: mean after over mean before; NaN at none.

    Args:
        before: Their accuracies before the event, shape (C,).
        after: And after it, shape (C,); a class that is NaN in one of both does not count.
    """
    old = np.asarray(before, np.float64)
    new = _vector("after", after, len(old))
    both = np.isfinite(old) & np.isfinite(new)
    total = float(old[both].sum())
    return float(new[both].sum()) / total if total else NAN


@dataclass(slots=True)
class _Extreme:
    """The largest drop within a sliding window; each value enters and leaves the queue once."""

    window: int
    largest: float = 0.0
    _n: int = 0
    # Positions and values, values decreasing: the first is the maximum of the window.
    _queue: deque[tuple[int, float]] = field(default_factory=deque)

    def add(self, value: float) -> None:
        while self._queue and self._queue[-1][1] <= value:
            self._queue.pop()
        self._queue.append((self._n, value))
        if self._queue[0][0] <= self._n - self.window:
            self._queue.popleft()
        self._n += 1
        self.largest = max(self.largest, self._queue[0][1] - value)


class _Series:
    """What is kept of one task."""

    __slots__ = ("last", "minimum", "rises", "sinks")

    def __init__(self, window: int) -> None:
        self.minimum = NAN
        self.last = NAN
        self.sinks, self.rises = _Extreme(window), _Extreme(window)


class Monitor:
    """Worst cases of a running stream, O(1) amortised for each task and evaluation.

    Args:
        window: Evaluations w of windowed forgetting and plasticity.

    Example:
        >>> monitor = Monitor(window=10)
        >>> monitor.add({"cup": 0.3}, current="bolt")
        >>> monitor.add({"cup": 0.8, "bolt": 0.9}, current="bolt")
        >>> round(monitor.worst_case_accuracy, 2)
        0.6
    """

    def __init__(self, window: int = 10) -> None:
        _check_window(window)
        self._window = window
        self._series: dict[Hashable, _Series] = {}
        self._current: Hashable = None
        self._total = 0.0
        self._n = 0

    def add(self, accuracy: Mapping[Hashable, float], *, current: Hashable) -> None:
        """Take the accuracies of one evaluation.

        Args:
            accuracy: Accuracy of every task that is known now. One that is missing or NaN was
                unlearned: it drops out, and begins anew when it comes back.
            current: The task that is being trained.
        """
        present = {task: float(v) for task, v in accuracy.items() if not math.isnan(v)}
        for task in self._series.keys() - present.keys():
            self.unlearn(task)
        self._current = current
        for task, value in present.items():
            series = self._series.setdefault(task, _Series(self._window))
            series.last = value
            series.sinks.add(value)
            series.rises.add(-value)
            if task != current:
                series.minimum = value if math.isnan(series.minimum) else min(series.minimum, value)
        if present:
            self._total += sum(present.values()) / len(present)
            self._n += 1

    def unlearn(self, task: Hashable) -> None:
        """Drop all that is kept of a task; needed when it is learned anew before the next `add`."""
        self._series.pop(task, None)

    @property
    def average_accuracy(self) -> float:
        """AA of the last evaluation; NaN before the first."""
        return _mean(np.array([s.last for s in self._series.values()]))

    @property
    def anytime_average(self) -> float:
        """AAA: the mean of AA over all evaluations."""
        return self._total / self._n if self._n else NAN

    @property
    def minimum_accuracy(self) -> float:
        """min-ACC: the mean over the other tasks of their lowest accuracy."""
        return _mean(
            np.array([s.minimum for task, s in self._series.items() if task != self._current])
        )

    @property
    def worst_case_accuracy(self) -> float:
        """WC-ACC: the mean of the current task's accuracy and the others' lowest."""
        return _mean(
            np.array([s.last if t == self._current else s.minimum for t, s in self._series.items()])
        )

    @property
    def windowed_forgetting(self) -> float:
        """WF^w: the largest drop within a window, mean over tasks."""
        return _mean(np.array([s.sinks.largest for s in self._series.values()]))

    @property
    def windowed_plasticity(self) -> float:
        """WP^w: the largest rise within a window, mean over tasks."""
        return _mean(np.array([s.rises.largest for s in self._series.values()]))


def summary(store: Store) -> dict[str, Any]:
    """Return what the probes of a store say, JSON values; None where nothing was scored.

    A class counts as the one in training until another comes: min-ACC and WC-ACC take the newest
    class that is scored as the current one. Unlike in the paper the probes of a class become more
    as it comes: its scores on fewer than `FEW_PROBES` are chance (one probe: 0 or 1), and count for
    min-ACC, WC-ACC and forgetting no more than a class that is not there yet.

    Returns:
        `evaluations` and `probes` (how many), `accuracy` (mean over classes at the last
        evaluation), `min_accuracy`, `worst_case_accuracy`, `forgetting`, and by name in `classes`:
        `held_out`, `accuracy`, and in frames of the class `first_right` and `nine_of_ten`.
    """
    past, held, latency = history(store), held_out(store), latency_of_classes(store)
    a = past.accuracy
    last: dict[int, float] = {}
    values = dict.fromkeys(("accuracy", "min_accuracy", "worst_case_accuracy", "forgetting"), NAN)
    if a.size:
        last = dict(zip(past.classes.tolist(), a[-1].tolist(), strict=True))
        current = newest_scored(past)
        counted = np.where(past.n_probes >= FEW_PROBES, a, NAN)
        values = {
            "accuracy": _mean(a[-1]),
            "min_accuracy": float(minimum_accuracy(counted, current)[-1]),
            "worst_case_accuracy": float(worst_case_accuracy(counted, current)[-1]),
            "forgetting": forgetting(counted),
        }
    return {
        "evaluations": len(past.steps),
        "probes": sum(held.values()),
        **{name: _known(value) for name, value in values.items()},
        "classes": {
            name: {
                "held_out": held[uid],
                "accuracy": _known(last.get(uid, NAN)),
                "first_right": latency[uid].first_right if uid in latency else None,
                "nine_of_ten": latency[uid].nine_of_ten if uid in latency else None,
            }
            for uid, name in store.names.items()
        },
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Float64) -> float:
    """Return the mean of what is not NaN; NaN when that is nothing, without a warning."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else NAN


def _minima(table: Float64, current: npt.NDArray[np.int64]) -> Float64:
    """Return the lowest accuracy so far (E, T), of evaluations in which the task was not trained.

    NaN before the first of them; a NaN in the table begins anew.
    """
    if current.shape != (len(table),):
        raise UsageError(f"current has shape {current.shape}; expected ({len(table)},)")
    worst = np.full_like(table, np.nan)
    low = np.full(table.shape[1], np.nan)
    for n, row in enumerate(table):
        old = np.arange(len(row)) != current[n]
        low = np.where(np.isnan(row), np.nan, np.where(old, np.fmin(low, row), low))
        worst[n] = low
    return worst


def _drops(table: Float64) -> Float64:
    """Return for each task the best of its earlier rows minus its last; NaN when it has none."""
    drops = np.full(table.shape[1], np.nan)
    for i, column in enumerate(table.T):
        gaps = np.flatnonzero(np.isnan(column))
        stretch = column[gaps[-1] + 1 :] if len(gaps) else column
        if len(stretch) > 1:
            drops[i] = stretch[:-1].max() - stretch[-1]
    return drops


def _largest_drop(column: Float64, window: int) -> float:
    """Return WF of the last unbroken stretch of one task; NaN when the task is not there now."""
    gaps = np.flatnonzero(np.isnan(column))
    stretch = column[gaps[-1] + 1 :] if len(gaps) else column
    if not len(stretch):
        return NAN
    drop = 0.0
    for n, value in enumerate(stretch):
        drop = max(drop, float(stretch[max(0, n - window + 1) : n + 1].max() - value))
    return drop


def _check_window(window: int) -> None:
    if window < 1:
        raise UsageError(f"window is {window}; expected 1 or more evaluations")


def _table(a: Float64) -> Float64:
    table = np.asarray(a, np.float64)
    if table.ndim != 2 or not table.size:
        raise UsageError(f"accuracies have shape {table.shape}; expected (evaluations, tasks)")
    return table


def _square(a: Float64) -> Float64:
    table = _table(a)
    if table.shape[0] != table.shape[1]:
        raise UsageError(
            f"accuracies have shape {table.shape}; expected a row at the end of each task, (T, T)"
        )
    return table


def _vector(name: str, values: npt.ArrayLike, n: int) -> Float64:
    vector = np.asarray(values, np.float64)
    if vector.shape != (n,):
        raise UsageError(f"{name} has shape {vector.shape}; expected ({n},)")
    return vector
