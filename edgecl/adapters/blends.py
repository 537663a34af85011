"""How trained adapters are heard: what is made of their rows, which keep what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecl.adapters.bottleneck import AdaptedNetwork


def depth_scaled(network: AdaptedNetwork, a: float) -> dict[str, float]:
    """Return by how much the residual of each site is scaled: a + (1 - a) l / (L - 1) at block l.

    The number of the block is its own among all L of the backbone, not that of the site; a backbone
    of one block is left alone. No gain on lite0.

    Reference: Wang et al. 2024, "LiNeS: Post-training Layer Scaling Prevents Forgetting and
    Enhances Model Merging", arXiv:2410.17146.
    """
    model: Any = network.model
    if hasattr(model, "patch_embed"):
        places = {f"blocks.{i}": i for i in range(len(model.blocks))}
    else:
        names = [f"blocks.{s}.{i}" for s, row in enumerate(model.blocks) for i in range(len(row))]
        places = {name: i for i, name in enumerate(names)}
    last = max(1, len(places) - 1)
    if len(places) == 1:
        return {site.name: 1.0 for site in network.sites}
    return {site.name: a + (1 - a) * places[site.name] / last for site in network.sites}
