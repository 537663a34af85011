"""A bank of adapters with its classifier (MOS) that only predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import ShapeError
from edgecl.types import Float32, Float64

from .scoring import Arrays, Scorer, softmax, word_of

_MOST_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class BankScorer:
    """A bank of T adapters with its classifier: self-refined retrieval and ensemble (MOS).

    The nearest class mean under the first adapter proposes an adapter; the classifier, on the
    feature of the proposed adapter, names a class and so perhaps another adapter; this repeats
    until it names itself, four times at most. The softmax of the last logits and the softmax of T
    times the cosines are added. Nothing is changed by it.

    Reference: Sun et al. 2025, arXiv:2412.09441.

    Args:
        weights: Shape (D, K), float64.
        bias: Shape (K,).
        prototypes: Unit class means under the first adapter, shape (D, K).
        task_of: Number of each class's adapter, shape (K,), 0 to T - 1.
        n_maps: Adapters, T.
        labels: K class names.
    """

    weights: Float64
    bias: Float64
    prototypes: Float64
    task_of: npt.NDArray[np.int64]
    n_maps: int
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        d, k = self.prototypes.shape
        shapes = (self.weights.shape, self.bias.shape, self.task_of.shape, len(self.labels))
        if shapes != ((d, k), (k,), (k,), k) or not (self.task_of < self.n_maps).all():
            raise ShapeError(
                f"a bank of {self.n_maps} adapters has weights, bias, tasks and labels of shapes "
                f"{shapes}; expected {((d, k), (k,), (k,), k)} and tasks below {self.n_maps}"
            )

    def scores(self, x: Float32) -> Float64:
        """Return the added shares (N, K), 0 to 2; see `Scorer.scores`."""
        d = len(self.prototypes)
        if x.ndim != 2 or x.shape[1] != self.n_maps * d:
            raise ShapeError(f"features are {x.shape}; expected (N, {self.n_maps} * {d})")
        maps = x.astype(np.float64).reshape(len(x), self.n_maps, d)
        first = maps[:, 0]
        norms = np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
        cosines = first / norms @ self.prototypes  # (N, K)
        logits = np.einsum("ntd,dk->ntk", maps, self.weights) + self.bias
        rows = np.arange(len(x))
        used = self.task_of[cosines.argmax(axis=1)]
        for _ in range(_MOST_ROUNDS - 1):
            used, before = self.task_of[logits[rows, used].argmax(axis=1)], used
            # Where an adapter named itself it stays; the others go on.
            if (used == before).all():
                break
        return softmax(logits[rows, used]) + softmax(cosines * self.n_maps)

    def probabilities(self, scores: Float64) -> Float64:
        """Return half the scores (N, K)."""
        return scores / 2

    def only(self, columns: list[int]) -> BankScorer:
        """Return the same classifier with some of its classes."""
        return BankScorer(
            weights=self.weights[:, columns],
            bias=self.bias[columns],
            prototypes=self.prototypes[:, columns],
            task_of=self.task_of[columns],
            n_maps=self.n_maps,
            labels=tuple(self.labels[k] for k in columns),
        )

    def arrays(self) -> Arrays:
        """Return all but the labels as arrays."""
        return {
            "form": word_of("bank"),
            "weights": self.weights,
            "bias": self.bias,
            "prototypes": self.prototypes,
            "task_of": self.task_of,
            "n_maps": np.array([self.n_maps]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
        """Read what `arrays` returned."""
        return cls(
            weights=arrays["weights"],
            bias=arrays["bias"],
            prototypes=arrays["prototypes"],
            task_of=arrays["task_of"],
            n_maps=int(arrays["n_maps"][0]),
            labels=labels,
        )
