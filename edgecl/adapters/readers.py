"""What reads each site of a backbone: the frozen weights behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecl.adapters.prefix import fused
from edgecl.errors import UsageError

if TYPE_CHECKING:
    import torch

    from edgecl.adapters.bottleneck import AdaptedNetwork

    Reader = tuple[torch.Tensor, torch.Tensor]


def readers(network: AdaptedNetwork) -> list[Reader]:
    """Return weights (out, C, taps) and bias (out,) of what reads each site, BatchNorm folded in.

    In a convolutional backbone that is the next block's first convolution, behind the last block
    the head's; in a vision transformer the first layer of the MLP that stands beside the site, the
    scale of its norm folded in.

    Raises:
        UsageError: The last site is read by nothing that is a convolution.
    """
    model: Any = fused(network).model
    sites = [site.name for site in network.sites]
    if hasattr(model, "patch_embed"):
        return [_of_mlp(block) for block in model.blocks]
    blocks = {
        f"blocks.{stage}.{i}": block
        for stage, row in enumerate(model.blocks)
        for i, block in enumerate(row)
    }
    order = list(blocks)
    found = []
    for name in sites:
        behind = order[order.index(name) + 1 :]
        conv = _first_of(blocks[behind[0]]) if behind else getattr(model, "conv_head", None)
        if conv is None:
            raise UsageError(
                f"nothing that is a convolution reads {name} in this backbone; choose a recipe "
                "that needs no reader"
            )
        found.append((conv.weight.flatten(2), _bias_of(conv)))
    return found


def _first_of(block: Any) -> Any:
    return next(getattr(block, n) for n in ("conv_exp", "conv_pw", "conv") if hasattr(block, n))


def _bias_of(layer: Any) -> torch.Tensor:
    weight: torch.Tensor = layer.weight
    return weight.new_zeros(len(weight)) if layer.bias is None else layer.bias


def _of_mlp(block: Any) -> Reader:
    layer, norm = block.mlp.fc1, block.norm2
    weight = layer.weight if norm.weight is None else layer.weight * norm.weight
    bias = _bias_of(layer)
    if norm.bias is not None:
        bias = bias + layer.weight @ norm.bias
    return weight.detach()[:, :, None], bias.detach()
