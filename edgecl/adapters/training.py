"""Training one adapter, and the head that reads it, on stored pictures.

Adapter and head are trained together by cross-entropy over the classes at hand, and both are kept:
the head that grew with the features reads them better than one that is fitted to them afterwards
(docs/decisions/0009). Against learning few pictures by heart stand weak views at every exposure,
shift and mixup of what lies before the first adapter, and slow weights; what else may differ
between methods is a recipe (edgecl/adapters/recipes.py).

With V views a picture the batches follow the view-batch rule (Han et al. 2025, "Do Your Best and
Get Enough Rest for Continual Learning"): a batch holds all views of few pictures, and each picture
rests correspondingly longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgecl.adapters.prefix import CACHE_BYTES, Prefixes, Seconds, fused
from edgecl.adapters.recipes import Recipe
from edgecl.adapters.scene import Batch, Scene, Walk
from edgecl.adapters.views import shifted, view_batches
from edgecl.runtime.adapters import Adapter
from edgecl.types import Float32, Labels

if TYPE_CHECKING:
    import torch

    from edgecl.adapters.bottleneck import AdaptedNetwork

Arrays = dict[str, npt.NDArray[Any]]
# Pictures whose features give the head its centre and scale, and batches that are timed.
_N_STANDARD = 256
_N_TIMED = 8


@dataclass(frozen=True, slots=True)
class Training:
    """How an adapter is trained, whatever the recipe.

    Args:
        epochs: Times that every picture is looked at, over all its views.
        views: Views of a picture; 1 is the picture alone.
        batch_size: Rows of one step.
        learning_rate: Of AdamW, for adapter and head, falling to zero as a cosine.
        weight_decay: Of AdamW.
        dropout: Share of the bottleneck that is dropped.
        cache_bytes: Most bytes of activations that are kept.
        seconds: Fewer epochs are trained, one at least, if more would take longer; 0 for no limit.
    """

    epochs: int = 8
    views: int = 2
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    dropout: float = 0.0
    cache_bytes: int = CACHE_BYTES
    seconds: float = 0.0


@dataclass(frozen=True)
class Trained:
    """A trained adapter and its head.

    Args:
        adapter: Its arrays, the scale part of them.
        weights: The head's, on plain adapted features, shape (D, K).
        bias: Shape (K,).
        classes: Uids of the K classes, sorted.
        seconds: Where the time went.
        losses: Mean loss of every epoch.
    """

    adapter: Adapter
    weights: Float32
    bias: Float32
    classes: tuple[int, ...]
    seconds: Seconds
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands.

    Args:
        epoch: Epochs that are done.
        epochs: In all; fewer than asked for if time is limited.
        left_s: Seconds that the rest will take.
        state: Arrays that `train_adapter` goes on from, after a whole epoch; else None.
    """

    epoch: int
    epochs: int
    left_s: float
    state: Arrays | None = None


def train_adapter(
    network: AdaptedNetwork,
    pixels: Callable[[int, int], Float32],
    y: Labels,
    *,
    recipe: Recipe,
    training: Training,
    seed: int,
    order_seed: int = 0,
    earlier: Sequence[Adapter] = (),
    class_means: Float32 | None = None,
    resume: Mapping[str, npt.NDArray[Any]] | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train an adapter on N pictures.

    Equal arguments give equal bits, however often the training was cut off and gone on with.

    Args:
        network: The frozen backbone with sites.
        pixels: Gives the backbone's input (3, S, S) of picture i in view v; view 0 is itself.
        y: Class uid of each picture (N,).
        recipe: The method.
        training: Settings.
        seed: Seed of the home, from which an adapter starts.
        order_seed: Seed of the order of pictures, of dropout and mixup; differs between sessions.
        earlier: Adapters of the sessions before, oldest first.
        class_means: Mean features (M, D) of classes of earlier sessions; None for none.
        resume: What `Progress.state` was after the last whole epoch.
        tell: Told after the batches that are timed, and after every epoch.
    """
    import torch

    run = _Run(network, pixels, y, recipe, training, seed, order_seed, earlier, class_means)
    with torch.random.fork_rng(devices=[]):
        return run.train(resume, tell)


class _Run:
    """The state of one training, all of it in tensors that can be saved."""

    def __init__(
        self,
        network: AdaptedNetwork,
        pixels: Callable[[int, int], Float32],
        y: Labels,
        recipe: Recipe,
        training: Training,
        seed: int,
        order_seed: int,
        earlier: Sequence[Adapter],
        class_means: Float32 | None,
    ) -> None:
        import torch

        self.recipe, self.training = recipe, training
        self.network, self.order_seed = fused(network), order_seed
        self.seconds = Seconds()
        self.prefixes = Prefixes(
            self.network,
            pixels,
            training.cache_bytes,
            self.seconds,
            keeps_views=not recipe.has_strong_views,
        )
        self.classes, target = np.unique(y, return_inverse=True)
        self.target = torch.from_numpy(target.astype(np.int64))
        empty = np.zeros((0, 0), np.float32)
        means = empty if class_means is None else class_means
        self.scene = Scene(network, y, seed, tuple(earlier), means, self._features, self._walk)
        self.start = recipe.start(self.scene)
        self.masks = [
            None if mask is None else torch.from_numpy(mask)
            for mask in map(recipe.mask(self.scene).get, network.shapes)
        ]
        self.terms = [anchor(self.scene) for anchor in recipe.anchors]
        self.weigh, self.step = recipe.weigh(self.scene), recipe.step(self.scene)

    def train(
        self, resume: Mapping[str, npt.NDArray[Any]] | None, tell: Callable[[Progress], None]
    ) -> Trained:
        import torch

        self._begin()
        before = self.seconds.prefix + self.seconds.input
        at, epochs = 0, 0
        losses: list[float] = []
        if resume is not None:
            at, epochs, losses = self._restore(resume)
        begin, done_before = time.perf_counter(), at
        while not epochs or at < epochs:
            generator = np.random.default_rng([self.order_seed, 8, at])
            torch.manual_seed(int(generator.integers(2**62)))
            batches = self._batches(at)
            total = 0.0
            for number, batch in enumerate(batches):
                if not epochs and number == min(_N_TIMED, len(batches) - 1):
                    elapsed = time.perf_counter() - begin
                    once = self.seconds.prefix + self.seconds.input - before
                    epochs, left = self._affordable(elapsed, once, number, len(batches))
                    tell(Progress(0, epochs, left))
                done = number + at * len(batches)
                n_steps = (epochs or self.training.epochs) * len(batches)
                total += self._one_step(batch, generator, done, n_steps)
            at += 1
            losses.append(total / max(1, len(batches)))
            each = (time.perf_counter() - begin) / (at - done_before)
            if resume is not None and at == done_before + 1 and self.training.seconds:
                epochs = min(epochs, at + max(0, int(self.training.seconds / each) - 1))
            left = each * (epochs - at)
            tell(Progress(at, epochs, left, self._state(at, epochs, losses)))
        return self._result(losses)

    def _affordable(
        self, elapsed: float, prefix: float, n_timed: int, n_batches: int
    ) -> tuple[int, float]:
        """Return how many epochs are trained, and how long they will take, from the first batches.

        What lies before the first adapter is computed once for every view, not once an epoch; but
        for views that are drawn anew in every one.

        Args:
            elapsed: Seconds of the timed batches.
            prefix: Seconds of them that went into what lies before the first adapter.
            n_timed: Timed batches.
            n_batches: Batches of an epoch.
        """
        asked, limit = self.training.epochs, self.training.seconds
        share = n_batches / max(1, n_timed)
        once = 0.0 if self.recipe.has_strong_views else prefix * share * self.training.views
        each = max(1e-3, elapsed * share - once / self.training.views)
        epochs = max(1, min(asked, int((limit - once) / each))) if limit else asked
        return epochs, once + epochs * each - elapsed

    def _begin(self) -> None:
        """Make adapter, head, optimiser and slow copies as before the first step."""
        import torch

        scale = self.scene.network.scale
        shapes = self.scene.network.shapes
        # The scale is taken out while training and put back at the end: stored arrays hold it.
        self.tensors = [
            _part(name, self.start[name], 1 / scale).requires_grad_(True) for name in shapes
        ]
        self.frozen = [part.detach().clone() for part in self.tensors]
        self.centre, self.spread = self._standard()
        self.weights = torch.zeros(len(self.classes), len(self.centre), requires_grad=True)
        self.bias = torch.zeros(len(self.classes), requires_grad=True)
        self.all = [*self.tensors, self.weights, self.bias]
        self.kept = [part.detach().clone() for part in self.all]
        rate, decay = self.training.learning_rate, self.training.weight_decay
        self.optimiser = torch.optim.AdamW(self.all, lr=rate, weight_decay=decay)

    def _one_step(
        self,
        batch: Sequence[tuple[int, int]],
        generator: np.random.Generator,
        done: int,
        n_steps: int,
    ) -> float:
        """Learn one batch; returns its loss."""
        import torch

        h, early = self.prefixes.take(batch)
        begin = time.perf_counter()
        h = shifted(h, self.recipe.shift, generator)
        own, partner = 1.0, torch.arange(len(batch))
        if self.recipe.mixup and len(batch) > 1:
            own = float(generator.beta(self.recipe.mixup, self.recipe.mixup))
            partner = torch.from_numpy(generator.permutation(len(batch)))
            h, early = torch.lerp(h[partner], h, own), torch.lerp(early[partner], early, own)
        rows = torch.tensor([i for i, _ in batch])
        losses = []

        def loss(reaches_adapter: bool) -> torch.Tensor:
            begin = time.perf_counter()
            with torch.set_grad_enabled(reaches_adapter):
                z = self.network.suffix(h, early, self._scaled(), dropout=self.training.dropout)
            losses.append(self._loss(rows, z, partner, own))
            self.seconds.forward += time.perf_counter() - begin
            return losses[-1]

        for group in self.optimiser.param_groups:
            rate = self.training.learning_rate
            group["lr"] = rate * (1 + math.cos(math.pi * done / n_steps)) / 2
        before = self.seconds.forward
        self.step(self.optimiser, loss, self.tensors, done)
        self.seconds.backward += time.perf_counter() - begin - (self.seconds.forward - before)
        begin = time.perf_counter()
        with torch.no_grad():
            for part, start, mask in zip(self.tensors, self.frozen, self.masks, strict=True):
                if mask is not None:  # decay and moments move what has no gradient
                    part.copy_(torch.where(mask, part, start))
            self.recipe.keep(self.kept, self.all, done + 1, n_steps)
        self.seconds.other += time.perf_counter() - begin
        return float(losses[0].detach())

    def _head(self, z: torch.Tensor) -> torch.Tensor:
        return (z - self.centre) / self.spread @ self.weights.T + self.bias

    def _loss(
        self, rows: torch.Tensor, z: torch.Tensor, partner: torch.Tensor, own: float
    ) -> torch.Tensor:
        """Return the loss of features (B, D), mixed of those of rows and of their partners."""
        import torch
        from torch.nn import functional as F

        logits, target = self._head(z), self.target[rows]
        each = own * F.cross_entropy(logits, target, reduction="none") + (
            1 - own
        ) * F.cross_entropy(logits, target[partner], reduction="none")
        seen = Batch(rows, z, logits, target, partner, own, self.tensors, self._head)
        loss = (self.weigh(torch.exp(-each.detach()), seen) * each).mean()
        for term in self.terms:
            loss = loss + term(seen)
        return loss

    def _batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        training = self.training
        return view_batches(
            len(self.target),
            training.views,
            training.batch_size,
            epoch,
            seed=self.order_seed,
            drawn_anew=self.recipe.has_strong_views,
        )

    def _scaled(self) -> list[torch.Tensor]:
        scale = self.scene.network.scale
        return [
            part * scale if name.endswith((".up", ".up_bias")) else part
            for name, part in zip(self.scene.network.shapes, self.tensors, strict=True)
        ]

    def _state(self, epoch: int, epochs: int, losses: list[float]) -> Arrays:
        """Return all that the training goes on from."""
        state: Arrays = {"at": np.array([epoch, epochs]), "losses": np.array(losses)}
        for number, (now, slow) in enumerate(zip(self.all, self.kept, strict=True)):
            state[f"now.{number}"] = now.detach().numpy().copy()
            state[f"kept.{number}"] = slow.numpy().copy()
            for name, value in self.optimiser.state[now].items():
                state[f"{name}.{number}"] = value.numpy().copy()
        return state

    def _restore(self, state: Mapping[str, npt.NDArray[Any]]) -> tuple[int, int, list[float]]:
        import torch

        with torch.no_grad():
            for number, (now, slow) in enumerate(zip(self.all, self.kept, strict=True)):
                now.copy_(torch.from_numpy(state[f"now.{number}"]))
                slow.copy_(torch.from_numpy(state[f"kept.{number}"]))
                self.optimiser.state[now] = {
                    name: torch.tensor(state[f"{name}.{number}"])
                    for name in ("step", "exp_avg", "exp_avg_sq")
                    if f"{name}.{number}" in state  # a gate has no gradient
                }
        return int(state["at"][0]), int(state["at"][1]), state["losses"].tolist()

    def _result(self, losses: list[float]) -> Trained:
        *parts, weights, bias = self.kept
        scale = self.scene.network.scale
        adapter = {
            name: _part(name, part.numpy(), scale).numpy()
            for name, part in zip(self.scene.network.shapes, parts, strict=True)
        }
        plain = weights / self.spread  # (K, D)
        shift = bias - plain @ self.centre
        classes = tuple(int(c) for c in self.classes)
        return Trained(
            adapter, plain.T.contiguous().numpy(), shift.numpy(), classes, self.seconds, losses
        )

    def _standard(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return centre and scale (D,) of the features of some pictures under the start."""
        rng = np.random.default_rng([self.order_seed, 8])
        z = self._features(self.start, rng.permutation(len(self.target))[:_N_STANDARD])
        return z.mean(dim=0), z.std(dim=0, unbiased=False) + 1e-3

    def _features(self, adapter: Adapter, rows: Labels | None = None) -> torch.Tensor:
        rows = np.arange(len(self.target)) if rows is None else rows
        return self.prefixes.features(adapter, rows, self.training.batch_size)

    def _walk(self, most: int) -> Iterator[Walk]:
        n = len(self.target)
        rows = np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))
        return self.prefixes.walk(rows, self.training.batch_size)


def _part(name: str, array: Float32, scale: float) -> torch.Tensor:
    """Return an array as a tensor, what carries the scale multiplied."""
    import torch

    factor = scale if name.endswith((".up", ".up_bias")) else 1.0
    return torch.from_numpy(np.array(array, np.float32) * np.float32(factor))
