"""The gradient of a step of UER in closed form; `cosine.uer_loss` is what it is the gradient of.

A softmax over logits has the gradient p - y there; cosine logits pass it through the normalised
rows, w / (|w| + eps). Arrays of this size take torch longer to record than numpy to multiply.
"""

from __future__ import annotations

import numpy as np

from edgecl.heads.gate import gates_gradient, nearest
from edgecl.heads.stability import HEAVIEST
from edgecl.runtime.gated import factors
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
    keys: Float32 | None = None,
) -> Float32:
    """Return the gradient (K, D) of `cosine.uer_loss`, which says what the arguments are.

    With keys (E, D) the class rows are (K, D + E), and so is the gradient: rows and gates.
    """
    n, d = len(z), z.shape[1]
    w, gates = w[:, :d], w[:, d:]
    rows = z
    if old_z is not None:
        rows = np.concatenate([z, old_z.reshape(-1, z.shape[1])])  # in one product with the others
    logits = rows @ w.T  # (N + M * V, K)
    lengths = np.sqrt(np.einsum("kd,kd->k", w, w))  # (K,)
    over = 1 / (np.sqrt(np.einsum("nd,nd->n", z, z)) + np.float32(EPSILON))  # (N,)
    under = 1 / (lengths + np.float32(EPSILON))
    cosines = logits[:n] * over[:, None] * under
    logits[:n] = cosines / np.float32(TEMPERATURE)
    raw, factor = logits, None
    if keys is not None:
        near = nearest(rows, keys)
        factor = factors(gates.T, near)
        logits = raw * factor
    slopes = np.empty_like(logits)
    slopes[:n] = _slope(logits[:n], target, gamma)
    if old_z is not None and old_target is not None:
        n_views = old_z.shape[1] if old_z.ndim == 3 else 1
        slopes[n:] = _stored_slope(logits[n:], old_target, n_views, gamma, view_weight)
    turned = np.zeros_like(gates)
    if factor is not None:
        turned = gates_gradient(factor, near, slopes * raw, gates.shape[1])
        slopes *= factor
    slope = slopes[:n] / np.float32(TEMPERATURE)
    slopes[:n] = slope * over[:, None] * under
    gradient: Float32 = slopes.T @ rows
    # d(w / (l + eps)) / dw = 1 / (l + eps) - w w' / (l (l + eps)^2); the last term is 0 for w = 0.
    along = (slope * cosines).sum(axis=0) * under
    gradient -= (along / np.maximum(lengths, np.finfo(np.float32).tiny))[:, None] * w
    return np.concatenate([gradient, turned], axis=1) if turned.size else gradient


def _stored_slope(
    logits: Float32, target: Labels, n_views: int, gamma: float, view_weight: float
) -> Float32:
    """Return the gradient (M * V, K) of what stored samples add to the loss, by their logits."""
    slopes = _slope(logits, np.repeat(target, n_views), gamma)
    if view_weight and n_views > 1:
        p = _softmax(logits).reshape(len(target), n_views, -1)
        apart = p - p[:, :1]  # of the weak view nothing, which gets no gradient
        share = np.float32(view_weight / (len(p) * (n_views - 1)))
        slopes += share * apart.reshape(logits.shape)
    return slopes


def _slope(logits: Float32, target: Labels, gamma: float) -> Float32:
    """Return the gradient (N, K) of `focal_cross_entropy` by its logits."""
    n = len(logits)
    p, each = _softmax(logits), np.arange(n)
    own = p[each, target]
    p[each, target] = own - 1
    if not gamma:
        p *= 1 / np.float32(n)
        return p
    weight = (1 - own) ** np.float32(gamma)
    weight /= np.float32(max(float(weight.mean()), 1e-12))
    np.minimum(weight, np.float32(HEAVIEST), out=weight)
    p *= (weight / np.float32(n))[:, None]
    return p


def _softmax(logits: Float32) -> Float32:
    e: Float32 = logits - logits.max(axis=1, keepdims=True)
    np.exp(e, out=e)
    e /= e.sum(axis=1, keepdims=True)
    return e
