"""Rows in memory, or a store's memory without some of its rows, as what a head learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from edgecl.heads.base import Labels, Memory
from edgecl.heads.statistics import Kind, Moments
from edgecl.types import Float16


class RowMemory:
    """Features (N, D) and class uids (N,) as what a head may ask of a store.

    Args:
        x: Quantised features, oldest first.
        y: Their classes.
        kind: Which statistic is kept.
        keeps: Keep a statistic once it was made; a Gram matrix of wide features is tens of MB.
    """

    def __init__(self, x: Float16, y: Labels, kind: Kind, *, keeps: bool = False) -> None:
        self.x, self.y = x, y
        self._kind = kind
        self._made: dict[int, Moments] | None = {} if keeps else None

    def moments(self, y: int) -> Moments:
        """Return the statistics of class y."""
        if self._made is not None and y in self._made:
            return self._made[y]
        made = Moments.of(self.x[self.y == y], self._kind)
        if self._made is not None:
            self._made[y] = made
        return made

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class, in the order of their first rows."""
        return Lazy(tuple(dict.fromkeys(self.y.tolist())), self.moments)

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return all rows."""
        return self.x, self.y


class Without:
    """A memory without some rows that it learned and keeps.

    Args:
        whole: All of it.
        kept: Which of its stored rows stay (N,), in their order.
        kind: Which statistic is kept.
        classes: Uids of its classes, oldest first.
    """

    def __init__(
        self, whole: Memory, kept: npt.NDArray[np.bool_], kind: Kind, classes: tuple[int, ...]
    ) -> None:
        x, y = whole.stored_rows()
        self._whole, self._classes = whole, classes
        self._but = RowMemory(x[~kept], y[~kept], kind)
        self._rows = x[kept], y[kept]

    def moments(self, y: int) -> Moments:
        """Return the statistics of class y."""
        whole = self._whole.moments(y)
        return whole.minus(self._but.moments(y)) if (self._but.y == y).any() else whole

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class; each is made when it is asked for."""
        return Lazy(self._classes, self.moments)

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return the rows that stay."""
        return self._rows


class Lazy(Mapping[int, Moments]):
    """Statistics by class that are made one at a time."""

    def __init__(self, classes: tuple[int, ...], of: Callable[[int], Moments]) -> None:
        self._classes, self._of = classes, of

    def __getitem__(self, uid: int) -> Moments:
        """Return the statistics of a class."""
        return self._of(uid)

    def __iter__(self) -> Iterator[int]:
        """Go through the classes."""
        return iter(self._classes)

    def __len__(self) -> int:
        """Return how many classes there are."""
        return len(self._classes)
