"""The gradient of a step of UER in closed form; `cosine.uer_loss` is what it is the gradient of.

A softmax over logits has the gradient p - y there; cosine logits pass it through the normalised
rows, w / (|w| + eps). Arrays of this size take torch longer to record than numpy to multiply.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edgecl.heads.stability import HEAVIEST
from edgecl.types import Float32, Labels

TEMPERATURE = 0.09
# The authors' PCR code keeps a cosine finite with this.
EPSILON = 1e-6


def uer_gradient(
    w: Float32,
    z: Float32,
    target: Labels,
    old_z: Float32 | None,
    old_target: Labels | None,
    *,
    gamma: float = 0.0,
    view_weight: float = 0.0,
) -> Float32:
    """Return the gradient (K, D) of `cosine.uer_loss`, which says what the arguments are."""
    n = len(z)
    rows = z
    if old_z is not None:
        rows = np.concatenate([z, old_z.reshape(-1, z.shape[1])])  # in one product with the others
    logits = rows @ w.T  # (N + M * V, K)
    slopes = np.empty_like(logits)
    lengths = np.sqrt(np.einsum("kd,kd->k", w, w))  # (K,)
    over = 1 / (np.sqrt(np.einsum("nd,nd->n", z, z)) + np.float32(EPSILON))  # (N,)
    under = 1 / (lengths + np.float32(EPSILON))
    cosines = logits[:n] * over[:, None] * under
    slope = _slope(cosines / np.float32(TEMPERATURE), target, gamma) / np.float32(TEMPERATURE)
    slopes[:n] = slope * over[:, None] * under
    if old_z is not None and old_target is not None:
        n_views = old_z.shape[1] if old_z.ndim == 3 else 1
        slopes[n:] = _slope(logits[n:], np.repeat(old_target, n_views), gamma)
        if view_weight and n_views > 1:
            p = _softmax(logits[n:]).reshape(-1, n_views, len(w))
            apart = p - p[:, :1]  # of the weak view nothing, which gets no gradient
            share = np.float32(view_weight / (len(p) * (n_views - 1)))
            slopes[n:] += share * apart.reshape(-1, len(w))
    gradient: Float32 = slopes.T @ rows
    # d(w / (l + eps)) / dw = 1 / (l + eps) - w w' / (l (l + eps)^2); the last term is 0 for w = 0.
    along = (slope * cosines).sum(axis=0) * under
    gradient -= (along / np.maximum(lengths, np.finfo(np.float32).tiny))[:, None] * w
    return gradient


def _slope(logits: Float32, target: Labels, gamma: float) -> Float32:
    """Return the gradient (N, K) of `focal_cross_entropy` by its logits."""
    n = len(logits)
    p = _softmax(logits)
    own = p[np.arange(n), target]
    p[np.arange(n), target] -= 1
    weight = np.ones(n, np.float32)
    if gamma:
        weight = (1 - own) ** np.float32(gamma)
        weight = np.minimum(weight / max(float(weight.mean()), 1e-12), np.float32(HEAVIEST))
    return cast(Float32, p * (weight / np.float32(n))[:, None])


def _softmax(logits: Float32) -> Float32:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return cast(Float32, e / e.sum(axis=1, keepdims=True))
