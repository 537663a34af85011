"""The gate of `atoms`: every picture chooses which rows of an adapter count.

A row is an expert of rank one that routes itself: its own activation says how well it fits, so
there is no router that could forget. Reference: "MoRA" (2025), mixture of rank-one adapters.
Departures: the temperature stays where it is, so that what is served is what was trained (theirs
falls to 0.01); rows that are silent take no part, so that what is added is the same whatever an
adapter is padded with; every session has an adapter of its own, as in `isolated`, and its rows
compete with each other only: a head that reads rows of a session that came later would read what
it never saw, and what is left after an unlearning would not be what never saw the class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ACTIVE = 16
"""Most rows of a site that count for one picture."""
TEMPERATURE = 0.1
_SILENT = -1e4


def row_weights(
    hidden: torch.Tensor, active: int, *, temperature: float = TEMPERATURE, least: float = 0.0
) -> torch.Tensor:
    """Return the weight (N, r) of every row: of one picture's they add up to 1, or are all 0.

    The softmax of the rows' mean activations, at unit norm, over a temperature.

    Args:
        hidden: What the rows make of each token (N, T, r), never negative.
        active: Rows that have a weight, the busiest; silent ones have none.
        temperature: Of the softmax.
        least: A smaller weight becomes 0.
    """
    import torch

    score = hidden.mean(dim=1)
    score = score / score.norm(dim=1, keepdim=True).clamp_min(1e-12)
    bound = score.topk(min(active, score.shape[1]), dim=1).values[:, -1:]
    speaks = (score >= bound) & (score > 0)
    weights = torch.where(speaks, score / temperature, torch.full_like(score, _SILENT)).softmax(1)
    return torch.where(speaks & (weights >= least), weights, torch.zeros_like(weights))


def row_factors(hidden: torch.Tensor, active: int) -> torch.Tensor:
    """Return by how much each row counts (N, r): its weight times the rows that have one.

    So rows that fit equally well all count 1.
    """
    weights = row_weights(hidden, active)
    return weights * (weights > 0).sum(dim=1, keepdim=True)
