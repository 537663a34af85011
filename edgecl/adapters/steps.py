"""How one batch changes the tensors of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgecl.adapters.scene import Scene
from edgecl.runtime.adapters import mean_of

if TYPE_CHECKING:
    import torch

Loss = Callable[[bool], "torch.Tensor"]
"""The loss of a batch; with False the features have no gradient, so the head alone learns."""
OneStep = Callable[["torch.optim.Optimizer", Loss, "Sequence[torch.Tensor]", int], None]
"""Takes the optimiser, the loss, the adapter's tensors, which it changes, and the steps before."""
Step = Callable[[Scene], OneStep]

# MOS: share of the mean of the earlier adapters that is mixed in after every step.
MERGE = 0.1
_REFRESH = 1e-5
_NOISE = 1e-3
_CURVATURE = 1e-3
_EVERY = 4


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
        optimiser: torch.optim.Optimizer, loss: Loss, tensors: Sequence[torch.Tensor], done: int
    ) -> None:
        _descend(optimiser, loss, tensors, done)
        merge_(tensors, towards, MERGE)

    return step


def refreshed(scene: Scene) -> OneStep:
    """Forget a little of the batch before it is learned (refresh learning); see `refresh_`.

    The curvature is the optimiser's mean of squared gradients. Costs a second backward pass.
    """
    del scene

    def step(
        optimiser: torch.optim.Optimizer, loss: Loss, tensors: Sequence[torch.Tensor], done: int
    ) -> None:
        import torch

        gradients = torch.autograd.grad(loss(True), list(tensors))
        for part, gradient in zip(tensors, gradients, strict=True):
            seen = optimiser.state[part].get("exp_avg_sq", torch.zeros_like(part))
            refresh_(part, gradient, seen, noise=_NOISE)
        _descend(optimiser, loss, tensors, done)

    return step


def two_rates(scene: Scene) -> OneStep:
    """Let the head learn from every batch and the adapter from every fourth.

    Reference: "Fast & Slow" learning with synthetic gradients; departure: here the gradient at the
    features is closed form, nothing is left for a network to predict, so this is its schedule. No
    gain on lite0, at half the time.
    """
    del scene

    def step(
        optimiser: torch.optim.Optimizer, loss: Loss, tensors: Sequence[torch.Tensor], done: int
    ) -> None:
        _descend(optimiser, lambda _: loss(done % _EVERY == 0), tensors, done)

    return step


def merge_(tensors: Sequence[torch.Tensor], mean: Sequence[torch.Tensor], share: float) -> None:
    """Move tensors towards a mean: A <- (1 - share) A + share mean."""
    import torch

    with torch.no_grad():
        for part, towards in zip(tensors, mean, strict=True):
            part.mul_(1 - share).add_(towards, alpha=share)


def refresh_(
    part: torch.Tensor,
    gradient: torch.Tensor,
    curvature: torch.Tensor,
    *,
    noise: float,
    rate: float = _REFRESH,
) -> None:
    """Go a step uphill: theta += c (n + noise) / (1 + 1e-3 F), n = |theta| / |g| g.

    A tensor of zeros stays zero but for the noise, whose length is in units of the tensor's own.

    Args:
        part: theta, changed.
        gradient: g, of the same shape.
        curvature: F, the Fisher information of every entry.
        noise: Standard deviation of what is added to n.
        rate: c.

    Reference: Wang et al. 2024, "A Unified and General Framework for Continual Learning", ICLR,
    arXiv:2403.13249 (refresh learning).
    """
    import torch

    with torch.no_grad():
        length = part.norm()
        direction = gradient * (length / gradient.norm().clamp_min(1e-12))
        if noise and length > 0:
            direction = direction + noise * torch.randn_like(part)
        part.add_(rate * direction / (1 + _CURVATURE * curvature))


def _descend(
    optimiser: torch.optim.Optimizer, loss: Loss, tensors: Sequence[torch.Tensor], done: int
) -> None:
    del tensors, done
    optimiser.zero_grad()
    loss(True).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
