"""Scores of a learner over time: accuracy, forgetting, worst cases.

All of them take accuracies in [0, 1] by task (or class) as rows of an array: `a[n, i]` is the
accuracy on held-out samples of task i at evaluation n. NaN means that the task was not seen yet or
was unlearned; it counts in no mean, and when the task comes back its minima begin anew.
Measures that only benchmarks take are in `benchmarks/scores.py`.

References: De Lange et al. 2023, "Continual evaluation for lifelong learning", arXiv:2205.13452
(min-ACC, WC-ACC); Chaudhry et al. 2018, arXiv:1801.10112 (forgetting).
"""

from __future__ import annotations

import math
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


def forgetting(a: Float64) -> float:
    """Return FM: the mean, over tasks seen before the last row, of best earlier minus last."""
    return _mean(_drops(_table(a)))


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


def pooled(a: Float64, n: npt.ArrayLike) -> Float64:
    """Return accuracy (E,): of all tasks together, right answers divided by pictures asked.

    Args:
        a: Accuracies, shape (E, T); NaN where a task was not asked.
        n: Pictures of each task, shape (E, T).
    """
    known = np.isfinite(a)
    asked = np.where(known, np.asarray(n), 0)
    total = asked.sum(axis=1)
    right = (np.where(known, a, 0.0) * asked).sum(axis=1)
    return np.asarray(np.divide(right, total, out=np.full(len(total), NAN), where=total > 0))


def summary(store: Store) -> dict[str, Any]:
    """Return what the probes of a store say, JSON values; None where nothing was scored.

    A class counts as the one in training until another comes: min-ACC and WC-ACC take the newest
    class that is scored as the current one. Unlike in the paper the probes of a class become more
    as it comes: its scores on fewer than `FEW_PROBES` are chance (one probe: 0 or 1), and count for
    min-ACC, WC-ACC and forgetting no more than a class that is not there yet.

    Returns:
        `evaluations` and `probes` (how many), `accuracy` (right probes divided by probes, at the
        last evaluation), `min_accuracy`, `worst_case_accuracy`, `forgetting`, and by name in
        `classes`: `held_out`, `accuracy`, and in frames of the class `first_right` and
        `nine_of_ten`.
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
            "accuracy": float(pooled(a, past.n_probes)[-1]),
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


def _table(a: Float64) -> Float64:
    table = np.asarray(a, np.float64)
    if table.ndim != 2 or not table.size:
        raise UsageError(f"accuracies have shape {table.shape}; expected (evaluations, tasks)")
    return table
