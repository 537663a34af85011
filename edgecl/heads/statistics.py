"""Sufficient statistics of a class, exact to the last bit.

Features are rounded to float16 and to multiples of 2^-12 before they are learned. Their products
are then multiples of 2^-24, and float64 holds every sum of them without rounding while the largest
diagonal entry stays below 2^29: some two million rows of lite0, whose largest features have a mean
square of 100 to 300. An exact sum does not depend on order, batching, threads or BLAS, and
subtracting a class gives the very bits that never adding it gives: the exactly forgettable head
rests on this and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError
from edgecl.runtime.codebook import Codebook, Keys
from edgecl.runtime.grid import GRID
from edgecl.runtime.whitening import Whitening
from edgecl.types import Float16, Float64

_FEWEST_ROWS = 64
_EXACT_LIMIT = 2.0**53 * GRID * GRID
FULL, DIAGONAL, COUNTS = "full", "diagonal", "counts"

Kind = str | Keys
"""What is kept: a second part that is `full`, `diagonal` or counts of the keys of a codebook; or no
second part, and the sum of mapped features instead of that of features."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and second moment of the features of some samples.

    Args:
        n: Samples.
        total: Sum of the features, shape (D,), or of mapped ones, shape (M,), float64.
        second: Gram matrix (D, D), its diagonal (D,), counts of keys (C * J,), or nothing (0,).
    """

    n: int
    total: Float64
    second: Float64

    @classmethod
    def empty(cls, num_features: int, kind: Kind) -> Moments:
        """Return the statistics of no sample."""
        if isinstance(kind, Whitening):
            return cls(0, np.zeros(kind.width), np.zeros(0))
        shape: tuple[int, ...] = (num_features,)
        if isinstance(kind, Codebook):
            shape = (kind.n_codebooks * kind.n_keys,)
        elif kind == FULL:
            shape = (num_features, num_features)
        return cls(0, np.zeros(num_features), np.zeros(shape))

    @classmethod
    def of(cls, rows: Float16, kind: Kind) -> Moments:
        """Return the statistics of quantised rows (N, D)."""
        if isinstance(kind, Whitening):
            return cls(len(rows), kind.map(rows).sum(axis=0), np.zeros(0))
        x = rows.astype(np.float64)
        second: Float64
        if isinstance(kind, Codebook):
            second = kind.counts(rows)
        else:
            second = x.T @ x if kind == FULL else np.einsum("nd,nd->d", x, x)
        return cls(len(x), x.sum(axis=0), second)

    @property
    def is_exact(self) -> bool:
        """Whether every sum in here is free of rounding."""
        diagonal = np.diagonal(self.second) if self.second.ndim == 2 else self.second
        return bool(diagonal.max(initial=0.0) < _EXACT_LIMIT)

    def plus(self, other: Moments) -> Moments:
        """Return the statistics of both sets of samples; both of one kind."""
        assert self.second.shape == other.second.shape
        return Moments(self.n + other.n, self.total + other.total, self.second + other.second)

    def minus(self, other: Moments) -> Moments:
        """Return the statistics without the samples of `other`, which must be part of these."""
        return Moments(self.n - other.n, self.total - other.total, self.second - other.second)

    def pack(self, kind: Kind) -> tuple[bytes, bytes]:
        """Return `total` and `second` as bytes.

        Of a Gram matrix the upper triangle, row by row; of counts those that are not zero, as
        places and numbers.
        """
        second = self.second
        if isinstance(kind, Codebook):
            places = np.flatnonzero(second)
            numbers = second[places].astype("<u4")
            data = places.astype("<u4").tobytes() + numbers.tobytes()
            return self.total.astype("<f8").tobytes(), data
        if second.ndim == 2:
            second = np.concatenate([second[i, i:] for i in range(len(second))])
        return self.total.astype("<f8").tobytes(), second.astype("<f8").tobytes()

    @classmethod
    def unpack(cls, n: int, total: bytes, second: bytes, kind: Kind) -> Moments:
        """Read what `pack` wrote.

        Raises:
            IntegrityError: The bytes do not fit each other.
        """
        a = np.frombuffer(total, "<f8").astype(np.float64)
        if isinstance(kind, Codebook):
            counts = _counts(second, kind.n_codebooks * kind.n_keys)
            if len(a) != kind.num_features or counts.sum() != n * kind.n_codebooks:
                raise IntegrityError(
                    f"counts of a class are damaged: they do not add up to {n} samples; restore "
                    "the home from a backup"
                )
            return cls(n, a, counts)
        b = np.frombuffer(second, "<f8").astype(np.float64)
        d = len(a)
        expected = d * (d + 1) // 2 if kind == FULL else d
        if isinstance(kind, Whitening):
            expected = 0 if d == kind.width else -1
        if len(b) != expected:
            raise IntegrityError(
                f"statistics of a class are damaged: {len(b)} values for {d} features; restore the "
                "home from a backup"
            )
        if kind == FULL:
            gram, start = np.zeros((d, d)), 0
            for i in range(d):
                row = b[start : start + d - i]
                gram[i, i:] = row
                gram[i:, i] = row
                start += d - i
            b = gram
        return cls(n, a, b)


def diagonal_arrays(
    moments: Mapping[int, Moments], num_features: int, kind: Kind = DIAGONAL
) -> dict[str, npt.NDArray[Any]]:
    """Return statistics by class, of another kind than `full`, as arrays for `diagonal_moments`."""
    parts, empty = list(moments.values()), Moments.empty(num_features, kind)
    return {
        "classes": np.array(list(moments), dtype=np.int64),
        "counts": np.array([m.n for m in parts], dtype=np.int64),
        "totals": np.array([m.total for m in parts]).reshape(len(parts), *empty.total.shape),
        "seconds": np.array([m.second for m in parts]).reshape(len(parts), *empty.second.shape),
    }


def diagonal_moments(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[int, Moments]:
    """Read what `diagonal_arrays` returned."""
    columns = (arrays[name] for name in ("classes", "counts", "totals", "seconds"))
    return {
        int(c): Moments(int(n), np.array(total), np.array(second))
        for c, n, total, second in zip(*columns, strict=True)
    }


def _counts(data: bytes, size: int) -> Float64:
    values = np.frombuffer(data, "<u4") if len(data) % 8 == 0 else np.empty(0, "<u4")
    places, numbers = np.split(values, 2)
    if len(data) % 8 or (places >= size).any():
        raise IntegrityError(
            f"counts of a class are damaged: {len(data)} bytes for {size} keys; restore the home "
            "from a backup"
        )
    counts = np.zeros(size)
    counts[places] = numbers
    return counts


def fold_limit(num_features: int, kind: Kind) -> int:
    """Return from how many rows on a class's statistics are smaller than its float16 rows."""
    if isinstance(kind, Codebook | Whitening):
        return _FEWEST_ROWS
    d = num_features
    values = d * (d + 1) // 2 if kind == FULL else d
    return max(_FEWEST_ROWS, -(-(values + d) * 8 // (2 * d)))
