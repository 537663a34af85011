"""Training one adapter on stored pictures.

MOS (Sun et al. 2025, arXiv:2412.09441): cross-entropy over the classes at hand only (a local
softmax), a term that keeps features of different rows apart, and after every optimiser step a merge
with the mean of the earlier adapters. With several views a picture the batches follow the
view-batch rule (Han et al. 2025, "Do Your Best and Get Enough Rest"): a batch holds all views of
few pictures, each picture rests correspondingly longer, and the strong views learn from the weak
one.

What lies before the first adapter is the same in every step, so it is computed once and kept as
float16 while memory allows, else once an epoch; augmented views are new in every epoch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgecl.runtime.adapters import Adapter
from edgecl.types import Float32

if TYPE_CHECKING:
    import torch

    from edgecl.adapters.bottleneck import AdaptedNetwork

Labels = npt.NDArray[np.int64]
# The released code divides the similarities by this.
_SPREAD_TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True)
class Training:
    """How an adapter is trained.

    Args:
        epochs: Times that every picture is looked at, over all its views.
        views: Views of a picture; 1 is the picture alone.
        batch_size: Rows of one step.
        learning_rate: Of AdamW, for adapter and head, falling to zero as a cosine.
        weight_decay: Of AdamW.
        dropout: Share of the bottleneck that is dropped.
        spread: Weight of the term that keeps rows apart.
        consistency: Weight of the one-to-many term between views.
        merge: Share of the mean of the earlier adapters that is mixed in after every step.
        cache_bytes: Most bytes of activations that are kept.
    """

    epochs: int = 4
    views: int = 1
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    dropout: float = 0.0
    spread: float = 0.1
    consistency: float = 1.0
    merge: float = 0.1
    cache_bytes: int = 400_000_000


@dataclass
class Seconds:
    """Where the time of a training went."""

    input: float = 0.0
    prefix: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    other: float = 0.0


@dataclass(frozen=True)
class Trained:
    """A trained adapter.

    Args:
        adapter: Its arrays, the scale part of them.
        seconds: Where the time went.
        losses: Mean loss of every epoch.
    """

    adapter: Adapter
    seconds: Seconds
    losses: list[float] = field(default_factory=list)


def train_adapter(
    network: AdaptedNetwork,
    pixels: Callable[[int, int], Float32],
    y: Labels,
    *,
    start: Adapter,
    earlier_mean: Adapter | None,
    class_means: Float32,
    training: Training,
    seed: int,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Trained:
    """Train an adapter on N pictures.

    Args:
        network: The frozen backbone with sites.
        pixels: Gives the backbone's input (3, S, S) of picture i in view v; view 0 is itself.
        y: Class of each picture (N,), at least two different ones.
        start: Where training starts.
        earlier_mean: Mean of the earlier adapters, or None for the first.
        class_means: Mean features of earlier classes (M, D), for the spreading term.
        training: Settings.
        seed: Seed of order and dropout.
        on_epoch: Called after every epoch with its number, 1 at first.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(
            network, pixels, y, start, earlier_mean, class_means, training, seed, on_epoch
        )


def _train(
    network: AdaptedNetwork,
    pixels: Callable[[int, int], Float32],
    y: Labels,
    start: Adapter,
    earlier_mean: Adapter | None,
    class_means: Float32,
    training: Training,
    seed: int,
    on_epoch: Callable[[int], None],
) -> Trained:
    import torch
    from torch.nn import functional as F

    classes, target_of = np.unique(y, return_inverse=True)
    target_all = torch.from_numpy(target_of.astype(np.int64))
    fast = fused(network)
    seconds = Seconds()
    cache = Prefixes(fast, pixels, training.cache_bytes, seconds)
    scale = network.scale
    # The scale is taken out while training and put back at the end: stored arrays hold it.
    tensors = [_part(name, start[name], 1 / scale).requires_grad_(True) for name in network.shapes]
    mean = (
        None
        if earlier_mean is None
        else [_part(name, earlier_mean[name], 1 / scale) for name in network.shapes]
    )
    old_means = torch.from_numpy(class_means)
    rng = np.random.default_rng([seed, 8])

    def scaled() -> list[torch.Tensor]:
        return [
            part * scale if name.endswith((".up", ".up_bias")) else part
            for name, part in zip(network.shapes, tensors, strict=True)
        ]

    centre, spread = _standard(cache, fast, scaled(), len(y), rng, training.batch_size)
    weights = torch.zeros(len(classes), len(centre), requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimiser = torch.optim.AdamW(
        [*tensors, weights, bias], lr=training.learning_rate, weight_decay=training.weight_decay
    )
    batches_of_epoch = list(
        view_batches(len(y), training.views, training.batch_size, training.epochs, rng)
    )
    n_steps = max(1, sum(map(len, batches_of_epoch)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    losses = []
    for epoch, batches in enumerate(batches_of_epoch, start=1):
        total = 0.0
        for batch in batches:
            h, early = cache.take(batch)
            begin = time.perf_counter()
            z = fast.suffix(h, early, scaled(), dropout=training.dropout)
            logits = (z - centre) / spread @ weights.T + bias
            target = target_all[[i for i, _ in batch]]
            loss = F.cross_entropy(logits, target)
            if training.spread:
                loss = loss + training.spread * spreading_loss(z, old_means)
            if training.views > 1 and training.consistency:
                grouped = logits.reshape(-1, training.views, len(classes))
                loss = loss + training.consistency * consistency_loss(grouped)
            seconds.forward += time.perf_counter() - begin
            begin = time.perf_counter()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            seconds.backward += time.perf_counter() - begin
            begin = time.perf_counter()
            optimiser.step()
            schedule.step()
            if mean is not None and training.merge:
                merge_(tensors, mean, training.merge)
            total += loss.item()
            seconds.other += time.perf_counter() - begin
        losses.append(total / max(1, len(batches)))
        on_epoch(epoch)
    arrays = {
        name: _part(name, part.detach().numpy(), scale).numpy()
        for name, part in zip(network.shapes, tensors, strict=True)
    }
    return Trained(arrays, seconds, losses)


def view_batches(
    n: int, views: int, batch_size: int, epochs: int, rng: np.random.Generator
) -> Iterator[list[list[tuple[int, int]]]]:
    """Yield the batches of every epoch as (picture, view) pairs.

    With one view every picture comes once an epoch. With V views an epoch holds V views each of a
    V-th of the pictures, side by side, so that exposures are equal and a picture rests V times as
    long; V epochs walk through one order of all pictures. View 0 is the picture itself, the others
    have new numbers in every epoch, so that they are drawn anew.

    Args:
        n: Pictures.
        views: Views of a picture, V.
        batch_size: Rows of a batch; holds batch_size // V pictures, one at least.
        epochs: Epochs.
        rng: Makes the orders.
    """
    per_batch = max(1, batch_size // views)
    share = -(-n // views)
    for epoch in range(epochs):
        turn = epoch % views
        if turn == 0:
            order = rng.permutation(n)
        pictures = order[turn * share : (turn + 1) * share]
        numbers = [0, *range(1 + epoch * (views - 1), 1 + (epoch + 1) * (views - 1))]
        yield [
            [(int(i), view) for i in pictures[start : start + per_batch] for view in numbers]
            for start in range(0, len(pictures), per_batch)
        ]


def merge_(tensors: Sequence[torch.Tensor], mean: Sequence[torch.Tensor], share: float) -> None:
    """Move tensors towards the mean of the earlier adapters: A <- (1 - share) A + share mean.

    Once after every optimiser step (the paper); the released code also merges in every forward.
    """
    import torch

    with torch.no_grad():
        for part, towards in zip(tensors, mean, strict=True):
            part.mul_(1 - share).add_(towards, alpha=share)


def spreading_loss(z: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Return the term that keeps rows apart.

    Every row of [means; z] should be most similar to itself: cross-entropy of their dot products
    over 0.8 with the row's own number. Rows are not normalised, so it vanishes once they are long.

    Args:
        z: Features of the batch (N, D).
        means: Mean features of earlier classes (M, D).
    """
    import torch
    from torch.nn import functional as F

    rows = torch.cat([means, z])
    similarity = rows @ rows.T / _SPREAD_TEMPERATURE
    return F.cross_entropy(similarity, torch.arange(len(rows)))


def consistency_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return how far the strong views' predictions are from the weak one's.

    1 / (S (V - 1)) times the sum over samples and strong views of KL(p_0 || p_v); p_0, the weak
    view, is the target and gets no gradient.

    Args:
        logits: Shape (S, V, K), V at least 2, the weak view first.

    Reference: Han et al. 2025, "Do Your Best and Get Enough Rest for Continual Learning", CVPR; the
    released code divides by K besides, which the paper does not.
    """
    log_p = logits.log_softmax(dim=2)
    anchor = log_p[:, :1].detach()
    mean: torch.Tensor = (anchor.exp() * (anchor - log_p[:, 1:])).sum(dim=2).mean()
    return mean


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


class Prefixes:
    """Activations before the first adapter, by picture and view."""

    def __init__(
        self,
        network: AdaptedNetwork,
        pixels: Callable[[int, int], Float32],
        cache_bytes: int,
        seconds: Seconds,
    ) -> None:
        self._network = network
        self._pixels = pixels
        self._room = cache_bytes
        self._seconds = seconds
        self._kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def take(self, batch: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return activations (B, ...) and early features (B, E) of (picture, view) pairs."""
        import torch

        missing = [pair for pair in batch if pair not in self._kept]
        fresh: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        if missing:
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
            for k, pair in enumerate(missing):
                fresh[pair] = (h[k], early[k])
                size = h[k].nbytes + early[k].nbytes
                # Strong views are drawn anew in every epoch and never come back.
                if size <= self._room and pair[1] == 0:
                    self._room -= size
                    self._kept[pair] = (h[k].clone(), early[k].clone())
            self._seconds.prefix += time.perf_counter() - begin
        begin = time.perf_counter()
        parts = [self._kept[pair] if pair in self._kept else fresh[pair] for pair in batch]
        rows = torch.stack([part for part, _ in parts]).float()
        if rows.ndim == 4:
            rows = rows.permute(0, 3, 1, 2)
        out = rows, torch.stack([part for _, part in parts])
        self._seconds.input += time.perf_counter() - begin
        return out


def _standard(
    cache: Prefixes,
    network: AdaptedNetwork,
    tensors: Sequence[torch.Tensor],
    n: int,
    rng: np.random.Generator,
    batch_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return centre and scale (D,) of the features of some pictures, for the trained head."""
    import torch

    some = rng.permutation(n)[:256]
    rows = []
    with torch.no_grad():
        for start in range(0, len(some), batch_size):
            batch = [(int(i), 0) for i in some[start : start + batch_size]]
            h, early = cache.take(batch)
            begin = time.perf_counter()
            rows.append(network.suffix(h, early, tensors))
            cache._seconds.forward += time.perf_counter() - begin
    z = torch.cat(rows)
    return z.mean(dim=0), z.std(dim=0) + 1e-3


def _part(name: str, array: Float32, scale: float) -> torch.Tensor:
    """Return an array as a tensor, what carries the scale multiplied."""
    import torch

    factor = scale if name.endswith((".up", ".up_bias")) else 1.0
    return torch.from_numpy(np.array(array, np.float32) * np.float32(factor))
