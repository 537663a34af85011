"""Sufficient statistics of a class, exact to the last bit.

Features are rounded to float16 and to multiples of 2^-12 before they are learned. Their products
are then multiples of 2^-24, and float64 holds every sum of them without rounding while the largest
diagonal entry stays below 2^29: some two million rows of lite0, whose largest features have a mean
square of 100 to 300. An exact sum does not depend on order, batching, threads or BLAS, and
subtracting a class gives the very bits that never adding it gives: the exactly forgettable head
rests on this and on nothing else.

What is summed beside the features is a `Statistic`: the store keeps one for every class, and each
knows how it is made, packed and told about. `STATISTICS` is the whole list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecl.errors import IntegrityError
from edgecl.heads.codebook import N_FOR_KEYS, make_codebook, make_whitening
from edgecl.runtime.codebook import Codebook, Keys
from edgecl.runtime.grid import GRID
from edgecl.runtime.whitening import Whitening
from edgecl.types import Float16, Float64

_FEWEST_ROWS = 64
_EXACT_LIMIT = 2.0**53 * GRID * GRID
# Rows of which the keys or the map of a shadow head are made.
_SHADOW_ROWS = 512


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and second part of the statistic of some samples.

    Args:
        n: Samples.
        total: Sum of the features, shape (D,), or of mapped ones, shape (M,), float64.
        second: Gram matrix (D, D), its diagonal (D,), counts of keys (C * J,), or nothing (0,).
    """

    n: int
    total: Float64
    second: Float64

    @property
    def is_exact(self) -> bool:
        """Whether every sum in here is free of rounding."""
        diagonal = np.diagonal(self.second) if self.second.ndim == 2 else self.second
        return bool(diagonal.max(initial=0.0) < _EXACT_LIMIT)

    def is_same(self, other: Moments) -> bool:
        """Whether others are, bit for bit, these."""
        return (
            self.n == other.n
            and np.array_equal(self.total, other.total)
            and np.array_equal(self.second, other.second)
        )

    def plus(self, other: Moments) -> Moments:
        """Return the statistics of both sets of samples; both of one kind."""
        assert self.second.shape == other.second.shape
        return Moments(self.n + other.n, self.total + other.total, self.second + other.second)

    def absorb(self, other: Moments, sign: int = 1) -> Moments:
        """Return `plus`, or `minus` with sign -1, in the memory of these, which are given up.

        A new matrix of tens of MB costs more than the sum.
        """
        for mine, theirs in ((self.total, other.total), (self.second, other.second)):
            (np.add if sign > 0 else np.subtract)(mine, theirs, out=mine)
        return Moments(self.n + sign * other.n, self.total, self.second)

    def minus(self, other: Moments) -> Moments:
        """Return the statistics without the samples of `other`, which must be part of these."""
        return Moments(self.n - other.n, self.total - other.total, self.second - other.second)


class Statistic(ABC):
    """What is kept of the samples of a class.

    Args:
        num_features: Width D of the features.
        keys: What the samples are seen through, if anything; frozen with the store.
    """

    name: ClassVar[str]
    """What the store calls it."""
    label: ClassVar[str]
    """What people call it."""
    needs_keys: ClassVar[bool] = False
    """Whether a home must have keys before its first class."""

    def __init__(self, num_features: int, keys: Keys | None = None) -> None:
        self.num_features = num_features
        self.keys = keys

    @abstractmethod
    def of(self, rows: Float16) -> Moments:
        """Return the statistics of quantised rows (N, D)."""

    @property
    def width(self) -> int:
        """Values of the sum: D, or M behind a map."""
        return self.num_features

    def empty(self) -> Moments:
        """Return the statistics of no sample."""
        return self.of(np.zeros((0, self.num_features), np.float16))

    def total(self, parts: Mapping[int, Moments]) -> Moments:
        """Return the statistics of all classes together."""
        out = self.empty()
        for part in parts.values():
            out = out.plus(part)
        return out

    @property
    def n_packed(self) -> int:
        """Numbers of 8 bytes in what `pack` returns second, where it has a fixed length."""
        return self.num_features

    @property
    def fold_limit(self) -> int:
        """From how many rows on a class's statistics are smaller than its float16 rows."""
        d = self.num_features
        return max(_FEWEST_ROWS, -(-(self.n_packed + d) * 8 // (2 * d)))

    def flat(self, second: Float64) -> Float64:
        """Return `second` without what it says twice, in one row."""
        return second

    def shaped(self, flat: Float64) -> Float64:
        """Return what `flat` was made of."""
        return flat

    def pack(self, moments: Moments) -> tuple[bytes, bytes]:
        """Return `total` and `second` as bytes."""
        second = self.flat(moments.second)
        return moments.total.astype("<f8").tobytes(), second.astype("<f8").tobytes()

    def unpack(self, n: int, total: bytes, second: bytes) -> Moments:
        """Read what `pack` wrote.

        Raises:
            IntegrityError: The bytes do not fit each other.
        """
        a, b = (np.frombuffer(data, "<f8").astype(np.float64) for data in (total, second))
        if len(a) != self.width or len(b) != self.n_packed:
            raise IntegrityError(
                f"statistics of a class are damaged: {len(b)} values for {len(a)} features; "
                "restore the home from a backup"
            )
        return Moments(n, a, self.shaped(b))

    def shadow(self, rows: Float16) -> Statistic:
        """Return the like for the width of rows (N, W), which may make keys for it.

        For heads that an audit teaches beside the home's: no row of an unlearned class among them.
        """
        return type(self)(rows.shape[1])


class Gram(Statistic):
    """Sums of products of all features, (D, D); packed is the upper triangle, row by row."""

    name, label = "full", "Gram matrix"

    def of(self, rows: Float16) -> Moments:
        """Return the statistics of quantised rows (N, D)."""
        x = rows.astype(np.float64)
        return Moments(len(x), x.sum(axis=0), x.T @ x)

    def empty(self) -> Moments:
        """Return the statistics of no sample, in memory that is not touched yet."""
        d = self.num_features
        return Moments(0, np.zeros(d), np.zeros((d, d)))

    @property
    def n_packed(self) -> int:
        """Numbers of the triangle."""
        return self.num_features * (self.num_features + 1) // 2

    def flat(self, second: Float64) -> Float64:
        """Return the triangle."""
        return np.concatenate([row[i:] for i, row in enumerate(second)])

    def shaped(self, flat: Float64) -> Float64:
        """Return the matrix of a triangle."""
        d = self.num_features
        gram, start = np.zeros((d, d)), 0
        for i in range(d):
            gram[i, i:] = gram[i:, i] = flat[start : start + d - i]
            start += d - i
        return gram


class Diagonal(Statistic):
    """Sums of squares of every feature, (D,)."""

    name, label = "diagonal", "mean and variance"

    def of(self, rows: Float16) -> Moments:
        """Return the statistics of quantised rows (N, D)."""
        x = rows.astype(np.float64)
        return Moments(len(x), x.sum(axis=0), np.einsum("nd,nd->d", x, x))


class MappedSums(Statistic):
    """Sums of features behind a whitening map, (M,), and nothing else."""

    name, label = "diagonal", "sum of mapped features"
    keys: Whitening

    def __init__(self, num_features: int, keys: Whitening) -> None:
        super().__init__(num_features, keys)

    def of(self, rows: Float16) -> Moments:
        """Return the statistics of quantised rows (N, D)."""
        return Moments(len(rows), self.keys.map(rows).sum(axis=0), np.zeros(0))

    @property
    def width(self) -> int:
        """Width M behind the map."""
        return self.keys.width

    @property
    def n_packed(self) -> int:
        """Return 0."""
        return 0

    @property
    def fold_limit(self) -> int:
        """Few rows: what is kept is small."""
        return _FEWEST_ROWS

    def shadow(self, rows: Float16) -> Statistic:
        """Return one behind a small map."""
        width = rows.shape[1]
        return MappedSums(width, make_whitening(rows[:_SHADOW_ROWS], (width,), N_FOR_KEYS))


class KeyCounts(Statistic):
    """How often each key of a codebook is nearest, (C * J,).

    Packed are those that are not zero, as places and numbers.
    """

    name, label = "counts", "key counts"
    needs_keys = True
    keys: Codebook

    def __init__(self, num_features: int, keys: Codebook) -> None:
        super().__init__(num_features, keys)

    def of(self, rows: Float16) -> Moments:
        """Return the statistics of quantised rows (N, D)."""
        return Moments(len(rows), rows.astype(np.float64).sum(axis=0), self.keys.counts(rows))

    @property
    def fold_limit(self) -> int:
        """Few rows: what is kept is sparse."""
        return _FEWEST_ROWS

    def pack(self, moments: Moments) -> tuple[bytes, bytes]:
        """Return `total` and the counts as bytes."""
        places = np.flatnonzero(moments.second)
        numbers = moments.second[places].astype("<u4")
        data = places.astype("<u4").tobytes() + numbers.tobytes()
        return moments.total.astype("<f8").tobytes(), data

    def unpack(self, n: int, total: bytes, second: bytes) -> Moments:
        """Read what `pack` wrote."""
        a = np.frombuffer(total, "<f8").astype(np.float64)
        size = self.keys.n_codebooks * self.keys.n_keys
        values = np.frombuffer(second, "<u4") if len(second) % 8 == 0 else np.empty(0, "<u4")
        places, numbers = np.split(values, 2)
        what = f"{len(second)} bytes for {size} keys"
        if len(second) % 8 == 0 and (places < size).all():
            counts = np.zeros(size)
            counts[places] = numbers
            if len(a) == self.num_features and counts.sum() == n * self.keys.n_codebooks:
                return Moments(n, a, counts)
            what = f"they do not add up to {n} samples"
        raise IntegrityError(
            f"counts of a class are damaged: {what}; restore the home from a backup"
        )

    def shadow(self, rows: Float16) -> Statistic:
        """Return one with few keys."""
        small = make_codebook(rows[:_SHADOW_ROWS], n_codebooks=16, n_keys=64, epochs=2)
        return KeyCounts(rows.shape[1], small)


STATISTICS: dict[str, type[Statistic]] = {kind.name: kind for kind in (Gram, Diagonal, KeyCounts)}


def statistic_of(name: str, num_features: int, keys: Keys | None = None) -> Statistic:
    """Return what a store keeps for every class.

    Args:
        name: One of `STATISTICS`.
        num_features: Width D of the features.
        keys: Keys or map of the store, if it has some.

    Raises:
        IntegrityError: No such statistic, or it needs keys and there are none.
    """
    if isinstance(keys, Whitening):
        return MappedSums(num_features, keys)
    if name not in STATISTICS:
        raise IntegrityError(
            f"the store keeps {name!r} of every class; expected one of {', '.join(STATISTICS)}; "
            "restore the home from a backup"
        )
    kind = STATISTICS[name]
    if kind.needs_keys and keys is None:
        raise IntegrityError("the store counts keys and has none; restore the home from a backup")
    return kind(num_features, keys)
