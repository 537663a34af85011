"""What lies before the first adapter: the same in every step, so computed once for every view.

Kept as float16 while memory allows, else computed again when it is asked for.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecl.adapters.scene import Walk
from edgecl.runtime.adapters import Adapter
from edgecl.types import Float32, Labels

if TYPE_CHECKING:
    import torch

    from edgecl.adapters.bottleneck import AdaptedNetwork

CACHE_BYTES = 500_000_000


@dataclass
class Seconds:
    """Where the time of a training went."""

    input: float = 0.0
    prefix: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    other: float = 0.0


class Prefixes:
    """Activations before the first adapter, by picture and view.

    Args:
        network: The frozen backbone with sites.
        pixels: Gives the backbone's input (3, S, S) of picture i in view v.
        cache_bytes: Most bytes that are kept.
        seconds: Is told where the time went.
        keeps_views: Keep other views than the pictures themselves, too: they come again.
    """

    def __init__(
        self,
        network: AdaptedNetwork,
        pixels: Callable[[int, int], Float32],
        cache_bytes: int,
        seconds: Seconds,
        *,
        keeps_views: bool = True,
    ) -> None:
        self._keeps_views = keeps_views
        self._network = network
        self._pixels = pixels
        self._room = cache_bytes
        self._seconds = seconds
        self._kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def take(self, batch: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return activations (B, ...) and early features (B, E) of (picture, view) pairs."""
        import torch

        missing = [pair for pair in batch if pair not in self._kept]
        fresh = self._compute(missing) if missing else {}
        begin = time.perf_counter()
        parts = [self._kept[pair] if pair in self._kept else fresh[pair] for pair in batch]
        rows = torch.stack([part for part, _ in parts]).float()
        if rows.ndim == 4:
            rows = rows.permute(0, 3, 1, 2)
        out = rows, torch.stack([part for _, part in parts])
        self._seconds.input += time.perf_counter() - begin
        return out

    def features(self, adapter: Adapter, rows: Labels, size: int) -> torch.Tensor:
        """Return the features (N, D) of pictures, as they are, under an adapter, by so many."""
        import torch

        tensors = [torch.from_numpy(adapter[name]) for name in self._network.shapes]
        parts = []
        with torch.no_grad():
            for start in range(0, len(rows), size):
                h, early = self.take([(int(i), 0) for i in rows[start : start + size]])
                begin = time.perf_counter()
                parts.append(self._network.suffix(h, early, tensors))
                self._seconds.forward += time.perf_counter() - begin
        return torch.cat(parts)

    def walk(self, rows: Labels, size: int) -> Iterator[Walk]:
        """Take pictures through the plain backbone, by so many."""
        import torch

        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            h, early = self.take([(int(i), 0) for i in part])
            sites: list[tuple[torch.Tensor, torch.Tensor]] = []
            z = self._network.suffix(h.requires_grad_(True), early, None, seen=sites)
            yield Walk(torch.from_numpy(part), z, sites)

    def _compute(
        self, missing: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]:
        import torch

        begin = time.perf_counter()
        x = torch.from_numpy(np.stack([self._pixels(i, view) for i, view in missing]))
        x = x.to(memory_format=torch.channels_last)
        self._seconds.input += time.perf_counter() - begin
        begin = time.perf_counter()
        with torch.no_grad():
            h, early = self._network.prefix(x)
            if h.ndim == 4:
                h = h.permute(0, 2, 3, 1)  # rows of channels-last pictures are contiguous
            h = h.half()
        fresh = {}
        for k, pair in enumerate(missing):
            fresh[pair] = (h[k], early[k])
            size = h[k].nbytes + early[k].nbytes
            if size <= self._room and (self._keeps_views or pair[1] == 0):
                self._room -= size
                self._kept[pair] = (h[k].clone(), early[k].clone())
        self._seconds.prefix += time.perf_counter() - begin
        return fresh


def fused(network: AdaptedNetwork) -> AdaptedNetwork:
    """Return a copy that computes the same faster: BatchNorm folded in, channels last."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    pairs = (
        ("conv_stem", "bn1"),
        ("conv_head", "bn2"),
        ("conv", "bn1"),
        ("conv_pw", "bn1"),
        ("conv_dw", "bn2"),
        ("conv_pwl", "bn3"),
    )
    without_expansion = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
    other = copy.deepcopy(network)
    for module in list(other.modules()):
        children = dict(module.named_children())
        has_expansion = "conv_pwl" in children or "conv_dw" not in children
        for conv_name, norm_name in pairs if has_expansion else without_expansion:
            conv, norm = children.get(conv_name), children.get(norm_name)
            if not isinstance(conv, torch.nn.Conv2d) or not hasattr(norm, "running_var"):
                continue
            bn: Any = norm
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
            conv.weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
            conv.bias = torch.nn.Parameter(bias.detach(), requires_grad=False)
            setattr(module, norm_name, bn.act if hasattr(bn, "act") else torch.nn.Identity())
    return other.to(memory_format=torch.channels_last)
