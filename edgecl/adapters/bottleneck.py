"""Bottleneck adapters for vision transformers and convolutional backbones.

At every site a residual is added to what a frozen block computes: `up @ relu(down @ h + down_bias)
+ up_bias`, with rank r far below the width C. In a transformer block h is the stream after the
attention, not normalised, and the residual stands beside the MLP (AdaptFormer, Chen et al. 2022,
arXiv:2205.13535; MOS, Sun et al. 2025, arXiv:2412.09441). In a convolutional backbone h is the
block's output, at every pixel, and the residual is added to it (the placement that won on lite0,
docs/decisions/0009). `up` starts at zero, so an untrained adapter changes nothing. A scale of the
residual is part of `up` and `up_bias` as they are stored.

Two families are known: timm's vision transformers, and its EfficientNets and MobileNets, whose
early stages keep no adapter: what they compute is the same in every step of a training and is
computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgecl.adapters.atoms import row_factors
from edgecl.backbones import Backbone, pool_tap
from edgecl.errors import UsageError
from edgecl.runtime.adapters import GATE, Adapter

if TYPE_CHECKING:
    import torch
    from torch import nn

RANK = 16
SCALE_VIT = 0.1
SCALE_CONV = 1.0
_PARTS = ("down", "down_bias", "up", "up_bias")


@dataclass(frozen=True, slots=True)
class Site:
    """A place for an adapter.

    Args:
        name: Name of the block, as `blocks.3.0`.
        width: Channels C.
    """

    name: str
    width: int


def input_shapes(
    sites: Sequence[Site], rank: int, *, has_gate: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return the engine's adapter inputs and their shapes, in order; a gate is the last."""
    shapes: dict[str, tuple[int, ...]] = {}
    for site in sites:
        of = f"adapter.{site.name}"
        shapes[f"{of}.down"] = (rank, site.width)
        shapes[f"{of}.down_bias"] = (rank,)
        shapes[f"{of}.up"] = (site.width, rank)
        shapes[f"{of}.up_bias"] = (site.width,)
    return shapes | ({GATE: (1,)} if has_gate else {})


def new_adapter(shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> Adapter:
    """Return an adapter that changes nothing yet: `down` random, the rest zero.

    `down` is uniform within 1/sqrt(C), as Kaiming's rule with a = sqrt(5) gives (MOS).
    """
    rng = np.random.default_rng([seed, 7])
    adapter: Adapter = {}
    for name, shape in shapes.items():
        if name.endswith(".down"):
            bound = 1 / math.sqrt(shape[1])
            adapter[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        else:
            adapter[name] = np.zeros(shape, np.float32)
    return adapter


def adapt(backbone: Backbone, *, rank: int = RANK, active: int = 0) -> AdaptedNetwork:
    """Return the backbone as a network that takes adapters.

    Args:
        backbone: A frozen backbone.
        rank: Rows of an adapter at every site.
        active: Most of them that count for one picture where an adapter's gate is on
            (edgecl/adapters/atoms.py); 0 makes a network without gates.

    Raises:
        UsageError: Adapters are not known for this kind of backbone.
    """
    model: Any = backbone.model.model
    family = _family(model)
    if family is None:
        raise UsageError(
            f"adapters are not known for {backbone.name}; take a vision transformer, an "
            "EfficientNet or a MobileNet of timm, or leave --adapters out"
        )
    return cast("AdaptedNetwork", family(model, backbone, rank, active))


def _family(model: Any) -> Any:
    if hasattr(model, "stage_ends") and hasattr(model, "conv_stem") and hasattr(model, "blocks"):
        return _conv_network
    wanted = ("norm1", "attn", "norm2", "mlp", "ls1", "ls2", "drop_path1", "drop_path2")
    blocks = getattr(model, "blocks", None)
    if hasattr(model, "patch_embed") and blocks is not None:
        if all(hasattr(block, part) for block in blocks for part in wanted):
            return _vit_network
    return None


def residual(
    h: torch.Tensor,
    parts: Sequence[torch.Tensor],
    *,
    dropout: float,
    gate: torch.Tensor | None = None,
    active: int = 0,
) -> torch.Tensor:
    """Return what an adapter adds at one site.

    Args:
        h: Tokens (N, T, C), or a feature map (N, C, H, W).
        parts: down (r, C), down_bias (r,), up (C, r), up_bias (C,).
        dropout: Share of the bottleneck that is dropped, 0 outside of training.
        gate: Above 0, rows count by how well they fit a picture (1,); None has no such choice.
        active: Most rows that count then.
    """
    import torch
    from torch.nn import functional as F

    down, down_bias, up, up_bias = parts
    # Channels last, as a matrix product: convolutions with weights that are graph inputs are less
    # widely supported, and in training this is the faster form.
    tokens = h if h.ndim == 3 else h.permute(0, 2, 3, 1)
    inner = F.relu(F.linear(tokens, down, down_bias))
    if dropout:
        inner = F.dropout(inner, dropout)
    if gate is not None:
        factors = row_factors(inner.flatten(1, -2), active)
        factors = torch.where(gate > 0, factors, torch.ones_like(factors))
        inner = inner * (factors[:, None] if inner.ndim == 3 else factors[:, None, None])
    out = F.linear(inner, up, up_bias)
    return out if h.ndim == 3 else out.permute(0, 3, 1, 2)


if TYPE_CHECKING:
    Sites = list[tuple[torch.Tensor, torch.Tensor]]

    class AdaptedNetwork(nn.Module):
        """A frozen backbone with sites for adapters; `forward` is `suffix` after `prefix`."""

        sites: tuple[Site, ...]
        shapes: dict[str, tuple[int, ...]]
        scale: float
        """Of the residual while an adapter is trained."""
        active: int
        """Most rows that count where a gate is on; 0 if there are no gates."""

        def prefix(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Return what no adapter changes, of pictures (N, 3, S, S).

            Returns:
                The input of the first adapted block (N, ...), and the pooled features of earlier
                taps (N, E).
            """

        def suffix(
            self,
            h: torch.Tensor,
            early: torch.Tensor,
            adapter: Sequence[torch.Tensor] | None,
            *,
            dropout: float = 0.0,
            seen: Sites | None = None,
        ) -> torch.Tensor:
            """Return features (N, D) of what `prefix` returned, the residuals added if any.

            What each site takes, and what it adds to, is put into `seen`.
            """

        def forward(self, pixels: torch.Tensor, adapter: Sequence[torch.Tensor]) -> torch.Tensor:
            """Return plain and adapted features (N, 2 D) of pictures (N, 3, S, S).

            What lies before the first adapter is computed once. The adapter as `shapes` orders.
            """


def _conv_network(model: Any, backbone: Backbone, rank: int, active: int) -> AdaptedNetwork:
    import torch
    from torch import nn

    ends: list[int] = list(model.stage_ends)
    # The early stages see many pixels and little of what tells classes apart: eleven of lite0's
    # sixteen blocks keep an adapter.
    first = ends[-3] if len(ends) > 2 else 0
    tapped, tap_pool = {ends[tap] for tap in backbone.taps}, backbone.tap_pool
    sites = tuple(
        Site(f"blocks.{stage}.{i}", _out_channels(block))
        for stage in range(first, len(model.blocks))
        for i, block in enumerate(model.blocks[stage])
    )

    class ConvNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.tail: Any = backbone.model.tail
            self.sites = sites
            self.shapes = input_shapes(sites, rank, has_gate=active > 0)
            self.scale, self.active = SCALE_CONV, active

        def train(self, mode: bool = True) -> ConvNetwork:
            """Stay in evaluation mode: BatchNorm's statistics are part of the frozen map."""
            return super().train(False)

        def prefix(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.model.bn1(self.model.conv_stem(pixels))
            early = pool_tap(x, tap_pool) if 0 in tapped else []
            for stage in range(first):
                x = self.model.blocks[stage](x)
                if stage + 1 in tapped:
                    early += pool_tap(x, tap_pool)
            return x, torch.cat(early, dim=1) if early else x.new_zeros((x.shape[0], 0))

        def suffix(
            self,
            h: torch.Tensor,
            early: torch.Tensor,
            adapter: Sequence[torch.Tensor] | None,
            *,
            dropout: float = 0.0,
            seen: Sites | None = None,
        ) -> torch.Tensor:
            x, pooled, at = h, [early], 0
            for stage in range(first, len(self.model.blocks)):
                for block in self.model.blocks[stage]:
                    x = block(x)
                    if seen is not None:
                        seen.append((x, x))
                    if adapter is not None:
                        x = x + _at_site(x, adapter, at, active, dropout)
                        at += 1
                if stage + 1 in tapped:
                    pooled += pool_tap(x, tap_pool)
            if hasattr(self.model, "bn2"):
                x = self.model.bn2(self.model.conv_head(x))
            last: torch.Tensor = self.model.forward_head(x, pre_logits=True)
            features: torch.Tensor = self.tail(torch.cat([*pooled, last], dim=1))
            return features

        def forward(self, pixels: torch.Tensor, adapter: Sequence[torch.Tensor]) -> torch.Tensor:
            return _both(self.suffix, *self.prefix(pixels), adapter)

    return cast("AdaptedNetwork", ConvNetwork().eval())


def _vit_network(model: Any, backbone: Backbone, rank: int, active: int) -> AdaptedNetwork:
    from torch import nn

    if backbone.taps:
        raise UsageError(
            "adapters and --taps do not go together in a vision transformer; make the home with "
            "--taps none"
        )
    width = int(model.embed_dim)
    sites = tuple(Site(f"blocks.{i}", width) for i in range(len(model.blocks)))

    class VitNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.tail: Any = backbone.model.tail
            self.sites = sites
            self.shapes = input_shapes(sites, rank, has_gate=active > 0)
            self.scale, self.active = SCALE_VIT, active

        def train(self, mode: bool = True) -> VitNetwork:
            """Stay in evaluation mode: dropout of the frozen network stays off."""
            return super().train(False)

        def prefix(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.model.patch_drop(self.model._pos_embed(self.model.patch_embed(pixels)))
            x = self.model.norm_pre(x)
            return x, x.new_zeros((x.shape[0], 0))

        def suffix(
            self,
            h: torch.Tensor,
            early: torch.Tensor,
            adapter: Sequence[torch.Tensor] | None,
            *,
            dropout: float = 0.0,
            seen: Sites | None = None,
        ) -> torch.Tensor:
            x = h
            for i, block in enumerate(self.model.blocks):
                x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
                beyond = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
                if seen is not None:
                    seen.append((x, beyond))
                if adapter is not None:
                    beyond = beyond + _at_site(x, adapter, i, active, dropout)
                x = beyond
            last = self.model.forward_head(self.model.norm(x), pre_logits=True)
            features: torch.Tensor = self.tail(last)
            return features

        def forward(self, pixels: torch.Tensor, adapter: Sequence[torch.Tensor]) -> torch.Tensor:
            return _both(self.suffix, *self.prefix(pixels), adapter)

    return cast("AdaptedNetwork", VitNetwork().eval())


def _at_site(
    h: torch.Tensor, adapter: Sequence[torch.Tensor], site: int, active: int, dropout: float
) -> torch.Tensor:
    """Return what an adapter, its arrays in the order of `input_shapes`, adds at a site."""
    parts = adapter[site * len(_PARTS) : (site + 1) * len(_PARTS)]
    gate = adapter[-1] if active else None
    return residual(h, parts, dropout=dropout, gate=gate, active=active)


def _both(suffix: Any, h: torch.Tensor, early: torch.Tensor, adapter: Any) -> torch.Tensor:
    """Return plain and adapted features (N, 2 D) of what lies before the first adapter."""
    import torch

    return torch.cat([suffix(h, early, None), suffix(h, early, adapter)], dim=1)


def _out_channels(block: Any) -> int:
    """Return the channels that a convolutional block gives."""
    last = next(name for name in ("conv_pwl", "conv_pw", "conv") if hasattr(block, name))
    return int(getattr(block, last).out_channels)
