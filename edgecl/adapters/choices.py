"""Which of the kept pictures an adapter is trained on.

Reference: Maharana et al. 2024, "Adapt-infinity: Scalable Continual Multimodal Instruction Tuning
via Dynamic Data Selection", arXiv:2410.10636. Departures: the exact head's own probabilities score
the pictures, class by class; bins are equal parts of what is left of the scores, since the released
ones are fixed numbers of deviations; no pool of selectors, and no score of images by text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgecl.types import Float32, Float64, Labels

Choose = Callable[[Float32, Float64, Labels], Labels]
"""Features (N, D), probabilities (N, K) and columns of the classes (N,), oldest first -> places."""

N_BINS = 50
_LOW, _HIGH = 0.05, 0.95
# Of a class: what is left once near repetitions are gone, and what trains.
_DISTINCT, _TRAINS = 0.9, 0.5
# Of fewer pictures all train.
_FEW = 20


def every(x: Float32, p: Float64, y: Labels) -> Labels:
    """Return all places."""
    del x, p
    return np.arange(len(y))


def covered(x: Float32, p: Float64, y: Labels) -> Labels:
    """Return half of each class: without near repetitions, spread over how hard the pictures are.

    Half of the training, and a loss where a class has thirty pictures (docs/benchmarks.md).
    """
    errors = errors_of(p, y)
    chosen = []
    for c in np.unique(y):
        rows = np.flatnonzero(y == c)
        if len(rows) >= _FEW:
            n = len(rows)
            rows = rows[distinct(x[rows], errors[rows], int(_DISTINCT * n))]
            scores = np.linalg.norm(errors[rows], axis=1)
            rows = rows[coverage(scores, int(_TRAINS * n))]
        chosen.append(rows)
    return np.sort(np.concatenate(chosen))


def errors_of(p: Float64, y: Labels) -> Float64:
    """Return p - onehot (N, K); its norm is EL2N (Paul et al. 2021, arXiv:2107.07075).

    Args:
        p: Probabilities (N, K).
        y: Columns of the own classes (N,).
    """
    errors = p.copy()
    errors[np.arange(len(y)), y] -= 1
    return errors


def coverage(scores: Float64, n: int, *, n_bins: int = N_BINS) -> Labels:
    """Return the places, sorted, of at most n scores (N,) that are spread over their range.

    What lies below the 5 % or above the 95 % quantile is left out; the rest falls into bins of one
    width, fewer of them than half of the scores, and every bin gives its `dealt` share, evenly by
    score.
    """
    places, bins = binned(scores, n_bins=min(n_bins, max(1, len(scores) // 2)))
    counts = np.bincount(bins)
    chosen = []
    for b, k in enumerate(dealt(counts.tolist(), n)):
        own = places[bins == b]
        own = own[np.argsort(scores[own], kind="stable")]
        chosen.append(own[np.arange(k) * len(own) // max(k, 1)])
    return np.sort(np.concatenate(chosen))


def binned(scores: Float64, *, n_bins: int) -> tuple[Labels, Labels]:
    """Return the places of scores (N,) between the quantiles, and the bin of each."""
    low, high = np.quantile(scores, [_LOW, _HIGH])
    places = np.flatnonzero((scores >= low) & (scores <= high))
    left = scores[places]
    width = max(float(np.ptp(left)), 1e-12) / n_bins
    bins = np.minimum((left - left.min()) / width, n_bins - 1).astype(np.int64)
    return places, bins


def dealt(counts: Sequence[int], n: int) -> list[int]:
    """Return how many of n each bin gives: the smallest all that it has, the others equal parts.

    Fewer than n where the bins hold fewer.

    Example:
        >>> dealt([2, 10, 30], 18)
        [2, 8, 8]
    """
    shares = [0] * len(counts)
    order = sorted(range(len(counts)), key=lambda b: (counts[b], b))
    for done, b in enumerate(order):
        shares[b] = min(counts[b], n // (len(counts) - done))
        n -= shares[b]
    return shares


def distinct(x: Float32, errors: Float64, n: int) -> Labels:
    """Return the places, sorted, of the n rows that repeat earlier ones least.

    A row repeats by the largest cosine of its gradient to an earlier row's; of a linear head that
    is the cosine of the features (N, D) times that of the errors (N, K).
    """
    z, e = _unit(x.astype(np.float64)), _unit(errors)
    alike = np.tril((z @ z.T) * (e @ e.T), -1) - 2 * np.triu(np.ones((len(x), len(x))))
    order = np.argsort(alike.max(axis=1), kind="stable")  # of equal ones the older stays
    kept: Labels = np.sort(order[:n])
    return kept


def _unit(rows: Float64) -> Float64:
    unit: Float64 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
