"""A linear head whose logits are turned up or down by where a feature lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import ShapeError
from edgecl.types import Float32, Float64, Labels

from .scoring import Arrays, LinearScorer, Scorer, softmax, word_of


@dataclass(frozen=True, slots=True)
class GatedScorer:
    """A linear head with a class gate (edgecl/heads/gate.py).

    Args:
        linear: The head before the gate.
        keys: Directions (D, E) on plain features; the largest product names the nearest key.
        key_bias: Added to the products (E,).
        gates: Shape (E, K); a logit counts 2 sigmoid of the nearest key's row times.
    """

    linear: LinearScorer
    keys: Float64
    key_bias: Float64
    gates: Float64

    def __post_init__(self) -> None:
        d, k = self.linear.weights.shape
        e = len(self.key_bias)
        if self.keys.shape != (d, e) or self.gates.shape != (e, k) or not e:
            raise ShapeError(
                f"a gated scorer has keys {self.keys.shape}, their bias {self.key_bias.shape} and "
                f"gates {self.gates.shape}; expected ({d}, E), (E,) and (E, {k})"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the columns."""
        return self.linear.labels

    @property
    def n_maps(self) -> int:
        """Return 1."""
        return 1

    def scores(self, x: Float32) -> Float64:
        """Return gated logits (N, K) of features (N, D); see `Scorer.scores`."""
        logits = self.linear.scores(x)
        nearest = (x.astype(np.float64) @ self.keys + self.key_bias).argmax(axis=1)
        gated: Float64 = logits * factors(self.gates, nearest)
        return gated

    def probabilities(self, scores: Float64) -> Float64:
        """Turn gated logits (N, K) into estimated probabilities (N, K)."""
        return softmax(scores)

    def arrays(self) -> Arrays:
        """Return the linear head's arrays, keys and gates."""
        own = {"keys": self.keys, "key_bias": self.key_bias, "gates": self.gates}
        return self.linear.arrays() | own | {"form": word_of("gated")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
        """Read what `arrays` returned."""
        linear = LinearScorer.from_arrays(arrays, labels)
        assert isinstance(linear, LinearScorer)
        return cls(linear, arrays["keys"], arrays["key_bias"], arrays["gates"])


def factors(gates: npt.NDArray[Any], nearest: Labels) -> npt.NDArray[Any]:
    """Return what logits count (N, K): 2 sigmoid of rows (E, K), by the nearest keys (N,).

    Example:
        >>> factors(np.array([[0.0, -1.0, 1.0]]), np.array([0])).round(7).tolist()
        [[1.0, 0.5378828, 1.4621172]]
    """
    return (1 + np.tanh(gates / 2))[nearest]
