"""How far an engine is from the torch model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgecl.backbones import Backbone
from edgecl.runtime.adapters import Adapter
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.types import Float32

if TYPE_CHECKING:
    from edgecl.adapters.bottleneck import AdaptedNetwork


@dataclass(frozen=True, slots=True)
class Parity:
    """Differences between engine and torch.

    Args:
        max_abs: Largest absolute difference of a feature.
        mean_abs: Mean absolute difference.
        cosine: Smallest cosine of a picture's two features.
        n: Pictures compared.
    """

    max_abs: float
    mean_abs: float
    cosine: float
    n: float

    def as_json(self) -> dict[str, float]:
        """Return JSON values."""
        return asdict(self)


def compare(
    backbone: Backbone,
    engine: OnnxEngine,
    network: AdaptedNetwork | None = None,
    *,
    batches: tuple[int, ...] = (1, 2, 5),
) -> Parity:
    """Run both on generated pictures, at several batch sizes; with adapters, also with random ones.

    The pictures are smooth fields and noise over the whole input range: real-range inputs, not
    zeros, and nothing that has to be shipped.
    """
    import torch

    ours, theirs = [], []
    rng = np.random.default_rng(0)
    for n in batches:
        x = _pictures(n, backbone.preprocessing.image_size, rng)
        ours.append(engine.run(x))
        theirs.append(backbone.forward_features(torch.from_numpy(x)).numpy())
        if network is not None:
            adapter = _random_adapter(network.shapes, rng)
            ours.append(engine.with_adapters(adapter).run(x))
            tensors = [torch.from_numpy(a) for a in adapter.values()]
            with torch.inference_mode():
                theirs.append(network(torch.from_numpy(x), tensors).numpy())
    a, b = np.concatenate(ours), np.concatenate(theirs)
    gap = np.abs(a - b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
    return Parity(float(gap.max()), float(gap.mean()), float(cosine.min()), float(len(a)))


def _pictures(n: int, size: int, rng: np.random.Generator) -> Float32:
    coarse = rng.uniform(-1, 1, (n, 3, 8, 8))
    steps = -(-size // 8)
    smooth = coarse.repeat(steps, axis=2).repeat(steps, axis=3)[:, :, :size, :size]
    mixed = 0.8 * smooth + 0.2 * rng.uniform(-1, 1, smooth.shape)
    return mixed.astype(np.float32)


def _random_adapter(shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> Adapter:
    """Return an adapter that changes features about as much as a trained one."""
    return {
        name: (rng.normal(0, 0.5, shape) / max(shape) ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
