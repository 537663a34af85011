"""The arithmetic of approximate unlearning, on flat vectors of P parameters.

Four published methods: SSD (Foster et al. 2024, arXiv:2308.07707) shrinks the parameters that
matter to the forgotten class; GU (2025, arXiv:2511.17100) takes descent steps that raise no
retained loss to first order; GS-LoRA++ (Zhao et al. 2024, arXiv:2403.11530, and 2025,
arXiv:2501.09705) trains a sparse patch; IAU (2025, arXiv:2507.23257) takes one step. None removes a
class exactly, and none is idempotent: a second run changes the parameters again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgecl.errors import RequestError, ShapeError
from edgecl.types import Float32, Float64

if TYPE_CHECKING:
    import torch

MOST_CONSTRAINTS = 9
"""Of one step of GU: the current retain gradient and eight earlier ones."""
# Relative to the largest violation; the release's tolerance.
_KKT_TOLERANCE = 1e-6
# Inside the root: the gradient of a norm at zero is not a number otherwise.
_ROOT_EPS = 1e-12
_ADAM_EPS = 1e-8

Vector = Float32 | Float64


def importance(gradients: Iterable[Vector]) -> Float64:
    """Return the mean over samples of the squared gradient (P,): the diagonal Fisher.

    Every row is the gradient of one sample's loss. The release squares gradients of batch means
    instead, which makes the result depend on batch size and order.

    Args:
        gradients: Blocks of rows (B, P).

    Raises:
        ShapeError: No row at all.
    """
    total: Float64 | None = None
    n = 0
    for rows in gradients:
        squares = np.square(rows, dtype=np.float64).sum(axis=0)
        total = squares if total is None else total + squares
        n += len(rows)
    if total is None or not n:
        raise ShapeError("an importance of no samples was asked for; give one gradient at least")
    return total / n


def scaled_alpha(alpha: float, share: float) -> float:
    """Return SSD's threshold for a class that is this share of the samples.

    F_all >= share F_forget, so that alpha >= 1 / share selects nothing: the published 10 is silent
    for a class of a tenth of the store. Half the bound, 0.5 / share, is taken where it is less.
    """
    return min(alpha, 0.5 / share)


def dampen(
    theta: Float32, f_all: Vector, f_forget: Vector, *, alpha: float, lambda_: float = 1.0
) -> tuple[Float32, npt.NDArray[np.bool_]]:
    """Shrink what matters more to the forgotten class than to all samples (SSD).

    theta_i <- min(lambda F_all / F_forget, 1) theta_i where F_forget > alpha F_all.

    Args:
        theta: Parameters (P,).
        f_all: Importance over all samples, the forgotten included (P,).
        f_forget: Importance over the forgotten samples (P,).
        alpha: Threshold; see `scaled_alpha`.
        lambda_: Strength; smaller shrinks more.

    Returns:
        The parameters, bit for bit the same where not selected, and which were selected.

    Raises:
        RequestError: An importance is not finite, which would select nothing without a word.
    """
    if not (np.isfinite(f_all).all() and np.isfinite(f_forget).all()):
        raise RequestError("an importance is not finite; use --adapter-method retrain")
    selected = np.asarray(f_forget > alpha * f_all)
    ratio = lambda_ * f_all[selected] / f_forget[selected]  # F_forget > 0 wherever it is selected
    out = theta.copy()
    out[selected] *= np.minimum(ratio, 1)
    return out, selected


def iau_step(
    theta: Float32, g_retain: Vector, g_forget: Vector, *, learning_rate: float = 1e-3
) -> Float32:
    """Take IAU's step: the first of Adam, along the retain minus the forget gradient.

    Adam's first step divides the gradient by its own size, so every parameter moves by about the
    learning rate; only the sign of g_retain - g_forget counts.

    Args:
        theta: Parameters (P,).
        g_retain: Gradient of the mean cross-entropy of retained samples (P,).
        g_forget: And of the forgotten (P,).
        learning_rate: Of Adam.
    """
    g = g_retain - g_forget
    return (theta - learning_rate * g / (np.abs(g) + _ADAM_EPS)).astype(np.float32)


def covector(gradient: Vector) -> Float64:
    """Return a retain gradient at length one over all parameters together (P,).

    Raises:
        RequestError: It is zero or not finite, so that it constrains nothing.
    """
    g = np.asarray(gradient, np.float64)
    norm = float(np.linalg.norm(g))
    if not np.isfinite(norm) or norm == 0:
        raise RequestError(
            f"the retained pictures give a gradient of length {norm}, which guards nothing; use "
            "--adapter-method retrain"
        )
    return g / norm


def project_step(
    proposal: Vector, covectors: Sequence[Vector] | Float64, metric: Vector
) -> tuple[Float64, Float64]:
    """Return the step nearest to a proposal that raises no retained loss to first order (GU).

    min 1/2 ||D - D0||_M^2 subject to G D <= 0: D = D0 - M^-1 G' lam. With at most nine constraints
    all active sets are tried, in float64; the solution is global over all parameters, not one of
    each tensor.

    Args:
        proposal: Step D0 that an optimiser took (P,).
        covectors: Retain gradients G (m, P), m at most 9; they need not be independent.
        metric: Diagonal of M (P,), positive.

    Returns:
        The step D (P,), the proposal itself where it violates nothing, and the multipliers (m,).

    Raises:
        ShapeError: More than nine covectors, or of another width.
        RequestError: Something is not finite, or no active set solves it within 1e-6.
    """
    d0, g, m = (np.asarray(a, np.float64) for a in (proposal, covectors, metric))
    if g.ndim != 2 or not 0 < len(g) <= MOST_CONSTRAINTS or g.shape[1:] != d0.shape:
        raise ShapeError(
            f"covectors have shape {g.shape}; expected 1 to {MOST_CONSTRAINTS} rows of "
            f"{d0.shape[0]} values"
        )
    if not all(np.isfinite(a).all() for a in (d0, g, m)) or (m <= 0).any():
        raise RequestError("a step, covector or metric is not finite; use --adapter-method retrain")
    violation = g @ d0
    lam = np.zeros(len(g))
    if (violation <= 0).all():
        return d0, lam
    over = g / m  # (m, P)
    gram = over @ g.T  # (m, m)
    tolerance = _KKT_TOLERANCE * violation.max()
    best = np.inf
    for size in range(1, len(g) + 1):
        for active in combinations(range(len(g)), size):
            rows = list(active)
            part, *_ = np.linalg.lstsq(gram[np.ix_(rows, rows)], violation[rows], rcond=None)
            tried = np.zeros(len(g))
            tried[rows] = np.maximum(part, 0)
            covered = gram @ tried
            if (covered < violation - tolerance).any():
                continue
            # Active constraints are met with equality; a negative multiplier breaks this.
            if (np.abs(covered - violation)[rows] > tolerance).any():
                continue
            cost = float(tried @ covered)
            if cost < best:
                best, lam = cost, tried
    if not np.isfinite(best):
        raise RequestError(
            "no step keeps the retained losses within 1e-6; use --adapter-method retrain"
        )
    return d0 - lam @ over, lam


def bounded_forget_loss(logits: torch.Tensor, of: int) -> torch.Tensor:
    """Return the mean of -log(1 - p_c): falls to zero as a class is no longer predicted.

    Args:
        logits: Shape (N, C), C at least 2.
        of: Column c of the forgotten class.
    """
    import torch

    others = torch.cat([logits[:, :of], logits[:, of + 1 :]], dim=1)
    return (logits.logsumexp(dim=1) - others.logsumexp(dim=1)).mean()


def capped_forget_loss(logits: torch.Tensor, of: int) -> torch.Tensor:
    """Return max(0, BND - CE): falls until the mean cross-entropy reaches BND (GS-LoRA).

    BND depends on the scale of the logits; max(2 ln C, 9) suits plain ones.

    Args:
        logits: Shape (N, C).
        of: Column of the forgotten class.
    """
    bound = max(2 * math.log(logits.shape[1]), 9.0)
    mean: torch.Tensor = (logits.logsumexp(dim=1) - logits[:, of]).mean()
    return (bound - mean).relu()


def group_norms(patch: torch.Tensor, groups: Sequence[slice]) -> torch.Tensor:
    """Return the sum over groups of the norm of a group of parameters (GS-LoRA).

    Args:
        patch: Parameters (P,).
        groups: Where each group lies.
    """
    import torch

    return torch.stack([(patch[at].square().sum() + _ROOT_EPS).sqrt() for at in groups]).sum()


def prototype_divergence(prototypes: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Return the mean of KL(softmax(prototype) || softmax(z)) over rows (GS-LoRA++).

    Args:
        prototypes: Mean feature of each row's class under the map before (N, D).
        z: Features now (N, D).
    """
    log_p, log_q = prototypes.log_softmax(dim=1), z.log_softmax(dim=1)
    mean: torch.Tensor = (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()
    return mean
