"""A frozen map that whitens features: signed roots, unit norm a stage, principal directions.

Pictures without labels make it (edgecl/heads/codebook.py), once and before any class is learned.
The map is exact: a root and a quotient are rounded correctly by IEEE 754, all sums are sums of
whole numbers below 2^53, so a mapped feature depends neither on the batch nor on the order nor on
the machine, and neither does anything that is counted or added up of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, ShapeError
from edgecl.types import Float16, Float32, Float64

Arrays = dict[str, npt.NDArray[Any]]
# Roots have 20 bits, directions 15, and at most 2^14 of them are added: below 2^53.
ROOT_GRID = 2.0**-20
DIRECTION_BITS = 15
WHITENED_GRID = 2.0**-7
# Of a mapped value, in units of the grid: 128 deviations.
MOST_WHITENED = 2.0**14


@dataclass(frozen=True)
class Whitening:
    """A frozen map from D features to M values of deviation one, on the pictures that made it.

    Args:
        stages: Widths of the stages, which follow each other in a feature, shape (S,), sum D.
        directions: Shape (D, M), int16; times `unit` they are principal directions of the roots,
            each divided by the deviation along it.
        unit: Powers of two, shape (M,).
        offset: Shape (M,), on the grid of `unit` times 2^-20: what is taken off.
    """

    stages: npt.NDArray[np.int64]
    directions: npt.NDArray[np.int16]
    unit: Float64
    offset: Float64

    def __post_init__(self) -> None:
        d, m = self.directions.shape
        if self.stages.sum() != d or self.unit.shape != (m,) or self.offset.shape != (m,):
            raise ShapeError(
                f"a map has stages {self.stages.tolist()}, directions {self.directions.shape}, "
                f"units {self.unit.shape} and an offset {self.offset.shape}; expected widths that "
                "add up to D, (D, M), (M,) and (M,)"
            )
        # In float64 once: turning them takes longer than mapping a feature.
        object.__setattr__(self, "_plain", self.directions.astype(np.float64))

    @property
    def num_features(self) -> int:
        """Width D of the features."""
        return int(self.directions.shape[0])

    @property
    def width(self) -> int:
        """Width M of what they are mapped to."""
        return int(self.directions.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 over all arrays, hex."""
        return digest_of(self.arrays())

    def map(self, x: Float16 | Float32) -> Float64:
        """Return mapped features (N, M) in units of 2^-7, whole numbers.

        Args:
            x: Features (N, D) on their grid.

        Raises:
            ShapeError: x is not (N, D).
        """
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise ShapeError(f"features are {x.shape}; expected (N, {self.num_features})")
        h = (roots(x, self.stages) @ self._plain) * (self.unit * ROOT_GRID)  # type: ignore[attr-defined]
        whole: Float64 = np.rint((h - self.offset) / WHITENED_GRID)
        return np.clip(whole, -MOST_WHITENED, MOST_WHITENED)

    def arrays(self) -> Arrays:
        """Return all as arrays; `from_arrays` reads them."""
        return {
            "stages": self.stages,
            "directions": self.directions,
            "direction_unit": self.unit,
            "direction_offset": self.offset,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Whitening:
        """Read what `arrays` returned.

        Raises:
            IntegrityError: A part is missing.
        """
        try:
            return cls(
                stages=arrays["stages"],
                directions=arrays["directions"],
                unit=arrays["direction_unit"],
                offset=arrays["direction_offset"],
            )
        except KeyError as error:
            raise IntegrityError(
                f"the map of the keys lacks its {error}; restore the home from a backup"
            ) from error


def roots(x: Float16 | Float32, stages: npt.NDArray[np.int64]) -> Float64:
    """Return signed roots (N, D) with unit norm in every stage, in units of 2^-20, whole numbers.

    The squared norm of signed roots is the sum of the magnitudes, which is exact on the features'
    grid.
    """
    magnitude = np.abs(x.astype(np.float64))
    starts = np.cumsum(stages) - stages
    sums = np.add.reduceat(magnitude, starts, axis=1)  # (N, S)
    share = magnitude / np.repeat(np.where(sums > 0, sums, 1.0), stages, axis=1)
    whole: Float64 = np.rint(np.copysign(np.sqrt(share), x.astype(np.float64)) / ROOT_GRID)
    return whole


def digest_of(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the SHA-256 over arrays with their names, types and shapes, hex."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
