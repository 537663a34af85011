"""What a strategy of a recipe may read: a scene, and a batch of it. Nothing else is in reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecl.runtime.adapters import Adapter
from edgecl.types import Float32, Labels

if TYPE_CHECKING:
    import torch

    from edgecl.adapters.bottleneck import AdaptedNetwork


@dataclass(frozen=True, slots=True)
class Walk:
    """Some pictures on their way through the plain backbone; tensors have gradients if asked for.

    Args:
        rows: Their places in the scene (B,).
        z: Their features (B, D).
        sites: What each site takes, and what it adds to, (B, T, C) or (B, C, H, W) each.
    """

    rows: torch.Tensor
    z: torch.Tensor
    sites: Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Scene:
    """A training before its first step.

    Args:
        network: The frozen backbone with sites.
        y: Class uids (N,) of the pictures that train.
        seed: Seed of the home, the same for every session.
        earlier: Adapters of the sessions before, oldest first; empty where a recipe sees its own
            session only.
        class_means: Mean plain features (M, D) of the classes of earlier sessions; likewise.
        features: Features (N, D) of all pictures, as they are, under an adapter; no gradient.
        walk: Takes so many pictures, spread over all, through the plain backbone.
    """

    network: AdaptedNetwork
    y: Labels
    seed: int
    earlier: tuple[Adapter, ...]
    class_means: Float32
    features: Callable[[Adapter], torch.Tensor]
    walk: Callable[[int], Iterator[Walk]]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step of a training, B rows.

    Args:
        rows: Places of the pictures in the scene (B,).
        z: Their adapted features (B, D); with mixup of mixed pictures.
        logits: Shape (B, K).
        target: Column of each one's class (B,).
        partner: Place in the batch of the row that is mixed in (B,).
        own: Share of the row itself, 1 without mixup; the partner has the rest.
        tensors: The adapter, in the order of `network.shapes`, the scale left out.
        head: The head of this step: features (B, D) to logits (B, K).
    """

    rows: torch.Tensor
    z: torch.Tensor
    logits: torch.Tensor
    target: torch.Tensor
    partner: torch.Tensor
    own: float
    tensors: Sequence[torch.Tensor]
    head: Callable[[torch.Tensor], torch.Tensor]
