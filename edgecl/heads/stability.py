"""The parts of a `Profile`, as functions that any head by gradient can use.

Slow rows, focal weight and the pass before a deploy follow the literature on stability under a
stream (docs/decisions/0008); the views' agreement belongs to view-batch replay
(store/view_batch.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgecl.runtime.scoring import softmax
from edgecl.types import Float32, Labels

if TYPE_CHECKING:
    import torch

# Most that one sample weighs against the mean of its batch.
HEAVIEST = 4.0
SETTLE_BATCH = 32
# A class with fewer stored samples counts less in the pass before a deploy.
FEW_ROWS = 3


def slow_decay(n_updates: int, most: float) -> float:
    """Return what the slow rows keep in update number `n_updates`, from 0.

    The average reaches back over a ninth of all updates at first, so that the same setting fits a
    short stream and a long one.

    Args:
        n_updates: Updates so far.
        most: Largest value; 0 makes the slow rows equal to the others.
    """
    return min(most, (1 + n_updates) / (10 + n_updates))


def focal_cross_entropy(logits: torch.Tensor, target: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the mean cross-entropy of logits (N, K), weighed by `focal_weights`."""
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(logits, target, reduction="none")
    if not gamma:
        return losses.mean()
    p = (-losses.detach()).exp()
    return (focal_weights(p, gamma) * losses).mean()


def focal_weights(p: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return weights (N,) of samples whose own class has probability p (N,).

    (1 - p)^gamma over its mean, so that the step is as long as without, and at most `HEAVIEST`.

    Reference: Lin et al. 2017, arXiv:1708.02002; differs: normalised over the batch, capped.
    """
    weights = (1 - p) ** gamma
    # All may be learned to the last digit.
    return (weights / weights.mean().clamp_min(1e-12)).clamp_max(HEAVIEST)


def settled_rows(
    w: Float32,
    z: Float32,
    y: Labels,
    *,
    n_steps: int,
    learning_rate: float,
    rng: np.random.Generator,
    factor: Float32 | None = None,
) -> Float32:
    """Return class rows after a class-balanced pass with plain cross-entropy.

    Args:
        w: Class rows (K, D).
        z: Scaled features of stored samples (N, D), of at least two classes.
        y: Their rows (N,).
        n_steps: Steps of `SETTLE_BATCH` samples, drawn with replacement.
        learning_rate: Length of a step.
        rng: Draws them.
        factor: What a class gate makes logits count (N, K); it is not changed.

    Reference: the head's part of forgetting-prioritised fine-tuning (FPF): the head is what a
    stream moves most.
    """
    n = np.bincount(y, minlength=len(w))
    share = 1 / (n[y] * np.count_nonzero(n))
    weight = np.minimum(1, n[y] / FEW_ROWS).astype(np.float32)
    w = w.copy()
    for _ in range(n_steps):
        drawn = rng.choice(len(y), SETTLE_BATCH, p=share)
        x, own = z[drawn], y[drawn]
        by = np.float32(1) if factor is None else factor[drawn]
        p = softmax((x @ w.T * by).astype(np.float64)).astype(np.float32)  # (B, K)
        p[np.arange(len(own)), own] -= 1
        p *= by
        w -= learning_rate * (p * weight[drawn, None]).T @ x / SETTLE_BATCH
    return w
