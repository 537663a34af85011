"""Scores of a learner over time that only benchmarks take: averages, transfer, windows, speed.

As in `edgecl/evaluation/continual.py`, `a[n, i]` is the accuracy on held-out samples of task i at
evaluation n, and NaN means that the task was not seen yet or was unlearned.

References: De Lange et al. 2023, "Continual evaluation for lifelong learning", arXiv:2205.13452
(windowed forgetting and plasticity); Chaudhry et al. 2018, arXiv:1801.10112 (intransigence) and
2019, arXiv:1812.00420 (LCA); Lopez-Paz and Ranzato 2017, arXiv:1706.08840 (transfer). Windows are
counted in evaluations, not in samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgecl.errors import UsageError
from edgecl.evaluation.continual import forgetting
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


def forgetting_of_learned(a: Float64) -> float:
    """Return F_last: as `forgetting`, over those classes whose accuracy was ever above zero."""
    table = _table(a)
    return forgetting(np.where((np.nan_to_num(table) > 0).any(axis=0), table, np.nan))


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


def _mean(values: Float64) -> float:
    """Return the mean of what is not NaN; NaN when that is nothing, without a warning."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else NAN


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
