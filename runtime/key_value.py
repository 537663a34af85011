"""A key-value head that only predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import ShapeError
from edgecl.types import Float32, Float64

from .codebook import Codebook
from .grid import quantise
from .scoring import Arrays, Scorer, check_features, softmax, word_of

# Samples that the keys read in a codebook hold together: few rows are spread over many keys.
ENOUGH = 8
_CHUNK = 64
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class KeyValueScorer:
    """A key-value head: frozen keys, and tables of what samples took them.

    Args:
        codebook: Keys of C codebooks with J keys each.
        counts: How often each class took a key, shape (K, C * J); a key that none took is not used.
        values: Trained values (K, C * J), or None to score by counts.
        prior: Added to every count.
        labels: K class names.
    """

    codebook: Codebook
    counts: npt.NDArray[Any]
    values: Float64 | None
    prior: float
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.labels), self.codebook.n_codebooks * self.codebook.n_keys)
        if self.counts.shape != shape or (self.values is not None and self.values.shape != shape):
            raise ShapeError(f"a key-value scorer has counts {self.counts.shape}; expected {shape}")

    @property
    def n_maps(self) -> int:
        """Return 1."""
        return 1

    def scores(self, x: Float32) -> Float64:
        """Return mean log shares, or mean values, (N, K); see `Scorer.scores`.

        Shares of counts are those of classes of equal size: what the codebooks say is added up, so
        a class's own share would count C times.
        """
        book = self.codebook
        check_features(self.labels, x, book.num_features)
        taken = self.counts.sum(axis=0, dtype=np.int64).reshape(book.n_codebooks, book.n_keys)
        rows, steps = quantise(x), np.arange(book.n_codebooks) * book.n_keys
        if self.values is not None:
            flat = book.addresses(rows, taken > 0) + steps  # (N, C)
            means: Float64 = self.values[:, flat].mean(axis=2).T
            return means
        n = self.counts[:, : book.n_keys].sum(axis=1, dtype=np.float64)  # samples of a class (K,)
        # A class of which nothing is left (a head's `left_out`) has the prior and no more.
        size = np.maximum(n * len(n) / n.sum(), _TINY)
        out = np.empty((len(x), len(self.labels)))
        for start in range(0, len(x), _CHUNK):
            keys, weights = book.near(rows[start : start + _CHUNK], taken, ENOUGH)
            found = self.counts[:, keys + steps[:, None]] * weights  # (K, n, C, R)
            counts = found.sum(axis=3) / (256 * size[:, None, None]) + self.prior  # (K, n, C)
            # Sorted, so that the sum does not depend on the order of the classes.
            shares = counts / np.sort(counts, axis=0).sum(axis=0)
            out[start : start + _CHUNK] = np.log(shares).mean(axis=2).T
        return out

    def probabilities(self, scores: Float64) -> Float64:
        """Turn scores (N, K) into estimated probabilities (N, K)."""
        return softmax(scores)

    def arrays(self) -> Arrays:
        """Return keys and tables; counts in the smallest type that holds them."""
        most = int(self.counts.max(initial=0))
        arrays: Arrays = {
            "form": word_of("key-value"),
            "counts": self.counts.astype(np.min_scalar_type(most)),
            "prior": np.array([self.prior]),
            **self.codebook.arrays(),
        }
        if self.values is not None:
            arrays["values"] = self.values
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
        """Read what `arrays` returned."""
        return cls(
            codebook=Codebook.from_arrays(arrays),
            counts=arrays["counts"],
            values=arrays.get("values"),
            prior=float(arrays["prior"][0]),
            labels=labels,
        )
