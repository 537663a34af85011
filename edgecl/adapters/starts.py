"""Where the training of an adapter starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecl.adapters.bottleneck import new_adapter
from edgecl.adapters.readers import readers
from edgecl.adapters.scene import Scene
from edgecl.runtime.adapters import GATE, Adapter, zeros

if TYPE_CHECKING:
    import torch

Start = Callable[[Scene], Adapter]

# Pictures that tell which units are busy, and that a gradient is taken of.
_N_CLONED = 64
_N_STEEPEST = 256
# Expected length of a row of a fresh adapter; with length 1 a training ran away.
_LENGTH = 3**-0.5
_TEMPERATURE = 0.1


def fresh(scene: Scene) -> Adapter:
    """Start from the plain backbone: the same rows for every session, which change nothing yet."""
    return new_adapter(scene.network.shapes, seed=scene.seed)


def warm(scene: Scene) -> Adapter:
    """Start where the last session ended (MOS, Sun et al. 2025, arXiv:2412.09441)."""
    return scene.earlier[-1] if scene.earlier else fresh(scene)


def gated(scene: Scene) -> Adapter:
    """Start as `fresh`, the gate open (edgecl/adapters/atoms.py)."""
    adapter = fresh(scene)
    adapter[GATE][:] = 1
    return adapter


def cloned(scene: Scene) -> Adapter:
    """Start from copies of the units behind each site that these pictures make busiest.

    After an earlier session it goes on from there. Up is zero, so nothing changes yet. Use it with
    an anchor: alone it ran away at a high rate.

    Reference: "Locas" (2026), clones of the most active units; departures: pictures are spread
    over the session, rows have the length of random ones, a kernel counts as the sum of its taps.
    """
    import torch

    if scene.earlier:
        return scene.earlier[-1]
    with torch.no_grad():
        walks = list(scene.walk(_N_CLONED))
        rows = []
        for site, (weight, bias) in enumerate(readers(scene.network)):
            hidden = [_tokens(walk.sites[site][0]) for walk in walks]
            rank = scene.network.shapes[_name(scene, site, "down")][0]
            rows.append(busiest(weight.sum(dim=2), bias, torch.cat(hidden), rank))
    return _started(scene, rows)


def steepest(scene: Scene) -> Adapter:
    """Start along the directions in which the loss falls fastest at each site.

    The loss is the cross-entropy of cosines to the class means over 0.1: a head of zeros would give
    no gradient. After an earlier session it goes on from there. No gain on lite0.

    Reference: "Locas" (2026), the variant by gradients; see `cloned` for the departures.
    """
    import torch
    from torch.nn import functional as F

    if scene.earlier:
        return scene.earlier[-1]
    with torch.no_grad():
        seen = list(scene.walk(_N_STEEPEST))
        z = torch.cat([walk.z for walk in seen])
        y = torch.from_numpy(scene.y)[torch.cat([walk.rows for walk in seen])]
        classes, target = torch.unique(y, return_inverse=True)
        means = torch.stack([z[y == c].mean(dim=0) for c in classes])
    widths = [site.width for site in scene.network.sites]
    slopes = [torch.zeros(width, width) for width in widths]
    middles = [torch.zeros(width) for width in widths]
    at = 0
    for walk in scene.walk(_N_STEEPEST):
        logits = F.normalize(walk.z, dim=1) @ F.normalize(means, dim=1).T / _TEMPERATURE
        loss = F.cross_entropy(logits, target[at : at + len(walk.rows)], reduction="sum")
        at += len(walk.rows)
        gradients = torch.autograd.grad(loss, [out for _, out in walk.sites])
        for site, ((h, _), gradient) in enumerate(zip(walk.sites, gradients, strict=True)):
            tokens = _tokens(h.detach())
            slopes[site] += _tokens(gradient).T @ tokens
            middles[site] += tokens.sum(dim=0)
    rows = []
    for site, (slope, middle) in enumerate(zip(slopes, middles, strict=True)):
        rank = scene.network.shapes[_name(scene, site, "down")][0]
        down = directions(slope, middle, rank)
        rows.append((down, down.new_zeros(len(down))))
    return _started(scene, rows)


def busiest(
    weight: torch.Tensor, bias: torch.Tensor, h: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows (r, C) and biases (r,) of the units with the largest mean activation.

    Args:
        weight: Of the units (out, C).
        bias: Shape (out,).
        h: What they read (N, C).
        rank: Rows, r; of two that are equally busy the earlier one comes first.
    """
    import torch

    busy = (h @ weight.T + bias).clamp_min(0).mean(dim=0)
    chosen = torch.sort(busy, descending=True, stable=True).indices[:rank]
    norms = weight[chosen].norm(dim=1).clamp_min(1e-12)
    return _LENGTH * weight[chosen] / norms[:, None], _LENGTH * bias[chosen] / norms


def directions(slope: torch.Tensor, middle: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the first r right singular vectors (r, C) of a slope (out, C), of `cloned`'s length.

    Each is turned so that it is positive on the mean input (C,).
    """
    import torch

    rows: torch.Tensor = torch.linalg.svd(slope, full_matrices=False).Vh[:rank]
    sign = torch.where(rows @ middle < 0, -1.0, 1.0).to(rows.dtype)
    out: torch.Tensor = _LENGTH * rows * sign[:, None]
    return out


def _started(scene: Scene, rows: list[tuple[torch.Tensor, torch.Tensor]]) -> Adapter:
    """Return an adapter of these rows; up is zero, and so are rows that are lacking."""
    adapter = zeros(scene.network.shapes)
    for site, (down, bias) in enumerate(rows):
        adapter[_name(scene, site, "down")][: len(down)] = down.numpy()
        adapter[_name(scene, site, "down_bias")][: len(down)] = bias.numpy()
    return adapter


def _name(scene: Scene, site: int, part: str) -> str:
    return f"adapter.{scene.network.sites[site].name}.{part}"


def _tokens(h: torch.Tensor) -> torch.Tensor:
    """Return tokens (N T, C) of a stream (N, T, C) or of a map (N, C, H, W)."""
    h = h if h.ndim == 3 else h.permute(0, 2, 3, 1)
    return h.reshape(-1, h.shape[-1])
