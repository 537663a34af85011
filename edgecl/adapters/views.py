"""Which pictures and views stand in a batch, and how what is cached of them is moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def view_batches(
    n: int, views: int, batch_size: int, epoch: int, *, seed: int, drawn_anew: bool = False
) -> list[list[tuple[int, int]]]:
    """Return the batches of an epoch as (picture, view) pairs.

    With one view every picture comes once an epoch. With V views an epoch holds V views each of a
    V-th of the pictures, side by side, so that exposures are equal and a picture rests V times as
    long; V epochs walk through one order of all pictures. View 0 is the picture itself.

    Args:
        n: Pictures.
        views: Views of a picture, V.
        batch_size: Rows of a batch; holds batch_size // V pictures, one at least.
        epoch: Number of the epoch, 0 at first.
        seed: Seed of the orders.
        drawn_anew: The views beside the picture itself have new numbers in every epoch.
    """
    per_batch = max(1, batch_size // views)
    share = -(-n // views)
    turn = epoch % views
    order = np.random.default_rng([seed, 8, epoch - turn, 1]).permutation(n)
    pictures = order[turn * share : (turn + 1) * share]
    first = epoch * (views - 1) if drawn_anew else 0
    numbers = [0, *range(1 + first, views + first)]
    return [
        [(int(i), view) for i in pictures[start : start + per_batch] for view in numbers]
        for start in range(0, len(pictures), per_batch)
    ]


def shifted(h: torch.Tensor, most: int, generator: np.random.Generator) -> torch.Tensor:
    """Move each map (B, C, H, W) by up to so many cells, its border repeated; tokens stay."""
    if not most or h.ndim != 4:
        return h
    import torch
    from torch.nn import functional as F

    height, width = h.shape[2:]
    wide = F.pad(h, (most, most, most, most), mode="replicate")
    places = generator.integers(0, 2 * most + 1, (len(h), 2)).tolist()
    rows = [wide[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(places)]
    return torch.stack(rows).contiguous(memory_format=torch.channels_last)
