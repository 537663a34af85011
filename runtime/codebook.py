"""Addresses of features in the codebooks of a key-value head.

A feature is projected to a short vector for each codebook and takes the nearest key there; it may
be whitened first (`whitening.py`). The
addresses are exact: features, projection and keys lie on grids, so every sum is free of rounding in
float64, and an address depends neither on the batch nor on the order nor on the machine.

Reference: Traeuble et al. 2023, "Discrete Key-Value Bottleneck", ICML, arXiv:2207.11240.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        h = self.project(x).transpose(1, 0, 2)  # (C, N, k)
        out = np.empty((len(x), self.n_codebooks), np.int64)
        for c in range(self.n_codebooks):
            distance = h[c] @ self._turned[c] + self._norms[c]  # type: ignore[attr-defined]
            if used is not None:
                distance[:, ~used[c]] = np.inf
            out[:, c] = distance.argmin(axis=1)
        return out

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


Keys = Codebook | Whitening
"""What is made with a home and never changes: keys, or a map alone."""


def load_keys(arrays: Mapping[str, npt.NDArray[Any]]) -> Keys:
    """Read what `arrays` of either returned."""
    return (Codebook if "keys" in arrays else Whitening).from_arrays(arrays)
