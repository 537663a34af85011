"""An adapted network as a function of one flat vector, with a classifier of its own.

What the methods of approximate/weights.py differentiate: features of kept pictures, and the
cosine of the standardised features to the class means of the map before, over a temperature. The
classifier is closed form, so it takes no training, and stays fixed while the adapter changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgecl.adapters.prefix import CACHE_BYTES, Prefixes, Seconds, fused
from edgecl.heads.linear import ridge
from edgecl.runtime.adapters import Adapter
from edgecl.types import Float32, Labels
from edgecl.unlearning.approximate.steps import Vector

if TYPE_CHECKING:
    import torch

    from edgecl.adapters.bottleneck import AdaptedNetwork

_TEMPERATURE = 0.1
_BATCH = 32


class Local:
    """The adapted network as a function of a flat vector, with the local classifier.

    The vector is ordered as the engine's inputs are, the scale of the residual taken out as in
    training, so that learning rates mean the same.
    """

    def __init__(
        self,
        network: AdaptedNetwork,
        pixels: Callable[[int], Float32],
        target: Labels,
        forget: int,
    ) -> None:
        self._fast = fused(network)
        self._cache = Prefixes(self._fast, lambda i, view: pixels(i), CACHE_BYTES, Seconds())
        self.target, self.forget = target, forget
        self.all = np.arange(len(target))
        self.forgotten = np.flatnonzero(target == forget)
        self.retained = np.flatnonzero(target != forget)
        self._shapes = network.shapes
        self._factors = [
            network.scale if name.endswith((".up", ".up_bias")) else 1.0 for name in network.shapes
        ]
        self._sizes = [int(np.prod(shape)) for shape in network.shapes.values()]
        per_site = len(self._sizes) // len(network.sites)
        ends = np.cumsum(self._sizes)[per_site - 1 :: per_site].tolist()
        self.groups = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]

    def flat(self, adapter: Adapter) -> Float32:
        """Return an adapter as a vector (P,)."""
        parts = [
            adapter[name].ravel() / np.float32(factor)
            for name, factor in zip(self._shapes, self._factors, strict=True)
        ]
        return np.concatenate(parts)

    def arrays(self, theta: Float32, before: Adapter) -> Adapter:
        """Return a vector as an adapter; what did not change keeps its bits."""
        ends = np.cumsum(self._sizes)[:-1]
        out: Adapter = {}
        for (name, shape), part, old, factor in zip(
            self._shapes.items(),
            np.split(theta, ends),
            np.split(self.flat(before), ends),
            self._factors,
            strict=True,
        ):
            # Taking the scale out and putting it back may round.
            same = (part == old).reshape(shape)
            moved = part.reshape(shape) * np.float32(factor)
            out[name] = np.where(same, before[name], moved)
        return out

    def _parts(self, theta: torch.Tensor) -> list[torch.Tensor]:
        import torch

        return [
            part.reshape(shape) * factor
            for part, shape, factor in zip(
                torch.split(theta, self._sizes), self._shapes.values(), self._factors, strict=True
            )
        ]

    def raw(self, theta: torch.Tensor, rows: Labels) -> torch.Tensor:
        """Return features (B, D) of some pictures."""
        h, early = self._cache.take([(int(i), 0) for i in rows])
        return self._fast.suffix(h, early, self._parts(theta))

    def features(self, theta: Float32, rows: Labels) -> torch.Tensor:
        """Return features (B, D) of many pictures, without gradients."""
        import torch

        with torch.no_grad():
            return torch.cat([self.raw(_tensor(theta), batch) for batch in batches(rows)])

    def fit(self, z: torch.Tensor) -> None:
        """Set the classifier: centre and spread of all features, and class means (C, D)."""
        import torch

        self._centre, self._spread = z.mean(dim=0), z.std(dim=0) + 1e-3
        standard = self.standard(z)
        n_classes = int(self.target.max()) + 1
        self.means = torch.stack([standard[self.target == c].mean(dim=0) for c in range(n_classes)])

    def standard(self, z: torch.Tensor) -> torch.Tensor:
        """Return features at unit spread."""
        return (z - self._centre) / self._spread

    def cosine(self, standard: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C) of standardised features."""
        from torch.nn import functional as F

        logits = F.normalize(standard, dim=-1) @ F.normalize(self.means, dim=-1).T
        return logits / _TEMPERATURE

    def logits(self, z: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C) of features."""
        return self.cosine(self.standard(z))

    def accuracy(self, z: torch.Tensor) -> tuple[float, float]:
        """Return the accuracy on the forgotten class and on the others."""
        right = self.logits(z).argmax(dim=1).numpy() == self.target
        return float(right[self.forgotten].mean()), float(right[self.retained].mean())

    def mean_gradient(self, theta: Float32, rows: Labels) -> Vector:
        """Return the gradient (P,) of the mean cross-entropy of some pictures."""
        import torch
        from torch.nn import functional as F

        now = _tensor(theta).clone().requires_grad_(True)
        total = np.zeros(len(theta))
        for batch in batches(rows):
            logits = self.logits(self.raw(now, batch))
            loss = F.cross_entropy(logits, torch.from_numpy(self.target[batch]), reduction="sum")
            total += torch.autograd.grad(loss, now)[0].numpy()
        return total / len(rows)

    def sample_gradients(self, theta: Float32, rows: Labels) -> Iterator[Vector]:
        """Yield the gradient (1, P) of the cross-entropy of each picture for itself."""
        # One by one: mapping over a batch saves half, and warns with attention of some backbones.
        for row in rows:
            yield self.mean_gradient(theta, np.array([row]))[None]


def batches(rows: Labels) -> list[Labels]:
    """Cut rows into batches of 32."""
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]


def probe(z: torch.Tensor, target: Labels, forget: int) -> tuple[float, float]:
    """Return a ridge probe's accuracy on a class and on the others, each half fitted on the other.

    Penalty and scaling are those of the ridge head.
    """
    x = z.double().numpy()
    one_hot = np.eye(int(target.max()) + 1)[target]
    right = np.zeros(len(x), bool)
    turn = np.empty(len(x), np.int64)
    for c in np.unique(target):
        of = np.flatnonzero(target == c)
        turn[of] = np.arange(len(of)) % 2
    for half in (0, 1):
        fit, judged = turn != half, turn == half
        if not fit.any() or not judged.any():
            continue
        centre, spread = x[fit].mean(axis=0), x[fit].std(axis=0) + 1e-3
        a, b = (x[fit] - centre) / spread, (x[judged] - centre) / spread
        mean = one_hot[fit].mean(axis=0)
        weights = ridge(a, one_hot[fit] - mean)
        right[judged] = (b @ weights + mean).argmax(axis=1) == target[judged]
    is_forgotten = target == forget
    return float(right[is_forgotten].mean()), float(right[~is_forgotten].mean())


def _tensor(theta: Float32) -> torch.Tensor:
    import torch

    return torch.from_numpy(theta)
