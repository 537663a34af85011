"""What of a training's trajectory stays: plain functions that follow it step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Keep = Callable[["Sequence[torch.Tensor]", "Sequence[torch.Tensor]", int, int], None]
"""Takes what is kept, which it changes, what training has now, the step, from 1, and the last."""

SLOW = 0.99
_AVERAGED = 0.95
_BEYOND = 0.5


def last(kept: Sequence[torch.Tensor], now: Sequence[torch.Tensor], step: int, end: int) -> None:
    """Keep what the last step left."""
    del step, end
    for mean, fast in zip(kept, now, strict=True):
        mean.copy_(fast)


def slow(kept: Sequence[torch.Tensor], now: Sequence[torch.Tensor], step: int, end: int) -> None:
    """Keep a mean that forgets: slow <- d slow + (1 - d) fast, d growing from 2/11 to 0.99.

    Growing, so that a short training is not mostly its start. Reference: Tarvainen and Valpola
    2017, "Mean teachers are better role models", arXiv:1703.01780.
    """
    del end
    _forgetting_mean(kept, now, min(SLOW, (1 + step) / (10 + step)))


def averaged(
    kept: Sequence[torch.Tensor], now: Sequence[torch.Tensor], step: int, end: int
) -> None:
    """Keep a shorter mean than `slow`, d = min(0.95, (1 + t) / (10 + t)), t from 0.

    Reference: "Large Continual Instruction Assistant" (LCIA, 2025, arXiv:2410.10868); departure:
    its decay that adapts to the gradient is left out (measured useless before), and the mean starts
    from where the training starts.
    """
    del end
    _forgetting_mean(kept, now, min(_AVERAGED, step / (9 + step)))


def retrodicted(
    kept: Sequence[torch.Tensor], now: Sequence[torch.Tensor], step: int, end: int
) -> None:
    """Keep a place beyond the last step, on the line from half of the way to its end.

    Reference: "KNOW" (2025), knowledge nowcasting from a few checkpoints; departure: its learned
    predictor needs hundreds of trainings, so this is the line, theta + 0.5 (theta - theta_half).
    """
    import torch

    if 2 * step <= end:
        last(kept, now, step, end)
    elif step == end:
        for half, fast in zip(kept, now, strict=True):
            half.copy_(torch.lerp(half, fast, 1 + _BEYOND))


def steady_step(first: torch.Tensor, second: torch.Tensor, third: torch.Tensor) -> torch.Tensor:
    """Return where three equally spaced checkpoints lead (`retrodicted` with a measured length).

    rho = <d1, d2> / <d1, d1> of the two differences; the rest of a geometric series is
    rho / (1 - rho) of the last difference, at most one of it, and nothing unless 0 < rho < 1: what
    does not shrink shows no sign that it will end.
    """
    before, after = second - first, third - second
    rho = float((before * after).sum() / (before * before).sum().clamp_min(1e-30))
    eta = min(1.0, rho / (1 - rho)) if 0 < rho < 1 else 0.0
    return third + eta * after


def _forgetting_mean(
    kept: Sequence[torch.Tensor], now: Sequence[torch.Tensor], keep: float
) -> None:
    for mean, fast in zip(kept, now, strict=True):
        mean.lerp_(fast, 1 - keep)
