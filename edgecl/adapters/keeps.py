"""What of a training's trajectory stays: plain functions that follow it step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Keep = Callable[["Sequence[torch.Tensor]", "Sequence[torch.Tensor]", int], None]
"""Takes what is kept, which it changes, what training has now, and the step, 1 at first."""

SLOW = 0.99


def last(kept: Sequence[torch.Tensor], now: Sequence[torch.Tensor], step: int) -> None:
    """Keep what the last step left."""
    del step
    for mean, fast in zip(kept, now, strict=True):
        mean.copy_(fast)


def slow(kept: Sequence[torch.Tensor], now: Sequence[torch.Tensor], step: int) -> None:
    """Keep a mean that forgets: slow <- d slow + (1 - d) fast, d growing from 2/11 to 0.99.

    Growing, so that a short training is not mostly its start. Reference: Tarvainen and Valpola
    2017, "Mean teachers are better role models", arXiv:1703.01780.
    """
    share = 1 - min(SLOW, (1 + step) / (10 + step))
    for mean, fast in zip(kept, now, strict=True):
        mean.lerp_(fast, share)
