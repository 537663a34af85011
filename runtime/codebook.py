"""Addresses of features in the codebooks of a key-value head.

A feature is projected to a short vector for each codebook and takes the nearest key there; it may
be whitened first (`whitening.py`). The
addresses are exact: features, projection and keys lie on grids, so every sum is free of rounding in
float64, and an address depends neither on the batch nor on the order nor on the machine.

Reference: Traeuble et al. 2023, "Discrete Key-Value Bottleneck", ICML, arXiv:2207.11240.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, ShapeError
from edgecl.types import Float16, Float32, Float64

from .whitening import WHITENED_GRID, Whitening, digest_of

Addresses = npt.NDArray[np.int64]
# Features lie on a grid of 2^-12 (edgecl/heads/statistics.py) and are cut here to [-64, 64];
# projections have 15 bits and projected values 15 again, so sums stay below 2^53.
_MOST_FEATURE = 64.0
PROJECTION_BITS = 15
PROJECTED_GRID = 2.0**-7
_MOST_PROJECTED = 128.0
# How fast the weight of a key falls with its distance (docs/decisions/0006).
_FALL = 2.0
_CHUNK = 32


@dataclass(frozen=True)
class Codebook:
    """Frozen keys of C codebooks.

    Args:
        projection: Shape (D, C * k), int16; times `unit` it is the projection with the features'
            scale in it. Behind a whitening of M values it is (M, C * k).
        unit: A power of two.
        offset: Shape (C * k,), float64, on the grid of `unit`: what is taken off.
        keys: Shape (C, J, k), int16, in units of 2^-7.
        whitening: What features are mapped by before the projection, if anything.
    """

    projection: npt.NDArray[np.int16]
    unit: float
    offset: Float64
    keys: npt.NDArray[np.int16]
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        c, _, k = self.keys.shape
        is_fit = self.whitening is None or self.whitening.width == len(self.projection)
        if self.projection.shape[1:] != (c * k,) or self.offset.shape != (c * k,) or not is_fit:
            raise ShapeError(
                f"a codebook has keys {self.keys.shape}, a projection {self.projection.shape} and "
                f"an offset {self.offset.shape}; expected (C, J, k), (D, C * k) and (C * k,)"
            )
        # Both in float64 once: turning them takes longer than an address.
        keys = self.keys.astype(np.float64)
        object.__setattr__(self, "_plain", self.projection.astype(np.float64))
        object.__setattr__(self, "_turned", -2 * keys.transpose(0, 2, 1))  # (C, k, J)
        object.__setattr__(self, "_norms", np.square(keys).sum(axis=2))  # (C, J)

    @property
    def n_codebooks(self) -> int:
        """Codebooks, C."""
        return int(self.keys.shape[0])

    @property
    def n_keys(self) -> int:
        """Keys of one codebook, J."""
        return int(self.keys.shape[1])

    @property
    def num_features(self) -> int:
        """Width D of the features."""
        if self.whitening is not None:
            return self.whitening.num_features
        return int(self.projection.shape[0])

    @property
    def digest(self) -> str:
        """SHA-256 over all arrays, hex."""
        return digest_of(self.arrays())

    def project(self, x: Float16 | Float32) -> Float64:
        """Return projected features (N, C, k) in units of 2^-7, whole numbers.

        Args:
            x: Features (N, D) on their grid.
        """
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise ShapeError(f"features are {x.shape}; expected (N, {self.num_features})")
        if self.whitening is not None:
            rows = self.whitening.map(x) * WHITENED_GRID
        else:
            rows = np.clip(x.astype(np.float64), -_MOST_FEATURE, _MOST_FEATURE)
        h = (rows @ self._plain) * self.unit - self.offset  # type: ignore[attr-defined]
        limit = _MOST_PROJECTED / PROJECTED_GRID
        whole: Float64 = np.clip(np.rint(h / PROJECTED_GRID), -limit, limit)
        return whole.reshape(len(x), self.n_codebooks, -1)

    def addresses(
        self, x: Float16 | Float32, used: npt.NDArray[np.bool_] | None = None
    ) -> Addresses:
        """Return the number of the nearest key in every codebook, (N, C); the lowest among equals.

        Args:
            x: Features (N, D) on their grid.
            used: Keys (C, J) that may be taken; None means all.
        """
        out = np.empty((len(x), self.n_codebooks), np.int64)
        for part in _chunks(len(x)):
            far = self._distances(x[part])
            if used is not None:
                np.copyto(far, np.inf, where=~used[:, None])
            out[part] = far.argmin(axis=2).T
        return out

    def near(
        self, x: Float16 | Float32, taken: npt.NDArray[Any], n_samples: int
    ) -> tuple[Addresses, Float64]:
        """Return the nearest keys that samples took, in every codebook, until they hold enough.

        Args:
            x: Features (N, D) on their grid.
            taken: How many samples took each key, shape (C, J).
            n_samples: How many are enough; the last key that is needed counts whole.

        Returns:
            Numbers of the keys (N, C, R), the nearest first, and their weights (N, C, R): 256 for
            the nearest, exp(-2) of it for one that is as much farther as the farthest is far, 0
            beyond those. Weights are whole numbers, so that sums of them are exact.
        """
        most = min(n_samples, self.n_keys)
        shape = (len(x), self.n_codebooks, most)
        keys, weights = np.zeros(shape, np.int64), np.zeros(shape)
        weights[:, :, 0] = 256
        book = np.arange(self.n_codebooks)[:, None]
        for part in _chunks(len(x)):
            far = self._distances(x[part])
            np.copyto(far, np.inf, where=(taken == 0)[:, None])
            best = far.argmin(axis=2)
            keys[part, :, 0] = best.T
            # Where rows are many the nearest key holds enough, and nothing is sorted.
            c, row = np.nonzero(taken[book, best] < n_samples)
            found = self._sorted(far[c, row], taken[c], most, n_samples)
            keys[part.start + row, c], weights[part.start + row, c] = found
        return keys, weights

    def _sorted(
        self, far: Float64, taken: npt.NDArray[Any], most: int, n_samples: int
    ) -> tuple[Addresses, Float64]:
        """Return keys and weights (M, R) by distances and samples (M, J); see `near`."""
        # Numbers stand in the last digits, so that no two are equal: the order is the same on
        # every machine.
        rank = far * self.n_keys + np.arange(self.n_keys)
        first = np.argpartition(rank, most - 1, axis=1)[:, :most]
        order = np.take_along_axis(rank, first, 1).argsort(axis=1)
        first = np.take_along_axis(first, order, 1)
        held = np.take_along_axis(taken, first, 1)
        is_needed = (np.cumsum(held, axis=1) - held < n_samples) & (held > 0)
        near = np.where(is_needed, np.take_along_axis(far, first, 1), 0)
        farthest = np.maximum(near.max(axis=1, keepdims=True, initial=0), 1)
        share = np.exp(-_FALL * (near - near[:, :1]) / farthest)
        return first, np.rint(256 * share * is_needed)

    def _distances(self, x: Float16 | Float32) -> Float64:
        """Return squared distances (C, N, J) of features to keys, in units of 2^-14."""
        h = self.project(x).transpose(1, 0, 2)  # (C, N, k)
        distances: Float64 = h @ self._turned  # type: ignore[attr-defined]
        distances += self._norms[:, None]  # type: ignore[attr-defined]
        distances += np.square(h).sum(axis=2)[:, :, None]
        return distances

    def counts(self, x: Float16) -> Float64:
        """Return how often each key of each codebook is nearest, (C * J,), whole numbers."""
        flat = self.addresses(x) + np.arange(self.n_codebooks) * self.n_keys
        size = self.n_codebooks * self.n_keys
        return np.bincount(flat.ravel(), minlength=size).astype(np.float64)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all as arrays; `from_arrays` reads them."""
        return {
            "projection": self.projection,
            "unit": np.array([self.unit]),
            "offset": self.offset,
            "keys": self.keys,
            **({} if self.whitening is None else self.whitening.arrays()),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Codebook:
        """Read what `arrays` returned.

        Raises:
            IntegrityError: A part is missing.
        """
        try:
            return cls(
                projection=arrays["projection"],
                unit=float(arrays["unit"][0]),
                offset=arrays["offset"],
                keys=arrays["keys"],
                whitening=Whitening.from_arrays(arrays) if "directions" in arrays else None,
            )
        except KeyError as error:
            raise IntegrityError(
                f"the keys lack their {error}; restore the home from a backup"
            ) from error


def _chunks(n: int) -> Iterator[slice]:
    """Yield slices of so many rows that their distances take some megabytes."""
    for start in range(0, n, _CHUNK):
        yield slice(start, start + _CHUNK)


Keys = Codebook | Whitening
"""What is made with a home and never changes: keys, or a map alone."""


def load_keys(arrays: Mapping[str, npt.NDArray[Any]]) -> Keys:
    """Read what `arrays` of either returned."""
    return (Codebook if "keys" in arrays else Whitening).from_arrays(arrays)
