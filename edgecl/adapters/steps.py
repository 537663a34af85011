"""How one batch changes the tensors of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgecl.adapters.scene import Scene
from edgecl.runtime.adapters import mean_of

if TYPE_CHECKING:
    import torch

OneStep = Callable[["torch.optim.Optimizer", "torch.Tensor", "Sequence[torch.Tensor]"], None]
"""Takes the optimiser, the loss of a batch, and the adapter's tensors, which it changes."""
Step = Callable[[Scene], OneStep]

# MOS: share of the mean of the earlier adapters that is mixed in after every step.
MERGE = 0.1


def plain(scene: Scene) -> OneStep:
    """Go one step of the optimiser."""
    del scene
    return _descend


def merged(scene: Scene) -> OneStep:
    """Go one step, then move towards the mean of the earlier adapters (MOS, arXiv:2412.09441).

    Once a step, as the paper has it; the released code also merges in every forward pass.
    """
    import torch

    if not scene.earlier:
        return _descend
    mean = mean_of(scene.earlier)
    scale = scene.network.scale
    towards = [
        torch.from_numpy(mean[name]) / (scale if name.endswith((".up", ".up_bias")) else 1.0)
        for name in scene.network.shapes
    ]

    def step(
        optimiser: torch.optim.Optimizer, loss: torch.Tensor, tensors: Sequence[torch.Tensor]
    ) -> None:
        _descend(optimiser, loss, tensors)
        merge_(tensors, towards, MERGE)

    return step


def merge_(tensors: Sequence[torch.Tensor], mean: Sequence[torch.Tensor], share: float) -> None:
    """Move tensors towards a mean: A <- (1 - share) A + share mean."""
    import torch

    with torch.no_grad():
        for part, towards in zip(tensors, mean, strict=True):
            part.mul_(1 - share).add_(towards, alpha=share)


def _descend(
    optimiser: torch.optim.Optimizer, loss: torch.Tensor, tensors: Sequence[torch.Tensor]
) -> None:
    del tensors
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
