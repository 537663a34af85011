"""The sums of a class as integers: added, taken off, compared and named exactly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from edgecl.errors import IntegrityError, RequestError
from edgecl.fleet.planes import SCALE, Int64, added, from_grid, to_grid
from edgecl.heads.base import Head
from edgecl.heads.statistics import Diagonal, Gram, KeyCounts, Moments, Statistic
from edgecl.runtime.grid import GRID
from edgecl.types import Float16, Float64

# Wider ones than any backbone's have sums of gigabytes.
MOST_FEATURES = 8192
_MOST_SECOND = 2**24


@dataclass(frozen=True, slots=True)
class Layout:
    """What is summed, as far as a file must say it.

    Args:
        statistic: `full`, `diagonal` or `counts` (edgecl/heads/statistics.py).
        dim: Width D of the features.
        width: Values of the sum: D, or M behind a map.
        n_second: Numbers beside it: the triangle of a Gram matrix (D (D + 1) / 2), D squares,
            counts of all keys, or none behind a map.
        keys: Digest of the keys or the map, '' without.
    """

    statistic: str
    dim: int
    width: int
    n_second: int
    keys: str = ""

    @classmethod
    def of(cls, statistic: Statistic) -> Layout:
        """Return that of a store's statistic."""
        keys = statistic.keys
        empty = statistic.empty()
        n_second = len(statistic.flat(empty.second))
        digest = "" if keys is None else keys.digest
        return cls(statistic.name, statistic.num_features, statistic.width, n_second, digest)

    def check(self) -> None:
        """Check that there is such a statistic.

        Raises:
            IntegrityError: There is none.
        """
        d = self.dim
        plain = {
            Gram.name: (d, d * (d + 1) // 2, False),
            Diagonal.name: (d, d, False),
            KeyCounts.name: (d, self.n_second, True),
        }
        given = (self.width, self.n_second, bool(self.keys))
        is_mapped = self.statistic == Diagonal.name and given[1:] == (0, True)
        if (
            not 0 < d <= MOST_FEATURES
            or not 0 < self.width <= MOST_FEATURES
            or not 0 <= self.n_second <= max(_MOST_SECOND, d * (d + 1) // 2)
            or not (is_mapped or plain.get(self.statistic) == given)
        ):
            raise IntegrityError(
                f"{self.statistic!r} sums of {d} features are said to be {self.width} and "
                f"{self.n_second} numbers, which no head of edgecl has"
            )

    @property
    def most_rows(self) -> int:
        """Up to how many rows a class goes as rows: from there on its sums are smaller."""
        fold = -(-(self.n_second + self.dim) * 4 // self.dim) if self.statistic == "full" else 0
        return max(64, fold)

    @property
    def few_rows(self) -> int:
        """Up to how many it is written so; compressed sums are smaller a little earlier."""
        return self.most_rows * 9 // 10


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Count and sums of some samples, in whole numbers of 2^-24.

    Args:
        count: Samples.
        total: Sum of the features (D,), or of mapped ones (M,), int64.
        gram: The rest, int64: the triangle of the Gram matrix row by row (D (D + 1) / 2,), squares
            (D,), counts of keys (C * J,), or nothing (0,).
    """

    count: int
    total: Int64
    gram: Int64

    @classmethod
    def of(cls, statistic: Statistic, moments: Moments) -> ClassSums:
        """Return moments as integers.

        Raises:
            RequestError: They are so large that float64 may have rounded them.
        """
        return cls(moments.n, to_grid(moments.total), to_grid(statistic.flat(moments.second)))

    def moments(self, statistic: Statistic) -> Moments:
        """Return them as a head takes them, each number rounded once."""
        return Moments(self.count, from_grid(self.total), statistic.shaped(from_grid(self.gram)))

    def plus(self, other: ClassSums) -> ClassSums:
        """Return the sums of both sets of samples.

        Raises:
            RequestError: They are out of range.
        """
        return ClassSums(
            self.count + other.count,
            added(self.total, other.total),
            added(self.gram, other.gram),
        )

    def minus(self, other: ClassSums) -> ClassSums:
        """Return the sums without the samples of `other`, which must be part of these."""
        return ClassSums(self.count - other.count, self.total - other.total, self.gram - other.gram)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ClassSums)
            and self.count == other.count
            and np.array_equal(self.total, other.total)
            and np.array_equal(self.gram, other.gram)
        )

    @property
    def digest(self) -> str:
        """SHA-256 of count, sum and the rest as little-endian int64."""
        found = hashlib.sha256(np.array([self.count, len(self.total)], "<i8").tobytes())
        found.update(self.total.astype("<i8").tobytes())
        found.update(self.gram.astype("<i8").tobytes())
        return found.hexdigest()

    def check(self, layout: Layout) -> None:
        """Check that some samples can have these sums.

        Raises:
            IntegrityError: None can.
        """
        n, step = self.count, int(SCALE * GRID)
        if (self.total % step).any():
            raise IntegrityError("a sum of features is no multiple of 2^-12")
        if layout.statistic == KeyCounts.name:
            counts, rest = np.divmod(self.gram, SCALE)
            is_one = not rest.any() and counts.min(initial=0) >= 0 and counts.max(initial=0) <= n
            if not is_one or int(counts.sum()) % max(1, n):
                raise IntegrityError(f"counts of keys are not those of {n} samples")
        if not layout.n_second or layout.statistic == KeyCounts.name:
            return
        gram = diagonal_of(self, layout)
        for square, total in zip(gram.tolist(), self.total.tolist(), strict=True):
            if square < 0 or square * n * SCALE < total * total:
                raise IntegrityError(
                    f"a sum of squares is less than {n} samples with that sum can have"
                )
        if layout.statistic == Gram.name:
            _check_gram(self, layout.dim)


def rows_of(rows: Float16) -> Float16:
    """Return rows when they are finite and on the grid of 2^-12.

    Raises:
        IntegrityError: They are not.
    """
    steps = rows.astype(np.float32) / np.float32(GRID)  # exact: 11 bits, and a power of two
    if not np.isfinite(steps).all() or not np.array_equal(steps, np.rint(steps)):
        raise IntegrityError("a feature is not finite or no multiple of 2^-12")
    return rows


def check_exact(head: Head) -> None:
    """Check that what a head learned is sums and nothing else.

    Raises:
        RequestError: It learns by gradient.
    """
    if not head.unlearns_exactly:
        raise RequestError(
            f"the head {head.name} of this home learns by gradient, which does not add up; "
            'expected ridge, prototype with relation = "none", or key-value with values = "counts"'
        )


def diagonal_of(sums: ClassSums, layout: Layout) -> Int64:
    """Return the sums of squares (D,) of some samples."""
    if layout.statistic == Diagonal.name:
        return sums.gram
    i = np.arange(layout.dim, dtype=np.int64)  # where the diagonal is in a packed triangle
    return sums.gram[i * layout.dim - i * (i - 1) // 2]


def _check_gram(sums: ClassSums, d: int) -> None:
    """Check that a Gram matrix less its centre is one of inner products, within rounding."""
    gram: Float64 = Gram(d).shaped(from_grid(sums.gram))
    total, largest = from_grid(sums.total), float(np.diagonal(gram).max())
    gram -= np.outer(total, total / max(1, sums.count))
    # What the subtraction and the factor may have rounded.
    gram[np.diag_indices(d)] += 8 * d * np.finfo(np.float64).eps * max(largest, GRID)
    try:
        np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        raise IntegrityError("a Gram matrix is not one of inner products") from None
