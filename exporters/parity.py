"""How far an engine is from the one that it was made from, and how far it may be.

The float32 engine is compared with torch; what is made of it (float16, int8, one fused file) with
it, on pictures that the home keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgecl.backbones import Backbone
from edgecl.errors import ParityError
from edgecl.runtime.adapters import GATE, Adapter
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.preprocess import Preprocessing
from edgecl.runtime.scoring import Scorer
from edgecl.types import Float32

if TYPE_CHECKING:
    from edgecl.adapters.bottleneck import AdaptedNetwork


# What is judged, and its limit: float32 against torch; float16 and int8 against float32; a fused
# file against the bundle that it is part of, whose pixels may differ by one of 255.
MAX_ABS_FP32 = 1e-4
LEAST_COSINE_FP16 = 0.9995
LEAST_AGREEMENT_INT8 = 0.97
LEAST_AGREEMENT_FUSED = 0.97
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Parity:
    """Differences between an engine and its reference.

    Args:
        max_abs: Largest absolute difference of a feature.
        mean_abs: Mean absolute difference.
        cosine: Smallest cosine of a picture's two features.
        n: Pictures compared.
        agreement: Share of the pictures for which both come to the same class, or None.
        rms: Root of the mean square of the reference's features.
    """

    max_abs: float
    mean_abs: float
    cosine: float
    n: float
    agreement: float | None = None
    rms: float = 1.0

    @property
    def most_fp32(self) -> float:
        """What float32 may differ by: so much, or of features above one such a share."""
        return MAX_ABS_FP32 * max(1.0, self.rms)

    def as_json(self) -> dict[str, float]:
        """Return JSON values, without what was not compared."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def parity_of(ours: Float32, theirs: Float32, agreement: float | None = None) -> Parity:
    """Compare features (N, D) of the same pictures."""
    gap = np.abs(ours - theirs)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = (ours * theirs).sum(axis=1) / np.maximum(norms, 1e-12)
    n = float(len(ours))
    rms = float(np.sqrt(np.square(theirs, dtype=np.float64).mean()))
    return Parity(float(gap.max()), float(gap.mean()), float(cosine.min()), n, agreement, rms)


def best_labels(scorer: Scorer, features: Float32) -> npt.NDArray[Any]:
    """Return the name of the best class of each feature (N, D)."""
    best: npt.NDArray[Any] = np.array(scorer.labels)[scorer.scores(features).argmax(axis=1)]
    return best


def check_parity(what: str, found: float, limit: float, *, allow_loss: bool) -> None:
    """Refuse a cosine or an agreement below its limit, unless the caller insists.

    Raises:
        ParityError: It is below, or no number.
    """
    if not found >= limit and not allow_loss:  # so that NaN is refused too
        raise ParityError(
            f"{what} is {found:.4f}, at least {limit:g} is accepted; nothing was written; insist "
            "with --allow-parity-loss"
        )


def batches_of(images: Iterable[Image.Image], how: Preprocessing) -> Iterator[Float32]:
    """Yield preprocessed pictures (M, 3, S, S), M up to 8; a large picture is held for a moment."""
    left = iter(images)
    while batch := [how.tensor(image) for image in islice(left, _BATCH)]:
        yield np.stack(batch)


def features_of(engine: Engine, images: Iterable[Image.Image], how: Preprocessing) -> Float32:
    """Return the features (N, D) of pictures."""
    return np.concatenate([engine.run(batch) for batch in batches_of(images, how)])


def generated_pictures(n: int, size: int, *, seed: int = 0) -> list[Image.Image]:
    """Return smooth fields with noise as RGB pictures, for a home that keeps none."""
    pixels = (_pictures(n, size, np.random.default_rng(seed)) + 1) * 127.5
    return [Image.fromarray(p.astype(np.uint8)) for p in pixels.transpose(0, 2, 3, 1)]


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
            if GATE in adapter:
                adapter[GATE][:] = n % 2  # open and shut
            tensors = [torch.from_numpy(a) for a in adapter.values()]
            with torch.inference_mode():
                both = network(torch.from_numpy(x), tensors).numpy()
            found = engine.with_adapters(adapter).run(x)
            ours += np.split(found, 2, axis=1)
            theirs += np.split(both, 2, axis=1)
    return parity_of(np.concatenate(ours), np.concatenate(theirs))


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
