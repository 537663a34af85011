"""Class gate: a logit is turned up or down by the frozen key that a feature is nearest to.

    logits of stream and replay  <-  logits * 2 sigmoid(M[e]),   e the nearest of E keys by cosine

M (E, K) is learned with the class rows, at their rate; a new class has a column of 0, the factor 1.
The keys are directions that no data made, on centred and scaled features: nothing must be unlearned
of them, and M goes with the class rows, of which it is E further columns.

Reference: Moon et al. 2023, "Online class incremental learning on stochastic blurry task boundary
via mask and visual prompt tuning" (MVP), arXiv:2308.09303. Departures: the gate alone, without
prompts; frozen keys instead of learned ones; M begins at 0 instead of -1.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edgecl.types import Float32, Labels


def frozen_keys(num_features: int, n: int) -> Float32:
    """Return unit keys (E, D), the same in every home."""
    rows = np.random.default_rng([n, 13]).standard_normal((n, num_features))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return cast(Float32, rows.astype(np.float32))


def nearest(z: Float32, keys: Float32) -> Labels:
    """Return the number (N,) of the key (E, D) that each feature (N, D) is nearest to by cosine."""
    near: Labels = (z @ keys.T).argmax(axis=1)
    return near


def gates_gradient(factor: Float32, near: Labels, slopes: Float32, n_keys: int) -> Float32:
    """Return the gradient (K, E) of a loss by gates (K, E).

    Args:
        factor: What the gates make of logits (N, K), `factors` of them.
        near: Nearest keys (N,).
        slopes: Gradient of the loss by the gated logits, times the logits before it (N, K).
        n_keys: Keys, E.
    """
    falls = (near[:, None] == np.arange(n_keys)).astype(np.float32)  # (N, E)
    # 2 sigmoid(m) = g has the slope g (1 - g / 2).
    return cast(Float32, (slopes * factor * (1 - factor / 2)).T @ falls)
