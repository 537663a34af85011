"""How one batch changes the tensors of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgecl.adapters.masks import forgetful
from edgecl.adapters.scene import Scene
from edgecl.runtime.adapters import Adapter, mean_of

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
# Of every so many steps the last ones settle what forgets.
_PERIOD, _SETTLES = 32, 8


def plain(scene: Scene) -> OneStep:
    """Go one step of the optimiser."""
    del scene
    return _descend


def merged(scene: Scene) -> OneStep:
    """Go one step, then move towards the mean of the earlier adapters (MOS, arXiv:2412.09441).

    Once a step, as the paper has it; the released code also merges in every forward pass.
    """
    if not scene.earlier:
        return _descend
    towards = _as_trained(scene, mean_of(scene.earlier))

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


def settling(scene: Scene) -> OneStep:
    """Let all tensors train, and in the last 8 of every 32 steps those alone that forget (k-FPF).

    A tensor forgets that went farther from where the session before left it than its own steps are
    long, twice as far as the median tensor (`masks.forgetful`); the head always trains. The first
    session has nothing to forget. Departures: tensors of an adapter, chosen anew at every such step
    by the optimiser's mean gradients, so that a training goes on in the same bits; every step sees
    kept pictures of all classes, theirs only those that settle (which was a loss in heads).

    Reference: Zhao et al. 2023, "Does Continual Learning Equally Forget All Parameters?", ICML,
    arXiv:2304.04158.
    """
    if not scene.earlier:
        return _descend
    names, before = list(scene.network.shapes), _as_trained(scene, scene.earlier[-1])

    def step(
        optimiser: torch.optim.Optimizer, loss: Loss, tensors: Sequence[torch.Tensor], done: int
    ) -> None:
        if done % _PERIOD < _PERIOD - _SETTLES:
            _descend(optimiser, loss, tensors, done)
            return
        optimiser.zero_grad()
        loss(True).backward()  # type: ignore[no-untyped-call]
        trains = forgetful(
            {
                name: (moved(old, part), _usual_step(optimiser, part))
                for name, old, part in zip(names, before, tensors, strict=True)
            }
        )
        for name, part in zip(names, tensors, strict=True):
            if name not in trains:
                part.grad = None  # such are not decayed either
        optimiser.step()

    return step


def moved(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return the mean absolute change of a tensor."""
    return float((after.detach() - before).abs().mean())


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


def _usual_step(optimiser: torch.optim.Optimizer, part: torch.Tensor) -> float:
    """Return the mean length of Adam's step of each entry of a tensor, the rate left out."""
    state = optimiser.state[part]
    if "exp_avg" not in state:
        return 0.0
    return float((state["exp_avg"].abs() / (state["exp_avg_sq"].sqrt() + 1e-8)).mean())


def _as_trained(scene: Scene, adapter: Adapter) -> list[torch.Tensor]:
    """Return an adapter as tensors in the order of training, the scale taken out."""
    import torch

    scale = scene.network.scale
    return [
        torch.from_numpy(adapter[name]) / (scale if name.endswith((".up", ".up_bias")) else 1.0)
        for name in scene.network.shapes
    ]


def _descend(
    optimiser: torch.optim.Optimizer, loss: Loss, tensors: Sequence[torch.Tensor], done: int
) -> None:
    del tensors, done
    optimiser.zero_grad()
    loss(True).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
