"""A bank of adapters with its own classifier: statistics, alignment, retrieval (MOS).

The classifier is one linear layer over all classes, whichever adapter made the feature. It is
aligned on pseudo-features drawn from a Gaussian a class, so it needs no picture; prediction then
finds the adapter of a picture by self-refined retrieval and adds the nearest-mean scores of the
first adapter (runtime/scoring.BankScorer).

Reference: Sun et al. 2025, "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental
Learning", arXiv:2412.09441. Departures: class sums are exact instead of Welford's running mean, a
class of few samples leans on the pooled variance, and pseudo-features of a map that is never
negative are cut at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.runtime.scoring import BankScorer, softmax
from edgecl.types import Float16, Float64

# Below so many samples a class's variance is mixed with the pooled one.
FEW = 30
_JITTER = 1e-4
_EPOCHS = 30
_LEARNING_RATE = 0.005
_MOMENTUM = 0.9
_BATCH = 160


@dataclass(frozen=True, slots=True)
class ClassGaussian:
    """Where the features of a class lie.

    Args:
        mean: Shape (D,).
        spread: Variance (D,), or covariance (D, D).
    """

    mean: Float64
    spread: Float64

    def draw(self, n: int, rng: np.random.Generator) -> Float64:
        """Return n pseudo-features (n, D)."""
        noise = rng.standard_normal((n, len(self.mean)))
        if self.spread.ndim == 1:
            return self.mean + noise * np.sqrt(self.spread)
        out: Float64 = self.mean + noise @ np.linalg.cholesky(self.spread).T
        return out


def class_gaussians(
    rows: Mapping[int, Float16], *, full: bool = False, few: int = FEW
) -> dict[int, ClassGaussian]:
    """Return a Gaussian for each class.

    Args:
        rows: Features (n, D) of each class, n at least 1.
        full: Keep the covariance, D * D numbers a class, instead of the variance.
        few: Below so many rows a class's spread is mixed with the mean spread of all classes, each
            weighted by its rows; a single row has that alone.
    """
    raw: dict[int, tuple[Float64, Float64]] = {}
    pooled, n_pooled = 0.0, 0
    for uid, part in rows.items():
        x = part.astype(np.float64)
        centred = x - x.mean(axis=0)
        squares = centred.T @ centred if full else np.einsum("nd,nd->d", centred, centred)
        raw[uid] = (x.mean(axis=0), squares)
        pooled, n_pooled = pooled + squares, n_pooled + len(x) - 1
    common = pooled / max(1, n_pooled)
    out = {}
    for uid, (mean, squares) in raw.items():
        n = len(rows[uid])
        share = 1.0 if n < 2 else max(0.0, 1 - n / few) if few else 0.0
        spread = (1 - share) * squares / max(1, n - 1) + share * common
        jitter = _JITTER * (np.eye(len(mean)) if full else 1.0)
        out[uid] = ClassGaussian(mean, spread + jitter)
    return out


def align(
    gaussians: Sequence[ClassGaussian],
    *,
    is_positive: bool,
    seed: int,
    epochs: int = _EPOCHS,
) -> tuple[Float64, Float64]:
    """Fit a linear classifier to pseudo-features of all classes alike.

    Args:
        gaussians: One a class.
        is_positive: Whether real features are never negative.
        seed: Seed of the pseudo-features.
        epochs: Each draws new pseudo-features, as many batches as classes.

    Returns:
        Weights (D, K) and bias (K,) on plain features.
    """
    rng = np.random.default_rng([seed, 9])
    k, d = len(gaussians), len(gaussians[0].mean)
    centre = np.mean([g.mean for g in gaussians], axis=0)
    between = np.var([g.mean for g in gaussians], axis=0)
    within = np.mean(
        [g.spread if g.spread.ndim == 1 else np.diagonal(g.spread) for g in gaussians], axis=0
    )
    scale = np.sqrt(between + within + _JITTER)
    weights, bias = np.zeros((d, k)), np.zeros(k)
    speed_w, speed_b = np.zeros_like(weights), np.zeros_like(bias)
    n_steps, step = epochs * k, 0
    for _ in range(epochs):
        x = np.concatenate([g.draw(_BATCH, rng) for g in gaussians])
        if is_positive:
            x = np.maximum(x, 0)
        x = (x - centre) / scale
        y = np.repeat(np.arange(k), _BATCH)
        order = rng.permutation(len(x))
        for batch in order.reshape(k, _BATCH):
            rate = _LEARNING_RATE * (1 + np.cos(np.pi * step / n_steps)) / 2
            error = softmax(x[batch] @ weights + bias)
            error[np.arange(_BATCH), y[batch]] -= 1
            speed_w = _MOMENTUM * speed_w + x[batch].T @ error / _BATCH
            speed_b = _MOMENTUM * speed_b + error.mean(axis=0)
            weights -= rate * speed_w
            bias -= rate * speed_b
            step += 1
    plain = weights / scale[:, None]
    return plain, bias - centre @ plain


def bank_scorer(
    first: Mapping[int, Float16],
    own: Mapping[int, Float16],
    task_of: Mapping[int, int],
    names: Mapping[int, str],
    *,
    n_maps: int,
    full: bool = False,
    seed: int = 0,
) -> BankScorer:
    """Build the classifier of a bank.

    Args:
        first: Features (n, D) of each class under the first adapter.
        own: Features of each class under the adapter of its task.
        task_of: Number of each class's adapter in the bank, 0 at first.
        names: Names of the classes.
        n_maps: Adapters in the bank, T.
        full: Covariances instead of variances.
        seed: Seed of the pseudo-features.
    """
    uids = list(first)
    gaussians = class_gaussians({uid: own[uid] for uid in uids}, full=full)
    is_positive = all(bool((rows >= 0).all()) for rows in own.values())
    weights, bias = align([gaussians[uid] for uid in uids], is_positive=is_positive, seed=seed)
    means = np.array([first[uid].astype(np.float64).mean(axis=0) for uid in uids])
    norms = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return BankScorer(
        weights=weights,
        bias=bias,
        prototypes=(means / norms).T,
        task_of=np.array([task_of[uid] for uid in uids], dtype=np.int64),
        n_maps=n_maps,
        labels=tuple(names[uid] for uid in uids),
    )
