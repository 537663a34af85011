"""What a row counts in the loss: prepared once, then taken of every batch, without gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgecl.adapters.scene import Batch, Scene
from edgecl.errors import RequestError
from edgecl.runtime.adapters import zeros
from edgecl.types import Float64

if TYPE_CHECKING:
    import torch

Weights = Callable[["torch.Tensor", Batch], "torch.Tensor"]
"""Takes the probability of the own class (B,) and the batch; returns weights (B,)."""
Weigh = Callable[[Scene], Weights]

# Rows of a class before its variance says anything: of a class never right it is nearly zero.
_ENOUGH = 30
_CERTAIN = 0.99
_SIMILARITY_SHARE = 0.5
_SIMILARITY_POWER = 2.0
_NEW_MARGIN = 0.2
_NEW_SHARE = 0.1


def alike(scene: Scene) -> Weights:
    """Let every row count 1."""
    import torch

    del scene
    return lambda p, batch: torch.ones_like(p)


def variance(scene: Scene) -> Weights:
    """Weigh by how undecided a row is, w = 4 p (1 - p) (RFT).

    The exact form of the reward's gradient p grad log p, rescaled, and not brought back to a mean
    of one: the point is the smaller step. Rows of a class with fewer than 30 pictures count 1.

    Reference: "Reinforcement Fine-Tuning Naturally Mitigates Forgetting in Continual Post-Training"
    (RFT, 2025); departure: classifiers in place of sampled answers. Not measured to gain.
    """
    import torch

    n_of = dict(
        zip(*(part.tolist() for part in np.unique(scene.y, return_counts=True)), strict=True)
    )
    few = torch.tensor([n_of[c] < _ENOUGH for c in scene.y.tolist()])
    return lambda p, batch: torch.where(few[batch.rows], torch.ones_like(p), spread(p))


def certain(scene: Scene) -> Weights:
    """Leave out rows that are learned, p > 0.99 (the instance filter of RFT, see `variance`)."""
    del scene
    return lambda p, batch: (p <= _CERTAIN).to(p.dtype)


def gradient_similarity(scene: Scene) -> Weights:
    """Weigh rows by how little their gradient is like their class's (MVP, see `unlike_gradients`).

    For batches of many classes: where there is one only, all weights are near a half.
    """
    del scene

    def weigh(p: torch.Tensor, batch: Batch) -> torch.Tensor:
        return unlike_gradients(p, batch.logits.detach().softmax(1), batch.target, batch.z.detach())

    return weigh


def new_rows(scene: Scene) -> Weights:
    """Let only rows count that no class of an earlier session is near to (`guard`).

    Reference: "LLaVA-DyMoE" (2025), token assignment guidance; "Theory on Mixture-of-Experts in
    Continual Learning" (Li et al. 2025, arXiv:2406.16437), whose router stops being updated: here
    class means of the plain backbone, which are frozen, decide. Departure: a row is new if it is
    nearer to its own class's mean by a fifth.

    Raises:
        RequestError: Fewer than a tenth of the rows are new: an adapter would have nothing to add.
    """
    import torch

    if not len(scene.class_means):
        return alike(scene)
    z = scene.features(zeros(scene.network.shapes)).double().numpy()
    means = {int(c): z[scene.y == c].mean(axis=0) for c in np.unique(scene.y)}
    everything = np.concatenate([np.array(list(means.values())), scene.class_means])
    centre, scale = everything.mean(axis=0), everything.std(axis=0) + 1e-6

    def unit(rows: Float64) -> Float64:
        rows = (rows - centre) / scale
        out: Float64 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return out

    rows, old_means = unit(z), unit(scene.class_means.astype(np.float64))
    own = (rows * unit(np.array([means[int(c)] for c in scene.y]))).sum(axis=1)
    old = (rows @ old_means.T).max(axis=1)
    new = guard(own, old)
    if new.mean() < _NEW_SHARE:
        raise RequestError(
            f"{int(new.sum())} of {len(new)} pictures are farther from what was known than from "
            "their own class; an adapter would add nothing, and none was trained; choose another "
            "recipe to train one all the same"
        )
    weights = torch.from_numpy(new.astype(np.float32))
    return lambda p, batch: weights[batch.rows]


def spread(p: torch.Tensor) -> torch.Tensor:
    """Return 4 p (1 - p)."""
    return 4 * p * (1 - p)


def unlike_gradients(
    p: torch.Tensor, shares: torch.Tensor, target: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """Return weights (N,): 1/2 + 1/2 (1 - cos(g_i, mean gradient of the class))^2.

    Args:
        p: Probability of the own class (N,).
        shares: Probabilities (N, K).
        target: Columns of the classes (N,).
        z: Features (N, D); g_i = (p_i - 1) z_i.

    Reference: Moon et al. 2023, "Online Class Incremental Learning on Stochastic Blurry Task
    Boundary via Mask and Visual Prompt Tuning" (MVP, Si-Blurry), arXiv:2308.09303; departure: by
    sample, as the paper means it (the released code reduces to one number first).
    """
    import torch
    from torch.nn import functional as F

    own = (p - 1)[:, None] * z
    errors = shares - F.one_hot(target, shares.shape[1]).to(shares.dtype)
    mean = errors.T @ z / len(z)  # (K, D)
    alike = torch.cosine_similarity(own, mean[target], dim=1)
    rest = 1 - _SIMILARITY_SHARE
    return rest + _SIMILARITY_SHARE * (1 - alike) ** _SIMILARITY_POWER


def guard(own: Float64, old: Float64) -> npt.NDArray[np.bool_]:
    """Return which rows (N,) are new, from their cosines to their own class and to the nearest old.

    d = |own - old| / max(|own|, |old|) above 0.2, and own the larger.
    """
    gap = np.abs(own - old) / (np.maximum(np.abs(own), np.abs(old)) + 1e-12)
    out: npt.NDArray[np.bool_] = (gap > _NEW_MARGIN) & (own > old)
    return out
