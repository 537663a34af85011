"""A bank of adapters with its own classifier: statistics, alignment, retrieval (MOS).

The classifier is one linear layer over all classes, whichever adapter made the feature. It is
aligned on pseudo-features drawn from a Gaussian a class with its full covariance; prediction then
finds the adapter of a picture by self-refined retrieval and adds the nearest-mean scores of the
first adapter (runtime/bank.py).

Reference: Sun et al. 2025, "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental
Learning", arXiv:2412.09441. Departures: covariances stand as the rows that they are of, so that a
class costs its rows and not D x D; a class of few rows leans on the pooled covariance; the rate is
0.05 instead of 0.005, with which a classifier that starts from zeros gets nowhere in as many steps
(docs/decisions/0009); pseudo-features of a map that is never negative are cut at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.runtime.bank import BankScorer
from edgecl.runtime.scoring import softmax
from edgecl.types import Float16, Float64

# Below so many rows a class's covariance is mixed with the pooled one.
FEW = 30
_JITTER = 1e-4
_EPOCHS = 30
_LEARNING_RATE = 0.05
_MOMENTUM = 0.9
_BATCH = 160


@dataclass(frozen=True, slots=True)
class ClassGaussian:
    """Where the features of a class lie: N(mean, roots' roots summed + jitter).

    Args:
        mean: Shape (D,).
        roots: Matrices (n, D) whose products with themselves add up to the covariance.
    """

    mean: Float64
    roots: tuple[Float64, ...]

    def draw(self, n: int, rng: np.random.Generator) -> Float64:
        """Return n pseudo-features (n, D)."""
        out: Float64 = self.mean + _JITTER**0.5 * rng.standard_normal((n, len(self.mean)))
        for root in self.roots:
            out += rng.standard_normal((n, len(root))) @ root
        return out

    @property
    def variance(self) -> Float64:
        """Variance of each feature (D,)."""
        out: Float64 = sum(np.square(root).sum(axis=0) for root in self.roots) + np.full(
            len(self.mean), _JITTER
        )
        return out


def class_gaussians(rows: Mapping[int, Float16], *, few: int = FEW) -> dict[int, ClassGaussian]:
    """Return a Gaussian for each class.

    Args:
        rows: Features (n, D) of each class, n at least 1.
        few: Below so many rows a class's covariance is mixed with the mean covariance of all
            classes, each weighted by its rows; a single row has that alone.
    """
    means = {uid: x.astype(np.float64).mean(axis=0) for uid, x in rows.items()}
    centred = {uid: x.astype(np.float64) - means[uid] for uid, x in rows.items()}
    n_free = max(1, sum(len(x) - 1 for x in rows.values()))
    leans = any(len(x) < few for x in rows.values())
    pooled = np.concatenate(list(centred.values())) / n_free**0.5 if leans else np.zeros((0, 0))
    out = {}
    for uid, x in centred.items():
        n = len(x)
        share = 1.0 if n < 2 else max(0.0, 1 - n / few) if few else 0.0
        own = (x * ((1 - share) / max(1, n - 1)) ** 0.5,) if share < 1 else ()
        out[uid] = ClassGaussian(means[uid], (*own, pooled * share**0.5) if share else own)
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
    within = np.mean([g.variance for g in gaussians], axis=0)
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
    seed: int = 0,
) -> BankScorer:
    """Build the classifier of a bank.

    Args:
        first: Features (n, D) of each class under the first adapter.
        own: Features of each class under the adapter of its task.
        task_of: Number of each class's adapter in the bank, 0 at first.
        names: Names of the classes.
        n_maps: Adapters in the bank, T.
        seed: Seed of the pseudo-features.
    """
    uids = list(first)
    gaussians = class_gaussians({uid: own[uid] for uid in uids})
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
