"""Prototypes behind a small projection, as a head that only predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import ShapeError
from edgecl.types import Float32, Float64

from .grid import quantise
from .scoring import Arrays, Scorer, check_features, softmax, word_of
from .whitening import Whitening


@dataclass(frozen=True, slots=True)
class ProjectedScorer:
    """A head as prototypes behind a small projection; scores are cosines.

    Args:
        mean: Centre of the features, shape (D,).
        scale: Their scale, shape (D,).
        down: First matrix of the bottleneck, shape (R, D); R = 0 is no bottleneck.
        down_bias: Its bias, shape (R,).
        up: Second matrix, with the correction's scale in it, shape (D, R).
        prototypes: Unit vectors, shape (K, D).
        labels: K class names.
        temperature: Of the softmax that makes cosines probabilities.
        whitening: A map that features go through first, if any; D is then the width behind it.
        layers: Matrices and biases of a projector behind the bottleneck, in turn, with rectified
            units between them; a score is then the mean of both cosines.
        centres: Unit class means behind it, shape (K, M); a zero one says nothing.
    """

    mean: Float64
    scale: Float64
    down: Float32
    down_bias: Float32
    up: Float32
    prototypes: Float64
    labels: tuple[str, ...]
    temperature: float
    whitening: Whitening | None = None
    layers: tuple[Float32, ...] = ()
    centres: Float32 | None = None

    def __post_init__(self) -> None:
        d, r = len(self.mean), len(self.down)
        expected = (
            (self.scale, (d,)),
            (self.down, (r, d)),
            (self.down_bias, (r,)),
            (self.up, (d, r)),
            (self.prototypes, (len(self.labels), d)),
        )
        for array, shape in expected:
            if array.shape != shape:
                raise ShapeError(f"scorer has an array of {array.shape}; expected {shape}")

    @property
    def n_maps(self) -> int:
        """Return 1."""
        return 1

    def scores(self, x: Float32) -> Float64:
        """Return cosines (N, K) of features (N, D); see `Scorer.scores`."""
        if self.whitening is None:
            check_features(self.labels, x, len(self.mean))
            values = x.astype(np.float64)
        else:
            check_features(self.labels, x, self.whitening.num_features)
            values = self.whitening.map(quantise(x))
        z = (values - self.mean) / self.scale
        hidden = np.maximum(z @ self.down.T + self.down_bias, 0)  # (N, R)
        h = z + hidden @ self.up.T
        # The smallest norm keeps a feature on the centre finite: it is as near to every class.
        unit = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-8)
        cosines: Float64 = unit @ self.prototypes.T
        if not self.layers or self.centres is None:
            return cosines
        u: npt.NDArray[Any] = h
        for i in range(0, len(self.layers), 2):
            u = (np.maximum(u, 0) if i else u) @ self.layers[i].T + self.layers[i + 1]
        u = u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-8)
        both: Float64 = (cosines + u @ self.centres.T) / 2
        return both

    def probabilities(self, scores: Float64) -> Float64:
        """Turn raw scores (N, K) into estimated probabilities (N, K); each row sums to one."""
        return softmax(scores / self.temperature)

    def arrays(self) -> Arrays:
        """Return the arrays and the temperature."""
        return {
            "form": word_of("projected"),
            "mean": self.mean,
            "scale": self.scale,
            "down": self.down,
            "down_bias": self.down_bias,
            "up": self.up,
            "prototypes": self.prototypes,
            "temperature": np.array([self.temperature]),
            **({} if self.whitening is None else self.whitening.arrays()),
            **{f"layer{i}": layer for i, layer in enumerate(self.layers)},
            **({} if self.centres is None or not self.layers else {"centres": self.centres}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
        """Read what `arrays` returned."""
        n_layers = sum(name.startswith("layer") for name in arrays)
        return cls(
            mean=arrays["mean"],
            scale=arrays["scale"],
            down=arrays["down"],
            down_bias=arrays["down_bias"],
            up=arrays["up"],
            prototypes=arrays["prototypes"],
            labels=labels,
            temperature=float(arrays["temperature"][0]),
            whitening=Whitening.from_arrays(arrays) if "directions" in arrays else None,
            layers=tuple(arrays[f"layer{i}"] for i in range(n_layers)),
            centres=arrays.get("centres"),
        )
