"""Losses of PRD, prototype-sample relation distillation, and the projection that they train.

Reference: Asadi et al. 2023, arXiv:2303.14771; heads/prototype.py says where it departs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Widths of the projector, which the contrastive loss looks through.
PROJECTOR = (64, 64, 32)
SCALE = 1.0
CONTRAST_TEMPERATURE = 0.1
PROTOTYPES_COEF = 2.0
DISTILL_COEF = 4.0
RELATION_TEMPERATURE = 1.0
# A shorter vector has no direction to speak of; bounds the gradient of a cosine.
_SHORTEST = 0.1


def prd_loss(
    weights: Mapping[str, torch.Tensor],
    means: torch.Tensor,
    z: torch.Tensor,
    target: torch.Tensor,
    old: torch.Tensor,
    before: torch.Tensor,
    form: str,
) -> torch.Tensor:
    """Return PRD's loss of one step.

    Args:
        weights: Projection, projector and offsets (K, D) of the prototypes.
        means: Class means (K, D); with the offsets they are the prototypes.
        z: Features (N, D).
        target: Their prototypes (N,).
        old: Prototypes (C,) whose relations are kept.
        before: Cosines (N, C) of the teacher.
        form: `samples` or `classes`.
    """
    h = project(z, weights)
    loss = supcon_loss(projected(h, weights), target, temperature=CONTRAST_TEMPERATURE)
    prototypes = means + weights["offsets"]
    loss = loss + PROTOTYPES_COEF * prototype_loss(prototypes, h, target)
    if len(old):
        now = cosine(h, prototypes[old])
        kept = relation_loss(before, now, temperature=RELATION_TEMPERATURE, form=form)
        loss = loss + DISTILL_COEF * kept
    return loss


def project(z: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return h (N, D) of features z (N, D): z and a bottleneck's scaled correction."""
    hidden = (z @ weights["down"].T + weights["down_bias"]).relu()  # (N, RANK)
    return z + SCALE * (hidden @ weights["up"].T)


def projected(h: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return what the contrastive loss compares: unit vectors (N, M) behind the projector."""
    from torch.nn.functional import normalize

    for i in range(len(PROJECTOR)):
        if i:
            h = h.relu()
        h = h @ weights[f"weight{i}"].T + weights[f"bias{i}"]
    return normalize(h, dim=1)


def supcon_loss(u: torch.Tensor, target: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Return the supervised contrastive loss of unit vectors.

    An anchor that is alone in its class has no positives and is skipped; if all are, the loss is 0.

    Args:
        u: Unit vectors (N, M).
        target: Their classes (N,).
        temperature: Of the softmax over the other vectors; the loss carries a factor of it / 0.07.

    Reference: Khosla et al. 2020, arXiv:2004.11362.
    """
    import torch

    n = len(u)
    itself = torch.eye(n, dtype=torch.bool)
    logits = (u @ u.T / temperature).masked_fill(itself, -torch.inf)
    log_p = logits - logits.logsumexp(dim=1, keepdim=True) if n > 1 else torch.zeros_like(logits)
    positive = (target[:, None] == target) & ~itself
    n_positive = positive.sum(dim=1)
    has_any = n_positive > 0
    if not has_any.any():
        return (u * 0).sum()
    mean = log_p.masked_fill(~positive, 0).sum(dim=1)[has_any] / n_positive[has_any]
    return -(temperature / 0.07) * mean.mean()


def prototype_loss(prototypes: torch.Tensor, h: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1 - cosine of features with their prototypes; features get no gradient.

    Args:
        prototypes: Shape (K, D).
        h: Features (N, D).
        target: Their prototypes (N,).
    """
    return 1 - (_unit(prototypes)[target] * _unit(h.detach())).sum(dim=1).mean()


def relation_loss(
    before: torch.Tensor, now: torch.Tensor, *, temperature: float, form: str
) -> torch.Tensor:
    """Return how far the relation of samples and prototypes moved, as a KL divergence.

    Args:
        before: Scores (N, C) of the teacher; they get no gradient.
        now: Scores (N, C) of the student.
        temperature: Of the softmax.
        form: `samples` compares, for each prototype, shares among the samples (the paper);
            `classes`, for each sample, shares among the prototypes (the released code).
    """
    from torch.nn.functional import kl_div, log_softmax

    dim = {"samples": 0, "classes": 1}[form]
    p = log_softmax(before.detach() / temperature, dim=dim)
    q = log_softmax(now / temperature, dim=dim)
    total = kl_div(q, p, reduction="sum", log_target=True)
    return total / before.shape[1 - dim]


def cosine(h: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Return the cosines (N, C) of features (N, D) with prototypes (C, D)."""
    return _unit(h) @ _unit(prototypes).T


def _unit(x: torch.Tensor) -> torch.Tensor:
    unit: torch.Tensor = x / x.norm(dim=1, keepdim=True).clamp_min(_SHORTEST)
    return unit
