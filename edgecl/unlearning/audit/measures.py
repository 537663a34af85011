"""How far an unlearned model is from one that never learned: plain functions on arrays.

Every measure compares with a model that was retrained without the class, never with "accuracy is
zero": a class that is gone has no column, so its accuracy says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgecl.types import Float64, Labels

Bools = npt.NDArray[np.bool_]

_SLACK = 1e-5
_BINS = 20
_MOST_MARGIN = 100.0
_BIN_FLOOR = 1e-5
# Margins nearer than this differ by rounding only.
_LEAST_BIN = 1e-9


def tug_of_war(ours: Sequence[float], retrained: Sequence[float]) -> float:
    """Return the product of 1 - |difference| over accuracies (forgotten, kept, test), fractions.

    1 is a model that scores like the retrained one everywhere.

    Reference: Zhao et al. 2024, arXiv:2406.01257 (ToW).

    Example:
        >>> round(tug_of_war((0.02, 0.97, 0.95), (0.0, 0.98, 0.96)), 6)
        0.960498
    """
    return float(np.prod([1 - abs(a - b) for a, b in zip(ours, retrained, strict=True)]))


def h_mean(drop: float, kept: float) -> float:
    """Return the harmonic mean of the forgotten class's lost accuracy and of what is kept, percent.

    Reference: Zhao et al. 2024, arXiv:2403.11530 (GS-LoRA).
    """
    return 2 * drop * kept / (drop + kept) if drop + kept else 0.0


def activation_distance(p: Float64, q: Float64) -> float:
    """Return the mean Euclidean distance between rows of probabilities (N, K), 0 to sqrt(2)."""
    return float(np.linalg.norm(p - q, axis=1).mean())


def zero_retrain(p: Float64, teacher: Float64) -> float:
    """Return 1 - the Jensen-Shannon divergence (nats) of rows (N, K) to a random teacher's: ZRF.

    1 is a model that knows no more than the teacher. This is the true divergence; the code of SSD
    (Foster et al. 2024, arXiv:2308.07707) reduces it in another way and gives larger values.
    """
    middle = (p + teacher) / 2
    divergence = (_kl(p, middle) + _kl(teacher, middle)) / 2
    return float(1 - divergence.mean())


def _kl(p: Float64, q: Float64) -> Float64:
    ratio = np.divide(p, q, out=np.ones_like(p), where=(p > 0) & (q > 0))
    divergence: Float64 = (p * np.log(np.maximum(ratio, 1e-300))).sum(axis=-1)
    return divergence


def margins(logits: Float64, y: Labels) -> Float64:
    """Return z_y - log sum exp of the other logits, the logit of the probability of y.

    Args:
        logits: Shape (N, K), K at least 2.
        y: Columns (N,).
    """
    rows = np.arange(len(logits))
    others = np.array(logits, dtype=np.float64)
    others[rows, y] = -np.inf
    top = others.max(axis=1)
    rest = top + np.log(np.exp(others - top[:, None]).sum(axis=1))
    gap: Float64 = logits[rows, y] - rest
    return gap


def klom(ours: Float64, retrained: Float64) -> Float64:
    """Return, for every sample, the divergence KL(ours || retrained) of its margins over models.

    Args:
        ours: Margins (M, N) of N samples under M unlearned models.
        retrained: Margins (M', N) under models that never learned what was forgotten.

    Returns:
        Nats, shape (N,): margins are cut to +-100 and counted in 20 bins over the range of both.

    Reference: Georgiev et al. 2024, arXiv:2410.23232 (KLoM).
    """
    out = np.empty(ours.shape[1])
    for i in range(ours.shape[1]):
        a, b = (np.clip(m[:, i], -_MOST_MARGIN, _MOST_MARGIN) for m in (ours, retrained))
        low, high = min(a.min(), b.min()), max(a.max(), b.max())
        width = max((high - low) / _BINS, _LEAST_BIN)
        places = (np.minimum((m - low) / width, _BINS - 1).astype(np.int64) for m in (a, b))
        p, q = (np.bincount(at, minlength=_BINS) / len(at) + _BIN_FLOOR for at in places)
        p, q = p / p.sum(), q / q.sum()
        out[i] = (p * np.log(p / q)).sum()
    return out


def forget_quality(fpr: float, fnr: float) -> tuple[float, float]:
    """Return epsilon and 2^-epsilon of an attack with these error rates.

    An attack that guesses has epsilon 0 (quality 1); one that never errs has an infinite epsilon.

    Reference: Triantafillou et al. 2024, arXiv:2406.09073 (the NeurIPS 2023 challenge).
    """
    epsilon = min(_log_odds(1 - _SLACK - fpr, fnr), _log_odds(1 - _SLACK - fnr, fpr))
    epsilon = max(0.0, epsilon)
    return epsilon, float(2.0**-epsilon)


def _log_odds(a: float, b: float) -> float:
    if a <= 0:
        return 0.0
    return float(np.log(a / b)) if b > 0 else float("inf")


def roc(scores: Float64, is_member: Bools, *, most_fpr: float = 0.01) -> tuple[float, float]:
    """Return the area under the ROC curve, and the largest TPR at an FPR of at most `most_fpr`.

    Args:
        scores: Shape (N,), larger for members; ties count half.
        is_member: Shape (N,), with members and others.
        most_fpr: Of the second value.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = is_member[order]
    tpr = np.concatenate([[0.0], np.cumsum(hits)[ends] / hits.sum()])
    fpr = np.concatenate([[0.0], np.cumsum(~hits)[ends] / (~hits).sum()])
    area = float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())
    return area, float(tpr[fpr <= most_fpr].max())


def likelihood_ratios(statistic: Float64, is_in: Bools) -> Float64:
    """Return log-likelihood ratios "was learned" to "was not" of samples under shadow models.

    For each sample a Gaussian is fitted to the statistic over the models that learned it and one
    over those that did not, on every second pair of models, and judges the others.

    Args:
        statistic: Shape (P, 2, N): P pairs of models, N samples.
        is_in: Who was learned, the same shape; every sample by one model of each pair.

    Reference: Carlini et al. 2022, arXiv:2112.03570 (LiRA); Hayes et al. 2024, arXiv:2403.01218
    (U-LiRA). Departure: deviations have a floor, a tenth of that over all models.
    """
    ratios = np.zeros_like(statistic)
    for fold in (0, 1):
        known, known_in = statistic[1 - fold :: 2], is_in[1 - fold :: 2]
        floor = np.maximum(0.1 * known.std(axis=(0, 1)), 1e-9)  # (N,)
        judged = statistic[fold::2]
        total = np.zeros_like(judged)
        for which, sign in ((known_in, 1.0), (~known_in, -1.0)):
            count = np.maximum(which.sum(axis=(0, 1)), 1)
            mean = np.where(which, known, 0.0).sum(axis=(0, 1)) / count
            spread = np.where(which, np.square(known - mean), 0.0).sum(axis=(0, 1)) / count
            std = np.maximum(np.sqrt(spread), floor)
            total += sign * (-0.5 * np.square((judged - mean) / std) - np.log(std))
        ratios[fold::2] = total
    return ratios
